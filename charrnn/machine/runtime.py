"""A device in a precision: `Runtime` is a CPU, the classes of the other kinds of device override what differs."""

import contextlib
import os
import re
import secrets
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, CharRNNWarning, OptionError, PrecisionError, opt
from charrnn.machine import probes
from charrnn.machine.capture import CapturedStep
from charrnn.machine.distributed import SINGLE_PROCESS, TIMEOUT_S, Ranks, local_rank

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLING_PRECISIONS = PRECISIONS | {"int8": torch.int8}
_STEPS_AHEAD = 16  # of the host before a GPU: enough to keep it busy
_MIN_RECORDED_CALLS = 200  # recording takes as long as some hundred launches of unrecorded steps


@dataclass(frozen=True)
class Runtime:
    """A CPU, and the precision of its matrix products; parameters stay in float32."""

    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = SINGLE_PROCESS

    embedding_size: ClassVar[int] = 64  # default size of a symbol's vector
    stream_multiple: ClassVar[int] = 1  # the number of streams of each process is a multiple of it
    max_streams: ClassVar[int] = 256  # max streams to sample together: enough to keep the machine busy
    launches_ahead: ClassVar[int] = 0  # launches of sampling steps to queue after the one that the host waits for
    shares_host_memory: ClassVar[bool] = True  # the device has no separate memory
    orthogonalises_slowly: ClassVar[bool] = True  # Muon's update takes about as long as a training step
    draws_noise: ClassVar[bool] = True  # 64-bit integers work, from which a sample's random numbers are computed
    fuses_adamw: ClassVar[bool] = True  # PyTorch's fused AdamW works, which skips a step by `found_inf`

    @property
    def precision(self) -> str:
        """The precision's name, as in `--precision`."""
        return next(name for name, dtype in SAMPLING_PRECISIONS.items() if dtype == self.dtype)

    @property
    def training_layout(self) -> tuple[int, int]:
        """The numbers of parallel streams and of time steps in a chunk that train best in a given time."""
        # In float32 a step with AdamW takes little more than half the time with half the streams.
        return (16 if self.dtype == torch.float32 else 32), 32

    @property
    def captures(self) -> bool:
        """True if `capture` records; a recorded step must not read a number from the device."""
        return False

    def max_steps(self, num_streams: int) -> int:
        """Max sampling steps between two transfers of the drawn symbols."""
        return 64

    def place(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device."""
        return tensor.to(self.device)

    def send(self, tensor: Tensor) -> Tensor:
        """Move a small tensor to the device without waiting for it."""
        return self.place(tensor)

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Queue a copy of a tensor to the host; returns a function that waits for the copy and returns it."""
        copied = tensor.to("cpu", copy=True)
        return lambda: copied

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass in this precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """The scaler that keeps float16 gradients from vanishing; a pass-through in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def capture(self, step: Callable[[], None], num_calls: float = float("inf")) -> Callable[[], None]:
        """Record a step that works in place, if the device can and the expected `num_calls` make it worthwhile."""
        is_worthwhile = self.captures and num_calls > _MIN_RECORDED_CALLS
        return CapturedStep(step, self.device) if is_worthwhile else step

    def free_memory(self) -> int | None:
        """Bytes of free memory on the device of rank 0; None if unknown. All processes have to call it."""
        return self.ranks.broadcast(self._free_memory)

    def _free_memory(self) -> int | None:
        """Bytes that Linux has available, at most the container's limit."""
        limits = []
        with contextlib.suppress(OSError):
            found = re.findall(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
            limits += [1024 * int(kib) for kib in found]
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number
            limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
        return min(limits, default=None)

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work. Raises: CharRNNError if another process is lost."""

    def pace(self) -> Callable[[], None]:
        """A function to call after each step, which keeps the host at most a few steps ahead of the device."""
        return lambda: None


@dataclass(frozen=True)
class CUDARuntime(Runtime):
    """An NVIDIA or AMD GPU. Launching the operations of a small network takes longer than running them."""

    # cuDNN's persistent kernels take inputs whose width is a multiple of 128. Source: `get_algo` in PyTorch's RNN.cpp
    embedding_size = 128
    stream_multiple = 8
    max_streams = 1024
    launches_ahead = 1  # so that it is never idle
    shares_host_memory = False
    orthogonalises_slowly = False
    training_layout = (128, 64)

    @property
    def captures(self) -> bool:
        return os.environ.get("CHARRNN_CAPTURE") != "0"

    def max_steps(self, num_streams: int) -> int:
        return 32 if num_streams <= 64 else 128  # each transfer costs Python 3 µs per stream

    def send(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            return tensor
        # A view is copied first, or all memory that it spans would be pinned.
        return tensor.contiguous().pin_memory().to(self.device, non_blocking=True)

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        copied, done = tensor.to("cpu", non_blocking=True), self._event()  # PyTorch copies to pinned memory then

        def wait() -> Tensor:
            done.synchronize()
            return copied

        return wait

    def gradient_scaler(self) -> torch.amp.GradScaler:
        # Autocast runs cuDNN's recurrent layers in float16 whichever half precision is asked for.
        return torch.amp.GradScaler("cuda", enabled=self.dtype != torch.float32)

    def _free_memory(self) -> int | None:
        kept_for_reuse = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + kept_for_reuse

    def synchronize(self) -> None:
        self._await(self._event())

    def pace(self) -> Callable[[], None]:
        # Otherwise time budgets and Ctrl-C would be hundreds of steps late.
        ends: deque[torch.cuda.Event] = deque()

        def wait() -> None:
            ends.append(self._event())
            if len(ends) > _STEPS_AHEAD:
                self._await(ends.popleft())

        return wait

    def _event(self) -> "torch.cuda.Event":
        event: torch.cuda.Event = torch.cuda.current_stream(self.device).record_event()
        return event

    def _await(self, event: "torch.cuda.Event") -> None:
        if self.ranks.size == 1:
            event.synchronize()
            return
        deadline = time.monotonic() + TIMEOUT_S
        while not event.query():  # unlike `synchronize` it takes signals, and ends if a process is lost
            if time.monotonic() > deadline:
                raise CharRNNError(
                    f"another process of this training does not answer: continue with {opt.resume(True)}"
                )
            time.sleep(1e-4)


@dataclass(frozen=True)
class MPSRuntime(Runtime):
    """The GPU of an Apple computer."""

    orthogonalises_slowly = False
    draws_noise = False
    fuses_adamw = False
    training_layout = (32, 32)

    def _free_memory(self) -> int | None:
        return None

    def synchronize(self) -> None:
        torch.mps.synchronize()


_KINDS = {"cpu": Runtime, "cuda": CUDARuntime, "mps": MPSRuntime}


def random_state(runtime: Runtime) -> dict[str, Tensor]:
    """States of the random generators of all processes, which call it together; names of rank 1 end with ".1"."""
    kind, gather = runtime.device.type, runtime.ranks.gather
    states = {"cpu": torch.get_rng_state()}
    if kind != "cpu":
        states[kind] = torch.get_device_module(kind).get_rng_state()
    gathered = {name: gather(state[None], dim=0) for name, state in states.items()}
    return {_of_rank(name, rank): state for name, rows in gathered.items() for rank, state in enumerate(rows)}


def set_random_state(runtime: Runtime, states: Mapping[str, Tensor]) -> None:
    """Restore saved states of this process; those of other kinds of device, and of more processes, are ignored."""
    kind, ranks = runtime.device.type, runtime.ranks
    cpu, own = (_of_rank(each, ranks.rank) for each in ("cpu", kind))
    if cpu in states or ranks.is_first:
        torch.set_rng_state(states[cpu])
    if kind != "cpu" and own in states:
        torch.get_device_module(kind).set_rng_state(states[own])


def _of_rank(kind: str, rank: int) -> str:
    return f"{kind}.{rank}" if rank else kind


def open_runtime(
    device: str = "auto",
    precision: str = "auto",
    precisions: Mapping[str, torch.dtype] = PRECISIONS,
    ranks: Ranks = SINGLE_PROCESS,
    *,
    trains: bool = True,
) -> Runtime:
    """Open the device in the precision of these options, to train or, with SAMPLING_PRECISIONS, to sample.

    Raises: OptionError for an unknown name, CharRNNError for an unavailable device, PrecisionError.
    """
    chosen = find_device(device, trains=trains)
    # Weights with dropped columns are a copy, which cuDNN rearranges at each call anyway.
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
    kind = _KINDS[chosen.type]
    if precision == "auto":
        return kind(chosen, _fastest_dtype(chosen, trains=trains), ranks)
    if precision not in precisions:
        raise OptionError(f"precision {precision!r} is unknown: choose auto or one of {', '.join(precisions)}")
    if not can_compute(chosen, precisions[precision], trains=trains):
        names = [name for name, dtype in precisions.items() if can_compute(chosen, dtype, trains=trains)]
        choice = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        raise PrecisionError(f"{opt.precision(precision)} is not available on this {chosen.type}: choose {choice}")
    return kind(chosen, precisions[precision], ranks)


def find_device(name: str, *, trains: bool = True) -> torch.device:
    """The device of a name, as in `--device`, which becomes PyTorch's current device.

    Raises: OptionError for an unknown name, CharRNNError for an unavailable device.
    """
    device = _choose_device(trains=trains) if name == "auto" else _find_named(name, trains=trains)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def _find_named(name: str, *, trains: bool) -> torch.device:
    if not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", name):
        raise OptionError(f"device {name!r} is unknown: choose auto, cpu, cuda, cuda:N or mps")
    device = _own_gpu() if name == "cuda" else torch.device(name)
    has_index = device.index is not None and torch.cuda.is_available()
    if has_index and device.index >= (count := torch.cuda.device_count()):
        raise CharRNNError(f"device {device} is not available: this machine has {count} of its kind")
    if (reason := probes.failure(device, trains=trains)) is not None:
        raise CharRNNError(f"device {device} is not available: {reason}; try {opt.device('auto')}")
    return device


def _choose_device(*, trains: bool) -> torch.device:
    """CUDA if it works, else the faster of MPS and CPU."""
    if local_rank() is not None:  # all processes have to choose the same kind
        return _find_named("cuda" if torch.cuda.is_available() else "cpu", trains=trains)
    if torch.cuda.is_available():
        device = _own_gpu()
        if (reason := probes.failure(device, trains=trains)) is None:
            return device
        warnings.warn(f"the GPU is not used: {reason}", CharRNNWarning, stacklevel=2)
    return torch.device(probes.faster("mps", "cpu") if torch.backends.mps.is_available() else "cpu")


def _own_gpu() -> torch.device:
    """The GPU of this process: its own one of several processes, else the idlest."""
    if (place := local_rank()) is not None:
        return torch.device("cuda", place)
    used = probes.gpu_memory_used()
    return torch.device("cuda", used.index(min(used))) if len(used) > 1 else torch.device("cuda")


def _fastest_dtype(device: torch.device, *, trains: bool) -> torch.dtype:
    """The fastest precision without loss of quality: half precision only if the hardware multiplies in it."""
    candidate = torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 7:
        candidate = torch.float16  # cuDNN's fastest recurrent kernels; tensor cores came with compute capability 7
    elif device.type == "cpu" and probes.has_bfloat16_instructions():
        candidate = torch.bfloat16
    return candidate if can_compute(device, candidate, trains=trains) else torch.float32


def can_compute(device: torch.device, dtype: torch.dtype, *, trains: bool = True) -> bool:
    """True if a tiny LSTM works in this precision; for int8, if sampling does."""
    if dtype == torch.int8:
        return device.type == "cpu" and probes.has_fbgemm()
    return dtype == torch.float32 or probes.failure(device, dtype, trains=trains) is None


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Keep cuDNN's recurrent layers from rounding float32 inputs to TensorFloat-32 inside the context."""
    layers: Any = torch.backends.cudnn.rnn
    before, layers.fp32_precision = layers.fp32_precision, "ieee"
    try:
        yield
    finally:
        layers.fp32_precision = before


@contextlib.contextmanager
def fbgemm() -> Iterator[None]:
    """Lay out quantised weights for FBGEMM inside the context, without PyTorch's deprecation warning."""
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = engine


def compute_deterministically() -> None:
    """Make results reproducible to the bit on a GPU too; PyTorch warns of operations that cannot be.

    Call it before the device is first used, since cuBLAS allocates its workspace then.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the one value that nn.LSTM and PyTorch both name
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it is never read
    torch.backends.cudnn.benchmark = False


def draw_seed() -> int:
    """A seed from the operating system."""
    return secrets.randbits(31)


def seed_everything(seed: int | None) -> int:
    """Seed every generator, by default with a drawn seed; returns the seed."""
    if seed is None:
        seed = draw_seed()
    torch.manual_seed(seed)
    return seed
