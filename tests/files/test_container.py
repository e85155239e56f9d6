"""The file format: written and read back, verified before it is believed."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from charrnn.errors import CharRNNError
from charrnn.files import container

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
    container.write(path, "thing", {"note": 'a "quoted" é'}, TENSORS)
    return path


def test_reading_gives_back_header_and_tensors(path: Path) -> None:
    stored = container.read(path, "thing")
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
        with pytest.raises(CharRNNError, match=r"not a charrnn file|is damaged"):
            container.read(path, "thing")


def test_flipped_bits_are_detected(path: Path) -> None:
    whole = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(whole)), 500)
    for position in positions:  # of which none is taken for a file of another kind or format
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CharRNNError, match=r"not a charrnn file|is damaged"):
            container.read(path, "thing")


def test_other_kinds_formats_and_files_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CharRNNError, match="is a thing, not a corpus"):
        container.read(path, "corpus")
    with pytest.raises(CharRNNError, match="No such file"):
        container.read(path.with_name("none"), "thing")
    with pytest.raises(CharRNNError, match="Is a directory"):
        container.read(path.parent, "thing")
    foreign = path.with_name("foreign.safetensors")
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(CharRNNError, match="not a charrnn file"):
        container.read(foreign, "thing")
    monkeypatch.setattr(container, "FORMAT", container.FORMAT + 1)
    container.write(path, "thing", {}, {})
    monkeypatch.undo()
    with pytest.raises(CharRNNError, match="another version of charrnn"):
        container.read(path, "thing")


def test_large_tensors_are_mapped_and_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = container.read(path, "thing").tensors
    monkeypatch.setattr(container, "_IN_MEMORY", 0)
    stored = container.read(path, "thing")
    assert stored.mapping is not None
    mapped = stored.tensors
    assert mapped.keys() == in_memory.keys() == TENSORS.keys()
    for name, tensor in in_memory.items():
        assert torch.equal(tensor, mapped[name])
        assert mapped[name].dtype == tensor.dtype
    test_every_truncation_is_detected(path)


@pytest.mark.parametrize("limit", [container._IN_MEMORY, 0])
def test_replaced_file_is_read_as_it_was_verified(path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Two files of the same form take each other's place at each opening of the path."""
    monkeypatch.setattr(container, "_IN_MEMORY", limit)
    for name, tensor in (("a", torch.zeros(1000)), ("b", torch.ones(1000))):
        container.write(path.with_name(name), "thing", {"name": name}, {"x": tensor})
    once = container.read(path.with_name("a"), "thing").tensors["x"]

    def swap_after(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            path.unlink()
            path.hardlink_to(path.with_name("b"))
            return result

        return wrapped

    path.unlink()
    path.hardlink_to(path.with_name("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap_after(os.open))
        patch.setattr(Path, "open", swap_after(Path.open))
        stored = container.read(path, "thing")
    assert path.samefile(path.with_name("b"))
    assert stored.header == {"name": "a"}
    assert torch.equal(stored.tensors["x"], once)


def test_tensors_in_memory_outlive_their_file(path: Path) -> None:
    stored = container.read(path, "thing")
    os.truncate(path, 0)
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_same_content_makes_the_same_file(path: Path) -> None:
    before = path.read_bytes()
    container.write(path, "thing", {"note": 'a "quoted" é'}, TENSORS)
    assert path.read_bytes() == before


def test_file_is_known_by_its_beginning_whatever_its_name(path: Path) -> None:
    other = path.rename(path.with_name("no-suffix"))
    assert container.is_stored(other)
    other.write_text("a text")
    assert not container.is_stored(other)
    assert not container.is_stored(path.parent)


def test_header_beyond_the_limit_is_neither_written_nor_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = {"symbols": "x" * container._MAX_HEADER}
    with pytest.raises(CharRNNError, match="--max-vocab"):
        container.write(path, "thing", long, TENSORS)
    monkeypatch.setattr(container, "_MAX_HEADER", 2**30)
    container.write(path, "thing", long, TENSORS)
    assert container.read(path, "thing").header == long
    monkeypatch.undo()
    with pytest.raises(CharRNNError, match="not a charrnn file, or it is truncated"):
        container.read(path, "thing")
