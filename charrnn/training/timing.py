"""The clock of a run, and the duration of a step."""

import contextlib
import statistics
import time
from collections.abc import Iterator

from charrnn.machine.distributed import Ranks
from charrnn.machine.runtime import Runtime
from charrnn.training.bptt import TruncatedBPTT


class Clock:
    """Wall-clock seconds of a run with its earlier parts; `paused_s` are those without training.

    In several processes it shows what they agreed on last.
    """

    def __init__(self, elapsed_s: float = 0.0, paused_s: float = 0.0) -> None:
        self.paused_s, self._before = paused_s, elapsed_s
        self._started: float | None = None
        self._agreed: float | None = None

    def start(self) -> None:
        """Begin to count."""
        self._started = time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first step."""
        return self._read() if self._agreed is None else self._agreed

    def agree(self, ranks: Ranks, *, stop: bool) -> bool:
        """Take the time of rank 0; returns True if any process wants to stop. Raises: CharRNNError if one is lost."""
        if ranks.size == 1:
            return stop
        self._agreed, stop = ranks.agree(self._read(), stop=stop)
        return stop

    def _read(self) -> float:
        return self._before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def rate(self, count: float) -> float:
        """A count per second of the time with training."""
        seconds = self.elapsed_s - self.paused_s
        return count / seconds if seconds > 0 else 0.0

    @contextlib.contextmanager
    def paused(self, runtime: Runtime) -> Iterator[None]:
        """Count the enclosed work as time without training."""
        runtime.synchronize()
        begin = time.perf_counter()
        yield
        self.paused_s += time.perf_counter() - begin


def seconds_per_step(bptt: TruncatedBPTT) -> float:
    """Median duration of a step in rank 0, from a few that are then undone; measured once.

    Raises: CorpusChangedError.
    """
    if bptt.seconds_per_step is not None:
        return bptt.seconds_per_step
    tensors = {name: tensor.clone() for name, tensor in bptt.tensors().items()}
    cursor, scaler, seconds = bptt.cursor, bptt.scaler_state(), []
    bptt.model.train()
    try:
        for _ in range(10 if bptt.runtime.captures else 5):  # recording takes some
            begin = time.perf_counter()
            bptt.step(learning_rate=0.0)
            bptt.runtime.synchronize()
            seconds.append(time.perf_counter() - begin)
    finally:
        bptt.reset()
        bptt.load(tensors, cursor, scaler)
    bptt.seconds_per_step = bptt.runtime.ranks.broadcast(lambda: statistics.median(seconds[-4:]))
    return bptt.seconds_per_step
