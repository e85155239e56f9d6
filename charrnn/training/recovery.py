"""Judge the training loss, and keep snapshots to go back to where it explodes.

What a snapshot takes back is `Course` in `snapshot.py`, what it does not is `History`.
"""

import math
from collections.abc import Callable

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError, opt
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.snapshot import Course, History, Snapshot

_WATCH_EVERY = 100  # steps between two looks at the loss, each of which waits for the device
MAX_RECOVERIES = 5
_ABSURD_LOSS = 100.0  # nats
_MANY_CHARS = 500  # in a step: its own loss tells something of the model, not only of these characters


class Recovery:
    """Two snapshots: one that is trusted, and a later one that will be once the loss is sane 100 steps after it.

    The loss of a step tells nothing of the update that follows it, so a snapshot proves sound only later.
    """

    def __init__(self, bptt: TruncatedBPTT, config: TrainingConfig, learning_rate: float) -> None:
        self._bptt, self._config, self._learning_rate = bptt, config, learning_rate
        self._guessing = math.log(bptt.model.config.vocab_size)
        self._trusted: Snapshot | None = None
        self._candidate: Snapshot | None = None

    @property
    def loss(self) -> float:
        """The running mean, or the last step's loss where that is worse and rests on many characters.

        Raises: CharRNNError if another process is lost.
        """
        self._bptt.runtime.synchronize()  # unlike float(), it gives up on a lost process
        mean, last = float(self._bptt.mean_loss), float(self._bptt.loss)
        return last if self._bptt.layout.symbols_per_step >= _MANY_CHARS and not last < mean else mean

    def is_sane(self, course: Course) -> bool:
        """True if the loss is a number, and not far beyond that of guessing; to look at it waits for the device.

        At most a quarter beyond before anything is learned, twice that of guessing afterwards, where a new kind of text
        may surprise; with a least margin in nats, since of two symbols even a new model may be far off.
        """
        guessing = self._guessing
        margin = max(4, guessing) if course.lowest_loss < guessing else max(1, guessing / 4)
        return self.loss < guessing + margin  # which NaN is not

    def check_and_keep(self, course: Course, take: Callable[[], Snapshot], *, before_evaluation: bool) -> bool:
        """Return False if the loss is absurd. It is looked at every 100 steps, and before checkpoints and evaluations.

        If it is sane, take a snapshot every 100 steps, and trust the one before.
        """
        is_time = any(course.step % every == 0 for every in (_WATCH_EVERY, self._config.checkpoint_every) if every)
        if not (is_time or before_evaluation):
            return True
        if not self.is_sane(course):
            return False
        course.lowest_loss = min(course.lowest_loss, float(self._bptt.mean_loss))
        if self._candidate is None or course.step >= self._candidate.course.step + _WATCH_EVERY:
            self.keep(take)
        return True

    def keep(self, take: Callable[[], Snapshot]) -> None:
        """Trust the candidate, and take the next one; the first is trusted at once."""
        self._trusted, self._candidate = self._candidate or self._trusted, None  # before memory is taken
        self._candidate = take()
        self._trusted = self._trusted or self._candidate

    def is_absurd(self, validation_loss: float) -> bool:
        """True if no text, however foreign, explains such a loss."""
        return not validation_loss < _ABSURD_LOSS

    @property
    def trusted(self) -> Snapshot:
        """The snapshot that is trusted."""
        assert self._trusted is not None, "the first snapshot comes before the first step"
        return self._trusted

    def go_back(self, loss: float, course: Course, history: History) -> Snapshot:
        """Give up the candidate and return the trusted snapshot. Raises: CharRNNError if that was done too often."""
        if history.recoveries >= MAX_RECOVERIES:
            raise CharRNNError(
                f"the loss is {loss:.4g} after {course.step} steps, and {MAX_RECOVERIES} attempts with ever lower "
                f"learning rates ended no better: lower {opt.learning_rate}, now {self._learning_rate:.3g}, or "
                f"{opt.grad_clip}, now {self._config.grad_clip}"
            )
        history.recoveries += 1
        self._candidate = None
        return self.trusted


def lowered(learning_rate: float, recoveries: int) -> float:
    """The peak of the learning rate divided by 2 in the first recovery, by 4 more in the second, and so on."""
    return float(learning_rate / 2 ** (recoveries * (recoveries + 1) // 2))
