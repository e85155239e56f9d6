"""Score texts under a trained model, in blocks or by line, with the losses of `model/scoring.py`."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from charrnn.config import WINDOWS
from charrnn.errors import OptionError, opt
from charrnn.machine.runtime import Runtime
from charrnn.model.adaptation import Adaptation
from charrnn.model.network import CharRNN, State
from charrnn.model.scoring import SEQ_LENGTH, sequence_losses, stream_losses, text_losses, window_losses
from charrnn.terminal import Advance, advance_nothing
from charrnn.text.tokenizers import UNKNOWN_CHAR, Tokenizer

_SEGMENT = 2**22  # max symbols to score at once
_MAX_EXACT = 50_000  # max symbols of a text to read in one stream
_POOL_LINES, _POOL_CHARS = 2**15, 2**21  # max lines and characters to score at once


@dataclass(frozen=True)
class Scored:
    """The predicted symbols of a text (N,), their surprisals (N,) in bits, and their number of characters."""

    symbols: Sequence[str]
    surprisals: Tensor
    num_chars: float
    num_bytes: int = 0  # in UTF-8
    adapted: Tensor | None = None  # surprisals (N,) by dynamic evaluation
    num_unknown: int = 0  # symbols outside the vocabulary, if a line was scored

    @property
    def bits_per_char(self) -> float:
        """Mean surprisal; NaN if no symbol was scored."""
        return float(self.surprisals.double().sum()) / self.num_chars if self.num_chars else math.nan


@dataclass
class Scorer:
    """Score texts under a model.

    Symbols outside its vocabulary are scored as <unk>, or left out if the vocabulary has no <unk>; they are counted in
    `num_unknown` and collected in `unknown`.
    """

    model: CharRNN
    tokenizer: Tokenizer
    runtime: Runtime
    advance: Advance = advance_nothing  # called with the number of symbols scored since the last call
    num_unknown: int = 0
    unknown: set[str] = field(default_factory=set)

    def score(
        self, blocks: Iterable[str], window: int | None = None, *, adapt: bool = False, exact: bool = False
    ) -> Iterator[Scored]:
        """The surprisals of a text in blocks, except of its first symbol, which is not predicted.

        The state is carried through the text, or reset every `window` symbols. A text of more than 50,000 symbols is
        read in parallel streams, unless `exact`: in one stream a surprisal depends only on the text before it. With
        `adapt` the text is also scored by dynamic evaluation, see `model/adaptation.py`. Raises: OptionError.
        """
        adaptation = Adaptation(self.model, self.runtime) if adapt else None
        advance = advance_nothing if adapt else self.advance  # dynamic evaluation takes most of the time
        size, overlap, first = _SEGMENT, 1 if exact else SEQ_LENGTH, 1
        state: State | None = None
        if window is not None:
            if window not in WINDOWS:
                raise OptionError(f"{opt.window} is {window}: it must be {WINDOWS}")
            size, overlap = max(1, _SEGMENT // window) * window, 1
        for symbols, ids in self._segments(blocks, size, overlap):
            if window is None and (exact or len(symbols) <= _MAX_EXACT):
                losses, state = stream_losses(self.model, ids, self.runtime, state, advance)
            elif window is None:
                losses = text_losses(self.model, ids, self.runtime, advance)
            else:
                losses = window_losses(self.model, ids, window, self.runtime, advance)
            adapted = None
            if adaptation is not None:
                adapted = adaptation.losses(ids[first - 1 :], self.advance) / math.log(2)
            num_chars = self._count_chars(symbols[first:], ids[first:])
            num_bytes = self.tokenizer.count_bytes(ids[first:])
            yield Scored(symbols[first:], losses[first - 1 :] / math.log(2), num_chars, num_bytes, adapted)
            first = overlap

    def score_lines(self, lines: Iterable[str]) -> Iterator[tuple[str, Scored]]:
        """Each line with its surprisals; the model reads a line end first, and the line end of the line is predicted.

        A model of documents reads each line as a document. If the vocabulary has no line end, the first symbol of a
        line is not predicted. A symbol outside the vocabulary, or a line without predictions, has log2 V bits, as in a
        uniform distribution.
        """
        pool, size = list[str](), 0
        for line in lines:
            pool.append(line)
            size += len(line)
            if len(pool) == _POOL_LINES or size > _POOL_CHARS:
                yield from self._score_pool(pool)
                pool, size = [], 0
        yield from self._score_pool(pool)

    def _score_pool(self, lines: list[str]) -> Iterator[tuple[str, Scored]]:
        tokenizer = self.tokenizer
        end = [tokenizer.line_end] if tokenizer.line_end else []
        parts = list(map(tokenizer.split, lines))
        symbols = [*end, *(symbol for part in parts for symbol in (*part, *end))]
        ids, _ = self._encode(symbols)
        starts = itertools.accumulate((len(part) + len(end) for part in parts), initial=0)
        spans = [slice(start, start + len(part) + 2 * len(end)) for start, part in zip(starts, parts, strict=False)]
        is_unknown = ids == tokenizer.outside
        is_read = ~is_unknown | (tokenizer.unk_id is not None)
        read = [ids[span][is_read[span]] for span in spans]
        losses = sequence_losses(self.model, read, self.runtime, self.advance)
        num_before = torch.cat([torch.zeros(1, dtype=torch.int64), is_unknown.cumsum(0)]).tolist()
        for line, span, nats in zip(lines, spans, losses, strict=True):
            if len(nats) and num_before[span.start] == num_before[span.stop]:
                predicted = symbols[span][1:]
                yield line, Scored(predicted, nats / math.log(2), self._count_chars(predicted, ids[span][1:]))
            else:
                yield line, self._score_with_unknown(symbols[span], ids[span], is_read[span], nats / math.log(2))

    def _score_with_unknown(self, symbols: Sequence[str], ids: Tensor, is_read: Tensor, surprisals: Tensor) -> Scored:
        """The surprisals of a line (N,), with at least log2 V bits for symbols outside the vocabulary."""
        uniform, is_unknown = math.log2(self.tokenizer.size), ids == self.tokenizer.outside
        bits, positions = torch.full(ids.shape, uniform), is_read.nonzero().flatten()
        bits[positions[1:]] = surprisals
        bits[is_unknown] = bits[is_unknown].clamp(min=uniform)
        is_scored = torch.ones_like(is_read)
        is_scored[positions[:1]] = False
        if not is_scored.any():
            return Scored([""], torch.tensor([uniform]), 1.0)
        kept = [symbols[i] for i in is_scored.nonzero().flatten().tolist()]
        num_chars = self._count_chars(kept, ids[is_scored])
        return Scored(kept, bits[is_scored], num_chars, num_unknown=int(is_unknown.sum()))

    def _count_chars(self, symbols: Sequence[str], ids: Tensor) -> float:
        """Number of characters of symbols with ids (N,); the mean length for a word that is stored as U+FFFD."""
        tokenizer, is_unknown = self.tokenizer, ids == self.tokenizer.outside
        num_chars = tokenizer.count_chars(ids[~is_unknown])
        if not tokenizer.has_words:
            return num_chars + int(is_unknown.sum())
        mean = 0.0 if tokenizer.unk_id is None else float(tokenizer.lengths[tokenizer.unk_id])
        positions = is_unknown.nonzero().flatten().tolist()
        return num_chars + sum(mean if symbols[i] == UNKNOWN_CHAR else len(symbols[i]) for i in positions)

    def _segments(self, blocks: Iterable[str], size: int, overlap: int) -> Iterator[tuple[Sequence[str], Tensor]]:
        """The known symbols of a text and their ids, `size` at a time, after the last `overlap` symbols."""
        symbols, ids, is_first = self.tokenizer.split(""), torch.zeros(0, dtype=torch.int32), True
        for block in self.tokenizer.split_blocks(blocks):
            more, is_known = self._encode(block)
            if is_known is not None:
                more = more[is_known]
                block = self.tokenizer.decode_marked(more)
            symbols = symbols + block  # type: ignore[operator] # two strings, or two lists of words
            ids = torch.cat([ids, more])
            while len(symbols) >= size + overlap:
                yield symbols[: size + overlap], ids[: size + overlap]
                symbols, ids, is_first = symbols[size:], ids[size:], False
        if is_first or len(symbols) > overlap:
            yield symbols, ids

    def _encode(self, symbols: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The ids (N,) int32 of symbols, and a mask (N,) of those to keep; None if all are kept."""
        ids = self.tokenizer.ids_of(symbols)
        is_known = ids != self.tokenizer.outside
        num_unknown = len(ids) - int(is_known.sum())
        if not num_unknown:
            return ids, None
        self.num_unknown += num_unknown
        self.unknown.update(self.tokenizer.missing(symbols))
        return ids, is_known if self.tokenizer.unk_id is None else None
