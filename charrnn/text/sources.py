"""Files, folders, stdin and compressed files as streams of raw bytes.

Decoding is left to `cleaning.py`.
"""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from charrnn.errors import CharRNNError
from charrnn.files.atomic import open_regular

BLOCK_BYTES = 1 << 22
COMPRESSIONS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: cast(IO[bytes], gzip.open(stream)),
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


@dataclass(frozen=True)
class Source:
    """One stream of raw bytes that can be read more than once: a file, or the `content` of stdin or a pipe.

    `origin` is the absolute path of the file or folder that the user named.
    """

    name: str
    path: Path | None
    content: bytes = b""
    origin: str = "stdin"

    def blocks(self) -> Iterator[bytes]:
        """Yield the decompressed bytes, some megabytes at a time. Raises: CharRNNError if they cannot be read."""
        try:
            with contextlib.ExitStack() as stack:
                stream: IO[bytes] = io.BytesIO(self.content) if self.path is None else open_regular(self.path)
                stack.enter_context(stream)
                if self.path is not None and self.path.suffix in COMPRESSIONS:
                    stream = stack.enter_context(COMPRESSIONS[self.path.suffix](stream))
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CharRNNError(f"{self.name} cannot be read: {reason}") from error


def find_sources(arguments: Sequence[str]) -> list[Source]:
    """Expand files, folders (their `*.txt`, sorted) and `-` (stdin) to sources, in order.

    Raises: CharRNNError for a missing path or a folder without texts.
    """
    sources = []
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            sources.append(Source("stdin", None, sys.stdin.buffer.read()))
        elif path.is_dir():
            texts = sorted(path.glob("*.txt"))
            if not texts:
                raise CharRNNError(f"{argument} is a folder without *.txt files: name a file or another folder")
            sources.extend(Source(str(text), text, origin=str(path.resolve())) for text in texts)
        elif path.is_file():
            sources.append(Source(argument, path, origin=str(path.resolve())))
        elif path.exists():
            sources.append(Source(argument, None, _read_once(path), origin=argument))
        else:
            raise CharRNNError(f"{argument} does not exist: name a text file, a folder of them, or - for stdin")
    return sources


def _read_once(path: Path) -> bytes:
    """Read a pipe, such as that of `<(command)`, to its end. Raises: CharRNNError, also for an endless device."""
    try:
        status = path.stat()
        if not stat.S_ISFIFO(status.st_mode) and not os.path.samestat(status, os.fstat(0)):
            raise CharRNNError(f"{path} is a device: name a text file, a folder of them, or - for stdin")
        return path.read_bytes()
    except OSError as error:
        raise CharRNNError(f"{path} cannot be read: {error.strerror}") from error


class SourceDigest:
    """SHA-256 of one source's decompressed bytes; for several, SHA-256 of their digests, then their number.

    Thanks to the number, no single text can have the digest of several sources.
    """

    def __init__(self) -> None:
        self._each: list[hashlib._Hash] = []

    def begin(self) -> None:
        """Start the next source."""
        self._each.append(hashlib.sha256())

    def update(self, block: bytes) -> None:
        """Add a block of the current source."""
        self._each[-1].update(block)

    def hexdigest(self) -> str:
        """The digest of all blocks so far, in hexadecimal."""
        if len(self._each) == 1:
            return self._each[0].hexdigest()
        joined = b"".join(sha.digest() for sha in self._each)
        return f"{hashlib.sha256(joined).hexdigest()}-{len(self._each)}"


def digest(sources: Iterable[Source]) -> str:
    """The `SourceDigest` of the sources in order, in hexadecimal. Raises: CharRNNError."""
    found = SourceDigest()
    for source in sources:
        found.begin()
        for block in source.blocks():
            found.update(block)
    return found.hexdigest()
