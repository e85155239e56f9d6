"""Steps that are recorded once and launched as a whole."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from charrnn.errors import CharRNNWarning
from charrnn.machine import capture
from charrnn.machine.capture import CapturedStep
from charrnn.machine.runtime import Runtime, open_runtime

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
def test_recorded_step_computes_what_the_step_itself_does() -> None:
    runtime = open_runtime("cuda", "float32")
    total, given = (torch.zeros((), device="cuda") for _ in range(2))
    step = runtime.capture(lambda: total.add_(given * 2))  # type: ignore[arg-type]
    for i in range(10):
        given.fill_(i)
        step()
    assert float(total) == 90


@needs_cuda
def test_recorded_step_draws_new_random_numbers_each_time() -> None:
    runtime = open_runtime("cuda", "float32")
    drawn = torch.zeros(8, device="cuda")
    step = runtime.capture(lambda: drawn.copy_(torch.rand(8, device="cuda")))  # type: ignore[arg-type]
    seen = set()
    for _ in range(8):
        step()
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 8


class FakeStream:
    """A stream of a machine without a GPU."""

    device = torch.device("cpu")

    def wait_stream(self, other: object) -> None:
        pass


def test_step_that_cannot_be_recorded_is_run_as_it_is_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(capture, "record", fail)
    monkeypatch.setattr(capture, "_side_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    calls: list[str] = []
    step = CapturedStep(lambda: calls.append("step"), torch.device("cuda"), lambda: calls.append("reset"))
    with pytest.warns(CharRNNWarning, match="steps are not recorded.*: CUDA error: operation") as told:
        run_six_times(step)
    assert calls == ["step"] * 3 + ["reset"] + ["step"] * 3
    assert len(told) == 1


def run_six_times(step: Callable[[], None]) -> None:
    for _ in range(6):
        step()


def test_environment_turns_recording_off(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(torch.device("cuda"), torch.float16)
    assert runtime.captures
    monkeypatch.setenv("CHARRNN_CAPTURE", "0")
    assert not runtime.captures
