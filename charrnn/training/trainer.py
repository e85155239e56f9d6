"""Train a model to the end of a budget, as a stream of events.

The trainer is independent of files and of the terminal: between two events its caller may save, report and sample. It
combines the steps of `bptt.py`, the schedule of `budget.py`, `evaluation.py`, and the rollback of `recovery.py`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from charrnn.config import TrainingConfig
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.budget import Budget, Moment
from charrnn.training.evaluation import Evaluations
from charrnn.training.events import Evaluated, Event, Finished, Recovered, Stepped
from charrnn.training.heuristics import default_learning_rate
from charrnn.training.recovery import MAX_VAL_LOSS, Recovery, reduced_learning_rate
from charrnn.training.snapshot import History, Progress, Snapshot
from charrnn.training.streams import TrainingText
from charrnn.training.timing import Clock


class Trainer:
    """Train a model on a text until the budget is spent; `snapshot` returns the whole state."""

    def __init__(self, model: CharRNN, config: TrainingConfig, text: TrainingText, runtime: Runtime) -> None:
        self.config, self.layout = config, text.layout
        self.learning_rate = config.learning_rate or default_learning_rate(
            model.config, config.optimizer, self.layout.symbols_per_step
        )
        self.bptt = TruncatedBPTT(model, config, text, runtime)
        self.budget = Budget.of(config, self.layout.num_chunks)
        self.evaluations = Evaluations(self.bptt, config, self.budget)
        self.progress, self.history = Progress(lowest_loss=math.log(model.config.vocab_size)), History()
        self.clock = Clock()
        self.saving_seconds = 0.0  # duration of the last save in the background; set by the caller
        self.stop_requested = False  # in this process
        self.was_rolled_back = False  # True if the run was stopped while its loss was exploding
        self.recovery = Recovery(self.bptt, config, self.learning_rate)

    def run(self) -> Iterator[Event]:
        """Train to the end of the budget; the caller may save, report and sample between two events.

        Raises: CharRNNError if the loss keeps exploding at lower learning rates, CorpusChangedError.
        """
        self.evaluations.start(self.history)
        self.clock.start()
        self.recovery.start(self._copy())
        self.bptt.model.train()
        while not self._agree_on_stop():
            if self.evaluation_is_due:
                yield from self._evaluate()
            elif self._is_over():
                break
            else:
                stepped, due = self._step(), self.evaluation_is_due
                is_normal = self.recovery.check(self.progress, self._copy, before_evaluation=due)
                yield stepped if is_normal else self._recover(self.bptt.text.per_char(self.recovery.loss))
        is_stopped = self._agree_on_stop()
        if is_stopped and not self.recovery.loss_is_normal(self.progress):
            # A resumed run repeats the steps after the last good snapshot, and ends like an uninterrupted run.
            self._restore(self.recovery.last_good)
            self.was_rolled_back = True
        reason = "stopped" if is_stopped else "budget" if self.fraction == 1 else "patience"
        position = self._position()
        yield Finished(**position, reason=reason, chars_per_second=self.clock.rate(position["chars"]))

    def request_stop(self) -> None:
        """Stop after the current step, or during the current evaluation."""
        self.stop_requested = True

    def _agree_on_stop(self) -> bool:
        """True if any process has received a stop request; also synchronises the clocks."""
        return self.clock.agree(self.bptt.runtime.ranks, stop=self.stop_requested)

    def snapshot(self) -> Snapshot:
        """The state between two events; copy its tensors before the next step. All processes must call it together."""
        history = replace(self.history, elapsed_s=self.clock.elapsed_s, paused_seconds=self.clock.paused_s)
        return Snapshot(self.bptt.tensors(), self.bptt.cursor, self.bptt.scaler_state(), self.progress, history)

    def load(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot; patience and budget may be larger now. Raises: CharRNNError on a mismatch."""
        self._restore(snapshot)
        self.history = replace(snapshot.history)
        self.clock = Clock(self.history.elapsed_s, self.history.paused_seconds)
        if not self.evaluations.has_lost_patience(self.progress):
            self.progress.patience_lost_at = None
        self.progress.evaluated_fraction = min(self.progress.evaluated_fraction, self.fraction)

    def _step(self) -> Stepped:
        peak = reduced_learning_rate(self.learning_rate, self.history.recoveries)
        learning_rate = self.budget.learning_rate(peak, self.config.warmup_steps, self.now)
        self.bptt.step(learning_rate)
        self.progress.step += 1
        position, loss = self._position(), self.bptt.text.per_char(self.bptt.mean_loss)
        rate = self.clock.rate(position["chars"])
        return Stepped(**position, train_loss=loss, learning_rate=learning_rate, chars_per_second=rate)

    def _evaluate(self) -> Iterator[Evaluated | Recovered]:
        """Evaluate once; yields nothing if a stop is requested meanwhile."""
        start = time.perf_counter()
        with self.clock.paused(self.bptt.runtime):
            result = self.evaluations.measure(self.history, self.clock, self._agree_on_stop, self._is_over)
        if result is None:
            return
        if not result.part_loss < MAX_VAL_LOSS:
            yield self._recover(result.part_loss)
            return
        self.evaluations.record(result, self.progress, self.history, self.now)
        measured = time.perf_counter()
        loss, val_chars = result.score.loss, self.bptt.text.count_chars(result.score.num_predictions) or None
        part_loss = None if result.part_loss == loss else result.part_loss
        fields = self._position() | {"is_whole": result.is_whole, "improved": result.improved}
        yield Evaluated(**fields, loss=loss, val_chars=val_chars, part_loss=part_loss)
        ended = time.perf_counter() + self.saving_seconds
        durations = self.bptt.runtime.ranks.broadcast(lambda: (ended - start, ended - measured))
        self.evaluations.record_duration(*durations, self.history, is_final=self._is_over())
        self.progress.evaluated_fraction = self.fraction  # the reserve has changed

    def _recover(self, loss: float) -> Recovered:
        """Restore the last good snapshot after a loss per character of `loss`. Raises: CharRNNError."""
        self._restore(self.recovery.roll_back(loss, self.progress, self.history))
        learning_rate = reduced_learning_rate(self.learning_rate, self.history.recoveries)
        return Recovered(**self._position(), loss=loss, learning_rate=learning_rate)

    def _restore(self, snapshot: Snapshot) -> None:
        self.bptt.load(snapshot.tensors, snapshot.cursor, snapshot.gradient_scaler)
        self.progress = replace(snapshot.progress)

    def _copy(self) -> Snapshot:
        return self.snapshot().copy()

    @property
    def now(self) -> Moment:
        """The progress of the run against its budget."""
        reserve_s = self.history.final_evaluation_seconds
        return Moment(self.progress.step, self.clock.elapsed_s, reserve_s, self.progress.patience_lost_at)

    @property
    def fraction(self) -> float:
        """Fraction of the budget spent, from 0 to 1."""
        return self.budget.fraction(self.now)

    def _is_over(self) -> bool:
        return self.budget.is_over(self.now)

    @property
    def evaluation_is_due(self) -> bool:
        """True if the next event is an evaluation, unless a stop is requested."""
        return self.evaluations.is_due(self.progress, self.history, self.now)

    def _position(self) -> dict[str, Any]:
        """The fields that all events have."""
        step, elapsed_s = self.progress.step, self.clock.elapsed_s
        epoch = step / self.layout.num_chunks
        chars = self.bptt.text.count_chars(step * self.layout.symbols_per_step)
        return {"step": step, "epoch": epoch, "chars": chars, "elapsed_s": elapsed_s, "fraction": self.fraction}
