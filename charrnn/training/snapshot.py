"""The state of a training between two steps: a part that a recovery takes back, and a part that it never does."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from charrnn.model.scoring import Part
from charrnn.training.streams import Cursor


@dataclass(kw_only=True)
class Course:
    """Progress of the training. A recovery takes it back to an earlier moment.

    Older checkpoints lack a new field, see `_upgraded` in `checkpoint.py`. Values are immutable: copies are shallow.
    """

    lowest_loss: float
    """The least running mean of the training loss that was looked at, or at first the loss of guessing."""
    step: int = 0
    evaluated_step: int = 0
    evaluated_fraction: float = 0.0
    """Of the budget, at the last evaluation."""
    stale_evaluations: int = 0
    """Evaluations without progress since the last one with it."""
    patience_lost_at: float | None = None
    """Steps or seconds, as the budget counts them."""


@dataclass(kw_only=True)
class History:
    """Facts about the run that no recovery takes back. For new fields see `Course`."""

    elapsed_s: float = 0.0
    """Wall-clock seconds since the first step."""
    paused_seconds: float = 0.0
    """Those of them in which nothing was trained."""
    evaluation_seconds: float = 0.0
    """Duration of one evaluation, with the sample and the checkpoint that follow it."""
    final_evaluation_seconds: float = field(default=0.0, metadata={"key": "closing_seconds"})
    """Expected duration of the final one."""
    part: Part | None = None
    """The part of the validation text that each evaluation reads; None before the first step."""
    best_part_loss: float | None = None
    best_val_loss: float | None = None
    best_val_chars: int | None = None
    """Number of predictions that `best_val_loss` is the mean of."""
    recoveries: int = 0


@dataclass(frozen=True)
class Snapshot:
    """All that the further course of a training depends on, weights included.

    Names of tensors begin with "model." for weights and with "trainer." for all else.
    """

    tensors: Mapping[str, Tensor]
    cursor: Cursor
    gradient_scaler: Mapping[str, float]
    course: Course
    history: History

    @property
    def num_ranks(self) -> int:
        """The number of processes that took it, each with a generator of its own."""
        return sum(name.startswith("trainer.random.cpu") for name in self.tensors)

    def copy(self, device: torch.device | None = None) -> "Snapshot":
        """The same moment in memory of its own, on another device if one is named."""
        tensors = {
            name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in self.tensors.items()
        }
        return replace(self, tensors=tensors, course=replace(self.course), history=replace(self.history))


def select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def require_like(like: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a name, of the type and shape that another one has. Raises: KeyError, ValueError."""
    tensor = tensors[name]
    if tensor.dtype != like.dtype or tensor.shape != like.shape:
        raise ValueError(f"{name} is of {tensor.dtype} and shape {tuple(tensor.shape)}")
    return tensor
