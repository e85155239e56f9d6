"""What happens in a training run, as records: made by `training.py`, told by `reporting.py`."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Event:
    """Where the run stands; `fraction` is the share of the budget spent, `elapsed_s` wall-clock seconds."""

    step: int
    epoch: float
    chars: int
    elapsed_s: float
    fraction: float


@dataclass(frozen=True)
class Progress(Event):
    """A step was taken. The loss, a running mean in nats per character, stays on the device until read."""

    train_loss: Tensor
    learning_rate: float
    chars_per_second: float


@dataclass(frozen=True)
class Evaluated(Event):
    """The validation loss in nats per character, and the number of characters that it was measured on.

    Without validation text (None) it is the running training loss. `is_whole`: on all that there are.
    """

    loss: float
    val_chars: int | None
    is_whole: bool
    improved: bool

    @property
    def bits_per_char(self) -> float:
        """The loss in bits."""
        return self.loss / math.log(2)


@dataclass(frozen=True)
class Recovered(Event):
    """The loss exploded or was no number: training is back at this step, with a lower peak of the learning rate."""

    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Sampled(Event):
    """A text that the model wrote; made by the trainer's caller."""

    text: str


@dataclass(frozen=True)
class Finished(Event):
    """The end of the run. `reason`: "budget", "patience" or "stopped" (the caller asked for it)."""

    reason: str
    chars_per_second: float
