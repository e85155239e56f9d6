"""The budget of a run: the fraction spent, the end, and the learning rate schedule."""

import math
from dataclasses import dataclass

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError

_COOL_DOWN = 0.1  # length of the cool-down after patience is lost, as a fraction of the run so far
_MAX_RESERVE = 0.9  # max fraction of a time budget reserved for the final evaluation


@dataclass(frozen=True)
class Moment:
    """The progress of a run against its budget; `reserve_s` are the seconds reserved for the final evaluation."""

    step: int
    elapsed_s: float
    reserve_s: float
    patience_lost_at: float | None


@dataclass(frozen=True)
class Budget:
    """A number of steps, or wall-clock seconds including evaluations."""

    steps: int | None
    seconds: float = math.inf

    @classmethod
    def of(cls, config: TrainingConfig, steps_per_epoch: int) -> "Budget":
        """The budget of a config. Raises: CharRNNError if none is set."""
        if config.epochs is not None:
            return cls(max(1, round(config.epochs * steps_per_epoch)))
        if config.steps is not None:
            return cls(config.steps)
        if config.minutes is None:
            raise CharRNNError("no budget: set epochs, steps or minutes")
        return cls(None, 60 * config.minutes)

    def total(self, reserve_s: float) -> float:
        """Total steps, or total seconds without the reserve."""
        if self.steps is not None:
            return self.steps
        return max(self.seconds - reserve_s, (1 - _MAX_RESERVE) * self.seconds)

    def expected_steps(self, seconds_per_step: float) -> float:
        """Number of steps in the whole budget."""
        return self.steps if self.steps is not None else self.seconds / seconds_per_step

    def spent(self, now: Moment) -> float:
        """Steps taken, or seconds elapsed."""
        return now.step if self.steps is not None else now.elapsed_s

    def fraction(self, now: Moment) -> float:
        """Fraction of the budget spent, from 0 to 1."""
        return min(1.0, self.spent(now) / self.total(now.reserve_s))

    def is_over(self, now: Moment) -> bool:
        """True if the budget is spent, or if the cool-down after lost patience has ended."""
        return self.fraction(now) >= self._cool_down(now)[1]

    def learning_rate(self, peak: float, warmup_steps: int, now: Moment) -> float:
        """Linear warm-up (at most a tenth of the run), times a cosine decay to zero at the end of the budget.

        After patience is lost, a linear cool-down to zero ends the run early.
        """
        fraction, (start, end) = self.fraction(now), self._cool_down(now)
        warmup = min(1.0, max((now.step + 1) / (warmup_steps + 1), 10 * fraction))
        cool_down = 1.0 if start >= end else min(1.0, (end - fraction) / (end - start))
        return peak * warmup * cool_down * 0.5 * (1 + math.cos(math.pi * fraction))

    def _cool_down(self, now: Moment) -> tuple[float, float]:
        """The fractions at which the cool-down starts (1 unless patience is lost) and ends."""
        lost_at = now.patience_lost_at
        start = 1.0 if lost_at is None else min(1.0, lost_at / self.total(now.reserve_s))
        return start, min(1.0, (1 + _COOL_DOWN) * start)
