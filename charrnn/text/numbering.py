"""A text whose vocabulary is not known yet: each symbol gets a number, and the text is a file of numbers.

So a text of any size is read, cleaned and split only once, in memory that does not grow with it, and encoded from its
numbers. Letters in shapes: N symbols.
"""

import contextlib
import itertools
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from charrnn.config import Unit
from charrnn.terminal import Advance, advance_nothing
from charrnn.text.units import BORDER, split_word_blocks
from charrnn.text.vocabulary import Vocabulary, code_points

_Array = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 2**15
"""Numbers whose arrays stay in a core's cache."""
_BLOCK = 2**19
"""Numbers that are encoded to a block."""
_DTYPES = (torch.uint8, torch.int16, torch.int32)
"""Of numbers; the highest of each stands for none."""
_MAX_KNOWN = 2**19
"""Words that have a number at a time: more than a file's header can list."""
_MAX_NUMBERS = 2**23
"""Numbers for words, those that were forgotten among them; when all are given, a word that is new is a rare one."""
_FORGOTTEN = 0
"""The number of words that have none."""


class NumberedText:
    """A text as the numbers of its symbols, in an open file.

    Attributes:
        totals: the occurrences of each symbol; `num_forgotten` are those of further words, which were too rare to be
            remembered, and `forgotten_chars` the characters that they stand for.
    """

    def __init__(self, symbols: Iterable[Sequence[str]], numbers: "_Numbers", stream: BinaryIO) -> None:
        self._stream = stream
        self._runs: list[tuple[np.dtype[Any], int]] = []
        for block in symbols:
            for part in numbers.number(block):
                self._append(part)
        self._known, self._size = numbers.known(), numbers.size
        counts = numbers.counts[list(self._known.values())].tolist()
        self.totals = Counter({symbol: n for symbol, n in zip(self._known, counts, strict=True) if n})
        self.num_forgotten = int(numbers.counts.sum()) - self.totals.total()
        self.forgotten_chars = numbers.forgotten_chars

    def _append(self, numbers: _Array) -> None:
        self._stream.write(numbers.data)
        dtype, length = self._runs.pop() if self._runs and self._runs[-1][0] == numbers.dtype else (numbers.dtype, 0)
        self._runs.append((dtype, length + len(numbers)))

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return sum(length * dtype.itemsize for dtype, length in self._runs)

    def encode(self, vocabulary: Vocabulary, advance: Advance = advance_nothing) -> Iterator[Tensor]:
        """The indices of the text in a vocabulary of its symbols, in blocks (N,) in the vocabulary's dtype.

        To be read once, since the file is empty at the end: what is left in it would be written to the disk with the
        corpus. `advance` is told of the bytes read. Raises: OSError.
        """
        symbols = list(self._known) if vocabulary.unit == "word" else "".join(self._known)
        table = torch.full((self._size,), vocabulary.outside, dtype=torch.int32)
        table[list(self._known.values())] = vocabulary.encode_symbols(symbols)
        by_number = table.to(vocabulary.dtype).numpy()
        self._stream.seek(0)
        for dtype, length in self._runs:
            for begin in range(0, length, _BLOCK):
                data = bytearray(min(_BLOCK, length - begin) * dtype.itemsize)
                self._stream.readinto(data)  # type: ignore[attr-defined]
                advance(len(data))
                yield torch.from_numpy(_look_up(by_number, data, dtype))
        self._stream.truncate(0)


def _look_up(table: _Array, data: bytearray, dtype: "np.dtype[Any]") -> _Array:
    """The table's entries (N,) for numbers (N,), which lie in bytes."""
    if table.dtype == dtype == np.uint8:  # twice as fast as the general way
        return np.frombuffer(data.translate(table[: 2**8].tobytes().ljust(2**8)), np.uint8)
    numbers = np.frombuffer(data, dtype)
    entries = np.empty(len(numbers), table.dtype)
    for begin in range(0, len(numbers), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        np.take(table, numbers[part], out=entries[part], mode="clip")
    return entries


@contextlib.contextmanager
def numbered(blocks: Iterable[str], unit: Unit, folder: Path) -> Iterator[NumberedText]:
    """Number the symbols of a text that comes in blocks, in a nameless file in `folder`. Raises: OSError."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        if unit == "word":
            yield NumberedText(split_word_blocks(blocks), _WordNumbers(), stream)
        else:
            yield NumberedText(blocks, _CharNumbers(unit), stream)


class _Numbers(ABC):
    """Numbers for symbols, given when they first occur, and how often each occurred.

    Attributes:
        counts: by number, beyond `size` all 0.
    """

    def __init__(self, max_size: int) -> None:
        self.counts = np.zeros(max_size, np.int64)

    @property
    def forgotten_chars(self) -> int:
        """The characters of symbols that were too rare to be remembered."""
        return 0

    @property
    @abstractmethod
    def size(self) -> int:
        """How many numbers were given."""

    @abstractmethod
    def known(self) -> Mapping[str, int]:
        """The number of each symbol."""

    @abstractmethod
    def number(self, symbols: Sequence[str]) -> Iterator[_Array]:
        """The numbers (N,) of a block of symbols, in parts, each in the smallest dtype."""


class _CharNumbers(_Numbers):
    """Numbers for characters, of which those of ASCII, or all 256 bytes, keep their own."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(sys.maxunicode + 1)
        self._encoding, num_own = ("latin-1", 2**8) if unit == "byte" else ("ascii", 2**7)
        self._chars = "".join(map(chr, range(num_own)))
        self._table = self._tabulate()

    @property
    def size(self) -> int:
        return len(self._chars)

    def known(self) -> Mapping[str, int]:
        return {char: number for number, char in enumerate(self._chars)}

    def number(self, symbols: Sequence[str]) -> Iterator[_Array]:
        for begin in range(0, len(symbols), _AT_ONCE):
            numbers = self._number(str(symbols[begin : begin + _AT_ONCE]))
            counts = torch.bincount(numbers).numpy()
            self.counts[: len(counts)] += counts
            yield numbers.numpy()

    def _number(self, text: str) -> Tensor:
        with contextlib.suppress(UnicodeEncodeError):
            return torch.frombuffer(bytearray(text.encode(self._encoding)), dtype=torch.uint8)
        points = code_points(text)
        numbers = torch.index_select(self._table, 0, points)
        if numbers.numpy().max() == self._none:
            self._add(points[numbers == self._none].unique())
            numbers = torch.index_select(self._table, 0, points)
        return numbers

    @property
    def _none(self) -> int:
        return torch.iinfo(self._table.dtype).max

    def _add(self, points: Tensor) -> None:
        first = self.size
        self._chars += "".join(map(chr, points.tolist()))
        if self.size > self._none:
            self._table = self._tabulate()
        else:
            self._table[points] = torch.arange(first, self.size, dtype=self._table.dtype)

    def _tabulate(self) -> Tensor:
        """The numbers of all code points, in the smallest dtype."""
        dtype = next(dtype for dtype in _DTYPES if self.size <= torch.iinfo(dtype).max)
        table = torch.full((sys.maxunicode + 1,), torch.iinfo(dtype).max, dtype=dtype)
        table[code_points(self._chars).long()] = torch.arange(self.size, dtype=dtype)
        return table


class _WordNumbers(_Numbers):
    """Numbers for words; where there are more than memory should hold, the rarest are forgotten."""

    def __init__(self) -> None:
        super().__init__(_MAX_NUMBERS)
        self._known = _Known()

    @property
    def size(self) -> int:
        return self._known.size

    @property
    def forgotten_chars(self) -> int:
        return self._known.forgotten_chars

    def known(self) -> Mapping[str, int]:
        return self._known

    def number(self, symbols: Sequence[str]) -> Iterator[_Array]:
        numbers = np.fromiter(map(self._known.__getitem__, symbols), np.int32, len(symbols))
        found, counts = np.unique(numbers, return_counts=True)
        self.counts[found] += counts
        self._forget()
        yield numbers

    def _forget(self) -> None:
        least = 1
        while len(self._known) > _MAX_KNOWN:
            counts = self.counts[np.fromiter(self._known.values(), np.int64, len(self._known))]
            is_rare = counts <= least
            is_rare[0] = False  # the border
            for word in list(itertools.compress(self._known, is_rare)):
                self._known.forgotten_chars += len(word) * int(self.counts[self._known.pop(word)])
            least *= 2


class _Known(dict[str, int]):
    """The numbers of words, which a word gets when it is first looked up, and the characters of those without one."""

    def __init__(self) -> None:
        super().__init__({BORDER: 1})
        self.size = 2
        self.forgotten_chars = 0

    def __missing__(self, word: str) -> int:
        if self.size == _MAX_NUMBERS:
            self.forgotten_chars += len(word)
            return _FORGOTTEN
        self[word] = number = self.size
        self.size += 1
        return number
