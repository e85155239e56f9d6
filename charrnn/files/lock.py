"""One writer at a time: a lock that the system releases when its holder dies, however it dies.

The locked file holds the process id, after its first byte: on Windows that byte is locked, and unreadable to others.
"""

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor

from charrnn.errors import CharRNNError, CharRNNWarning, opt
from charrnn.files.atomic import making_folder

NAME = ".lock"
_ATTEMPTS = 100
_FLAGS = os.O_RDWR | os.O_CREAT | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


class Lock:
    """A folder's lock, held by this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def is_held(self) -> bool:
        """True while the file is at its path; without it, another process may lock a new one."""
        return _is_at(self._descriptor, self._path)

    def check(self) -> None:
        """Check that the folder is still this process's. Raises: CharRNNError if the file is gone or replaced."""
        if not self.is_held:
            raise CharRNNError(
                f"{self._path.parent} is no longer this process's: its {NAME} was removed or replaced meanwhile; "
                "nothing more is written there"
            )

    def release(self) -> None:
        """Remove the file, if it is still this process's, and unlock it."""
        if os.name == "nt":  # there an open file cannot be removed: neither ours nor the next holder's
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        if self.is_held:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Lock]:
    """Hold the lock of a run's folder; make the folder if it is missing, and remove it on exit if it is empty.

    Raises: CharRNNError if the folder cannot be made, or another process holds the lock (named by its id).
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise CharRNNError(f"{folder} cannot be a run's folder: {nearest} is a file; name another {opt.run('DIR')}")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(making_folder(folder))
            lock = Lock(folder / NAME, _acquire(folder / NAME))
            stack.callback(lock.release)
        except OSError as error:
            raise CharRNNError(
                f"{folder} cannot be written: {error.strerror}; name another {opt.run('DIR')}"
            ) from error
        yield lock


def _acquire(path: Path) -> int:
    """Open and lock the file; returns its descriptor. Raises: CharRNNError, OSError."""
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, _FLAGS, 0o644)
        except FileNotFoundError:  # the last holder just removed the empty folder as well
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            if _take(descriptor, path):  # else the last holder just removed it
                stack.pop_all()
                return descriptor
    raise CharRNNError(f"{path} cannot be made: others keep removing it; name another {opt.run('DIR')}")


def _take(descriptor: int, path: Path) -> bool:
    """Lock an open file and write this process's id; False if the file is no longer at the path.

    Raises: CharRNNError, OSError.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise CharRNNError(f"{path} is no lock, but a special file or one with a second name: remove it")
    try:
        is_free = lock_descriptor(descriptor, blocking=False)
    except OSError:
        is_free = True
        message = f"{path.parent} is on a file system without locks: another training there would not be noticed"
        warnings.warn(CharRNNWarning(message), stacklevel=2)
    if not is_free:
        raise CharRNNError(
            f"{path.parent} is in use by {_holder(descriptor)}: wait for it, stop it, or name another {opt.run('DIR')}"
        )
    if not _is_at(descriptor, path):
        return False
    try:
        os.ftruncate(descriptor, os.write(descriptor, f" {os.getpid()}\n".encode()))
    except OSError:
        path.unlink()  # else an empty one would stay on a full disk
        raise
    return True


def _holder(descriptor: int) -> str:
    """The lock's holder, for an error message."""
    os.lseek(descriptor, 1, os.SEEK_SET)
    process = os.read(descriptor, 32).decode(errors="replace").strip()
    return f"process {process}" if process.isdecimal() else "a process that is just starting"


def _is_at(descriptor: int, path: Path) -> bool:
    """True if an open file is still at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False
