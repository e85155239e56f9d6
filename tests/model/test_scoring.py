"""The loss on held-out text."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from charrnn.config import ModelConfig
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN
from charrnn.model.scoring import IGNORE, Part, evaluate, evaluation_chunks, sequence_losses, text_losses
from tests.support import CPU

MODEL = ModelConfig(vocab_size=7, hidden_size=16, embedding_size=4)
TEXT = torch.randint(7, (5000,), generator=torch.Generator().manual_seed(0))


def test_evaluation_is_the_mean_loss_with_carried_state() -> None:
    model, text = CharRNN(MODEL).eval(), TEXT[:500]
    with torch.no_grad():
        logits, _ = model(text[:-1, None])
    exact = float(F.cross_entropy(logits[:, 0], text[1:]))
    assert evaluate(model, text, CPU, Part(1)).loss == pytest.approx(exact, abs=1e-6)
    measured = evaluate(model, text, CPU, Part(4))
    assert measured.loss == pytest.approx(exact, abs=1e-4)
    assert measured.num_predictions == 499
    model.train()
    evaluate(model, text, CPU)
    assert model.training


def test_part_is_spread_over_the_text() -> None:
    """A model that knows every symbol but those of the last quarter has seen the last quarter."""
    model = CharRNN(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.head.bias[3] = 20.0
    text = torch.full((5000,), 3)
    part = Part.fit(len(text), 7, 2000)
    assert evaluate(model, text, CPU, part).loss < 0.01
    text[-1000:] = 4
    assert evaluate(model, text, CPU, part).loss > 1


@given(st.integers(2, 10**9), st.integers(2, 70_000), st.floats(1, 1e9))
def test_part_has_the_requested_size(num_symbols: int, vocab_size: int, max_symbols: float) -> None:
    part = Part.fit(num_symbols, vocab_size, max_symbols)
    assert part.batch_size * 64 * vocab_size <= 2**24 or part.batch_size == 1, "logits take no more than 64 MB"
    if num_symbols <= max_symbols:
        assert part.count(num_symbols) == num_symbols
    else:
        assert 0.5 * max_symbols <= part.count(num_symbols) or part.count(num_symbols) == num_symbols
        assert part.count(num_symbols) <= max(max_symbols, 4 * 64)


def test_evaluation_stops_when_time_is_up_and_counts_predictions() -> None:
    model = CharRNN(MODEL)
    measured = evaluate(model, TEXT, CPU, Part(4), is_time_up=lambda: True)
    assert math.isfinite(measured.loss)
    assert 0 < measured.num_predictions < len(TEXT) - 1


def test_stop_ends_an_evaluation() -> None:
    assert math.isnan(evaluate(CharRNN(MODEL), TEXT, CPU, should_stop=lambda: True).loss)


def test_evaluation_waits_for_the_device_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(Runtime, "synchronize", lambda runtime: waits.append("synchronize"))
    for name in ("item", "__float__", "__int__", "__bool__", "tolist"):
        method = getattr(torch.Tensor, name)

        def wait(tensor: torch.Tensor, name: str = name, method: Callable[[torch.Tensor], object] = method) -> object:
            waits.append(name)
            return method(tensor)

        monkeypatch.setattr(torch.Tensor, name, wait)
    evaluate(CharRNN(MODEL), TEXT[:2561], CPU, Part(1))  # 40 chunks
    assert waits == ["synchronize", "synchronize", "tolist", "tolist"]


@given(st.integers(2, 300), st.integers(1, 8), st.integers(1, 20))
def test_evaluation_counts_every_prediction_once_in_chunks_of_one_shape(N: int, B: int, T: int) -> None:
    chunks = list(evaluation_chunks(torch.arange(N), B, T))
    assert len({x.shape for x, _ in chunks}) == 1
    counted = torch.cat([y[y != IGNORE] for _, y in chunks])
    assert sorted(counted.tolist()) == list(range(1, N))
    for x, y in chunks:
        assert torch.equal(x[y != IGNORE] + 1, y[y != IGNORE])


def test_evaluation_streams_are_warmed_up_before_they_count() -> None:
    chunks = list(evaluation_chunks(torch.arange(101), 4, 10))
    x = torch.cat([x for x, _ in chunks])
    y = torch.cat([y for _, y in chunks])
    for stream in range(1, 4):
        first = int((y[:, stream] != IGNORE).nonzero()[0])
        assert first == 10
        assert x[:first, stream].tolist() == list(range(int(x[0, stream]), int(x[first, stream])))
    assert y[0, 0] == 1


def exact_losses(model: CharRNN, text: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits, _ = model(text[:-1, None])
    return F.cross_entropy(logits[:, 0], text[1:], reduction="none")


def test_losses_of_a_text_are_in_order_and_average_to_the_evaluation() -> None:
    model = CharRNN(MODEL).eval()
    advanced: list[int] = []
    losses = text_losses(model, TEXT, CPU, advanced.append)
    assert float(losses.mean()) == pytest.approx(evaluate(model, TEXT, CPU).loss, abs=1e-6)
    torch.testing.assert_close(losses, exact_losses(model, TEXT), atol=1e-3, rtol=0)
    assert sum(advanced) == len(TEXT) - 1
    for length in (0, 1, 2):
        assert len(text_losses(model, TEXT[:length], CPU)) == max(0, length - 1)


def test_losses_of_a_sequence_do_not_depend_on_those_beside_it() -> None:
    model = CharRNN(MODEL).eval()
    sequences = [TEXT[i : i + length] for i, length in enumerate((3, 200, 1, 70, 2, 0, 65, 64) * 50)]
    for sequence, losses in zip(sequences, sequence_losses(model, sequences, CPU), strict=True):
        assert len(losses) == max(0, len(sequence) - 1)
        if len(losses):
            torch.testing.assert_close(losses, exact_losses(model, sequence), atol=1e-5, rtol=1e-5)
