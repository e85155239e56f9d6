"""Raw bytes to clean text, block by block: decoding, line ends, transliteration, case.

Project Gutenberg's boilerplate is left to `gutenberg.py`, symbols to `vocabulary.py`.
"""

import codecs
import io
from collections.abc import Callable, Iterator, Sequence

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text.gutenberg import cut_boilerplate
from charrnn.text.sources import Source, SourceDigest

_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its prefix
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_OTHER_ENCODINGS = ("utf-8", "cp1252", "gb18030", "shift_jis", "euc_kr", "latin-1")


class CleanText:
    """The sources as clean text: iterate over the blocks once, then read `digest` and `notes`.

    Attributes:
        digest: of the raw bytes read so far, as `sources.digest` computes it.
        notes: one line per kind of change, such as a cut or a transliteration.
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
            blocks = cut_boilerplate(blocks, lambda cut: self.notes.append(f"cut {cut} from {source.name}"))
        for block in blocks:
            if self._config.ascii and not block.isascii():
                self._transliterated += len(block) - len(block.encode("ascii", "ignore"))
            if clean := normalise(block, ascii=self._config.ascii, lowercase=self._config.lowercase):
                yield clean


def normalise(text: str, *, ascii: bool, lowercase: bool) -> str:  # noqa: A002 (the option's name)
    """Transliterate and fold case, in prompts and scored texts as in the corpus."""
    if ascii:
        text = transliterate(text)
    return text.lower() if lowercase else text


def transliterate(text: str) -> str:
    """Transliterate to ASCII by Unidecode, looked up once per distinct character.

    >>> transliterate("Blåbærgrød")
    'Blabaergrod'
    """
    if text.isascii():
        return text
    from unidecode import unidecode

    return text.translate({ord(char): unidecode(char) for char in set(text) if not char.isascii()})


def _decode(source: Source, encoding: str, observe: Callable[[bytes], object]) -> Iterator[str]:
    """Decode a source block by block, honouring a byte-order mark and unifying line ends.

    Raises: CharRNNError with the byte offset and the encodings that can decode the source.
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
        return CharRNNError(f"{where} and holds zero bytes: is it a text? (--encoding utf-16 may decode it)")
    able = [name for name in _OTHER_ENCODINGS if name != encoding and _can_decode(block, name)]
    return CharRNNError(f"{where}: try --encoding " + " or ".join(able))


def _can_decode(block: bytes, encoding: str) -> bool:
    try:
        codecs.getincrementaldecoder(encoding)().decode(block)
    except UnicodeError:
        return False
    return True
