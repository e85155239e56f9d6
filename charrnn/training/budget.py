"""The share of a run that is spent, its end, and the learning rate that follows from both."""

import math
from dataclasses import dataclass

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError

_COOL_DOWN = 0.1  # of the run so far: duration of the fall of the learning rate where patience ends it early
_MAX_RESERVE = 0.9  # of a budget of time


@dataclass(frozen=True)
class Moment:
    """A moment of a run, as a budget sees it. `reserve_s` are the seconds kept for the final evaluation."""

    step: int
    elapsed_s: float
    reserve_s: float
    patience_lost_at: float | None


@dataclass(frozen=True)
class Budget:
    """Steps, or wall-clock seconds with all evaluations."""

    steps: int | None
    seconds: float = math.inf

    @classmethod
    def of(cls, config: TrainingConfig, steps_per_epoch: int) -> "Budget":
        """The budget that a config names. Raises: CharRNNError if it names none."""
        if config.epochs is not None:
            return cls(max(1, round(config.epochs * steps_per_epoch)))
        if config.steps is not None:
            return cls(config.steps)
        if config.minutes is None:
            raise CharRNNError("the training needs a budget: epochs, steps or minutes")
        return cls(None, 60 * config.minutes)

    def total(self, reserve_s: float) -> float:
        """Steps, or seconds without the reserve."""
        if self.steps is not None:
            return self.steps
        return max(self.seconds - reserve_s, (1 - _MAX_RESERVE) * self.seconds)

    def expected_steps(self, seconds_per_step: float) -> float:
        """Steps that the whole budget allows."""
        return self.steps if self.steps is not None else self.seconds / seconds_per_step

    def spent(self, now: Moment) -> float:
        """Steps taken, or seconds elapsed."""
        return now.step if self.steps is not None else now.elapsed_s

    def fraction(self, now: Moment) -> float:
        """The share that is spent, from 0 to 1."""
        return min(1.0, self.spent(now) / self.total(now.reserve_s))

    def is_over(self, now: Moment) -> bool:
        """True if the budget is spent, or the patience and the cool-down that follows it."""
        return self.fraction(now) >= self._cool_down(now)[1]

    def learning_rate(self, peak: float, warmup_steps: int, now: Moment) -> float:
        """A linear rise over the first steps (of a short run: its first tenth), times a cosine to zero at its end.

        Where patience was lost, a straight line leads to zero earlier.
        """
        fraction, (begin, end) = self.fraction(now), self._cool_down(now)
        warmup = min(1.0, max((now.step + 1) / (warmup_steps + 1), 10 * fraction))
        cool_down = 1.0 if begin >= end else min(1.0, (end - fraction) / (end - begin))
        return peak * warmup * cool_down * 0.5 * (1 + math.cos(math.pi * fraction))

    def _cool_down(self, now: Moment) -> tuple[float, float]:
        """The fractions at which patience was lost, or 1, and at which the run ends."""
        lost_at = now.patience_lost_at
        begin = 1.0 if lost_at is None else min(1.0, lost_at / self.total(now.reserve_s))
        return begin, min(1.0, (1 + _COOL_DOWN) * begin)
