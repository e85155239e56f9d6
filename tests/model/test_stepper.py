"""A trained model, one step at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from charrnn.config import Cell, ModelConfig
from charrnn.machine import probes
from charrnn.machine.runtime import Runtime, open_runtime
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Stepper, fastest_runtime
from tests.support import CPU, needs_bfloat16, needs_cuda, needs_fbgemm

V = 9
BFLOAT16, INT8 = replace(CPU, dtype=torch.bfloat16), replace(CPU, dtype=torch.int8)
cells: st.SearchStrategy[Cell] = st.sampled_from(["lstm", "gru", "rnn"])
sequences = st.lists(st.integers(0, V - 1), min_size=2, max_size=12)
bfloat16 = pytest.param(BFLOAT16, marks=needs_bfloat16)
int8 = pytest.param(INT8, marks=needs_fbgemm)


def build(scale: float = 0.5, **options: object) -> CharRNN:
    """A model with weights large enough that each of them matters."""
    torch.manual_seed(0)
    defaults = {"vocab_size": V, "hidden_size": 7, "embedding_size": 5, "dropout": 0.5}
    model = CharRNN(ModelConfig(**(defaults | options)))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=scale)
    return model


def start(model: CharRNN, runtime: Runtime, texts: Tensor) -> Stepper:
    """A stepper whose streams have read the first symbol of each of these texts (N, B)."""
    stepper = Stepper(model, runtime, texts.shape[1])
    for stream, symbol in enumerate(texts[0]):
        stepper.set_state([stream], stepper.read(symbol[None]))
    return stepper


def logits_along(model: CharRNN, runtime: Runtime, texts: Tensor) -> Tensor:
    """The logits (N, B, V) of texts (N, B) that are read step by step."""
    stepper = start(model, runtime, texts)
    logits = [stepper.logits.clone()]
    for symbols in texts[1:]:
        stepper.step(symbols)
        logits.append(stepper.logits.clone())
    return torch.stack(logits)


@given(cells, st.integers(1, 3), st.sampled_from([None, 5]), sequences, st.integers(1, 6))
@torch.no_grad()
def test_logits_are_those_of_the_model(
    cell: Cell, num_layers: int, embedding_size: int | None, text: list[int], num_streams: int
) -> None:
    model = build(cell=cell, num_layers=num_layers, embedding_size=embedding_size)
    texts = torch.stack([torch.tensor(text).roll(i) for i in range(num_streams)], dim=1)
    expected, _ = model.eval()(texts)
    logits = logits_along(model.train(), CPU, texts)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert model.training


@pytest.mark.parametrize("runtime", [bfloat16, int8])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@torch.no_grad()
def test_lower_precisions_are_close_to_the_model(cell: Cell, runtime: Runtime) -> None:
    model = build(scale=0.1, cell=cell, hidden_size=64, num_layers=2)
    texts = torch.randint(V, (30, 3))
    expected, _ = model.eval()(texts)
    difference = (logits_along(model, runtime, texts) - expected).abs().max()
    assert 0 < difference < 0.1 * expected.abs().max()


@needs_fbgemm
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("hidden_size", "num_layers"), [(7, 1), (16, 1), (45, 2), (128, 1), (384, 1)])
@torch.no_grad()
def test_stream_has_the_same_logits_to_the_bit_beside_any_others(cell: Cell, hidden_size: int, num_layers: int) -> None:
    model = build(cell=cell, hidden_size=hidden_size, num_layers=num_layers)
    texts = torch.randint(V, (12, 40))
    together = logits_along(model, INT8, texts)
    for num_streams in (1, 2, 7):
        assert torch.equal(logits_along(model, INT8, texts[:, :num_streams]), together[:, :num_streams])


@needs_fbgemm
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@torch.no_grad()
def test_read_text_leads_to_the_bit_to_where_its_steps_do(cell: Cell) -> None:
    model = build(cell=cell, hidden_size=24, num_layers=2)
    texts = torch.randint(V, (12, 5))
    stepped = start(model, INT8, texts)
    for symbols in texts[1:]:
        stepped.step(symbols)
    read = Stepper(model, INT8, 5)
    for stream in range(5):
        first_part = read.read(texts[:4, stream])
        read.set_state([stream], read.read(texts[4:, stream], first_part))
    assert torch.equal(read.logits, stepped.logits)


@torch.no_grad()
def test_long_text_is_read_in_chunks_to_the_same_end() -> None:
    model = build()
    text, stepper = torch.arange(50) % V, Stepper(model, CPU, 1)
    whole, chunks = (stepper.read(text, chunk=chunk) for chunk in (1000, 7))
    resumed = stepper.read(text[20:], stepper.read(text[:20]))
    for a, b, c in zip(whole.rows, chunks.rows, resumed.rows, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@torch.no_grad()
def test_stream_is_put_elsewhere_without_a_trace_of_where_it_was(cell: Cell) -> None:
    model = build(cell=cell)
    texts = torch.randint(V, (9, 3))
    stepper = start(model, CPU, texts)
    for symbols in texts[1:5]:
        stepper.step(symbols)
    stepper.set_state([1], stepper.read(texts[:1, 0]))
    for t in range(1, 4):
        stepper.step(texts[[4 + t, t, 4 + t], [0, 0, 2]])
    expected = logits_along(model, CPU, texts)
    torch.testing.assert_close(stepper.logits[1], expected[3, 0])
    torch.testing.assert_close(stepper.logits[[0, 2]], expected[7, [0, 2]])


def test_sampling_is_exact_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (ModelConfig(vocab_size=65, hidden_size=H, embedding_size=64) for H in (256, 512))
    monkeypatch.setattr(probes, "has_fbgemm", lambda: True)
    assert fastest_runtime(BFLOAT16, small) == fastest_runtime(BFLOAT16, large) == INT8
    monkeypatch.setattr(probes, "has_fbgemm", lambda: False)
    assert fastest_runtime(BFLOAT16, small) == CPU, "half precision would take longer to convert to"
    assert fastest_runtime(BFLOAT16, large) == BFLOAT16


@needs_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 8e-2)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("num_layers", "num_streams"), [(1, 1), (2, 200)])
@torch.no_grad()
def test_cuda_agrees_with_the_cpu(
    cell: Cell, num_layers: int, num_streams: int, precision: str, tolerance: float
) -> None:
    model = build(scale=0.05, cell=cell, hidden_size=512, num_layers=num_layers, embedding_size=64)
    texts, cuda = torch.randint(V, (30, num_streams)), open_runtime("cuda", precision)
    expected = logits_along(model, CPU, texts)
    found = logits_along(model.to(cuda.device), cuda, texts.to(cuda.device)).cpu()
    assert (found - expected).abs().max() < tolerance * float(expected.abs().max())
