"""The loss of a text under a model: the mean over the text or over a part of it, or the loss of each symbol.

The schedule of evaluations during training is in `training/evaluation.py`.

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
"""Target that cross-entropy ignores."""
SEQ_LENGTH = 64
"""Time steps per chunk, and symbols to warm up the state of a stream."""
_MAX_STREAMS = 128
_MAX_LOGITS = 2**24  # per chunk: T x B x V
_CHUNKS_AHEAD = 16  # max chunks in the queue of a device
_MIN_CHUNKS = 4  # per part; the first chunk warms up the states
_MAX_PADDED = 2**21  # symbols of sequences in a batch, with padding


def evaluation_chunks(
    ids: Tensor, batch_size: int, seq_length: int, before_chunk: Callable[[], None] = lambda: None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets (T, B) int64 of chunks in which each of the N - 1 predictions of a text counts once.

    The text is cut into B streams. Each stream first reads the `seq_length` symbols before it, to warm up its state;
    these count only in the first stream. Targets that do not count are IGNORE.
    """
    N, T = len(ids), min(seq_length, len(ids) - 1)
    rest = N - 1 - T
    B = max(1, min(batch_size, rest // T))
    length = -(-rest // B)
    stream = torch.arange(B, device=ids.device)
    for start in range(-T, length, T):
        time = torch.arange(start, start + T + 1, device=ids.device)[:, None]  # (T + 1, 1)
        position = T + stream * length + time  # (T + 1, B)
        before_chunk()
        chunk = ids[position.clamp(max=N - 1)].long()
        is_own = (time < length) & ((time >= 0) | (stream == 0))
        counted = (is_own & (position < N - 1))[:-1]
        yield chunk[:-1], torch.where(counted, chunk[1:], IGNORE)


def max_logits(vocab_size: int) -> int:
    """Max logits per chunk of an evaluation."""
    return max_streams(vocab_size) * SEQ_LENGTH * vocab_size


def max_streams(vocab_size: int) -> int:
    """Max parallel streams of an evaluation: fewer for a larger vocabulary."""
    return max(1, min(_MAX_STREAMS, _MAX_LOGITS // (SEQ_LENGTH * vocab_size)))


@dataclass(frozen=True)
class Part:
    """The part of a text that an evaluation reads: the first `num_chunks` chunks of B streams, None for all chunks.

    The streams are spread evenly over the text; a single stream reads its beginning.
    """

    batch_size: int = _MAX_STREAMS
    num_chunks: int | None = None

    @classmethod
    def fit(cls, num_symbols: int, vocab_size: int, max_symbols: float) -> "Part":
        """The whole text if it has at most `max_symbols` symbols, else a part of about that size."""
        B = max_streams(vocab_size)
        if num_symbols <= max_symbols:
            return cls(B)
        B = max(1, min(B, int(max_symbols) // (SEQ_LENGTH * _MIN_CHUNKS)))
        return cls(B, max(_MIN_CHUNKS, int(max_symbols) // (SEQ_LENGTH * B)))

    def bounded(self, vocab_size: int) -> "Part":
        """The part with limits, so that a chunk fits into memory; for values from a file."""
        num_chunks = None if self.num_chunks is None else max(1, self.num_chunks)
        return Part(min(max(1, self.batch_size), max_streams(vocab_size)), num_chunks)

    def count(self, num_symbols: int) -> int:
        """Number of symbols to read in a text of `num_symbols`."""
        if self.num_chunks is None:
            return num_symbols
        return min(num_symbols, self.num_chunks * self.batch_size * SEQ_LENGTH)


@dataclass(frozen=True)
class Score:
    """A mean loss in nats per symbol, and its number of predictions."""

    loss: float
    num_predictions: int


def chunk_losses(model: CharRNN, x: Tensor, y: Tensor, state: State | None, runtime: Runtime) -> tuple[Tensor, State]:
    """The losses (T, B) of predicting y (T, B) from x (T, B), in nats on the device, and the new state.

    The loss of an IGNORE target is 0.
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
    """Mean loss of all ids (N,) but the first, with carried state.

    Several processes read a part of the streams each. At least one chunk is read, then chunks until `is_time_up`;
    `before_chunk` is called before each. The loss is NaN if `should_stop` interrupts it.
    """
    part = part or Part.fit(len(ids), model.config.vocab_size, math.inf)
    losses: list[Tensor] = []  # on the device: reading each would wait for it
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
    """The losses (N - 1,) of all ids (N,) but the first, with carried state, in nats.

    The text is cut into the same streams as by `evaluate`, so the mean is equal. `advance` is called with the number of
    predictions in each chunk.
    """
    if len(ids) < 2:
        return torch.zeros(0)
    losses, B, state = torch.zeros(len(ids) - 1), max_streams(model.config.vocab_size), None
    with evaluating(model):
        chunks = (evaluation_chunks(each, B, SEQ_LENGTH) for each in (ids, torch.arange(len(ids))))
        for (x, y), (_, position) in zip(*chunks, strict=True):
            chunk, state = chunk_losses(model, x, y, state, runtime)
            counted = position != IGNORE
            losses[position[counted] - 1] = chunk.cpu()[counted]
            advance(int(counted.sum()))
    return losses


@torch.no_grad()
def stream_losses(
    model: CharRNN, ids: Tensor, runtime: Runtime, state: State | None = None, advance: Advance = advance_nothing
) -> tuple[Tensor, State | None]:
    """The same losses (N - 1,), read in one stream from an initial state, and the final state.

    All chunks have the same shape, so that a loss does not depend on later text. On `advance` see `text_losses`.
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
    """The losses of all ids but the first of each sequence, each read from a zero state, in nats.

    Sequences of similar length are padded and read as a batch. On `advance` see `text_losses`.
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
    """The losses of all ids (N,) but the first, with a state that is reset every `window` ids.

    >>> torch.arange(7).unfold(0, 3 + 1, 3).tolist()  # windows of 3 predictions: 1 to 3, and 4 to 6
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
    """Batch size for sequences of a length: as many symbols at once as in two chunks of an evaluation."""
    T = min(max(1, length - 1), SEQ_LENGTH)
    return max(1, min(2 * SEQ_LENGTH * max_streams(vocab_size) // T, _MAX_PADDED // length))


def _batch_losses(
    model: CharRNN, text: Tensor, runtime: Runtime, state: State | None = None, advance: Advance = advance_nothing
) -> tuple[Tensor, State | None]:
    """The losses (N - 1, B) of sequences (N, B) that are padded with IGNORE, and the final state."""
    T = max(1, min(SEQ_LENGTH, _MAX_LOGITS // (text.shape[1] * model.config.vocab_size)))
    losses = []
    for start in range(0, len(text) - 1, T):
        chunk = text[start : start + T + 1]
        chunk_loss, state = chunk_losses(model, chunk[:-1].clamp(min=0), chunk[1:], state, runtime)
        losses.append(chunk_loss.cpu())
        advance(int((chunk[1:] != IGNORE).sum()))
    return torch.cat(losses), state
