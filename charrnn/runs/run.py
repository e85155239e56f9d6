"""Drive a training run from `start.py` or `resume.py`: save, report and sample between events."""

import contextlib
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from charrnn.config import RECOMMENDED_TEMPERATURE, SamplingConfig
from charrnn.errors import CharRNNError, CorpusChangedError, opt
from charrnn.files.schema import dump
from charrnn.machine.distributed import SINGLE_PROCESS
from charrnn.machine.probes import device_name
from charrnn.machine.runtime import Runtime
from charrnn.model.network import count_parameters
from charrnn.runs.checkpoint import VERSIONS, Checkpoint, CorpusIdentity
from charrnn.runs.folder import RunFolder
from charrnn.runs.reporting import MetricsLog, Reporter
from charrnn.runs.saving import Saver
from charrnn.sampling.generate import Sampler
from charrnn.terminal import readable
from charrnn.text.corpus import Corpus
from charrnn.training.events import Evaluated, Event, Finished, Sampled, Stepped
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
    is_new: bool = True  # until the folder holds a checkpoint of this run; it may hold another run, to be replaced
    num_records: int | None = 0  # of an existing log to keep; None for all
    log: MetricsLog | None = None
    reporters: Sequence[Reporter] = ()  # set by `drive`, the log among them
    origin: dict[str, Any] | None = None  # the run that the first weights came from
    command: Sequence[str] | None = None  # the command line that started the run

    def __post_init__(self) -> None:
        self._saved_at = self.trainer.clock.elapsed_s

    @property
    def runtime(self) -> Runtime:
        """The machine that the run trains on."""
        return self.trainer.bptt.runtime

    @property
    def definition(self) -> dict[str, Any]:
        """Everything that defines the run, as JSON values: the first record of its log."""
        runtime, corpus, model_config = self.runtime, self.corpus, self.trainer.bptt.model.config
        return {
            "command": None if self.command is None else list(self.command),
            "versions": {**VERSIONS, "python": platform.python_version()},
            "machine": {
                "device": str(runtime.device),
                "name": device_name(runtime.device),
                "system": f"{platform.system()} {platform.machine()}",
                "processes": runtime.ranks.size,
                "threads": torch.get_num_threads(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
            },
            "corpus": {
                "path": str(corpus.path.absolute()),
                "sources": list(corpus.sources),
                "source_digest": corpus.source_digest,
                "symbols": len(corpus.ids),
            },
            "preparation": dump(corpus.config),
            "model": {**dump(model_config), "parameters": count_parameters(model_config)},
            "training": {**dump(self.trainer.config), "precision": runtime.precision},
            "init_from": self.origin,
            "seed": self.seed,
        }

    def checkpoint(self) -> Checkpoint:
        """The run between two events. All processes have to call it."""
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

    def open_log(self) -> None:
        """The log up to this moment; `drive` writes it, for a new run with the first checkpoint."""
        chars_per_symbol = self.trainer.bptt.text.chars_per_symbol
        self.log = MetricsLog(self.folder.metrics, self.num_records, self.folder.guard, chars_per_symbol)
        self.log.define(self.definition)

    def drive(self, reporters: Sequence[Reporter]) -> Finished:
        """Train to the end; report events and save checkpoints.

        Raises: CharRNNError if a checkpoint cannot be written, if the loss stays absurd, or if the corpus was changed,
        after a save.
        """
        self.reporters = reporters if self.log is None else [self.log, *reporters]
        if not self.is_new:
            self._begin()
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
                    f"{self.trainer.progress.step:,}: prepare the same text again, and continue with {opt.resume(True)}"
                ) from error

    def _drive(self, saver: Saver) -> Finished:
        unsaved = self.is_new
        for event in self.trainer.run():
            saver.check()
            if isinstance(event, Finished):
                # Saved before `Finished` is logged, since a resumed run drops that record. A run without a step must
                # not overwrite another one, nor one that went back a newer checkpoint of its own.
                is_newest = event.step > 0 and (self.is_new or not self.trainer.is_behind)
                if unsaved and (is_newest or not self.runtime.ranks.broadcast(self.folder.holds_run)):
                    self._save(saver, best=False)
                saver.wait()
                self.runtime.ranks.barrier()  # whoever ends before is taken for lost
                self._report(event)
                return event
            self._report(event)
            unsaved = True
            # The checkpoint counts all records reported so far, so a resumed run repeats none.
            if self._sample_is_due(event) and self.runtime.ranks.is_first:
                with self.trainer.clock.paused(self.runtime):
                    self._report(self._sample(event))
            if self._save_is_due(event):
                with self.trainer.clock.paused(self.runtime):
                    self._save(saver, best=isinstance(event, Evaluated))
                unsaved = False
            self.trainer.saving_seconds = saver.seconds
        raise AssertionError("a run ends with Finished")

    def _begin(self) -> None:
        for reporter in self.reporters:
            reporter.begin()

    def _report(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter.report(event)

    def _save(self, saver: Saver, *, best: bool) -> None:
        self._saved_at = self.trainer.clock.elapsed_s
        checkpoint, ranks = self.checkpoint(), self.runtime.ranks
        if ranks.is_first and self.is_new:
            saver.begin(checkpoint, best=best, begin_log=self._begin)
        elif ranks.is_first:
            saver.save(checkpoint, best=best)
        self.is_new = False
        ranks.barrier()  # a slow disk may take long

    def _save_is_due(self, event: Event) -> bool:
        """True at regular steps or times, for the best model so far, and before the first evaluation takes memory."""
        if isinstance(event, Evaluated):
            return event.improved
        if self.is_new and self.trainer.evaluation_is_due:
            return self.trainer.recovery.is_sane(self.trainer.progress)
        if not isinstance(event, Stepped):
            return False
        if (every := self.trainer.config.checkpoint_every) is not None:
            return event.step % every == 0
        is_time = event.elapsed_s - self._saved_at >= _CHECKPOINT_SECONDS
        return is_time and self.trainer.recovery.is_sane(self.trainer.progress)

    def _sample_is_due(self, event: Event) -> bool:
        every = self.trainer.config.sample_every
        if every is None:
            return isinstance(event, Evaluated)
        return isinstance(event, Stepped) and event.step % every == 0

    def _sample(self, event: Event) -> Sampled:
        runtime = replace(self.runtime, dtype=torch.float32, ranks=SINGLE_PROCESS)
        model, seed = self.trainer.bptt.model, self.seed + event.step
        pieces = Sampler(model, self.corpus.tokenizer, SAMPLE, runtime).sample(seed=seed)
        text = readable("".join(piece.text for piece in pieces))
        return Sampled(**{each.name: getattr(event, each.name) for each in fields(Event)}, text=text)

    def close(self, reporters: Sequence[Reporter]) -> None:
        """Close the log and other reporters."""
        for reporter in (*reporters, *([] if self.log is None else [self.log])):
            reporter.close()

    def summary(self, finished: Finished) -> dict[str, Any]:
        """The last object of `--json`."""
        history, chars_per_symbol = self.trainer.history, self.trainer.bptt.text.chars_per_symbol
        best = history.best_val_loss if self.trainer.evaluations.are_validating else None
        predicted, tokenizer = self.trainer.bptt.text.val[1:], self.corpus.tokenizer
        num_bytes = tokenizer.count_bytes(predicted)
        bits = None if best is None else best / math.log(2)
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
            "bits_per_char": bits,
            "val_bytes": None if bits is None else num_bytes,
            "bits_per_byte": None if bits is None else bits * tokenizer.count_chars(predicted) / max(num_bytes, 1),
            "perplexity": None if best is None else math.exp(best * chars_per_symbol),
            "best_val_loss_per_symbol": None if best is None else best * chars_per_symbol,
            "chars_per_second": round(finished.chars_per_second),
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "seed": self.seed,
            "definition": self.definition if self.log is None else self.log.definition,
        }
