"""How long a checkpoint of 100 MB holds up the training, and what it would be if the training waited for the disk.

Run by hand, from the project's root, with --folder on the disk in question:

    python -m tests.benchmarks.saving [--folder DIR]
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from charrnn.config import ModelOptions, PreparationConfig, TrainingConfig
from charrnn.machine.runtime import open_runtime
from charrnn.runs.folder import RunFolder
from charrnn.runs.saving import Saver
from charrnn.runs.start import start
from charrnn.text.corpus import prepare
from charrnn.text.sources import Source
from charrnn.training.events import Stepped
from tests.support import TEXT

_SHAPE = ModelOptions(hidden_size=1440, dropout=0.0)
_CONFIG = TrainingConfig(steps=10_000, batch_size=32, seq_length=8)
_STEPS = 6


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def describe(name: str, seconds: list[float]) -> None:
    """One line: median and range in milliseconds."""
    low, high = min(seconds), max(seconds)
    print(f"{name:<44}{1e3 * statistics.median(seconds):8.0f} ms  ({1e3 * low:.0f} to {1e3 * high:.0f})")


def main() -> None:
    """Save in turn beside the training and in its way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = RunFolder(Path(name) / "run")
        corpus = prepare([Source("tiny", None, TEXT.encode())], PreparationConfig(), Path(name) / "tiny.safetensors")
        run = start(folder, corpus, _SHAPE, _CONFIG, open_runtime(arguments.device, "auto"), seed=1)
        events = (event for event in run.trainer.run() if isinstance(event, Stepped))

        def step() -> None:
            next(events)
            run.runtime.synchronize()

        for _ in range(20):
            step()
        stalls: list[float] = []
        writes: list[float] = []
        added_beside: list[float] = []
        added_in_its_way: list[float] = []
        plain = [timed(step) for _ in range(_STEPS)]
        with contextlib.closing(Saver(folder)) as saver:
            for _ in range(arguments.rounds):
                stalls.append(timed(lambda: saver.save(run.checkpoint(), best=False)))
                beside = [timed(step) for _ in range(_STEPS)]
                saver.wait()
                writes.append(saver.seconds)
                wait = timed(lambda: folder.save(run.checkpoint(), best=False))
                behind = [timed(step) for _ in range(_STEPS)]
                plain += [timed(step) for _ in range(_STEPS)]
                usual = _STEPS * statistics.median(plain[-2 * _STEPS :])
                added_beside.append(stalls[-1] + sum(beside) - usual)
                added_in_its_way.append(wait + sum(behind) - usual)
        size = folder.last.stat().st_size / 1e6
        print(f"a checkpoint of {size:.0f} MB, on {run.runtime.device}, {torch.get_num_threads()} threads")
        describe("a step", plain)
        describe("beside the training: it waits", stalls)
        describe("beside the training: it loses in all", added_beside)
        describe("beside the training: until it is written", writes)
        describe("in its way: it loses in all", added_in_its_way)


if __name__ == "__main__":
    main()
