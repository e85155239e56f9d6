"""A text whose vocabulary is not known yet, as a temporary file of numbers: of code points, or of words.

A text of any size is thus read, cleaned and split only once, in bounded memory.
Letters in shapes: N symbols.
"""

import contextlib
import errno
import functools
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from charrnn.terminal import Advance, advance_nothing
from charrnn.text.tokenizers import Array, Tokenizer, code_points
from charrnn.text.words import EOS_MARK, split_word_blocks

_AT_ONCE = 2**15
"""Numbers whose arrays fit into a core's cache."""
_BLOCK = 2**19
"""Numbers that are encoded to a block."""
MAX_KNOWN = 2**20
"""Max distinct words; further ones map to the unknown symbol."""
_FORGOTTEN = ""
"""Placeholder for further words."""


class NumberedText(ABC):
    """A text as the numbers of its symbols, in an open file.

    `num_forgotten` words, of `forgotten_chars` characters, follow the first `MAX_KNOWN` distinct ones.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._runs: list[tuple[np.dtype[Any], int]] = []  # successive numbers of one dtype
        self.num_forgotten = self.forgotten_chars = 0

    @property
    @abstractmethod
    def totals(self) -> Counter[str]:
        """The occurrences of each symbol but forgotten ones."""

    @abstractmethod
    def _table(self, tokenizer: Tokenizer) -> Array:
        """The ids by number, in the vocabulary's dtype."""

    def _append(self, numbers: Array) -> None:
        self._stream.write(numbers.data)
        length = len(numbers)
        if self._runs and self._runs[-1][0] == numbers.dtype:
            length += self._runs.pop()[1]
        self._runs.append((numbers.dtype, length))

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return sum(length * dtype.itemsize for dtype, length in self._runs)

    def encode(self, tokenizer: Tokenizer, advance: Advance = advance_nothing) -> Iterator[Tensor]:
        """The ids of the text in a vocabulary of its symbols, in blocks (N,) in the vocabulary's dtype.

        Read it once: the file is truncated at the end, so that it is not flushed to disk. `advance` receives the
        bytes read. Raises: OSError.
        """
        table = self._table(tokenizer)
        self._stream.seek(0)
        for dtype, length in self._runs:
            for begin in range(0, length, _BLOCK):
                data = bytearray(min(_BLOCK, length - begin) * dtype.itemsize)
                if self._stream.readinto(data) < len(data):  # type: ignore[attr-defined]
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                advance(len(data))
                yield torch.from_numpy(_look_up(table, data, dtype))
        self._stream.truncate(0)


def _look_up(table: Array, data: bytearray, dtype: "np.dtype[Any]") -> Array:
    """The table's entries (N,) for numbers (N,), given as bytes."""
    if table.dtype == dtype == np.uint8:  # twice as fast as the general way
        return np.frombuffer(data.translate(table[: 2**8].tobytes().ljust(2**8)), np.uint8)
    numbers = np.frombuffer(data, dtype)
    entries = np.empty(len(numbers), table.dtype)
    for begin in range(0, len(numbers), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        np.take(table, numbers[part], out=entries[part], mode="clip")
    return entries


@contextlib.contextmanager
def numbered(blocks: Iterable[str], kind: type[Tokenizer], folder: Path) -> Iterator[NumberedText]:
    """Number the symbols of a text that comes in blocks, in a nameless file in `folder`. Raises: OSError."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        yield _NumberedWords(split_word_blocks(blocks), stream) if kind.has_words else _NumberedChars(blocks, stream)


class _NumberedChars(NumberedText):
    """Characters, whose numbers are their code points."""

    def __init__(self, blocks: Iterable[str], stream: BinaryIO) -> None:
        super().__init__(stream)
        self._counts = np.zeros(sys.maxunicode + 1, np.int64)
        for block in blocks:
            for begin in range(0, len(block), _AT_ONCE):
                points = code_points(block[begin : begin + _AT_ONCE])
                counts = np.bincount(points)
                self._counts[: len(counts)] += counts
                self._append(points)

    @functools.cached_property
    def totals(self) -> Counter[str]:
        points = np.flatnonzero(self._counts)
        return Counter(dict(zip(map(chr, points.tolist()), self._counts[points].tolist(), strict=True)))

    def _table(self, tokenizer: Tokenizer) -> Array:
        symbols = "".join(self.totals)
        table = np.zeros(ord(symbols[-1]) + 1, torch.empty(0, dtype=tokenizer.dtype).numpy().dtype)
        table[code_points(symbols)] = tokenizer.ids_of(symbols).numpy()
        return table


class _NumberedWords(NumberedText):
    """Words, numbered in the order in which they come."""

    def __init__(self, blocks: Iterable[Sequence[str]], stream: BinaryIO) -> None:
        super().__init__(stream)
        self._known = _Known({EOS_MARK: 0, _FORGOTTEN: 1})
        self._counts = np.zeros(MAX_KNOWN, np.int64)
        for block in blocks:
            for begin in range(0, len(block), _AT_ONCE):
                words = block[begin : begin + _AT_ONCE]
                numbers = np.fromiter(map(self._known.__getitem__, words), np.int32, len(words))
                counts = np.bincount(numbers)
                self._counts[: len(counts)] += counts
                self.forgotten_chars += sum(len(words[i]) for i in np.flatnonzero(numbers == 1).tolist())
                self._append(numbers)
        self.num_forgotten = int(self._counts[1])

    @functools.cached_property
    def totals(self) -> Counter[str]:
        counts = self._counts[: len(self._known)].tolist()
        return Counter({word: n for word, n in zip(self._known, counts, strict=True) if n and word != _FORGOTTEN})

    def _table(self, tokenizer: Tokenizer) -> Array:
        return tokenizer.ids_of(list(self._known)).to(tokenizer.dtype).numpy()


class _Known(dict[str, int]):
    """The numbers of words, which a word gets when it is first looked up."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_KNOWN:
            return self[_FORGOTTEN]
        self[word] = number = len(self)
        return number
