"""The processes of one training, as `torchrun` starts them: each reads its own streams, and all take the same steps.

PyTorch communicates by NCCL between GPUs and by gloo between CPUs. The clock, signals, free memory and files are those
of rank 0. All processes call the same methods of `Ranks` in the same order; a single process communicates with nobody.

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
from charrnn.terminal import is_single_process

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TIMEOUT_S = 300
"""Seconds after which a silent process counts as lost. One that ends is noticed at once."""
_POLL_SECONDS = 0.01
_SEED_STRIDE = 0x9E3779B1  # keeps the seeds of a run's processes apart from those of the next seed
_ARRIVALS, _ENDED = "arrivals at meetings", "processes that ended early"  # counts in the store
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training run, seen from one of them: number `rank` of `size`, on its machine `local_rank`.

    All methods that communicate raise CharRNNError if another process is lost.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: "Store | None" = field(default=None, repr=False, compare=False)
    """Counts by name that all can read; None in a single process."""

    @property
    def is_first(self) -> bool:
        """True in the process that saves and reports."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The columns of B streams that this process reads."""
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def seed(self, seed: int) -> int:
        """The seed of this process in a training run; rank 0 has that of the run."""
        return (seed + _SEED_STRIDE * self.rank) % 2**31

    def broadcast(self, make: Callable[[], _Value]) -> _Value:
        """The result of a call in rank 0, however long that takes."""
        if self.size == 1:
            return make()
        values = [make() if self.is_first else None]
        self.barrier()  # a collective has a time limit
        with _noticing_losses():
            dist.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def broadcast_on_machine(self, make: Callable[[], _Value]) -> _Value:
        """The result of a call in the first process on each machine, however long it takes."""
        if self.size == 1:
            return make()
        value = make() if self.local_rank == 0 else None
        values = [value] * self.size
        self.barrier()
        with _noticing_losses():
            dist.all_gather_object(values, value)
        return values[self.rank - self.local_rank]  # type: ignore[return-value]

    def agree(self, seconds: float, *, stop: bool) -> tuple[float, bool]:
        """The seconds of rank 0, and True if any process wants to stop."""
        seconds, stops = self.sum([seconds if self.is_first else 0.0, float(stop)])
        return seconds, stops > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _noticing_losses():
            dist.all_reduce(total)
        return total.tolist()

    def average(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Set the gradients to their means over all processes, by one message; returns the mean of `loss`."""
        if self.size == 1:
            return loss
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        gradients = [parameter.grad.flatten() for parameter in trained]  # type: ignore[union-attr]
        buffer = torch.cat([*gradients, loss.view(1)]).div_(self.size)
        # On a GPU the call only queues the work, and what it raises may be due to the recording.
        with _noticing_losses() if buffer.device.type == "cpu" else contextlib.nullcontext():
            dist.all_reduce(buffer)
        means: tuple[Tensor, ...] = buffer.split([*map(len, gradients), 1])
        for parameter, mean in zip(trained, means[:-1], strict=True):
            parameter.grad = mean.view_as(parameter)
        return means[-1].view(())

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all processes, of one shape, joined along a dimension."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _noticing_losses():
            dist.all_gather(tensors, tensor.contiguous())
        return torch.cat(tensors, dim)

    def barrier(self) -> None:
        """Wait until all processes have come here, however long it takes."""
        if self.store is None:
            return
        with _noticing_losses():  # by polling, since the store's own waiting delays signals
            num_meetings = -(-self.store.add(_ARRIVALS, 1) // self.size)
            while self.store.add(_ARRIVALS, 0) < num_meetings * self.size:
                if self.store.add(_ENDED, 0):
                    raise RuntimeError("it met an error")
                time.sleep(_POLL_SECONDS)


SINGLE_PROCESS = Ranks()


def local_rank() -> int | None:
    """The number of this process on its machine, or None if torchrun has not started several. Raises: CharRNNError."""
    if is_single_process():
        return None
    value = os.environ["LOCAL_RANK"].strip()
    if not value.isdecimal():
        raise CharRNNError(f"LOCAL_RANK is {value!r} in the environment, which torchrun sets to a number")
    return int(value)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the training's other processes, if torchrun has started any, for the enclosed work.

    `device` is a name as in `--device`. The first process with an error raises it, the others exit. The process group
    is not destroyed, since NCCL would wait for recorded steps: the process is to exit next. Raises: CharRNNError.
    """
    if (place := local_rank()) is None:
        yield SINGLE_PROCESS
        return
    store, ranks = _join(device, place)
    try:
        yield ranks
    except BaseException as error:
        is_claimed = True
        with contextlib.suppress(RuntimeError):  # the process that holds the store may have ended too
            is_claimed = store.add(_ENDED, 1) == 1
        if isinstance(error, CharRNNError):
            if not is_claimed:
                raise SystemExit(error.exit_code) from error
            error.must_print = True
        raise


def _join(device: str, place: int) -> "tuple[Store, Ranks]":
    """Meet the other processes; returns a store for this attempt. Raises: CharRNNError."""
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
        return store, Ranks(rank, size, place, int(os.environ.get("LOCAL_WORLD_SIZE", 1)), store)
    except (RuntimeError, ValueError, ImportError) as error:
        failure = CharRNNError(f"the processes of this training did not meet: {_first_line(error)}")
        failure.must_print = True
        raise failure from error


def _number_attempt(store: "Store", rank: int) -> int:
    """The number of this attempt; torchrun keeps the store, with its addresses, when it restarts the processes.

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
    """PyTorch's reason, without the place in its source."""
    return str(error).partition("\n")[0].rpartition("] ")[2].partition(". ")[0]
