"""Signals at random instants of a running `charrnn train`, again and again, until the run is done all the same.

Run by hand, from the project's root:

    python -m tests.benchmarks.crash [--kills 200] [--signal KILL|TERM|INT|USR1|HUP] [--seed N] [--damage]
    python -m tests.benchmarks.crash --takeovers 50
    python -m tests.benchmarks.crash --trainers 60
    python -m tests.benchmarks.crash --starts 200

After each kill the run must have a sound checkpoint that is no older than the one before; in the end weights and log
must be those of a run that nobody killed. Of a signal that can be caught it must exit with 128 plus its number and
leave nothing behind, even if another one follows, as it does every third time. With --damage the newest checkpoint is
damaged after each kill, so that each kill comes after a fallback: there must still be a sound one.

With --trainers up to three of them are started in one folder at random for so many seconds, each with its own seed, and
the folder or its lock is removed at random: whatever checkpoints stand there at any time must be of one seed.

With --starts the command is started anew each time, and sent one of the four signals within its first two seconds, from
before Python has imported anything: it must end with 128 plus the number, without a traceback and without leftovers,
and what stands in the run's folder must be sound.

With --takeovers a run's folder, or its lock alone, is removed under a trainer, and another one begins there: the first
must end with an error, and never write what the other one has begun.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked child would wait for threads that it does not have

import torch
import torch._dynamo  # what the first optimizer imports, here once and for all

import charrnn.runs.opening  # noqa: F401 (what the command imports)
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.errors import CharRNNError
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from tests.support import TEXT, run_main

_TRAIN = "--resume --steps 6000 --checkpoint-every 50 --eval-every 500 --hidden-size 24 --embedding-size 8 --seed 7"
_LONGEST_LIFE = 0.8  # seconds
_FIRST_SIGNAL = 0.06  # seconds after the start; before, Python itself has no handlers yet


def train(run: Path, text: Path, *options: str, resume: bool = True) -> int:
    """Begin or go on with a run in a child process; returns its id. The parent itself never computes, so may fork."""
    child = os.fork()
    if child == 0:
        code: Any = 1
        try:
            words = ["train", str(text), "--run", str(run), *_TRAIN.split()[not resume :], *options]
            run_main(words, text.parent, {"OMP_NUM_THREADS": "1"}, [os.devnull] * 3)
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code)
    return child


def finished(child: int, seconds: float, number: signal.Signals, again_after: float | None = None) -> bool:
    """Whether a child ends well of itself within these seconds; otherwise it is sent a signal, or two."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, f"a child ended with status {status}"
            return True
        time.sleep(0.001)
    os.kill(child, number)
    if again_after is not None:
        time.sleep(again_after)
        os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    took = time.monotonic() - end
    assert took < 2, f"a child took {took:.1f} s to end with {code}"
    if code == 0:
        return True  # it was about to end
    assert code == (-number if number == signal.SIGKILL else 128 + number), f"a child ended with {code}"
    return False


def second(draw: random.Random, number: signal.Signals) -> float | None:
    """Every third time, after how long the signal comes once more."""
    return draw.uniform(0, 0.02) if number != signal.SIGKILL and draw.randrange(3) == 0 else None


def losses(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock and on the folder."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = {"elapsed_s", "chars_per_second", "time", "definition"}  # which has the command, and so the folder
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def same(ours: Path, theirs: Path) -> bool:
    """Whether two runs have the same checkpoints, trainers' states included, and the same log."""
    pairs = [(Checkpoint.load(RunFolder(ours).last), Checkpoint.load(RunFolder(theirs).last))]
    pairs += [(Checkpoint.load(RunFolder(ours).best), Checkpoint.load(RunFolder(theirs).best))]
    tensors = all(
        torch.equal(tensor, b.snapshot.tensors[name]) for a, b in pairs for name, tensor in a.snapshot.tensors.items()
    )
    return tensors and losses(ours) == losses(theirs)


def damage(folder: RunFolder, draw: random.Random) -> None:
    """Flip a bit of the newest checkpoint, if there is one before it; its second name keeps the sound file."""
    if folder.last.exists() and folder.last_but_one.exists():
        content = bytearray(folder.last.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        copy = folder.path / "copy"
        copy.write_bytes(content)
        copy.replace(folder.last)


def take_over(run: Path, text: Path, draw: random.Random, *, lock_alone: bool) -> bool:
    """Remove a run or its lock under a trainer, start another one there; True if the first noticed.

    It does not where it has ended before.
    """
    first = train(run, text, "--checkpoint-every", "10")
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, _LONGEST_LIFE))
    if lock_alone:
        (run / ".lock").unlink(missing_ok=True)
    else:
        shutil.rmtree(run, ignore_errors=True)
        (run / ".lock").unlink(missing_ok=True)  # of a save amid the removal
    second = train(run, text, *([] if lock_alone else ["--seed", "8"]))
    code = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    assert code in (0, 1), f"the first trainer ended with {code}"
    time.sleep(draw.uniform(0, _LONGEST_LIFE))
    os.kill(second, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(second, 0)[1])
    assert ended == -signal.SIGKILL, f"the second trainer ended before, with {ended}"
    for path in run.glob("*.safetensors"):
        assert Checkpoint.load(path).seed == (7 if lock_alone else 8), f"{path} is of the first trainer"
    shutil.rmtree(run, ignore_errors=True)
    return code == 1


def start_and_signal(run: Path, text: Path, draw: random.Random) -> bool:
    """Start the command and send it a signal within two seconds; True if it had saved a checkpoint."""
    number = draw.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
    words = [sys.executable, "-m", "charrnn", "train", str(text), "--run", str(run), *_TRAIN.split(), "--quiet"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    time.sleep(draw.uniform(_FIRST_SIGNAL, 2))
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 128 + number, f"{number.name} ended it with {process.returncode}: {told}"
    assert "Traceback" not in told, told
    folder = RunFolder(run)
    left = {path.name for path in run.glob("*")} if run.exists() else set()
    assert not {name for name in left if name.startswith(".")}, left
    assert not left or folder.holds_run(), left
    if folder.holds_run():
        assert not folder.load_newest()[1], "a checkpoint is damaged"
    return folder.holds_run()


def seeds_in(run: Path) -> set[int]:
    """The seeds of a run's checkpoints; a file that goes away meanwhile is none."""
    seeds = set()
    for path in run.glob("*.safetensors"):
        with contextlib.suppress(CharRNNError):
            seeds.add(Checkpoint.load(path).seed)
    return seeds


def crowd(run: Path, text: Path, draw: random.Random, seconds: float) -> tuple[int, int, int]:
    """Start up to three trainers at random, remove their folder at random; how many began, removals, and looks."""
    trainers: list[int] = []
    seed = removals = looks = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        trainers = [child for child in trainers if os.waitpid(child, os.WNOHANG) == (0, 0)]
        if len(trainers) < 3:
            seed += 1
            options = ["--seed", str(seed), "--checkpoint-every", "10", "--overwrite"]
            trainers.append(train(run, text, *options, resume=False))
        time.sleep(draw.uniform(0, 0.5))
        if draw.randrange(3) == 0:
            removals += 1
            if draw.randrange(2):
                shutil.rmtree(run, ignore_errors=True)
            else:
                (run / ".lock").unlink(missing_ok=True)
        # While a run replaces another's files both stand there for a moment: what lasts counts.
        found = [seeds_in(run)]
        while len(found[-1]) > 1 and len(found) < 20:
            time.sleep(0.05)
            found.append(seeds_in(run))
        assert len(found[-1]) <= 1, f"two trainers write one run: seeds {found[-1]}"
        looks += 1
    for child in trainers:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return seed, removals, looks


def main() -> None:
    """Kill, look, go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signal", default="KILL", choices=["KILL", "TERM", "INT", "USR1", "HUP"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", action="store_true")
    parser.add_argument("--takeovers", type=int, default=0)
    parser.add_argument("--starts", type=int, default=0)
    parser.add_argument("--trainers", type=float, default=0)
    arguments = parser.parse_args()
    longest_life = _LONGEST_LIFE * (3 if arguments.damage else 1)
    draw, number = random.Random(arguments.seed), signal.Signals[f"SIG{arguments.signal}"]
    raise_exit_on_signals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        text = folder / "tiny.txt"
        text.write_text(TEXT)
        if arguments.starts:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, by children too
            saved = [start_and_signal(folder / f"run{i}", text, draw) for i in range(arguments.starts)]
            print(f"{len(saved)} starts: each ended as its signal asks, {sum(saved)} of them with a sound checkpoint")
            return
        if arguments.trainers:
            begun, removals, looks = crowd(folder / "run", text, draw, arguments.trainers)
            print(f"{begun} trainers, {removals} removals: at each of {looks} looks the run was of one trainer")
            return
        assert finished(train(folder / "whole", text), 600, number)
        if arguments.takeovers:
            noticed = [take_over(folder / "run", text, draw, lock_alone=i % 2 == 1) for i in range(arguments.takeovers)]
            print(f"{len(noticed)} takeovers: {sum(noticed)} ended the first trainer, none was written by two")
            return
        kills = with_checkpoint = fallbacks = runs = equal = 0
        steps: list[int] = []
        while kills < arguments.kills:
            run, step = folder / f"run{runs}", 0
            while not finished(train(run, text), draw.uniform(0, longest_life), number, second(draw, number)):
                kills += 1
                left = [path.name for path in run.glob(".*")]
                assert number == signal.SIGKILL or not left, left
                if RunFolder(run).holds_run():
                    checkpoint, damaged = RunFolder(run).load_newest()
                    with_checkpoint, fallbacks = with_checkpoint + 1, fallbacks + bool(damaged and not arguments.damage)
                    assert checkpoint.snapshot.progress.step >= step, "a newer checkpoint was lost"
                    steps.append(checkpoint.snapshot.progress.step - step)
                    if arguments.damage:
                        damage(RunFolder(run), draw)
                        checkpoint, damaged = RunFolder(run).load_newest()
                        fallbacks += bool(damaged)
                    step = checkpoint.snapshot.progress.step
                    if arguments.damage and kills >= arguments.kills:  # the run may never end so
                        print(f"{kills} kills, {fallbacks} of them after a fallback: a sound checkpoint each time")
                        return
                else:
                    assert step == 0, "a checkpoint was lost"
            runs += 1
            equal += same(run, folder / "whole")
            print(f"{kills} kills: {with_checkpoint} left a sound checkpoint, the rest came before the first one;")
            print(f"  {fallbacks} went back to the one before; {equal} of {runs} runs equal the whole one", flush=True)
        print(f"SIG{arguments.signal}: steps between two: median {statistics.median(steps)}, largest {max(steps)}")


if __name__ == "__main__":
    main()
