"""Open a training run in its folder: start a new one, or resume the one that is there."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from charrnn.config import BUDGETS, ModelOptions, TrainingConfig
from charrnn.errors import CharRNNError, PrecisionError
from charrnn.files.atomic import remove_leftovers
from charrnn.machine.runtime import Runtime, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import VERSIONS, Checkpoint
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.run import Run
from charrnn.runs.transfer import transfer
from charrnn.terminal import Notify, silence
from charrnn.text.corpus import Corpus, open_or_prepare
from charrnn.training.heuristics import (
    choose_layout,
    choose_learning_rate,
    choose_shape,
    default_epochs,
    require_memory,
)
from charrnn.training.streams import TrainingText
from charrnn.training.trainer import Trainer

_FREE_TO_CHANGE = {*BUDGETS, "eval_every", "patience", "checkpoint_every", "sample_every"}
"""Options that a resumed run may be given anew; all others are those it began with."""


@contextlib.contextmanager
def opened(
    folder: RunFolder,
    text: str,
    options: ModelOptions,
    config: TrainingConfig,
    given: Mapping[str, Any],
    *,
    resuming: bool,
    overwriting: bool,
    init_from: Path | None,
    seed: int | None,
    device: str,
    precision: str,
    data_dir: Path,
    checkpoint_dir: Path,
    notify: Notify = silence,
) -> Iterator[Run]:
    """Start or resume a run on a text, raw or prepared, and hold the lock of its folder.

    `given` are the options that were set explicitly, by their names. Raises: CharRNNError.
    """
    with folder.locked() as folder:
        remove_leftovers(folder.path)
        if folder.holds_run() and not (resuming or overwriting):
            ways = "--resume goes on with it, --overwrite starts again, --run DIR starts another"
            raise CharRNNError(f"{folder.path} holds a run: {ways}")
        runtime = source = None
        if is_new := not (resuming and folder.holds_run()):  # errors come before the text is read
            runtime = open_runtime(device, precision)
            if init_from is not None:
                path = find_checkpoint(init_from, checkpoint_dir)
                source = Checkpoint.load(path)
                remedy = "leave the option out, or start without --init-from"
                _require_own(given, _shape(source), f"the model in {path}", remedy)
        corpus = open_or_prepare(text, data_dir, may_replace=is_new)
        for note in corpus.notes:
            notify(note)
        if runtime is not None:
            yield start(folder, corpus, options, config, runtime, seed=seed, init_from=source, notify=notify)
            return
        if init_from is not None:
            notify(f"{folder.path} holds a run: --init-from is for new ones, and left out")
        yield resume(folder, corpus, given, device, notify=notify)


def start(
    folder: RunFolder,
    corpus: Corpus,
    options: ModelOptions,
    config: TrainingConfig,
    runtime: Runtime,
    *,
    seed: int | None = None,
    init_from: Checkpoint | None = None,
    notify: Notify = silence,
) -> Run:
    """A new run. Its shape is that of `init_from`, else the given one, else chosen. Raises: CharRNNError."""
    seed = seed_everything(seed)
    config = choose_layout(config, len(corpus.indices), runtime)
    text = TrainingText.split(corpus.indices, config, corpus.check).placed(runtime)
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config = replace(config, epochs=default_epochs(len(text.train)))
    if init_from is not None:
        options = replace(options, **_shape(init_from))
    is_open = options.hidden_size is None
    num_chars_before = 0 if init_from is None else init_from.num_chars_trained
    model_config = choose_shape(options, corpus.vocabulary.size, config, text, runtime, num_chars_before)
    if is_open:
        notify(f"chose a layer of {model_config.hidden_size} units for text, budget and machine; --size takes another")
    learning_rate = choose_learning_rate(model_config, config, text, runtime, is_warm=init_from is not None)
    if init_from is not None and config.learning_rate is None:
        notify(
            f"chose a learning rate of {learning_rate:.3g} for weights that have learned; --learning-rate takes another"
        )
    config = replace(config, learning_rate=learning_rate)
    seed_everything(seed)  # trials have drawn
    model = CharRNN(model_config)
    if init_from is not None:
        matched = transfer(init_from, model, corpus.vocabulary)
        notify(f"starting from other weights: matched {matched:,} of {corpus.vocabulary.size:,} symbols")
    return Run(folder, corpus, Trainer(model, config, text, runtime), seed)


def _shape(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of a model's shape, with which weights can be taken over; dropout is none of them."""
    config = checkpoint.model_config
    return {each.name: getattr(config, each.name) for each in fields(ModelOptions) if each.name != "dropout"}


def resume(
    folder: RunFolder, corpus: Corpus, given: Mapping[str, Any], device: str, *, notify: Notify = silence
) -> Run:
    """The run in a folder, at its newest sound checkpoint.

    `given` are the options that were set explicitly: a budget and the like may differ from the run's own.
    Raises: CharRNNError for another corpus or another model.
    """
    checkpoint, unsound = folder.load_last()
    for reason in unsound.values():
        notify(f"{reason}; going back to the checkpoint before it", warning=True)
    if checkpoint.versions != VERSIONS:
        by, now = (f"charrnn {of['charrnn']} with PyTorch {of['torch']}" for of in (checkpoint.versions, VERSIONS))
        notify(f"this run was written by {by}, and this is {now}: it may go on a little differently", warning=True)
    if not checkpoint.corpus.fits(corpus):
        raise CharRNNError(
            f"the run in {folder.path} was trained on another text or another preparation of it, then at "
            f"{checkpoint.corpus.path}: resume with that one, or start another run with --run DIR"
        )
    config = _changed(checkpoint, given, folder)
    runtime = _reopen_runtime(device, given.get("precision", checkpoint.precision), notify)
    seed_everything(checkpoint.seed)
    text = TrainingText.split(corpus.indices, choose_layout(config, len(corpus.indices), runtime), corpus.check)
    require_memory(checkpoint.model_config, text.layout, runtime)
    trainer = Trainer(CharRNN(checkpoint.model_config), config, text, runtime)
    if (config.minutes is None) != (checkpoint.training_config.minutes is None):
        checkpoint.snapshot.course.patience_lost_at = None  # it was counted in the other unit
    trainer.load(checkpoint.snapshot)
    for aside in folder.set_aside(unsound):
        notify(f"the unsound checkpoint is kept as {aside}")
    notify(f"resuming {folder.path} at step {trainer.course.step:,}")
    if trainer.budget.is_over(trainer.now):
        lost = trainer.evaluations.have_lost_patience(trainer.course)
        ways = "--patience" if lost else "--epochs, --steps or --minutes"
        notify(f"this run is over: a larger {ways} would go on with it")
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=checkpoint.records)


def _reopen_runtime(device: str, precision: str, notify: Notify) -> Runtime:
    """The machine in a run's own precision, or in the best that this one has, with a warning."""
    try:
        return open_runtime(device, precision)
    except PrecisionError:
        runtime = open_runtime(device)
        notify(
            f"{precision} is not available here: going on in {runtime.precision}, maybe a little differently",
            warning=True,
        )
        return runtime


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The run's config with the new values of options that are free to change. Raises: CharRNNError."""
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    fixed = {name: value for name, value in own.items() if name not in _FREE_TO_CHANGE}
    _require_own(given, fixed, f"the run in {folder.path}", "leave the option out, or start another run with --run DIR")
    changes = {name: value for name, value in given.items() if name in _FREE_TO_CHANGE}
    if not changes.keys().isdisjoint(BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    return replace(checkpoint.training_config, **changes)


def _require_own(given: Mapping[str, Any], own: Mapping[str, Any], owner: str, remedy: str) -> None:
    """Check that no option was given another value than its owner's own. Raises: CharRNNError."""
    for name, value in given.items():
        if name in own and value != own[name]:
            # None of one-hot inputs is given as 0.
            asked, found = (0 if each is None else each for each in (value, own[name]))
            raise CharRNNError(f"--{name.replace('_', '-')} is {asked}, but {owner} has {found}: {remedy}")
