"""A model's reading of a text, symbol by symbol: its predictions, its surprisal, its state, and its calibration.

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
    """N successive symbols of a text, and what the model made of each."""

    texts: list[str]
    ids: Tensor
    """(N,)"""
    bits: Tensor
    """The surprisal of each (N,)."""
    likeliest: Tensor
    """The symbols that were expected in its place (N, K), likeliest first."""
    probabilities: Tensor
    """Their probabilities (N, K)."""
    states: Tensor
    """The units (N, U) after it was read: all layers' cells behind a tanh, or hidden states where there are none."""


@torch.no_grad()
def read(model: CharRNN, ids: Tensor, show: Callable[[list[int]], list[str]]) -> Reading | None:
    """Read the beginning of a text (N,), as much as takes a second or two; None if it is too short.

    `show` gives the text of each index. The text is cut into streams that are read side by side; each first reads the
    symbols before its own.
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
    begins = torch.arange(B) * S
    columns: list[tuple[Tensor, ...]] = []
    state: State | None = None
    log_p = torch.zeros(0)
    for place in range(warm_up + S):
        x = ids[begins + place]  # (B,)
        logits, after = model(x[None], state)
        if place >= warm_up:
            top = log_p.topk(min(NUM_LIKELIEST, log_p.shape[1]))  # (B, K)
            columns.append((x, -log_p.gather(1, x[:, None])[:, 0], top.indices, top.values.exp(), _units(after)))
        log_p, state = logits[0].log_softmax(-1), after  # (B, V)
    x, nats, likeliest, p, states = (torch.stack(column, 1).flatten(0, 1) for column in zip(*columns, strict=True))
    return Reading(show(x.tolist()), x, nats / math.log(2), likeliest, p, states)


def _units(state: State) -> Tensor:
    """The units (B, U) of a state."""
    return torch.cat([layer[1].tanh() if len(layer) == 2 else layer[0] for layer in state], -1)[0]


@dataclass(frozen=True)
class Calibration:
    """The probability of the likeliest symbol compared with the share of cases in which that came."""

    bins: list[tuple[float, float, float]]
    """Mean probability, share that came, and count of the predictions in each bin."""
    error: float
    """The expected calibration error: the mean distance of the two, each bin by its count."""
    accuracy: float
    """The share of all symbols that were the likeliest."""


def calibrate(reading: Reading) -> Calibration:
    """The calibration in bins of equal width. Bins of a few predictions count for the error, but are left out.

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
