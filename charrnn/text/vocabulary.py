"""Symbols to indices and back: build, encode, decode, without a Python loop over characters.

The form that texts have inside the program is described in `units.py`.
Letters in shapes: N symbols, V vocabulary size.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.config import PreparationConfig, Unit
from charrnn.errors import CharRNNError, UnknownSymbolsError, opt
from charrnn.terminal import list_characters
from charrnn.text.units import BORDER, NOUNS, split_word_blocks, split_words

UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"
_LOOK_ALIKES = (
    "'\u2019\u2018\u02bc`\u00b4",
    '"\u201c\u201d\u201e\u00ab\u00bb',
    "-\u2010\u2011\u2012\u2013\u2014\u2212",
    " \u00a0",
)
_BYTES = tuple(map(chr, range(2**8)))
_BLOCK = 2**20

Array = np.ndarray[Any, np.dtype[Any]]


def code_points(text: str) -> Array:
    """The code points (N,) of a text, in the smallest dtype."""
    with contextlib.suppress(UnicodeEncodeError):
        return np.frombuffer(text.encode("latin-1"), np.uint8)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return points.astype(np.uint16) if points.max() < 2**16 else points


def _int_points(text: str) -> Tensor:
    """The same as a tensor (N,) int32."""
    return torch.from_numpy(code_points(text).astype(np.int32))


def respaced(word: str) -> str:
    """A word without the space before it, or with one if it has none."""
    return word[1:] if word.startswith(" ") else f" {word}"


class _Indices(dict[str, int]):
    """Indices by symbol; of a symbol that is none `outside`."""

    def __init__(self, outside: int, known: Mapping[str, int]) -> None:
        super().__init__(known)
        self._outside = outside

    def __missing__(self, symbol: str) -> int:
        return self._outside


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a corpus in the order of their indices, with the number of occurrences of each.

    Where rare symbols were folded, one more index stands for all of them: any other symbol is encoded to it, and it is
    never sampled. In a corpus of documents one more, the last, is the border between two. `counts` includes both.

    `border_chars` is the number of characters that a border stands for, None without documents; `unknown_chars` is
    that of all folded words.

    >>> vocabulary = Vocabulary(("a", "b"), (2, 1))
    >>> vocabulary.encode("aab").tolist(), vocabulary.decode([1, 0])
    ([0, 0, 1], 'ba')
    """

    symbols: tuple[str, ...]
    counts: tuple[int, ...]
    unit: Unit = "char"
    border_chars: int | None = None
    unknown_chars: int = 0
    texts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The text of each index; U+FFFD of the unknown symbol, BORDER of a border."""
    _indices: _Indices = field(init=False, repr=False, compare=False)
    _table: Tensor = field(init=False, repr=False, compare=False)
    _points: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._require_symbols()
        has_border = self.border_chars is not None
        num_unknown = len(self.counts) - len(self.symbols) - has_border
        if num_unknown not in (0, 1) or min(self.counts) < 0:
            raise CharRNNError("a vocabulary needs one count for each symbol")
        texts = (*self.symbols, *[UNKNOWN_CHAR] * num_unknown, *[BORDER] * has_border)
        known = {text: i for i, text in enumerate(texts) if i < len(self.symbols) or text == BORDER}
        object.__setattr__(self, "texts", texts)
        indices = _Indices(self.outside, known)
        object.__setattr__(self, "_indices", indices)
        if self.unit != "word":
            points = _int_points("".join(indices))
            # One entry past the last symbol's stands for every code point behind it.
            table = torch.full((int(points.max()) + 2,), self.outside, dtype=torch.int32)
            table[points] = torch.tensor(list(indices.values()), dtype=torch.int32)
            object.__setattr__(self, "_table", table)
            object.__setattr__(self, "_points", _int_points("".join(texts) + UNKNOWN_CHAR))

    def _require_symbols(self) -> None:
        unique = set(self.symbols)
        if self.unit == "byte" and self.symbols != _BYTES:
            raise CharRNNError("a vocabulary of bytes must hold all 256 in their order")
        are_single = "" not in unique and (self.unit == "word" or all(len(symbol) == 1 for symbol in unique))
        if not unique or len(unique) < len(self.symbols) or not are_single:
            kind = "words" if self.unit == "word" else "single characters"
            raise CharRNNError(f"a vocabulary's symbols must be distinct {kind}, at least one")
        if any("\ud800" <= char <= "\udfff" for char in "".join(unique)):
            raise CharRNNError("a vocabulary's symbols must be characters, and surrogates are none")

    @classmethod
    def build(
        cls,
        totals: Mapping[str, int],
        unit: Unit = "char",
        *,
        min_count: int = 1,
        max_vocab: int | None = None,
        border_chars: int | None = None,
        num_forgotten: int = 0,
        forgotten_chars: int = 0,
    ) -> "Vocabulary":
        """Keep the symbols seen `min_count` times, at most `max_vocab` with the unknown symbol.

        Characters are put in the order of their code points, words in that of their frequencies. `totals` are the
        occurrences of each; on forgotten ones, which become the unknown symbol too, see `NumberedText`.
        Raises: CharRNNError if nothing is left.
        """
        if unit == "byte":
            border = [] if border_chars is None else [totals.get(BORDER, 0)]
            return cls(_BYTES, (*(totals.get(byte, 0) for byte in _BYTES), *border), unit, border_chars)
        seen = {symbol: n for symbol, n in totals.items() if border_chars is None or symbol != BORDER}
        kept = [symbol for symbol, n in seen.items() if n >= min_count]
        has_unknown = len(kept) < len(seen) or num_forgotten > 0
        if max_vocab is not None and len(kept) + has_unknown > max_vocab:
            kept = sorted(kept, key=lambda symbol: (-seen[symbol], symbol))[: max_vocab - 1]
        if not kept:
            raise CharRNNError(f"no symbol occurs {min_count} times: lower {opt.min_count}")
        kept.sort(key=lambda symbol: (-seen[symbol], symbol) if unit == "word" else (0, symbol))
        counts = [seen.pop(symbol) for symbol in kept]
        folded = sum(seen.values()) + num_forgotten
        folded_chars = sum(n * len(symbol) for symbol, n in seen.items()) + forgotten_chars
        counts += [folded] * (folded > 0) + ([] if border_chars is None else [totals.get(BORDER, 0)])
        return cls(tuple(kept), tuple(counts), unit, border_chars, folded_chars if unit == "word" else 0)

    @property
    def size(self) -> int:
        """V, with the unknown symbol and the border if there are any."""
        return len(self.counts)

    @property
    def unknown(self) -> int | None:
        """The index of the unknown symbol."""
        return len(self.symbols) if self.texts[len(self.symbols) :][:1] == (UNKNOWN_CHAR,) else None

    @property
    def border(self) -> int | None:
        """The index of the border between documents."""
        return None if self.border_chars is None else self.size - 1

    @property
    def num_documents(self) -> int:
        """The number of documents of the corpus; 0 of one without borders."""
        return 0 if self.border is None else self.counts[self.border] - 1

    @property
    def num_chars(self) -> int:
        """The number of characters of the whole corpus; the border before all stands for none."""
        total = float(self.lengths @ torch.tensor(self.counts, dtype=torch.float64))
        return round(total) - (self.border_chars or 0)

    @property
    def outside(self) -> int:
        """The index of what the vocabulary lacks: the unknown symbol's, or V, which no model has."""
        return self.size if self.unknown is None else self.unknown

    @property
    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds every index."""
        return torch.uint8 if self.size <= 2**8 else torch.int16 if self.size <= 2**15 else torch.int32

    @functools.cached_property
    def lengths(self) -> Tensor:
        """The number of characters of text that each index stands for: (V,) float64; of the unknown symbol the mean.

        A continuation byte of UTF-8 stands for none, unless the corpus is not UTF-8.
        """
        if self.unit == "byte" and self._seems_utf8():
            lengths = [float(not 0x80 <= ord(byte) < 0xC0) for byte in self.symbols]
        else:
            lengths = [float(len(symbol)) for symbol in self.symbols]
        if self.unknown is not None:
            folded = self.counts[self.unknown]
            lengths.append(self.unknown_chars / folded if self.unit == "word" and folded else 1.0)
        if self.border_chars is not None:
            lengths.append(float(self.border_chars))
        return torch.tensor(lengths, dtype=torch.float64)

    @property
    def mean_size(self) -> float:
        """The mean size of a symbol of the corpus: of a word in characters, else 1."""
        sizes = (n * len(text) for n, text in zip(self.counts, self.texts, strict=True))
        return sum(sizes) / max(sum(self.counts), 1)

    def _seems_utf8(self) -> bool:
        """True if the corpus has as many continuation bytes as its lead bytes ask for."""
        following = sum(self.counts[0x80:0xC0])
        asked = sum(self.counts[0xC2:0xE0]) + 2 * sum(self.counts[0xE0:0xF0]) + 3 * sum(self.counts[0xF0:0xF5])
        return following == asked and not any((*self.counts[0xC0:0xC2], *self.counts[0xF5:0x100]))

    def count_chars(self, indices: Tensor) -> float:
        """The number of characters of text that indices (N,) stand for."""
        if self.unit == "char" and self.border_chars in (None, 1):
            return float(len(indices))
        return sum(float(self.lengths[block.long()].sum()) for block in indices.split(_BLOCK))

    def split(self, text: str) -> Sequence[str]:
        """The symbols of a text, known or not."""
        return split_words(text) if self.unit == "word" else text

    def join(self, parts: Iterable[Sequence[str]]) -> Sequence[str]:
        """The symbols of several texts, one after another; characters as a text."""
        return list(itertools.chain.from_iterable(parts)) if self.unit == "word" else "".join(map(str, parts))

    def split_blocks(self, blocks: Iterable[str]) -> Iterator[Sequence[str]]:
        """The symbols of a text that comes in blocks."""
        return split_word_blocks(blocks) if self.unit == "word" else iter(blocks)

    def split_prompt(self, text: str) -> Sequence[str]:
        """The symbols of a prompt; a word that is only known with a space before it, or only without, is taken so."""
        if self.unit != "word":
            return text
        symbols = []
        for symbol in split_words(text):
            other = respaced(symbol)
            symbols.append(other if symbol not in self._indices and other in self._indices else symbol)
        return symbols

    def beginning_with(self, text: str) -> list[int]:
        """The indices of the symbols that begin with a text."""
        return [i for i, symbol in enumerate(self.symbols) if symbol.startswith(text)]

    def missing(self, symbols: Sequence[str]) -> list[str]:
        """The distinct symbols that have no index of their own, sorted."""
        return sorted(set(symbols).difference(self._indices))

    def encode(self, text: str) -> Tensor:
        """The indices of a text: (N,) in `dtype`.

        Raises: CharRNNError that lists the symbols outside the vocabulary, if it has no unknown symbol.
        """
        symbols = self.split(text)
        if self.unknown is None:
            self.require(symbols)
        return self.encode_symbols(symbols).to(self.dtype)

    def require(self, symbols: Sequence[str]) -> None:
        """Check that a prompt can be read: rare words as the unknown symbol, characters by an index of their own.

        Raises: CharRNNError that lists those that have none.
        """
        if self.unit == "word" and self.unknown is not None:
            return
        if missing := self.missing(symbols):
            outside = f"{NOUNS[self.unit]}s outside the vocabulary of {self.size} symbols: {list_characters(missing)}"
            look_alikes = [f"{ours!r} for {theirs!r}" for theirs in missing for ours in self._look_alikes(theirs)]
            hint = f" (the model has {', '.join(look_alikes)})" if look_alikes else ""
            raise UnknownSymbolsError(outside + hint, missing)

    def _look_alikes(self, char: str) -> list[str]:
        """Quotes, dashes or spaces of the vocabulary that look like this one."""
        return [each for group in _LOOK_ALIKES if char in group for each in group if each in self._indices]

    def encode_symbols(self, symbols: Sequence[str]) -> Tensor:
        """The indices (N,) int32 of symbols, characters as a text; of those outside the vocabulary `outside`."""
        if not isinstance(symbols, str):
            return torch.from_numpy(np.fromiter(map(self._indices.__getitem__, symbols), np.int32, len(symbols)))
        return torch.index_select(self._table, 0, _int_points(symbols).clamp(max=len(self._table) - 1))

    def symbols_of(self, indices: Tensor | Sequence[int]) -> Sequence[str]:
        """The symbols of indices (N,), characters as a text."""
        if self.unit != "word":
            return self.decode(indices)
        texts = (*self.texts, UNKNOWN_CHAR)
        return [texts[i] for i in torch.as_tensor(indices).tolist()]

    def decode(self, indices: Tensor | Sequence[int]) -> str:
        """The text of indices (N,); the unknown symbol becomes U+FFFD, a border BORDER."""
        if self.unit == "word":
            return "".join(self.symbols_of(indices))
        chosen = torch.index_select(self._points, 0, torch.as_tensor(indices).cpu().int())
        return chosen.numpy().astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def stored(self) -> "StoredVocabulary":
        """The symbols and counts as a file's header keeps them."""
        if self.unit == "word":
            return StoredVocabulary("", self.counts, self.symbols, self.unknown_chars)
        return StoredVocabulary("".join(self.symbols), self.counts)

    @classmethod
    def restore(cls, stored: "StoredVocabulary", config: PreparationConfig) -> "Vocabulary":
        """The vocabulary of a file's header, of a text that was prepared so. Raises: CharRNNError if it is none."""
        symbols = stored.words if config.unit == "word" else tuple(stored.symbols)
        return cls(symbols, stored.counts, config.unit, config.border_chars, stored.unknown_chars)


@dataclass(frozen=True)
class StoredVocabulary:
    """A vocabulary in a file's header: its single characters, or its words."""

    symbols: str
    counts: tuple[int, ...]
    words: tuple[str, ...] = field(default=(), metadata={"absent": []})
    unknown_chars: int = field(default=0, metadata={"absent": 0})
