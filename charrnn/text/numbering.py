"""A text whose vocabulary is not known yet, as a temporary file of numbers: of code points, or of words.

A text of any size is thus read, cleaned and split only once, in bounded memory.
Letters in shapes: N symbols.
"""

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from charrnn.terminal import Advance, advance_nothing
from charrnn.text.tokenizers import Array, Tokenizer, code_points
from charrnn.text.words import EOS_MARK, split_word_blocks

_BLOCK = 2**16  # numbers that are read or encoded at a time: their arrays fit into a core's cache
MAX_KNOWN = 2**20
"""Max distinct words; further ones map to the unknown symbol."""
_FORGOTTEN = ""  # placeholder for further words


class NumberedText:
    """A text as the numbers of its symbols, in an open file: code points, or words in the order of first occurrence.

    `totals` are the occurrences of each symbol, `num_bytes` is the size of the file. `num_forgotten` words, of
    `forgotten_chars` characters, follow the first `MAX_KNOWN` distinct ones; `totals` lacks them.
    """

    def __init__(self, parts: Sequence[Iterable[str]], kind: type[Tokenizer], stream: BinaryIO) -> None:
        """`parts` are texts in blocks, such as those for training and for validation."""
        self._stream = stream
        self._parts: list[list[tuple[np.dtype[Any], int]]] = []  # for each, successive numbers of one dtype
        self.forgotten_chars = 0
        known = _Known({EOS_MARK: 0, _FORGOTTEN: 1})
        counts = np.zeros(MAX_KNOWN if kind.has_words else sys.maxunicode + 1, np.int64)
        for blocks in parts:
            self._parts.append([])
            for symbols in self._split(blocks, kind):
                if isinstance(symbols, str):
                    numbers = code_points(symbols)
                else:
                    numbers = np.fromiter(map(known.__getitem__, symbols), np.int32, len(symbols))
                    self.forgotten_chars += sum(len(symbols[i]) for i in np.flatnonzero(numbers == 1).tolist())
                found = np.bincount(numbers)
                counts[: len(found)] += found
                self._append(numbers)
        self.num_bytes = stream.tell()
        self._numbers = np.flatnonzero(counts)
        words = list(known)
        self._symbols = [words[i] if kind.has_words else chr(i) for i in self._numbers.tolist()]
        self.totals = Counter(dict(zip(self._symbols, counts[self._numbers].tolist(), strict=True)))
        self.num_forgotten = self.totals.pop(_FORGOTTEN, 0)

    @staticmethod
    def _split(blocks: Iterable[str], kind: type[Tokenizer]) -> Iterator[str | list[str]]:
        for block in split_word_blocks(blocks) if kind.has_words else blocks:
            yield from (block[begin : begin + _BLOCK] for begin in range(0, len(block), _BLOCK))

    def _append(self, numbers: Array) -> None:
        self._stream.write(numbers.data)
        runs, length = self._parts[-1], len(numbers)
        if runs and runs[-1][0] == numbers.dtype:
            length += runs.pop()[1]
        runs.append((numbers.dtype, length))

    @property
    def lengths(self) -> list[int]:
        """The number of symbols of each part."""
        return [sum(length for _, length in runs) for runs in self._parts]

    def encode(self, tokenizer: Tokenizer, advance: Advance = advance_nothing) -> list[Iterator[Tensor]]:
        """The ids of each part in a vocabulary of its symbols, in blocks (N,) in the vocabulary's dtype.

        Read each once, in order: the file is truncated at the end, so that it is not flushed to disk. `advance`
        receives the bytes read. Raises: OSError.
        """
        ids = tokenizer.ids_of(self._symbols).to(tokenizer.dtype).numpy()
        table = np.zeros(self._numbers[-1] + 1, ids.dtype)  # the ids by number
        table[self._numbers] = ids
        self._stream.seek(0)
        return [self._encode(runs, table, advance) for runs in self._parts]

    def _encode(self, runs: list[tuple["np.dtype[Any]", int]], table: Array, advance: Advance) -> Iterator[Tensor]:
        for dtype, length in runs:
            for begin in range(0, length, _BLOCK):
                data = bytearray(min(_BLOCK, length - begin) * dtype.itemsize)
                if self._stream.readinto(data) < len(data):  # type: ignore[attr-defined]
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                advance(len(data))
                yield torch.from_numpy(_look_up(table, data, dtype))
        if runs is self._parts[-1]:
            self._stream.truncate(0)


def _look_up(table: Array, data: bytearray, dtype: "np.dtype[Any]") -> Array:
    """The table's entries (N,) for numbers (N,), given as bytes."""
    if table.dtype == dtype == np.uint8:  # twice as fast as the general way
        return np.frombuffer(data.translate(table[: 2**8].tobytes().ljust(2**8)), np.uint8)
    return table.take(np.frombuffer(data, dtype), mode="clip")


class _Known(dict[str, int]):
    """The numbers of words, which a word gets when it is first looked up."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_KNOWN:
            return self[_FORGOTTEN]
        self[word] = number = len(self)
        return number
