"""The network: indices in, logits out; the state is an argument and a return value.

`RecurrentStack` is general: it runs any sequence of vectors through a stack of recurrent layers. `CharRNN` puts an
input encoding before it and a linear layer after it. Training is left to `training/`.

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
"""The state tensors of each of L layers, each (1, B, H): (h, c) for an LSTM, (h,) for the others."""


@dataclass(frozen=True)
class _Kind:
    """A kind of layer: its module, the function that the module calls, the numbers of gates and state tensors."""

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
    """Detach a state from its history: the one place where backpropagation through time is cut."""
    return tuple(tuple(tensor.detach() for tensor in layer) for layer in state)


def carry(state: State, into: State, keep: Tensor) -> None:
    """Copy a detached state into the buffers that the next chunk reads.

    Streams for which `keep` (B,), bool, is False start anew from zeros.
    """
    for layer, buffers in zip(state, into, strict=True):
        for tensor, buffer in zip(layer, buffers, strict=True):
            buffer.copy_(torch.where(keep[:, None], tensor, 0))


def clear(state: State) -> None:
    """Zero a state in place."""
    for layer in state:
        for tensor in layer:
            tensor.zero_()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode inside the context, then restore its mode."""
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
        """Drop out values of x (T, B, H); the identity in evaluation."""
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(1, *x.shape[1:]), self.p)


class RecurrentStack(nn.Module):
    """L single-layer LSTM, GRU or tanh RNN modules, with time-shared dropout on the output of each.

    Recurrent dropout has half that rate. It drops columns of weight_hh, the same for all streams and time steps, so
    that a layer stays a single library call.
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
        """Set an LSTM's forget-gate biases to 1 and all other biases to 0.

        Source: Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures" (2015).
        """
        for layer in self.layers:
            _, _, bias_ih, bias_hh = layer_weights(layer)
            bias_ih.zero_()
            bias_hh.zero_()
            if isinstance(layer, nn.LSTM):  # order of the gates: input, forget, cell, output
                bias_ih[layer.hidden_size : 2 * layer.hidden_size] = 1

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run x (T, B, I) from a state (None: zeros); returns outputs (T, B, H) of the last layer and the new state."""
        state, new_state = state or self.initial_state(x.shape[1]), []
        for layer, before in zip(self.layers, state, strict=True):
            x, after = self._run(layer, x, before)
            new_state.append(after)
            x = self.dropout(x)
        return x, tuple(new_state)

    def initial_state(self, batch_size: int) -> State:
        """A state of zeros for B streams, on the device of the weights."""

        def zeros(layer: nn.Module) -> tuple[Tensor, ...]:
            weight_hh = layer_weights(layer)[1]
            count = _KINDS[self.cell].state_tensors
            return tuple(weight_hh.new_zeros(1, batch_size, weight_hh.shape[1]) for _ in range(count))

        return tuple(map(zeros, self.layers))

    def _run(self, layer: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one layer over x (T, B, I); returns its outputs (T, B, H) and its new state."""
        weight_ih, weight_hh, *biases = layer_weights(layer)
        H, kind = weight_hh.shape[1], _KINDS[self.cell]
        if self.training and self.recurrent_dropout > 0:
            weight_hh = weight_hh * F.dropout(weight_hh.new_ones(H), self.recurrent_dropout)
        weights = [weight_ih, weight_hh, *biases]
        hx = state if self.cell == "lstm" else state[0]
        outputs, *new_state = kind.sequence(x, hx, weights, True, 1, 0.0, self.training, False, False)
        return outputs, tuple(new_state)


def layer_weights(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A recurrent layer's weight_ih (G, I), weight_hh (G, H), bias_ih (G,) and bias_hh (G,), with G gate rows."""
    assert isinstance(layer, nn.RNNBase)
    weight_ih, weight_hh, bias_ih, bias_hh = layer.all_weights[0]
    return weight_ih, weight_hh, bias_ih, bias_hh


class CharRNN(nn.Module):
    """A language model over V symbols."""

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
        """Run x (T, B) int64 from a state; returns logits (T, B, V) and the state after the last time step."""
        outputs, state = self.stack(self.encode(x), state)  # (T, B, H)
        return self.head(outputs), state

    def encode(self, x: Tensor) -> Tensor:
        """Encode (T, B) for the first layer: as embeddings (T, B, E) or one-hot vectors (T, B, V)."""
        if self.embedding is None:
            return F.one_hot(x, self.config.vocab_size).to(self.head.weight.dtype)
        embedded: Tensor = self.embedding(x)
        return embedded

    def initial_state(self, batch_size: int) -> State:
        """A state of zeros for B streams, on the model's device."""
        return self.stack.initial_state(batch_size)

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters."""
        return count_parameters(self.config)


def count_parameters(config: ModelConfig) -> int:
    """The number of trainable parameters, computed without building the model."""
    V, E, H = config.vocab_size, config.embedding_size, config.hidden_size
    gates = _KINDS[config.cell].gates
    layers = sum(gates * H * (inputs + H + 2) for inputs in [E or V] + [H] * (config.num_layers - 1))
    return V * (E or 0) + layers + V * (H + 1)


def count_multiplications(config: ModelConfig) -> int:
    """Multiplications per character of a forward pass; a one-hot input needs none."""
    E, H, L = config.embedding_size or 0, config.hidden_size, config.num_layers
    gates = _KINDS[config.cell].gates
    return gates * H * (E + H) + gates * 2 * H * H * (L - 1) + H * config.vocab_size
