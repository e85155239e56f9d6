"""Steps that are recorded once and launched as a whole."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch.torch_version import TorchVersion

from charrnn.errors import CharRNNError, CharRNNWarning
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
def test_step_that_waits_for_cuda_runs_eagerly_and_the_next_is_recorded() -> None:
    runtime = open_runtime("cuda", "float32")
    drawn = torch.zeros(8, device="cuda")

    def draw() -> None:
        drawn.copy_(torch.rand(8, device="cuda"))

    def draw_and_wait() -> None:
        draw()
        float(drawn.sum())

    with pytest.warns(CharRNNWarning, match="steps are not recorded"):
        before = draws(runtime.capture(draw_and_wait), drawn)
    torch.cuda.empty_cache()
    recorded = CapturedStep(draw, runtime.device, lambda: None)
    assert len(before | draws(recorded, drawn)) == 16
    assert recorded.is_recorded


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


@pytest.fixture
def failing_recordings(fake_streams: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(capture, "record", fail)


@pytest.mark.usefixtures("failing_recordings")
def test_step_that_cannot_be_recorded_is_run_as_it_is_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.13.0"))
    calls: list[str] = []
    step = CapturedStep(lambda: calls.append("step"), torch.device("cuda"), lambda: calls.append("reset"))
    with pytest.warns(CharRNNWarning, match="steps are not recorded.*: CUDA error: operation") as told:
        run_six_times(step)
    assert calls == ["step"] * 3 + ["reset"] + ["step"] * 3
    assert len(told) == 1


@pytest.mark.usefixtures("failing_recordings")
def test_failed_recording_ends_an_older_pytorch_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1+cu130"))
    step = CapturedStep(lambda: None, torch.device("cuda"), lambda: None)
    with pytest.raises(CharRNNError, match=r"not permitted .* PyTorch 2\.12\.1\+cu130 .* CHARRNN_CAPTURE=0"):
        run_six_times(step)


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


class FakeGraph:
    """A recording that ends, or that CUDA refuses to end, as it does after an operation that waits for the device."""

    def __init__(self, calls: list[str], *, is_refused: bool) -> None:
        self.calls, self.is_refused = calls, is_refused

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        self.calls.append("begin")

    def capture_end(self) -> None:
        self.calls.append("end")
        if self.is_refused:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def reset(self) -> None:
        self.calls.append("reset")


@pytest.mark.usefixtures("fake_streams")
@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_failed_recording_is_reset_and_kept_and_raises_the_first_error(
    monkeypatch: pytest.MonkeyPatch, is_refused: bool, fails: bool
) -> None:
    calls: list[str] = []

    def step() -> None:
        calls.append("step")
        if fails:
            try:
                raise KeyError("handled")
            except KeyError:
                raise RuntimeError("the cause") from None

    graph = FakeGraph(calls, is_refused=is_refused)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(capture, "_failed", [])
    failing = pytest.raises(RuntimeError, match="the cause" if fails else "CUDA error")
    with failing if fails or is_refused else contextlib.nullcontext():
        capture.record(step, FakeStream())  # type: ignore[arg-type]
    assert calls == ["begin", "step", "end"] + ["reset"] * (fails or is_refused)
    assert len(capture._failed) == (fails or is_refused)


def test_all_recordings_on_a_device_share_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    capture._side_stream.cache_clear()
    steps = [CapturedStep(list[int]().clear, torch.device("cuda", i), lambda: None) for i in (0, 0, 1)]
    capture._side_stream.cache_clear()
    assert steps[0]._stream is steps[1]._stream is not steps[2]._stream
