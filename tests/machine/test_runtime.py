"""Devices and precisions."""

import contextlib
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import pytest
import torch

from charrnn.errors import CharRNNError, CharRNNWarning, PrecisionError
from charrnn.machine import probes
from charrnn.machine import runtime as runtime_module
from charrnn.machine.distributed import Ranks
from charrnn.machine.runtime import (
    CUDARuntime,
    MPSRuntime,
    Runtime,
    can_compute,
    exact_float32,
    fbgemm,
    find_device,
    open_runtime,
    random_state,
    seed_everything,
    set_random_state,
)
from tests.support import CPU, needs_bfloat16, needs_cuda, needs_fbgemm


def test_float32_is_there_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "lstm", None)
    assert open_runtime("cpu", "float32").precision == "float32"


@needs_bfloat16
def test_cpu_runs_in_the_precision_asked_for() -> None:
    runtime = open_runtime("cpu", "bfloat16")
    with runtime.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.bfloat16


def test_auto_takes_bfloat16_where_the_cpu_has_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "failure", lambda device, dtype=None, trains=True: None)
    for has_it, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_it=has_it: {"avx512_bf16": has_it}, raising=False)
        assert open_runtime("cpu", "auto").precision == precision


def test_auto_takes_the_faster_of_mps_and_cpu_by_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for rates in ({"mps": 2.0, "cpu": 1.0}, {"mps": 1.0, "cpu": 2.0}):
        probes.faster.cache_clear()
        monkeypatch.setattr(probes, "_steps_per_second", lambda device, rates=rates: rates[device.type])
        assert open_runtime().device.type == max(rates, key=rates.__getitem__)
    probes.faster.cache_clear()


@pytest.fixture
def broken_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that PyTorch lists, and for which it has no kernels."""
    kernels = {"cuda": "no kernel image is available for execution on the device", "cpu": None}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(probes, "failure", lambda device, dtype=None, trains=True: kernels[device.type])


@pytest.mark.usefixtures("broken_gpu")
def test_gpu_that_runs_no_kernel_is_left_for_the_cpu_with_a_warning() -> None:
    with pytest.warns(CharRNNWarning, match="the GPU is not used: no kernel image"):
        assert open_runtime().device.type == "cpu"


@pytest.mark.usefixtures("broken_gpu")
def test_gpu_that_runs_no_kernel_is_an_error_where_it_is_named() -> None:
    with pytest.raises(CharRNNError, match=r"device cuda is not available: no kernel image .*; try --device auto"):
        open_runtime("cuda")
    with pytest.raises(CharRNNError, match="device cuda:1 is not available: this machine has 1 of its kind"):
        open_runtime("cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_reason_for_the_lack_of_cuda_names_the_versions() -> None:
    reason = probes.failure(torch.device("cuda"))
    assert reason is not None
    assert "built" in reason
    assert "\n" not in reason
    assert probes.failure(CPU.device) is None


def test_gpu_whose_library_has_no_lstm_for_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ARCH_MISMATCH\nmore")

    monkeypatch.setattr(torch, "lstm", refuse)
    probes.failure.cache_clear()
    assert probes.failure(torch.device("meta")) == "cuDNN error: CUDNN_STATUS_ARCH_MISMATCH"
    probes.failure.cache_clear()


def test_memory_that_pytorch_keeps_for_reuse_on_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert CUDARuntime(torch.device("cuda"), torch.float16).free_memory() == 1300


def test_tensor_is_sent_to_a_gpu_through_pinned_memory_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[torch.Tensor, bool]] = []

    class Pinned(torch.Tensor):
        def to(self, device: torch.device, *, non_blocking: bool) -> torch.Tensor:  # type: ignore[override]
            assert device.type == "cuda"
            sent.append((self.as_subclass(torch.Tensor), non_blocking))
            return sent[-1][0]

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))
    text = torch.arange(100, dtype=torch.uint8)
    chunk = text.as_strided((2, 3), (50, 1)).t()
    assert torch.equal(CUDARuntime(torch.device("cuda"), torch.float16).send(chunk), chunk)
    ((pinned, non_blocking),) = sent
    assert (pinned.untyped_storage().nbytes(), non_blocking) == (6, True)
    assert CPU.send(chunk) is chunk


class Stream:
    """The queue of a GPU whose work never ends, or has ended."""

    def __init__(self, calls: list[str], *, is_over: bool = True) -> None:
        self.calls, self.is_over = calls, is_over

    def record_event(self) -> SimpleNamespace:
        name = f"end {len(self.calls)}"
        self.calls.append(name)
        return SimpleNamespace(synchronize=lambda: self.calls.append(f"wait for {name}"), query=lambda: self.is_over)


def test_host_runs_no_more_than_a_few_steps_ahead_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(calls))
    pace = CUDARuntime(torch.device("cuda"), torch.float16).pace()
    for _ in range(17):
        pace()
    assert calls == [*(f"end {i}" for i in range(17)), "wait for end 0"]
    pace()
    assert calls[-1] == "wait for end 1"


def test_gpus_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(calls))
    for runtime in (MPSRuntime(torch.device("mps"), torch.float32), CUDARuntime(torch.device("cuda"), torch.float32)):
        runtime.synchronize()
    assert calls == ["mps", "end 1", "wait for end 1"]


def test_gpu_that_waits_for_a_lost_process_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream([], is_over=False))
    monkeypatch.setattr(runtime_module, "TIMEOUT_S", 0.05)
    with pytest.raises(CharRNNError, match=r"another process .* --resume"):
        CUDARuntime(torch.device("cuda"), torch.float32, Ranks(0, 2)).synchronize()


def test_prompts_are_read_in_exact_float32_on_a_gpu() -> None:
    layers = torch.backends.cudnn.rnn
    before = layers.fp32_precision  # type: ignore[attr-defined]
    with contextlib.suppress(ZeroDivisionError), exact_float32():
        assert layers.fp32_precision == "ieee"  # type: ignore[attr-defined]
        raise ZeroDivisionError
    assert layers.fp32_precision == before != "ieee"  # type: ignore[attr-defined]


def test_mps_has_no_float16_whose_infinite_gradients_it_would_take() -> None:
    assert not can_compute(torch.device("mps"), torch.float16)


def test_gradients_are_scaled_wherever_a_gpu_computes_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: enabled)
    halves = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    for kind, scaled in ((CUDARuntime, {"bfloat16", "float16"}), (Runtime, {"float16"})):
        assert {name for name, dtype in halves.items() if kind(CPU.device, dtype).gradient_scaler()} == scaled
        assert not kind(CPU.device, torch.float32).gradient_scaler()


def test_trial_of_a_device_counts_steps_and_takes_a_failure_for_none() -> None:
    assert probes._steps_per_second(CPU.device, seconds=0.01) > 0
    assert probes._steps_per_second(torch.device("meta"), seconds=0.01) == 0


@pytest.mark.usefixtures("lacks_bfloat16")
def test_precision_that_fails_when_tried_is_not_there() -> None:
    assert open_runtime("cpu", "auto").precision == "float32"
    with pytest.raises(PrecisionError, match=r"bfloat16 is not available .* choose float32$"):
        open_runtime("cpu", "bfloat16")


def test_what_is_fetched_is_as_it_was_when_it_was_asked_for() -> None:
    tensor = CPU.send(torch.ones(3))
    wait = CPU.fetch(tensor)
    tensor.zero_()
    assert torch.equal(wait(), torch.ones(3))


@needs_cuda
def test_host_and_device_exchange_without_waiting() -> None:
    runtime = open_runtime("cuda", "float32")
    for cycles in (1, 10**9):  # the first time kernels are loaded and memory is pinned
        runtime.synchronize()
        begin = time.perf_counter()
        torch.cuda._sleep(cycles)
        total = runtime.send(torch.arange(5.0))
        first = runtime.fetch(total.add_(runtime.send(torch.ones(5))))
        second = runtime.fetch(total.zero_())
        queued = time.perf_counter() - begin
        assert first().is_pinned()
        assert [first().tolist(), second().tolist()] == [[1, 2, 3, 4, 5], [0] * 5]
    assert queued < (time.perf_counter() - begin) / 2


def test_trial_of_a_precision_draws_no_random_number() -> None:
    seed_everything(1)
    expected = torch.rand(3)
    seed_everything(1)
    probes.failure.cache_clear()
    can_compute(CPU.device, torch.bfloat16)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("device", "precision", "problem"),
    [
        ("tpu", "auto", "unknown"),
        ("cuda:x", "auto", "unknown"),
        ("cuda:007", "auto", "unknown"),
        ("cuda:\N{ARABIC-INDIC DIGIT THREE}", "auto", "unknown"),
        ("cuda:99999999999999999999", "auto", "unknown"),
        ("cpu:1", "auto", "unknown"),
        ("cuda:99", "auto", "not available"),
        ("cpu", "float16", "choose float32"),
        ("cpu", "int8", "float32, bfloat16, float16"),
        ("cpu", "int3", "unknown"),
    ],
)
def test_what_is_not_there_is_an_error(device: str, precision: str, problem: str) -> None:
    with pytest.raises(CharRNNError, match=problem):
        open_runtime(device, precision)


def test_cpu_tells_its_free_memory_and_records_nothing() -> None:
    runtime = open_runtime("cpu")
    free = runtime.free_memory()
    assert free is None if sys.platform != "linux" else 2**20 < (free or 0) < 2**60
    step = list[int]().clear
    assert runtime.capture(step) == step


def test_random_state_is_restored() -> None:
    runtime = open_runtime("cpu", "float32")
    seed_everything(3)
    state = random_state(runtime)
    first = torch.rand(3)
    set_random_state(runtime, state)
    assert torch.equal(torch.rand(3), first)


def test_unset_seed_is_drawn_anew() -> None:
    assert seed_everything(5) == 5
    assert seed_everything(None) != seed_everything(None)


@needs_cuda
def test_auto_takes_cuda_in_half_precision() -> None:
    runtime = open_runtime()
    assert (runtime.device.type, runtime.precision) == ("cuda", "float16")
    assert set(random_state(runtime)) == {"cpu", "cuda"}


@needs_fbgemm
def test_int8_leaves_the_quantisation_engine_and_the_warnings_as_they_were() -> None:
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fbgemm():
            torch.quantize_per_channel(torch.ones(2, 2), torch.ones(2), torch.zeros(2), 0, torch.qint8)
    assert torch.backends.quantized.engine == engine


@pytest.mark.parametrize(
    ("told", "used"),
    [
        ("GPU-b, 450\nGPU-a, 3\nGPU-c, 0\n", [3, 450]),
        ("GPU-a, 3\n", []),
        ("GPU-a, [N/A]\nGPU-b, 1\n", []),
        ("no devices were found\n", []),
        (None, []),
    ],
)
def test_memory_in_use_is_that_of_the_visible_gpus(
    monkeypatch: pytest.MonkeyPatch, told: str | None, used: list[int]
) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if told is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, stdout=told)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid="ab"[i]))
    probes.gpu_memory_used.cache_clear()
    assert probes.gpu_memory_used() == used
    probes.gpu_memory_used.cache_clear()


@pytest.mark.parametrize(("used", "chosen", "idle"), [([], "cuda", 0), ([5000], "cuda", 0), ([5000, 900], "cuda:1", 1)])
def test_idlest_gpu_is_probed_and_taken_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, used: list[int], chosen: str, idle: int
) -> None:
    probed: list[str] = []
    current: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(str(device)))
    monkeypatch.setattr(probes, "failure", lambda device, trains: probed.append(str(device)))
    monkeypatch.setattr(probes, "gpu_memory_used", lambda: used)
    assert str(find_device("auto")) == str(find_device("cuda")) == chosen
    assert str(find_device("cuda:0")) == "cuda:0"
    assert probed == [chosen, chosen, "cuda:0"], "a probe takes memory of the GPU"
    assert current[-1] == "cuda:0"
    assert probes.count_idle(torch.device("cuda")) == idle
    assert probes.count_idle(CPU.device) == 0


def test_probe_for_sampling_computes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: torch.Tensor) -> None:
        raise RuntimeError("no gradients here")

    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    probes.failure.cache_clear()
    with torch.inference_mode():
        reasons = [probes.failure(CPU.device, torch.bfloat16, trains=trains) for trains in (False, True)]
    probes.failure.cache_clear()
    assert reasons[0] != "no gradients here"
    assert reasons[1] == reasons[0] or reasons[1] == "no gradients here"
