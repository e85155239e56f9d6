"""Dynamic evaluation."""

import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.model.adaptation import Adaptation
from charrnn.model.network import CharRNN
from charrnn.model.scoring import text_losses
from tests.support import CPU

MODEL = ModelConfig(vocab_size=7, hidden_size=16, embedding_size=4, dropout=0.5)


def test_model_learns_from_the_text_and_stays_as_it_is() -> None:
    model = CharRNN(MODEL)
    before = [weight.clone() for weight in model.parameters()]
    text = torch.tensor([0, 1, 2, 3, 4, 5, 6] * 600)
    adapted, fixed = Adaptation(model, CPU).losses(text), text_losses(model, text, CPU)
    assert adapted.shape == fixed.shape
    torch.testing.assert_close(adapted[:20], fixed[:20])  # a chunk is predicted before it is learned
    assert float(adapted[-500:].mean()) < 0.99 * float(fixed[-500:].mean())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_text_in_parts_is_learned_as_a_whole() -> None:
    model, text = CharRNN(MODEL), torch.randint(7, (101,), generator=torch.Generator().manual_seed(0))
    whole, parts = Adaptation(model, CPU), Adaptation(model, CPU)
    losses = torch.cat([parts.losses(text[:41]), parts.losses(text[40:])])
    assert losses.tolist() == pytest.approx(whole.losses(text).tolist())
