"""Remember what was found out by reading large files, for as long as they are not changed.

A fact lies in the user's own cache folder, where no stranger's file comes with one, under a name made of the files'
inodes, sizes and times (of content and status). Where nothing can be written there, nothing is remembered.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

MIN_BYTES = 2**28
"""Smaller files are read again in a moment."""
_MAX_FACTS = 256
_FACT = re.compile(r"[0-9a-z-]{1,100}")


def identify(topic: str, files: Sequence[Path | int]) -> str | None:
    """A name for the present content of files, paths or open descriptors; None if they are small or not regular."""
    try:
        found = [os.stat(file) for file in files]  # noqa: PTH116 (of descriptors too)
    except OSError:
        return None
    if sum(each.st_size for each in found) < MIN_BYTES or not all(stat.S_ISREG(each.st_mode) for each in found):
        return None
    marks = [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found]
    return hashlib.sha256(json.dumps([topic, marks]).encode()).hexdigest()


def recall(identity: str | None) -> str | None:
    """The fact that was remembered of files, if any."""
    if identity is not None:
        with contextlib.suppress(OSError, UnicodeError, RuntimeError):
            fact = (_folder() / identity).read_text()
            return fact if _FACT.fullmatch(fact) else None
    return None


def remember(identity: str | None, fact: str) -> None:
    """Remember a fact, a digest say; the oldest ones are forgotten."""
    if identity is None:
        return
    with contextlib.suppress(OSError, RuntimeError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = folder / f"{identity}.{os.getpid()}"
        temporary.write_text(fact)
        temporary.replace(folder / identity)
        facts = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in facts[:-_MAX_FACTS]:
            path.unlink()


def _folder() -> Path:
    """The folder of facts, in the user's own cache. Raises: RuntimeError if the user has no home."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(caches) if caches else Path.home() / ".cache") / "charrnn" / "read"
