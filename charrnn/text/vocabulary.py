"""The symbols of a corpus and how often each occurs.

Letters in shapes: N symbols, V vocabulary size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

import torch
from torch import Tensor

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, opt
from charrnn.text.words import EOS_MARK

UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"
_BLOCK = 2**20


@dataclass(frozen=True)
class StoredVocabulary:
    """A vocabulary in a file's header: its single characters, or its words."""

    symbols: str
    counts: tuple[int, ...]
    words: tuple[str, ...] = field(default=(), metadata={"absent": []})
    unknown_chars: int = field(default=0, metadata={"absent": 0})


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a corpus in the order of their ids, with the number of occurrences of each.

    If rare symbols were folded, the next id is that of the unknown symbol: any other symbol is encoded to it, and it is
    never sampled. In a corpus of documents the last id is EOS. `counts` includes both. `unknown_chars` is the number of
    characters of all folded words. `config` is that of the corpus.
    """

    symbols: tuple[str, ...]
    counts: tuple[int, ...]
    config: PreparationConfig = field(default=PreparationConfig(), compare=False)
    unknown_chars: int = 0

    noun: ClassVar[str]
    """The name of a symbol in messages."""
    has_words: ClassVar[bool] = False
    """True if symbols have several characters and are ordered by frequency."""

    def __post_init__(self) -> None:
        self._require_symbols()
        num_unknown = len(self.counts) - len(self.symbols) - (self.config.border_text is not None)
        if num_unknown not in (0, 1) or min(self.counts) < 0:
            raise CharRNNError("a vocabulary needs one count for each symbol")

    def _require_symbols(self, kind: str = "single characters", max_length: float = 1) -> None:
        """Raises: CharRNNError for symbols that are not distinct, of another kind, or not Unicode."""
        unique = set(self.symbols)
        are_sized = all(1 <= len(symbol) <= max_length for symbol in unique)
        if not unique or len(unique) < len(self.symbols) or not are_sized:
            raise CharRNNError(f"a vocabulary's symbols must be distinct {kind}, at least one")
        if any("\ud800" <= char <= "\udfff" for char in "".join(self.symbols)):
            raise CharRNNError("a vocabulary's symbols must be characters, and surrogates are none")

    @property
    def size(self) -> int:
        """V, with the unknown symbol and EOS if they exist."""
        return len(self.counts)

    @property
    def unk_id(self) -> int | None:
        """The id of the unknown symbol."""
        return len(self.symbols) if self.size - len(self.symbols) > (self.eos_id is not None) else None

    @property
    def eos_id(self) -> int | None:
        """The id of the end of a document."""
        return None if self.config.border_text is None else self.size - 1

    @property
    def outside(self) -> int:
        """The id of symbols that the vocabulary lacks: the unknown symbol's, or V, which no model has."""
        return self.size if self.unk_id is None else self.unk_id

    @property
    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds every id."""
        return torch.uint8 if self.size <= 2**8 else torch.int16 if self.size <= 2**15 else torch.int32

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The symbol of each id in a marked text: U+FFFD for the unknown symbol, EOS_MARK for EOS."""
        specials = [UNKNOWN_CHAR] * (self.unk_id is not None) + [EOS_MARK] * (self.eos_id is not None)
        return (*self.symbols, *specials)

    @property
    def never_sampled(self) -> set[int]:
        """The unknown symbol."""
        return set() if self.unk_id is None else {self.unk_id}

    @cached_property
    def lengths(self) -> Tensor:
        """The number of characters of text that each id stands for: (V,) float64."""
        lengths = [*self._lengths()]
        if self.unk_id is not None:  # the mean length of folded words
            lengths.append(self.unknown_chars / max(self.counts[self.unk_id], 1) or 1.0)
        if self.config.border_chars is not None:
            lengths.append(float(self.config.border_chars))
        return torch.tensor(lengths, dtype=torch.float64)

    def _lengths(self) -> Iterable[float]:
        return map(float, map(len, self.symbols))

    @property
    def num_documents(self) -> int:
        """The number of documents of the corpus; 0 for a corpus without EOS."""
        return 0 if self.eos_id is None else self.counts[self.eos_id] - 1

    @property
    def num_chars(self) -> int:
        """The number of characters of the whole corpus, without the EOS at its start."""
        total = float(self.lengths @ torch.tensor(self.counts, dtype=torch.float64))
        return round(total) - (self.config.border_chars or 0)

    @property
    def chars_per_symbol(self) -> float:
        """The mean number of characters of a symbol of the corpus, at least 1."""
        return max(1.0, self.num_chars / max(sum(self.counts), 1))

    def count_chars(self, ids: Tensor) -> float:
        """The number of characters of text that ids (N,) stand for."""
        if bool((self.lengths == 1).all()):
            return float(len(ids))
        return sum(float(self.lengths[block.long()].sum()) for block in ids.split(_BLOCK))

    @classmethod
    def build(
        cls, totals: Mapping[str, int], config: PreparationConfig, *, num_forgotten: int = 0, forgotten_chars: int = 0
    ) -> Self:
        """Keep the symbols seen `min_count` times, at most `max_vocab` with the unknown symbol.

        `totals` are the occurrences of each; on forgotten ones, which become the unknown symbol too, see
        `NumberedText`. Raises: CharRNNError if nothing is left.
        """
        has_eos, limit = config.border_text is not None, config.max_vocab
        seen = {symbol: n for symbol, n in totals.items() if not has_eos or symbol != EOS_MARK}
        kept = [symbol for symbol, n in seen.items() if n >= config.min_count]
        has_unknown = len(kept) < len(seen) or num_forgotten > 0
        if limit is not None and len(kept) + has_unknown > limit:
            kept = sorted(kept, key=lambda symbol: (-seen[symbol], symbol))[: limit - 1]
        if not kept:
            raise CharRNNError(f"no symbol occurs {config.min_count} times: lower {opt.min_count}")
        kept.sort(key=lambda symbol: (-seen[symbol] * cls.has_words, symbol))
        counts = [seen.pop(symbol) for symbol in kept]
        folded = sum(seen.values()) + num_forgotten
        counts += [folded] * (folded > 0) + [totals.get(EOS_MARK, 0)] * has_eos
        folded_chars = sum(n * len(symbol) for symbol, n in seen.items()) + forgotten_chars
        return cls(tuple(kept), tuple(counts), config, folded_chars * cls.has_words)

    def stored(self) -> StoredVocabulary:
        """The symbols and counts as a file's header keeps them."""
        return StoredVocabulary("".join(self.symbols), self.counts)

    @classmethod
    def restore(cls, stored: StoredVocabulary, config: PreparationConfig) -> Self:
        """The tokenizer of a file's header. Raises: CharRNNError if that is not sound."""
        return cls(tuple(stored.symbols), stored.counts, config)
