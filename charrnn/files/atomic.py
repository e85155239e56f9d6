"""Atomic, durable changes on a shared disk: replace, rename, link and remove files.

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

from charrnn.errors import CharRNNError, OutputExistsError, opt

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # where defined
_TEMPORARY = ".charrnn-tmp-"
_ABANDONED_S = 3600.0

Guard = Callable[[], object]
"""Raises CharRNNError once the folder no longer belongs to the writer."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking. Raises: OSError, also for a pipe or a device."""
    _require_regular(path, path.stat().st_mode)  # opening a device may already have an effect
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
    """Make a folder and its missing parents durably; on exit remove those that are still empty. Raises: OSError."""
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
    """Make the folder's entries survive a power cut, if the file system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder without read permission; any folder on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def no_guard() -> None:
    """The guard of a folder that nobody locked."""


def write_atomically(
    path: Path,
    parts: Iterable[bytes | bytearray | memoryview],
    backup: Path | None = None,
    guard: Guard = no_guard,
    amend: Callable[[], tuple[int, bytes]] | None = None,
    *,
    exclusive: bool = False,
) -> None:
    """Write a temporary file beside the target, fsync, rename, fsync the folder.

    The old file becomes `backup`; the target never goes missing, except for a moment if a backup is wanted on a file
    system without hard links. The guard is called first, and again before the rename. Without one a missing folder is
    made. `amend` is called once all parts are written: it returns an offset, and the bytes to write there. With
    `exclusive` an existing target is an error, before the first part is read and at the rename. Raises: CharRNNError.
    """
    outcome = "nothing was changed"
    try:
        require_writable(path, exclusive=exclusive)
        guard()
        with making_folder(path.parent) if guard is no_guard else contextlib.nullcontext():
            remove_leftovers(path.parent, min_age_s=_ABANDONED_S)
            temporary = temporary_beside(path)
            try:
                _write(temporary, parts, amend)
                _replace(path, temporary, backup, guard, exclusive=exclusive)
            finally:
                temporary.unlink(missing_ok=True)
            outcome = "it is there, but might not survive a power cut"
            sync_folder(path.parent)
    except OSError as error:
        guard()  # a lost lock is the better explanation
        raise CharRNNError(f"{path} cannot be written: {error.strerror}; {outcome}") from error


def require_writable(path: Path, *, exclusive: bool) -> None:
    """Raises: CharRNNError for a folder or a device; OutputExistsError for an existing file or link if `exclusive`."""
    if path.is_dir():
        raise CharRNNError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise CharRNNError(f"{path} is a pipe or a device: name a file, or - for stdout")
    if exclusive and os.path.lexists(path):
        raise OutputExistsError(f"{path} exists: name another file, or replace it with {opt.overwrite(True)}")


def _write(
    path: Path, parts: Iterable[bytes | bytearray | memoryview], amend: Callable[[], tuple[int, bytes]] | None
) -> None:
    """Write a new file and flush it to the disk itself. Raises: OSError."""
    with path.open("xb") as stream:
        stream.writelines(parts)
        if amend is not None:
            offset, data = amend()
            stream.seek(offset)
            stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
        if sys.platform == "darwin":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.fcntl(stream.fileno(), fcntl.F_FULLFSYNC)  # there fsync stops at the drive's cache


def link(path: Path, other: Path, backup: Path, guard: Guard = no_guard) -> bool:
    """Hard-link a file to another name in its folder; the file that had the name becomes `backup`.

    Returns: False if the file system has no hard links. Raises: CharRNNError.
    """
    try:
        linked = (not other.exists() or _link(other, backup, guard)) and _link(path, other, guard)
        sync_folder(path.parent)
        return linked
    except OSError as error:
        guard()
        raise CharRNNError(f"{other} cannot be written: {error.strerror}; it is the old one or the new one") from error


def rename(path: Path, other: Path, guard: Guard = no_guard) -> Path:
    """Rename a file durably, replacing any file of that name. Returns: the new path. Raises: CharRNNError."""
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


def _replace(path: Path, new: Path, backup: Path | None, guard: Guard, *, exclusive: bool) -> None:
    """Rename `new` to `path`; the file at `path` becomes `backup`, or is an error if `exclusive`.

    Raises: OSError or CharRNNError, with nothing changed.
    """
    guard()
    if exclusive:
        with contextlib.suppress(OSError):  # no hard links here, or the name is taken
            os.link(new, path)
            return
        require_writable(path, exclusive=True)
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
    """Hard-link a file in one step; False if the file system has no hard links. Raises: OSError, CharRNNError."""
    temporary = temporary_beside(path)
    try:
        os.link(path, temporary)
    except OSError:
        return False
    try:
        guard()
        temporary.replace(other)
    finally:
        temporary.unlink(missing_ok=True)  # rename does nothing between two names of one file
    return True


def temporary_beside(path: Path) -> Path:
    """A unique name for a file that is being written, recognised by `remove_leftovers` if its writer is killed."""
    return path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}")


def remove_leftovers(folder: Path, *, min_age_s: float = 0) -> None:
    """Remove the temporary files of killed writers; a live writer's must be younger than `min_age_s`."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= min_age_s:
                path.unlink()
