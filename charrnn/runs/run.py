"""Drive a training run: save, report and sample between the events of the trainer."""

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

_CHECKPOINT_SECONDS = 60.0  # between checkpoints, if `checkpoint_every` is not set
SAMPLE = SamplingConfig(length=200, temperature=RECOMMENDED_TEMPERATURE)
"""The options of samples during training."""


@dataclass
class Run:
    """A training run: its trainer, corpus and folder."""

    folder: RunFolder
    corpus: Corpus
    trainer: Trainer
    seed: int
    is_new: bool = True  # no checkpoint of this run is saved yet; the folder may contain a run to be replaced
    num_records: int | None = 0  # records of an existing log to keep; None for all
    log: MetricsLog | None = None
    reporters: Sequence[Reporter] = ()  # set by `drive`, including the log
    origin: dict[str, Any] | None = None  # the run that the initial weights come from
    command: Sequence[str] | None = None  # the command line that started the run

    def __post_init__(self) -> None:
        self._saved_at = self.trainer.clock.elapsed_s

    @property
    def runtime(self) -> Runtime:
        """The device and the precision of training."""
        return self.trainer.bptt.runtime

    @property
    def definition(self) -> dict[str, Any]:
        """The command, the machine and all options, as JSON values: the first record of the log."""
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
        """A checkpoint of the run between two events. All processes must call it together."""
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
        """Open the log; `drive` writes it, for a new run with the first checkpoint."""
        chars_per_symbol = self.trainer.bptt.text.chars_per_symbol
        self.log = MetricsLog(self.folder.metrics, self.num_records, self.folder.guard, chars_per_symbol)
        self.log.define(self.definition)

    def drive(self, reporters: Sequence[Reporter]) -> Finished:
        """Train to the end; report events and save checkpoints.

        Raises: CharRNNError if a checkpoint cannot be written, if the loss keeps exploding, or, after a save, if the
        corpus was changed.
        """
        self.reporters = reporters if self.log is None else [self.log, *reporters]
        if not self.is_new:
            self._start_reporters()
        with contextlib.closing(Saver(self.folder)) as saver:
            try:
                return self._drive(saver)
            except CorpusChangedError as error:
                if self.runtime.ranks.size > 1:
                    raise  # saving needs all processes, and the others may still be training
                self._save(saver, best=False)
                saver.wait()
                raise CharRNNError(
                    f"{self.corpus.path} was changed during training; the run is saved at step "
                    f"{self.trainer.progress.step:,}: prepare the same text again, and continue with {opt.resume(True)}"
                ) from error

    def _drive(self, saver: Saver) -> Finished:
        unsaved = self.is_new
        for event in self.trainer.run():
            saver.check()
            if isinstance(event, Finished):
                # The checkpoint is saved before `Finished` is logged, so that a resumed run drops this record. A run
                # without a step must not overwrite another run, and a rollback not a newer checkpoint.
                is_newest = event.step > 0 and (self.is_new or not self.trainer.was_rolled_back)
                if unsaved and (is_newest or not self.runtime.ranks.broadcast(self.folder.holds_run)):
                    self._save(saver, best=False)
                saver.wait()
                self.runtime.ranks.barrier()  # a process that exits before the others counts as lost
                self._report(event)
                return event
            self._report(event)
            unsaved = True
            # A checkpoint stores the number of records reported before it, so that a resumed run repeats none.
            if self._sample_is_due(event) and self.runtime.ranks.is_first:
                with self.trainer.clock.paused(self.runtime):
                    self._report(self._sample(event))
            if self._save_is_due(event):
                with self.trainer.clock.paused(self.runtime):
                    self._save(saver, best=isinstance(event, Evaluated))
                unsaved = False
            self.trainer.saving_seconds = saver.seconds
        raise AssertionError("a run ends with Finished")

    def _start_reporters(self) -> None:
        for reporter in self.reporters:
            reporter.start()

    def _report(self, event: Event) -> None:
        for reporter in self.reporters:
            reporter.report(event)

    def _save(self, saver: Saver, *, best: bool) -> None:
        self._saved_at = self.trainer.clock.elapsed_s
        checkpoint, ranks = self.checkpoint(), self.runtime.ranks
        if ranks.is_first and self.is_new:
            saver.save_first(checkpoint, best=best, start_log=self._start_reporters)
        elif ranks.is_first:
            saver.save(checkpoint, best=best)
        self.is_new = False
        ranks.barrier()  # the other processes wait here for a slow disk

    def _save_is_due(self, event: Event) -> bool:
        """True at regular steps or times, for the best model, and before the first evaluation, which takes memory."""
        if isinstance(event, Evaluated):
            return event.improved
        if self.is_new and self.trainer.evaluation_is_due:
            return self.trainer.recovery.loss_is_normal(self.trainer.progress)
        if not isinstance(event, Stepped):
            return False
        if (every := self.trainer.config.checkpoint_every) is not None:
            return event.step % every == 0
        is_time = event.elapsed_s - self._saved_at >= _CHECKPOINT_SECONDS
        return is_time and self.trainer.recovery.loss_is_normal(self.trainer.progress)

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
        """The result of the run, as printed by `--json`."""
        history, chars_per_symbol = self.trainer.history, self.trainer.bptt.text.chars_per_symbol
        best = history.best_val_loss if self.trainer.evaluations.has_validation_text else None
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
