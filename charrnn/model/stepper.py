"""One step of a trained model for many streams at once, at a speed limited only by reading the weights.

Three optimisations leave one matrix product per layer. The contribution of a symbol to the gates of layer 0 is a row
of a table. A single product computes everything that depends on a layer's output: its own gates at the next step, and
the next layer's gates or the logits. A sigmoid is computed as a tanh, sigmoid(x) = (1 + tanh(x / 2)) / 2, with the
factors moved into the weights. `network.py` runs whole sequences, `sampling/` draws from the logits.

Letters in shapes: B streams, R >= B rows of a product, V vocabulary size, H hidden size, L layers, G = 4H, 3H or H
gates of an LSTM, GRU or RNN, P downstream values of a layer: gates of the next layer, or logits.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from charrnn.config import Cell, ModelConfig
from charrnn.machine.runtime import Runtime, can_compute, exact_float32, fbgemm
from charrnn.machine.threads import num_threads
from charrnn.model.network import CharRNN, State, count_multiplications, evaluating, layer_weights

_LARGE = 2**19  # multiplications per step; smaller models fit into the CPU caches


@dataclass(frozen=True)
class StreamState:
    """The state of one stream after a text: a row of each tensor that a Stepper carries.

    `state` is the same as a state of the model; None if the text was read step by step.
    """

    rows: tuple[Tensor, ...]
    state: State | None = None


class Stepper:
    """B independent streams of one model; all tensors are updated in place.

    In int8 the logits of a stream are bitwise independent of the other streams, and equal on all CPUs of a family:
    integer sums are exact, and all other operations are elementwise.
    """

    def __init__(self, model: CharRNN, runtime: Runtime, num_streams: int) -> None:
        self._model, self._runtime = model, runtime
        self._is_exact = runtime.dtype == torch.int8
        self._kind = kind = _LAYERS[model.config.cell]
        layers = list(model.stack.layers)
        with torch.no_grad():
            self._table = _input_table(model, kind, exact=self._is_exact)  # (V, G)
            readers = [*layers[1:], model.head]
            self._products = [_product(*pair, kind, runtime.dtype) for pair in zip(layers, readers, strict=True)]
        self._arrange_streams(num_streams)

    def _arrange_streams(self, num_streams: int) -> None:
        self._layers = [self._kind(product, num_streams) for product in self._products]
        self._gates = self._table.new_zeros(num_streams, self._table.shape[1])
        self.logits = self._layers[-1].downstream
        """(B, V) float32, for the next symbol of each stream; the next step overwrites them."""

    def step(self, symbols: Tensor) -> None:
        """Advance each stream by one symbol: (B,) int64."""
        gates = torch.index_select(self._table, 0, symbols, out=self._gates)
        for layer in self._layers:
            gates = layer.step(gates)

    @torch.inference_mode()
    def read(self, text: Tensor, before: StreamState | None = None, chunk: int = 1024) -> StreamState:
        """The state after a text (N,) of at least one symbol, read from zeros or from `before`. Streams do not change.

        In int8 the text is read step by step. Otherwise it is read as a sequence: faster, but with other rounding.
        """
        if self._is_exact:
            return self._read_by_steps(text, before)
        model, state = self._model, None if before is None else before.state
        with evaluating(model), self._runtime.autocast(), exact_float32():
            for part in text.split(chunk):
                _, state = model.stack(model.encode(self._runtime.place(part.long()[:, None])), state)
        assert state is not None, "a text has at least one symbol"
        return StreamState(self._rows_of(state), state)

    def _read_by_steps(self, text: Tensor, before: StreamState | None) -> StreamState:
        stream = copy.copy(self)  # a shallow copy shares the weights
        stream._arrange_streams(1)
        stream.set_state([0], before or StreamState(self._rows_of(self._model.initial_state(1))))
        with num_threads(1):  # several threads are slow on a busy machine
            for symbol in text.long().split(1):
                stream.step(symbol)
        return StreamState(tuple(tensor[0].clone() for layer in stream._layers for tensor in layer.carried))

    def _rows_of(self, state: State) -> tuple[Tensor, ...]:
        """The rows of a stream for a state of the model."""
        return tuple(row for layer, each in zip(self._layers, state, strict=True) for row in layer.rows_of(each))

    @torch.inference_mode()
    def set_state(self, streams: list[int], state: StreamState) -> None:
        """Set the state of these streams."""
        index, rows = self._runtime.send(torch.tensor(streams)), iter(state.rows)
        for layer in self._layers:
            for tensor in layer.carried:
                tensor[index] = next(rows)


def fastest_runtime(runtime: Runtime, config: ModelConfig) -> Runtime:
    """The runtime in the precision with the fastest sampling without a noticeable loss of quality."""
    if can_compute(runtime.device, torch.int8):
        return replace(runtime, dtype=torch.int8)
    # Converting inputs to half precision takes longer than the products of a small model.
    return replace(runtime, dtype=torch.float32) if count_multiplications(config) < _LARGE else runtime


class _Dense:
    """The product of a layer's output with all weights that are applied to it, in a floating-point precision.

    The weights are (G + P, H), the biases (G + P,).
    """

    min_rows = 4
    """Min rows of a product; libraries sum in another order if there are fewer."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.shape, self.device = weight.shape, weight.device
        self._weight, self._bias = weight.t().contiguous().to(dtype), bias.to(dtype)

    def multiply(self, output: Tensor, results: Tensor) -> None:
        """Write the product of outputs (R, H) with the weights to `results` (R, G + P), both float32."""
        if self._weight.dtype == results.dtype:
            torch.addmm(self._bias, output, self._weight, out=results)
        else:
            results.copy_(torch.addmm(self._bias, output.to(self._weight.dtype), self._weight))


class _Int8:
    """The same product in 8-bit integers by FBGEMM: one scale per row of weights, one for outputs up to `bound`.

    Integer sums are exact: a row's result depends neither on the number of rows nor on the CPU.
    """

    min_rows = 1
    _LEVELS = 63  # max quantised magnitude; more overflows on CPUs that add pairs of products in 16 bits

    def __init__(self, weight: Tensor, bias: Tensor, bound: float) -> None:
        self.shape, self.device = weight.shape, weight.device
        self._scale = (bound / self._LEVELS, self._LEVELS + 1)
        scales = weight.abs().amax(1).clamp(min=1e-30).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with fbgemm():
            quantised = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self._weight = torch.ops.quantized.linear_prepack(quantised, bias)
        self._multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def multiply(self, output: Tensor, results: Tensor) -> None:
        results.copy_(self._multiply(output, *self._scale, self._weight))


class _Layer(ABC):
    """A recurrent layer of B streams, with the tensors that it carries from step to step."""

    scale: ClassVar[float] = 1.0
    """Factor of the output relative to the model's; weights that are applied to the output are divided by it."""

    gates: ClassVar[tuple[tuple[int, float], ...]]
    """For each gate its index in the model's weights, and a factor for these weights."""

    def __init__(self, product: _Dense | _Int8, num_streams: int) -> None:
        self._product = product
        num_rows, (num_results, H) = max(num_streams, product.min_rows), product.shape
        self._output = torch.zeros(num_rows, H, device=product.device)
        self._results = torch.zeros(num_rows, num_results, device=product.device)
        self._h, results, G = self._output[:num_streams], self._results[:num_streams], len(self.gates) * H
        self._recurrent, self.downstream = results[:, :G], results[:, G:]
        """The contribution (B, G) to the layer's own gates at the next step, and the downstream values (B, P)."""
        self.carried = [results, self._h]
        """Tensors with one row per stream: the results, and the last tensor of the layer's state."""

    @abstractmethod
    def advance(self, gates: Tensor) -> None:
        """Compute the next output from the input's contribution to the gates (B, G)."""

    def step(self, gates: Tensor) -> Tensor:
        """Compute the next output and its product; returns `downstream`."""
        self.advance(gates)
        self._product.multiply(self._output, self._results)
        return self.downstream

    def rows_of(self, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """A row of each carried tensor, for a state of the model as tensors (1, 1, H)."""
        R = self._product.min_rows
        output, results = torch.zeros_like(self._output[:R]), torch.zeros_like(self._results[:R])
        output[0] = self.scale * state[0][0, 0]
        self._product.multiply(output, results)
        return results[0], state[-1][0, 0].float()


class _LSTM(_Layer):
    """c becomes ((1 + f) c + (1 + i) g) / 2, and 2h becomes (1 + o) tanh(c), with gates o, i, f, g after a tanh."""

    scale = 2.0
    gates = ((3, 0.5), (0, 0.5), (1, 0.5), (2, 1.0))

    def __init__(self, product: _Dense | _Int8, num_streams: int) -> None:
        super().__init__(product, num_streams)
        H = self._h.shape[1]
        # g and c are adjacent, as are i and f, so that one operation processes both.
        gates_and_c = self._h.new_zeros(num_streams, 5 * H)
        self._gates, self._g_and_c = gates_and_c[:, : 4 * H], gates_and_c[:, 3 * H :]
        self._o, self._i_and_f, self._c = gates_and_c[:, :H], gates_and_c[:, H : 3 * H], gates_and_c[:, 4 * H :]
        self._terms = self._h.new_zeros(num_streams, 2 * H)
        self._from_g, self._from_c = self._terms.chunk(2, dim=1)
        self.carried[-1] = self._c

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._gates).tanh_()
        torch.addcmul(self._g_and_c, self._i_and_f, self._g_and_c, out=self._terms)
        torch.lerp(self._from_g, self._from_c, 0.5, out=self._c)
        torch.tanh(self._c, out=self._h)
        torch.addcmul(self._h, self._o, self._h, out=self._h)


class _GRU(_Layer):
    """h becomes n + z (h - n), with n = tanh(input + r recurrent)."""

    gates = ((0, 0.5), (1, 0.5), (2, 1.0))

    def __init__(self, product: _Dense | _Int8, num_streams: int) -> None:
        super().__init__(product, num_streams)
        H = self._h.shape[1]
        self._gates = torch.empty_like(self._recurrent)
        self._r, self._z, self._n = self._gates.chunk(3, dim=1)
        self._r_and_z, self._recurrent_n = self._gates[:, : 2 * H], self._recurrent[:, 2 * H :]
        self._one = self._h.new_ones(1)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._gates)
        self._r_and_z.tanh_().lerp_(self._one, 0.5)
        torch.addcmul(gates[:, self._r_and_z.shape[1] :], self._r, self._recurrent_n, out=self._n).tanh_()
        torch.lerp(self._n, self._h, self._z, out=self._h)


class _RNN(_Layer):
    """h becomes tanh(input + recurrent)."""

    gates = ((0, 1.0),)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._h).tanh_()


_LAYERS: dict[Cell, type[_Layer]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}


def _product(layer: nn.Module, reader: nn.Module, kind: type[_Layer], dtype: torch.dtype) -> _Dense | _Int8:
    """The product of a layer's output with its own recurrent weights and those of the next layer or the head."""
    _, weight_hh, _, bias_hh = layer_weights(layer)
    recurrent = _arrange(weight_hh, bias_hh if isinstance(layer, nn.GRU) else torch.zeros_like(bias_hh), kind)
    if isinstance(reader, nn.Linear):
        downstream = reader.weight.detach(), reader.bias.detach()
    else:
        downstream = _input_weights(reader, kind)
    weight, bias = (torch.cat(parts) for parts in zip(recurrent, downstream, strict=True))
    weight = weight / kind.scale
    return _Int8(weight, bias, kind.scale) if dtype == torch.int8 else _Dense(weight, bias, dtype)


def _input_table(model: CharRNN, kind: type[_Layer], *, exact: bool) -> Tensor:
    """The contribution of each symbol to the gates of layer 0: (V, G)."""
    weight, bias = _input_weights(model.stack.layers[0], kind)  # (G, E) or (G, V)
    if model.embedding is None:
        product = weight.t()
    else:
        multiply = _multiply_exactly if exact else torch.mm
        product = multiply(model.embedding.weight, weight.t())
    return (product + bias).contiguous()  # rows are looked up


def _multiply_exactly(a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices rounded to multiples of 2^-18; exact in float64 for sums of 64 products of values up to 8."""
    a, b = (torch.round(tensor.double() * 2**18) for tensor in (a, b))
    return (a @ b * 2.0**-36).float()


def _arrange(weight: Tensor, bias: Tensor, kind: type[_Layer]) -> tuple[Tensor, Tensor]:
    """Reorder and scale the weights (G, I) and biases (G,) of gates for this kind of layer."""
    weights, biases = (tensor.detach().chunk(len(kind.gates)) for tensor in (weight, bias))
    arranged = [(factor * weights[i], factor * biases[i]) for i, factor in kind.gates]
    return torch.cat([weight for weight, _ in arranged]), torch.cat([bias for _, bias in arranged])


def _input_weights(layer: nn.Module, kind: type[_Layer]) -> tuple[Tensor, Tensor]:
    """Input weights (G, I) and the sum of the biases (G,), without a GRU's bias_hh, which its reset gate scales."""
    weight_ih, _, bias_ih, bias_hh = layer_weights(layer)
    return _arrange(weight_ih, bias_ih if isinstance(layer, nn.GRU) else bias_ih + bias_hh, kind)
