"""The loss of a text under a model: of the whole text, of a part that is spread over it, or of each symbol.

The schedule of evaluations, and their consequences, are left to `training/evaluation.py`.

Letters in shapes: N symbols, T time steps, B parallel streams or sequences, V vocabulary size.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, State, evaluating
from charrnn.terminal import Advance, advance_nothing

IGNORE = -100
"""The target that cross-entropy ignores."""
SEQ_LENGTH = 64
"""Time steps of a chunk, and symbols that warm up the state of a stream."""
_MAX_STREAMS = 128
_MAX_LOGITS = 2**24  # of a chunk, T x B x V
_CHUNKS_AHEAD = 16  # queued on a device before it is waited for
_MIN_CHUNKS = 4  # of a part; the first one warms up the states
_MAX_PADDED = 2**21  # symbols of sequences that are read side by side


def evaluation_chunks(
    ids: Tensor, batch_size: int, seq_length: int, before_chunk: Callable[[], None] = lambda: None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks (T, B) int64, all of one shape, that count each of the N - 1 predictions of a text once.

    The text is cut into B streams. To warm up its state, each stream first reads the `seq_length` symbols before its
    part. They count in the first stream only; targets that do not count are IGNORE.
    """
    N, T = len(ids), min(seq_length, len(ids) - 1)
    rest = N - 1 - T
    B = max(1, min(batch_size, rest // T))
    length = -(-rest // B)
    stream = torch.arange(B, device=ids.device)
    for begin in range(-T, length, T):
        time = torch.arange(begin, begin + T + 1, device=ids.device)[:, None]  # (T + 1, 1)
        position = T + stream * length + time  # (T + 1, B)
        before_chunk()
        chunk = ids[position.clamp(max=N - 1)].long()
        own = (time < length) & ((time >= 0) | (stream == 0))
        counted = (own & (position < N - 1))[:-1]
        yield chunk[:-1], torch.where(counted, chunk[1:], IGNORE)


def max_logits(vocab_size: int) -> int:
    """Max logits in a chunk of an evaluation."""
    return max_streams(vocab_size) * SEQ_LENGTH * vocab_size


def max_streams(vocab_size: int) -> int:
    """Max parallel streams of an evaluation: fewer for a larger vocabulary."""
    return max(1, min(_MAX_STREAMS, _MAX_LOGITS // (SEQ_LENGTH * vocab_size)))


@dataclass(frozen=True)
class Part:
    """The part of a text that an evaluation reads: the first `num_chunks` chunks of B streams; None for all.

    The streams are spread evenly over the text; a single one reads its beginning.
    """

    batch_size: int = _MAX_STREAMS
    num_chunks: int | None = None

    @classmethod
    def fit(cls, num_symbols: int, vocab_size: int, max_symbols: float) -> "Part":
        """The whole text if it has at most `max_symbols`, else a part of about that size."""
        B = max_streams(vocab_size)
        if num_symbols <= max_symbols:
            return cls(B)
        B = max(1, min(B, int(max_symbols) // (SEQ_LENGTH * _MIN_CHUNKS)))
        return cls(B, max(_MIN_CHUNKS, int(max_symbols) // (SEQ_LENGTH * B)))

    def bounded(self, vocab_size: int) -> "Part":
        """The same part, limited so that a chunk fits into memory; for a part that comes from a file."""
        num_chunks = None if self.num_chunks is None else max(1, self.num_chunks)
        return Part(min(max(1, self.batch_size), max_streams(vocab_size)), num_chunks)

    def count(self, num_symbols: int) -> int:
        """The number of symbols read of a text of N."""
        if self.num_chunks is None:
            return num_symbols
        return min(num_symbols, self.num_chunks * self.batch_size * SEQ_LENGTH)


@dataclass(frozen=True)
class Score:
    """A mean loss in nats per symbol, and the number of predictions that it averages."""

    loss: float
    num_predictions: int


def chunk_losses(model: CharRNN, x: Tensor, y: Tensor, state: State | None, runtime: Runtime) -> tuple[Tensor, State]:
    """The loss (T, B) of predicting y (T, B) from x (T, B), in nats on the device, and the state after them.

    Targets that are IGNORE have a loss of 0.
    """
    with runtime.autocast():
        logits, state = model(runtime.send(x), state)
    targets = runtime.send(y).flatten()
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORE, reduction="none")
    return losses.view(y.shape), state


@torch.no_grad()
def evaluate(
    model: CharRNN,
    ids: Tensor,
    runtime: Runtime,
    part: Part | None = None,
    *,
    before_chunk: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    is_time_up: Callable[[], bool] = lambda: False,
) -> Score:
    """Mean loss of predicting each of the N ids but the first, with carried state.

    Each process of a training reads its part of the streams. At least one chunk is read, and none once `is_time_up`;
    `before_chunk` is called before each. The loss is NaN if `should_stop` interrupted it.
    """
    part = part or Part.fit(len(ids), model.config.vocab_size, math.inf)
    losses: list[Tensor] = []  # on the device, which is waited for now and then only
    counts: list[Tensor] = []
    state = None
    with evaluating(model):
        chunks = evaluation_chunks(ids, part.batch_size, SEQ_LENGTH, before_chunk)
        for i, (x, y) in enumerate(itertools.islice(chunks, part.num_chunks)):
            if should_stop():
                return Score(math.nan, 0)
            if i and i % _CHUNKS_AHEAD == 0:
                runtime.synchronize()
            if i and is_time_up():
                break
            mine = runtime.ranks.part(x.shape[1])
            x, y = x[:, mine], y[:, mine]
            if not y.numel():  # fewer streams than processes
                continue
            chunk, state = chunk_losses(model, x, y, state, runtime)
            losses.append(chunk.sum())
            counts.append((y != IGNORE).sum())
    total, count = runtime.ranks.sum([sum(torch.stack(each).tolist()) if each else 0 for each in (losses, counts)])
    return Score(total / count, int(count))


@torch.no_grad()
def text_losses(model: CharRNN, ids: Tensor, runtime: Runtime, advance: Advance = advance_nothing) -> Tensor:
    """The loss of each of the N ids but the first, with carried state: (N - 1,) in nats.

    The streams are those of `evaluate` for the whole text, so that the mean is what it measures. `advance` is called
    with the number of symbols that each chunk predicts.
    """
    if len(ids) < 2:
        return torch.zeros(0)
    losses, B, state = torch.zeros(len(ids) - 1), max_streams(model.config.vocab_size), None
    with evaluating(model):
        chunks = (evaluation_chunks(each, B, SEQ_LENGTH) for each in (ids, torch.arange(len(ids))))
        for (x, y), (_, place) in zip(*chunks, strict=True):
            chunk, state = chunk_losses(model, x, y, state, runtime)
            counted = place != IGNORE
            losses[place[counted] - 1] = chunk.cpu()[counted]
            advance(int(counted.sum()))
    return losses


@torch.no_grad()
def stream_losses(
    model: CharRNN, ids: Tensor, runtime: Runtime, state: State | None = None, advance: Advance = advance_nothing
) -> tuple[Tensor, State | None]:
    """The same losses (N - 1,) in one stream from a state, and the state after it.

    All chunks have one shape, so that a loss does not depend on the text after it. On `advance` see `text_losses`.
    """
    if (num_losses := len(ids) - 1) < 1:
        return torch.zeros(0), state
    text = F.pad(ids.long(), (0, -num_losses % SEQ_LENGTH), value=IGNORE)[:, None]
    with evaluating(model):
        losses, state = _batch_losses(model, text, runtime, state, advance)
    return losses.flatten()[:num_losses], state


@torch.no_grad()
def sequence_losses(
    model: CharRNN, sequences: Sequence[Tensor], runtime: Runtime, advance: Advance = advance_nothing
) -> list[Tensor]:
    """The loss of each index of each sequence but its first, each read from an empty state, in nats.

    Sequences of like lengths are read side by side, and padded at their ends. On `advance` see `text_losses`.
    """
    losses = [torch.zeros(0)] * len(sequences)
    longest_first = sorted((i for i, each in enumerate(sequences) if len(each) > 1), key=lambda i: -len(sequences[i]))
    with evaluating(model):
        while longest_first:
            B = _num_sequences(len(sequences[longest_first[0]]), model.config.vocab_size)
            batch, longest_first = longest_first[:B], longest_first[B:]
            text = pad_sequence([sequences[i].long() for i in batch], padding_value=IGNORE)  # (N, B)
            each = _batch_losses(model, text, runtime)[0].T.contiguous()  # (B, N - 1)
            for i, row in zip(batch, each, strict=True):
                losses[i] = row[: len(sequences[i]) - 1]
            advance(sum(len(losses[i]) for i in batch))
    return losses


@torch.no_grad()
def window_losses(
    model: CharRNN, ids: Tensor, window: int, runtime: Runtime, advance: Advance = advance_nothing
) -> Tensor:
    """The loss of each of the N ids but the first, with a state that is emptied every `window` of them.

    >>> torch.arange(7).unfold(0, 3 + 1, 3).tolist()  # windows of 3 predict 1 to 3 and 4 to 6
    [[0, 1, 2, 3], [3, 4, 5, 6]]

    Returns: (N - 1,) in nats. On `advance` see `text_losses`.
    """
    if (num_losses := len(ids) - 1) < 1:
        return torch.zeros(0)
    window = min(window, num_losses)
    padding = -num_losses % window
    windows = F.pad(ids.long(), (0, padding), value=IGNORE).unfold(0, window + 1, window)
    losses = []
    with evaluating(model):
        for batch in windows.split(_num_sequences(window + 1, model.config.vocab_size)):
            losses.append(_batch_losses(model, batch.T.contiguous(), runtime)[0].T.flatten())
            advance(len(losses[-1]))
    return torch.cat(losses)[:num_losses]


def _num_sequences(length: int, vocab_size: int) -> int:
    """Sequences of one length to read side by side: as many symbols at once as in two chunks of an evaluation."""
    T = min(max(1, length - 1), SEQ_LENGTH)
    return max(1, min(2 * SEQ_LENGTH * max_streams(vocab_size) // T, _MAX_PADDED // length))


def _batch_losses(
    model: CharRNN, text: Tensor, runtime: Runtime, state: State | None = None, advance: Advance = advance_nothing
) -> tuple[Tensor, State | None]:
    """The losses (N - 1, B) of sequences (N, B) that are padded with IGNORE, in chunks with carried state, and that."""
    T = max(1, min(SEQ_LENGTH, _MAX_LOGITS // (text.shape[1] * model.config.vocab_size)))
    losses = []
    for begin in range(0, len(text) - 1, T):
        chunk = text[begin : begin + T + 1]
        chunk_loss, state = chunk_losses(model, chunk[:-1].clamp(min=0), chunk[1:], state, runtime)
        losses.append(chunk_loss.cpu())
        advance(int((chunk[1:] != IGNORE).sum()))
    return torch.cat(losses), state
