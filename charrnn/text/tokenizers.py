"""Text to token ids and back: one class for characters, one for bytes, one for words.

A text holds bytes that are not UTF-8 as surrogates, as Python's file names do (PEP 383). The end of a document is a
token of its own, EOS, whose text is the separator. While a text is prepared or scored it is *marked*: each end of a
document is one EOS_MARK, and for bytes each one beyond ASCII is a surrogate.

Letters in shapes: N tokens, V vocabulary size.
"""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from charrnn.config import PreparationConfig, Unit
from charrnn.errors import CharRNNError, UnknownSymbolsError
from charrnn.terminal import list_characters
from charrnn.text.vocabulary import UNKNOWN_CHAR, StoredVocabulary, Vocabulary
from charrnn.text.words import EOS_MARK, respaced, split_word_blocks, split_words

_LOOK_ALIKES = (
    "'\u2019\u2018\u02bc`\u00b4",
    '"\u201c\u201d\u201e\u00ab\u00bb',
    "-\u2010\u2011\u2012\u2013\u2014\u2212",
    " \u00a0",
)
_BYTES = tuple(bytes([value]).decode("ascii", "surrogateescape") for value in range(2**8))
_CHARACTERS_OF_BYTES = {ord(byte): value for value, byte in enumerate(_BYTES)}

Array = np.ndarray[Any, np.dtype[Any]]


def code_points(text: str) -> Array:
    """The code points (N,) of a text, in the smallest dtype."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    points = np.array([text]).view(np.uint32)
    return points.astype(np.min_scalar_type(points.max()))


def separator_pattern(separator: str, blanks: str = "[ \t]*") -> str:
    """A regular expression for a separator: if it is of line feeds, for any run of at least as many.

    Empty lines may hold `blanks`. Without them the expression begins with the separator as it is, which is found
    several times as fast as a class or a repetition.
    """
    if separator.strip("\n"):
        return re.escape(separator)
    blanks = blanks if len(separator) > 1 else ""
    return f"{blanks.join(separator)}(?:{blanks}\n)*"


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it: `ids` (N,), and `prefix`, which the text of the first symbol drawn begins with.

    `first` are the ids that may be drawn first, None for all; `begun` is the text after the last separator, and
    `missing` are the symbols that the vocabulary lacks: they are left out, or read as the unknown symbol.
    """

    text: str
    ids: Tensor
    begun: str = ""
    prefix: str = ""
    first: Sequence[int] | None = None
    missing: Sequence[str] = ()


class Tokenizer(Vocabulary, ABC):
    """A vocabulary that encodes and decodes texts."""

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text of each id: U+FFFD for the unknown symbol, the separator for EOS."""
        return tuple(map(self.unmark, self.tokens))

    @property
    def _separator(self) -> str:
        return self.spelled(self.config.border_text or "")

    @staticmethod
    def spelled(text: str) -> str:
        """A text as a string of its symbols. Raises: CharRNNError if it has a surrogate that is no byte."""
        return text

    def mark(self, text: str) -> str:
        """A marked text: as `spelled`, with an EOS_MARK in place of each separator. Raises: CharRNNError."""
        text = self.spelled(text)
        return text if self.config.separator is None else re.sub(separator_pattern(self._separator), EOS_MARK, text)

    def unmark(self, marked: str) -> str:
        """The text of a marked one."""
        return marked.replace(EOS_MARK, self.config.border_text or "")

    def marked_forms(self, text: str) -> list[str]:
        """All marked texts that hold this text once they are unmarked.

        Where it begins with an end of the separator, or ends with a beginning of it, there may be an EOS_MARK.
        """
        marked, separator = self.mark(text), "" if self.eos_id is None else self._separator
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
        known = {symbol: i for i, symbol in enumerate(self.symbols)}
        return known if self.eos_id is None else {**known, EOS_MARK: self.eos_id}

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
        """The distinct symbols that have no id of their own, sorted."""
        return sorted(set(symbols).difference(self._ids))

    def require(self, symbols: Sequence[str]) -> None:
        """Raises: CharRNNError that lists the symbols without an id of their own."""
        if missing := self.missing(symbols):
            outside = f"{self.noun}s outside the vocabulary of {self.size} symbols: {list_characters(missing)}"
            look_alikes = [f"{ours!r} for {theirs!r}" for theirs in missing for ours in self._look_alikes(theirs)]
            hint = f" (the model has {', '.join(look_alikes)})" if look_alikes else ""
            raise UnknownSymbolsError(outside + hint, missing)

    def _look_alikes(self, char: str) -> list[str]:
        """Quotes, dashes or spaces of the vocabulary that look like this one."""
        return [each for group in _LOOK_ALIKES if char in group for each in group if each in self._ids]

    def start(self, ids: Tensor) -> Tensor:
        """The ids (N,) that are read before a sample: EOS, if there are documents, and those of the prompt.

        Without both a line feed, or the most frequent symbol of a text without lines.
        """
        if self.eos_id is not None:
            return ids if len(ids) and ids[0] == self.eos_id else torch.cat([torch.tensor([self.eos_id]), ids])
        if len(ids):
            return ids
        counts = self.counts[: len(self.symbols)]
        newline = self._ids.get("\n")
        return torch.tensor([newline if newline is not None and counts[newline] else counts.index(max(counts))])

    def encode_prompt(self, prompt: str, excluded: Collection[int] = (), *, skip_unknown: bool = False) -> Prompt:
        """A prompt for samples without the `excluded` ids.

        Raises: CharRNNError for symbols that the vocabulary lacks; `skip_unknown` leaves them out instead. Words are
        read as the unknown symbol, if there is one.
        """
        marked = self.mark(prompt)
        parts = self.split(marked)
        size, prefix, first = self._begun_word(parts, excluded)
        read, end = parts[: len(parts) - size], "".join(parts[len(parts) - size :])
        symbols = self.known_forms(read)
        missing = self.missing(symbols)
        if missing and skip_unknown:
            kept = "".join(part for part, symbol in zip(read, symbols, strict=True) if symbol not in missing)
            return replace(self.encode_prompt(self.unmark(kept + end), excluded), missing=missing)
        if not (self.has_words and self.unk_id is not None):
            self.require(symbols)
        begun = marked[marked.rfind(EOS_MARK) + 1 :]
        return Prompt(self.unmark(marked), self.start(self.ids_of(symbols)), begun, prefix, first, missing)

    def _begun_word(self, symbols: Sequence[str], excluded: Collection[int]) -> tuple[int, str, list[int] | None]:
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
        return code_points("".join(self.tokens) + UNKNOWN_CHAR)

    def ids_of(self, symbols: Sequence[str]) -> Tensor:
        points = torch.from_numpy(code_points("".join(symbols)).astype(np.int32))
        return torch.index_select(self._table, 0, points.clamp(max=len(self._table) - 1))

    def decode_marked(self, ids: Tensor) -> str:
        points = np.ones(len(ids) + 1, np.uint32)  # the last one is no NUL, which NumPy would cut off
        points[:-1] = self._points[ids.cpu().numpy()]
        return str(points.view(f"<U{len(points)}")[0])[:-1]


class ByteTokenizer(CharTokenizer):
    """All bytes, in their order."""

    noun = "byte"

    def _require_symbols(self, kind: str = "", max_length: float = 1) -> None:
        if self.symbols != _BYTES:
            raise CharRNNError("a vocabulary of bytes must hold all 256 in their order")

    @property
    def never_sampled(self) -> set[int]:
        """The bytes that the corpus lacks."""
        return {i for i, n in enumerate(self.counts) if n == 0}

    def _lengths(self) -> Iterable[float]:
        """A continuation byte of UTF-8 adds no character, unless the corpus is not UTF-8."""
        following = sum(self.counts[0x80:0xC0])
        asked = sum(self.counts[0xC2:0xE0]) + 2 * sum(self.counts[0xE0:0xF0]) + 3 * sum(self.counts[0xF0:0xF5])
        is_utf8 = following == asked and not any((*self.counts[0xC0:0xC2], *self.counts[0xF5:0x100]))
        return (float(not (is_utf8 and 0x80 <= value < 0xC0)) for value in range(2**8))

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
    def build(
        cls, totals: Mapping[str, int], config: PreparationConfig, *, num_forgotten: int = 0, forgotten_chars: int = 0
    ) -> Self:
        eos = [] if config.border_text is None else [totals.get(EOS_MARK, 0)]
        return cls(_BYTES, (*(totals.get(byte, 0) for byte in _BYTES), *eos), config)

    def stored(self) -> StoredVocabulary:
        return StoredVocabulary("".join(map(chr, range(2**8))), self.counts)

    @classmethod
    def restore(cls, stored: StoredVocabulary, config: PreparationConfig) -> Self:
        symbols = (_BYTES[ord(char)] if ord(char) < 2**8 else char for char in stored.symbols)
        return cls(tuple(symbols), stored.counts, config)


class WordTokenizer(Tokenizer):
    """Words, as `words.py` splits a text."""

    noun = "word"
    has_words = True

    def _require_symbols(self, kind: str = "words", max_length: float = np.inf) -> None:
        super()._require_symbols(kind, max_length)

    def split(self, marked: str) -> Sequence[str]:
        return split_words(marked)

    def split_blocks(self, blocks: Iterable[str]) -> Iterator[Sequence[str]]:
        return split_word_blocks(blocks)

    def ids_of(self, symbols: Sequence[str]) -> Tensor:
        ids = (self._ids.get(symbol, self.outside) for symbol in symbols)
        return torch.from_numpy(np.fromiter(ids, np.int32, len(symbols)))

    def decode_marked(self, ids: Tensor) -> list[str]:
        tokens = (*self.tokens, UNKNOWN_CHAR)
        return [tokens[i] for i in ids.tolist()]

    def beginning_with(self, text: str) -> list[int]:
        """The ids of the symbols that begin with a text."""
        return [i for i, symbol in enumerate(self.symbols) if text and symbol.startswith(text)]

    def _begun_word(self, symbols: Sequence[str], excluded: Collection[int]) -> tuple[int, str, list[int] | None]:
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
