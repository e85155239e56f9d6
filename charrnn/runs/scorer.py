"""Score texts under a trained model: the surprisal of each symbol, block by block or line by line.

The losses are computed in `model/scoring.py`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from charrnn.config import WINDOWS
from charrnn.errors import OptionError
from charrnn.machine.runtime import Runtime
from charrnn.model.adaptation import Adaptation
from charrnn.model.network import CharRNN
from charrnn.model.scoring import SEQ_LENGTH, sequence_losses, text_losses, window_losses
from charrnn.text.units import BORDER
from charrnn.text.vocabulary import UNKNOWN_CHAR, Vocabulary

_SEGMENT = 2**22
"""Symbols of a text that are read at once; a longer one is scored in bounded memory."""
_POOL_LINES, _POOL_CHARS = 2**15, 2**21
"""Lines that are sorted by length and read together."""
_END = "\n"


@dataclass(frozen=True)
class Scored:
    """Symbols of a text (N,) that were predicted, their surprisals (N,) in bits, and the number of their characters."""

    symbols: Sequence[str]
    surprisals: Tensor
    num_chars: float
    adapted: Tensor | None = None
    """The surprisals under a model that adapts to the text, if it was asked for."""

    @property
    def bits_per_char(self) -> float | None:
        """The mean surprisal; None of nothing."""
        return float(self.surprisals.double().sum()) / self.num_chars if self.num_chars else None


@dataclass
class Scorer:
    """A model that scores texts. What its vocabulary lacks is counted in `num_unknown` and `unknown`.

    If the vocabulary has an unknown symbol, that is predicted in place of them; else they are left out.
    """

    model: CharRNN
    vocabulary: Vocabulary
    runtime: Runtime
    advance: Callable[[int], None] = lambda num_symbols: None
    """Told the number of symbols that were scored since the last call."""
    num_unknown: int = 0
    unknown: set[str] = field(default_factory=set)

    def score(self, blocks: Iterable[str], window: int | None = None, *, adapt: bool = False) -> Iterator[Scored]:
        """The surprisals of a text that comes in blocks, of all symbols but the first, which nothing predicts.

        The state is carried through the text, or with `window` emptied every so many symbols. With `adapt` the text
        is also read by a copy of the model that learns from it, see `model/adaptation.py`.
        """
        adaptation = Adaptation(self.model, self.runtime) if adapt else None
        size, overlap, first = _SEGMENT, SEQ_LENGTH, 1
        if window is not None:
            size, overlap = max(1, _SEGMENT // window) * window, 1
        for symbols, indices in self._segments(blocks, size, overlap):
            losses = self._losses(indices, window)
            adapted = None
            if adaptation is not None:
                adapted = adaptation.losses(indices[first - 1 :], self.advance) / math.log(2)
            num_chars = self._count_chars(symbols[first:], indices[first:])
            yield Scored(symbols[first:], losses[first - 1 :] / math.log(2), num_chars, adapted)
            first = overlap

    def score_lines(self, lines: Iterable[str]) -> Iterator[tuple[str, Scored]]:
        """Each line with its surprisals, from a state that has read a line end; its own line end is predicted too.

        To a model of documents a line is one, between two borders. If the vocabulary has no line end, neither is, and
        the first symbol is predicted by nothing.
        """
        pool: list[str] = []
        size = 0
        for line in lines:
            pool.append(line)
            size += len(line)
            if len(pool) == _POOL_LINES or size > _POOL_CHARS:
                yield from self._score_pool(pool)
                pool, size = [], 0
        yield from self._score_pool(pool)

    def _score_pool(self, lines: list[str]) -> Iterator[tuple[str, Scored]]:
        vocabulary = self.vocabulary
        end = BORDER if vocabulary.border is not None else _END if _END in vocabulary.symbols else ""
        border, parts = vocabulary.split(end), list(map(vocabulary.split, lines))
        read, encoded, begin = [], [], 0
        together = vocabulary.join([border, *(each for part in parts for each in (part, border))])
        indices, is_known = self._encode(together)
        for part in parts:
            own = slice(begin, begin + len(part) + 2 * len(end))
            encoded.append(indices[own] if is_known is None else indices[own][is_known[own]])
            read.append(together[own] if is_known is None else vocabulary.symbols_of(encoded[-1]))
            begin += len(part) + len(end)
        losses = sequence_losses(self.model, encoded, self.runtime, self.advance)
        for line, symbols, own_indices, each in zip(lines, read, encoded, losses, strict=True):
            num_chars = self._count_chars(symbols[1:], own_indices[1:])
            yield line, Scored(symbols[1:], each / math.log(2), num_chars)

    def _count_chars(self, symbols: Sequence[str], indices: Tensor) -> float:
        """The characters that symbols (N,) of these indices stand for.

        A word that is unknown has its own length, unless it is lost: a prepared text has U+FFFD in its place.
        """
        vocabulary = self.vocabulary
        num_chars = vocabulary.count_chars(indices)
        if vocabulary.unit != "word" or vocabulary.unknown is None:
            return num_chars
        places = torch.nonzero(indices == vocabulary.unknown).flatten().tolist()
        own = [len(symbols[i]) for i in places if symbols[i] != UNKNOWN_CHAR]
        return num_chars + sum(own) - len(own) * float(vocabulary.lengths[vocabulary.unknown])

    def _losses(self, indices: Tensor, window: int | None) -> Tensor:
        """The losses (N - 1,) of indices (N,) in nats."""
        if window is None:
            return text_losses(self.model, indices, self.runtime, self.advance)
        return window_losses(self.model, indices, window, self.runtime, self.advance)

    def _segments(self, blocks: Iterable[str], size: int, overlap: int) -> Iterator[tuple[Sequence[str], Tensor]]:
        """The known symbols of a text and their indices, `size` at a time, each after the `overlap` last ones."""
        symbols, indices, is_first = self.vocabulary.split(""), torch.zeros(0, dtype=torch.int32), True
        for block in self.vocabulary.split_blocks(blocks):
            more, is_known = self._encode(block)
            if is_known is not None:
                more = more[is_known]
                block = self.vocabulary.symbols_of(more)
            symbols, indices = self.vocabulary.join([symbols, block]), torch.cat([indices, more])
            while len(symbols) >= size + overlap:
                yield symbols[: size + overlap], indices[: size + overlap]
                symbols, indices, is_first = symbols[size:], indices[size:], False
        if is_first or len(symbols) > overlap:
            yield symbols, indices

    def _encode(self, symbols: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The indices (N,) int32 of symbols, and if some are to be left out, those (N,) that are not."""
        indices = self.vocabulary.encode_symbols(symbols)
        is_known = indices != self.vocabulary.outside
        num_unknown = len(indices) - int(is_known.sum())
        if not num_unknown:
            return indices, None
        self.num_unknown += num_unknown
        self.unknown.update(set(symbols).difference(self.vocabulary.symbols, BORDER))
        return indices, is_known if self.vocabulary.unknown is None else None


def check_window(window: int | None) -> int | None:
    """A window within its limits. Raises: OptionError."""
    if window is not None and window not in WINDOWS:
        raise OptionError(f"--window is {window}: it must be {WINDOWS}")
    return window


def split_lines(blocks: Iterable[str]) -> Iterator[str]:
    """The lines of a text without their ends. A border ends a line too, unless it stands at the begin of one."""
    rest = ""
    for block in blocks:
        text = rest + block
        if BORDER in text:
            text = text.removeprefix(BORDER).replace(_END + BORDER, _END).replace(BORDER, _END)
        *lines, rest = text.split(_END)
        yield from lines
    if rest:
        yield rest
