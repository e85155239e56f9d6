"""The state of a training run between two steps: a part that a recovery resets, and a part that it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from charrnn.model.scoring import Part
from charrnn.training.streams import Cursor


@dataclass(kw_only=True)
class Progress:
    """State that a recovery resets to an earlier step.

    For a new field, extend `_upgrade` in `checkpoint.py`: older checkpoints lack it. Values must be immutable, because
    copies are shallow.
    """

    lowest_loss: float  # lowest running mean of the training loss at a check; initially the uniform loss
    step: int = 0
    evaluated_step: int = 0
    evaluated_fraction: float = 0.0  # of the budget, at the last evaluation
    stale_evaluations: int = 0  # evaluations since the last improvement
    patience_lost_at: float | None = None  # in the unit of the budget: steps or seconds


@dataclass(kw_only=True)
class History:
    """State that a recovery keeps. For new fields see `Progress`."""

    elapsed_s: float = 0.0  # wall-clock time since the first step
    paused_seconds: float = 0.0  # of these, time without training
    evaluation_seconds: float = 0.0  # duration of an evaluation with its sample and checkpoint
    final_evaluation_seconds: float = field(default=0.0, metadata={"key": "closing_seconds"})  # expected duration
    part: Part | None = None  # part of the validation text to read; None before the first step
    best_part_loss: float | None = None
    best_val_loss: float | None = None
    best_val_chars: int | None = None  # characters that `best_val_loss` is measured on
    recoveries: int = 0


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next steps depend on. Names of tensors start with "model." (weights) or "trainer."."""

    tensors: Mapping[str, Tensor]
    cursor: Cursor
    gradient_scaler: Mapping[str, float]
    progress: Progress
    history: History

    @property
    def num_ranks(self) -> int:
        """Number of processes of the run; each has stored the state of a random generator."""
        return sum(name.startswith("trainer.random.cpu") for name in self.tensors)

    def copy(self, device: torch.device | None = None) -> "Snapshot":
        """A copy, by default on the same devices."""
        tensors = {name: each.detach().to(device or each.device, copy=True) for name, each in self.tensors.items()}
        return replace(self, tensors=tensors, progress=replace(self.progress), history=replace(self.history))


def select(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def require_like(like: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a name. Raises: KeyError; ValueError if its type or shape differs from that of `like`."""
    tensor = tensors[name]
    if tensor.dtype != like.dtype or tensor.shape != like.shape:
        raise ValueError(f"{name} has type {tensor.dtype} and shape {tuple(tensor.shape)}")
    return tensor
