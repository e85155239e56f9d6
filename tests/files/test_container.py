"""The file format: durable to write, safe to read."""

import errno
import os
import random
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from charrnn.errors import CharRNNError
from charrnn.files import atomic, container

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
        with pytest.raises(CharRNNError):
            container.read(path, "thing")


def test_flipped_bits_are_detected(path: Path) -> None:
    whole = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(whole)), 500)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CharRNNError):
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
    mapped = container.read(path, "thing").tensors
    assert all(torch.equal(tensor, mapped[name]) for name, tensor in in_memory.items())
    assert all(mapped[name].dtype == tensor.dtype for name, tensor in in_memory.items())
    test_every_truncation_is_detected(path)


@pytest.mark.parametrize("limit", [container._IN_MEMORY, 0])
def test_what_is_read_is_what_was_verified_while_another_file_takes_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
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


def test_backup_is_what_stood_there_before(path: Path) -> None:
    before, backup = path.read_bytes(), path.with_name("backup")
    container.write(path, "thing", {}, TENSORS, backup)
    assert backup.read_bytes() == before
    assert container.read(path, "thing").header == {}


def test_writing_order_survives_a_power_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        calls.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    best, backup = path.with_name("best"), path.with_name("backup")
    container.write(best, "thing", {}, TENSORS)
    assert calls == ["fsync file", "rename to best", "fsync folder"]
    calls.clear()
    container.write(path, "thing", {}, TENSORS, backup)
    assert calls == ["fsync file", "rename to backup", f"rename to {path.name}", "fsync folder"]
    calls.clear()
    assert atomic.link(best, path, backup)
    assert calls == ["rename to backup", f"rename to {path.name}", "fsync folder"]


def test_folder_that_cannot_be_flushed_is_no_error_but_one_that_fails_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, reason = os.fsync, errno.EINVAL

    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(reason, os.strerror(reason))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    container.write(path, "thing", {"age": "new"}, {})
    assert container.read(path, "thing").header == {"age": "new"}
    reason = errno.EIO
    with pytest.raises(CharRNNError, match="Input/output error; it is there, but might not survive a power cut"):
        container.write(path, "thing", {"age": "newer"}, {})
    assert container.read(path, "thing").header == {"age": "newer"}


def refuse_links(*paths: Path) -> None:
    raise OSError(95, "Operation not supported")


def test_backup_is_made_without_links_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    before, backup = path.read_bytes(), path.with_name("backup")
    for content in ({}, {"note": 1}):
        container.write(path, "thing", content, TENSORS, backup)
    assert container.read(backup, "thing").header == {}
    assert before != path.read_bytes()


def test_leftovers_are_removed_once_they_are_old(path: Path) -> None:
    left = path.with_name(".charrnn-tmp-0")
    left.touch()
    container.write(path, "thing", {}, TENSORS)
    assert left.exists(), "another process may be writing it"
    os.utime(left, (time.time() - 4000,) * 2)
    container.write(path, "thing", {}, TENSORS)
    assert list(path.parent.iterdir()) == [path]


def test_without_links_a_failed_rename_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = path.read_bytes(), Path.replace

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name.startswith(".charrnn-tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(Path, "replace", fail_for_new)
    with pytest.raises(CharRNNError, match="nothing was changed"):
        container.write(path, "thing", {}, TENSORS, path.with_name("backup"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("have_links", [True, False])
def test_second_name_takes_the_place_of_another_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, have_links: bool
) -> None:
    if not have_links:
        monkeypatch.setattr(os, "link", refuse_links)
    other, backup = path.with_name("other"), path.with_name("backup")
    other.write_text("what was there")
    assert atomic.link(path, other, backup) == have_links
    if have_links:
        assert path.read_bytes() == other.read_bytes()
        assert backup.read_text() == "what was there"
        assert atomic.link(path, other, backup), "once more"
    else:
        assert other.read_text() == "what was there"
        assert not backup.exists()


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


@pytest.mark.parametrize("with_backup", [False, True])
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, with_backup: bool
) -> None:
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    owner: object = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(CharRNNError, match="No space left on device"):
        container.write(path, "thing", {}, TENSORS, path.with_name("backup") if with_backup else None)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_full_disk_leaves_the_old_file_and_nothing_else(path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CharRNNError, match="File too large"):
            container.write(path, "thing", {}, {"x": torch.ones(10_000)}, path.with_name("backup"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


class Killer:
    """Ends the process with SIGKILL at the Nth step of a save: before and after each call, and amid the writing."""

    def __init__(self, at: int) -> None:
        self._left = at

    def step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = call(*arguments, **options)
            self.step()
            return result

        return wrapped

    def dole_out(self, head: bytearray, data: list[Any]) -> Iterator[bytes]:
        """The parts of a file in small pieces, with a step between two."""
        whole = b"".join([bytes(head), *map(bytes, data)])
        for begin in range(0, len(whole), 300):
            self.step()
            yield whole[begin : begin + 300]


def save_and_be_killed(save: Callable[[], object], at: int) -> bool:
    """Save in a child process that is killed at this step; whether it came to its end all the same."""
    child = os.fork()
    if child == 0:
        killer = Killer(at)
        for owner, name in ((os, "fsync"), (os, "link"), (os, "open"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, killer.wrap(getattr(owner, name)))
        write = atomic.write_atomically

        def write_slowly(path: Path, parts: list[Any], backup: Path | None, guard: atomic.Guard) -> None:
            write(path, killer.dole_out(parts[0], parts[1:]), backup, guard)

        atomic.write_atomically = write_slowly  # type: ignore[assignment]
        save()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_best", [False, True])
def test_killed_at_any_step_of_a_save_the_file_is_whole(tmp_path: Path, is_best: bool) -> None:
    best, path, backup = tmp_path / "best", tmp_path / "last", tmp_path / "last-1"

    def save() -> None:
        if is_best:
            container.write(best, "thing", {"age": "new"}, TENSORS)
            atomic.link(best, path, backup)
        else:
            container.write(path, "thing", {"age": "new"}, TENSORS, backup)

    ages, at, ended = [], 0, False
    while not ended:
        for age in ("oldest", "old"):
            container.write(path, "thing", {"age": age}, TENSORS, backup)
        container.write(best, "thing", {"age": "old"}, TENSORS)
        ended = save_and_be_killed(save, at)
        ages.append(container.read(path, "thing").header["age"])
        assert container.read(backup, "thing").header["age"] in ("oldest", "old")
        assert container.read(best, "thing").header["age"] in ("old", "new" if is_best else "old")
        atomic.remove_leftovers(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {"best", "last", "last-1"}
        at += 1
    assert ages == sorted(ages, key=["old", "new"].index), "once new, always new"
    assert ages[0] == "old"
    assert ages[-1] == "new"
    assert at > 15
