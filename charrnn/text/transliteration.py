"""Transliterate texts to ASCII by Unidecode, without a Python loop over characters."""

import functools
import sys
from typing import Any

import numpy as np

_AT_ONCE = 2**15
"""Characters whose arrays stay in a core's cache."""
_WIDTHS = (4, 8)
"""The bytes of a transliteration that are enough for most scripts, and for nearly all."""
_NO_CHAR = 0xFF
"""Fills up a shorter one."""
_LONGER = 1
"""In place of one that is longer: no text, as it has no filling."""


def transliterate(text: str) -> str:
    """Transliterate to ASCII by Unidecode, looked up once per distinct character.

    >>> transliterate("Blåbærgrød")
    'Blabaergrod'
    """
    return transliterate_and_count(text)[0]


def transliterate_and_count(text: str) -> tuple[str, int]:
    """The transliterated text, and the number of characters that were none of ASCII's.

    Each character is looked up in a table of texts of one length, whose filling is then left out.
    """
    if text.isascii():
        return text, 0
    parts, num_changed = [], 0
    for begin in range(0, len(text), _AT_ONCE):
        part = text[begin : begin + _AT_ONCE]
        points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), "<i4")
        num_changed += int(np.count_nonzero(points >= 2**7))
        found = (_table(width).look_up(points) for width in _WIDTHS)
        parts.append(next((text for text in found if text is not None), None) or "".join(map(_ascii, part)))
    return "".join(parts), num_changed


class _Table:
    """The transliterations of all code points that have at most `width` bytes, each looked up when it is first met."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._texts = np.zeros(sys.maxunicode + 1, f"<u{width}")

    def look_up(self, points: "np.ndarray[Any, np.dtype[np.int32]]") -> str | None:
        """The text of code points (N,), None if that of one of them is longer."""
        texts = self._texts.take(points, mode="clip")
        if not texts.all():
            for point in np.unique(points[texts == 0]).tolist():
                self._texts[point] = self._number(_ascii(chr(point)).encode("ascii"))
            texts = self._texts.take(points, mode="clip")
        if (texts == _LONGER).any():
            return None
        filled = texts.view(np.uint8)
        return str(filled.compress(filled != _NO_CHAR).data, "ascii")

    def _number(self, text: bytes) -> int:
        filled = text.ljust(self._width, bytes([_NO_CHAR]))
        return int.from_bytes(filled, "little") if len(filled) == self._width else _LONGER


_table = functools.cache(_Table)


@functools.lru_cache(2**16)
def _ascii(char: str) -> str:
    from unidecode import unidecode

    return unidecode(char)
