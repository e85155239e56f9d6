"""Validation during training: when it is due, what part of the text it reads, how long it may take, and patience."""

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

EVALUATION_SHARE = 0.04  # max share of a run for all evaluations but the final one
FINAL_SHARE = 0.05  # max share of a run for the final one
EVALUATION_COST = 0.25  # cost of evaluating a symbol, in symbols of training
_MIN_EVALUATIONS = 4  # that are spaced over a budget


@dataclass(frozen=True)
class Result:
    """The loss on the part that each evaluation reads, which decides, and the score to report; nats per character."""

    part_loss: float
    score: Score
    is_whole: bool
    improved: bool


class Evaluations:
    """The evaluations of one run, which read the same part of the validation text each time.

    The final one reads more, as far as the budget allows. Without validation text the running training loss decides.
    """

    def __init__(self, bptt: TruncatedBPTT, config: TrainingConfig, budget: Budget) -> None:
        self._bptt, self._text, self._config, self._budget = bptt, bptt.text, config, budget
        self._symbols_per_step = bptt.layout.symbols_per_step
        self._seconds_per_symbol, self._follow_up_seconds = 0.0, 0.0

    @property
    def are_validating(self) -> bool:
        """True if there is validation text."""
        return len(self._text.val) >= 2

    @property
    def num_predictions(self) -> int:
        """Symbols of the validation text that a loss can be measured on."""
        return max(len(self._text.val) - 1, 0)

    @property
    def num_chars(self) -> int:
        """Mean number of characters of these."""
        return self._text.count_chars(self.num_predictions)

    def begin(self, history: History) -> None:
        """Choose the part that each evaluation reads, unless the run has one, and reserve time for the final one."""
        if self._budget.steps is None and self.are_validating:
            self._seconds_per_symbol = EVALUATION_COST * seconds_per_step(self._bptt) / self._symbols_per_step
        if history.part is None:
            history.part = self._afford(EVALUATION_SHARE / _MIN_EVALUATIONS)
            history.evaluation_seconds = self._num_symbols(history.part) * self._seconds_per_symbol
            self._reserve(history)
        else:
            history.part = history.part.bounded(self._bptt.model.config.vocab_size)

    def are_due(self, progress: Progress, history: History, now: Moment) -> bool:
        """True if the next event is an evaluation."""
        if progress.evaluated_step == progress.step:
            return False
        if self._budget.is_over(now):
            return True
        if self._config.eval_every is not None:
            return progress.step % self._config.eval_every == 0
        count, before = self._max_evaluations(history), progress.evaluated_fraction
        fraction = self._budget.fraction(now)
        is_apart = fraction - before > 0.5 / count  # the count falls as the cost becomes known
        return is_apart and int(fraction * count) > int(before * count)

    def measure(
        self, history: History, clock: Clock, should_stop: Callable[[], bool], is_over: Callable[[], bool]
    ) -> Result | None:
        """Evaluate the model as it is. Returns: None where `should_stop` cut it short. Raises: CorpusChangedError."""
        final_part, begin = self._afford(FINAL_SHARE), time.perf_counter()
        score = self._read(history.part, should_stop)
        seconds = self._bptt.runtime.ranks.broadcast(lambda: time.perf_counter() - begin)
        self._seconds_per_symbol = seconds / max(self._num_symbols(history.part), 1)
        part_loss, best = score.loss, history.best_part_loss
        improved = math.isfinite(part_loss) and (best is None or part_loss < best)
        if improved and final_part != history.part and is_over():
            end = self._budget.seconds - self._follow_up_seconds
            more = self._read(final_part, should_stop, lambda: clock.elapsed_s > end)
            if more.num_predictions > score.num_predictions:  # there was time for it
                score = more
        is_whole = score.num_predictions == self.num_predictions
        return None if should_stop() else Result(part_loss, score, is_whole, improved)

    def record(self, result: Result, progress: Progress, history: History, now: Moment) -> None:
        """Remember the best loss, and count evaluations without progress."""
        if result.improved:
            history.best_part_loss, history.best_val_loss = result.part_loss, result.score.loss
            history.best_val_chars = self._text.count_chars(result.score.num_predictions)
        if progress.patience_lost_at is None:
            progress.stale_evaluations = 0 if result.improved else progress.stale_evaluations + 1
            if self.have_lost_patience(progress):
                progress.patience_lost_at = self._budget.spent(now)
        progress.evaluated_step, progress.evaluated_fraction = progress.step, self._budget.fraction(now)

    def record_duration(self, seconds: float, follow_up_seconds: float, history: History, *, is_final: bool) -> None:
        """Plan with the measured duration; `follow_up_seconds` of it went to the sample and the checkpoint."""
        history.evaluation_seconds, self._follow_up_seconds = seconds, follow_up_seconds
        # After the final evaluation the reserve does not fall: a budget that was spent stays spent.
        self._reserve(history, at_least=history.final_evaluation_seconds if is_final else 0.0)

    def have_lost_patience(self, progress: Progress) -> bool:
        """True after as many evaluations without progress as the patience allows."""
        return self._config.patience is not None and progress.stale_evaluations >= self._config.patience

    def _max_evaluations(self, history: History) -> int:
        """Evaluations that are spaced over the budget, fewer where they would take too much of it."""
        if self._budget.steps is not None:
            total = float(self._budget.steps * self._symbols_per_step)
            cost = EVALUATION_COST * self._num_symbols(history.part)
        else:
            total, cost = self._budget.total(history.final_evaluation_seconds), history.evaluation_seconds
        return max(_MIN_EVALUATIONS, min(MAX_EVALUATIONS, int(EVALUATION_SHARE * total / max(cost, 1e-9))))

    def _afford(self, share: float) -> Part:
        """The largest part of the validation text that is read in this share of the run."""
        if self._budget.steps is not None:
            max_symbols = share * self._budget.steps * self._symbols_per_step / EVALUATION_COST
        else:
            max_symbols = share * self._budget.seconds / max(self._seconds_per_symbol, 1e-12)
        return Part.fit(len(self._text.val), self._bptt.model.config.vocab_size, max_symbols)

    def _num_symbols(self, part: Part | None) -> int:
        return 0 if part is None else part.count(len(self._text.val))

    def _reserve(self, history: History, at_least: float = 0.0) -> None:
        """Reserve for the final evaluation the duration of any other, and of the text that it reads beyond those."""
        final_part = self._afford(FINAL_SHARE)
        more = 0 if final_part == history.part else self._num_symbols(final_part)
        seconds = history.evaluation_seconds + more * self._seconds_per_symbol
        history.final_evaluation_seconds = max(seconds, at_least)

    def _read(
        self, part: Part | None, should_stop: Callable[[], bool], is_time_up: Callable[[], bool] = lambda: False
    ) -> Score:
        """The loss on a part of the validation text, or else the running training loss."""
        if not self.are_validating:
            return Score(self._text.per_char(float(self._bptt.mean_loss)), 0)
        with self._text.watched():
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
