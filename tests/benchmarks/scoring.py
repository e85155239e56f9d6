"""Scoring beside an evaluation of the training, its memory, and the gain of adapting to the text.

Run by hand on an otherwise idle machine, from the project's root, with runs that have trained on TEXT:

    python -m tests.benchmarks.scoring TEXT RUN... [--megabytes 20] [--rounds 3] [--adapt]

Without --adapt the text is repeated to that size, and `charrnn score` reads it, its start and the text's cleaning
included, beside what evaluates a training, which reads the same ids. With --adapt each run's held-out part is
scored once.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from charrnn.machine.runtime import open_runtime
from charrnn.model.scoring import evaluate
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import find_checkpoint
from charrnn.training.streams import TrainingText
from tests.benchmarks.foundation import CHARRNN, measure, show

_EVALUATED = 10_000_000  # characters, of which an evaluation takes half a minute


def child(words: list[str], stdin: Path = Path(os.devnull)) -> tuple[float, float]:
    """Seconds and peak megabytes of a process; what `wait4` tells may be its parent's, from before the fork."""
    begin, peak = time.perf_counter(), 0.0
    with stdin.open("rb") as stream:
        process = subprocess.Popen(words, stdin=stream, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if found := re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text()):
                peak = float(found[1]) / 1024
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return time.perf_counter() - begin, peak


def rates(text: str, run: Path, num_bytes: int, rounds: int) -> None:
    """Characters a second of a score and of an evaluation, in turn, and the memory above PyTorch's."""
    checkpoint = Checkpoint.load(find_checkpoint(run, Path()))
    model, runtime = checkpoint.build_model(), open_runtime()
    long = (text * (num_bytes // len(text) + 1))[:num_bytes]
    ids = checkpoint.tokenizer.encode(long[:_EVALUATED])
    evaluate(model, ids[: _EVALUATED // 10], runtime)  # the first one is slow
    scores, evaluations, memory = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.txt"
        path.write_text(long, encoding="utf-8")
        for _ in range(rounds):
            begin = time.perf_counter()
            evaluate(model, ids, runtime)
            evaluations.append(len(ids) / (time.perf_counter() - begin))
            seconds, peak = child([*CHARRNN, "score", str(run), str(path), "--json"])
            scores.append(num_bytes / seconds)
            memory.append(peak - child([sys.executable, "-c", "import torch"])[1])
    print(f"{run.name}: {num_bytes:,} characters, {torch.get_num_threads()} threads, {runtime.precision}")
    show("score", scores, "chars/s")
    show("evaluation", evaluations, "chars/s")
    show("score / evaluation, round by round", [a / b for a, b in zip(scores, evaluations, strict=True)], "")
    show("memory above that of a process that imports PyTorch", memory, "MB")


def adapt(text: str, run: Path) -> None:
    """A line: bits per character of the held-out part, without and with adapting to it."""
    checkpoint = Checkpoint.load(find_checkpoint(run, Path()))
    held_out = TrainingText.split(checkpoint.tokenizer.encode(text), checkpoint.training_config).val
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "held-out.txt"
        path.write_text(checkpoint.tokenizer.decode(held_out), encoding="utf-8")
        begin = time.perf_counter()
        found = json.loads(measure([*CHARRNN, "score", run.resolve(), path, "--adapt", "--json"]))
    seconds, shape, chars = time.perf_counter() - begin, checkpoint.model_config, found["chars"]
    plain, adapted = found["bits_per_char"], found["adapted_bits_per_char"]
    print(
        f"{run.name}: {shape.num_layers} x {shape.hidden_size}, {chars:,} characters, {plain:.4f} bits, "
        f"adapting {adapted:.4f}, gain {plain - adapted:.4f}; {chars / seconds:,.0f} chars/s",
        flush=True,
    )


def main() -> None:
    """Measure each run in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapt", action="store_true")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    for run in arguments.runs:
        if arguments.adapt:
            adapt(text, run)
        else:
            rates(text, run, arguments.megabytes * 10**6, arguments.rounds)


if __name__ == "__main__":
    main()
