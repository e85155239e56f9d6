"""The state of a training run between two steps: a part that a recovery resets, and a part that it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from charrnn.model.scoring import Part
from charrnn.training.streams import Cursor


@dataclass(kw_only=True)
class Progress:
    """Stepped, which a recovery resets to an earlier moment.

    Older checkpoints lack a new field, see `_upgraded` in `checkpoint.py`. Values are immutable: copies are shallow.
    """

    lowest_loss: float  # least running mean of the training loss at a check; at first the loss of guessing
    step: int = 0
    evaluated_step: int = 0
    evaluated_fraction: float = 0.0  # of the budget, at the last evaluation
    stale_evaluations: int = 0  # evaluations without progress since the last one with it
    patience_lost_at: float | None = None  # in steps or seconds, as the budget counts


@dataclass(kw_only=True)
class History:
    """Facts about the run that no recovery resets. For new fields see `Progress`."""

    elapsed_s: float = 0.0  # wall-clock time since the first step
    paused_seconds: float = 0.0  # part of it without training
    evaluation_seconds: float = 0.0  # duration of one evaluation, with the sample and the checkpoint that follow it
    final_evaluation_seconds: float = field(default=0.0, metadata={"key": "closing_seconds"})  # expected duration
    part: Part | None = None  # of the validation text, read by each evaluation; None before the first step
    best_part_loss: float | None = None
    best_val_loss: float | None = None
    best_val_chars: int | None = None  # number of characters that `best_val_loss` is measured on
    recoveries: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next steps depend on; names of tensors start with "model." for weights, else "trainer."."""

    tensors: Mapping[str, Tensor]
    cursor: Cursor
    gradient_scaler: Mapping[str, float]
    progress: Progress
    history: History

    @property
    def num_ranks(self) -> int:
        """The number of processes that took it, each with its own generator."""
        return sum(name.startswith("trainer.random.cpu") for name in self.tensors)

    def copy(self, device: torch.device | None = None) -> "Snapshot":
        """A copy, on another device if one is given."""
        tensors = {name: each.detach().to(device or each.device, copy=True) for name, each in self.tensors.items()}
        return replace(self, tensors=tensors, progress=replace(self.progress), history=replace(self.history))


def select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def require_like(like: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a name, of the type and shape that another one has. Raises: KeyError, ValueError."""
    tensor = tensors[name]
    if tensor.dtype != like.dtype or tensor.shape != like.shape:
        raise ValueError(f"{name} is of {tensor.dtype} and shape {tuple(tensor.shape)}")
    return tensor
