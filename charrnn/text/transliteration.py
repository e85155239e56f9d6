"""Transliterate texts to ASCII by Unidecode, without a Python loop over characters."""

import functools
import sys
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 2**15  # characters whose arrays stay in a core's cache
_WIDTH = 8  # bytes of a table's entry, which suffice for nearly all characters
_PADDING = 0xFF  # fills up a transliteration that is shorter than an entry
_LONGER = 1  # the entry of a longer one; it ends in NUL bytes, which padding never does


def transliterate(text: str) -> tuple[str, int, int]:
    """Transliterate to ASCII by Unidecode, looked up once per distinct character.

    Returns: the text, the number of characters beyond ASCII, and of those that are dropped.

    >>> transliterate("Blåbærgrød")
    ('Blabaergrod', 3, 0)
    """
    if text.isascii():
        return text, 0, 0
    parts, num_changed, num_dropped = [], 0, 0
    for begin in range(0, len(text), _AT_ONCE):
        points = np.frombuffer(text[begin : begin + _AT_ONCE].encode("utf-32-le", "surrogatepass"), "<i4")
        entries = _look_up(points)
        last = 0
        for place in np.flatnonzero(entries == _LONGER).tolist():
            parts += [_unpad(entries[last:place]), _ascii(chr(points[place]))]
            last = place + 1
        parts.append(_unpad(entries[last:]))
        num_changed += int(np.count_nonzero(points >= 2**7))
        num_dropped += int(np.count_nonzero(entries == np.iinfo(entries.dtype).max))
    return "".join(parts), num_changed, num_dropped


def _look_up(points: _Array) -> _Array:
    """The table's entries (N,) for code points (N,), each made when it is first looked up."""
    entries = _table().take(points, mode="clip")
    if entries.all():
        return entries
    for point in np.unique(points[entries == 0]).tolist():
        text = _ascii(chr(point)).encode("ascii").ljust(_WIDTH, bytes([_PADDING]))
        _table()[point] = int.from_bytes(text, "little") if len(text) == _WIDTH else _LONGER
    return _table().take(points, mode="clip")


def _unpad(entries: _Array) -> str:
    characters = entries.view(np.uint8)
    return str(characters.compress(characters != _PADDING).data, "ascii")


@functools.cache
def _table() -> _Array:
    return np.zeros(sys.maxunicode + 1, f"<u{_WIDTH}")


def _ascii(char: str) -> str:
    from unidecode import unidecode

    return unidecode(char)
