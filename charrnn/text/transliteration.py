"""Transliterate texts to ASCII by Unidecode, without a Python loop over characters."""

import functools
import sys
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 2**15
"""Characters whose arrays stay in a core's cache."""
_WIDTHS = (4, 8)
"""Bytes of a table's entries: 4 suffice for most scripts, 8 for nearly all characters."""
_PADDING = 0xFF
"""Fills up a transliteration that is shorter than its table's entries."""
_LONGER = 1
"""Stands for one that is longer; it ends in NUL bytes, which padding never does."""


def transliterate(text: str) -> str:
    """Transliterate to ASCII by Unidecode, looked up once per distinct character.

    >>> transliterate("Blåbærgrød")
    'Blabaergrod'
    """
    return transliterate_and_count(text)[0]


def transliterate_and_count(text: str) -> tuple[str, int, int]:
    """The transliterated text, the number of characters beyond ASCII, and of those that are dropped."""
    if text.isascii():
        return text, 0, 0
    parts, num_changed, num_dropped = [], 0, 0
    for begin in range(0, len(text), _AT_ONCE):
        part = text[begin : begin + _AT_ONCE]
        points = np.frombuffer(part.encode("utf-32-le", "surrogatepass"), "<i4")
        transliterated, num_empty = _transliterate(points)
        parts.append(transliterated)
        num_changed += int(np.count_nonzero(points >= 2**7))
        num_dropped += num_empty
    return "".join(parts), num_changed, num_dropped


def _transliterate(points: _Array) -> tuple[str, int]:
    """The transliteration of code points (N,) and how many have none, by the narrowest table that has nearly all."""
    for width in _WIDTHS:
        entries = _table(width).look_up(points)
        longer = np.flatnonzero(entries == _LONGER).tolist()
        if not longer:
            break
    num_empty = int(np.count_nonzero(entries == np.iinfo(entries.dtype).max))
    parts, begin = [], 0
    for place in longer:
        parts += [_unpad(entries[begin:place]), _ascii(chr(points[place]))]
        begin = place + 1
    return "".join([*parts, _unpad(entries[begin:])]), num_empty


def _unpad(entries: _Array) -> str:
    characters = entries.view(np.uint8)
    return str(characters.compress(characters != _PADDING).data, "ascii")


class _Table:
    """The transliterations of all code points in entries of `width` bytes, each made when it is first looked up."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._entries = np.zeros(sys.maxunicode + 1, f"<u{width}")

    def look_up(self, points: _Array) -> _Array:
        """The entries (N,) of code points (N,)."""
        entries = self._entries.take(points, mode="clip")
        if entries.all():
            return entries
        for point in np.unique(points[entries == 0]).tolist():
            self._entries[point] = self._entry(_ascii(chr(point)).encode("ascii"))
        return self._entries.take(points, mode="clip")

    def _entry(self, text: bytes) -> int:
        padded = text.ljust(self._width, bytes([_PADDING]))
        return int.from_bytes(padded, "little") if len(padded) == self._width else _LONGER


_table = functools.cache(_Table)


@functools.lru_cache(2**16)
def _ascii(char: str) -> str:
    from unidecode import unidecode

    return unidecode(char)
