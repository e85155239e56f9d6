"""Judge the training loss, and keep snapshots to go back to if it explodes.

Going back resets the `Progress` in `snapshot.py`, and keeps the `History`.
"""

import math
from collections.abc import Callable

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError, opt
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.snapshot import History, Progress, Snapshot

_WATCH_EVERY = 100  # steps between two checks of the loss, each of which waits for the device
MAX_RECOVERIES = 5
ABSURD_LOSS = 100.0  # nats per character of validation text; no text explains a higher loss
_MANY_CHARS = 500  # in a step whose own loss measures the model rather than these characters


class Recovery:
    """A trusted snapshot, and a later candidate, which is trusted once the loss is sane 100 steps after it.

    The loss of a step precedes its update, so a snapshot proves sound only later.
    """

    def __init__(self, bptt: TruncatedBPTT, config: TrainingConfig, learning_rate: float) -> None:
        self._bptt, self._config, self._learning_rate = bptt, config, learning_rate
        self._guessing = math.log(bptt.model.config.vocab_size)
        self.trusted: Snapshot
        self._candidate: Snapshot | None = None

    def begin(self, snapshot: Snapshot) -> None:
        """Keep the first snapshot, which is trusted at once."""
        self.trusted = self._candidate = snapshot

    @property
    def loss(self) -> float:
        """The running mean, or the last step's loss if that is worse and is a mean of many characters.

        Raises: CharRNNError if another process is lost.
        """
        self._bptt.runtime.synchronize()  # unlike float(), it gives up on a lost process
        mean, last = float(self._bptt.mean_loss), float(self._bptt.loss)
        return last if self._bptt.layout.symbols_per_step >= _MANY_CHARS and not last < mean else mean

    def is_sane(self, progress: Progress) -> bool:
        """True if the loss is a number, and not far above that of guessing; waits for the device.

        The limit is a quarter above before anything is learned, and twice that of guessing afterwards, since a new kind
        of text may surprise. The margin has a minimum in nats: with two symbols even a new model may be far off.
        """
        guessing = self._guessing
        margin = max(4, guessing) if progress.lowest_loss < guessing else max(1, guessing / 4)
        return self.loss < guessing + margin  # which NaN is not

    def check_and_keep(self, progress: Progress, take: Callable[[], Snapshot], *, before_evaluation: bool) -> bool:
        """Check the loss every 100 steps, and before checkpoints and evaluations. Returns: False if it is not sane.

        If it is sane, take a snapshot every 100 steps, and trust the one before.
        """
        is_time = any(progress.step % every == 0 for every in (_WATCH_EVERY, self._config.checkpoint_every) if every)
        if not (is_time or before_evaluation):
            return True
        if not self.is_sane(progress):
            return False
        progress.lowest_loss = min(progress.lowest_loss, float(self._bptt.mean_loss))
        if self._candidate is None or progress.step >= self._candidate.progress.step + _WATCH_EVERY:
            self.trusted, self._candidate = self._candidate or self.trusted, None  # before memory is taken
            self._candidate = take()
        return True

    def go_back(self, loss: float, progress: Progress, history: History) -> Snapshot:
        """Give up the candidate and return the trusted snapshot. Raises: CharRNNError if that was done too often."""
        if history.recoveries >= MAX_RECOVERIES:
            raise CharRNNError(
                f"the loss is {loss:.4g} after {progress.step} steps, and {MAX_RECOVERIES} attempts with ever lower "
                f"learning rates ended no better: lower {opt.learning_rate}, now {self._learning_rate:.3g}, or "
                f"{opt.grad_clip}, now {self._config.grad_clip}"
            )
        history.recoveries += 1
        self._candidate = None
        return self.trusted


def lowered(learning_rate: float, recoveries: int) -> float:
    """The peak of the learning rate divided by 2 in the first recovery, by 4 more in the second, and so on."""
    return float(learning_rate / 2 ** (recoveries * (recoveries + 1) // 2))
