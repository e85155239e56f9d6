"""What is chosen where the user leaves it open."""

from dataclasses import replace

from charrnn.config import ModelConfig
from charrnn.defaults import default_dropout, default_epochs, default_hidden_size, default_learning_rate


def test_smaller_corpora_get_more_epochs() -> None:
    assert default_epochs(1_000) > default_epochs(1_000_000) > default_epochs(10**9) >= 1


def test_dropout_grows_with_epochs_and_falls_with_text() -> None:
    few, many = default_dropout(10**6, 10**6, 3), default_dropout(10**6, 10**6, 40)
    assert 0 <= default_dropout(10**6, 10**9, 1) <= few < many <= default_dropout(10**6, 10**4, 10**5) <= 0.5


def test_dropout_is_low_in_a_model_that_has_still_to_learn() -> None:
    learned, fresh = default_dropout(344_000, 133_000, 1000), default_dropout(344_000, 133_000, 30)
    assert 0.25 <= fresh <= 0.35 < learned <= 0.5


def test_width_is_the_largest_that_the_budget_trains() -> None:
    def chosen(seconds: float) -> int:
        return default_hidden_size(lambda H: 5 * H * H, 10**6, lambda H: seconds * 1e10 / H**2)

    assert [chosen(10**i) for i in range(-5, 4)] == sorted(chosen(10**i) for i in range(-5, 4))
    assert chosen(1e-9) == 32
    assert chosen(20) == 256
    assert chosen(1e6) == 512


def test_width_stays_below_what_would_learn_a_short_text_by_heart() -> None:
    assert default_hidden_size(lambda H: 5 * H * H, 2000, lambda H: 1e12) == 64
    assert default_hidden_size(lambda H: 5 * H * H, 2, lambda H: 1e12) == 32


def test_learning_rate_suits_cell_width_and_step() -> None:
    narrow = ModelConfig(vocab_size=7, hidden_size=512)
    wide, other = replace(narrow, hidden_size=1024), replace(narrow, cell="rnn")
    assert default_learning_rate(narrow, 1024) == 4 * default_learning_rate(wide, 1024)
    assert default_learning_rate(narrow, 1024) == 2 * default_learning_rate(narrow, 256)
    assert default_learning_rate(narrow, 1024) > default_learning_rate(other, 1024)
    assert default_learning_rate(narrow, 10**6) == default_learning_rate(narrow, 1024)
