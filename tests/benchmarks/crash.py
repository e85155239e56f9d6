"""SIGKILL at random instants of a running `charrnn train`, again and again, until the run is done all the same.

Run by hand, from the project's root:

    python -m tests.benchmarks.crash [--kills 200] [--seed N]

After each kill the run must have a sound checkpoint that is no older than the one before; in the end weights and log
must be those of a run that nobody killed.
"""

import argparse
import json
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first optimizer imports, here once and for all

from charrnn.checkpoint import Checkpoint, RunFolder
from charrnn.cli.app import app
from tests.conftest import TEXT

_TRAIN = "--resume --steps 6000 --checkpoint-every 50 --eval-every 500 --hidden-size 24 --embedding-size 8 --seed 7"
_LONGEST_LIFE = 0.8  # seconds


def train(run: Path, text: Path) -> int:
    """Begin or go on with a run in a child process; returns its id. The parent itself never computes, so may fork."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = 1
        try:
            app(["train", str(text), "--run", str(run), *_TRAIN.split()], standalone_mode=False)
            code = 0
        finally:
            os._exit(code)
    return child


def finished(child: int, seconds: float) -> bool:
    """Whether a child ends well of itself within these seconds; otherwise it is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, f"a child ended with status {status}"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def losses(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock and on where a sample was drawn."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = {"elapsed_s", "chars_per_second"}
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def same(ours: Path, theirs: Path) -> bool:
    """Whether two runs have the same checkpoints, trainers' states included, and the same log."""
    pairs = [(Checkpoint.load(RunFolder(ours).last), Checkpoint.load(RunFolder(theirs).last))]
    pairs += [(Checkpoint.load(RunFolder(ours).best), Checkpoint.load(RunFolder(theirs).best))]
    tensors = all(
        torch.equal(tensor, getattr(b, kind)[name])
        for a, b in pairs
        for kind in ("weights", "trainer_tensors")
        for name, tensor in getattr(a, kind).items()
    )
    return tensors and losses(ours) == losses(theirs)


def main() -> None:
    """Kill, look, go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        text = folder / "tiny.txt"
        text.write_text(TEXT)
        assert finished(train(folder / "whole", text), 600)
        kills = with_checkpoint = fallbacks = runs = equal = 0
        steps: list[int] = []
        while kills < arguments.kills:
            run, step = folder / f"run{runs}", 0
            while not finished(train(run, text), draw.uniform(0, _LONGEST_LIFE)):
                kills += 1
                if RunFolder(run).holds_run():
                    checkpoint, warnings = RunFolder(run).load_last()
                    with_checkpoint, fallbacks = with_checkpoint + 1, fallbacks + bool(warnings)
                    assert checkpoint.counters["step"] >= step, "a newer checkpoint was lost"
                    steps.append(checkpoint.counters["step"] - step)
                    step = checkpoint.counters["step"]
                else:
                    assert step == 0, "a checkpoint was lost"
            runs += 1
            equal += same(run, folder / "whole")
            print(f"{kills} kills: {with_checkpoint} left a sound checkpoint, the rest came before the first one;")
            print(f"  {fallbacks} went back to the one before; {equal} of {runs} runs equal the whole one", flush=True)
        print(f"steps between two kills: median {statistics.median(steps)}, largest {max(steps)}")


if __name__ == "__main__":
    main()
