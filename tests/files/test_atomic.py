"""Files and folders that are changed atomically and durably."""

import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OutputExistsError
from charrnn.files.atomic import link, making_folder, remove_leftovers, write_atomically
from charrnn.files.lock import locked
from charrnn.text.corpus import prepare
from charrnn.text.sources import Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


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


def refuse_links(*paths: Path) -> None:
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("have_links", [True, False])
def test_backup_is_what_stood_there_before(path: Path, monkeypatch: pytest.MonkeyPatch, have_links: bool) -> None:
    if not have_links:
        monkeypatch.setattr(os, "link", refuse_links)
    backup = path.with_name("backup")
    for before, new in ((b"old", b"new"), (b"new", b"newer")):
        write_atomically(path, [new[:1], bytearray(new[1:])], backup)
        assert (backup.read_bytes(), path.read_bytes()) == (before, new)
    assert sorted(path.parent.iterdir()) == [backup, path]


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
    write_atomically(best, [b"best"])
    assert calls == ["fsync file", "rename to best", "fsync folder"]
    calls.clear()
    write_atomically(path, [b"new"], backup)
    assert calls == ["fsync file", "rename to backup", "rename to file", "fsync folder"]
    calls.clear()
    assert link(best, path, backup)
    assert calls == ["rename to backup", "rename to file", "fsync folder"]


def test_folder_that_cannot_be_flushed_is_no_error_but_one_that_fails_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, reason = os.fsync, errno.EINVAL

    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(reason, os.strerror(reason))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)
    write_atomically(path, [b"new"])
    assert path.read_bytes() == b"new"
    reason = errno.EIO
    with pytest.raises(CharRNNError, match="Input/output error; it is there, but might not survive a power cut"):
        write_atomically(path, [b"newer"])
    assert path.read_bytes() == b"newer"


def test_leftovers_are_removed_once_they_are_old(path: Path) -> None:
    left = path.with_name(".charrnn-tmp-0")
    left.touch()
    write_atomically(path, [b"new"])
    assert left.exists(), "another process may be writing it"
    os.utime(left, (time.time() - 4000,) * 2)
    write_atomically(path, [b"newer"])
    assert list(path.parent.iterdir()) == [path]


def test_without_links_a_failed_rename_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, failed = Path.replace, list[str]()

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name.startswith(".charrnn-tmp-"):
            failed.append(target.name)
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(os, "link", refuse_links)
    monkeypatch.setattr(Path, "replace", fail_for_new)
    with pytest.raises(CharRNNError, match="nothing was changed"):
        write_atomically(path, [b"new"], path.with_name("backup"))
    assert failed == ["file"]
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("have_links", [True, False])
def test_exclusive_write_replaces_no_file(path: Path, monkeypatch: pytest.MonkeyPatch, have_links: bool) -> None:
    if not have_links:
        monkeypatch.setattr(os, "link", refuse_links)
    target = path.with_name("new")

    def appear() -> Iterator[bytes]:
        yield b"mine"
        target.write_bytes(b"theirs")

    def refuse() -> Iterator[bytes]:
        raise AssertionError("read before the check")
        yield b""

    with pytest.raises(OutputExistsError, match="exists: name another file"):
        write_atomically(path, refuse(), exclusive=True)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_atomically(target, appear(), exclusive=True)
    assert (path.read_bytes(), target.read_bytes()) == (b"old", b"theirs")
    target.unlink()
    write_atomically(target, [b"new"], exclusive=True)
    assert target.read_bytes() == b"new"
    assert sorted(path.parent.iterdir()) == [path, target]


@pytest.mark.parametrize("exclusive", [True, False])
def test_pipe_is_not_replaced(path: Path, exclusive: bool) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    with pytest.raises(CharRNNError, match="is a pipe or a device: name a file"):
        write_atomically(pipe, [b"new"], exclusive=exclusive)
    assert pipe.is_fifo()


def test_exclusive_write_takes_a_broken_link_for_a_file(path: Path) -> None:
    broken = path.with_name("link")
    broken.symlink_to("nowhere")
    with pytest.raises(OutputExistsError):
        write_atomically(broken, [b"new"], exclusive=True)
    assert broken.is_symlink()


@pytest.mark.parametrize("have_links", [True, False])
def test_second_name_takes_the_place_of_another_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, have_links: bool
) -> None:
    if not have_links:
        monkeypatch.setattr(os, "link", refuse_links)
    other, backup = path.with_name("other"), path.with_name("backup")
    other.write_text("what was there")
    assert link(path, other, backup) == have_links
    if have_links:
        assert path.samefile(other)
        assert backup.read_text() == "what was there"
        assert link(path, other, backup), "once more"
    else:
        assert other.read_text() == "what was there"
        assert not backup.exists()


@pytest.mark.parametrize("with_backup", [False, True])
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, with_backup: bool
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    owner: object = os if failing == "fsync" else Path
    monkeypatch.setattr(owner, failing, fail)
    with pytest.raises(CharRNNError, match="No space left on device"):
        write_atomically(path, [b"new"], path.with_name("backup") if with_backup else None)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_full_disk_leaves_the_old_file_and_nothing_else(path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CharRNNError, match="File too large"):
            write_atomically(path, [b"new" * 10_000], path.with_name("backup"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
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

    def dole_out(self, content: bytes) -> Iterator[bytes]:
        """The content in small pieces, with a step between two."""
        for begin in range(0, len(content), 10_000):
            self.step()
            yield content[begin : begin + 10_000]


def save_and_be_killed(save: Callable[[Killer], object], at: int) -> bool:
    """Save in a child process that is killed at this step. Returns: True if it came to its end all the same."""
    child = os.fork()
    if child == 0:
        killer = Killer(at)
        for owner, name in ((os, "fsync"), (os, "link"), (os, "open"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, killer.wrap(getattr(owner, name)))
        save(killer)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_best", [False, True])
def test_killed_at_any_step_of_a_save_the_file_is_whole(tmp_path: Path, is_best: bool) -> None:
    oldest, old, new = (bytes([age]) * 50_000 for age in range(3))  # longer than a buffer
    best, path, backup = tmp_path / "best", tmp_path / "last", tmp_path / "last-1"

    def save(killer: Killer) -> None:
        if is_best:
            write_atomically(best, killer.dole_out(new))
            link(best, path, backup)
        else:
            write_atomically(path, killer.dole_out(new), backup)

    found, at, ended = [], 0, False
    while not ended:
        for content in (oldest, old):
            write_atomically(path, [content], backup)
        write_atomically(best, [old])
        ended = save_and_be_killed(save, at)
        found.append(path.read_bytes())
        assert backup.read_bytes() in (oldest, old)
        assert best.read_bytes() in (old, new if is_best else old)
        remove_leftovers(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {"best", "last", "last-1"}
        at += 1
    assert found == sorted(found, key=[old, new].index), "once new, always new"
    assert found[0] == old
    assert found[-1] == new
    assert at > 15
