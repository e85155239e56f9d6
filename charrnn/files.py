"""Folders made durably on a disk that others write to as well.

How a file is replaced in one step is the business of `storage.py`.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


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
