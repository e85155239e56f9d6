"""Train a model to the end of a budget, as a stream of events.

The trainer knows neither files nor terminals: between two events its caller may save, report and sample. It joins the
steps of `bptt.py`, the end by `budget.py`, validation by `evaluation.py` and the way back by `recovery.py`.
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
from charrnn.training.recovery import ABSURD_LOSS, Recovery, lowered
from charrnn.training.snapshot import History, Progress, Snapshot
from charrnn.training.streams import TrainingText
from charrnn.training.timing import Clock


class Trainer:
    """Training of a model on a text, from the start of a budget to its end; `snapshot` is the whole state."""

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
        self.saving_seconds = 0.0  # of the last save, which ran beside the training; set by the caller
        self.stop_requested = False  # of this process
        self.is_behind = False  # True after a stop at an exploded loss, which restored the trusted snapshot
        self.recovery = Recovery(self.bptt, config, self.learning_rate)

    def run(self) -> Iterator[Event]:
        """Train to the end of the budget; the run may be saved, reported and sampled between two events.

        Raises: CharRNNError if the loss stays absurd at ever lower learning rates, CorpusChangedError.
        """
        self.evaluations.begin(self.history)
        self.clock.start()
        self.recovery.begin(self._copy())
        self.bptt.model.train()
        while not self._agree_on_stop():
            if self.evaluation_is_due:
                yield from self._evaluate()
            elif self._is_over():
                break
            else:
                stepped, due = self._step(), self.evaluation_is_due
                is_sane = self.recovery.check_and_keep(self.progress, self._copy, before_evaluation=due)
                yield stepped if is_sane else self._recover(self.bptt.text.per_char(self.recovery.loss))
        is_stopped = self._agree_on_stop()
        if is_stopped and not self.recovery.is_sane(self.progress):
            # A run that resumes there repeats the steps in between, and ends as if it had not been stopped.
            self._go_to(self.recovery.trusted)
            self.is_behind = True
        reason = "stopped" if is_stopped else "budget" if self.fraction == 1 else "patience"
        where = self._where()
        yield Finished(**where, reason=reason, chars_per_second=self.clock.rate(where["chars"]))

    def request_stop(self) -> None:
        """End the run after the step, or in the evaluation, that is under way."""
        self.stop_requested = True

    def _agree_on_stop(self) -> bool:
        """True if a stop is requested, in whichever process; all take the same time from now on."""
        return self.clock.agree(self.bptt.runtime.ranks, stop=self.stop_requested)

    def snapshot(self) -> Snapshot:
        """The state between two events; copy its tensors before the next step. All processes have to call it."""
        history = replace(self.history, elapsed_s=self.clock.elapsed_s, paused_seconds=self.clock.paused_s)
        return Snapshot(self.bptt.tensors(), self.bptt.cursor, self.bptt.scaler_state(), self.progress, history)

    def load(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot; patience and budget may have grown. Raises: CharRNNError if it does not fit."""
        self._go_to(snapshot)
        self.history = replace(snapshot.history)
        self.clock = Clock(self.history.elapsed_s, self.history.paused_seconds)
        if not self.evaluations.have_lost_patience(self.progress):
            self.progress.patience_lost_at = None
        self.progress.evaluated_fraction = min(self.progress.evaluated_fraction, self.fraction)

    def _step(self) -> Stepped:
        peak = lowered(self.learning_rate, self.history.recoveries)
        learning_rate = self.budget.learning_rate(peak, self.config.warmup_steps, self.now)
        self.bptt.step(learning_rate)
        self.progress.step += 1
        where, loss = self._where(), self.bptt.text.per_char(self.bptt.mean_loss)
        rate = self.clock.rate(where["chars"])
        return Stepped(**where, train_loss=loss, learning_rate=learning_rate, chars_per_second=rate)

    def _evaluate(self) -> Iterator[Evaluated | Recovered]:
        """Evaluate once; yields nothing if a stop is requested meanwhile."""
        begin = time.perf_counter()
        with self.clock.paused(self.bptt.runtime):
            result = self.evaluations.measure(self.history, self.clock, self._agree_on_stop, self._is_over)
        if result is None:
            return
        if not result.part_loss < ABSURD_LOSS:
            yield self._recover(result.part_loss)
            return
        self.evaluations.record(result, self.progress, self.history, self.now)
        reported = time.perf_counter()
        loss, val_chars = result.score.loss, self.bptt.text.count_chars(result.score.num_predictions) or None
        part_loss = None if result.part_loss == loss else result.part_loss
        where = self._where() | {"is_whole": result.is_whole, "improved": result.improved}
        yield Evaluated(**where, loss=loss, val_chars=val_chars, part_loss=part_loss)
        ended = time.perf_counter() + self.saving_seconds
        durations = self.bptt.runtime.ranks.broadcast(lambda: (ended - begin, ended - reported))
        self.evaluations.record_duration(*durations, self.history, is_final=self._is_over())
        self.progress.evaluated_fraction = self.fraction  # of a budget that now reserves another part

    def _recover(self, loss: float) -> Recovered:
        """Go back from this loss per character to the trusted snapshot. Raises: CharRNNError."""
        self._go_to(self.recovery.go_back(loss, self.progress, self.history))
        return Recovered(**self._where(), loss=loss, learning_rate=lowered(self.learning_rate, self.history.recoveries))

    def _go_to(self, snapshot: Snapshot) -> None:
        self.bptt.load(snapshot.tensors, snapshot.cursor, snapshot.gradient_scaler)
        self.progress = replace(snapshot.progress)

    def _copy(self) -> Snapshot:
        return self.snapshot().copy()

    @property
    def now(self) -> Moment:
        """This moment, as the budget sees it."""
        reserve_s = self.history.final_evaluation_seconds
        return Moment(self.progress.step, self.clock.elapsed_s, reserve_s, self.progress.patience_lost_at)

    @property
    def fraction(self) -> float:
        """The share of the budget that is spent, from 0 to 1."""
        return self.budget.fraction(self.now)

    def _is_over(self) -> bool:
        return self.budget.is_over(self.now)

    @property
    def evaluation_is_due(self) -> bool:
        """True if the next event will be an evaluation, unless a stop is requested."""
        return self.evaluations.are_due(self.progress, self.history, self.now)

    def _where(self) -> dict[str, Any]:
        """The fields that all events share."""
        step, elapsed_s = self.progress.step, self.clock.elapsed_s
        epoch = step / self.layout.num_chunks
        chars = self.bptt.text.count_chars(step * self.layout.symbols_per_step)
        return {"step": step, "epoch": epoch, "chars": chars, "elapsed_s": elapsed_s, "fraction": self.fraction}
