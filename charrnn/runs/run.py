"""Drive a training run: save, report and sample between two events. Made in `start.py` or `resume.py`."""

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from charrnn.config import RECOMMENDED_TEMPERATURE, SamplingConfig
from charrnn.errors import CharRNNError, CorpusChangedError, opt
from charrnn.machine.distributed import ALONE
from charrnn.machine.runtime import Runtime
from charrnn.runs.checkpoint import Checkpoint, CorpusIdentity
from charrnn.runs.definition import define
from charrnn.runs.folder import RunFolder
from charrnn.runs.reporting import MetricsLog, Reporter
from charrnn.runs.saving import Saver
from charrnn.sampling.generate import Sampler
from charrnn.terminal import readable
from charrnn.text.corpus import Corpus
from charrnn.training.events import Evaluated, Event, Finished, Progress, Sampled
from charrnn.training.trainer import Trainer

_CHECKPOINT_SECONDS = 60.0
SAMPLE = SamplingConfig(length=200, temperature=RECOMMENDED_TEMPERATURE)
"""The sample at an evaluation."""


@dataclass
class Run:
    """A training run: its trainer, corpus and folder."""

    folder: RunFolder
    corpus: Corpus
    trainer: Trainer
    seed: int
    is_new: bool = True
    """True as long as the folder holds no checkpoint of this run; it may hold another run, to be replaced."""
    num_records: int | None = 0
    """Records of the log up to the moment at which the run begins or goes on; None for all of it."""
    log: MetricsLog | None = None
    reporters: Sequence[Reporter] = ()
    """The recipients of the run's events as it is driven, the log among them."""
    origin: dict[str, Any] | None = None
    """The run that its first weights came from, if any; see `definition.origin_of`."""
    command: Sequence[str] | None = None
    """The command line that began it, if any."""

    def __post_init__(self) -> None:
        self._saved_at = self.trainer.clock.elapsed_s

    @property
    def _chars_per_symbol(self) -> float:
        return self.trainer.bptt.text.chars_per_symbol

    @property
    def runtime(self) -> Runtime:
        """The machine that the run trains on."""
        return self.trainer.bptt.runtime

    @property
    def definition(self) -> dict[str, Any]:
        """Everything that defines the run, as JSON values."""
        model_config, config = self.trainer.bptt.model.config, self.trainer.config
        return define(self.corpus, model_config, config, self.seed, self.runtime, self.origin, self.command)

    def checkpoint(self) -> Checkpoint:
        """The run as it stands, between two events. All processes have to call it."""
        return Checkpoint(
            model_config=self.trainer.bptt.model.config,
            training_config=self.trainer.config,
            tokenizer=self.corpus.tokenizer,
            corpus=CorpusIdentity.of(self.corpus),
            seed=self.seed,
            precision=self.runtime.precision,
            snapshot=self.trainer.snapshot(),
            records=None if self.log is None else self.log.num_records,
            written=round(time.time(), 3),
        )

    def open_log(self) -> MetricsLog:
        """The log, as far as this run has come; `drive` writes it, that of a new run with its first checkpoint."""
        self.log = MetricsLog(self.folder.metrics, self.num_records, self.folder.guard, self._chars_per_symbol)
        self.log.define(self.definition)
        if not self.is_new:
            self.log.begin()
        return self.log

    def drive(self, reporters: Sequence[Reporter]) -> Finished:
        """Train to the end, telling the reporters and saving on the way.

        Raises: CharRNNError if a checkpoint cannot be written, the loss stays absurd, or the corpus was changed; the
        run is saved then.
        """
        if not self.is_new:
            _begin(reporters)
        self.reporters = reporters if self.log is None else [self.log, *reporters]
        with contextlib.closing(Saver(self.folder)) as saver:
            try:
                return self._drive(saver)
            except CorpusChangedError as error:
                if self.runtime.ranks.size > 1:
                    raise  # to save takes all processes, and the others may go on
                self._save(saver, best=False)
                saver.wait()
                raise CharRNNError(
                    f"{self.corpus.path} was changed during the training, which is saved as it stood at step "
                    f"{self.trainer.course.step:,}: prepare the same text again, and continue with {opt.resume(True)}"
                ) from error

    def _drive(self, saver: Saver) -> Finished:
        unsaved = self.is_new
        for event in self.trainer.run():
            saver.check()
            if isinstance(event, Finished):
                # Saved before `Finished` is logged, since a resumed run drops that record. A run without a step must
                # not overwrite another one, nor one that went back a newer checkpoint of its own.
                is_newest = event.step > 0 and (self.is_new or not self.trainer.is_behind)
                if unsaved and (is_newest or not self.runtime.ranks.share(self.folder.holds_run)):
                    self._save(saver, best=False)
                saver.wait()
                self.runtime.ranks.meet("the end")  # whoever ends before is taken for lost
                self._tell(event)
                return event
            self._tell(event)
            unsaved = True
            # The checkpoint counts all records reported so far, so a resumed run repeats none.
            if self._sample_is_due(event) and self.runtime.ranks.is_first:
                with self.trainer.clock.paused(self.runtime):
                    self._tell(self._sample(event))
            if self._save_is_due(event):
                with self.trainer.clock.paused(self.runtime):
                    self._save(saver, best=isinstance(event, Evaluated))
                unsaved = False
            self.trainer.saving_seconds = saver.seconds
        raise AssertionError("a run ends with Finished")

    def _tell(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter.report(event)

    def _save(self, saver: Saver, *, best: bool) -> None:
        self._saved_at = self.trainer.clock.elapsed_s
        checkpoint, is_first_save, self.is_new = self.checkpoint(), self.is_new, False  # which all processes give to
        ranks = self.runtime.ranks
        if ranks.is_first and is_first_save:
            saver.begin(checkpoint, best=best, begin_log=lambda: _begin(self.reporters))
        elif ranks.is_first:
            saver.save(checkpoint, best=best)
        ranks.meet("a checkpoint")  # which a slow disk may hold up

    def _save_is_due(self, event: Event) -> bool:
        """True at regular steps or times, for the best model so far, and before an evaluation takes memory."""
        if isinstance(event, Evaluated):
            return event.improved
        if self.is_new and self.trainer.evaluation_is_due:
            return self.trainer.recovery.is_sane(self.trainer.course)
        if not isinstance(event, Progress):
            return False
        if (every := self.trainer.config.checkpoint_every) is not None:
            return event.step % every == 0
        is_time = event.elapsed_s - self._saved_at >= _CHECKPOINT_SECONDS
        return is_time and self.trainer.recovery.is_sane(self.trainer.course)

    def _sample_is_due(self, event: Event) -> bool:
        every = self.trainer.config.sample_every
        if every is None:
            return isinstance(event, Evaluated)
        return isinstance(event, Progress) and event.step % every == 0

    def _sample(self, event: Event) -> Sampled:
        runtime = replace(self.runtime, dtype=torch.float32, ranks=ALONE)
        model, seed = self.trainer.bptt.model, self.seed + event.step
        pieces = Sampler(model, self.corpus.tokenizer, SAMPLE, runtime).sample(seed=seed)
        text = readable("".join(piece.text for piece in pieces))
        return Sampled(**{each.name: getattr(event, each.name) for each in fields(Event)}, text=text)

    def summary(self, finished: Finished) -> dict[str, Any]:
        """The object that `--json` ends with."""
        history = self.trainer.history
        best = history.best_val_loss if self.trainer.evaluations.are_validating else None
        return {
            "run": str(self.folder.path),
            "checkpoint": str(self.folder.best if self.folder.best.exists() else self.folder.last),
            "reason": finished.reason,
            "steps": finished.step,
            "epochs": round(finished.epoch, 4),
            "chars": finished.chars,
            "elapsed_s": round(self.trainer.clock.elapsed_s, 3),
            "best_val_loss": best,
            "val_chars": None if best is None else history.best_val_chars,
            "bits_per_char": None if best is None else best / math.log(2),
            "best_val_loss_per_symbol": None if best is None else best * self._chars_per_symbol,
            "chars_per_second": round(finished.chars_per_second),
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "seed": self.seed,
            "definition": self.definition if self.log is None else self.log.definition,
        }


def _begin(reporters: Iterable[Reporter]) -> None:
    for reporter in reporters:
        reporter.begin()
