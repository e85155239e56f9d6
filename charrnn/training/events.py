"""Events of a training run: emitted by `trainer.py`, reported by `reporting.py`."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Event:
    """The position in the run: `fraction` of the budget spent, `elapsed_s` in wall-clock seconds."""

    step: int
    epoch: float
    chars: int
    elapsed_s: float
    fraction: float


@dataclass(frozen=True)
class Stepped(Event):
    """A completed step. The loss is a running mean in nats per character, a tensor on the device."""

    train_loss: Tensor
    learning_rate: float
    chars_per_second: float


@dataclass(frozen=True)
class Evaluated(Event):
    """An evaluation: the validation loss in nats per character, measured on `val_chars` characters.

    Without validation text `val_chars` is None, and the loss is the running training loss.
    `is_whole`: the whole validation text was read. `improved`: the lowest loss so far on the part that all evaluations
    read; `part_loss` is the loss on this part if more than the part was read.
    """

    loss: float
    val_chars: int | None
    is_whole: bool
    improved: bool
    part_loss: float | None = None

    @property
    def bits_per_char(self) -> float:
        """The loss in bits per character."""
        return self.loss / math.log(2)


@dataclass(frozen=True)
class Recovered(Event):
    """The loss exploded or was not finite: training restarts at this step with a lower peak learning rate."""

    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Sampled(Event):
    """A generated sample; emitted by the caller of the trainer."""

    text: str


@dataclass(frozen=True)
class Finished(Event):
    """The end of the run. `reason`: "budget", "patience" or "stopped" (at the caller's request)."""

    reason: str
    chars_per_second: float
