"""The file format: durable to write, safe to read."""

import os
import random
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from charrnn import storage
from charrnn.errors import CharRNNError

TENSORS = {
    "wide": torch.arange(6.0, dtype=torch.float64).view(2, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "empty": torch.empty(0),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.safetensors"
    storage.write(path, "thing", {"note": 'a "quoted" é'}, TENSORS)
    return path


def test_reading_gives_back_header_and_tensors(path: Path) -> None:
    stored = storage.read(path, "thing")
    assert stored.header == {"note": 'a "quoted" é'}
    assert stored.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(stored.tensors[name], tensor)
        assert stored.tensors[name].dtype == tensor.dtype


def test_any_safetensors_reader_opens_it(path: Path) -> None:
    assert load_file(path)["wide"].tolist() == TENSORS["wide"].tolist()


def test_every_truncation_is_detected(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CharRNNError):
            storage.read(path, "thing")


def test_flipped_bits_are_detected(path: Path) -> None:
    whole = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(whole)), 500)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CharRNNError):
            storage.read(path, "thing")


def test_other_kinds_formats_and_files_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CharRNNError, match="is a thing, not a corpus"):
        storage.read(path, "corpus")
    with pytest.raises(CharRNNError, match="No such file"):
        storage.read(path.with_name("none"), "thing")
    with pytest.raises(CharRNNError, match="Is a directory"):
        storage.read(path.parent, "thing")
    foreign = path.with_name("foreign.safetensors")
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CharRNNError, match="not a charrnn file"):
        storage.read(foreign, "thing")
    monkeypatch.setattr(storage, "FORMAT", storage.FORMAT + 1)
    storage.write(path, "thing", {}, {})
    monkeypatch.undo()
    with pytest.raises(CharRNNError, match="another version of charrnn"):
        storage.read(path, "thing")


def test_same_content_makes_the_same_file(path: Path) -> None:
    before = path.read_bytes()
    storage.write(path, "thing", {"note": 'a "quoted" é'}, TENSORS)
    assert path.read_bytes() == before


def test_file_is_known_by_its_beginning_whatever_its_name(path: Path) -> None:
    other = path.rename(path.with_name("no-suffix"))
    assert storage.is_stored(other)
    other.write_text("a text")
    assert not storage.is_stored(other)
    assert not storage.is_stored(path.parent)


def test_backup_is_what_stood_there_before(path: Path) -> None:
    before, backup = path.read_bytes(), path.with_name("backup")
    storage.write(path, "thing", {}, TENSORS, backup)
    assert backup.read_bytes() == before
    assert storage.read(path, "thing").header == {}


def test_writing_order_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    storage.write(tmp_path / "file.safetensors", "thing", {}, TENSORS)
    assert calls == ["fsync file", "rename", "fsync folder"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    owner: object = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(CharRNNError, match="No space left on device"):
        storage.write(path, "thing", {}, TENSORS, path.with_name("backup") if failing == "fsync" else None)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
