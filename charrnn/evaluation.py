"""The loss on held-out text: on all of it, or on a part that is spread over it and is the same each time.

When an evaluation is due, and what its loss decides, is the trainer's business.

Letters in shapes: N symbols, T time steps, B parallel streams, V vocabulary size.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.batches import IGNORE, evaluation_chunks
from charrnn.model import CharRNN, evaluating
from charrnn.runtime import Runtime

_MAX_STREAMS = 128
_SEQ_LENGTH = 64
_MAX_LOGITS = 2**24  # of a chunk, T x B x V
_MIN_CHUNKS = 4  # of a part, the first of which warms the states up


def max_logits(vocab_size: int) -> int:
    """Logits of a chunk of an evaluation at most."""
    return max_streams(vocab_size) * _SEQ_LENGTH * vocab_size


def max_streams(vocab_size: int) -> int:
    """Streams that an evaluation reads at once at most, the fewer the more symbols there are to predict."""
    return max(1, min(_MAX_STREAMS, _MAX_LOGITS // (_SEQ_LENGTH * vocab_size)))


@dataclass(frozen=True)
class Part:
    """The part of a text that an evaluation reads: the first `num_chunks` chunks of B streams; None for all.

    The streams begin at even distances; a single one reads the text's beginning.
    """

    batch_size: int = _MAX_STREAMS
    num_chunks: int | None = None

    @classmethod
    def fit(cls, num_symbols: int, vocab_size: int, max_symbols: float) -> "Part":
        """The whole text of N symbols where it is no longer than `max_symbols`, else a part of about that size."""
        B, T = max_streams(vocab_size), _SEQ_LENGTH
        if num_symbols <= max_symbols:
            return cls(B)
        B = max(1, min(B, int(max_symbols) // (T * _MIN_CHUNKS)))
        return cls(B, max(_MIN_CHUNKS, int(max_symbols) // (T * B)))

    def count(self, num_symbols: int) -> int:
        """Symbols of a text of N that are read."""
        if self.num_chunks is None:
            return num_symbols
        return min(num_symbols, self.num_chunks * self.batch_size * _SEQ_LENGTH)


@dataclass(frozen=True)
class Measured:
    """A mean loss in nats, and the number of predictions that it is the mean of."""

    loss: float
    num_predictions: int


@torch.no_grad()
def evaluate(
    model: CharRNN,
    indices: Tensor,
    runtime: Runtime,
    part: Part | None = None,
    *,
    seq_length: int = _SEQ_LENGTH,
    should_stop: Callable[[], bool] = lambda: False,
    is_time_up: Callable[[], bool] = lambda: False,
) -> Measured:
    """Measure the loss of predicting each of the N indices but the first, with carried state.

    Where time is up, fewer chunks are read than were meant to be. Returns: a loss of NaN if `should_stop` ended it.
    """
    part = part or Part.fit(len(indices), model.config.vocab_size, math.inf)
    total, count, state = torch.zeros((), dtype=torch.float64), 0, None
    with evaluating(model):
        for x, y in itertools.islice(evaluation_chunks(indices, part.batch_size, seq_length), part.num_chunks):
            if should_stop():
                return Measured(math.nan, count)
            if count > 0 and is_time_up():
                break
            with runtime.autocast():
                logits, state = model(runtime.place(x), state)
            count += int((y != IGNORE).sum())
            targets = runtime.place(y).flatten()
            total += F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum").cpu()
    return Measured(float(total) / count, count)
