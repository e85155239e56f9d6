"""Capabilities of this machine, found by trying. No trial draws a random number."""

import contextlib
import functools
import platform
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

_IDLE_MIB = 1024  # this process takes some too


@functools.cache
def failure(device: torch.device, dtype: torch.dtype = torch.float32, *, trains: bool = True) -> str | None:
    """The reason why a device does not run a tiny LSTM in this precision, or None if it does.

    Examples: an old driver, a GPU for which this build of PyTorch has no kernels, a CPU without the instructions.
    `trains`: with the gradient.
    """
    if device.type == "cpu" and dtype == torch.float32:
        return None
    if device.type != "cuda" and dtype == torch.float16:
        return "float16 is for CUDA"
    try:
        half = contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
        with warnings.catch_warnings(action="ignore"), half:
            _lstm_step(2, 8, 8, device, trains=trains)()
    except Exception as error:  # a build without CUDA raises an AssertionError
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        if device.type != "cuda":
            return reason
        cuda = torch.version.cuda
        return f"{reason} (this PyTorch is built {f'for CUDA {cuda}' if cuda else 'without CUDA'})"
    return None


def has_fbgemm() -> bool:
    """True if FBGEMM can quantise weights and multiply them in 8-bit integers on this machine."""
    has_function = hasattr(torch, "quantize_per_channel")  # PyTorch plans to remove it
    return has_function and "fbgemm" in torch.backends.quantized.supported_engines


def has_bfloat16_instructions() -> bool:
    """True if the CPU multiplies in bfloat16."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return bool(torch.cpu._is_avx512_bf16_supported())  # older PyTorch


@functools.cache
def gpu_memory_used() -> list[int]:
    """MiB of memory in use before this process uses any, for each visible CUDA device; empty if unknown."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
        used = dict(line.removeprefix("GPU-").split(", ") for line in lines)
        uuids = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
        return [int(used[uuid.removeprefix("GPU-")]) for uuid in uuids]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, AttributeError, RuntimeError):
        return []


def count_idle(device: torch.device) -> int:
    """The number of visible devices of this kind on which hardly any memory is in use; 0 if unknown."""
    return 0 if device.type != "cuda" else sum(used < _IDLE_MIB for used in gpu_memory_used())


def device_name(device: torch.device) -> str:
    """The product name of the CPU or GPU, or else the kind of CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


@functools.cache
def faster(*kinds: str) -> str:
    """The kind of device that trains an LSTM fastest in a trial of half a second."""
    return max(kinds, key=lambda kind: _steps_per_second(torch.device(kind)))


def _steps_per_second(device: torch.device, seconds: float = 0.5) -> float:
    """Training steps per second of a small LSTM; 0 if it fails."""
    from torch.utils.benchmark import Timer

    try:
        step = _lstm_step(32, 16, 256, device, trains=True)
        timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
        return 1 / timer.blocked_autorange(min_run_time=seconds).median
    except RuntimeError:
        return 0.0


def _lstm_step(T: int, B: int, H: int, device: torch.device, *, trains: bool) -> Callable[[], float]:
    """A function that runs an LSTM of zeros, and its gradient if it `trains`; returns a number, which waits for it."""
    x, h, c = (torch.zeros(length, B, H, device=device) for length in (T, 1, 1))
    shapes = [(4 * H, H), (4 * H, H), (4 * H,), (4 * H,)]
    weights = [torch.zeros(shape, device=device, requires_grad=trains) for shape in shapes]

    def step() -> float:
        with torch.set_grad_enabled(trains):
            total = torch.lstm(x, (h, c), weights, True, 1, 0.0, trains, False, False)[0].float().sum()
            if trains:
                total.backward()
        return float(total.detach())

    return step
