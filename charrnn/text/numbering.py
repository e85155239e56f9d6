"""A text whose vocabulary is not known yet: each symbol gets a number, and the text is a file of numbers.

So a text of any size is read, cleaned and split only once, in memory that does not grow with it, and encoded from its
numbers. Letters in shapes: N symbols.
"""

import contextlib
import errno
import itertools
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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


class _Run(NamedTuple):
    """Successive numbers in a file, of one dtype and one epoch of `_Numbers`."""

    dtype: "np.dtype[Any]"
    epoch: int
    length: int


class NumberedText:
    """A text as the numbers of its symbols, in an open file.

    Attributes:
        totals: the occurrences of each symbol; `num_forgotten` are those of words that were too rare to be
            remembered (some may have come back, and be in `totals` from then on), and `forgotten_chars` the characters
            that they stand for. All of them become the unknown symbol.
    """

    def __init__(self, symbols: Iterable[Sequence[str]], numbers: "_Numbers", stream: BinaryIO) -> None:
        self._numbers = numbers
        self._stream = stream
        self._runs: list[_Run] = []
        for block in symbols:
            for part in numbers.number(block):
                self._append(part)
        self._known = numbers.known()
        counts = numbers.counts[list(self._known.values())].tolist()
        self.totals = Counter({symbol: n for symbol, n in zip(self._known, counts, strict=True) if n})
        self.num_forgotten, self.forgotten_chars = numbers.num_forgotten, numbers.forgotten_chars

    def _append(self, numbers: _Array) -> None:
        self._stream.write(numbers.data)
        run = _Run(numbers.dtype, self._numbers.epoch, len(numbers))
        if self._runs and self._runs[-1][:2] == run[:2]:
            run = run._replace(length=run.length + self._runs.pop().length)
        self._runs.append(run)

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return sum(run.length * run.dtype.itemsize for run in self._runs)

    def encode(self, vocabulary: Vocabulary, advance: Advance = advance_nothing) -> Iterator[Tensor]:
        """The indices of the text in a vocabulary of its symbols, in blocks (N,) in the vocabulary's dtype.

        To be read once, since the file is empty at the end: what is left in it would be written to the disk with the
        corpus. `advance` is told of the bytes read. Raises: OSError.
        """
        indices = self._indices(vocabulary)
        self._stream.seek(0)
        for epoch, runs in itertools.groupby(self._runs, lambda run: run.epoch):
            table = indices.copy()
            if vocabulary.unknown is not None:  # of words that were forgotten since
                table[self._numbers.since[: len(table)] > epoch] = vocabulary.unknown
            for dtype, _, length in runs:
                for begin in range(0, length, _BLOCK):
                    data = bytearray(min(_BLOCK, length - begin) * dtype.itemsize)
                    if self._stream.readinto(data) < len(data):  # type: ignore[attr-defined]
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    advance(len(data))
                    yield torch.from_numpy(_look_up(table, data, dtype))
        self._stream.truncate(0)

    def _indices(self, vocabulary: Vocabulary) -> _Array:
        """The index in a vocabulary, in its dtype, of the symbol that has a number at the end, by number."""
        symbols = list(self._known) if vocabulary.unit == "word" else "".join(self._known)
        indices = torch.full((self._numbers.size,), vocabulary.outside, dtype=torch.int32)
        indices[list(self._known.values())] = vocabulary.encode_symbols(symbols)
        return indices.to(vocabulary.dtype).numpy()


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
        counts: the occurrences by number.
        epoch: grows when symbols are forgotten, whose numbers others may get from then on.
        since: the first epoch by number in which it may belong to the symbol that has it last.
        num_forgotten, forgotten_chars: see `NumberedText`.
    """

    def __init__(self, max_size: int) -> None:
        self.counts = np.zeros(max_size, np.int64)
        self.since = np.zeros(max_size, np.int32)
        self.epoch = self.num_forgotten = self.forgotten_chars = 0

    @property
    @abstractmethod
    def size(self) -> int:
        """One more than the highest number that was given."""

    @abstractmethod
    def known(self) -> Mapping[str, int]:
        """The number of each symbol."""

    @abstractmethod
    def number(self, symbols: Sequence[str]) -> Iterator[_Array]:
        """The numbers (N,) of a block of symbols, in parts, each in the present epoch."""


class _CharNumbers(_Numbers):
    """Numbers for characters, of which those of ASCII, or all 256 bytes, keep their own."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(sys.maxunicode + 1)
        self._encoding, num_own = ("latin-1", 2**8) if unit == "byte" else ("ascii", 2**7)
        self._chars = "".join(map(chr, range(num_own)))
        self._table = self._tabulate()
        self._dtype = torch.uint8  # grows, so that there are few runs

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
            own = bytearray(text.encode(self._encoding))
            return torch.frombuffer(own, dtype=torch.uint8).to(self._dtype)
        points = code_points(text)
        numbers = torch.index_select(self._table, 0, points)
        if numbers.numpy().max() == self._none:
            self._add(points[numbers == self._none].unique())
            numbers = torch.index_select(self._table, 0, points)
        self._dtype = numbers.dtype
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
        super().__init__(2 * _MAX_KNOWN)
        self._known = _Known()

    @property
    def size(self) -> int:
        return self._known.size

    def known(self) -> Mapping[str, int]:
        return self._known

    def number(self, symbols: Sequence[str]) -> Iterator[_Array]:
        for begin in range(0, len(symbols), _MAX_KNOWN):
            part = symbols[begin : begin + _MAX_KNOWN]
            numbers = np.fromiter(map(self._known.__getitem__, part), np.int32, len(part))
            found, counts = np.unique(numbers, return_counts=True)
            self.counts[found] += counts
            yield numbers
            if len(self._known) > _MAX_KNOWN:
                self._forget()

    def _forget(self) -> None:
        """Forget the rarer half of the words, at least, but for the border, which is the first."""
        numbers = np.fromiter(self._known.values(), np.int64, len(self._known))
        counts = self.counts[numbers]
        least = 1
        while np.count_nonzero(counts > least) > _MAX_KNOWN // 2:
            least *= 2
        is_rare = counts <= least
        is_rare[0] = False
        for word, n in zip(list(itertools.compress(self._known, is_rare)), counts[is_rare].tolist(), strict=True):
            self._known.forget(word)
            self.num_forgotten += n
            self.forgotten_chars += n * len(word)
        self.epoch += 1
        self.counts[numbers[is_rare]] = 0
        self.since[numbers[is_rare]] = self.epoch


class _Known(dict[str, int]):
    """The numbers of words, which a word gets when it is first looked up."""

    def __init__(self) -> None:
        super().__init__({BORDER: 0})
        self._free: list[int] = []

    @property
    def size(self) -> int:
        """One more than the highest number that was given."""
        return len(self) + len(self._free)

    def __missing__(self, word: str) -> int:
        self[word] = number = self._free.pop() if self._free else len(self)
        return number

    def forget(self, word: str) -> None:
        """Leave the number of a word to another."""
        self._free.append(self.pop(word))
