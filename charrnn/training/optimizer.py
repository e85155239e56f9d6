"""The optimizers of a model, and their state as named tensors.

Muon updates the matrices of the recurrent layers, AdamW all other parameters: embedding, head and biases. With
`--optimizer adamw`, AdamW updates everything.

Letters in shapes: G gates, H hidden size, I input size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from charrnn.config import TrainingConfig
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, layer_weights
from charrnn.training.snapshot import require_like

_MOMENTUM = 0.9
# Symbols between two updates by Muon on a CPU, where orthogonalisation costs half as much as a small step.
_SYMBOLS_PER_UPDATE, _MAX_PERIOD = 2048, 4
_ADAMW_LR_SCALE = 0.5  # learning rate of AdamW relative to Muon's, for layers of up to 512 units
_POLYNOMIALS = ((8.2872, -23.5959, 17.3004), (4.1071, -2.9478, 0.5448))
"""Coefficients of X, X X^T X and (X X^T)^2 X in each iteration. Source: Amsel et al., "The Polar Express" (2025)."""


class Muon(torch.optim.Optimizer):
    """SGD with momentum and an orthogonalised update for each gate's block of a weight.

    The weights are updated every `period` steps, with `period` times the learning rate; the momentum at each step.
    `torch.optim.Muon` lacks blocks, the period, a learning rate on the device, and `found_inf` (1 skips the step).
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        weights: Sequence[Tensor],
        num_gates: int,
        *,
        lr: Tensor,
        weight_decay: float,
        dtype: torch.dtype,
        period: int = 1,
    ) -> None:
        """`weights` are (G * H, I); products are computed in `dtype`."""
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "lr_scale": 1.0})
        self.found_inf = torch.zeros_like(lr)
        self._num_gates, self._dtype, self._period = num_gates, dtype, period

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the weights by their gradients."""
        is_finite = self.found_inf == 0
        for group in self.param_groups:
            rate = group["lr"] * self._period * is_finite
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state |= {"momentum": torch.zeros_like(weight), "step": torch.zeros_like(rate)}
                momentum, step = state["momentum"], state["step"]
                gradient = torch.where(is_finite, weight.grad, 0.0)
                momentum.lerp_(gradient, (1 - _MOMENTUM) * is_finite)
                step += is_finite
                if self._period > 1 and step % self._period:  # false on devices that record the step
                    continue
                direction = gradient.lerp(momentum, _MOMENTUM)  # Nesterov's
                blocks = direction.view(self._num_gates, -1, weight.shape[1])  # (G, H, I)
                update = orthogonalise(blocks.to(self._dtype)).to(weight.dtype).reshape(weight.shape)
                weight.mul_(1 - rate * group["weight_decay"]).sub_(rate * update)


def orthogonalise(blocks: Tensor) -> Tensor:
    """Make the singular values of matrices (G, H, I) about equal, so that rare directions are learned too.

    An odd polynomial of a matrix applies to its singular values. Two iterations bring those above 0.015 of the norm to
    between 0.2 and 2, times sqrt(max(1, H / I)); more iterations did not train better.
    """
    num_rows, num_columns = blocks.shape[1:]
    X = blocks if num_rows <= num_columns else blocks.mT
    X = X / (1.01 * X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in _POLYNOMIALS:
        gram = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return (X if num_rows <= num_columns else X.mT).mul(max(1.0, num_rows / num_columns) ** 0.5)


def make_optimizers(model: CharRNN, config: TrainingConfig, runtime: Runtime) -> dict[str, torch.optim.Optimizer]:
    """The optimizers by name: "optimizer" is AdamW, with weight decay on matrices only; "muon" is Muon if configured.

    Learning rates are on the device. The `lr_scale` of a group is a factor for the learning rate of the run.
    """
    for_muon = _recurrent_matrices(model) if config.optimizer == "muon" else []
    rest = [p for p in model.parameters() if all(p is not weight for weight in for_muon)]
    scale = _ADAMW_LR_SCALE * min(1.0, 512 / model.config.hidden_size) if for_muon else 1.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "lr_scale": scale},
        {"params": [p for p in rest if p.dim() <= 1], "lr_scale": scale, "weight_decay": 0.0},
    ]
    rate = runtime.place(torch.zeros(()))  # set before each step
    adamw = torch.optim.AdamW(
        groups, lr=rate, weight_decay=config.weight_decay, fused=runtime.fuses_adamw, capturable=runtime.captures
    )
    if not for_muon:
        return {"optimizer": adamw}
    num_gates = for_muon[0].shape[0] // model.config.hidden_size
    symbols_per_step = (config.batch_size or 1) * (config.seq_length or 1)
    period = min(max(_SYMBOLS_PER_UPDATE // symbols_per_step, 1), _MAX_PERIOD) if runtime.orthogonalises_slowly else 1
    muon = Muon(
        for_muon, num_gates, lr=rate.clone(), weight_decay=config.weight_decay, dtype=runtime.dtype, period=period
    )
    return {"optimizer": adamw, "muon": muon}


def _recurrent_matrices(model: CharRNN) -> list[nn.Parameter]:
    """The input and recurrent weights of all layers, except those of one-hot inputs, which act as an embedding."""
    recurrent = {weight for layer in model.stack.layers for weight in layer_weights(layer)[:2]}
    matrices = [p for p in model.parameters() if p in recurrent]
    return matrices[model.embedding is None :]


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by "<parameter number>.<name>"; empty before the first step."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": moment for i, moments in state.items() for name, moment in moments.items()}


def load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Set the optimizer's state to copies of tensors. Raises: ValueError if they are for other parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = ("momentum", "step") if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
    likes = {
        f"{i}.{name}": optimizer.param_groups[0]["lr"] if name == "step" else parameter
        for i, parameter in enumerate(parameters)
        for name in names
    }
    if tensors and tensors.keys() != likes.keys():
        raise ValueError("it has no optimizer state for these parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        i, _, name = key.partition(".")
        # PyTorch does not move "step" to the device.
        state.setdefault(int(i), {})[name] = require_like(likes[key], key, tensors).to(likes[key].device, copy=True)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
