"""Text to token ids and back: one class for characters, one for bytes, one for words.

A text holds bytes that are not UTF-8 as surrogates, as Python's file names do (PEP 383). The end of a document is a
separate token, EOS, whose text is the separator. While a text is prepared or scored it is *marked*: each end of a
document is one EOS_MARK, and for bytes each one beyond ASCII is a surrogate.

Letters in shapes: N tokens, V vocabulary size.
"""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from charrnn.config import PreparationConfig, Unit
from charrnn.errors import CharRNNError, UnknownSymbolsError, opt
from charrnn.terminal import list_characters
from charrnn.text.words import EOS_MARK, respaced, split_word_blocks, split_words

UNKNOWN_CHAR = "\N{REPLACEMENT CHARACTER}"
_BLOCK = 2**20
_LOOK_ALIKES = (
    "'\u2019\u2018\u02bc`\u00b4",
    '"\u201c\u201d\u201e\u00ab\u00bb',
    "-\u2010\u2011\u2012\u2013\u2014\u2212",
    " \u00a0",
)
_BYTES = tuple(bytes([value]).decode("ascii", "surrogateescape") for value in range(2**8))
_STORED_BYTES = "".join(map(chr, range(2**8)))
_CHARACTERS_OF_BYTES = str.maketrans("".join(_BYTES), _STORED_BYTES)

Array = np.ndarray[Any, np.dtype[Any]]


def code_points(text: str) -> Array:
    """The code points (N,) of a text, in the smallest dtype."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    points = np.array([text]).view(np.uint32)
    return points.astype(np.min_scalar_type(points.max()))


def separator_pattern(separator: str, blanks: str = "[ \t]*") -> str:
    """A regular expression for a separator; for one of line feeds, any run of at least as many.

    Empty lines may hold `blanks`. Without `blanks` the expression begins with a literal, which is found several times
    as fast as a repetition.
    """
    if separator.strip("\n"):
        return re.escape(separator)
    blanks = blanks if len(separator) > 1 else ""
    return f"{blanks.join(separator)}(?:{blanks}\n)*"


@dataclass(frozen=True)
class StoredVocabulary:
    """A vocabulary in a file's header: its single characters, or its words."""

    symbols: str
    counts: tuple[int, ...]
    words: tuple[str, ...] = field(default=(), metadata={"absent": []})
    unknown_chars: int = field(default=0, metadata={"absent": 0})


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it: `ids` (N,), and `prefix`, which the text of the first symbol drawn begins with.

    `first` are the ids that may be drawn first, None for all; `unfinished` is the text after the last separator, and
    `missing` are the symbols that the vocabulary lacks: they are left out, or read as the unknown symbol.
    """

    text: str
    ids: Tensor
    unfinished: str = ""
    prefix: str = ""
    first: Sequence[int] | None = None
    missing: Sequence[str] = ()


@dataclass(frozen=True)
class Tokenizer(ABC):
    """The symbols of a corpus in the order of their ids, with the number of occurrences of each.

    If rare symbols were folded, the next id is that of the unknown symbol, to which all other symbols are encoded. In
    a corpus of documents the last id is EOS. `counts` includes both. `unknown_chars` is the number of characters of
    all folded words.
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
        num_unknown = len(self.counts) - len(self.symbols) - (self.config.separator_text is not None)
        if num_unknown not in (0, 1) or min(self.counts) < 0:
            raise CharRNNError("a vocabulary needs one count for each symbol")

    def _require_symbols(self) -> None:
        """Raises: CharRNNError for symbols that are not distinct, of another kind, or not Unicode."""
        lengths = set(map(len, self.symbols))
        are_sized = 0 not in lengths if self.has_words else lengths == {1}
        if not lengths or len(set(self.symbols)) < len(self.symbols) or not are_sized:
            kind = "words" if self.has_words else "single characters"
            raise CharRNNError(f"a vocabulary's symbols must be distinct {kind}, at least one")
        if any("\ud800" <= char <= "\udfff" for char in "".join(self.symbols)):
            raise CharRNNError("a vocabulary's symbols must be characters, not surrogates")

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
        return None if self.config.separator_text is None else self.size - 1

    @property
    def outside(self) -> int:
        """The id of symbols that the vocabulary lacks: the unknown symbol's, or V, which no model has."""
        return self.size if self.unk_id is None else self.unk_id

    @property
    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds every id."""
        return torch.uint8 if self.size <= 2**8 else torch.int16 if self.size <= 2**15 else torch.int32

    @cached_property
    def marked_texts(self) -> tuple[str, ...]:
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
        lengths: list[float] = self._lengths()
        if self.unk_id is not None:  # the mean length of folded words
            lengths.append(self.unknown_chars / max(self.counts[self.unk_id], 1) or 1.0)
        if self.config.separator_chars is not None:
            lengths.append(self.config.separator_chars)
        return torch.tensor(lengths, dtype=torch.float64)

    def _lengths(self) -> list[float]:
        return [*map(len, self.symbols)]

    @property
    def num_documents(self) -> int:
        """The number of documents of the corpus; 0 for a corpus without EOS."""
        return 0 if self.eos_id is None else self.counts[self.eos_id] - 1

    @property
    def num_chars(self) -> int:
        """The number of characters of the whole corpus, without the EOS at its start."""
        total = float(self.lengths @ torch.tensor(self.counts, dtype=torch.float64))
        return round(total) - (self.config.separator_chars or 0)

    @property
    def num_bytes(self) -> int:
        """The number of bytes of UTF-8 of the whole corpus, without the EOS at its start."""
        total = float(self._byte_lengths @ torch.tensor(self.counts, dtype=torch.float64))
        return round(total) - len((self.config.separator or "").encode())

    @property
    def chars_per_symbol(self) -> float:
        """The mean number of characters of a symbol of the corpus, at least 1."""
        return max(1.0, self.num_chars / max(sum(self.counts), 1))

    def count_chars(self, ids: Tensor) -> float:
        """The number of characters of text that ids (N,) stand for."""
        if bool((self.lengths == 1).all()):
            return float(len(ids))
        return sum(float(self.lengths[block.long()].sum()) for block in ids.split(_BLOCK))

    @cached_property
    def _byte_lengths(self) -> Tensor:
        """The number of bytes of UTF-8 that each id stands for: (V,) float64; of the unknown symbol its characters."""
        lengths = self.lengths.clone()
        for i, symbol in enumerate(self.symbols):
            lengths[i] = len(symbol.encode("utf-8", "surrogateescape"))
        if self.eos_id is not None:
            lengths[self.eos_id] = len((self.config.separator or "").encode())
        return lengths

    def count_bytes(self, ids: Tensor) -> int:
        """The number of bytes of UTF-8 of the text that ids (N,) stand for."""
        counts = sum(torch.bincount(block.long(), minlength=self.size) for block in ids.split(_BLOCK))
        return round(float(self._byte_lengths @ torch.as_tensor(counts, dtype=torch.float64)))

    @classmethod
    def build(cls, totals: Mapping[str, int], config: PreparationConfig, forgotten: tuple[int, int] = (0, 0)) -> Self:
        """Keep the symbols seen `min_count` times, at most `max_vocab` with the unknown symbol.

        `totals` are the occurrences of each. Words `forgotten` (see `NumberedText`) become the unknown symbol too.
        Raises: CharRNNError if nothing is left.
        """
        num_forgotten, forgotten_chars = forgotten
        rare = dict(totals)
        eos = [] if config.separator_text is None else [rare.pop(EOS_MARK, 0)]
        kept = sorted((symbol for symbol, n in rare.items() if n >= config.min_count), key=lambda s: (-rare[s], s))
        has_unknown = len(kept) < len(rare) or num_forgotten > 0
        if config.max_vocab is not None and len(kept) + has_unknown > config.max_vocab:
            kept = kept[: config.max_vocab - 1]
        if not kept:
            raise CharRNNError(f"no symbol occurs {config.min_count} times: lower {opt.min_count}")
        if not cls.has_words:
            kept.sort()
        counts = [rare.pop(symbol) for symbol in kept]
        folded = sum(rare.values()) + num_forgotten
        folded_chars = sum(n * len(symbol) for symbol, n in rare.items()) + forgotten_chars
        return cls(tuple(kept), (*counts, *[folded] * (folded > 0), *eos), config, folded_chars * cls.has_words)

    def stored(self) -> StoredVocabulary:
        """The symbols and counts as a file's header keeps them."""
        return StoredVocabulary("".join(self.symbols), self.counts)

    @classmethod
    def restore(cls, stored: StoredVocabulary, config: PreparationConfig) -> Self:
        """The tokenizer of a file's header. Raises: CharRNNError if that is not sound."""
        return cls(tuple(stored.symbols), stored.counts, config)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text of each id: U+FFFD for the unknown symbol, the separator for EOS."""
        return tuple(map(self.unmark, self.marked_texts))

    @staticmethod
    def spelled(text: str) -> str:
        """A text as a string of its symbols. Raises: CharRNNError if it has a surrogate that is no byte."""
        return text

    def mark(self, text: str) -> str:
        """A marked text: as `spelled`, with an EOS_MARK in place of each separator. Raises: CharRNNError."""
        text = self.spelled(text)
        if self.config.separator is None:
            return text
        return re.sub(separator_pattern(self.spelled(self.config.separator)), EOS_MARK, text)

    def unmark(self, marked: str) -> str:
        """The text of a marked one."""
        return marked.replace(EOS_MARK, self.config.separator_text or "")

    def marked_forms(self, text: str) -> list[str]:
        """All marked texts that hold this text once they are unmarked.

        Where it begins with an end of the separator, or ends with a beginning of it, there may be an EOS_MARK.
        """
        marked, separator = self.mark(text), self.spelled(self.config.separator_text or "")
        parts = range(1, len(separator))
        begins = {0, *(n for n in parts if marked.startswith(separator[-n:]))}
        ends = {0, *(n for n in parts if marked.endswith(separator[:n]))}
        sizes = [(n, m) for n, m in itertools.product(begins, ends) if n + m <= len(marked)]
        forms = {EOS_MARK * (n > 0) + marked[n : len(marked) - m] + EOS_MARK * (m > 0) for n, m in sizes}
        return sorted(forms | ({EOS_MARK} if marked in separator else set()))

    def name(self, symbol: str) -> str:
        """A symbol of a marked text, for tables: of bytes the character of its number."""
        return self.unmark(symbol)

    @property
    def line_end(self) -> str:
        """The symbol after a line that is scored by itself; empty if the vocabulary has none."""
        return EOS_MARK if self.eos_id is not None else "\n" if "\n" in self._ids else ""

    def split(self, marked: str) -> Sequence[str]:
        """The symbols of a marked text, known or not."""
        return marked

    def split_blocks(self, blocks: Iterable[str]) -> Iterator[Sequence[str]]:
        """The symbols of a marked text that comes in blocks."""
        return map(self.split, blocks)

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        return ids if self.eos_id is None else {**ids, EOS_MARK: self.eos_id}

    @abstractmethod
    def ids_of(self, symbols: Sequence[str]) -> Tensor:
        """The ids (N,) int32 of symbols; `outside` for those that the vocabulary lacks."""

    @abstractmethod
    def decode_marked(self, ids: Tensor) -> Sequence[str]:
        """The symbols of ids (N,) of a marked text."""

    def encode(self, text: str) -> Tensor:
        """The ids of a text: (N,) in `dtype`.

        Raises: CharRNNError that lists the symbols outside the vocabulary, if it has no unknown symbol.
        """
        symbols = self.split(self.mark(text))
        if self.unk_id is None:
            self.require(symbols)
        return self.ids_of(symbols).to(self.dtype)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of ids (N,)."""
        return self.unmark("".join(self.decode_marked(torch.as_tensor(ids, dtype=torch.int64))))

    def missing(self, symbols: Sequence[str]) -> list[str]:
        """The distinct symbols outside the vocabulary, sorted."""
        return sorted(set(symbols).difference(self._ids))

    def require(self, symbols: Sequence[str]) -> None:
        """Raises: CharRNNError that lists the symbols outside the vocabulary."""
        if missing := self.missing(symbols):
            outside = f"{self.noun}s outside the vocabulary of {self.size} symbols: {list_characters(missing)}"
            groups = [(theirs, group) for theirs in missing for group in _LOOK_ALIKES if theirs in group]
            known = [f"{ours!r} for {theirs!r}" for theirs, group in groups for ours in group if ours in self._ids]
            hint = f" (the model has {', '.join(known)})" if known else ""
            raise UnknownSymbolsError(outside + hint, missing)

    def start(self, ids: Tensor) -> Tensor:
        """The ids (N,) that are read before a sample: EOS, if there are documents, and those of the prompt.

        If there are neither: a line feed, or the most frequent symbol of a text without lines.
        """
        if self.eos_id is not None:
            return ids if len(ids) and ids[0] == self.eos_id else torch.cat([torch.tensor([self.eos_id]), ids])
        if len(ids):
            return ids
        counts = self.counts[: len(self.symbols)]
        newline = self._ids.get("\n")
        return torch.tensor([newline if newline is not None and counts[newline] else counts.index(max(counts))])

    def encode_prompt(
        self, prompt: str, excluded: Collection[int] = (), *, skip_unknown: bool = False, starts: bool = True
    ) -> Prompt:
        """A prompt for samples without the `excluded` ids; without `starts` it continues a text.

        Raises: CharRNNError for symbols that the vocabulary lacks; `skip_unknown` leaves them out instead. Words are
        read as the unknown symbol, if there is one.
        """
        marked = self.mark(prompt)
        parts = self.split(marked)
        size, prefix, first = self._unfinished_word(parts, excluded)
        read, end = parts[: len(parts) - size], "".join(parts[len(parts) - size :])
        symbols = self.known_forms(read)
        missing = self.missing(symbols)
        if missing and skip_unknown:
            kept = "".join(part for part, symbol in zip(read, symbols, strict=True) if symbol not in missing)
            return replace(self.encode_prompt(self.unmark(kept + end), excluded, starts=starts), missing=missing)
        if not (self.has_words and self.unk_id is not None):
            self.require(symbols)
        unfinished = marked[marked.rfind(EOS_MARK) + 1 :]
        ids = self.ids_of(symbols)
        return Prompt(self.unmark(marked), self.start(ids) if starts else ids, unfinished, prefix, first, missing)

    def _unfinished_word(self, symbols: Sequence[str], excluded: Collection[int]) -> tuple[int, str, list[int] | None]:
        """The number of symbols at the end that begin a longer one, their text, and the ids that begin with it."""
        return 0, "", None

    def known_forms(self, symbols: Sequence[str]) -> Sequence[str]:
        """The symbols of a prompt as they are read."""
        return symbols


class CharTokenizer(Tokenizer):
    """Characters.

    >>> tokenizer = CharTokenizer(("a", "b"), (2, 1))
    >>> tokenizer.encode("aab").tolist(), tokenizer.decode([1, 0])
    ([0, 0, 1], 'ba')
    """

    noun = "character"

    @cached_property
    def _table(self) -> Tensor:
        """The id of each code point, and after the last known one that of all others."""
        points = code_points("".join(self._ids)).astype(np.int64)
        table = np.full(points.max() + 2, self.outside, np.int32)
        table[points] = list(self._ids.values())
        return torch.from_numpy(table)

    @cached_property
    def _points(self) -> Array:
        """The code point of each id, and that of V."""
        return code_points("".join(self.marked_texts) + UNKNOWN_CHAR)

    def ids_of(self, symbols: Sequence[str]) -> Tensor:
        points = torch.from_numpy(code_points("".join(symbols)).astype(np.int32))
        return torch.index_select(self._table, 0, points.clamp(max=len(self._table) - 1))

    def decode_marked(self, ids: Tensor) -> str:
        points = self._points[ids.cpu().numpy()].astype("<u4")
        return str(points.tobytes(), "utf-32-le", "surrogatepass")


class ByteTokenizer(CharTokenizer):
    """All bytes, in their order."""

    noun = "byte"

    def _require_symbols(self) -> None:
        if self.symbols != _BYTES:
            raise CharRNNError("a vocabulary of bytes must hold all 256 in their order")

    @property
    def never_sampled(self) -> set[int]:
        """The bytes that the corpus lacks."""
        return {i for i, n in enumerate(self.counts) if n == 0}

    def _lengths(self) -> list[float]:
        """A continuation byte of UTF-8 adds no character, unless the corpus is not UTF-8."""
        following = sum(self.counts[0x80:0xC0])
        asked = sum(self.counts[0xC2:0xE0]) + 2 * sum(self.counts[0xE0:0xF0]) + 3 * sum(self.counts[0xF0:0xF5])
        is_utf8 = following == asked and not any((*self.counts[0xC0:0xC2], *self.counts[0xF5:0x100]))
        return [float(not (is_utf8 and 0x80 <= value < 0xC0)) for value in range(2**8)]

    @staticmethod
    def spelled(text: str) -> str:
        try:
            return text.encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape")
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise CharRNNError(f"{half} is half of a character and has no bytes: leave it out of the text") from None

    def name(self, symbol: str) -> str:
        return self.unmark(symbol.translate(_CHARACTERS_OF_BYTES))

    @classmethod
    def build(cls, totals: Mapping[str, int], config: PreparationConfig, forgotten: tuple[int, int] = (0, 0)) -> Self:
        eos = [] if config.separator_text is None else [totals.get(EOS_MARK, 0)]
        return cls(_BYTES, (*(totals.get(byte, 0) for byte in _BYTES), *eos), config)

    def stored(self) -> StoredVocabulary:
        return StoredVocabulary(_STORED_BYTES, self.counts)

    @classmethod
    def restore(cls, stored: StoredVocabulary, config: PreparationConfig) -> Self:
        return cls(_BYTES if stored.symbols == _STORED_BYTES else (), stored.counts, config)


class WordTokenizer(Tokenizer):
    """Words, as `words.py` splits a text."""

    noun = "word"
    has_words = True

    def split(self, marked: str) -> Sequence[str]:
        return split_words(marked)

    def split_blocks(self, blocks: Iterable[str]) -> Iterator[Sequence[str]]:
        return split_word_blocks(blocks)

    def ids_of(self, symbols: Sequence[str]) -> Tensor:
        ids = (self._ids.get(symbol, self.outside) for symbol in symbols)
        return torch.from_numpy(np.fromiter(ids, np.int32, len(symbols)))

    def decode_marked(self, ids: Tensor) -> list[str]:
        tokens = (*self.marked_texts, UNKNOWN_CHAR)
        return [tokens[i] for i in ids.tolist()]

    def beginning_with(self, text: str) -> list[int]:
        """The ids of the symbols that begin with a text."""
        return [i for i, symbol in enumerate(self.symbols) if text and symbol.startswith(text)]

    def _unfinished_word(self, symbols: Sequence[str], excluded: Collection[int]) -> tuple[int, str, list[int] | None]:
        last, two = "".join(symbols[-1:]), "".join(symbols[-2:])  # two: "don" and "'"
        for size, text in ((2, two), (1, last), (1, respaced(last))):
            first = [i for i in self.beginning_with(text) if i not in excluded]
            if first and len(symbols) >= size:
                return size, text, first
        return 0, "", None

    def known_forms(self, symbols: Sequence[str]) -> Sequence[str]:
        """Words that are only known with a space before them, or only without, in that form."""
        pairs = ((symbol, respaced(symbol)) for symbol in symbols)
        return [other if symbol not in self._ids and other in self._ids else symbol for symbol, other in pairs]

    def stored(self) -> StoredVocabulary:
        return StoredVocabulary("", self.counts, self.symbols, self.unknown_chars)

    @classmethod
    def restore(cls, stored: StoredVocabulary, config: PreparationConfig) -> Self:
        return cls(stored.words, stored.counts, config, stored.unknown_chars)


TOKENIZERS: Mapping[Unit, type[Tokenizer]] = {"char": CharTokenizer, "byte": ByteTokenizer, "word": WordTokenizer}
