"""A training run in its folder: started or resumed, driven to its end, saved and reported between events."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from charrnn.config import BUDGETS, ModelConfig, SamplingConfig, TrainingConfig
from charrnn.errors import CharRNNError, CorpusChangedError, PrecisionError
from charrnn.machine.runtime import Runtime, open_runtime, seed_everything
from charrnn.model.network import CharRNN, count_parameters
from charrnn.model.scoring import max_logits
from charrnn.runs.checkpoint import VERSIONS, Checkpoint, CorpusIdentity
from charrnn.runs.folder import RunFolder
from charrnn.runs.reporting import MetricsLog, Reporter
from charrnn.runs.saving import Saver
from charrnn.runs.transfer import transfer
from charrnn.sampling.sampler import sample
from charrnn.terminal import format_seconds
from charrnn.text.corpus import Corpus
from charrnn.training.events import Evaluated, Event, Finished, Progress, Sampled
from charrnn.training.heuristics import (
    HIDDEN_SIZES,
    MAX_PARAMETERS_PER_CHAR,
    default_dropout,
    default_epochs,
    default_learning_rate,
    default_model,
)
from charrnn.training.streams import Layout
from charrnn.training.trainer import Trainer, lay_out

Notify = Callable[[str], None]
_FREE_TO_CHANGE = {*BUDGETS, "eval_every", "patience", "checkpoint_every", "sample_every"}
"""Options that a resumed run may be given anew; all others are those it began with."""
_MIN_PARAMETERS_PER_CHAR = 1 / 50  # that is read
_SAMPLE = SamplingConfig(length=200, temperature=0.7)


@dataclass
class Run:
    """A trainer with all that its checkpoints need to be told."""

    folder: RunFolder
    corpus: Corpus
    trainer: Trainer
    seed: int
    is_new: bool = True
    """True as long as the folder holds no checkpoint of this run; it may hold another run, to be replaced."""
    num_records: int | None = 0
    """How much of the log belongs to the moment at which the run begins or goes on; None for all of it."""
    log: MetricsLog | None = None

    @property
    def runtime(self) -> Runtime:
        """The machine that the run trains on."""
        return self.trainer.runtime

    def checkpoint(self) -> Checkpoint:
        """The run as it stands, between two events."""
        tensors, counters = self.trainer.state_dict()
        return Checkpoint(
            model_config=self.trainer.model.config,
            training_config=self.trainer.config,
            vocabulary=self.corpus.vocabulary,
            corpus=CorpusIdentity.of(self.corpus),
            seed=self.seed,
            precision=self.runtime.precision,
            weights=self.trainer.model.state_dict(),
            trainer_tensors=tensors,
            counters=counters | {"records": None if self.log is None else self.log.num_records},
        )

    def open_log(self) -> MetricsLog:
        """The log, as far as this run has come; `drive` writes it, that of a new run with its first checkpoint."""
        self.log = MetricsLog(self.folder.metrics, self.num_records, self.folder.guard)
        if not self.is_new:
            self.log.begin()
        return self.log

    def drive(self, reporters: Sequence[Reporter]) -> Finished:
        """Train to the end, telling the reporters and saving on the way.

        Raises: CharRNNError if a checkpoint cannot be written, the loss stays absurd, or the corpus was changed; the
        run is saved then.
        """
        if self.log is not None:
            reporters = [self.log, *reporters]
        with contextlib.closing(Saver(self.folder)) as saver:
            try:
                return self._drive(reporters, saver)
            except (CorpusChangedError, IndexError) as error:  # by a symbol that the vocabulary does not have
                self._save(saver, best=False)
                saver.wait()
                raise CharRNNError(
                    f"{self.corpus.path} was changed during the training, which is saved as it stood at step "
                    f"{self.trainer.step:,}: prepare the same text again, and go on with --resume"
                ) from error

    def _drive(self, reporters: Sequence[Reporter], saver: Saver) -> Finished:
        unsaved = self.is_new
        for event in self.trainer.run():
            saver.check()
            if isinstance(event, Finished):
                # Without the record of an end that a resumed run will not have had; no step replaces no other run.
                if unsaved and (event.step > 0 or not self.folder.holds_run()):
                    self._save(saver, best=False)
                saver.wait()
                _tell(reporters, event)
                return event
            _tell(reporters, event)
            unsaved = True
            # What is saved knows of all that was told, so that a resumed run tells nothing twice.
            if self._sample_is_due(event):
                with self.trainer.paused():
                    _tell(reporters, self._sample(event))
            if self._save_is_due(event):
                with self.trainer.paused():
                    self._save(saver, best=isinstance(event, Evaluated))
                unsaved = False
            self.trainer.saving_seconds = saver.seconds
        raise AssertionError("a run ends with Finished")

    def _save(self, saver: Saver, *, best: bool) -> None:
        if not self.is_new:
            saver.save(self.checkpoint(), best=best)
            return
        saver.begin(self.checkpoint(), best=best, begin_log=None if self.log is None else self.log.begin)
        self.is_new = False

    def _save_is_due(self, event: Event) -> bool:
        """True at regular steps, for the best model so far, and before the first evaluation, which takes memory."""
        if isinstance(event, Evaluated):
            return event.improved
        if self.is_new and self.trainer.evaluation_is_due:
            return self.trainer.is_sane
        return isinstance(event, Progress) and event.step % self.trainer.config.checkpoint_every == 0

    def _sample_is_due(self, event: Event) -> bool:
        every = self.trainer.config.sample_every
        if every is None:
            return isinstance(event, Evaluated)
        return isinstance(event, Progress) and event.step % every == 0

    def _sample(self, event: Event) -> Sampled:
        pieces = sample(
            self.trainer.model,
            self.corpus.vocabulary,
            _SAMPLE,
            seed=self.seed + event.step,
            runtime=open_runtime(str(self.runtime.device), "float32"),
        )
        text = "".join(piece.text for piece in pieces)
        return Sampled(event.step, event.epoch, event.chars, event.elapsed_s, event.fraction, text)

    def describe(self) -> list[str]:
        """What is about to be trained, on what, and how long it will take: three lines, and what else is worth one."""
        trainer, model = self.trainer, self.trainer.model
        train, val = self.corpus.split(trainer.config.val_fraction)
        lines = [
            f"model: {model.config.num_layers} x {model.config.hidden_size} {model.config.cell.upper()}, dropout "
            f"{model.config.dropout or 0:g}, {model.num_parameters:,} parameters; corpus: {len(train):,} characters to "
            f"train, {len(val):,} to validate, {self.corpus.vocabulary.size:,} symbols",
            f"device: {self.runtime.device}, {self.runtime.precision}; learning rate {trainer.learning_rate:.3g}, "
            f"seed {self.seed}",
            self._describe_budget(),
        ]
        epochs = trainer.estimate_epochs(trainer.estimate_seconds_per_step())
        lines += _advise(model.num_parameters, model.config.hidden_size, len(train), epochs)
        layout, config = trainer.layout, trainer.config
        if (layout.batch_size, layout.seq_length) != (config.batch_size, config.seq_length):
            lines.append(
                f"the corpus is small: {layout.batch_size} streams of chunks of {layout.seq_length} characters "
                f"instead of {config.batch_size} of {config.seq_length}"
            )
        if not trainer.validates and config.val_fraction > 0:
            lines.append("the corpus is too short to hold out a validation part: the training loss decides")
        return lines

    def _describe_budget(self) -> str:
        trainer = self.trainer
        seconds = trainer.estimate_seconds_per_step()
        epochs = trainer.estimate_epochs(seconds)
        rate = f"about {trainer.chars_per_step / seconds:,.0f} characters/s"
        if trainer.total_steps is None:
            steps = epochs * trainer.steps_per_epoch
            return f"budget: {trainer.config.minutes:g} minutes; {epochs:,.3g} epochs, {steps:,.0f} steps at {rate}"
        left = trainer.total_steps - trainer.step
        return (
            f"budget: {epochs:,.3g} epochs, {trainer.total_steps:,} steps; {left:,} to go, "
            f"about {format_seconds(left * seconds)} at {rate}, evaluations not counted"
        )

    def summary(self, finished: Finished) -> dict[str, Any]:
        """The object that `--json` ends with."""
        best = self.trainer.best_val_loss if self.trainer.validates else None
        return {
            "run": str(self.folder.path),
            "checkpoint": str(self.folder.best if self.folder.best.exists() else self.folder.last),
            "steps": finished.step,
            "epochs": round(finished.epoch, 4),
            "chars": finished.chars,
            "elapsed_s": round(self.trainer.elapsed_s, 3),
            "best_val_loss": best,
            "val_chars": None if best is None else self.trainer.best_val_chars,
            "bits_per_char": None if best is None else best / math.log(2),
            "chars_per_second": round(finished.chars_per_second),
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "seed": self.seed,
        }


def _advise(num_parameters: int, hidden_size: int, num_chars: int, epochs: float) -> list[str]:
    """A warning where a model is far too large for its text, or too small for what it reads of it."""
    if num_parameters > MAX_PARAMETERS_PER_CHAR * num_chars:
        fitting = _fitting_hidden_size(num_chars)
        way_out = f"try --hidden-size {fitting} or find more text" if fitting < hidden_size else "find more text"
        return [f"warning: {num_parameters:,} parameters are far too many for {num_chars:,} characters: {way_out}"]
    if num_parameters < _MIN_PARAMETERS_PER_CHAR * num_chars * min(epochs, 1.0):
        way_out = "try --size large or a larger --hidden-size"
        return [f"warning: {num_parameters:,} parameters are far too few for {num_chars:,} characters: {way_out}"]
    return []


def _fitting_hidden_size(num_chars: int) -> int:
    """One layer of an LSTM with some parameters for each character, as few as 32 units."""
    return max(32, int(math.sqrt(MAX_PARAMETERS_PER_CHAR / 2 * num_chars / 4)) // 32 * 32)


def start(
    folder: RunFolder,
    corpus: Corpus,
    shape: Mapping[str, Any],
    config: TrainingConfig,
    runtime: Runtime,
    *,
    seed: int | None = None,
    init_from: Checkpoint | None = None,
    notify: Notify = lambda message: None,
) -> Run:
    """A new run of a model of this shape, a ModelConfig's fields but for the vocabulary's size.

    Without a hidden size the shape is that of `init_from`, or chosen from the budget.
    """
    seed = seed_everything(seed)
    train, val = corpus.split(config.val_fraction)
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config = replace(config, epochs=default_epochs(len(train)))
    config = replace(config, batch_size=config.batch_size or runtime.training_streams)
    layout = lay_out(len(train), config, runtime)
    if "hidden_size" not in shape and init_from is not None:
        shape = {**asdict(init_from.model_config), "dropout": shape.get("dropout")}
    model_config = _complete({**shape, "vocab_size": corpus.vocabulary.size}, config, layout, train, runtime)
    if "hidden_size" not in shape:
        notify(f"chose a layer of {model_config.hidden_size} units for this budget and machine; --size takes another")
    if config.learning_rate is None:
        chars_per_step = layout.batch_size * layout.seq_length
        config = replace(config, learning_rate=default_learning_rate(model_config, chars_per_step))
    seed_everything(seed)  # trials have drawn
    model = CharRNN(model_config)
    if init_from is not None:
        matched = transfer(init_from, model, corpus.vocabulary)
        notify(f"starting from other weights: matched {matched:,} of {corpus.vocabulary.size:,} symbols")
    return Run(folder, corpus, Trainer(model, config, train, val, runtime, corpus.check), seed)


def _complete(
    shape: Mapping[str, Any], config: TrainingConfig, layout: Layout, train: Tensor, runtime: Runtime
) -> ModelConfig:
    """The model's config, its width and dropout chosen where they are open. Raises: CharRNNError for lack of memory."""

    @functools.cache
    def expect_epochs(model: ModelConfig) -> float:
        return _expect_epochs(model, config, layout, train, runtime)

    if "hidden_size" in shape:
        model = ModelConfig(**shape)
    else:
        models = [ModelConfig(**{**shape, "hidden_size": hidden_size}) for hidden_size in HIDDEN_SIZES]
        fitting = [model for model in models if _lacking_memory(model, layout, runtime) is None]
        model = default_model(
            fitting or models[-1:], len(train), lambda model: expect_epochs(model) * len(train), count_parameters
        )
    _require_memory(model, layout, runtime)
    if model.dropout is not None:
        return model
    return replace(model, dropout=default_dropout(count_parameters(model), len(train), expect_epochs(model)))


def _require_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> None:
    """Raises: CharRNNError where training cannot fit, before the system ends the process for it."""
    if (lacking := _lacking_memory(model, layout, runtime)) is not None:
        raise CharRNNError(f"{lacking}: lower --batch-size, --seq-length, --hidden-size or --num-layers")


def _lacking_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> str | None:
    """A sentence about the memory that training needs and does not find, or None."""
    # Weights, gradients and two moments; what the run may go back to, twice, and what is being saved, without the
    # gradients; two outputs of each layer, and the logits of a step, or in float32 those of an evaluation, three times.
    copies = 4 + 3 * (2 + (runtime.device.type == "cpu"))
    symbols = layout.batch_size * layout.seq_length
    outputs = 2 * model.num_layers * model.hidden_size * runtime.dtype.itemsize + 4 * model.vocab_size
    activations = max(symbols * outputs, 12 * max_logits(model.vocab_size))
    needed, free = 4 * copies * count_parameters(model) + activations, runtime.free_memory()
    if free is None or needed <= free:
        return None
    return (
        f"out of memory: the training needs at least {needed / 1e9:,.1f} GB, and {runtime.device} has "
        f"{free / 1e9:,.1f} GB left"
    )


def _expect_epochs(
    model_config: ModelConfig, config: TrainingConfig, layout: Layout, train: Tensor, runtime: Runtime
) -> float:
    """Passes over the text that the budget allows, on this machine if it is one of time."""
    if config.epochs is not None:
        return config.epochs
    if config.steps is not None:
        return config.steps / layout.num_chunks
    trial = Trainer(CharRNN(model_config), config, train, train[:0], runtime)
    return trial.estimate_epochs(trial.estimate_seconds_per_step())


def resume(
    folder: RunFolder,
    corpus: Corpus,
    given: Mapping[str, Any],
    device: str,
    *,
    notify: Notify = lambda message: None,
) -> Run:
    """The run in a folder, where its newest sound checkpoint stood.

    `given` are the options that were set explicitly: a budget and the like may differ from the run's own.
    Raises: CharRNNError for another corpus or another model.
    """
    checkpoint, unsound = folder.load_last()
    for reason in unsound.values():
        notify(f"warning: {reason}; going back to the checkpoint before it")
    if checkpoint.versions != VERSIONS:
        by, now = (f"charrnn {of['charrnn']} with PyTorch {of['torch']}" for of in (checkpoint.versions, VERSIONS))
        notify(f"warning: this run was written by {by}, and this is {now}: it may go on a little differently")
    if not checkpoint.corpus.fits(corpus):
        raise CharRNNError(
            f"the run in {folder.path} was trained on another text or another preparation of it, then at "
            f"{checkpoint.corpus.path}: resume with that one, or start another run with --run DIR"
        )
    config = _changed(checkpoint, given, folder)
    runtime = _reopen_runtime(device, given.get("precision", checkpoint.precision), notify)
    seed_everything(checkpoint.seed)
    train, val = corpus.split(config.val_fraction)
    layout = lay_out(len(train), config, runtime)
    _require_memory(checkpoint.model_config, layout, runtime)
    trainer = Trainer(checkpoint.build_model(), config, train, val, runtime, corpus.check)
    counters = dict(checkpoint.counters)
    if _is_timed(config) != _is_timed(checkpoint.training_config):
        counters["patience_lost_at"] = None  # which was counted in steps, or in seconds
    trainer.load_state_dict(dict(checkpoint.trainer_tensors), counters)
    for aside in folder.set_aside(unsound):
        notify(f"the unsound checkpoint is kept as {aside}")
    notify(f"resuming {folder.path} at step {trainer.step:,}")
    if trainer.is_over:
        ways = "--patience" if trainer.has_lost_patience else "--epochs, --steps or --minutes"
        notify(f"this run is over: a larger {ways} would go on with it")
    records = checkpoint.counters.get("records")
    num_records = records if isinstance(records, int) and records >= 0 else None
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=num_records)


def _is_timed(config: TrainingConfig) -> bool:
    return config.minutes is not None


def _reopen_runtime(device: str, precision: str, notify: Notify) -> Runtime:
    """The machine in a run's own precision, or in the best that this one has, which is told."""
    try:
        return open_runtime(device, precision)
    except PrecisionError:
        runtime = open_runtime(device)
        notify(f"warning: {precision} cannot be had here: going on in {runtime.precision}, maybe a little differently")
        return runtime


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The run's config with the new values of options that are free to change. Raises: CharRNNError."""
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    for name, value in given.items():
        if name in own and name not in _FREE_TO_CHANGE and value != own[name]:
            raise CharRNNError(
                f"--{name.replace('_', '-')} is {value}, but the run in {folder.path} has {own[name]}: "
                "leave the option out, or start another run with --run DIR"
            )
    changes = {name: value for name, value in given.items() if name in _FREE_TO_CHANGE}
    if not changes.keys().isdisjoint(BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    return replace(checkpoint.training_config, **changes)


def _tell(reporters: Iterable[Reporter], event: Event) -> None:
    for reporter in reporters:
        reporter.report(event)
