"""Folders and files on a disk that others write to as well."""

import os
import stat
from pathlib import Path

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.files.atomic import making_folder
from charrnn.files.lock import locked
from charrnn.text.corpus import prepare
from charrnn.text.sources import Source


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of the folders whose entries were made durable, in order."""
    inodes: list[int] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            inodes.append(status.st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return inodes


def test_every_parent_of_a_new_run_outlives_a_power_cut(tmp_path: Path, synced: list[int]) -> None:
    with locked(tmp_path / "a" / "b" / "run"):
        assert synced == [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    synced.clear()
    with locked(tmp_path):
        assert synced == []


def test_every_parent_of_a_new_corpus_outlives_a_power_cut(tmp_path: Path, synced: list[int]) -> None:
    prepare([Source("x", None, b"abc")], PreparationConfig(), tmp_path / "a" / "b" / "c.safetensors")
    assert synced == [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]


def test_folders_that_were_made_for_nothing_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    with making_folder(tmp_path / "old" / "a" / "b"), making_folder(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "new", "file"}

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CharRNNError, match="nothing was changed"):
        prepare([Source("x", None, b"abc")], PreparationConfig(), tmp_path / "data" / "c.safetensors")
    assert not (tmp_path / "data").exists()
