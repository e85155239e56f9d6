"""One writer at a time."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import lock_descriptor

from charrnn.errors import CharRNNError, CharRNNWarning
from charrnn.files import lock
from charrnn.files.lock import NAME, locked

HOLD = "import sys, time; from pathlib import Path; from charrnn.files.lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(60)"


def hold(folder: Path) -> "subprocess.Popen[bytes]":
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def assert_refused_and_kill(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """A second writer beside this process is told its id."""
    try:
        with pytest.raises(CharRNNError, match=f"in use by process {process.pid}:"), locked(folder):
            pass
    finally:
        process.kill()
        process.wait()


def test_second_writer_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    assert_refused_and_kill(process, tmp_path / "run")


def test_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        assert int((tmp_path / NAME).read_text()) == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_lock_is_free_again_whatever_happens_in_between(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "a" / "b"):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []


def test_folder_that_was_there_or_was_filled_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"):
        pass
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}


def test_many_that_want_it_get_it_one_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from charrnn.errors import CharRNNError\n"
        "from charrnn.files.lock import locked\n"
        "folder, taken, end = Path(sys.argv[1]), 0, time.monotonic() + 1\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        with locked(folder / 'run'):\n"
        "            (folder / 'inside').mkdir(); (folder / 'inside').rmdir(); taken += 1\n"
        "    except CharRNNError: pass\n"
        "print(taken)"
    )
    start = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    taken = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(map(int, taken)) > 10


def test_place_where_no_folder_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CharRNNError, match="file is a file"), locked(tmp_path / "file" / "run"):
        pass


def test_lock_waits_for_nothing(tmp_path: Path) -> None:
    process = hold(tmp_path)
    begin = time.monotonic()
    with pytest.raises(CharRNNError, match="in use by process"), locked(tmp_path):
        pass
    assert time.monotonic() - begin < 5
    process.kill()
    process.wait()


def test_process_id_stands_behind_the_byte_that_windows_locks(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / NAME).read_bytes() == b" %d\n" % os.getpid()
    assert "fcntl" not in Path(lock.__file__).read_text()


def test_holder_that_has_not_said_its_name_is_told_as_such(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as stream:
        assert lock_descriptor(stream.fileno(), blocking=False)
        with pytest.raises(CharRNNError, match="in use by a process that is just starting"), locked(tmp_path):
            pass


def test_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock_descriptor", fail)
    with pytest.warns(CharRNNWarning, match="on a file system without locks"), locked(tmp_path / "run") as held:
        assert held.is_held


def test_lock_that_is_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / NAME).hardlink_to(victim)
    with pytest.raises(CharRNNError, match="one with a second name: remove it"), locked(tmp_path):
        pass
    assert victim.read_text() == "precious"
    assert (tmp_path / NAME).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_lock_that_is_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(CharRNNError, match="is no lock, but a special file"), locked(tmp_path):
        pass


def test_full_disk_leaves_no_lock_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(CharRNNError, match="No space left on device"), locked(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_that_is_gone_is_known_and_its_successor_left_alone(tmp_path: Path) -> None:
    with locked(tmp_path / "run") as first:
        assert first.is_held
        first.check()
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(CharRNNError, match=r"run is no longer this process's: its \.lock was removed or replaced"):
            first.check()
        process = hold(tmp_path / "run")
        assert not first.is_held
    assert_refused_and_kill(process, tmp_path / "run")


def test_folder_that_goes_while_its_lock_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a trainer that ends, and leaves no empty folder."""
    open_file = os.open

    def open_late(path: Path, *arguments: int) -> int:
        if path == tmp_path / "run" / NAME:
            monkeypatch.undo()
            (tmp_path / "run").rmdir()
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", open_late)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / NAME).exists()
    assert list(tmp_path.iterdir()) == []


def test_lock_that_is_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(victim)
    with pytest.raises(CharRNNError, match="cannot be written"), locked(tmp_path / "run"):
        pass
    assert victim.read_text() == "precious"
