"""What is chosen where the user leaves it open: epochs, dropout, learning rate.

What was measured for these choices is in `tests/benchmarks/README.md`.
"""

import math
from collections.abc import Mapping

from charrnn.config import Cell, ModelConfig

_CHARS_TO_TRAIN_WELL = 10_000_000


def default_epochs(num_chars: int) -> int:
    """As many epochs as a model of the default size needs to be well trained on a corpus of this size."""
    return min(15, max(3, math.ceil(_CHARS_TO_TRAIN_WELL / num_chars)))


def default_dropout(num_parameters: int, num_chars: int, epochs: float) -> float:
    """More dropout the more often a text is read, and the more parameters could learn it by heart.

    A straight line in the logarithm of both, through the best values found for three budgets.
    """
    chances = max(epochs * num_parameters / num_chars, 1e-9)
    return round(min(0.5, max(0.0, 0.11 * (math.log2(chances) - 1.8))), 2)


_PEAKS: Mapping[Cell, float] = {"lstm": 3e-2, "gru": 8e-3, "rnn": 8e-3}
"""The peaks of the learning rate that did best at 512 units and 32 x 32 characters a step."""


def default_learning_rate(model: ModelConfig, chars_per_step: int) -> float:
    """A peak for these shapes: lower for wider layers and smaller steps than those that were measured.

    Source: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022), for the root.
    """
    return _PEAKS[model.cell] * min(1.0, 512 / model.hidden_size) ** 2 * min(1.0, math.sqrt(chars_per_step / 1024))
