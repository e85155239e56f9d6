"""The machine: device, precision, threads and random generators. No other file names a kind of device."""

import contextlib
import functools
import math
import mmap
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, OptionError, PrecisionError
from charrnn.machine.capture import CapturedStep

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLING_PRECISIONS = PRECISIONS | {"int8": torch.int8}
_HUGE_PAGE = 2**21
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Runtime:
    """A device and the precision of its matrix products; parameters stay in float32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        """The precision's name, as in `--precision`."""
        return next(name for name, dtype in SAMPLING_PRECISIONS.items() if dtype == self.dtype)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on this machine's device."""
        return tensor.to(self.device)

    @property
    def training_streams(self) -> int:
        """The number of parallel streams that trains best in a given time.

        Half as many make twice as many updates of the same characters, which pays where they take little more time: in
        float32 on a CPU.
        """
        return 16 if self.device.type == "cpu" and self.dtype == torch.float32 else 32

    @property
    def max_streams(self) -> int:
        """How many streams sampled together leave the machine little idle."""
        return 1024 if self.device.type == "cuda" else 256

    @property
    def max_steps(self) -> int:
        """How many steps of sampling are worth taking between two looks at what was drawn."""
        return 128 if self.device.type == "cuda" else 64

    @property
    def has_onednn_bfloat16(self) -> bool:
        """Whether oneDNN can lay out and multiply bfloat16 weights on this machine."""
        is_there = self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        return is_there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def is_memory_bound(self) -> bool:
        """Whether to read a large matrix takes longer than all else that is done with it once."""
        return self.device.type == "cpu"

    @property
    def has_fbgemm(self) -> bool:
        """Whether there are products of 8-bit integers, and weights can be quantised for them."""
        is_there = self.device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
        return is_there and hasattr(torch, "quantize_per_channel")  # PyTorch means to remove it

    def pack(self, weight: Tensor) -> Tensor:
        """A contiguous copy that is read as a whole over and over: on Linux in huge pages, which are found sooner."""
        weight = weight.contiguous()
        size = weight.numel() * weight.element_size()
        if self.device.type != "cpu" or size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return weight
        pages = mmap.mmap(-1, size + _HUGE_PAGE)
        with contextlib.suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(pages, dtype=torch.uint8)
        begin = -memory.data_ptr() % _HUGE_PAGE
        return memory[begin : begin + size].view(weight.dtype).view(weight.shape).copy_(weight)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass in this precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """The scaler that keeps float16 gradients from vanishing; a pass-through in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def captures(self) -> bool:
        """Whether `capture` records; what is recorded must not ask the device for a number."""
        return self.device.type == "cuda"

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """A step that reads and writes tensors in place, where possible recorded and then launched as a whole.

        What a small recurrent network asks of a GPU takes less time than asking for it, operation by operation.
        """
        return CapturedStep(step, self.device) if self.captures else step

    def free_memory(self) -> int | None:
        """Bytes that the device can still give, where that can be told."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return _free_host_memory() if self.device.type == "cpu" else None

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def random_state(self) -> dict[str, Tensor]:
        """The states of the random generators that this machine draws from."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return states

    def set_random_state(self, states: dict[str, Tensor]) -> None:
        """Put the generators back to saved states; one of another kind of device is left as it is."""
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)
        elif self.device.type == "mps" and "mps" in states:
            torch.mps.set_rng_state(states["mps"])


class Threads:
    """The number of CPU threads that a repeated piece of work is fastest with.

    Only in int8, since sums of floating-point numbers may depend on it. It is tried now and then, since other processes
    come and go: threads that wait for one that has no core of its own are slower than a single one. Between two pieces
    of work the process has the number that it had before.
    """

    _ROUNDS = 3
    _SECONDS = 2.0

    def __init__(self, runtime: Runtime) -> None:
        most = torch.get_num_threads()
        self._counts = (most, 1) if runtime.dtype == torch.int8 and most > 1 else ()
        self._begin_trial()

    def _begin_trial(self) -> None:
        self._trials = list(self._counts) * self._ROUNDS
        self._seconds = dict.fromkeys(self._counts, math.inf)
        self._next_trial = time.perf_counter() + self._SECONDS

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do a piece of work, each time of about the same size, and return its result."""
        if not self._counts:
            return work()
        if not self._trials and time.perf_counter() > self._next_trial:
            self._begin_trial()
        count = self._trials.pop() if self._trials else min(self._counts, key=self._seconds.__getitem__)
        begin = time.perf_counter()
        with num_threads(count):
            result = work()
        self._seconds[count] = min(self._seconds[count], time.perf_counter() - begin)
        return result


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Compute with this number of CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def fbgemm() -> Iterator[None]:
    """Weights quantised within are laid out for FBGEMM. PyTorch warns that it will once do without such tensors."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")
            yield
    finally:
        torch.backends.quantized.engine = engine


def open_runtime(
    device: str = "auto", precision: str = "auto", precisions: Mapping[str, torch.dtype] = PRECISIONS
) -> Runtime:
    """The machine that `--device` and `--precision` name, to train or, with SAMPLING_PRECISIONS, to sample.

    Raises: OptionError for an unknown name, CharRNNError for a device that is not there or a precision that it cannot
    compute in.
    """
    chosen = _find_device(device)
    # Weights with dropped columns are a copy, which cuDNN puts in order for each call anyway.
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
    if precision == "auto":
        return Runtime(chosen, _fastest_dtype(chosen))
    if precision not in precisions:
        raise OptionError(f"precision {precision!r} is unknown: choose auto or one of {', '.join(precisions)}")
    if not can_compute(chosen, precisions[precision]):
        there = [name for name, dtype in precisions.items() if can_compute(chosen, dtype)]
        raise PrecisionError(f"--precision {precision} cannot be had on this {chosen.type}: choose {_either(there)}")
    return Runtime(chosen, precisions[precision])


def compute_deterministically() -> None:
    """From now on the same numbers give the same result on a GPU too, to the bit; a CPU does so in any case.

    To be called before the device is first used, for cuBLAS then lays out its memory. An operation of which PyTorch
    knows no such way is warned of.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # none is read
    torch.backends.cudnn.benchmark = False


def _free_host_memory() -> int | None:
    """What Linux has available, or the limit of the container."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(1024 * int(fields["MemAvailable"].removesuffix("kB")))
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


def _find_device(name: str) -> torch.device:
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if has_cuda else _faster("mps", "cpu") if has_mps else "cpu"
    kind, _, index = name.partition(":")
    known = name in ("cpu", "cuda", "mps") or (kind == "cuda" and index.isdecimal())
    if not known:
        raise OptionError(f"device {name!r} is unknown: choose auto, cpu, cuda, cuda:N or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count() if has_cuda else 0, "mps": int(has_mps)}[kind]
    if count == 0 or int(index or 0) >= count:
        raise CharRNNError(f"device {name} is not there: this machine has {count} of its kind; try --device auto")
    return torch.device(name)


@functools.cache
def _faster(*kinds: str) -> str:
    """The kind of device that trains an LSTM fastest, by a trial of half a second each."""
    return max(kinds, key=lambda kind: _try_out(torch.device(kind)))


def _try_out(device: torch.device, seconds: float = 0.5) -> float:
    """Steps per second of a small LSTM, forward and backward, after a few that warm up; 0 where it fails."""
    T, B, H = 32, 16, 256
    try:
        x, weights, state = _make_lstm(T, B, H, device)
        step = functools.partial(_train_lstm, x, weights, state)
        for _ in range(3):
            step()
        done, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            step()
            done += 1
    except RuntimeError:
        return 0.0
    return done / (time.perf_counter() - begin)


def _make_lstm(T: int, B: int, H: int, device: torch.device) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
    """Inputs (T, B, H), weights and state of an LSTM, all zero, so that no random number is drawn."""
    shapes = [(4 * H, H), (4 * H, H), (4 * H,), (4 * H,)]
    weights = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    h, c = (torch.zeros(1, B, H, device=device) for _ in range(2))
    return torch.zeros(T, B, H, device=device), weights, (h, c)


def _train_lstm(x: Tensor, weights: list[Tensor], state: tuple[Tensor, Tensor]) -> float:
    """One forward and backward pass; returns a number, for which a device has to finish."""
    with torch.enable_grad():
        total = torch.lstm(x, state, weights, True, 1, 0.0, True, False, False)[0].float().sum()
        total.backward()
    return float(total.detach())


def _fastest_dtype(device: torch.device) -> torch.dtype:
    """The fastest precision that loses no quality: half precision only where the hardware multiplies in it."""
    candidate = torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 7:
        candidate = torch.float16  # cuDNN's fastest recurrent kernels; tensor cores came with compute capability 7
    elif device.type == "cpu" and _has_bfloat16_instructions():
        candidate = torch.bfloat16
    return candidate if can_compute(device, candidate) else torch.float32


def _has_bfloat16_instructions() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return bool(torch.cpu._is_avx512_bf16_supported())  # before PyTorch had the other


@functools.cache
def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """True if an LSTM can be trained on a device in this precision, or for int8 sampled: found out by one tiny step.

    A CPU may lack the instructions, or the environment forbid them (ONEDNN_MAX_CPU_ISA): no table of names tells.
    """
    if dtype == torch.int8:
        return Runtime(device, dtype).has_fbgemm
    if dtype == torch.float32:
        return True
    if device.type == "cpu" and dtype == torch.float16:
        return False  # few CPUs have it, and it was tested on none of them
    try:
        with torch.autocast(device.type, dtype):
            _train_lstm(*_make_lstm(2, 8, 8, device))
    except RuntimeError:
        return False
    return True


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def seed_everything(seed: int | None) -> int:
    """Seed every generator, with a seed drawn by the operating system if none is given; returns it."""
    if seed is None:
        seed = secrets.randbits(31)
    torch.manual_seed(seed)
    return seed
