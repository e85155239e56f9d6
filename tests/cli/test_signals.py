"""Signals in every phase: what is under way ends tidily, is saved where there is something to save, and can go on."""

import json
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charrnn.cli.signals import request_stop_on_signals
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from tests.support import TEXT, preload, run_main

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork"
)

TRAIN = "train tiny.txt --steps 60 --eval-every 20 --checkpoint-every 10 --seed 1 --hidden-size 16 --batch-size 8"


def run_and_signal_at(place: str, at_call: int, names: list[str], words: list[str], folder: Path, out: Path) -> None:
    """The command, which sends itself these signals as it enters a function for the Nth time."""
    of, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(of)
    function, calls = getattr(owner, name), 0

    def signalling(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            for each in names:
                os.kill(os.getpid(), getattr(signal, each))
        return function(*arguments, **options)

    setattr(owner, name, signalling)
    run_main(words, folder, {}, [os.devnull, str(out), f"{out}.err"])


def signal_at(place: str, names: list[str], words: list[str], folder: Path, *, at_call: int = 1) -> int | None:
    """The exit code of a command that is sent signals as it enters a function."""
    out = folder.parent / f"{folder.name}.out"
    process = preload().Process(target=run_and_signal_at, args=(place, at_call, names, words, folder, out))
    process.start()
    process.join(timeout=60)
    code: int | None = process.exitcode
    return code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tiny.txt").write_text(TEXT)
    return folder


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("charrnn.text.numbering.NumberedText._append", "SIGINT"),
        ("charrnn.text.numbering._look_up", "SIGHUP"),
        ("charrnn.text.corpus.digest", "SIGTERM"),
        ("charrnn.text.corpus.digest", "SIGUSR1"),
    ],
)
def test_preparing_ends_at_once_and_leaves_what_was_there(folder: Path, name: str, place: str) -> None:
    words = ["prepare", "tiny.txt"]
    if place.endswith("digest"):  # what finds that a corpus is up to date
        assert signal_at(place, [], words, folder) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert signal_at(place, [name], words, folder) == 128 + getattr(signal, name)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_writing_a_corpus_ends_at_once_without_leftovers(folder: Path) -> None:
    assert signal_at("os.fsync", ["SIGTERM"], ["prepare", "tiny.txt"], folder) == 143
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / "tiny.txt"]


@pytest.mark.parametrize("place", ["charrnn.runs.preflight.describe", "charrnn.runs.preflight.seconds_per_step"])
def test_signal_before_the_first_step_leaves_no_run(folder: Path, place: str) -> None:
    assert signal_at(place, ["SIGUSR1"], TRAIN.split(), folder) == 138
    assert not (folder / "checkpoints").exists()


PHASES = {
    "a step": ("charrnn.training.bptt.TruncatedBPTT.step", 30),
    "an evaluation": ("charrnn.model.scoring.evaluation_chunks", 2),
    "a sample": ("charrnn.runs.run.Sampler", 2),
    "a save": ("charrnn.runs.folder.RunFolder.save", 2),
    "a copy for a save": ("charrnn.runs.checkpoint.Checkpoint.copy", 2),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.txt").write_text(TEXT)
    assert signal_at("os.fsync", [], TRAIN.split(), folder) == 0
    return folder / "checkpoints" / "tiny"


@pytest.mark.parametrize(
    ("phase", "name"), list(zip(PHASES, ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"], strict=True))
)
def test_stopped_training_continues_as_if_uninterrupted(folder: Path, whole: Path, phase: str, name: str) -> None:
    place, at_call = PHASES[phase]
    code = signal_at(place, [name], TRAIN.split(), folder, at_call=at_call)
    assert code == 128 + getattr(signal, name), (folder.parent / "folder.out.err").read_text()
    run = RunFolder(folder / "checkpoints" / "tiny")
    step = Checkpoint.load(run.last).snapshot.progress.step
    assert 10 <= step < 60
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert records[-1]["finished"] == "stopped"
    assert records[-1]["step"] == step, "nothing of what was done is lost"
    assert signal_at("os.fsync", [], [*TRAIN.split(), "--resume"], folder) == 0
    assert run.best.samefile(run.last) == (whole / "best.safetensors").samefile(whole / "last.safetensors")
    for ours, theirs in ((run.best, whole / "best.safetensors"), (run.last, whole / "last.safetensors")):
        a, b = Checkpoint.load(ours), Checkpoint.load(theirs)
        assert all(tensor.equal(b.weights[name]) for name, tensor in a.weights.items())
        assert all(tensor.equal(b.snapshot.tensors[name]) for name, tensor in a.snapshot.tensors.items())


@pytest.mark.parametrize("phase", PHASES)
def test_second_signal_ends_the_training_at_once(folder: Path, phase: str) -> None:
    place, at_call = PHASES[phase]
    assert signal_at(place, ["SIGINT", "SIGTERM"], TRAIN.split(), folder, at_call=at_call) == 143
    run = RunFolder(folder / "checkpoints" / "tiny")
    assert {path.name for path in run.path.iterdir()} <= {
        *("best.safetensors", "last.safetensors", "last-1.safetensors"),
        "metrics.jsonl",
    }
    assert signal_at("os.fsync", [], [*TRAIN.split(), "--resume"], folder) == 0
    assert Checkpoint.load(run.last).snapshot.progress.step == 60


def test_stop_before_the_first_evaluation_is_reported(folder: Path) -> None:
    place, at_call = "charrnn.training.bptt.TruncatedBPTT.step", 15  # some of them to time a step
    assert signal_at(place, ["SIGTERM"], TRAIN.split(), folder, at_call=at_call) == 143
    printed = (folder.parent / "folder.out.err").read_text()
    assert "not evaluated yet" in printed
    assert "no validation text" not in printed


def test_sampling_ends_at_once(folder: Path, trained_run: Run) -> None:
    words = ["sample", str(trained_run.folder.path), "--seed", "1", "-n", "100000"]
    assert signal_at("charrnn.model.stepper.Stepper.step", ["SIGTERM"], words, folder, at_call=9) == 143


def test_interrupted_training_is_reported_even_if_stdout_is_closed(folder: Path) -> None:
    executable = Path(sys.executable).with_name("charrnn")
    words = TRAIN.replace("--steps 60", "--minutes 5").split()
    process = subprocess.Popen(
        [str(executable), *words, "--json"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    while "validation loss" not in process.stderr.readline():
        pass
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 130, rest
    assert "stopped and saved" in rest
    assert "Exception" not in rest


def test_signal_that_is_to_be_ignored_is_ignored(folder: Path) -> None:
    """As nohup asks for."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from charrnn.cli import app, prepare\n"
    )
    code += "prepare.find_sources = lambda text, **options: os.kill(os.getpid(), signal.SIGHUP)\n"
    code += "sys.argv = ['charrnn', 'prepare', 'x']; app.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode != 129
    assert "NoneType" in done.stderr, "it went on, with what find_sources should have returned"


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    asked: list[int] = []
    with request_stop_on_signals(lambda: asked.append(1)) as received:
        os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]
    assert asked == [1]
    assert signal.getsignal(signal.SIGTERM) == before


SIGNALLED_IMPORT = """
import builtins, os, signal, sys
from_import, number = builtins.__import__, signal.Signals[sys.argv[1]]
def signalled(name, *arguments, **options):
    if name == "torch":
        os.kill(os.getpid(), number)
    return from_import(name, *arguments, **options)
builtins.__import__ = signalled
import charrnn.__main__
sys.argv = ["charrnn", "train", "tiny.txt", "--steps", "5"]
charrnn.__main__.main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_signal_amid_the_import_of_pytorch_ends_the_command_at_once(folder: Path, name: str) -> None:
    command = [sys.executable, "-c", SIGNALLED_IMPORT, name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, preexec_fn=default_hangup)
    assert done.returncode == 128 + getattr(signal, name)
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in folder.iterdir()] == ["tiny.txt"]


def default_hangup() -> None:
    """Undo what `nohup` does."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
