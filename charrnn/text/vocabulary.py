"""Symbols to indices and back: count, build, encode, decode, all without a Python loop over the text.

Letters in shapes: N characters, V vocabulary size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from charrnn.errors import CharRNNError
from charrnn.terminal import list_characters

UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"


def code_points(text: str) -> Tensor:
    """The text's Unicode code points (N,), uint8 where all are ASCII and int32 otherwise."""
    if text.isascii():
        data, dtype = text.encode("ascii"), torch.uint8
    else:
        data, dtype = text.encode("utf-32-le", "surrogatepass"), torch.int32
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def count(blocks: Iterable[Tensor]) -> Tensor:
    """Occurrences of each code point in blocks of them: (highest code point + 1,) int64."""
    totals = torch.zeros(1, dtype=torch.int64)
    for points in blocks:
        counts = torch.bincount(points)
        longer, shorter = (counts, totals) if len(counts) > len(totals) else (totals, counts)
        longer[: len(shorter)] += shorter
        totals = longer
    return totals


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a corpus in the order of their indices, with how often each occurred.

    Where rare symbols were folded, one more index, the last, stands for all of them: it is what any other
    character is encoded to, and it is never sampled. `counts` includes it.

    >>> vocabulary = Vocabulary(("a", "b"), (2, 1))
    >>> vocabulary.encode("aab").tolist(), vocabulary.decode([1, 0])
    ([0, 0, 1], 'ba')
    """

    symbols: tuple[str, ...]
    counts: tuple[int, ...]
    _table: Tensor = field(init=False, repr=False, compare=False)
    _points: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unique = set(self.symbols)
        if not unique or len(unique) < len(self.symbols) or any(len(symbol) != 1 for symbol in unique):
            raise CharRNNError("a vocabulary's symbols must be distinct single characters, at least one")
        if any("\ud800" <= symbol <= "\udfff" for symbol in unique):
            raise CharRNNError("a vocabulary's symbols must be characters, and surrogates are none")
        if len(self.counts) - len(self.symbols) not in (0, 1) or min(self.counts) < 0:
            raise CharRNNError("a vocabulary needs one count for each symbol")
        points = code_points("".join(self.symbols)).int()
        # One entry past the last symbol's, and all up to a byte's range, stand for every other code point.
        table = torch.full((max(int(points.max()) + 1, 2**8) + 1,), len(self.symbols), dtype=torch.int32)
        table[points] = torch.arange(len(points), dtype=torch.int32)
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_points", code_points("".join(self.symbols) + UNKNOWN_CHAR).int())

    @classmethod
    def build(cls, totals: Tensor, *, min_count: int = 1, max_vocab: int | None = None) -> "Vocabulary":
        """Keep the symbols seen `min_count` times, at most `max_vocab` with the unknown symbol, by code point.

        `totals` are counts by code point, as `count` makes them. Raises: CharRNNError if nothing is left.
        """
        seen = torch.nonzero(totals).flatten()
        kept = seen[totals[seen] >= min_count]
        if max_vocab is not None and len(kept) + (len(kept) < len(seen)) > max_vocab:
            by_count = torch.argsort(totals[kept], descending=True, stable=True)
            kept = kept[by_count[: max_vocab - 1]].sort().values
        if not len(kept):
            raise CharRNNError(f"no symbol occurs {min_count} times: lower --min-count")
        counts = totals[kept].tolist()
        if len(kept) < len(seen):
            counts.append(int(totals.sum()) - sum(counts))
        return cls(tuple(map(chr, kept.tolist())), tuple(counts))

    @property
    def size(self) -> int:
        """V, with the unknown symbol if there is one."""
        return len(self.counts)

    @property
    def unknown(self) -> int | None:
        """The index of the unknown symbol."""
        return len(self.symbols) if len(self.counts) > len(self.symbols) else None

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each index; U+FFFD for the unknown symbol."""
        return self.symbols if self.unknown is None else (*self.symbols, UNKNOWN_CHAR)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds every index."""
        return torch.uint8 if self.size <= 2**8 else torch.int16 if self.size <= 2**15 else torch.int32

    def missing(self, text: str) -> list[str]:
        """The distinct characters of the text that have no index of their own, sorted."""
        return sorted(set(text).difference(self.symbols))

    def encode(self, text: str) -> Tensor:
        """The indices of a text: (N,) in `dtype`.

        Raises: CharRNNError that lists the characters outside the vocabulary, if it has no unknown symbol.
        """
        if self.unknown is None:
            self.require(text)
        return self.encode_known(text)

    def require(self, text: str) -> None:
        """Check that each character has an index of its own. Raises: CharRNNError that lists those that have none."""
        if missing := self.missing(text):
            raise CharRNNError(
                f"characters outside the vocabulary of {self.size} symbols: {list_characters(missing)}; "
                "leave them out (--skip-unknown does)"
            )

    def encode_any(self, text: str) -> Tensor:
        """The indices of a text: (N,) int32. Characters outside the vocabulary become `len(symbols)`, never sampled."""
        return torch.index_select(self._table, 0, code_points(text).int().clamp(max=len(self._table) - 1))

    def encode_known(self, text: str) -> Tensor:
        """The indices of a text that is known to fit: (N,) in `dtype`.

        By NumPy, which takes no further threads: `prepare` has its own.
        """
        table = self._table.to(self.dtype).numpy()
        if text.isascii() and table.dtype == np.uint8:  # twice as fast as the general way
            translated = bytearray(text.encode("ascii").translate(table[: 2**8].tobytes()))
            return torch.frombuffer(translated, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<i4")
        return torch.from_numpy(np.take(table, points, mode="clip"))

    def decode(self, indices: Tensor | Sequence[int]) -> str:
        """The text of indices (N,); the unknown symbol becomes U+FFFD."""
        chosen = torch.index_select(self._points, 0, torch.as_tensor(indices).cpu().int())
        return chosen.numpy().astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def stored(self) -> "StoredVocabulary":
        """The symbols and counts as a file's header keeps them."""
        return StoredVocabulary("".join(self.symbols), self.counts)

    @classmethod
    def restore(cls, stored: "StoredVocabulary") -> "Vocabulary":
        """The vocabulary of a file's header. Raises: CharRNNError if it is none."""
        return cls(tuple(stored.symbols), stored.counts)


@dataclass(frozen=True)
class StoredVocabulary:
    """A vocabulary in a file's header."""

    symbols: str
    counts: tuple[int, ...]
