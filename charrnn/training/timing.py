"""The clock of a run, and the duration of a step."""

import contextlib
import statistics
import time
from collections.abc import Iterator

from charrnn.machine.distributed import Ranks
from charrnn.machine.runtime import Runtime
from charrnn.training.bptt import TruncatedBPTT


class Clock:
    """Wall-clock seconds of a run, including those before it was resumed; `paused_s` is the time without training.

    Several processes use the time that they agreed on last.
    """

    def __init__(self, elapsed_s: float = 0.0, paused_s: float = 0.0) -> None:
        self.paused_s, self._before = paused_s, elapsed_s
        self._started: float | None = None
        self._agreed: float | None = None

    def start(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step."""
        return self._read() if self._agreed is None else self._agreed

    def agree(self, ranks: Ranks, *, stop: bool) -> bool:
        """Set the time to that of rank 0. Returns: True if any process stops. Raises: CharRNNError if one is lost."""
        if ranks.size == 1:
            return stop
        self._agreed, stop = ranks.agree(self._read(), stop=stop)
        return stop

    def _read(self) -> float:
        return self._before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def rate(self, count: float) -> float:
        """`count` per second of training time."""
        seconds = self.elapsed_s - self.paused_s
        return count / seconds if seconds > 0 else 0.0

    @contextlib.contextmanager
    def paused(self, runtime: Runtime) -> Iterator[None]:
        """Exclude the enclosed work from the training time."""
        runtime.synchronize()
        start = time.perf_counter()
        yield
        self.paused_s += time.perf_counter() - start


def seconds_per_step(bptt: TruncatedBPTT) -> float:
    """Median duration of a step on rank 0, from a few trial steps that are then undone; measured once.

    Raises: CorpusChangedError.
    """
    if bptt.seconds_per_step is not None:
        return bptt.seconds_per_step
    tensors = {name: tensor.clone() for name, tensor in bptt.tensors().items()}
    cursor, scaler, seconds = bptt.cursor, bptt.scaler_state(), []
    bptt.model.train()
    try:
        for _ in range(10 if bptt.runtime.captures else 5):  # a device needs some steps to record
            start = time.perf_counter()
            bptt.step(learning_rate=0.0)
            bptt.runtime.synchronize()
            seconds.append(time.perf_counter() - start)
    finally:
        bptt.reset()
        bptt.load(tensors, cursor, scaler)
    bptt.seconds_per_step = bptt.runtime.ranks.broadcast(lambda: statistics.median(seconds[-4:]))
    return bptt.seconds_per_step
