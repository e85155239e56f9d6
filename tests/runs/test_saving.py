"""Checkpoints written while the training goes on."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.errors import CharRNNError
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.runs.saving import Saver


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def saver(folder: RunFolder) -> Iterator[Saver]:
    with contextlib.closing(Saver(folder)) as saver:
        yield saver


def test_written_state_is_that_of_the_call(trained_run: Run, folder: RunFolder, saver: Saver) -> None:
    weight = trained_run.trainer.bptt.model.head.weight.detach()
    before = weight.clone()
    saver.save(trained_run.checkpoint(), best=False)
    weight.zero_()
    saver.wait()
    weight.copy_(before)
    assert torch.equal(Checkpoint.load(folder.last).weights["head.weight"], before)
    assert saver.seconds > 0


def test_best_is_the_same_file_under_another_name(trained_run: Run, folder: RunFolder, saver: Saver) -> None:
    checkpoint = trained_run.checkpoint()
    for best in (True, False, True):
        saver.save(checkpoint, best=best)
    saver.wait()
    assert folder.best.samefile(folder.last)
    assert not folder.last_but_one.samefile(folder.last)
    assert {path.name for path in folder.path.iterdir()} == {
        f"{name}.safetensors" for name in ("best", "last", "last-1")
    }


def check_until_it_fails(saver: Saver) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        saver.check()


def test_failure_is_raised_once_and_keeps_the_old_file(
    trained_run: Run, folder: RunFolder, saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver.save(trained_run.checkpoint(), best=True)
    saver.wait()
    before = folder.last.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    saver.save(trained_run.checkpoint(), best=False)
    with pytest.raises(CharRNNError, match="No space left on device; nothing was changed"):
        check_until_it_fails(saver)
    saver.wait()
    assert folder.last.read_bytes() == before
    assert len(list(folder.path.iterdir())) == 2


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (threading.Thread, "start", RuntimeError("can't start new thread")),
        (Checkpoint, "copy", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        (Checkpoint, "copy", MemoryError()),
    ],
)
def test_without_a_thread_or_a_copy_it_is_written_at_once(
    trained_run: Run,
    folder: RunFolder,
    saver: Saver,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    error: Any,
) -> None:
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(owner, name, fail)
    saver.save(trained_run.checkpoint(), best=True)
    assert Checkpoint.load(folder.last).snapshot.progress.step == trained_run.trainer.progress.step
    saver.check()
    monkeypatch.setattr(os, "fsync", lambda descriptor: folder.path.rename(folder.path.with_name("gone")))
    saver.save(trained_run.checkpoint(), best=False)
    with pytest.raises(CharRNNError, match="cannot be written"):
        saver.check()


def test_disk_that_hangs_is_left_after_a_second(trained_run: Run, folder: RunFolder, saver: Saver) -> None:
    hangs = threading.Event()

    class Hanging(RunFolder):
        def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
            hangs.wait(60)

    hanging = Saver(Hanging(folder.path))
    hanging.save(trained_run.checkpoint(), best=False)
    begin = time.monotonic()
    hanging.close()
    assert 0.9 < time.monotonic() - begin < 5
    hangs.set()
