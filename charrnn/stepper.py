"""One step of a trained model for many streams at once: layer 0's input product is a table, the rest is joined.

`model.py` computes whole sequences for training; here a single time step is all that matters. The logits
are the same. Letters in shapes: B streams, V vocabulary size, H hidden size, L layers, G = 4H, 3H or H gate
rows of an LSTM, GRU or RNN.
"""

import torch
from torch import Tensor, nn

from charrnn.model import CharRNN, State, evaluating, layer_weights
from charrnn.runtime import Runtime


class Stepper:
    """Advances B streams by one symbol; each stream's state is a row of the tensors in `state`."""

    def __init__(self, model: CharRNN, runtime: Runtime) -> None:
        self._model = model
        self._runtime = runtime
        weights = [layer_weights(layer) for layer in model.stack.layers]
        self._table = self._cast(_input_table(model))  # (V, G)
        self._input = [self._cast(weight_ih.t()) for weight_ih, _, _, _ in weights]  # (I, G)
        self._recurrent = [self._cast(weight_hh.t()) for _, weight_hh, _, _ in weights]  # (H, G)
        self._bias = [self._cast(_input_bias(layer)) for layer in model.stack.layers]  # (G,)
        self._recurrent_bias = [self._cast(bias_hh) for _, _, _, bias_hh in weights]  # (G,), used by the GRU
        self._head = self._cast(model.head.weight.t())  # (H, V)
        self._head_bias = self._cast(model.head.bias)
        self._advance = {"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[model.config.cell]

    def _cast(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._runtime.device, self._runtime.dtype).contiguous()

    @torch.inference_mode()
    def read(self, prompt: Tensor, num_streams: int, chunk: int = 1024) -> tuple[Tensor, State]:
        """Read a prompt (N,) as a sequence: logits (B, V) float32 behind it, and the state (B, H) of B streams."""
        state: State | None = None
        with evaluating(self._model):
            for part in prompt.split(chunk):
                logits, state = self._model(self._runtime.place(part.long()[:, None]), state)
        assert state is not None, "a prompt is at least one symbol long"
        spread = tuple(tuple(self._spread(tensor, num_streams) for tensor in layer) for layer in state)
        return logits[-1].float().expand(num_streams, -1), spread

    def _spread(self, tensor: Tensor, num_streams: int) -> Tensor:
        """(1, 1, H) to (B, H)."""
        return tensor[0].to(self._runtime.dtype).expand(num_streams, -1).contiguous()

    @torch.inference_mode()
    def step(self, symbols: Tensor, state: State) -> tuple[Tensor, State]:
        """symbols: (B,) int64; returns logits (B, V) float32 and the new state."""
        new_state: list[tuple[Tensor, ...]] = []
        gates = self._table.index_select(0, symbols)  # (B, G)
        for i, layer in enumerate(state):
            if i > 0:
                gates = torch.addmm(self._bias[i], new_state[-1][0], self._input[i])
            new_state.append(self._advance(gates, layer, i))
        logits = torch.addmm(self._head_bias, new_state[-1][0], self._head)
        return logits.float(), tuple(new_state)

    def _lstm(self, gates: Tensor, layer: tuple[Tensor, ...], i: int) -> tuple[Tensor, ...]:
        h, c = layer
        gates = torch.addmm(gates, h, self._recurrent[i])
        H = h.shape[1]
        input_and_forget = gates[:, : 2 * H].sigmoid()
        c = input_and_forget[:, H:] * c + input_and_forget[:, :H] * gates[:, 2 * H : 3 * H].tanh()
        return gates[:, 3 * H :].sigmoid() * c.tanh(), c

    def _gru(self, gates: Tensor, layer: tuple[Tensor, ...], i: int) -> tuple[Tensor, ...]:
        (h,) = layer
        recurrent = torch.addmm(self._recurrent_bias[i], h, self._recurrent[i])
        H = h.shape[1]
        reset, update = (gates[:, : 2 * H] + recurrent[:, : 2 * H]).sigmoid().chunk(2, dim=1)
        new = (gates[:, 2 * H :] + reset * recurrent[:, 2 * H :]).tanh()
        return (torch.lerp(new, h, update),)

    def _rnn(self, gates: Tensor, layer: tuple[Tensor, ...], i: int) -> tuple[Tensor, ...]:
        (h,) = layer
        return (torch.addmm(gates, h, self._recurrent[i]).tanh(),)


@torch.no_grad()
def _input_table(model: CharRNN) -> Tensor:
    """What each symbol adds to the gates of layer 0: (V, G)."""
    first = model.stack.layers[0]
    weight = layer_weights(first)[0].t()  # (E, G) or (V, G)
    product = weight if model.embedding is None else model.embedding.weight @ weight
    return product + _input_bias(first)


def _input_bias(layer: nn.Module) -> Tensor:
    """Both biases (G,) in one; a GRU's recurrent one stays apart, since its reset gate scales a part of it."""
    _, _, bias_ih, bias_hh = layer_weights(layer)
    return bias_ih if isinstance(layer, nn.GRU) else bias_ih + bias_hh
