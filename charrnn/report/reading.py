"""Run a model on a text and store predictions, surprisals and states of each symbol; compute the calibration.

Letters in shapes: N symbols, S symbols of a stream, B streams, K likeliest symbols, U units of the state, V vocabulary
size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from charrnn.model.network import CharRNN, State

NUM_LIKELIEST = 5
_MAX_SYMBOLS, _MAX_STATES, _MAX_LOGITS = 2**15, 2**24, 2**26
_MAX_STREAMS, _MIN_STREAM, _WARM_UP = 64, 256, 64
_NUM_BINS, _MIN_COUNT = 10, 20


@dataclass(frozen=True)
class Reading:
    """N successive symbols of a text, with the model's predictions and states."""

    texts: list[str]
    ids: Tensor
    """(N,)"""
    bits: Tensor
    """The surprisal (N,) of each symbol."""
    likeliest: Tensor
    """The most likely symbols (N, K) at each position, likeliest first."""
    probabilities: Tensor
    """Their probabilities (N, K)."""
    states: Tensor
    """The state (N, U) after each symbol: tanh of the cell states of all layers, or hidden states if there are none."""


@torch.no_grad()
def read(model: CharRNN, ids: Tensor, show: Callable[[list[int]], list[str]]) -> Reading | None:
    """Read the start of a text (N,), limited to a second or two; None if the text is too short.

    `show` returns the text of each id. The text is cut into parallel streams; each first reads the symbols before it.
    """
    warm_up = min(_WARM_UP, len(ids) // 4)
    config = model.config
    N = min(
        len(ids) - warm_up,
        _MAX_SYMBOLS,
        _MAX_STATES // (config.num_layers * config.hidden_size),
        _MAX_LOGITS // config.vocab_size,
    )
    if warm_up < 1 or N < 2:
        return None
    B = max(1, min(_MAX_STREAMS, N // _MIN_STREAM))
    S = N // B
    starts = torch.arange(B) * S
    columns: list[tuple[Tensor, ...]] = []
    state: State | None = None
    log_p = torch.zeros(0)
    for step in range(warm_up + S):
        x = ids[starts + step]  # (B,)
        logits, new_state = model(x[None], state)
        if step >= warm_up:
            top = log_p.topk(min(NUM_LIKELIEST, log_p.shape[1]))  # (B, K)
            columns.append((x, -log_p.gather(1, x[:, None])[:, 0], top.indices, top.values.exp(), _units(new_state)))
        log_p, state = logits[0].log_softmax(-1), new_state  # (B, V)
    x, nats, likeliest, p, states = (torch.stack(column, 1).flatten(0, 1) for column in zip(*columns, strict=True))
    return Reading(show(x.tolist()), x, nats / math.log(2), likeliest, p, states)


def _units(state: State) -> Tensor:
    """The units (B, U) of a state."""
    return torch.cat([layer[1].tanh() if len(layer) == 2 else layer[0] for layer in state], -1)[0]


@dataclass(frozen=True)
class Calibration:
    """The probability of the most likely symbol compared with its accuracy."""

    bins: list[tuple[float, float, float]]
    """Mean probability, accuracy and number of the predictions in each bin."""
    error: float
    """Expected calibration error: mean difference of probability and accuracy, weighted by count."""
    accuracy: float
    """Fraction of all symbols for which the prediction was right."""


def calibrate(reading: Reading) -> Calibration:
    """The calibration in bins of equal width. Bins with few predictions are left out, but count in the error.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """
    confidence = reading.probabilities[:, 0].double()
    is_right = (reading.likeliest[:, 0] == reading.ids).double()
    bins = (confidence * _NUM_BINS).long().clamp(max=_NUM_BINS - 1)
    counts = torch.bincount(bins, minlength=_NUM_BINS)
    confidences, accuracies = (
        torch.bincount(bins, weights=each, minlength=_NUM_BINS) / counts.clamp(min=1) for each in (confidence, is_right)
    )
    error = float(((confidences - accuracies).abs() * counts).sum() / counts.sum())
    is_shown = counts >= min(_MIN_COUNT, int(counts.max()))
    shown = torch.stack([confidences, accuracies, counts], 1)[is_shown]
    return Calibration(list(map(tuple, shown.tolist())), error, float(is_right.mean()))
