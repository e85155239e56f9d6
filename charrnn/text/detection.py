"""Detect byte-order marks, foreign formats and encodings from bytes.

A mark and a format are decided by the first `HEAD_BYTES`; only what is not UTF-8 is counted in the whole text.
"""

import codecs
import re
from collections.abc import Iterable
from pathlib import PurePath

from charrnn.errors import opt

HEAD_BYTES = 1024
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its prefix
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_MARKUP = "an HTML page: save it as text in a browser, or convert it, say by pandoc -t plain"
_FORMATS = {
    "%pdf": "a PDF: extract its text first, say by pdftotext",
    "pk\x03\x04": "a zip archive, as docx, odt and epub are: save it as plain text, say by pandoc -t plain",
    "{\\rtf": "an RTF document: save it as plain text in a word processor, or convert it, say by pandoc -t plain",
    "<html": _MARKUP,
    "<!doctype": _MARKUP,
}
_ENCODINGS = ("utf-8", "cp1252", "gb18030", "shift_jis", "euc_kr", "latin-1")
_WIDE_ENCODINGS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_MIN_NULS = 8  # of UTF-16: fewer may be at bytes of the same parity by chance
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_FROM_JSON = r"""jq -j '.text + "\u0000"' FILE"""
_FROM_CSV = (
    r"""python3 -c "import csv, sys; [print(r['COLUMN'], end='\0') for r in csv.DictReader(sys.stdin)]" < FILE"""
)
_FROM_TSV = _FROM_CSV.replace("stdin)", r"stdin, delimiter='\t')")
_TO_TEXTS = {".jsonl": _FROM_JSON, ".ndjson": _FROM_JSON, ".csv": _FROM_CSV, ".tsv": _FROM_TSV}


def encoding_of_mark(head: bytes) -> str | None:
    """The encoding that drops a text's byte-order mark; None without one."""
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def foreign_format(head: bytes) -> str | None:
    """A format that is not plain text, and how to convert it; None for other first bytes.

    >>> foreign_format(b"%PDF-1.7")
    'a PDF: extract its text first, say by pdftotext'
    """
    begin = head[:HEAD_BYTES].decode(encoding_of_mark(head) or "latin-1", "replace").lstrip().lower()
    return next((described for sign, described in _FORMATS.items() if begin.startswith(sign)), None)


def encodings_for(block: bytes) -> list[str]:
    """The encodings that can decode a block."""
    return [encoding for encoding in _ENCODINGS if _decode(block, encoding) is not None]


def wide_encoding_for(block: bytes) -> str | None:
    """The UTF-16 or UTF-32 without a mark that explains a block's NUL bytes, if any.

    In the wrong one of them a text is rich in ideographs, poor in ASCII, or cannot be decoded. UTF-16 has NUL bytes at
    bytes of the same parity only. Few NUL bytes in printable text separate records.
    """
    records = _decode(block.replace(b"\0", b"\n"), "utf-8") or "\0"
    if 5 * block.count(0) < 2 * len(block) and re.sub(r"[\t\n\r\f]", "", records).isprintable():
        return None
    texts = {encoding: _decode(block, encoding) or "" for encoding in _WIDE_ENCODINGS}
    num_ascii = {encoding: len(text.encode("ascii", "ignore")) for encoding, text in texts.items() if "\0" not in text}
    best = max(num_ascii, key=lambda encoding: num_ascii[encoding], default="")
    few, many = sorted((block[::2].count(0), block[1::2].count(0)))
    if best.startswith("utf-16") and (many < _MIN_NULS or few * 20 > many):
        return None
    return best if num_ascii.get(best, 0) * 20 > len(texts.get(best, "")) else None


def count_utf8(blocks: Iterable[bytes]) -> tuple[int, int, int]:
    r"""The number of bytes that are not UTF-8, the offset of the first, and the number of characters beyond ASCII.

    >>> count_utf8([b"caf\xc3", b"\xa9 \xe9t\xe9"])
    (1, 6, 1)
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    num_invalid = first = num_valid = position = 0
    for block in blocks:
        text = decoder.decode(block)
        valid, num = _ESCAPED_BYTE.subn("", text)
        if num and not num_invalid:
            first = position + len(_ESCAPED_BYTE.split(text, 1)[0].encode())
        num_invalid += num
        num_valid += len(valid) - len(valid.encode("ascii", "ignore"))
        position += len(valid.encode()) + num
    return num_invalid, first, num_valid


def advice_on_records(name: str, begin: str) -> str | None:
    """Advice on how to train on texts in JSON Lines or CSV, by file name or first line; None for other text."""
    line, _, more = begin.lstrip().partition("\n")
    is_json = line.startswith('{"') and (line.endswith("}") or not more)
    command = _TO_TEXTS.get(".jsonl" if is_json else PurePath(name).suffix.lower())
    how = f"to train on their texts alone: {command} | charrnn train - " + opt.separator(r"'\0'")
    return f"{name} seems to hold records; {how}" if command else None


def _decode(block: bytes, encoding: str) -> str | None:
    """The whole characters of a block; None if it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(block)
    except UnicodeError:
        return None
