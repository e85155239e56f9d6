"""Training beside a bare loop, preparing, start-up: both sides in turn, three times; medians and ranges.

Run by hand on an otherwise idle machine, from the project's root:

    python -m tests.benchmarks.foundation [--baselines FOLDER] [--corpus TEXT]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CHARRNN = (sys.executable, "-m", "charrnn")
RUNS = 3
SHAPES = [(1, 512, 32, 32), (2, 256, 64, 64)]
"""Layers, hidden size, batch size, sequence length."""


def measure(command: Sequence[object], cwd: Path = ROOT) -> str:
    """A command's stdout; its failure is ours."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parts = [str(part) for part in command]
    return subprocess.run(parts, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


def show(name: str, values: list[float], unit: str) -> None:
    """One line: the median and the range."""
    low, high = min(values), max(values)
    print(f"{name:58} {statistics.median(values):12,.5g} {unit:8} ({low:,.5g} to {high:,.5g})", flush=True)


def options(**values: Any) -> list[str]:
    """Keyword arguments as command-line options."""
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def training(
    corpus: Path, baselines: Path, device: str, folder: Path, shapes: Sequence[tuple[int, int, int, int]] = SHAPES
) -> None:
    """Characters per second of the training steps, ours as a share of the bare loop's."""
    for num_layers, hidden_size, batch_size, seq_length in shapes:
        shape = options(
            num_layers=num_layers, hidden_size=hidden_size, batch_size=batch_size, seq_length=seq_length, device=device
        )
        shape += options(embedding_size=64)
        for dropout in (0.0, 0.1):
            ours: list[float] = []
            bare: list[float] = []
            for _ in range(RUNS):
                budget = options(minutes=0.25, dropout=dropout, val_fraction=0, eval_every=10**6, seed=1)
                command = [*CHARRNN, "train", corpus, *shape, *budget, "--overwrite", "--quiet", "--json"]
                summary = json.loads(measure(command, folder))
                ours.append(summary["chars_per_second"])
                loop = [sys.executable, baselines / "bare_training.py", *shape, "--dtype", summary["precision"]]
                bare.append(json.loads(measure(loop))["chars_per_second"])
            name = f"train {num_layers}x{hidden_size} B {batch_size} T {seq_length} {summary['precision']}"
            show(f"{name} dropout {dropout}", ours, "chars/s")
            show(f"{name} bare loop, no dropout", bare, "chars/s")
            show("  ours / bare, run by run", [a / b for a, b in zip(ours, bare, strict=True)], "")


def preparing(corpus: Path, folder: Path) -> None:
    """A text of 200 MB, from the shell to the file, less the start-up of a tiny text."""
    big, tiny = folder / "big.txt", folder / "tiny.txt"
    text = corpus.read_bytes()
    big.write_bytes(text * (200_000_000 // len(text) + 1))
    tiny.write_text("ab\n")
    rates = []
    for _ in range(RUNS):
        seconds = []
        for path in (tiny, big):
            begin = time.perf_counter()
            measure([*CHARRNN, "prepare", path, "--overwrite"], folder)
            seconds.append(time.perf_counter() - begin)
        rates.append(big.stat().st_size / (seconds[1] - seconds[0]) / 1e6)
    show("prepare 200 MB of ASCII", rates, "MB/s")


def start_up() -> None:
    """Wall-clock seconds of `--help`, beside those of importing torch."""
    for name, command in (
        ("charrnn --help", [*CHARRNN, "--help"]),
        ("python -c 'import torch'", [sys.executable, "-c", "import torch"]),
    ):
        seconds = []
        for _ in range(RUNS):
            begin = time.perf_counter()
            measure(command)
            seconds.append(time.perf_counter() - begin)
        show(name, seconds, "s")


def main() -> None:
    """Measure everything; the heavy parts one after another, never at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=ROOT / "data" / "tales.txt")
    parser.add_argument("--baselines", type=Path, default=ROOT.parent / "shared" / "baselines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        training(arguments.corpus.resolve(), arguments.baselines.resolve(), "cpu", Path(folder))
        preparing(arguments.corpus.resolve(), Path(folder))
    start_up()


if __name__ == "__main__":
    main()
