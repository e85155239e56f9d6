"""AdamW for a model, and its moments as tensors by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from charrnn.config import TrainingConfig
from charrnn.machine.runtime import Runtime
from charrnn.training.snapshot import require_like


def make_optimizer(model: nn.Module, config: TrainingConfig, runtime: Runtime) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, and a learning rate that lies on the device."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=runtime.place(torch.zeros(())),  # set before each step
        weight_decay=config.weight_decay,
        fused=True,
        capturable=runtime.captures,
    )


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by "<number of the parameter>.<name of the moment>"; empty before the first step."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": moment for i, moments in state.items() for name, moment in moments.items()}


def load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Replace the optimizer's state by copies. Raises: ValueError where it is that of other parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    likes = {
        f"{i}.{name}": optimizer.param_groups[0]["lr"] if name == "step" else parameter
        for i, parameter in enumerate(parameters)
        for name in ("step", "exp_avg", "exp_avg_sq")
    }
    if tensors and tensors.keys() != likes.keys():
        raise ValueError("it has no optimizer of these parameters")
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = require_like(likes[key], key, tensors).clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
