"""Files, folders, stdin and compressed files as streams of raw bytes.

Decoding is left to `cleaning.py`.
"""

import bz2
import contextlib
import difflib
import gzip
import hashlib
import io
import lzma
import os
import re
import stat
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from charrnn.errors import CharRNNError, opt
from charrnn.files.atomic import open_regular
from charrnn.terminal import Advance, Bar, advance_nothing, count_of, no_bar
from charrnn.text.detection import encoding_of_mark, foreign_format

BLOCK_BYTES = 1 << 19
COMPRESSIONS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: cast(IO[bytes], gzip.open(stream)),
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_REMEDY = "name a text file, a folder of them, or - for stdin"
_TEXT_NAME = re.compile(r"\.txt(\.gz|\.bz2|\.xz)?$", re.IGNORECASE)
_HIDDEN = re.compile(r"(?:[^/]*/)*?\.[^/]*")  # up to the first part of a path that begins with a dot
_SAMPLE_BYTES = 2**13  # first bytes of a file that are searched for NUL bytes
_MAX_NAMES = 5  # max skipped files of a folder, or suffixes, that are named


@dataclass(frozen=True)
class Source:
    """One stream of raw bytes that can be read more than once: a file, or the `content` of stdin or a pipe.

    `origin` is the absolute path of the file or folder that the user named. `note`, of the first source of a folder,
    states which of its files are read.
    """

    name: str
    path: Path | None
    content: bytes | IO[bytes] = b""
    origin: str = "stdin"
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes on the disk, 0 if unknown."""
        with contextlib.suppress(OSError):
            if self.path is not None:
                return self.path.stat().st_size
            return len(self.content) if isinstance(self.content, bytes) else os.fstat(self.content.fileno()).st_size
        return 0

    def blocks(self, advance: Advance = advance_nothing, size: int | None = None) -> Iterator[bytes]:
        """Yield the decompressed bytes, `size` or `BLOCK_BYTES` at a time. Raises: CharRNNError if that fails.

        `advance` receives the number of bytes read from the disk.
        """
        try:
            with contextlib.ExitStack() as stack:
                if self.path is not None:
                    stored: IO[bytes] = stack.enter_context(open_regular(self.path))
                else:
                    stored = io.BytesIO(self.content) if isinstance(self.content, bytes) else self.content
                    stored.seek(0)
                stream = stored
                if self.path is not None and self.path.suffix.lower() in COMPRESSIONS:
                    stream = stack.enter_context(COMPRESSIONS[self.path.suffix.lower()](stored))
                position = 0
                while block := stream.read(size or BLOCK_BYTES):
                    before, position = position, stored.tell()
                    advance(position - before)
                    yield block
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise CharRNNError(f"{self.name} cannot be read: {reason}") from error


def find_sources(arguments: Sequence[str], *, recursive: bool = False, force: bool = False) -> list[Source]:
    """Expand files, folders (their `*.txt`, compressed too, sorted) and `-` (stdin) to sources, in order.

    `recursive` takes folders within folders. Files of a folder that do not look like text are skipped, unless `force`
    is given, and so are hidden ones. Raises: CharRNNError for a missing path or a folder without texts.
    """
    sources = []
    for argument in arguments:
        path = Path(argument)
        if not argument:
            raise CharRNNError(f"a text's name is empty: {_REMEDY}")
        if argument == "-":
            sources.append(Source("stdin", None, _spool(sys.stdin.buffer, "stdin")))
        elif path.is_dir():
            sources.extend(_find_in_folder(path, recursive=recursive, force=force))
        elif path.is_file():
            sources.append(Source(argument, path, origin=str(path.resolve())))
        elif path.exists():
            sources.append(Source(argument, None, _read_once(path), origin=argument))
        else:
            raise CharRNNError(_describe_missing(argument))
    return sources


def _describe_missing(argument: str) -> str:
    """Reason why a file is missing, with the closest name."""
    if "://" in argument:
        return f"{argument} is an address: download it first, and name the file"
    folder, name = Path(argument).parent, Path(argument).name
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for near in difflib.get_close_matches(name, names, n=1):
        return f"{argument} does not exist: did you mean {folder / near}?"
    return f"{argument} does not exist: {_REMEDY}"


def find_tales() -> Path:
    """The tales that come with charrnn, in the package or in `data/` of the repository. Raises: CharRNNError."""
    package = Path(__file__).parents[1]
    for path in (package / "tales.txt", package.parent / "data" / "tales.txt"):
        if path.is_file():
            return path
    raise CharRNNError("the tales that come with charrnn are missing here: name a text of your own")


def _find_in_folder(folder: Path, *, recursive: bool, force: bool) -> list[Source]:
    """The texts of a folder. Raises: CharRNNError if there are none."""
    texts, foreign, others, hidden = [], [], [], []
    for path in sorted(path for path in (folder.rglob("*") if recursive else folder.iterdir()) if not path.is_dir()):
        name = str(path.relative_to(folder))
        if found := _HIDDEN.match(name):
            hidden.append(found[0])
        elif not _TEXT_NAME.search(name):
            others.append(name)
        elif not force and (reason := _reason_to_skip(path)):
            foreign.append(f"{name} ({reason})")
        else:
            texts.append(Source(str(path), path, origin=str(folder.resolve())))
    skipped = [*foreign, *dict.fromkeys(sorted(others + hidden))]
    listed = ", ".join(skipped[:_MAX_NAMES]) + ", ..." * (len(skipped) > _MAX_NAMES)
    if texts:
        note = f"{folder}: {count_of(len(texts), 'file')} read"
        note += f", skipped {len(skipped):,}: {listed}" if skipped else ""
        return [replace(texts[0], note=note), *texts[1:]]
    if foreign:
        what = f"{folder} has {count_of(len(foreign), '*.txt file')}, but none seems to be text"
        raise CharRNNError(f"{what}; {opt.force(True)} reads them all the same: {listed}")
    more = "" if recursive else f", or look into its folders with {opt.recursive(True)}"
    raise CharRNNError(f"{folder} is a folder without *.txt files: {_describe_others(folder, others)}{more}")


def _describe_others(folder: Path, names: Sequence[str]) -> str:
    """The suffixes of a folder's files, and how to name these files."""
    if not names:
        return "name a file or another folder"
    suffixes = Counter(Path(name).suffix for name in names).most_common(_MAX_NAMES)
    found = " and ".join(f"{number:,} {suffix or 'other'}" for suffix, number in suffixes)
    return f"it has {found} files: name them, as {folder / f'*{suffixes[0][0]}'}"


def _reason_to_skip(path: Path) -> str | None:
    """The reason why a file does not look like text; None if it does, or if it cannot be read."""
    try:
        head = next(Source(str(path), path).blocks(size=_SAMPLE_BYTES), b"")
    except CharRNNError:
        return None
    if found := foreign_format(head):
        return re.split("[:,]", found)[0]
    return "NUL bytes" if b"\0" in head and not encoding_of_mark(head) else None


def _read_once(path: Path) -> IO[bytes]:
    """Read a pipe, such as that of `<(command)`, to its end. Raises: CharRNNError, also for an endless device."""
    try:
        status = path.stat()
        if not stat.S_ISFIFO(status.st_mode) and not os.path.samestat(status, os.fstat(0)):
            raise CharRNNError(f"{path} is a device: {_REMEDY}")
        with path.open("rb") as stream:
            return _spool(stream, str(path))
    except OSError as error:
        raise CharRNNError(f"{path} cannot be read: {error.strerror}") from error


def _spool(stream: IO[bytes], name: str) -> IO[bytes]:
    """Copy a stream that can be read once to a nameless temporary file. Raises: OSError, CharRNNError."""
    spooled = tempfile.TemporaryFile()
    while block := stream.read(BLOCK_BYTES):
        try:
            spooled.write(block)
            spooled.flush()
        except OSError as error:
            where = f"{tempfile.gettempdir()}: {error.strerror}; set TMPDIR to a folder with room"
            raise CharRNNError(f"a copy of {name} cannot be written to {where}") from error
    return spooled


class SourceDigest:
    """SHA-256 of one source's decompressed bytes; for several, SHA-256 of their digests, then their number.

    The number makes sure that no single text has the digest of several sources.
    """

    def __init__(self) -> None:
        self._each: list[hashlib._Hash] = []

    def read(self, source: Source, advance: Advance) -> Iterator[bytes]:
        """The blocks of the next source."""
        sha = hashlib.sha256()
        self._each.append(sha)
        for block in source.blocks(advance):
            sha.update(block)
            yield block

    def hexdigest(self) -> str:
        """The digest of all blocks so far, in hexadecimal."""
        if len(self._each) == 1:
            return self._each[0].hexdigest()
        joined = b"".join(sha.digest() for sha in self._each)
        return f"{hashlib.sha256(joined).hexdigest()}-{len(self._each)}"


def digest(sources: Sequence[Source], bar: Bar = no_bar, validation: Sequence[Source] = ()) -> str:
    """The `SourceDigest` of the sources in order, in hexadecimal, and of those for validation. Raises: CharRNNError."""
    if validation:
        return f"{digest(sources, bar)}+{digest(validation, bar)}"
    found = SourceDigest()
    with bar("reading", sum(source.size for source in sources)) as advance:
        for source in sources:
            for _ in found.read(source, advance):
                pass
    return found.hexdigest()
