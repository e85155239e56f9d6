"""One step of a trained model for many streams at once, as fast as its weights can be read.

Three rearrangements leave one matrix product per layer. A symbol's contribution to the gates of layer 0 is a row of a
table. A single product computes everything that depends on a layer's output: its own gates at the next step, and the
next layer's gates or the logits. And a sigmoid is a tanh, sigmoid(x) = (1 + tanh(x / 2)) / 2, with the factors moved
into the weights. On a GPU, where each kernel takes longer to start than to run, a layer takes three: a fused cell, a
conversion to half precision and the product. Whole sequences are left to `network.py`, drawing from the logits to
`sampling/`.

Letters in shapes: B streams, R >= B rows of a product, V vocabulary size, H hidden size, L layers, G = 4H, 3H or H
gates of an LSTM, GRU or RNN, P downstream values of a layer: gates of the next layer, or logits.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config import Cell, ModelConfig
from charrnn.machine.runtime import Runtime, exact_float32, fbgemm, num_threads
from charrnn.model.network import CharRNN, State, count_multiplications, evaluating, layer_weights

Position: TypeAlias = tuple[Tensor, ...]
"""A stream's position: its row of each tensor that a Stepper carries from step to step."""
_LARGE = 2**19  # weights in a step; fewer fit into the caches
_MIN_ROWS = 4  # with fewer rows, libraries sum in another order
_ALIGNED = 8  # half-precision numbers: tensor cores read 16 bytes at once
_MANY_ROWS = 64  # the batch that oneDNN's weight layout is optimised for


@dataclass(frozen=True)
class Reading:
    """The position after reading a text, and the model's state unless the text was read step by step."""

    position: Position
    state: State | None = None


class Stepper:
    """B streams of one model, each at its own position in its text; tensors are updated in place, some by `settle`.

    In int8 a stream's logits are the same to the bit beside any other streams, and on any CPU of the same family:
    integer sums are exact, and everything else is elementwise.
    """

    def __init__(self, model: CharRNN, runtime: Runtime, num_streams: int) -> None:
        self._model = model
        self._runtime = runtime
        self._is_exact = runtime.dtype == torch.int8
        kinds = _LAYERS | _FUSED_LAYERS if runtime.has_fused_cells else _LAYERS
        self._kind = kind = kinds[model.config.cell]
        layers, is_large = list(model.stack.layers), count_multiplications(model.config) >= _LARGE
        with torch.no_grad():
            self._table = _input_table(model, kind, exact=self._is_exact)  # (V, G)
            products = [
                _lay_out(_join(layer, reader, kind), runtime, num_streams, is_large)
                for layer, reader in zip(layers, [*layers[1:], model.head], strict=True)
            ]
        self._arrange_streams(products, num_streams)

    def _arrange_streams(self, products: "list[_Product]", num_streams: int) -> None:
        self._layers = [self._kind(product, num_streams) for product in products]
        self._gates = self._table.new_zeros(self._layers[0].num_rows, self._table.shape[1])
        self._looked_up = self._gates[:num_streams]
        self.logits = self._layers[-1].downstream[:num_streams]
        """(B, V) float32, for the next symbol of each stream; overwritten by the next step."""

    def _single(self) -> "Stepper":
        """A stepper of one stream that shares the weights."""
        single = copy.copy(self)
        single._arrange_streams([layer.product.resize(1) for layer in self._layers], 1)
        return single

    def step(self, symbols: Tensor) -> None:
        """Advance each stream by one symbol: (B,) int64."""
        torch.index_select(self._table, 0, symbols, out=self._looked_up)
        gates = self._gates
        for layer in self._layers:
            layer.product.finish()
            layer.advance(gates)
            layer.product.begin()
            gates = layer.downstream

    def settle(self) -> None:
        """Bring all carried tensors up to date; steps that are recorded end with it."""
        for layer in self._layers:
            layer.settle()

    def recover(self) -> None:
        """Go on from the carried tensors, after steps whose recording has failed."""
        for layer in self._layers:
            layer.recover()

    @torch.inference_mode()
    def read(self, text: Tensor, before: Reading | None = None, chunk: int = 1024) -> Reading:
        """Read a text (N,) of at least one symbol, on its own or after another; the streams are left alone.

        Exact steps read it symbol by symbol. Otherwise it is read as a sequence: faster, but rounded differently.
        """
        if self._is_exact:
            return self._read_by_steps(text, before)
        model, state = self._model, None if before is None else before.state
        with evaluating(model), self._runtime.autocast(), exact_float32(self._runtime):
            for part in text.split(chunk):
                _, state = model.stack(model.encode(self._runtime.place(part.long()[:, None])), state)
        assert state is not None, "a text has at least one symbol"
        return Reading(self._locate(state), state)

    def _read_by_steps(self, text: Tensor, before: Reading | None) -> Reading:
        stream = self._single()
        stream.place([0], before or Reading(self._locate(self._model.initial_state(1))))
        with num_threads(1):  # more would be slow on a busy machine
            for symbol in text.long().split(1):
                stream.step(symbol)
        return Reading(tuple(tensor[0].clone() for layer in stream._layers for tensor in layer.carried))

    def _locate(self, state: State) -> Position:
        """The position of a stream in this state of the model."""
        return tuple(row for layer, after in zip(self._layers, state, strict=True) for row in layer.locate(*after))

    @torch.inference_mode()
    def place(self, streams: list[int], reading: Reading) -> None:
        """Move these streams to the end of a text that was read."""
        index, rows = self._runtime.send(torch.tensor(streams)), iter(reading.position)
        self.settle()
        for layer in self._layers:
            layer.product.finish()
            for tensor in layer.carried:
                tensor[index] = next(rows)


def fastest_runtime(runtime: Runtime, config: ModelConfig) -> Runtime:
    """The runtime in the precision that samples a model fastest without a noticeable loss of quality.

    Without FBGEMM a small model is sampled in float32: converting its inputs to half precision would take longer than
    the products.
    """
    if runtime.has_fbgemm:
        return replace(runtime, dtype=torch.int8)
    return replace(runtime, dtype=torch.float32) if count_multiplications(config) < _LARGE else runtime


@dataclass(frozen=True)
class _Weights:
    """Everything that reads a layer's output: weights (G + P, H) and biases (G + P,), the G recurrent rows first.

    `bound` is the max magnitude of that output.
    """

    weight: Tensor
    bias: Tensor
    num_gates: int
    bound: float


class _Product(ABC):
    """The product of a layer's output with everything that reads it, laid out for one kernel.

    A step calls `finish`, computes a new output from `recurrent`, and calls `begin`, which computes `downstream`.
    Either of the two computes `recurrent`.
    """

    def __init__(self, weights: _Weights, num_rows: int) -> None:
        N, H = weights.weight.shape
        self._num_gates, self._num_outputs = weights.num_gates, N
        self._allocate(weights.weight.new_zeros(num_rows, H), weights.weight.new_zeros(num_rows, N))

    def _allocate(self, output: Tensor, results: Tensor) -> None:
        self.output = output
        """(R, H): at least one row per stream."""
        self.results = results
        self.recurrent = results[:, : self._num_gates]
        self.downstream = results[:, self._num_gates : self._num_outputs]
        """(R, G), the contribution to the layer's own gates at the next step; and (R, P)."""

    def resize(self, num_rows: int) -> Self:
        """The same weights, for another number of rows."""
        product = copy.copy(self)
        product._allocate(*(tensor.new_zeros(num_rows, tensor.shape[1]) for tensor in (self.output, self.results)))
        return product

    @abstractmethod
    def multiply(self, output: Tensor, results: Tensor) -> None:
        """Write the product of rows of outputs with the weights to `results`."""

    def begin(self) -> None:
        """Multiply by the weights that are needed at once."""
        self.multiply(self.output, self.results)

    def finish(self) -> None:  # noqa: B027 (most kinds defer nothing)
        """Multiply by the weights that `begin` deferred."""


class _Dense(_Product):
    """The device's usual product."""

    def __init__(self, weights: _Weights, num_rows: int, runtime: Runtime) -> None:
        super().__init__(weights, max(num_rows, _MIN_ROWS))
        self._weight = weights.weight.t().contiguous().to(runtime.dtype)  # (H, G + P)
        self._bias = weights.bias.to(runtime.dtype)

    def multiply(self, output: Tensor, results: Tensor) -> None:
        if self._weight.dtype == results.dtype:
            torch.addmm(self._bias, output, self._weight, out=results)
        else:
            results.copy_(torch.addmm(self._bias, output.to(self._weight.dtype), self._weight))


class _Widening(_Product):
    """A product in half precision with results in float32: one kernel, after one that converts its input.

    Biases are the weights of a constant input: with float32 results, some versions of `addmm` add wrong numbers.
    """

    def __init__(self, weights: _Weights, num_rows: int, runtime: Runtime) -> None:
        super().__init__(weights, max(num_rows, _MIN_ROWS))
        extended = torch.cat([weights.weight, weights.bias[:, None]], dim=1)  # (G + P, H + 1)
        rows, columns = (-size % _ALIGNED for size in extended.shape)
        self._weight = functional.pad(extended, (0, columns, 0, rows)).to(runtime.dtype).t()
        R, (num_inputs, num_results) = len(self.output), self._weight.shape
        self._input = self._weight.new_ones(R, num_inputs)
        self._allocate(self.output, self.results.new_zeros(R, num_results))

    def multiply(self, output: Tensor, results: Tensor) -> None:
        inputs = self._input[: len(output)]
        inputs[:, : output.shape[1]].copy_(output)
        torch.mm(inputs, self._weight, out_dtype=torch.float32, out=results)


class _SingleStream(_Product):
    """For one stream of a large model, where reading the weights bounds the speed.

    At every second step the recurrent weights are read twice in a row, for the gates of this step and the next, the
    second time from the cache. Biases are the weights of a constant input, which saves an operation.
    """

    def __init__(self, weights: _Weights, runtime: Runtime) -> None:
        super().__init__(weights, 1)
        extended = torch.cat([weights.weight.t(), weights.bias[None]])  # (H + 1, G + P)
        self._recurrent_weight = runtime.pack(extended[:, : weights.num_gates])
        self._weight = runtime.pack(extended[:, weights.num_gates :])
        self._input = torch.cat([self.output, self.output.new_ones(1, 1)], dim=1)
        self.output = self._input[:, :-1]
        self._is_due = self._is_cached = False  # of the recurrent weights

    def multiply(self, output: Tensor, results: Tensor) -> None:
        row = torch.cat([output, self._input[:, -1:]], dim=1)
        results.copy_(torch.cat([row @ self._recurrent_weight, row @ self._weight], dim=1))

    def begin(self) -> None:
        if self._is_cached:
            torch.mm(self._input, self._recurrent_weight, out=self.recurrent)
        self._is_due = not self._is_cached
        torch.mm(self._input, self._weight, out=self.downstream)

    def finish(self) -> None:
        if self._is_due:
            torch.mm(self._input, self._recurrent_weight, out=self.recurrent)
        self._is_cached, self._is_due = self._is_due, False


class _BFloat16(_Product):
    """oneDNN's product, with the weights in its own layout."""

    def __init__(self, weights: _Weights, num_rows: int) -> None:
        super().__init__(weights, num_rows)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weights.weight.bfloat16(), _MANY_ROWS)
        self._bias = weights.bias.bfloat16()

    def multiply(self, output: Tensor, results: Tensor) -> None:
        weights = (self._weight, self._bias)
        results.copy_(torch.ops.mkldnn._linear_pointwise(output.bfloat16(), *weights, "none", [], ""))


class _Int8(_Product):
    """FBGEMM's product of 8-bit integers: one scale per row of weights, one for all outputs.

    Integer sums are exact: a row's result depends neither on the number of rows nor on the CPU.
    """

    _LEVELS = 63  # max level of a magnitude: more would overflow on CPUs that add pairs of products in 16 bits

    def __init__(self, weights: _Weights, num_rows: int) -> None:
        super().__init__(weights, num_rows)
        self._scale = (weights.bound / self._LEVELS, self._LEVELS + 1)
        scales = weights.weight.abs().amax(1).clamp(min=1e-30).double() / 127
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with fbgemm():
            quantised = torch.quantize_per_channel(weights.weight, scales, zeros, 0, torch.qint8)
            self._weight = torch.ops.quantized.linear_prepack(quantised, weights.bias)
        self._multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def multiply(self, output: Tensor, results: Tensor) -> None:
        results.copy_(self._multiply(output, *self._scale, self._weight))


def _lay_out(weights: _Weights, runtime: Runtime, num_streams: int, is_large: bool) -> _Product:
    """The fastest product for this number of streams."""
    if runtime.dtype == torch.int8:
        return _Int8(weights, num_streams)
    if runtime.dtype == torch.bfloat16 and runtime.has_onednn_bfloat16:
        return _BFloat16(weights, num_streams)
    if runtime.dtype == torch.float32 and runtime.is_memory_bound and num_streams == 1 and is_large:
        return _SingleStream(weights, runtime)
    if runtime.widens_products:
        return _Widening(weights, num_streams, runtime)
    return _Dense(weights, num_streams, runtime)


class _Layer(ABC):
    """One recurrent layer of B streams, with the tensors that it carries from step to step."""

    scale: ClassVar[float] = 1.0
    """Ratio of this output to the model's; the weights that read it are divided by it."""

    gates: ClassVar[tuple[tuple[int, float], ...]]
    """For each gate its place in the model's weights, and the factor for these weights."""

    def __init__(self, product: _Product, num_rows: int) -> None:
        self.product = product
        self.num_rows = num_rows
        self._h = product.output[:num_rows]
        self._recurrent = product.recurrent[:num_rows]
        self.downstream = product.downstream[:num_rows]
        """(B, P), valid after `product.begin()`."""
        self.carried = [product.results[:num_rows]]
        """Tensors with one row per stream."""

    @abstractmethod
    def advance(self, gates: Tensor) -> None:
        """Compute the next output from the input's contribution to the gates (B, G)."""

    def settle(self) -> None:  # noqa: B027 (most kinds work in place)
        """Copy a state that `advance` has put elsewhere to the tensor that is carried."""

    def recover(self) -> None:  # noqa: B027
        """Forget a state that `advance` has put elsewhere."""

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        """A row of each carried tensor, for a state of the model given as tensors (1, 1, H)."""
        output, results = (tensor[:_MIN_ROWS].clone() for tensor in (self.product.output, self.product.results))
        output[0] = self.scale * h[0, 0]
        self.product.multiply(output, results)
        return [results[0]]


class _LSTM(_Layer):
    """c becomes ((1 + f) c + (1 + i) g) / 2, and 2h becomes (1 + o) tanh(c), with gates o, i, f, g after a tanh."""

    scale = 2.0
    gates = ((3, 0.5), (0, 0.5), (1, 0.5), (2, 1.0))

    def __init__(self, product: _Product, num_streams: int) -> None:
        super().__init__(product, num_streams)
        H = self._h.shape[1]
        # g and c are adjacent, as are i and f, so that one operation serves both.
        gates_and_c = self._h.new_zeros(num_streams, 5 * H)
        self._gates, self._g_and_c = gates_and_c[:, : 4 * H], gates_and_c[:, 3 * H :]
        self._o, self._i_and_f, self._c = gates_and_c[:, :H], gates_and_c[:, H : 3 * H], gates_and_c[:, 4 * H :]
        self._terms = self._h.new_zeros(num_streams, 2 * H)
        self._from_g, self._from_c = self._terms.chunk(2, dim=1)
        self.carried.append(self._c)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._gates).tanh_()
        torch.addcmul(self._g_and_c, self._i_and_f, self._g_and_c, out=self._terms)
        torch.lerp(self._from_g, self._from_c, 0.5, out=self._c)
        torch.tanh(self._c, out=self._h)
        torch.addcmul(self._h, self._o, self._h, out=self._h)

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        return [*super().locate(h), cell_state[0][0, 0].float()]


class _GRU(_Layer):
    """h becomes n + z (h - n), with n = tanh(input + r recurrent)."""

    gates = ((0, 0.5), (1, 0.5), (2, 1.0))

    def __init__(self, product: _Product, num_streams: int) -> None:
        super().__init__(product, num_streams)
        H = self._h.shape[1]
        self._gates = torch.empty_like(self._recurrent)
        self._r, self._z, self._n = self._gates.chunk(3, dim=1)
        self._r_and_z, self._recurrent_n = self._gates[:, : 2 * H], self._recurrent[:, 2 * H :]
        self._one = self._h.new_ones(1)
        self.carried.append(self._h)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._gates)
        self._r_and_z.tanh_().lerp_(self._one, 0.5)
        torch.addcmul(gates[:, self._r_and_z.shape[1] :], self._r, self._recurrent_n, out=self._n).tanh_()
        torch.lerp(self._n, self._h, self._z, out=self._h)

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        return [*super().locate(h), h[0, 0].float()]


class _RNN(_Layer):
    """h becomes tanh(input + recurrent)."""

    gates = ((0, 1.0),)

    def advance(self, gates: Tensor) -> None:
        torch.add(self._recurrent, gates, out=self._h).tanh_()


class _Fused(_Layer):
    """A layer whose elementwise work is one kernel, for all rows of the product.

    The kernel makes new tensors. The new state is taken over as it is until `settle` copies it, which takes another.
    """

    def __init__(self, product: _Product, num_streams: int) -> None:
        super().__init__(product, len(product.output))
        self.carried.append(torch.zeros_like(self._h))
        self.recover()

    def settle(self) -> None:
        self.carried[1].copy_(self._state)
        self.recover()

    def recover(self) -> None:
        self._state = self.carried[1]

    def locate(self, h: Tensor, *cell_state: Tensor) -> list[Tensor]:
        state = cell_state[0] if cell_state else h
        return [*super().locate(h), state[0, 0].float()]


class _FusedLSTM(_Fused):
    """The state is c; the model's own weights and order of gates."""

    gates = ((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.0))

    def advance(self, gates: Tensor) -> None:
        self.product.output, self._state, _ = torch.ops.aten._thnn_fused_lstm_cell(gates, self._recurrent, self._state)


class _FusedGRU(_Fused):
    """The state is h; the model's own weights and order of gates."""

    gates = ((0, 1.0), (1, 1.0), (2, 1.0))

    def advance(self, gates: Tensor) -> None:
        self._state, _ = torch.ops.aten._thnn_fused_gru_cell(gates, self._recurrent, self._state)
        self.product.output = self._state


_LAYERS: dict[Cell, type[_Layer]] = {"lstm": _LSTM, "gru": _GRU, "rnn": _RNN}
_FUSED_LAYERS: dict[Cell, type[_Layer]] = {"lstm": _FusedLSTM, "gru": _FusedGRU}


def _join(layer: nn.Module, reader: nn.Module, kind: type[_Layer]) -> _Weights:
    """Everything that reads a layer's output: its own gates, and the next layer's gates or the head."""
    _, weight_hh, _, bias_hh = layer_weights(layer)
    recurrent = _arrange(weight_hh, bias_hh if isinstance(layer, nn.GRU) else torch.zeros_like(bias_hh), kind)
    if isinstance(reader, nn.Linear):
        downstream = reader.weight.detach(), reader.bias.detach()
    else:
        downstream = _arrange(layer_weights(reader)[0], _input_bias(reader), kind)
    weight, bias = (torch.cat(parts) for parts in zip(recurrent, downstream, strict=True))
    return _Weights(weight / kind.scale, bias, num_gates=len(weight_hh), bound=kind.scale)


def _input_table(model: CharRNN, kind: type[_Layer], *, exact: bool) -> Tensor:
    """The contribution of each symbol to the gates of layer 0: (V, G)."""
    first = model.stack.layers[0]
    weight, bias = _arrange(layer_weights(first)[0], _input_bias(first), kind)  # (G, E) or (G, V)
    if model.embedding is None:
        product = weight.t()
    else:
        multiply = _multiply_exactly if exact else torch.mm
        product = multiply(model.embedding.weight, weight.t())
    return (product + bias).contiguous()  # it is read by rows


def _multiply_exactly(a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices rounded to multiples of 2^-18; exact in float64 for sums of 64 products up to 8 x 8."""
    a, b = (torch.round(tensor.double() * 2**18) for tensor in (a, b))
    return (a @ b * 2.0**-36).float()


def _arrange(weight: Tensor, bias: Tensor, kind: type[_Layer]) -> tuple[Tensor, Tensor]:
    """Put weights (G, I) and biases (G,) of gates in the order, and to the scale, of this kind of layer."""
    weights, biases = (tensor.detach().chunk(len(kind.gates)) for tensor in (weight, bias))
    arranged = [(factor * weights[place], factor * biases[place]) for place, factor in kind.gates]
    return torch.cat([weight for weight, _ in arranged]), torch.cat([bias for _, bias in arranged])


def _input_bias(layer: nn.Module) -> Tensor:
    """The sum of both biases (G,); for a GRU the input bias only, since its reset gate scales part of the other."""
    _, _, bias_ih, bias_hh = layer_weights(layer)
    return bias_ih if isinstance(layer, nn.GRU) else bias_ih + bias_hh
