"""Values for options that were not set: epochs, the model's width, dropout, learning rate.

What was measured for these choices is in `tests/benchmarks/README.md`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from charrnn.config import Cell, ModelConfig

_CHARS_TO_TRAIN_WELL = 10_000_000


def default_epochs(num_chars: int) -> int:
    """As many epochs as a model of the default size needs to be well trained on a corpus of this size."""
    return min(15, max(3, math.ceil(_CHARS_TO_TRAIN_WELL / num_chars)))


def default_dropout(num_parameters: int, num_chars: int, epochs: float) -> float:
    """More dropout the more often a text is read, and the more parameters could learn it by heart.

    A straight line in the logarithm of both, through the best values found for three budgets; yet no more than a model
    can bear that reads few characters for each of its parameters, and has still to learn.
    """
    by_heart = max(epochs * num_parameters / num_chars, 1e-9)
    learned = max(epochs * num_chars / num_parameters, 1e-9)
    dropout = 0.11 * min(math.log2(by_heart) - 1.8, math.log2(learned) - 0.7)
    return round(min(0.5, max(0.0, dropout)), 2)


MAX_PARAMETERS_PER_CHAR = 20
"""Of a text; a model with more learns it by heart."""
HIDDEN_SIZES = (512, 384, 256, 128, 64, 32)
"""Widths of a single layer that are chosen from."""
_CHARS_READ_PER_PARAMETER = 5  # of the layer


def default_model(
    models: Sequence[ModelConfig],
    num_chars: int,
    num_chars_read: Callable[[ModelConfig], float],
    num_parameters: Callable[[ModelConfig], int],
) -> ModelConfig:
    """The widest model that a budget can train: it reads several characters for each parameter of its layer.

    A layer of half the width reads three to four times as many characters in the same time, and learns less of each.
    `models` are in the order of their widths, the widest first; `num_chars` is the length of the text, and
    `num_chars_read` of a model counts the characters that it reads within the budget, each as often as it is read.
    """
    for model in models:
        learns_by_heart = num_parameters(model) > MAX_PARAMETERS_PER_CHAR * num_chars
        # Measured with some 70 symbols; the rows of rare ones are no reason for a narrower layer.
        parameters = num_parameters(replace(model, vocab_size=min(model.vocab_size, 70)))
        if not learns_by_heart and num_chars_read(model) >= _CHARS_READ_PER_PARAMETER * parameters:
            return model
    return models[-1]


_PEAKS: Mapping[Cell, float] = {"lstm": 3e-2, "gru": 8e-3, "rnn": 8e-3}
"""The peaks of the learning rate that did best at 512 units and 32 x 32 characters a step."""


def default_learning_rate(model: ModelConfig, chars_per_step: int) -> float:
    """A peak for these shapes: lower for wider layers and smaller steps than those that were measured.

    Source: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022), for the root.
    """
    return _PEAKS[model.cell] * min(1.0, 512 / model.hidden_size) ** 2 * min(1.0, math.sqrt(chars_per_step / 1024))
