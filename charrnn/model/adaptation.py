"""Dynamic evaluation: the loss of a text under a model that is trained on the text after each prediction.

Letters in shapes: N symbols, T time steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, State, detach
from charrnn.model.scoring import chunk_losses
from charrnn.terminal import Advance, advance_nothing

_SEQ_LENGTH = 20
_LEARNING_RATE = 3e-4
_DECAY = 2e-3
_EPSILON = 1e-8


class Adaptation:
    """A copy of a model that adapts to a text, which may come in parts; computed in float32.

    After each T = 20 symbols a weight w, originally v, becomes w - r * g / sqrt(m) + d * (v - w), with its gradient g,
    the mean m of g ** 2 over the text so far, a learning rate r and a decay d.
    Source: Krause et al., "Dynamic Evaluation of Neural Sequence Models" (2017), where m is from the training text.
    """

    def __init__(self, model: CharRNN, runtime: Runtime) -> None:
        self._runtime = replace(runtime, dtype=torch.float32)
        self._model = copy.deepcopy(model)
        self._model.stack.dropout = self._model.stack.recurrent_dropout = 0.0
        self._model.train()  # cuDNN computes gradients in training mode only
        self._weights: list[Tensor] = list(self._model.parameters())
        self._origins = [weight.detach().clone() for weight in self._weights]
        self._squares = [torch.zeros_like(weight) for weight in self._origins]
        self._num_updates = 0
        self._state: State | None = None

    def losses(self, ids: Tensor, advance: Advance = advance_nothing) -> Tensor:
        """The losses (N - 1,) of all ids (N,) but the first, in nats. The next part must start with the last id.

        `advance` is called with the number of symbols that each chunk predicts.
        """
        losses = [torch.zeros(0)]
        for start in range(0, len(ids) - 1, _SEQ_LENGTH):
            chunk = ids[start : start + _SEQ_LENGTH + 1, None].long()  # (T + 1, 1)
            each, state = chunk_losses(self._model, chunk[:-1], chunk[1:], self._state, self._runtime)
            self._update(torch.autograd.grad(each.mean(), self._weights))
            self._state = detach(state)
            losses.append(each.detach().flatten().cpu())
            advance(len(each))
        return torch.cat(losses)

    @torch.no_grad()
    def _update(self, gradients: Sequence[Tensor]) -> None:
        self._num_updates += 1
        for weight, origin, total, gradient in zip(self._weights, self._origins, self._squares, gradients, strict=True):
            total.addcmul_(gradient, gradient)
            root_mean = (total / self._num_updates).sqrt_() + _EPSILON
            weight.lerp_(origin, _DECAY).addcdiv_(gradient, root_mean, value=-_LEARNING_RATE)
