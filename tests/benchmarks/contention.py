"""Training and sampling beside other processes on the same cores: each beside itself alone, three rounds in turn.

Run by hand on an otherwise idle machine, from the project's root:

    python -m tests.benchmarks.contention TEXT

A neighbour is a second training, or a process that keeps one core busy. "Spinning" is OpenMP's own way to wait
(GOMP_SPINCOUNT=300000 with GNU's library), which charrnn overrules.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.foundation import CHARRNN, RUNS, measure, show

SIZES = ("small", "medium")
MINUTES = 0.1
SPINNING = {"GOMP_SPINCOUNT": "300000"}


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """A process that computes without end on one core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def train(text: Path, folder: Path, size: str, count: int = 1, environment: dict[str, str] | None = None) -> float:
    """Characters per second, the mean of so many trainings at once."""
    processes = []
    for i in range(count):
        command = [*CHARRNN, "train", text, "--size", size, "--minutes", MINUTES, "--run", folder / f"{size}-{i}"]
        command += ["--data-dir", folder, "--seed", 1, "--overwrite", "--quiet", "--json"]
        processes.append(
            subprocess.Popen(
                list(map(str, command)), env=os.environ | (environment or {}), stdout=subprocess.PIPE, text=True
            )
        )
    return statistics.mean(float(json.loads(process.communicate()[0])["chars_per_second"]) for process in processes)


def sample(checkpoint: Path, length: int = 30_000) -> float:
    """Characters per second of one sample, from the shell to its end, less the start."""
    seconds = []
    for n in (1, length):
        begin = time.perf_counter()
        measure([*CHARRNN, "sample", checkpoint, "-n", n, "--seed", 1])
        seconds.append(time.perf_counter() - begin)
    return (length - 1) / (seconds[1] - seconds[0])


def main() -> None:
    """Measure all kinds in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    text = parser.parse_args().text.resolve()
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure([*CHARRNN, "prepare", text, "--data-dir", folder])
        for _ in range(RUNS):
            for size in SIZES:
                rates.setdefault(f"{size}, alone", []).append(train(text, folder, size))
                rates.setdefault(f"{size}, alone, spinning", []).append(train(text, folder, size, environment=SPINNING))
                rates.setdefault(f"{size}, each of two", []).append(train(text, folder, size, 2))
                with busy_process():
                    rates.setdefault(f"{size}, beside a busy process", []).append(train(text, folder, size))
                checkpoint = folder / f"{size}-0"
                rates.setdefault(f"sampling {size}, alone", []).append(sample(checkpoint))
                with busy_process():
                    rates.setdefault(f"sampling {size}, beside a busy process", []).append(sample(checkpoint))
    for name, values in rates.items():
        show(name, values, "chars/s")
        alone = rates[name.split(",")[0] + ", alone"]
        if values is not alone:
            show("  share of alone, round by round", [a / b for a, b in zip(values, alone, strict=True)], "")


if __name__ == "__main__":
    main()
