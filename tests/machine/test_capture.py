"""Steps that are recorded once and launched as a whole."""

import contextlib
from collections.abc import Callable

import pytest
import torch

from charrnn.errors import CharRNNError
from charrnn.machine import capture
from charrnn.machine.capture import CapturedStep
from charrnn.machine.runtime import CUDARuntime, open_runtime
from tests.support import needs_cuda


@needs_cuda
def test_recorded_step_computes_on_cuda_what_the_step_itself_does() -> None:
    runtime = open_runtime("cuda", "float32")
    total, given = (torch.zeros((), device="cuda") for _ in range(2))
    step = runtime.capture(lambda: total.add_(given * 2))  # type: ignore[arg-type]
    for i in range(10):
        given.fill_(i)
        step()
    assert float(total) == 90


def draws(step: Callable[[], None], into: torch.Tensor) -> set[tuple[float, ...]]:
    """The numbers of eight steps."""
    seen = set()
    for _ in range(8):
        step()
        seen.add(tuple(into.tolist()))
    return seen


@needs_cuda
def test_recorded_step_on_cuda_draws_new_random_numbers_each_time() -> None:
    runtime = open_runtime("cuda", "float32")
    drawn = torch.zeros(8, device="cuda")
    step = runtime.capture(lambda: drawn.copy_(torch.rand(8, device="cuda")))  # type: ignore[arg-type]
    assert len(draws(step, drawn)) == 8


@needs_cuda
def test_step_that_waits_for_cuda_is_an_error_with_a_remedy() -> None:
    runtime = open_runtime("cuda", "float32")
    step = runtime.capture(lambda: float(torch.rand(8, device="cuda").sum()))  # type: ignore[arg-type]
    with pytest.raises(CharRNNError, match="CHARRNN_CAPTURE=0"):
        run_six_times(step)


class FakeStream:
    """A stream of a machine without a GPU."""

    device = torch.device("cuda", 0)

    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def fake_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_side_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


class FakeGraph:
    """A recording on a machine without a GPU, which fails if the step does."""

    def __init__(self, graph: object, stream: FakeStream, capture_error_mode: str) -> None:
        pass

    def __enter__(self) -> None:
        FakeGraph.is_recording = True

    def __exit__(self, *error: object) -> None:
        FakeGraph.is_recording = False

    is_recording = False


@pytest.mark.usefixtures("fake_streams")
def test_failed_recording_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", FakeGraph)

    def step() -> None:
        if FakeGraph.is_recording:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    message = r"recorded as a CUDA graph \(CUDA error: .* is capturing\): set CHARRNN_CAPTURE=0"
    with pytest.raises(CharRNNError, match=message):
        run_six_times(CapturedStep(step, torch.device("cuda")))


def run_six_times(step: Callable[[], None]) -> None:
    for _ in range(6):
        step()


def test_few_calls_are_not_recorded() -> None:
    runtime, step = CUDARuntime(torch.device("cuda"), torch.float16), list[int]().clear
    assert runtime.capture(step, num_calls=30) == step


def test_environment_turns_recording_off(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = CUDARuntime(torch.device("cuda"), torch.float16)
    assert runtime.captures
    monkeypatch.setenv("CHARRNN_CAPTURE", "0")
    assert not runtime.captures


def test_all_recordings_on_a_device_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    capture._side_stream.cache_clear()
    steps = [CapturedStep(list[int]().clear, torch.device("cuda", i)) for i in (0, 0, 1)]
    capture._side_stream.cache_clear()
    assert steps[0]._stream is steps[1]._stream is not steps[2]._stream
