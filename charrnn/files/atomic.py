"""Atomic, durable changes on a disk that others write to as well: files replaced, renamed, linked and removed.

The content of files is left to `container.py`.
"""

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from charrnn.errors import CharRNNError

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # where there are such


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is a regular one, without waiting, as opening a pipe would. Raises: OSError."""
    _require_regular(path, path.stat().st_mode)  # to open a device may already have an effect
    descriptor = os.open(path, _READ)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))


@contextlib.contextmanager
def making_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents, each durable; at the end remove those of them that are empty.

    Raises: OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(missing):
            sync_folder(path.parent)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable, so that they outlive a power cut, if the file system can do that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read; any folder on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


if sys.platform == "darwin":
    import fcntl
_TEMPORARY = ".charrnn-tmp-"
_ABANDONED_S = 3600.0

Guard = Callable[[], object]
"""Raises a CharRNNError where the folder is no longer the writer's, whatever stands at its path now."""


def no_guard() -> None:
    """The guard of a folder that nobody locked."""


def write_atomically(
    path: Path,
    parts: Iterable[bytes | bytearray | memoryview],
    backup: Path | None = None,
    guard: Guard = no_guard,
) -> None:
    """Temporary file beside the target, fsync, rename, fsync of the folder.

    The target never goes missing, but for a moment where a backup is asked for on a file system without hard links.
    What writers left in the folder that were killed long ago is removed. The folder is made if need be, but not where
    there is a `guard`, which is called at first and again between the temporary file and the rename: what was
    written to a folder that was then removed can no longer be renamed. Raises: CharRNNError.
    """
    outcome = "nothing was changed"
    try:
        if path.is_dir():
            raise CharRNNError(f"{path} is a folder: name a file in it")
        guard()
        with making_folder(path.parent) if guard is no_guard else contextlib.nullcontext():
            remove_leftovers(path.parent, min_age_s=_ABANDONED_S)
            _write_and_replace(path, parts, backup, guard)
            outcome = "it is there, but might not outlive a power cut"
            sync_folder(path.parent)
    except OSError as error:
        guard()  # better than any other reason
        raise CharRNNError(f"{path} cannot be written: {error.strerror}; {outcome}") from error


def _write_and_replace(
    path: Path, parts: Iterable[bytes | bytearray | memoryview], backup: Path | None, guard: Guard
) -> None:
    """Raises: OSError, CharRNNError, and then all is as it was."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as stream:
            stream.writelines(parts)
            stream.flush()
            _sync(stream.fileno())
        _replace(path, temporary, backup, guard)
    finally:
        temporary.unlink(missing_ok=True)


def link(path: Path, other: Path, backup: Path, guard: Guard = no_guard) -> bool:
    """Give a file a second name in the same folder, in place of what had it, which becomes `backup`.

    Returns: True if that was done, False where the file system has no such names. Raises: CharRNNError.
    """
    try:
        linked = (not other.exists() or _link(other, backup, guard)) and _link(path, other, guard)
        sync_folder(path.parent)
        return linked
    except OSError as error:
        guard()
        raise CharRNNError(f"{other} cannot be written: {error.strerror}; it is the old one or the new one") from error


def rename(path: Path, other: Path, guard: Guard = no_guard) -> Path:
    """Rename a file, durably, over what has the other name. Returns: the new path. Raises: CharRNNError."""
    try:
        guard()
        path.replace(other)
        sync_folder(path.parent)
    except OSError as error:
        raise CharRNNError(f"{path} cannot be renamed to {other.name}: {error.strerror}") from error
    return other


def remove(path: Path, guard: Guard = no_guard) -> None:
    """Remove a file. Raises: CharRNNError."""
    try:
        guard()
        path.unlink()
    except OSError as error:
        raise CharRNNError(f"{path} cannot be removed: {error.strerror}") from error


def _replace(path: Path, new: Path, backup: Path | None, guard: Guard) -> None:
    """Rename a file to a path; what stood there becomes `backup`.

    Raises: OSError, CharRNNError, and then all is as it was.
    """
    guard()
    if backup is None or not path.exists() or _link(path, backup, guard):
        new.replace(path)
        return
    path.replace(backup)
    try:
        new.replace(path)
    except OSError:
        backup.replace(path)
        raise


def _link(path: Path, other: Path, guard: Guard = no_guard) -> bool:
    """Give a file a second name in one step; False where there are no such names. Raises: OSError, CharRNNError."""
    temporary = temporary_beside(path)
    try:
        os.link(path, temporary)
    except OSError:
        return False
    try:
        guard()
        temporary.replace(other)
    finally:
        temporary.unlink(missing_ok=True)  # two names of one file are not replaced by one another
    return True


def temporary_beside(path: Path) -> Path:
    """A name of its own for a file in the making, by which it is known as a leftover where its writer was killed."""
    return path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}")


def remove_leftovers(folder: Path, *, min_age_s: float = 0) -> None:
    """Remove what writers left that were killed, so long ago; of younger files none may be in the making."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= min_age_s:
                path.unlink()


def _sync(descriptor: int) -> None:
    """Have the disk itself write what it was given."""
    os.fsync(descriptor)
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # where fsync stops at the drive's cache
