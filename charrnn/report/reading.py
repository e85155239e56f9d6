"""A model's way through a text, symbol by symbol: what it expected, what surprised it, and its state.

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


@dataclass(frozen=True)
class Reading:
    """N successive symbols of a text, and what the model made of each."""

    texts: list[str]
    indices: Tensor
    """(N,)"""
    bits: Tensor
    """The surprisal of each (N,)."""
    likeliest: Tensor
    """The symbols that were expected in its place (N, K), likeliest first."""
    probabilities: Tensor
    """Their probabilities (N, K)."""
    states: Tensor
    """The units (N, U) after it was read: all layers' cells behind a tanh, or hidden states where there are none."""

    @property
    def bits_per_symbol(self) -> float:
        """The mean surprisal."""
        return float(self.bits.double().mean())


@torch.no_grad()
def read(model: CharRNN, indices: Tensor, show: Callable[[Tensor], list[str]]) -> Reading | None:
    """Read the beginning of a text (N,), as much as takes a second or two; None if it is too short.

    `show` gives the text of each index. The text is cut into streams that are read side by side; each first reads the
    symbols before its own.
    """
    warm_up = min(_WARM_UP, len(indices) // 4)
    config = model.config
    N = min(
        len(indices) - warm_up,
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
        x = indices[begins + place]  # (B,)
        logits, after = model(x[None], state)
        if place >= warm_up:
            columns.append((x, -log_p.gather(1, x[:, None])[:, 0], *_likeliest(log_p), _units(after)))
        log_p, state = logits[0].log_softmax(-1), after  # (B, V)
    x, nats, likeliest, p, states = (torch.stack(column, 1).flatten(0, 1) for column in zip(*columns, strict=True))
    return Reading(show(x), x, nats / math.log(2), likeliest, p, states)


def _likeliest(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The K likeliest symbols (B, K) and their probabilities (B, K)."""
    top = log_p.topk(min(NUM_LIKELIEST, log_p.shape[1]))
    return top.indices, top.values.exp()


def _units(state: State) -> Tensor:
    """The units (B, U) of a state."""
    return torch.cat([layer[1].tanh() if len(layer) == 2 else layer[0] for layer in state], -1)[0]
