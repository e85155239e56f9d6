"""Updates: of a small model on a CPU, and of real ones on a GPU, which has other kernels for wide layers and many
symbols a step.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from charrnn.config import Cell, ModelConfig, Optimizer, TrainingConfig
from charrnn.machine.capture import CapturedStep
from charrnn.machine.runtime import Runtime, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.model.scoring import evaluate
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.streams import TrainingText
from tests.support import CPU, needs_bfloat16, needs_cuda

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Case:
    """A model, and the chunks (T, B) that it reads."""

    cell: Cell
    embedding_size: int
    hidden_size: int
    T: int
    B: int
    vocab_size: int = 65

    def __str__(self) -> str:
        return f"{self.cell}-{self.vocab_size}-{self.embedding_size}-{self.hidden_size}-{self.T}x{self.B}"


SMALL = [Case(cell, 6, 16, T=8, B=4) for cell in ("lstm", "gru")]
REAL = [Case(cell, E, 512, T=32, B=128) for cell in ("lstm", "gru") for E in (64, 128)]
REAL += [Case("lstm", 64, 512, T=32, B=32), Case("lstm", 64, 512, T=32, B=128, vocab_size=600)]

on_every_device = pytest.mark.parametrize(
    ("device", "precision", "case"),
    [
        *(pytest.param("cpu", "float32", case, id=f"cpu-float32-{case}") for case in SMALL),
        *(pytest.param("cpu", "bfloat16", case, id=f"cpu-bfloat16-{case}", marks=needs_bfloat16) for case in SMALL),
        *(
            pytest.param("cuda", precision, case, id=f"cuda-{precision}-{case}", marks=needs_cuda)
            for precision in TOLERANCE
            for case in REAL
        ),
    ],
)


def make(case: Case, runtime: Runtime, optimizer: Optimizer = "muon") -> TruncatedBPTT:
    seed_everything(1)
    ids = torch.randint(case.vocab_size, (20 * case.T * case.B,), dtype=torch.int16)
    config = TrainingConfig(steps=1, batch_size=case.B, seq_length=case.T, val_fraction=0.0, optimizer=optimizer)
    shape = {"embedding_size": case.embedding_size, "hidden_size": case.hidden_size, "dropout": 0.2}
    model = CharRNN(ModelConfig(vocab_size=case.vocab_size, cell=case.cell, **shape))  # type: ignore[arg-type]
    return TruncatedBPTT(model, config, TrainingText.split(ids, config), runtime)


def take_steps(bptt: TruncatedBPTT, num_steps: int) -> list[float]:
    """The losses of steps."""
    losses = []
    for _ in range(num_steps):
        bptt.step(learning_rate=1e-3)
        losses.append(float(bptt.loss))
    return losses


@on_every_device
def test_recorded_steps_are_those_that_they_record(
    device: str, precision: str, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = make(case, open_runtime(device, precision))
    found = take_steps(recorded, 10)
    if isinstance(recorded._update, CapturedStep):
        assert recorded._update.is_recorded
    monkeypatch.setenv("CHARRNN_CAPTURE", "0")
    expected = take_steps(make(case, open_runtime(device, precision)), 10)
    assert found == pytest.approx(expected, abs=TOLERANCE[precision])


@pytest.mark.parametrize("mode", ["deterministic", "default"])
@on_every_device
def test_steps_continue_exactly_from_a_snapshot(
    device: str, precision: str, case: Case, mode: str, request: pytest.FixtureRequest
) -> None:
    if mode == "deterministic":
        request.getfixturevalue("deterministic")
    runtime = open_runtime(device, precision)
    whole, resumed = make(case, runtime), make(case, runtime)
    take_steps(resumed, 1)
    take_steps(whole, 6)
    tensors = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    cursor, scaler = whole.cursor, whole.scaler_state()
    expected = take_steps(whole, 6)
    resumed.load(tensors, cursor, scaler)
    tolerance = 0.0 if mode == "deterministic" or device == "cpu" else TOLERANCE[precision]
    assert take_steps(resumed, 6) == pytest.approx(expected, rel=0, abs=tolerance)
    for name, tensor in whole.tensors().items():
        assert tolerance or torch.equal(tensor, resumed.tensors()[name]), name


def test_text_that_stays_on_the_host_is_sent_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def send(runtime: Runtime, tensor: Tensor) -> Tensor:
        sent.append(tuple(tensor.shape))
        return tensor.clone()

    expected = take_steps(make(SMALL[0], CPU), 3)
    monkeypatch.setattr(Runtime, "send", send)
    bptt = make(SMALL[0], CPU)
    assert take_steps(bptt, 3) == expected
    assert sent == [(9, 4), (4,)] * 3  # symbols, and which streams go on
    evaluate(bptt.model, bptt.text.train[:50], CPU)
    assert sent[6:] == [(49, 1)] * 2


class Unfused(Runtime):
    """A device without PyTorch's fused AdamW, such as MPS."""

    fuses_adamw = False


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_step_without_the_fused_optimizer_skips_gradients_that_are_not_finite(optimizer: Optimizer) -> None:
    bptt = make(SMALL[0], Unfused(CPU.device, CPU.dtype), optimizer)
    model = bptt.model
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    bptt.step(learning_rate=1e-2)
    after = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert all(not torch.equal(after[name], before[name]) for name in before if name.endswith("weight"))
    model.head.bias.register_hook(lambda gradient: gradient * math.nan)
    bptt.step(learning_rate=1e-2)
    assert all(torch.equal(weight, after[name]) for name, weight in model.state_dict().items())
