"""A trained model, one step at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import Cell, ModelConfig
from charrnn.model import CharRNN
from charrnn.stepper import Stepper
from tests.conftest import CPU

V = 9
cells: st.SearchStrategy[Cell] = st.sampled_from(["lstm", "gru", "rnn"])
sequences = st.lists(st.integers(0, V - 1), min_size=2, max_size=12)


@given(cells, st.integers(1, 3), st.sampled_from([None, 5]), sequences, st.integers(1, 4))
@torch.no_grad()
def test_logits_are_those_of_the_model(
    cell: Cell, num_layers: int, embedding_size: int | None, text: list[int], num_streams: int
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=V,
        cell=cell,
        hidden_size=7,
        num_layers=num_layers,
        embedding_size=embedding_size,
        dropout=0.5,
    )
    model = CharRNN(config)
    for parameter in model.parameters():
        parameter.normal_(std=0.5)
    expected, _ = model.eval()(torch.tensor(text)[:, None])
    stepper = Stepper(model.train(), CPU)
    logits, state = stepper.read(torch.tensor(text[:1], dtype=torch.uint8), num_streams, chunk=2)
    for t, symbol in enumerate(text):
        if t > 0:
            logits, state = stepper.step(torch.full((num_streams,), symbol), state)
        torch.testing.assert_close(logits, expected[t].expand(num_streams, -1), atol=1e-5, rtol=1e-4)
    assert model.training


@torch.no_grad()
def test_long_prompt_is_read_in_chunks_to_the_same_end() -> None:
    model = CharRNN(ModelConfig(vocab_size=V, hidden_size=7, embedding_size=5))
    prompt = torch.arange(50) % V
    (a, _), (b, _) = (Stepper(model, CPU).read(prompt, 1, chunk=chunk) for chunk in (7, 1000))
    torch.testing.assert_close(a, b)


@torch.no_grad()
def test_streams_do_not_disturb_each_other() -> None:
    stepper = Stepper(CharRNN(ModelConfig(vocab_size=V, hidden_size=7, embedding_size=5)), CPU)
    _, state = stepper.read(torch.tensor([1]), 2)
    _, state = stepper.step(torch.tensor([2, 3]), state)
    together, _ = stepper.step(torch.tensor([4, 4]), state)
    _, alone = stepper.read(torch.tensor([1, 3]), 1)
    logits, _ = stepper.step(torch.tensor([4]), alone)
    torch.testing.assert_close(together[1:], logits)
    assert not torch.allclose(together[0], together[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_cuda_agrees_with_the_cpu() -> None:
    from charrnn.runtime import open_runtime

    model = CharRNN(ModelConfig(vocab_size=V, hidden_size=32, num_layers=2))
    prompt = torch.arange(20) % V
    expected, _ = Stepper(model, CPU).read(prompt, 2)
    cuda = open_runtime("cuda", "float32")
    logits, _ = Stepper(model.to(cuda.device), cuda).read(prompt, 2)
    torch.testing.assert_close(logits.cpu(), expected, atol=1e-3, rtol=1e-3)
