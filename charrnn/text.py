"""Raw sources to clean text, block by block.

Opens files, folders, stdin and compressed files, decodes them, unifies line ends, cuts Project Gutenberg's
boilerplate, transliterates and folds case. What the text's symbols are is `vocabulary.py`'s business.
"""

import bz2
import codecs
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.files import open_regular

BLOCK_BYTES = 1 << 22

COMPRESSIONS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    ".gz": lambda stream: cast(IO[bytes], gzip.open(stream)),
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins it
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_OTHER_ENCODINGS = ("utf-8", "cp1252", "gb18030", "shift_jis", "euc_kr", "latin-1")


@dataclass(frozen=True)
class Source:
    """One stream of raw bytes that can be opened more than once; `path` is None for stdin and pipes, read already.

    `origin` is the absolute path of the file or folder that was asked for.
    """

    name: str
    path: Path | None
    stdin: bytes = b""
    origin: str = "stdin"

    def blocks(self) -> Iterator[bytes]:
        """The bytes, decompressed, some megabytes at a time. Raises: CharRNNError if they cannot be read."""
        try:
            with contextlib.ExitStack() as stack:
                stream: IO[bytes] = io.BytesIO(self.stdin) if self.path is None else open_regular(self.path)
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

    Raises: CharRNNError for a path that is not there or a folder without texts.
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
    """All that a pipe, say of `<(command)`, will give. Raises: CharRNNError, also for a device, which may never end."""
    try:
        status = path.stat()
        if not stat.S_ISFIFO(status.st_mode) and not os.path.samestat(status, os.fstat(0)):
            raise CharRNNError(f"{path} is a device: name a text file, a folder of them, or - for stdin")
        return path.read_bytes()
    except OSError as error:
        raise CharRNNError(f"{path} cannot be read: {error.strerror}") from error


class SourceDigest:
    """SHA-256 of a source's decompressed bytes; of several, SHA-256 of theirs, with their number.

    No text has the digest of several sources, whatever it holds.
    """

    def __init__(self) -> None:
        self._each: list[hashlib._Hash] = []

    def begin(self) -> None:
        """Go on to the next source."""
        self._each.append(hashlib.sha256())

    def update(self, block: bytes) -> None:
        """Read on in the source."""
        self._each[-1].update(block)

    def hexdigest(self) -> str:
        """The digest of all that was read, in hexadecimal."""
        if len(self._each) == 1:
            return self._each[0].hexdigest()
        joined = b"".join(sha.digest() for sha in self._each)
        return f"{hashlib.sha256(joined).hexdigest()}-{len(self._each)}"


def digest(sources: Iterable[Source]) -> str:
    """The digest of the sources, one after the other, see `SourceDigest`. Raises: CharRNNError."""
    found = SourceDigest()
    for source in sources:
        found.begin()
        for block in source.blocks():
            found.update(block)
    return found.hexdigest()


class CleanText:
    """The sources as clean text: iterate over its blocks once, then read what was done to them.

    Attributes:
        digest: of the raw bytes that were read so far, as `digest` computes it.
        notes: one line for each thing that was cut or folded.
    """

    def __init__(self, sources: Sequence[Source], config: PreparationConfig) -> None:
        self.digest = SourceDigest()
        self.notes: list[str] = []
        try:
            "".encode(config.encoding)
        except (LookupError, ValueError):
            raise CharRNNError(f"encoding {config.encoding!r} is unknown: give one of Python's, say cp1252") from None
        self._sources = sources
        self._config = config
        self._transliterated = 0

    def __iter__(self) -> Iterator[str]:
        end = "\n"
        for source in self._sources:
            self.digest.begin()
            if end != "\n":
                yield "\n"  # a file without a final newline must not run into the next one
            for block in self._clean(source):
                end = block[-1]
                yield block
        if self._transliterated:
            self.notes.append(f"transliterated {self._transliterated:,} characters to ASCII")

    def _clean(self, source: Source) -> Iterator[str]:
        blocks = _decode(source, self._config.encoding, self.digest.update)
        if not self._config.keep_boilerplate:
            blocks = cut_boilerplate(blocks, lambda what: self.notes.append(f"cut {what} from {source.name}"))
        for block in blocks:
            if self._config.ascii and not block.isascii():
                self._transliterated += len(block) - len(block.encode("ascii", "ignore"))
            if clean := normalise(block, ascii=self._config.ascii, lowercase=self._config.lowercase):
                yield clean


def normalise(text: str, *, ascii: bool, lowercase: bool) -> str:  # noqa: A002 (the option's name)
    """Transliterate and fold case: what a corpus asked for is done to every prompt and scored text too."""
    if ascii:
        text = transliterate(text)
    return text.lower() if lowercase else text


def escape_controls(text: str) -> str:
    """The text with what would steer a terminal made visible: all control characters but tab and line feed.

    >>> escape_controls("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def json_line(record: object, *, ascii_only: bool = False) -> str:
    """The record as JSON in one line for any reader, without control characters that a terminal may obey.

    >>> json_line({"text": "café \\x9b31m"})
    '{"text": "café \\\\u009b31m"}'
    """
    return json.dumps(record, ensure_ascii=ascii_only).translate(_CONTROLS_IN_JSON)


_CONTROLS_IN_JSON = {i: f"\\u{i:04x}" for i in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
"""Control characters and line ends that JSON leaves as they are."""
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def transliterate(text: str) -> str:
    """The text in ASCII, by Unidecode, looked up once for each distinct character.

    >>> transliterate("Blåbærgrød")
    'Blabaergrod'
    """
    if text.isascii():
        return text
    from unidecode import unidecode

    return text.translate({ord(char): unidecode(char) for char in set(text) if not char.isascii()})


def _decode(source: Source, encoding: str, observe: Callable[[bytes], object]) -> Iterator[str]:
    """Decode a source block by block, honouring a byte-order mark and unifying line ends.

    Raises: CharRNNError that names the byte offset and the encodings that would read the source.
    """
    decoder: codecs.IncrementalDecoder | None = None
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0
    for block in source.blocks():
        observe(block)
        if decoder is None:
            encoding = next((name for bom, name in _BOMS.items() if block.startswith(bom)), encoding)
            decoder = codecs.getincrementaldecoder(encoding)()
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeError as error:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            raise _undecodable(source, encoding, offset - pending + start, block) from None
        offset += len(block)
        yield newlines.decode(text)
    if decoder is None:
        return
    try:
        yield newlines.decode(decoder.decode(b"", final=True), final=True)
    except UnicodeError:
        raise _undecodable(source, encoding, offset - len(decoder.getstate()[0]), b"") from None


def _undecodable(source: Source, encoding: str, offset: int, block: bytes) -> CharRNNError:
    where = f"{source.name} is not {encoding} at byte {offset}"
    if not block:
        return CharRNNError(f"{where}: it ends in the middle of a character")
    if b"\0" in block:
        return CharRNNError(f"{where} and holds zero bytes: is it a text? (--encoding utf-16 may read it)")
    able = [name for name in _OTHER_ENCODINGS if name != encoding and _can_decode(block, name)]
    return CharRNNError(f"{where}: try --encoding " + " or ".join(able))


def _can_decode(block: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(block)
    except UnicodeError:
        return False
    return True


# Project Gutenberg's boilerplate: a header that ends with a START line (or, in the 1990s, with the end of
# "the small print"), and a licence that begins with an END line. The oldest files have no END line but close
# with a bare "End of the Project Gutenberg Etext of ..."; since that could stand inside a text that merely
# joins such files, it counts on the last page only.
_START = re.compile(
    r"\s*\*+\s*(START OF (THE |THIS )?(COPYRIGHTED )?PROJECT GUTENBERG|END\W+THE SMALL PRINT)", re.IGNORECASE
)
_END = re.compile(r"\s*\*+\s*END OF (THE |THIS )?(COPYRIGHTED )?PROJECT GUTENBERG", re.IGNORECASE)
_BARE_END = re.compile(
    r"\s*(This is the )?End of (the |this |this is )?(COPYRIGHTED )?Project Gutenberg('s|\s+E)", re.IGNORECASE
)
_MARKER_WORDS = ("Gutenberg", "GUTENBERG", "SMALL PRINT")
_HEADER_CHARS = 100_000
_LAST_PAGE_CHARS = 32_000
_CLOSING_CHARS = 1_000


def cut_boilerplate(blocks: Iterable[str], report: Callable[[str], object]) -> Iterator[str]:
    """Cut Project Gutenberg's headers and licences, of one book or of several in one file.

    An END line cuts up to the next START line, a START line near the beginning cuts all before it.
    `report` is told of what was cut. Memory stays within two blocks.
    """
    cutter = _Cutter()
    held = ""
    for block in blocks:
        held += block
        # Held back: the last page, and what may be the first half of a line.
        ready = held.rfind("\n", 0, max(0, len(held) - _LAST_PAGE_CHARS)) + 1
        if ready > _HEADER_CHARS:
            yield from cutter.cut(held[:ready], last=False)
            held = held[ready:]
    yield from cutter.cut(held, last=True)
    if cutter.removed:
        report(f"Project Gutenberg's header and licence ({cutter.removed:,} characters)")


class _Cutter:
    """Where in a Gutenberg file we are, while its segments of whole lines go by."""

    def __init__(self) -> None:
        self.removed = 0
        self._first = True
        self._in_book = True

    def cut(self, text: str, *, last: bool) -> list[str]:
        """The parts of this segment that belong to a book."""
        parts: list[str] = []
        begin = 0  # of the part that is being read, if we are in a book
        bare_end = -_CLOSING_CHARS
        for start, end in _lines_with_marker_words(text):
            line = text[start:end]
            in_header = self._first and start < _HEADER_CHARS
            on_last_page = last and len(text) - start <= _LAST_PAGE_CHARS
            if _START.match(line) and (in_header or not self._in_book):
                begin = _marker_end(text, start, end)
                self._in_book = True
            elif not self._in_book or start < begin:
                continue
            elif _BARE_END.match(line) and not on_last_page:
                bare_end = start  # the end, if an END line follows
            elif _END.match(line) or _BARE_END.match(line):
                close = bare_end if start - bare_end < _CLOSING_CHARS else start
                parts.append(text[begin:close].rstrip() + "\n")
                self._in_book = False
        if self._in_book:
            parts.append(text[begin:])
        self._first = False
        self.removed += len(text) - sum(map(len, parts))
        return [part for part in parts if part]


def _lines_with_marker_words(text: str) -> list[tuple[int, int]]:
    """Where the lines lie that may be markers, in order: (start, end)."""
    lines = set()
    for word in _MARKER_WORDS:  # str.find is ten times faster than one regular expression for all
        found = text.find(word)
        while found >= 0:
            start, end = text.rfind("\n", 0, found) + 1, text.find("\n", found) + 1 or len(text)
            lines.add((start, end))
            found = text.find(word, end)
    return sorted(lines)


def _marker_end(text: str, start: int, end: int) -> int:
    """Where a marker's text ends: a long title wraps over some lines up to its closing asterisks."""
    position = end
    for _ in range(4):
        if text[start:position].rstrip().endswith("*"):
            end = position
            break
        position = text.find("\n", position) + 1 or len(text)
    while text[end : end + 1] == "\n":
        end += 1
    return end
