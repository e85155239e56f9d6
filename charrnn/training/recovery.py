"""Watch the training loss, and keep snapshots to restore if it explodes.

Restoring resets the `Progress` in `snapshot.py`, and keeps the `History`.
"""

import math
from collections.abc import Callable

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError, opt
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.snapshot import History, Progress, Snapshot

_CHECK_EVERY = 100  # steps between checks of the loss, which wait for the device
MAX_RECOVERIES = 5
MAX_VAL_LOSS = 100.0  # nats per character; a higher loss means that training has exploded, on any text
_MIN_SYMBOLS = 500  # symbols per step from which the loss of a single step is reliable


class Recovery:
    """The last good snapshot, and a newer candidate that becomes it if the loss is normal 100 steps later.

    The loss of a step is measured before its update, so a bad snapshot shows only in later losses.
    """

    def __init__(self, bptt: TruncatedBPTT, config: TrainingConfig, learning_rate: float) -> None:
        self._bptt, self._config, self._learning_rate = bptt, config, learning_rate
        self._uniform_loss = math.log(bptt.model.config.vocab_size)
        self.last_good: Snapshot
        self._candidate: Snapshot | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Keep the first snapshot."""
        self.last_good = self._candidate = snapshot

    @property
    def loss(self) -> float:
        """The running mean loss, or the loss of the last step if it is higher and averages many symbols.

        Raises: CharRNNError if another process is lost.
        """
        self._bptt.runtime.synchronize()  # raises if a process is lost; float() would wait forever
        mean, last = float(self._bptt.mean_loss), float(self._bptt.loss)
        return last if self._bptt.layout.symbols_per_step >= _MIN_SYMBOLS and not last < mean else mean

    def loss_is_normal(self, progress: Progress) -> bool:
        """True if the loss is finite and not far above the loss of a uniform distribution; waits for the device.

        The limit is 1.25 times the uniform loss until the model has learned something, then twice the uniform loss,
        because another kind of text may follow. With few symbols the limit is at least 1 or 4 nats above it.
        """
        uniform = self._uniform_loss
        margin = max(4, uniform) if progress.lowest_loss < uniform else max(1, uniform / 4)
        return self.loss < uniform + margin  # False for NaN

    def check(self, progress: Progress, take_snapshot: Callable[[], Snapshot], *, before_evaluation: bool) -> bool:
        """Check the loss every 100 steps, before checkpoints and before evaluations. Returns: False if it exploded.

        If the loss is normal, take a new snapshot every 100 steps; the previous one becomes the last good one.
        """
        is_due = any(progress.step % every == 0 for every in (_CHECK_EVERY, self._config.checkpoint_every) if every)
        if not (is_due or before_evaluation):
            return True
        if not self.loss_is_normal(progress):
            return False
        progress.lowest_loss = min(progress.lowest_loss, float(self._bptt.mean_loss))
        if self._candidate is None or progress.step >= self._candidate.progress.step + _CHECK_EVERY:
            self.last_good, self._candidate = self._candidate or self.last_good, None  # free memory for the next one
            self._candidate = take_snapshot()
        return True

    def roll_back(self, loss: float, progress: Progress, history: History) -> Snapshot:
        """Drop the candidate and return the last good snapshot. Raises: CharRNNError after MAX_RECOVERIES calls."""
        if history.recoveries >= MAX_RECOVERIES:
            raise CharRNNError(
                f"the loss is {loss:.4g} after {progress.step} steps, also in {MAX_RECOVERIES} attempts with lower "
                f"learning rates: lower {opt.learning_rate}, now {self._learning_rate:.3g}, or {opt.grad_clip}, now "
                f"{self._config.grad_clip}"
            )
        history.recoveries += 1
        self._candidate = None
        return self.last_good


def reduced_learning_rate(learning_rate: float, recoveries: int) -> float:
    """The peak learning rate divided by 2 at the first recovery, by another 4 at the second, and so on."""
    return float(learning_rate / 2 ** (recoveries * (recoveries + 1) // 2))
