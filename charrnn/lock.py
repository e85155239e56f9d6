"""One writer at a time: a lock that the system itself drops when its holder dies, however it dies."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from charrnn.errors import CharRNNError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is made if need be, and removed again if nothing is left in it.

    Raises: CharRNNError where no folder can be, and where another process holds the lock, by its process id.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise CharRNNError(f"{folder} cannot be a run's folder: {nearest} is a file; name another --run DIR")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _acquire(folder / NAME)
        except OSError as error:
            raise CharRNNError(f"{folder} cannot be written: {error.strerror}; name another --run DIR") from error
        yield
    finally:
        if descriptor is not None:
            (folder / NAME).unlink(missing_ok=True)
            os.close(descriptor)
        _remove_empty(made)


def _acquire(path: Path) -> int:
    """The open and locked file, in which the holder's process id stands. Raises: CharRNNError, OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "that just begins"
            os.close(descriptor)
            raise CharRNNError(
                f"{path.parent} is in use by process {holder}: wait for it, stop it, or name another --run DIR"
            ) from None
        except OSError:
            pass  # a file system without locks
        if _is_at(descriptor, path):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)  # its holder removed it a moment ago


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
