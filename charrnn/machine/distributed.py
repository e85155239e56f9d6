"""The processes of one training, as `torchrun` starts them: each reads its own streams, and all take the same steps.

PyTorch's own collectives do the work, NCCL between GPUs and gloo between CPUs. Every process runs the same program,
and takes from rank 0 whatever it would read from its own world: the clock, signals, memory, files. All processes have
to call the same methods of `Ranks` in the same order. A process that is alone communicates with nobody.

Letters in shapes: B parallel streams of all processes.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.machine.capture import release_recordings
from charrnn.terminal import is_alone

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TIMEOUT_S = 300
"""Seconds after which a silent process counts as lost. One that ends is noticed at once."""
_POLL_SECONDS = 0.01
_SEED_STRIDE = 0x9E3779B1  # keeps the seeds of a run's processes apart from those of the next seed
_ENDED = "processes that ended early"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from one of them: number `rank` of `size`.

    On its machine it is number `local_rank` of `local_size`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: "Store | None" = field(default=None, repr=False, compare=False)
    """Values by name that all can read; None in a process that is alone."""

    @property
    def is_first(self) -> bool:
        """True in the process that saves and reports."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The columns of B streams that this process reads."""
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def seed(self, seed: int) -> int:
        """The seed of this process in a training; rank 0 has the training's."""
        return (seed + _SEED_STRIDE * self.rank) % 2**31

    def share(self, make: Callable[[], _Value]) -> _Value:
        """The result of a call in rank 0, however long that takes. Raises: CharRNNError if a process is lost."""
        if self.size == 1:
            return make()
        values = [make() if self.is_first else None]
        self.meet("share")
        with _noticing_losses():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def agree(self, seconds: float, *, stop: bool) -> tuple[float, bool]:
        """The seconds of rank 0, and True if any process wants to stop. Raises: CharRNNError if one is lost."""
        if self.size == 1:
            return seconds, stop
        seconds, stops = self.sum([seconds if self.is_first else 0.0, float(stop)])
        return seconds, stops > 0

    def any(self, flag: bool) -> bool:
        """True if the flag is set in any process. Raises: CharRNNError if one is lost."""
        return self.sum([float(flag)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes. Raises: CharRNNError if one is lost."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _noticing_losses():
            dist.all_reduce(total)
        return total.tolist()

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Set the gradients to their means over all processes; returns that of `loss`.

        One message of one buffer, whose parts become the gradients. Raises: CharRNNError if a process is lost.
        """
        if self.size == 1:
            return loss
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        tensors = [*(parameter.grad for parameter in trained if parameter.grad is not None), loss]
        buffer = torch.cat([tensor.flatten() for tensor in tensors]).div_(self.size)
        # On a GPU the call only queues the work, and what it raises may be due to the recording.
        with _noticing_losses() if buffer.device.type == "cpu" else contextlib.nullcontext():
            dist.all_reduce(buffer)
        parts: list[Tensor] = list(buffer.split([tensor.numel() for tensor in tensors]))
        for parameter, gradient in zip(trained, parts[:-1], strict=True):
            parameter.grad = gradient.view_as(parameter)
        return parts[-1].view(())

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all processes, of one shape, joined along a dimension. Raises: CharRNNError."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _noticing_losses():
            dist.all_gather(tensors, tensor.contiguous())
        return torch.cat(tensors, dim)

    def share_on_machine(self, name: str, make: Callable[[], str]) -> str:
        """The result of a call in the first process on each machine, however long it takes.

        Raises: CharRNNError if a process is lost.
        """
        if self.store is None:
            return make()
        store, key = self.store, f"{name} on {os.environ.get('GROUP_RANK', '0')}"
        if self.local_rank == 0:
            store.set(key, make())
        with _noticing_losses():
            _await(lambda: store.check([key]), store)
            return str(store.get(key), "utf-8")

    def meet(self, name: str) -> None:
        """Wait until all processes have come here, however long it takes. Raises: CharRNNError if one is lost."""
        if self.store is None:
            return
        store = self.store
        with _noticing_losses():
            num_meetings = -(-store.add(name, 1) // self.size)
            _await(lambda: store.add(name, 0) >= num_meetings * self.size, store)


ALONE = Ranks()


def local_rank() -> int | None:
    """The number of this process on its machine, or None if torchrun has not started several. Raises: CharRNNError."""
    return None if is_alone() else _number("LOCAL_RANK")


def _number(name: str) -> int:
    value = os.environ.get(name, "").strip()
    if not value.isdecimal():
        raise CharRNNError(f"{name} is {value!r} in the environment, which torchrun sets to a number")
    return int(value)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the training's other processes, if torchrun has started any, for the enclosed work.

    `device` is a name as in `--device`. Of an error that several processes meet, the first one tells; the others exit.
    Raises: CharRNNError.
    """
    if (place := local_rank()) is None:
        yield ALONE
        return
    store, rank, size = _join(device, place)
    try:
        yield Ranks(rank, size, place, _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else 1, store)
        release_recordings()  # NCCL does not end while a recorded step refers to it
        dist.destroy_process_group()
    except BaseException as error:
        is_claimed = _claim(store)
        if isinstance(error, CharRNNError):
            if not is_claimed:
                raise SystemExit(error.exit_code) from error
            error.is_claimed = True
        raise


def _join(device: str, place: int) -> "tuple[Store, int, int]":
    """Meet the other processes; returns a store for this attempt, the rank and the size. Raises: CharRNNError."""
    if ":" in device or device == "mps":
        raise OptionError(
            f"{opt.device(device)} is one device, and there are several processes: choose auto, cuda or cpu"
        )
    has_gpu = device != "cpu" and torch.cuda.is_available() and place < torch.cuda.device_count()
    try:
        from torch._C._distributed_c10d import PrefixStore  # which not every build has
        from torch.distributed.rendezvous import rendezvous

        timeout = timedelta(seconds=TIMEOUT_S)
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        store = PrefixStore(f"attempt {_number_attempt(store, rank)}", store)
        if has_gpu:
            torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError, ImportError) as error:
        told = CharRNNError(f"the processes of this training did not meet: {_first_line(error)}")
        told.is_claimed = True
        raise told from error
    return store, rank, size


def _number_attempt(store: "Store", rank: int) -> int:
    """The number of this attempt: torchrun may hand on the store of the one before, with its addresses.

    Rank 0 counts; each other process takes its seat at the newest attempt in which it is free.
    """
    if rank == 0:
        return int(store.add("attempts", 1))
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        if (attempt := int(store.add("attempts", 0))) and store.add(f"seat {rank} of attempt {attempt}", 1) == 1:
            return attempt
        time.sleep(_POLL_SECONDS)
    raise RuntimeError("the first one did not come")


def _claim(store: "Store") -> bool:
    """True in the first process that ends early."""
    try:
        return bool(store.add(_ENDED, 1) == 1)
    except RuntimeError:  # whoever held the store has ended too
        return True


def _await(condition: Callable[[], bool], store: "Store") -> None:
    """Wait without a limit, until a process tells that it ends early; unlike the store's own waiting it takes signals.

    Raises: RuntimeError.
    """
    while not condition():
        if store.add(_ENDED, 0):
            raise RuntimeError("it met an error")
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CharRNNError(
            f"another process of this training has ended or is unreachable ({_first_line(error)}): continue from the "
            f"last checkpoint with {opt.resume(True)}"
        ) from error


def _first_line(error: Exception) -> str:
    """The reason that PyTorch tells, without the place in its source."""
    return str(error).partition("\n")[0].rpartition("] ")[2].partition(". ")[0]
