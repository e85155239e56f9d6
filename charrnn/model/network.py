"""The network: indices in, logits out, the state handed in and returned.

`RecurrentStack` is the general part: any sequence of vectors through a stack of recurrent layers. `CharRNN`
puts an input encoding before it and a linear layer behind it. Training is `training.py`'s business.

Letters in shapes: T time steps, B parallel streams, V vocabulary size, E embedding size, I input size,
H hidden size, L layers.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import Cell, ModelConfig

State: TypeAlias = tuple[tuple[Tensor, ...], ...]
"""For each of L layers the tensors it carries, each (1, B, H): (h, c) for an LSTM, (h,) for the others."""


@dataclass(frozen=True)
class _Kind:
    """A kind of layer: its module, the function that the module calls, its gates and carried tensors."""

    module: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]
    sequence: Callable[..., tuple[Tensor, ...]]
    gates: int
    state_tensors: int


_KINDS: dict[Cell, _Kind] = {
    "lstm": _Kind(nn.LSTM, torch.lstm, 4, 2),
    "gru": _Kind(nn.GRU, torch.gru, 3, 1),
    "rnn": _Kind(nn.RNN, torch.rnn_tanh, 1, 1),
}


def detach(state: State) -> State:
    """The same state without its history: the one place where backpropagation through time is cut."""
    return tuple(tuple(tensor.detach() for tensor in layer) for layer in state)


def carry(state: State, into: State, keep: Tensor) -> None:
    """Copy a state, without its history, to where the next chunk reads it.

    Streams that `keep` (B,), bool, does not name begin anew, with zeros.
    """
    for layer, buffers in zip(detach(state), into, strict=True):
        for tensor, buffer in zip(layer, buffers, strict=True):
            buffer.copy_(torch.where(keep[:, None], tensor, 0))


def clear(state: State) -> None:
    """Empty a state where it lies."""
    for layer in state:
        for tensor in layer:
            tensor.zero_()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class SharedDropout(nn.Module):
    """Dropout whose mask is drawn once per call and shared by all time steps.

    Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in RNNs" (2016).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x: (T, B, H) to the same shape, unchanged in evaluation."""
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(1, *x.shape[1:]), self.p)


class RecurrentStack(nn.Module):
    """L single-layer LSTM, GRU or tanh RNN modules, with time-shared dropout on the output of each.

    Half as large a share of the state is hidden from the recurrent weights, from all streams and time steps
    alike: columns of weight_hh are dropped, so that the layer stays one call of a library.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: Cell = "lstm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(_KINDS[cell].module(size, hidden_size) for size in sizes)
        self.dropout = SharedDropout(dropout)
        self.recurrent_dropout = dropout / 2
        self.cell = cell
        self.reset_biases()

    @torch.no_grad()
    def reset_biases(self) -> None:
        """Zero all biases but the forget gates' of an LSTM, which begin at 1.

        Source: Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures" (2015).
        """
        for layer in self.layers:
            _, _, bias_ih, bias_hh = layer_weights(layer)
            bias_ih.zero_()
            bias_hh.zero_()
            if isinstance(layer, nn.LSTM):  # gates lie in the order input, forget, cell, output
                bias_ih[layer.hidden_size : 2 * layer.hidden_size] = 1

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x: (T, B, I), state or None for zeros; returns the last layer's outputs (T, B, H) and the new state."""
        new_state = []
        for i, layer in enumerate(self.layers):
            x, after = self._run(layer, x, None if state is None else state[i])
            new_state.append(after)
            x = self.dropout(x)
        return x, tuple(new_state)

    def _run(self, layer: nn.Module, x: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One layer over x (T, B, I): its outputs (T, B, H) and its new state."""
        weight_ih, weight_hh, *biases = layer_weights(layer)
        H, kind = weight_hh.shape[1], _KINDS[self.cell]
        if state is None:
            state = (x.new_zeros(1, x.shape[1], H),) * kind.state_tensors
        if self.training and self.recurrent_dropout > 0:
            weight_hh = weight_hh * F.dropout(weight_hh.new_ones(H), self.recurrent_dropout)
        weights = [weight_ih, weight_hh, *biases]
        hx = state if self.cell == "lstm" else state[0]
        outputs, *new_state = kind.sequence(x, hx, weights, True, 1, 0.0, self.training, False, False)
        return outputs, tuple(new_state)


def layer_weights(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A recurrent layer's weight_ih (G, I), weight_hh (G, H), bias_ih (G,), bias_hh (G,), G gate rows."""
    assert isinstance(layer, nn.RNNBase)
    weight_ih, weight_hh, bias_ih, bias_hh = layer.all_weights[0]
    return weight_ih, weight_hh, bias_ih, bias_hh


class CharRNN(nn.Module):
    """A language model over V symbols; build it from a ModelConfig."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        V, E = config.vocab_size, config.embedding_size
        self.config = config
        self.embedding = None if E is None else nn.Embedding(V, E)
        self.stack = RecurrentStack(
            E or V, config.hidden_size, config.num_layers, cell=config.cell, dropout=config.dropout or 0.0
        )
        self.head = nn.Linear(config.hidden_size, V)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x: (T, B) int64; returns logits (T, B, V) and the state behind the last time step."""
        outputs, state = self.stack(self.encode(x), state)  # (T, B, H)
        return self.head(outputs), state

    def encode(self, x: Tensor) -> Tensor:
        """What the first layer reads: (T, B) to (T, B, E), or to one-hot vectors (T, B, V)."""
        if self.embedding is None:
            return F.one_hot(x, self.config.vocab_size).to(self.head.weight.dtype)
        embedded: Tensor = self.embedding(x)
        return embedded

    def initial_state(self, batch_size: int) -> State:
        """An empty state of B streams, where the weights are."""
        config, weight = self.config, self.head.weight
        shape, count = (1, batch_size, config.hidden_size), _KINDS[config.cell].state_tensors
        return tuple(tuple(weight.new_zeros(shape) for _ in range(count)) for _ in range(config.num_layers))

    @property
    def num_parameters(self) -> int:
        """The number of trainable values."""
        return count_parameters(self.config)


def count_parameters(config: ModelConfig) -> int:
    """The number of trainable values of a model, known before any memory is taken for it."""
    V, E, H = config.vocab_size, config.embedding_size, config.hidden_size
    gates = _KINDS[config.cell].gates
    layers = sum(gates * H * (inputs + H + 2) for inputs in [E or V] + [H] * (config.num_layers - 1))
    return V * (E or 0) + layers + V * (H + 1)


def count_multiplications(config: ModelConfig) -> int:
    """Multiplications of a forward pass, for each character; a one-hot input needs none."""
    E, H, L = config.embedding_size or 0, config.hidden_size, config.num_layers
    gates = _KINDS[config.cell].gates
    return gates * H * (E + H) + gates * 2 * H * H * (L - 1) + H * config.vocab_size
