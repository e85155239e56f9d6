"""One step of a trained model for many streams at once, as fast as its weights can be read.

Three rearrangements leave one matrix product a layer. What a symbol adds to the gates of layer 0 is a row of a
table. All that reads a layer's output, its own gates at the next step and then the next layer's gates or the
logits, is one product. And a sigmoid is a tanh, sigmoid(x) = (1 + tanh(x / 2)) / 2, with the factors moved into
the weights. `model.py` computes whole sequences; what is drawn from the logits is `sampling.py`'s business.

Letters in shapes: B streams, R >= B rows of a product, V vocabulary size, H hidden size, L layers, G = 4H, 3H
or H gates of an LSTM, GRU or RNN, P values that a layer passes on: gates of the next layer, or logits.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from charrnn.config import Cell, ModelConfig
from charrnn.model import CharRNN, State, count_parameters, evaluating, layer_weights
from charrnn.runtime import Runtime, fbgemm

Position: TypeAlias = tuple[Tensor, ...]
"""Where one stream stands: a row of each tensor that a Stepper carries from step to step."""

_LARGE = 2**19  # parameters; a smaller model lies beside the cores as it is
_LEAST_ROWS = 4  # below, libraries add in another order than for many rows
_MANY_ROWS = 64  # what oneDNN orders its weights for, whatever comes


class Stepper:
    """B streams of one model, each somewhere in its text; the tensors stay where they are."""

    def __init__(self, model: CharRNN, runtime: Runtime, num_streams: int) -> None:
        self._model = model
        self._runtime = runtime
        layers = list(model.stack.layers)
        kind = _KINDS[model.config.cell]
        # A large model alone is bound by reading its weights once: then one row is the fastest.
        alone = num_streams == 1 and model.num_parameters >= _LARGE
        num_rows = 1 if alone else max(num_streams, _LEAST_ROWS)
        with torch.no_grad():
            self._table = _input_table(model, kind)  # (V, G)
            self._gates = self._table.new_empty(num_streams, self._table.shape[1])
            readers = [*layers[1:], model.head]
            self._layers = [
                kind(_join(layer, reader, kind), runtime, num_streams, num_rows)
                for layer, reader in zip(layers, readers, strict=True)
            ]
        self.logits = self._layers[-1].passed_on
        """(B, V) float32, of the symbol that comes next in each stream; the next step overwrites them."""

    def step(self, symbols: Tensor) -> None:
        """Advance each stream by one symbol: (B,) int64."""
        gates = torch.index_select(self._table, 0, symbols, out=self._gates)
        for layer in self._layers:
            layer.advance(gates)
            layer.multiply()
            gates = layer.passed_on

    @torch.inference_mode()
    def read(self, text: Tensor, state: State | None = None, chunk: int = 1024) -> State:
        """The model's state behind a text (N,), at least one symbol, that is read as a sequence from a state on."""
        with evaluating(self._model):
            for part in text.split(chunk):
                _, state = self._model(self._runtime.place(part.long()[:, None]), state)
        assert state is not None, "a text has at least one symbol"
        return state

    @torch.inference_mode()
    def locate(self, state: State) -> Position:
        """Where a stream in this state of the model stands."""
        return tuple(row for layer, after in zip(self._layers, state, strict=True) for row in layer.locate(*after))

    @torch.inference_mode()
    def place(self, streams: list[int], position: Position) -> None:
        """Set these streams to a position."""
        index = self._runtime.place(torch.tensor(streams))
        carried = (tensor for layer in self._layers for tensor in layer.carried)
        for tensor, row in zip(carried, position, strict=True):
            tensor[index] = row


def suit(runtime: Runtime, config: ModelConfig) -> Runtime:
    """The runtime in the precision that samples a model fastest without loss.

    A small model's products are so short that in float32 they are done before their input is converted.
    """
    return replace(runtime, dtype=torch.float32) if count_parameters(config) < _LARGE else runtime


class _Product(ABC):
    """Joined weights (G + P, H) and biases (G + P,), laid out for one way to multiply by them."""

    @abstractmethod
    def __call__(self, h: Tensor, out: Tensor) -> None:
        """h: (R, H) float32; writes (R, G + P) float32."""


class _Dense(_Product):
    """The usual product of the device."""

    def __init__(self, weight: Tensor, bias: Tensor, runtime: Runtime) -> None:
        self._weight = runtime.pack(weight.t().to(runtime.dtype))  # (H, G + P)
        self._bias = bias.to(runtime.dtype)

    def __call__(self, h: Tensor, out: Tensor) -> None:
        if self._weight.dtype == out.dtype:
            torch.mm(h, self._weight, out=out).add_(self._bias)  # for a single row faster than addmm
        else:
            out.copy_(torch.addmm(self._bias, h.to(self._weight.dtype), self._weight))


class _BFloat16(_Product):
    """oneDNN's product, its weights in an order of its own; no row's result depends on how many there are."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), _MANY_ROWS)
        self._bias = bias.bfloat16()

    def __call__(self, h: Tensor, out: Tensor) -> None:
        out.copy_(torch.ops.mkldnn._linear_pointwise(h.bfloat16(), self._weight, self._bias, "none", [], ""))


class _Int8(_Product):
    """FBGEMM's product of 8-bit integers: a scale for each row of weights, one for all of h. Its sums are exact."""

    def __init__(self, weight: Tensor, bias: Tensor, bound: float, runtime: Runtime) -> None:
        """bound: the largest magnitude that h can have."""
        # Instructions that add pairs of products in 16 bits leave room for 7 bits only.
        levels = 127 if runtime.has_vnni else 63
        self._input = (bound / levels, levels + 1)
        scales = weight.abs().amax(1).clamp(min=1e-30).double() / 127
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        with fbgemm():
            quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self._weight = torch.ops.quantized.linear_prepack(quantised, bias)
        self._multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def __call__(self, h: Tensor, out: Tensor) -> None:
        out.copy_(self._multiply(h, *self._input, self._weight))


def _lay_out(weight: Tensor, bias: Tensor, bound: float, runtime: Runtime) -> _Product:
    if runtime.dtype == torch.int8:
        return _Int8(weight, bias, bound, runtime)
    if runtime.dtype == torch.bfloat16 and runtime.has_onednn:
        return _BFloat16(weight, bias)
    return _Dense(weight, bias, runtime)


class _Layer(ABC):
    """One recurrent layer of B streams: what it carries, and the product of all that reads its output."""

    scale: ClassVar[float] = 1.0
    """The output is so many times the model's; the weights that read it make up for that."""

    factors: ClassVar[tuple[float, ...]]
    """What the weights of each gate are multiplied by."""

    def __init__(self, joined: tuple[Tensor, Tensor], runtime: Runtime, num_streams: int, num_rows: int) -> None:
        """joined: weights (G + P, H) and biases (G + P,), the recurrent ones first."""
        weight, bias = joined
        H = weight.shape[1]
        G = len(self.factors) * H
        self._product = _lay_out(weight, bias, self.scale, runtime)
        self._output, self._products = weight.new_zeros(num_rows, H), weight.new_zeros(num_rows, len(weight))
        self._h = self._output[:num_streams]
        self._recurrent = self._products[:num_streams, :G]
        self._gates = torch.empty_like(self._recurrent)
        self.passed_on = self._products[:num_streams, G:]
        """(B, P), behind `multiply`."""
        self.carried = [self._products[:num_streams]]
        """Tensors with a row for each stream."""

    @abstractmethod
    def advance(self, gates: Tensor) -> None:
        """From what the input adds to the gates, (B, G), to the next output."""

    def multiply(self) -> None:
        """From the output to the products."""
        self._product(self._output, self._products)

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        """The rows of what is carried, in a state of the model: tensors (1, 1, H)."""
        output, products = self._output[:_LEAST_ROWS].clone(), self._products[:_LEAST_ROWS].clone()
        output[0] = self.scale * h[0, 0]
        self._product(output, products)
        return [products[0]]


class _LSTM(_Layer):
    """c becomes ((1 + f) c + (1 + i) g) / 2, and 2h becomes (1 + o) tanh(c), with gates i, f, g, o behind a tanh."""

    scale = 2.0
    factors = (0.5, 0.5, 1.0, 0.5)

    def __init__(self, joined: tuple[Tensor, Tensor], runtime: Runtime, num_streams: int, num_rows: int) -> None:
        super().__init__(joined, runtime, num_streams, num_rows)
        self._c = torch.zeros_like(self._h)
        self.carried.append(self._c)
        self._i, self._f, self._g, self._o = self._gates.chunk(4, dim=1)

    def advance(self, gates: Tensor) -> None:
        h, c, g = self._h, self._c, self._g
        torch.add(self._recurrent, gates, out=self._gates).tanh_()
        torch.addcmul(c, self._f, c, out=c)
        torch.addcmul(g, self._i, g, out=g)
        c.lerp_(g, 0.5)
        torch.tanh(c, out=h)
        torch.addcmul(h, self._o, h, out=h)

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        return [*super().locate(h), cell_state[0][0, 0]]


class _GRU(_Layer):
    """h becomes n + z (h - n), with n = tanh(input + r recurrent)."""

    factors = (0.5, 0.5, 1.0)

    def __init__(self, joined: tuple[Tensor, Tensor], runtime: Runtime, num_streams: int, num_rows: int) -> None:
        super().__init__(joined, runtime, num_streams, num_rows)
        self.carried.append(self._h)
        self._r, self._z, self._n = self._gates.chunk(3, dim=1)
        H = self._h.shape[1]
        self._r_and_z, self._recurrent_n = self._gates[:, : 2 * H], self._recurrent[:, 2 * H :]
        self._one = self._h.new_ones(1)

    def advance(self, gates: Tensor) -> None:
        H = self._h.shape[1]
        torch.add(self._recurrent, gates, out=self._gates)
        self._r_and_z.tanh_().lerp_(self._one, 0.5)
        torch.addcmul(gates[:, 2 * H :], self._r, self._recurrent_n, out=self._n).tanh_()
        torch.lerp(self._n, self._h, self._z, out=self._h)

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        return [*super().locate(h), h[0, 0]]


class _RNN(_Layer):
    """h becomes tanh(input + recurrent)."""

    factors = (1.0,)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._h).tanh_()


_KINDS: dict[Cell, type[_Layer]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}


def _join(layer: nn.Module, reader: nn.Module, kind: type[_Layer]) -> tuple[Tensor, Tensor]:
    """All that multiplies a layer's output: its recurrent weights, and those of the next layer or of the head."""
    _, weight, _, bias = layer_weights(layer)
    recurrent = _weigh(weight, bias if kind is _GRU else torch.zeros_like(bias), kind)
    if isinstance(reader, nn.Linear):
        passed_on = reader.weight.detach(), reader.bias.detach()
    else:
        passed_on = _weigh(layer_weights(reader)[0], _input_bias(reader), kind)
    return torch.cat([recurrent[0], passed_on[0]]) / kind.scale, torch.cat([recurrent[1], passed_on[1]])


def _input_table(model: CharRNN, kind: type[_Layer]) -> Tensor:
    """What each symbol adds to the gates of layer 0: (V, G)."""
    first = model.stack.layers[0]
    weight, bias = _weigh(layer_weights(first)[0], _input_bias(first), kind)  # (G, E) or (G, V)
    return (weight.t() if model.embedding is None else model.embedding.weight @ weight.t()) + bias


def _weigh(weight: Tensor, bias: Tensor, kind: type[_Layer]) -> tuple[Tensor, Tensor]:
    """Weights (G, I) and biases (G,) of gates, times each gate's factor."""
    factors = bias.new_tensor(kind.factors).repeat_interleave(len(bias) // len(kind.factors))
    return weight.detach() * factors[:, None], bias.detach() * factors


def _input_bias(layer: nn.Module) -> Tensor:
    """Both biases (G,) in one; a GRU's recurrent one stays apart, since its reset gate scales a part of it."""
    _, _, bias_ih, bias_hh = layer_weights(layer)
    return bias_ih if isinstance(layer, nn.GRU) else bias_ih + bias_hh
