"""Ranges and presets."""

from typing import Any

import pytest

from charrnn.config import (
    SIZES,
    ModelConfig,
    SamplingConfig,
    TrainingConfig,
)
from charrnn.errors import OptionError


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainingConfig, {"batch_size": 0}),
        (TrainingConfig, {"learning_rate": 0.0}),
        (TrainingConfig, {"learning_rate": float("nan")}),
        (TrainingConfig, {"minutes": -1.0}),
        (TrainingConfig, {"weight_decay": 1e4}),
        (TrainingConfig, {"weight_decay": 10**400}),
        (TrainingConfig, {"weight_decay": float("inf")}),
        (TrainingConfig, {"val_fraction": 1.0}),
        (TrainingConfig, {"epochs": 1, "steps": 1}),
        (ModelConfig, {"vocab_size": 2, "hidden_size": 0}),
        (ModelConfig, {"vocab_size": 2, "dropout": 1.0}),
        (ModelConfig, {"vocab_size": 2, "cell": "transformer"}),
        (SamplingConfig, {"temperature": -0.1}),
        (SamplingConfig, {"top_p": 0.0}),
        (SamplingConfig, {"stop": ("",)}),
    ],
)
def test_value_out_of_range_is_a_usage_error(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        kind(**values)
    assert caught.value.exit_code == 2


def test_message_names_option_value_and_limit() -> None:
    with pytest.raises(OptionError, match=r"--grad-clip is -1: it must be above 0"):
        TrainingConfig(grad_clip=-1)


def test_presets_are_valid_models() -> None:
    for preset in SIZES.values():
        ModelConfig(vocab_size=2, **preset)
