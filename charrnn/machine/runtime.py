"""Device, precision, threads, random generators and memory of this machine."""

import contextlib
import ctypes
import functools
import math
import mmap
import os
import platform
import re
import secrets
import subprocess
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, CharRNNWarning, OptionError, PrecisionError
from charrnn.machine.capture import CapturedStep
from charrnn.machine.distributed import ALONE, TIMEOUT_S, Ranks, local_rank

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SAMPLING_PRECISIONS = PRECISIONS | {"int8": torch.int8}
_HUGE_PAGE = 2**21
_IDLE_MIB = 1024  # of a GPU's memory: this process takes some too
_STEPS_AHEAD = 16  # of the host before a GPU: enough to keep it busy
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Runtime:
    """A device and the precision of its matrix products; parameters stay in float32."""

    device: torch.device
    dtype: torch.dtype
    ranks: Ranks = ALONE

    @property
    def precision(self) -> str:
        """The precision's name, as in `--precision`."""
        return next(name for name, dtype in SAMPLING_PRECISIONS.items() if dtype == self.dtype)

    @property
    def device_name(self) -> str:
        """The name of the GPU or CPU, as its maker calls it if the system tells."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        with contextlib.suppress(OSError):
            if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
                return found[1]
        return platform.processor() or platform.machine()

    def place(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device."""
        return tensor.to(self.device)

    def send(self, tensor: Tensor) -> Tensor:
        """Move a small tensor to the device; a GPU is not waited for, so that it works while the next one is read.

        The tensor passes through pinned memory, which PyTorch keeps for the next ones, and does not fill again before
        an event has told that it was read.
        """
        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return self.place(tensor)
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return pinned.copy_(tensor).to(self.device, non_blocking=True)

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Queue a copy of a tensor to the host. Returns: a function that waits for the copy and returns it."""
        if self.device.type != "cuda":
            copied = tensor.to("cpu", copy=True)
            return lambda: copied
        copied, done = tensor.to("cpu", non_blocking=True), torch.cuda.Event()  # PyTorch copies to pinned memory then
        done.record(torch.cuda.current_stream(self.device))

        def wait() -> Tensor:
            done.synchronize()
            return copied

        return wait

    @property
    def embedding_size(self) -> int:
        """Default size of a symbol's vector: cuDNN's persistent kernels take inputs whose width is a multiple of 128.

        Source: `get_algo` in PyTorch's aten/src/ATen/native/cudnn/RNN.cpp.
        """
        return 128 if self.device.type == "cuda" else 64

    @property
    def training_layout(self) -> tuple[int, int]:
        """The numbers of parallel streams and of time steps in a chunk that train best in a given time.

        Half as many streams mean twice as many updates, which pays with AdamW in float32 on a CPU, whose steps take
        little more than half the time. On a GPU a small step waits for its launch.
        """
        if self.device.type == "cuda":
            return 128, 64
        return (16 if self.device.type == "cpu" and self.dtype == torch.float32 else 32), 32

    @property
    def multiplies_one_hot(self) -> bool:
        """True if rows of a small table are better had by a product than looked up.

        The gradient of a look-up of more than 3,072 symbols could not be recorded (pytorch#82886).
        """
        return self.device.type == "cuda"

    @property
    def max_streams(self) -> int:
        """Max streams to sample together: enough to keep the machine busy."""
        return 1024 if self.device.type == "cuda" else 256

    def max_steps(self, num_streams: int) -> int:
        """Max sampling steps between two transfers of the drawn symbols.

        On a GPU fewer steps are recorded sooner, and fewer are in vain behind an end. But each transfer costs Python
        3 µs per stream, for which the device would wait if there are many.
        """
        if self.device.type == "cuda":
            return 32 if num_streams <= 64 else 128
        return 64

    @property
    def launches_ahead(self) -> int:
        """Launches to queue behind the one that the host waits for: on a GPU one, so that it is never idle."""
        return int(self.device.type == "cuda")

    @property
    def has_fused_cells(self) -> bool:
        """True if all elementwise work of an LSTM or GRU step takes one kernel on this device."""
        return _fuses_cells(self.device)

    @property
    def widens_products(self) -> bool:
        """True if one kernel multiplies in this half precision and writes float32."""
        return self.dtype in (torch.float16, torch.bfloat16) and _widens_products(self.device, self.dtype)

    @property
    def has_onednn_bfloat16(self) -> bool:
        """True if oneDNN can lay out and multiply bfloat16 weights on this machine."""
        available = self.device.type == "cpu" and torch.backends.mkldnn.is_available()
        return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def large_matrix_size(self) -> int:
        """Rows of square matrices whose product keeps the whole device busy."""
        return 8192 if self.device.type == "cuda" else 2048

    @property
    def is_memory_bound(self) -> bool:
        """True if reading a large matrix takes longer than multiplying a vector by it."""
        return self.device.type == "cpu"

    @property
    def has_fbgemm(self) -> bool:
        """True if FBGEMM can quantise weights and multiply them in 8-bit integers on this machine."""
        available = self.device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
        return available and hasattr(torch, "quantize_per_channel")  # PyTorch plans to remove it

    def pack(self, weight: Tensor) -> Tensor:
        """A contiguous copy for repeated reading: on Linux in huge pages, which cause fewer TLB misses."""
        weight = weight.contiguous()
        size = weight.numel() * weight.element_size()
        if self.device.type != "cpu" or size < _HUGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return weight
        pages = mmap.mmap(-1, size + _HUGE_PAGE)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
        memory = torch.frombuffer(pages, dtype=torch.uint8)
        begin = -memory.data_ptr() % _HUGE_PAGE
        return memory[begin : begin + size].view(weight.dtype).view(weight.shape).copy_(weight)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass in this precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def gradient_scaler(self) -> torch.amp.GradScaler:
        """The scaler that keeps float16 gradients from vanishing; a pass-through in other precisions.

        On CUDA autocast runs cuDNN's recurrent layers in float16 whichever half precision is asked for.
        """
        is_half = self.dtype == torch.float16 or (self.device.type == "cuda" and self.dtype == torch.bfloat16)
        return torch.amp.GradScaler(self.device.type, enabled=is_half)

    @property
    def shares_host_memory(self) -> bool:
        """True if the device has no memory of its own."""
        return self.device.type != "cuda"

    @property
    def captures(self) -> bool:
        """True if `capture` records; a recorded step must not read a number from the device."""
        return self.device.type == "cuda" and os.environ.get("CHARRNN_CAPTURE") != "0"

    def capture(self, step: Callable[[], None], reset: Callable[[], None] = lambda: None) -> Callable[[], None]:
        """Record a step that works in place, where possible, and launch it as a whole from then on.

        On a GPU launching the operations of a small network takes longer than running them. `reset` puts in order what
        a step leaves behind that was broken off.
        """
        return CapturedStep(step, self.device, reset, self.ranks.any) if self.captures else step

    def count_idle(self) -> int:
        """The number of devices of this kind on which hardly any memory is taken, if there is a choice; else 0."""
        if self.device.type != "cuda" or torch.cuda.device_count() < 2 or "CUDA_VISIBLE_DEVICES" in os.environ:
            return 0
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]  # in MiB
        try:
            told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return 0
        return sum(int(used) < _IDLE_MIB for used in told.split() if used.isdigit())

    def free_memory(self) -> int | None:
        """Bytes of free memory on the device of rank 0; None if unknown. All processes have to call it."""
        return self.ranks.share(lambda: _free_memory(self.device))

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def pace(self) -> Callable[[], None]:
        """A call for the end of each step: it keeps the host a few steps ahead of a GPU, and no more.

        The host looks at the clock and for signals, and a GPU takes hundreds of steps before it is waited for.
        """
        if self.device.type != "cuda":
            return lambda: None
        ends: deque[torch.cuda.Event] = deque()

        def wait() -> None:
            ends.append(torch.cuda.current_stream(self.device).record_event())
            if len(ends) > _STEPS_AHEAD:
                self._await(ends.popleft())

        return wait

    def _await(self, event: torch.cuda.Event) -> None:
        """Wait for a GPU. Raises: CharRNNError if it waits for another process that is lost."""
        if self.ranks.size == 1:
            event.synchronize()
            return
        deadline = time.monotonic() + TIMEOUT_S
        while not event.query():  # unlike `synchronize` it takes signals
            if time.monotonic() > deadline:
                raise CharRNNError("another process of this training is out of reach: --resume goes on")
            time.sleep(1e-4)

    def random_state(self) -> dict[str, Tensor]:
        """States of the random generators that this device uses, of all processes: those of rank 1 end with ".1".

        All processes have to call it.
        """
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        gathered = {kind: self.ranks.gather(state[None], dim=0) for kind, state in states.items()}
        return {_of_rank(kind, rank): state for kind, rows in gathered.items() for rank, state in enumerate(rows)}

    def set_random_state(self, states: Mapping[str, Tensor]) -> None:
        """Restore saved states of this process; those of other kinds of device, and of more processes, are ignored."""
        names = {kind: _of_rank(kind, self.ranks.rank) for kind in ("cpu", "cuda", "mps")}
        own = {kind: states[name] for kind, name in names.items() if name in states}
        if "cpu" in own or self.ranks.is_first:
            torch.set_rng_state(own["cpu"])
        if self.device.type == "cuda" and "cuda" in own:
            torch.cuda.set_rng_state(own["cuda"], self.device)
        elif self.device.type == "mps" and "mps" in own:
            torch.mps.set_rng_state(own["mps"])


def _of_rank(kind: str, rank: int) -> str:
    return f"{kind}.{rank}" if rank else kind


@contextlib.contextmanager
def exact_float32(runtime: Runtime) -> Iterator[None]:
    """Compute in float32 as it is: cuDNN's recurrent layers would round their inputs to TensorFloat-32."""
    if runtime.device.type != "cuda":
        yield
        return
    layers: Any = torch.backends.cudnn.rnn
    before, layers.fp32_precision = layers.fp32_precision, "ieee"
    try:
        yield
    finally:
        layers.fp32_precision = before


class Threads:
    """Run repeated work with the number of CPU threads that is fastest.

    Only in int8, since floating-point sums may depend on the number. Trials are repeated, since other processes come
    and go: several threads that lack a core are slower than a single one. The process's number of threads changes only
    while work runs.
    """

    _ROUNDS = 3
    _SECONDS = 2.0

    def __init__(self, runtime: Runtime) -> None:
        max_threads = torch.get_num_threads()
        self._counts = (max_threads, 1) if runtime.dtype == torch.int8 and max_threads > 1 else ()
        self._begin_trial()

    def _begin_trial(self) -> None:
        self._trials = list(self._counts) * self._ROUNDS
        self._seconds = dict.fromkeys(self._counts, math.inf)
        self._next_trial = time.perf_counter() + self._SECONDS

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do a piece of work and return its result; all pieces should be of about the same size."""
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
    """Compute with this number of CPU threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def fbgemm() -> Iterator[None]:
    """Lay out quantised weights for FBGEMM inside the context, without PyTorch's deprecation warning."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per_channel")
            yield
    finally:
        torch.backends.quantized.engine = engine


def open_runtime(
    device: str = "auto",
    precision: str = "auto",
    precisions: Mapping[str, torch.dtype] = PRECISIONS,
    ranks: Ranks = ALONE,
) -> Runtime:
    """Open the device in the precision of these options, to train or, with SAMPLING_PRECISIONS, to sample.

    Raises: OptionError for an unknown name, CharRNNError for an unavailable device, PrecisionError for a precision
    that the device cannot compute in.
    """
    chosen = find_device(device)
    # Weights with dropped columns are a copy, which cuDNN rearranges at each call anyway.
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
    if precision == "auto":
        return Runtime(chosen, _fastest_dtype(chosen), ranks)
    if precision not in precisions:
        raise OptionError(f"precision {precision!r} is unknown: choose auto or one of {', '.join(precisions)}")
    if not can_compute(chosen, precisions[precision]):
        names = [name for name, dtype in precisions.items() if can_compute(chosen, dtype)]
        raise PrecisionError(f"--precision {precision} is not available on this {chosen.type}: choose {_either(names)}")
    return Runtime(chosen, precisions[precision], ranks)


def compute_deterministically() -> None:
    """Make results reproducible to the bit on a GPU too; on a CPU they always are.

    Call it before the device is first used, since cuBLAS allocates its workspace then. PyTorch warns of operations
    without a deterministic version.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # the one value that nn.LSTM and PyTorch both name
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # it is never read
    torch.backends.cudnn.benchmark = False


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        kept_for_reuse = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept_for_reuse
    return _free_host_memory() if device.type == "cpu" else None


def _free_host_memory() -> int | None:
    """Bytes that Linux has available, at most the container's limit."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(1024 * int(fields["MemAvailable"].removesuffix("kB")))
    with contextlib.suppress(OSError, ValueError):  # "max" is not a number
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


def find_device(name: str) -> torch.device:
    """The device of a name, as in `--device`; of several processes on a machine each has a GPU of its own.

    Raises: OptionError for an unknown name, CharRNNError for an unavailable device.
    """
    device = torch.device(_choose_kind()) if name == "auto" else _find_named(name)
    place = local_rank()
    return device if place is None or device != torch.device("cuda") else _find_named(f"cuda:{place}")


def _find_named(name: str) -> torch.device:
    if not re.fullmatch(r"cpu|mps|cuda(:(0|[1-9][0-9]?))?", name):
        raise OptionError(f"device {name!r} is unknown: choose auto, cpu, cuda, cuda:N or mps")
    kind, _, index = name.partition(":")
    if kind == "cuda" and torch.cuda.is_available() and int(index or 0) >= torch.cuda.device_count():
        raise CharRNNError(f"device {name} is not available: this machine has {torch.cuda.device_count()} of its kind")
    if (reason := failure(torch.device(name))) is not None:
        raise CharRNNError(f"device {name} is not available: {reason}; try --device auto")
    return torch.device(name)


def _choose_kind() -> str:
    """CUDA if it works, else the faster of MPS and CPU."""
    if torch.cuda.is_available():
        if (reason := failure(torch.device("cuda"))) is None:
            return "cuda"
        warnings.warn(f"the GPU is not used: {reason}", CharRNNWarning, stacklevel=2)
    return _faster("mps", "cpu") if torch.backends.mps.is_available() and local_rank() is None else "cpu"


@functools.cache
def failure(device: torch.device) -> str | None:
    """The reason why a device does not train a tiny LSTM, or None if it does.

    A driver may be too old, or a GPU one for which this build of PyTorch has no kernels, of which it only warns, or
    its cuDNN none.
    """
    if device.type == "cpu":
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            _train_lstm(*_make_lstm(2, 8, 8, device))
    except Exception as error:  # of several classes: a build without CUDA, say, raises an AssertionError
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        return reason if device.type != "cuda" else f"{reason} ({_cuda_versions()})"
    return None


def _cuda_versions() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    version = ctypes.c_int()
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return f"there is no driver; this PyTorch is built for CUDA {torch.version.cuda}"
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return f"the driver supports CUDA {supported}, this PyTorch is built for {torch.version.cuda}"


@functools.cache
def _faster(*kinds: str) -> str:
    """The kind of device that trains an LSTM fastest in a trial of half a second."""
    return max(kinds, key=lambda kind: _try_out(torch.device(kind)))


def _try_out(device: torch.device, seconds: float = 0.5) -> float:
    """Training steps per second of a small LSTM, after a warm-up; 0 if it fails."""
    T, B, H = 32, 16, 256
    try:
        x, weights, state = _make_lstm(T, B, H, device)
        step = functools.partial(_train_lstm, x, weights, state)
        for _ in range(3):
            step()
        num_steps, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            step()
            num_steps += 1
    except RuntimeError:
        return 0.0
    return num_steps / (time.perf_counter() - begin)


def _make_lstm(T: int, B: int, H: int, device: torch.device) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
    """Inputs (T, B, H), weights and state of an LSTM: zeros, so that no random number is drawn."""
    shapes = [(4 * H, H), (4 * H, H), (4 * H,), (4 * H,)]
    weights = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
    h, c = (torch.zeros(1, B, H, device=device) for _ in range(2))
    return torch.zeros(T, B, H, device=device), weights, (h, c)


def _train_lstm(x: Tensor, weights: list[Tensor], state: tuple[Tensor, Tensor]) -> float:
    """Run one forward and backward pass; returns a number, so that the device must finish."""
    with torch.enable_grad():
        total = torch.lstm(x, state, weights, True, 1, 0.0, True, False, False)[0].float().sum()
        total.backward()
    return float(total.detach())


def _fastest_dtype(device: torch.device) -> torch.dtype:
    """The fastest precision without loss of quality: half precision only if the hardware multiplies in it."""
    candidate = torch.float32
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 7:
        candidate = torch.float16  # cuDNN's fastest recurrent kernels; tensor cores came with compute capability 7
    elif device.type == "cpu" and _has_bfloat16_instructions():
        candidate = torch.bfloat16
    return candidate if can_compute(device, candidate) else torch.float32


def _has_bfloat16_instructions() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return bool(torch.cpu._is_avx512_bf16_supported())  # older PyTorch


@functools.cache
def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """True if one tiny training step of an LSTM works in this precision; for int8, if sampling does.

    A CPU may lack the instructions, or the environment may forbid them (ONEDNN_MAX_CPU_ISA), so names do not tell.
    """
    if dtype == torch.int8:
        return Runtime(device, dtype).has_fbgemm
    if dtype == torch.float32:
        return True
    if device.type != "cuda" and dtype == torch.float16:
        return False  # few CPUs support it, and on MPS a step with an infinite gradient would be taken
    try:
        with torch.autocast(device.type, dtype):
            _train_lstm(*_make_lstm(2, 8, 8, device))
    except RuntimeError:
        return False
    return True


@functools.cache
def _fuses_cells(device: torch.device) -> bool:
    """True if PyTorch's fused cells, which are private and for GPUs alone, agree with its public ones."""
    H, state = 2, torch.linspace(-1, 1, 4).view(2, 2)
    gates, recurrent = torch.linspace(-2, 2, 8 * H).view(2, 4 * H), torch.linspace(-1, 2, 4 * H)

    def weights(G: int) -> tuple[Tensor, ...]:
        """Weights with which a cell's inputs are its gates, and each hidden state contributes the same to them."""
        return torch.eye(G), torch.zeros(G, H), torch.zeros(G), recurrent[:G]

    def agree(G: int, expected: tuple[Tensor, ...], cell: Callable[..., tuple[Tensor, ...]]) -> bool:
        found = cell(*(t.to(device) for t in (gates[:, :G], recurrent[:G].expand(2, G), state)))
        return all(torch.allclose(b.cpu(), a, atol=1e-5) for a, b in zip(expected, found, strict=False))

    lstm = torch.lstm_cell(gates, (state, state), *weights(4 * H))
    gru = torch.gru_cell(gates[:, : 3 * H], state, *weights(3 * H))
    try:
        return agree(4 * H, lstm, torch.ops.aten._thnn_fused_lstm_cell) and agree(
            3 * H, (gru,), torch.ops.aten._thnn_fused_gru_cell
        )
    except (AttributeError, RuntimeError):
        return False


@functools.cache
def _widens_products(device: torch.device, dtype: torch.dtype) -> bool:
    """True if a product in this half precision can be had in float32, without being rounded in between."""
    a, b = torch.ones(4, 16, dtype=dtype, device=device), torch.full((16, 4), 2.0**-12, dtype=dtype, device=device)
    b[0], product = 1, torch.empty(4, 4, device=device)
    try:
        torch.mm(a, b, out_dtype=torch.float32, out=product)
    except (TypeError, RuntimeError):
        return False
    return bool((product == 1 + 15 * 2.0**-12).all())


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def draw_seed() -> int:
    """A seed from the operating system."""
    return secrets.randbits(31)


def seed_everything(seed: int | None) -> int:
    """Seed every generator, by default with a drawn seed; returns the seed."""
    if seed is None:
        seed = draw_seed()
    torch.manual_seed(seed)
    return seed
