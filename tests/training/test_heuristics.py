"""Values for options that were not set."""

from dataclasses import replace

import pytest
import torch

from charrnn.config import ModelConfig, Optimizer, TrainingConfig
from charrnn.machine.distributed import Ranks
from charrnn.machine.runtime import CUDARuntime, Runtime
from charrnn.model.network import count_multiplications
from charrnn.training.heuristics import (
    SHAPES,
    choose_layout,
    default_dropout,
    default_epochs,
    default_learning_rate,
    largest,
    pretrained_lr_scale,
    suits_budget,
)


def test_smaller_corpora_get_more_epochs() -> None:
    epochs = [default_epochs(num_chars, num_chars // 2_048 + 1) for num_chars in (1_000, 1_000_000, 10**9)]
    assert epochs[0] > epochs[1] > epochs[2] >= 1


@pytest.mark.parametrize(("num_chars", "num_updates"), [(10**5, 600), (10**6, 5_000), (10**8, 30_000)])
def test_large_steps_do_not_make_updates_few(num_chars: int, num_updates: int) -> None:
    gpu = CUDARuntime(torch.device("cuda"), torch.float16)
    layout = choose_layout(TrainingConfig(), num_chars, gpu)
    steps = num_chars // ((layout.batch_size or 1) * (layout.seq_length or 1))
    assert default_epochs(num_chars, steps) * steps >= num_updates


def test_dropout_grows_with_epochs_and_falls_with_text() -> None:
    few, many = default_dropout(10**6, 10**6, 3), default_dropout(10**6, 10**6, 40)
    assert 0 <= default_dropout(10**6, 10**9, 1) <= few < many <= default_dropout(10**6, 10**4, 10**5) <= 0.5


def test_dropout_is_low_in_a_model_that_has_still_to_learn() -> None:
    learned, fresh = default_dropout(344_000, 133_000, 1000), default_dropout(344_000, 133_000, 30)
    assert 0.25 <= fresh <= 0.35 < learned <= 0.5


def test_dropout_is_higher_with_a_faster_optimizer_on_a_short_text() -> None:
    adamw, muon = (default_dropout(719_000, 133_000, 25, pace=pace) for pace in (1, 5))
    assert 0.1 < adamw < 0.2 < muon < 0.45
    assert default_dropout(719_000, 1_000_000, 6) == default_dropout(719_000, 1_000_000, 6, pace=5)


def test_dropout_is_higher_in_a_model_that_has_learned_before() -> None:
    fresh, warm = (default_dropout(1_220_000, 133_000, 7, before) for before in (0, 6_200_000))
    assert fresh == 0
    assert 0.1 <= warm <= 0.25
    assert default_dropout(1_220_000, 133_000, 0.1, 6_200_000) == 0, (
        "a text that is hardly read is not learned by heart"
    )


def width(seconds: float, num_chars: int = 10**6, vocab_size: int = 70) -> tuple[int, int]:
    """Layers and units that are chosen on a machine of 10^10 multiplications a second."""
    models = [ModelConfig(vocab_size=vocab_size, num_layers=L, hidden_size=H) for L, H in SHAPES]

    def suits(model: ModelConfig) -> bool:
        num_chars_read = seconds * 1e10 / count_multiplications(model)
        return suits_budget(model, num_chars, lambda: num_chars_read)

    chosen = largest(models, suits)
    return chosen.num_layers, chosen.hidden_size


def test_model_is_the_largest_that_the_budget_trains() -> None:
    sizes = [width(10**i, num_chars=10**8) for i in range(-5, 6)]
    assert sizes == sorted(sizes)
    assert sizes[0] == SHAPES[0]
    assert sizes[-1] == SHAPES[-1]
    assert width(62) == (1, 256)


def test_model_stays_below_what_would_overfit_a_short_text() -> None:
    assert width(1e9, num_chars=2500) == (1, 64)
    assert width(1e9, num_chars=2) == (1, 64)


def test_many_symbols_are_no_reason_for_a_narrower_layer() -> None:
    assert width(1000, vocab_size=5000) >= (1, 256)


@pytest.mark.parametrize("best", range(len(SHAPES) + 1))
def test_largest_model_is_found_in_few_trials(best: int) -> None:
    models = [ModelConfig(vocab_size=7, num_layers=L, hidden_size=H) for L, H in SHAPES]
    tried: list[ModelConfig] = []

    def suits(model: ModelConfig) -> bool:
        tried.append(model)
        return models.index(model) < best

    assert largest(models, suits) == models[max(best - 1, 0)]
    assert len(tried) <= 4
    assert tried[0].hidden_size == 512, "a wide one is too slow to be tried where this one is"


def test_learning_rate_suits_cell_width_and_step() -> None:
    narrow = ModelConfig(vocab_size=7, hidden_size=512)
    wide, other = replace(narrow, hidden_size=1024), replace(narrow, cell="rnn")
    adamw: Optimizer = "adamw"
    assert default_learning_rate(narrow, adamw, 1024) == 4 * default_learning_rate(wide, adamw, 1024)
    assert default_learning_rate(narrow, adamw, 1024) == 2 * default_learning_rate(narrow, adamw, 256)
    assert default_learning_rate(narrow, adamw, 1024) > default_learning_rate(other, adamw, 1024)
    assert default_learning_rate(narrow, adamw, 10**6) == default_learning_rate(narrow, adamw, 1024)
    assert default_learning_rate(narrow, "muon", 1024) == default_learning_rate(wide, "muon", 1024)


def test_trained_weights_get_a_lower_rate_the_sooner_they_overfit() -> None:
    often_read, short = (
        [pretrained_lr_scale(10**6, num_chars, epochs) for num_chars, epochs in cases]
        for cases in ([(10**6, 1), (10**6, 10), (10**6, 100)], [(10**7, 10), (10**6, 10), (10**5, 10)])
    )
    assert 0.5 > often_read[0] > often_read[1] > often_read[2] > 0
    assert 0.5 > short[0] > short[1] > short[2] > 0
    assert 1 / 3 < pretrained_lr_scale(1_220_000, 1_003_854, 3.7) < 1 / 2
    assert 1 / 8 < pretrained_lr_scale(1_220_000, 133_182, 6.9) < 1 / 4
    assert 1 / 32 < pretrained_lr_scale(1_220_000, 133_182, 28) < 1 / 16


@pytest.mark.parametrize(
    ("num_chars", "num_ranks", "batch_size"),
    [
        (10**7, 1, 128),
        (128 * 64 * 200, 1, 128),
        (128 * 64 * 200 - 1, 1, 64),
        (10**5, 1, 32),
        (10, 1, 32),
        (10**9, 8, 1024),
        (10**6, 8, 64),
        (10**6, 3, 48),
    ],
)
def test_gpus_train_large_steps_unless_an_epoch_has_few(num_chars: int, num_ranks: int, batch_size: int) -> None:
    gpu = CUDARuntime(torch.device("cuda"), torch.float16, Ranks(0, num_ranks))
    chosen = choose_layout(TrainingConfig(), num_chars, gpu)
    assert (chosen.batch_size, chosen.seq_length) == (batch_size, 64)


def test_layout_is_the_given_one_or_suits_the_machine() -> None:
    float32, bfloat16 = (Runtime(torch.device("cpu"), dtype) for dtype in (torch.float32, torch.bfloat16))
    cases: list[tuple[Optimizer, Runtime, int]] = [
        ("adamw", float32, 16),
        ("adamw", bfloat16, 32),
        ("muon", float32, 32),
        ("muon", bfloat16, 32),
    ]
    for optimizer, runtime, batch_size in cases:
        chosen = choose_layout(TrainingConfig(optimizer=optimizer), 10**6, runtime)
        assert (chosen.batch_size, chosen.seq_length) == (batch_size, 32)
    given = TrainingConfig(batch_size=5, seq_length=7)
    assert choose_layout(given, 100, float32) == given
