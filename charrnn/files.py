"""Folders made durably and files opened safely, on a disk that others write to as well.

How a file is replaced in one step is the business of `storage.py`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
def made(folder: Path) -> Iterator[None]:
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
