"""The processes of one training, as `torchrun` starts them: each reads its own streams, and all take the same steps.

PyTorch's own collectives do the work, NCCL between GPUs and gloo between CPUs. Every process runs the same program;
what it reads from its own world (clock, signals, memory, files) it takes from rank 0. A process that is alone
communicates with nobody.

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

from charrnn.errors import CharRNNError
from charrnn.machine.capture import release_recordings
from charrnn.terminal import is_alone

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_TIMEOUT = timedelta(seconds=50)
"""Patience with a process that is silent. One that dies is noticed at once, unless its whole machine does."""
_POLL_SECONDS = 0.05
_ENDED = "processes that ended before their time"
_SEED_STRIDE = 0x9E3779B1  # so that the seeds of the ranks of one run are not those of the next seed's
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from one of them: number `rank` of `size`, `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: "Store | None" = field(default=None, repr=False, compare=False)
    """Values by name that all can read; None in a process that is alone."""

    @property
    def is_first(self) -> bool:
        """True in the process that saves and reports."""
        return self.rank == 0

    def part(self, batch_size: int) -> slice:
        """The columns of B streams that are this process's."""
        return slice(batch_size * self.rank // self.size, batch_size * (self.rank + 1) // self.size)

    def seed(self, seed: int) -> int:
        """A seed of this process's own, from that of the training; rank 0 has the training's."""
        return (seed + _SEED_STRIDE * self.rank) % 2**31

    def share(self, make: Callable[[], _Value]) -> _Value:
        """The result of a call in rank 0, or a copy of it. Raises: CharRNNError if a process is lost."""
        if self.size == 1:
            return make()
        values = [make() if self.is_first else None]
        with _noticing_losses():
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]  # type: ignore[return-value]

    def agree(self, seconds: float, *, stop: bool) -> tuple[float, bool]:
        """The seconds of rank 0, and True if any process wants to stop. Raises: CharRNNError if one is lost."""
        if self.size == 1:
            return seconds, stop
        seconds, stops = self.sum([seconds if self.is_first else 0.0, float(stop)])
        return seconds, stops > 0

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
        parameters = list(parameters)
        tensors = [loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
        buffer = torch.cat([tensor.flatten() for tensor in tensors]).div_(self.size)
        # On a GPU the call only queues the work, and what it raises may be due to the recording.
        with _noticing_losses() if buffer.device.type == "cpu" else contextlib.nullcontext():
            dist.all_reduce(buffer)
        parts: list[Tensor] = list(buffer.split([tensor.numel() for tensor in tensors]))
        for parameter, gradient in zip(parameters, parts[1:], strict=True):
            parameter.grad = gradient.view_as(parameter)
        return parts[0].view(())

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """The tensors of all processes, of one shape, joined along a dimension. Raises: CharRNNError."""
        if self.size == 1:
            return tensor
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        with _noticing_losses():
            dist.all_gather(tensors, tensor.contiguous())
        return torch.cat(tensors, dim)

    def share_on_machine(self, name: str, make: Callable[[], str]) -> str:
        """The result of a call in the first process on each machine, for which the others wait, however long it takes.

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
            store.add(name, 1)
            _await(lambda: store.add(name, 0) == self.size, store)


ALONE = Ranks()


def local_rank() -> int | None:
    """The number of this process on its machine, or None if torchrun has not started several. Raises: CharRNNError."""
    if is_alone():
        return None
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not (value := os.environ.get(name, "")).isdecimal():
            raise CharRNNError(f"{name} is {value!r} in the environment, which torchrun sets to a number")
    return int(os.environ["LOCAL_RANK"])


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the training's other processes, if torchrun has started any, for the enclosed work.

    Of an error that several processes meet, the first one tells; the others exit. Raises: CharRNNError.
    """
    if (place := local_rank()) is None:
        yield ALONE
        return
    from torch._C._distributed_c10d import PrefixStore  # which not every build has
    from torch.distributed.rendezvous import rendezvous

    with _noticing_losses():
        store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
        # Of the attempt before, which left its addresses, torchrun may hand on the store.
        store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT)
    try:
        yield Ranks(rank, size, place, store)
    except BaseException as error:
        is_claimed = _claim(store)
        if isinstance(error, CharRNNError):
            if not is_claimed:
                raise SystemExit(error.exit_code) from error
            error.is_claimed = True
        raise
    finally:
        release_recordings()  # NCCL does not end while a recorded step refers to it
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _claim(store: "Store") -> bool:
    """True in the first process that ends before its time."""
    try:
        return bool(store.add(_ENDED, 1) == 1)
    except RuntimeError:  # whoever held the store has ended too
        return True


def _await(condition: Callable[[], bool], store: "Store") -> None:
    """Wait without a limit, yet as long as all processes live; unlike the store's own waiting it lets signals through.

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
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]  # after the place in the source
        raise CharRNNError(
            f"another process of this training has ended or is out of reach ({reason}): "
            "--resume goes on from the last checkpoint"
        ) from error
