"""Evaluation during training: its schedule, the part of the validation text it reads, its time limit, and patience."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from charrnn.config import MAX_EVALUATIONS, TrainingConfig
from charrnn.model.scoring import Part, Score, evaluate
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.budget import Budget, Moment
from charrnn.training.snapshot import History, Progress
from charrnn.training.timing import Clock, seconds_per_step

EVALUATION_FRACTION = 0.04  # max fraction of a run for all evaluations except the final one
FINAL_FRACTION = 0.05  # max fraction of a run for the final evaluation
EVALUATION_COST = 0.25  # cost of evaluating a symbol relative to training on it
_MIN_EVALUATIONS = 4  # per budget


@dataclass(frozen=True)
class Result:
    """The loss on the part that all evaluations read, for comparison, and the score to report; nats per character."""

    part_loss: float
    score: Score
    is_whole: bool
    improved: bool


class Evaluations:
    """The evaluations of a run. All read the same part of the validation text, so their losses are comparable.

    The final evaluation reads more if the budget allows it. Without validation text the training loss is used.
    """

    def __init__(self, bptt: TruncatedBPTT, config: TrainingConfig, budget: Budget) -> None:
        self._bptt, self._text, self._config, self._budget = bptt, bptt.text, config, budget
        self._symbols_per_step = bptt.layout.symbols_per_step
        self._seconds_per_symbol, self._follow_up_seconds = 0.0, 0.0

    @property
    def has_validation_text(self) -> bool:
        """True if there is validation text."""
        return len(self._text.val) >= 2

    @property
    def num_predictions(self) -> int:
        """Number of predictions in the validation text."""
        return max(len(self._text.val) - 1, 0)

    @property
    def num_chars(self) -> int:
        """Number of characters of these predictions, by the mean length of a symbol."""
        return self._text.count_chars(self.num_predictions)

    def start(self, history: History) -> None:
        """Choose the part to read, unless the run has one, and reserve time for the final evaluation."""
        if self._budget.steps is None and self.has_validation_text:
            self._seconds_per_symbol = EVALUATION_COST * seconds_per_step(self._bptt) / self._symbols_per_step
        if history.part is None:
            history.part = self._largest_part(EVALUATION_FRACTION / _MIN_EVALUATIONS)
            history.evaluation_seconds = self._num_symbols(history.part) * self._seconds_per_symbol
            self._reserve(history)
        else:
            history.part = history.part.bounded(self._bptt.model.config.vocab_size)

    def is_due(self, progress: Progress, history: History, now: Moment) -> bool:
        """True if the next event is an evaluation."""
        if progress.evaluated_step == progress.step:
            return False
        if self._budget.is_over(now):
            return True
        if self._config.eval_every is not None:
            return progress.step % self._config.eval_every == 0
        count, last = self._max_evaluations(history), progress.evaluated_fraction
        fraction = self._budget.fraction(now)
        is_far_enough = fraction - last > 0.5 / count  # the count may fall once the cost is measured
        return is_far_enough and int(fraction * count) > int(last * count)

    def measure(
        self, history: History, clock: Clock, should_stop: Callable[[], bool], is_over: Callable[[], bool]
    ) -> Result | None:
        """Evaluate the model. Returns: None if `should_stop` interrupted it. Raises: CorpusChangedError."""
        final_part, start = self._largest_part(FINAL_FRACTION), time.perf_counter()
        score = self._read(history.part, should_stop)
        seconds = self._bptt.runtime.ranks.broadcast(lambda: time.perf_counter() - start)
        self._seconds_per_symbol = seconds / max(self._num_symbols(history.part), 1)
        part_loss, best = score.loss, history.best_part_loss
        improved = math.isfinite(part_loss) and (best is None or part_loss < best)
        if improved and final_part != history.part and is_over():
            end = self._budget.seconds - self._follow_up_seconds
            more = self._read(final_part, should_stop, lambda: clock.elapsed_s > end)
            if more.num_predictions > score.num_predictions:  # otherwise the time was up
                score = more
        is_whole = score.num_predictions == self.num_predictions
        return None if should_stop() else Result(part_loss, score, is_whole, improved)

    def record(self, result: Result, progress: Progress, history: History, now: Moment) -> None:
        """Store the best loss, and count evaluations without improvement."""
        if result.improved:
            history.best_part_loss, history.best_val_loss = result.part_loss, result.score.loss
            history.best_val_chars = self._text.count_chars(result.score.num_predictions)
        if progress.patience_lost_at is None:
            progress.stale_evaluations = 0 if result.improved else progress.stale_evaluations + 1
            if self.has_lost_patience(progress):
                progress.patience_lost_at = self._budget.spent(now)
        progress.evaluated_step, progress.evaluated_fraction = progress.step, self._budget.fraction(now)

    def record_duration(self, seconds: float, follow_up_seconds: float, history: History, *, is_final: bool) -> None:
        """Store the measured duration; `follow_up_seconds` of it are for the sample and the checkpoint."""
        history.evaluation_seconds, self._follow_up_seconds = seconds, follow_up_seconds
        # The reserve must not fall after the final evaluation, otherwise a spent budget would have time left again.
        self._reserve(history, at_least=history.final_evaluation_seconds if is_final else 0.0)

    def has_lost_patience(self, progress: Progress) -> bool:
        """True after `patience` evaluations without improvement."""
        return self._config.patience is not None and progress.stale_evaluations >= self._config.patience

    def _max_evaluations(self, history: History) -> int:
        """Number of evaluations in the budget; fewer if they would take too much of it."""
        if self._budget.steps is not None:
            total = float(self._budget.steps * self._symbols_per_step)
            cost = EVALUATION_COST * self._num_symbols(history.part)
        else:
            total, cost = self._budget.total(history.final_evaluation_seconds), history.evaluation_seconds
        return max(_MIN_EVALUATIONS, min(MAX_EVALUATIONS, int(EVALUATION_FRACTION * total / max(cost, 1e-9))))

    def _largest_part(self, fraction: float) -> Part:
        """The largest part of the validation text that can be read in this fraction of the run."""
        if self._budget.steps is not None:
            max_symbols = fraction * self._budget.steps * self._symbols_per_step / EVALUATION_COST
        else:
            max_symbols = fraction * self._budget.seconds / max(self._seconds_per_symbol, 1e-12)
        return Part.fit(len(self._text.val), self._bptt.model.config.vocab_size, max_symbols)

    def _num_symbols(self, part: Part | None) -> int:
        return 0 if part is None else part.count(len(self._text.val))

    def _reserve(self, history: History, at_least: float = 0.0) -> None:
        """Reserve time for the final evaluation: the duration of an ordinary one plus that of its additional text."""
        final_part = self._largest_part(FINAL_FRACTION)
        more = 0 if final_part == history.part else self._num_symbols(final_part)
        seconds = history.evaluation_seconds + more * self._seconds_per_symbol
        history.final_evaluation_seconds = max(seconds, at_least)

    def _read(
        self, part: Part | None, should_stop: Callable[[], bool], is_time_up: Callable[[], bool] = lambda: False
    ) -> Score:
        """The loss on a part of the validation text, or the running training loss if there is none."""
        if not self.has_validation_text:
            return Score(self._text.per_char(float(self._bptt.mean_loss)), 0)
        with self._text.checking_file():
            score = evaluate(
                self._bptt.model,
                self._text.val,
                self._bptt.runtime,
                part,
                before_chunk=self._text.check,
                should_stop=should_stop,
                is_time_up=is_time_up,
            )
        return replace(score, loss=self._text.per_char(score.loss))
