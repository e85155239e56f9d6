"""The network: ids in, logits out; the state is an argument and a return value.

`RecurrentStack` runs a sequence of vectors through recurrent layers. `CharRNN` adds an input encoding before it and a
linear layer after it.

Letters in shapes: T time steps, B parallel streams, V vocabulary size, E embedding size, I input size,
H hidden size, L layers.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import Cell, ModelConfig

State: TypeAlias = tuple[tuple[Tensor, ...], ...]
"""The state tensors of each of L layers, each (1, B, H): (h, c) for an LSTM, (h,) for the others."""


_MODULES: dict[Cell, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_FUNCTIONS: dict[Cell, Callable[..., Any]] = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}
"""The functions that the modules call; they take the weights as an argument."""
_NUM_GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn": 1}


def detach(state: State) -> State:
    """Detach a state: the only place where backpropagation through time is truncated."""
    return tuple(tuple(tensor.detach() for tensor in layer) for layer in state)


def carry(state: State, into: State, keep: Tensor) -> None:
    """Copy a detached state into the buffers that the next chunk reads; zeros where `keep` (B,), bool, is False."""
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
    """Set evaluation mode inside the context, then restore the previous mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def shared_dropout(x: Tensor, p: float) -> Tensor:
    """Apply dropout to x (T, B, H) with the same mask at all time steps.

    Source: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in RNNs" (2016).
    """
    return x * F.dropout(x.new_ones(1, *x.shape[1:]), p)


class RecurrentStack(nn.Module):
    """L single-layer LSTM, GRU or tanh RNN modules, with `shared_dropout` on the output of each.

    Recurrent dropout has half that rate. It drops columns of weight_hh, the same for all streams and time steps, so
    that a layer remains a single library call. Biases are initialised to 0, those of an LSTM's forget gates to 1, see
    Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures" (2015).
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, cell: Cell = "lstm", dropout: float = 0.0
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(_MODULES[cell](size, hidden_size) for size in sizes)
        self.dropout = dropout
        self.recurrent_dropout = dropout / 2
        self.cell = cell
        for _, _, bias_ih, bias_hh in map(layer_weights, self.layers):
            nn.init.zeros_(bias_ih)
            nn.init.zeros_(bias_hh)
            if cell == "lstm":  # gates: input, forget, cell, output
                nn.init.ones_(bias_ih[hidden_size : 2 * hidden_size])

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run x (T, B, I) from a state (None: zeros); returns outputs (T, B, H) of the last layer and the new state."""
        state, new_state = state or self.initial_state(x.shape[1]), []
        for layer, layer_state in zip(self.layers, state, strict=True):
            x, new_layer_state = self._run(layer, x, layer_state)
            new_state.append(new_layer_state)
            if self.training and self.dropout > 0:
                x = shared_dropout(x, self.dropout)
        return x, tuple(new_state)

    def initial_state(self, batch_size: int) -> State:
        """A state of zeros for B streams, on the device of the weights."""
        weight_hh = layer_weights(self.layers[0])[1]
        shape, count = (1, batch_size, weight_hh.shape[1]), 2 if self.cell == "lstm" else 1
        return tuple(tuple(weight_hh.new_zeros(shape) for _ in range(count)) for _ in self.layers)

    def _run(self, layer: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run one layer over x (T, B, I); returns its outputs (T, B, H) and its new state."""
        weight_ih, weight_hh, *biases = layer_weights(layer)
        if self.training and self.recurrent_dropout > 0:
            weight_hh = weight_hh * F.dropout(weight_hh.new_ones(weight_hh.shape[1]), self.recurrent_dropout)
        hx = state if self.cell == "lstm" else state[0]
        weights = [weight_ih, weight_hh, *biases]
        outputs, *new_state = _FUNCTIONS[self.cell](x, hx, weights, True, 1, 0.0, self.training, False, False)
        return outputs, tuple(new_state)


def layer_weights(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weight_ih (G, I), weight_hh (G, H), bias_ih (G,) and bias_hh (G,) of a recurrent layer with G gate rows."""
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
        self.stack = RecurrentStack(E or V, config.hidden_size, config.num_layers, config.cell, config.dropout or 0.0)
        self.head = nn.Linear(config.hidden_size, V)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run x (T, B) int64 from a state; returns logits (T, B, V) and the state after the last time step."""
        outputs, state = self.stack(self.encode(x), state)  # (T, B, H)
        return self.head(outputs), state

    def encode(self, x: Tensor) -> Tensor:
        """Encode ids (T, B) as embeddings (T, B, E) or one-hot vectors (T, B, V)."""
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
    gates = _NUM_GATES[config.cell]
    layers = sum(gates * H * (inputs + H + 2) for inputs in [E or V] + [H] * (config.num_layers - 1))
    return V * (E or 0) + layers + V * (H + 1)


def count_multiplications(config: ModelConfig) -> int:
    """Multiplications per character of a forward pass; a one-hot input needs none."""
    E, H, L = config.embedding_size or 0, config.hidden_size, config.num_layers
    gates = _NUM_GATES[config.cell]
    return gates * H * (E + H) + gates * 2 * H * H * (L - 1) + H * config.vocab_size
