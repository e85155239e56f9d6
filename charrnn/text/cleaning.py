"""Raw bytes to clean text, block by block: decoding, line ends, normal form, transliteration, case.

Project Gutenberg's boilerplate is left to `gutenberg.py`, symbols to `tokenizers.py`.
"""

import codecs
import io
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.terminal import Advance, advance_nothing, count_of
from charrnn.text.detection import (
    HEAD_BYTES,
    advice_on_records,
    count_utf8,
    encoding_of_mark,
    encodings_for,
    foreign_format,
    wide_encoding_for,
)
from charrnn.text.documents import mark_documents
from charrnn.text.gutenberg import cut_boilerplate
from charrnn.text.sources import Source, SourceDigest
from charrnn.text.tokenizers import TOKENIZERS
from charrnn.text.transliteration import transliterate
from charrnn.text.words import EOS_MARK

_MAX_HELD = 1 << 20  # max characters without white space that wait for the next block
_PARTS = re.compile(r".{1,4096}\S*", re.DOTALL)
_BYTE_ORDER_MARK = "\ufeff"


@dataclass
class CleanText:
    """The sources as clean text: iterate over the blocks once, then read `digest` and `notes`.

    The text does not depend on where blocks end: they end between characters that do not affect each other.

    Attributes:
        force: read what does not look like text.
        advance: receives the number of bytes read.
        digest: of the raw bytes that were read, as `sources.digest` computes it.
        notes: one line per kind of change, such as a cut or a transliteration, and advice.
        warnings: the same for changes that are larger than expected.
    """

    sources: Sequence[Source]
    config: PreparationConfig
    force: bool = False
    advance: Advance = advance_nothing

    def __post_init__(self) -> None:
        _require_encoding(self.config.encoding)
        _require_separator(self.config)
        self.digest = SourceDigest()
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._num_transliterated = self._num_dropped = self._num_marks = 0

    def __iter__(self) -> Iterator[str]:
        blocks = self._join()
        if self.config.separator is not None:
            separator = TOKENIZERS[self.config.unit].spelled(self.config.separator)
            blocks = mark_documents(blocks, separator)
        yield from blocks
        if self._num_marks:
            self.notes.append(f"dropped {count_of(self._num_marks, 'byte-order mark')} (U+FEFF) inside the text")
        if self._num_transliterated:
            lost = f", of which {self._num_dropped:,} have no ASCII form and were dropped" if self._num_dropped else ""
            self.notes.append(f"transliterated {count_of(self._num_transliterated, 'character')} to ASCII{lost}")

    def _join(self) -> Iterator[str]:
        """All sources, with an EOS_MARK between two if there are documents, else each on its own lines."""
        config = self.config
        joint = EOS_MARK if config.separator_text is not None else "" if config.keeps_bytes else "\n"
        if config.documents:
            yield EOS_MARK
        last = joint
        for source in self.sources:
            if last != joint:
                yield joint
                last = joint
            for block in self._clean(source):
                last = block[-1]
                yield block
        if config.documents and last != EOS_MARK:
            yield EOS_MARK

    def _clean(self, source: Source) -> Iterator[str]:
        def report_cut(message: str, *, warning: bool = False) -> None:
            (self.warnings if warning else self.notes).append(f"cut {message} from {source.name}")

        config, form = self.config, self.config.normalize
        raw = self.digest.read(source, self.advance)
        if config.keeps_bytes:
            yield from (block.decode("ascii", "surrogateescape") for block in raw)
            return
        blocks = self._without_marks(source, _decode(source, config, raw, force=self.force))
        if not config.keep_boilerplate:
            blocks = cut_boilerplate(blocks, report_cut)
        if form != "none" or config.lowercase:
            blocks = cut_at_spaces(blocks)
        for block in blocks:
            if config.separator_text is not None and EOS_MARK in block:
                raise half_of_a_character(source.name, EOS_MARK, config)
            text = normal_form(block, form)
            if config.ascii:
                text, num_changed, num_dropped = transliterate(text)
                self._num_transliterated += num_changed
                self._num_dropped += num_dropped
            if config.lowercase:
                text = normal_form(text.lower(), form)
            if text:
                yield text

    def _without_marks(self, source: Source, blocks: Iterator[str]) -> Iterator[str]:
        """The decoded blocks without byte-order marks, which are counted; notes advice for what is not plain text."""
        for i, block in enumerate(blocks):
            if i == 0 and self.config.separator is None and (advice := advice_on_records(source.name, block)):
                self.notes.append(advice)
            self._num_marks += block.count(_BYTE_ORDER_MARK)
            yield block.replace(_BYTE_ORDER_MARK, "")


def normalise(text: str, config: PreparationConfig) -> str:
    """A prompt or a scored text as the corpus was prepared: line ends, normal form, transliterated, in lower case."""
    if not config.keeps_bytes:
        text = text.replace("\r\n", "\n").replace(_BYTE_ORDER_MARK, "")
    text = normal_form(text, config.normalize)
    if config.ascii:
        text = transliterate(text)[0]
    return normal_form(text.lower(), config.normalize) if config.lowercase else text


def normal_form(text: str, form: str) -> str:
    """A text in Unicode normal form NFC or NFKC.

    Python copies a text only if it changes, and orders marks in quadratic time, so the text is normalised in parts.
    A part starts with white space, which combines with nothing before it.
    """
    if form == "none" or text.isascii():
        return text
    return "".join(unicodedata.normalize(form.upper(), part) for part in _PARTS.findall(text))  # type: ignore[arg-type]


def cut_at_spaces(blocks: Iterable[str]) -> Iterator[str]:
    """The same text in blocks that start with white space, where neither normal form nor lower case depends on the
    text before. After 2**20 characters without white space a block starts anywhere.
    """
    held = ""
    for block in blocks:
        cut = max(map(block.rfind, " \n\u3000"))
        if cut >= 0 or len(held) + len(block) > _MAX_HELD:
            yield held + block[: max(cut, 0)]
            held = block[max(cut, 0) :]
        else:
            held += block
    yield held


def _require_encoding(encoding: str) -> None:
    """Raises: CharRNNError for an encoding that Python lacks, or that it cannot decode block by block."""
    try:
        "".encode(encoding)
        if codecs.lookup(encoding).name == "punycode":
            raise LookupError
    except (LookupError, ValueError):
        raise CharRNNError(f"encoding {encoding!r} is unknown: give one of Python's, say cp1252") from None


def _require_separator(config: PreparationConfig) -> None:
    """Raises: OptionError for a separator that no text contains once it is cleaned."""
    if config.separator is None or config.keeps_bytes:
        return
    found = normalise(config.separator.replace("\r\n", "\n").replace("\r", "\n"), config)
    if found != config.separator:
        remedy = f"give it as {found!a}" if found else "nothing is left of it, so choose another"
        raise OptionError(f"{opt.separator} is {config.separator!a}, but the text is cleaned first: {remedy}")


def _decode(source: Source, config: PreparationConfig, blocks: Iterator[bytes], *, force: bool) -> Iterator[str]:
    """Decode a source block by block, honouring a byte-order mark and unifying line ends.

    Raises: CharRNNError for a file that is not text, unless `force` is given, and for bytes that cannot be decoded.
    """
    head = b""
    while len(head) < HEAD_BYTES and (block := next(blocks, b"")):
        head += block
    if not head:
        return
    if not force and (found := foreign_format(head)):
        raise CharRNNError(f"{source.name} is {found}; {opt.force(True)} reads it all the same")
    mark = encoding_of_mark(head)
    encoding = mark or config.encoding
    decoder = codecs.getincrementaldecoder(encoding)()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    is_wide = codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    may_hold_nul = force or "\0" in (config.separator or "")
    offset = 0
    for block in itertools.chain([head], blocks, [b""]):
        if not (may_hold_nul or is_wide) and b"\0" in block:
            raise _not_text(source, offset + block.index(b"\0"), block)
        pending = decoder.getstate()[0]
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            undecoded = block and pending + block
            raise _undecodable(source, encoding, mark, offset - len(pending) + start, undecoded) from None
        if is_wide and not may_hold_nul and "\0" in text:
            raise CharRNNError(
                f"{source.name} holds NUL characters as {encoding}: is it a text? {opt.force(True)} keeps them"
            )
        offset += len(block)
        yield newlines.decode(text, final=not block)


def half_of_a_character(name: str, half: str, config: PreparationConfig) -> CharRNNError:
    """The error for a text with a surrogate."""
    return CharRNNError(
        f"{name} holds U+{ord(half):04X}, half of a character and none of itself, "
        f"as {config.encoding}: try another {opt.encoding}"
    )


def _not_text(source: Source, offset: int, block: bytes) -> CharRNNError:
    encoding, records = wide_encoding_for(block), opt.separator(r"'\0'")
    remedy = f"{opt.encoding(encoding)} reads it" if encoding else f"is it a text? {records} reads such records"
    return CharRNNError(f"{source.name} holds NUL bytes, at byte {offset}: {remedy}; {opt.force(True)} keeps them")


def _undecodable(source: Source, encoding: str, mark: str | None, offset: int, block: bytes) -> CharRNNError:
    if mark is not None:
        name = mark.removesuffix("-sig")
        return CharRNNError(
            f"{source.name} begins with the byte-order mark of {name}, but is not {name} at byte {offset}: "
            f"`iconv -c -f {name} -t utf-8 FILE > NEW` drops what is not"
        )
    num_invalid, first, num_valid = count_utf8(source.blocks())
    if 0 < 10 * num_invalid <= num_valid:  # text in another encoding holds hardly any valid characters
        return CharRNNError(
            f"{source.name} is UTF-8 except for {count_of(num_invalid, 'byte')}, the first at byte {first}: "
            "`iconv -c -f utf-8 -t utf-8 FILE > NEW` drops what is not UTF-8"
        )
    where = f"{source.name} is not {encoding} at byte {offset}"
    if not block:
        return CharRNNError(f"{where}: it ends in the middle of a character")
    able = [name for name in encodings_for(block) if name != encoding] if num_invalid else ["utf-8"]
    return CharRNNError(f"{where}: try {opt.encoding} " + " or ".join(able))
