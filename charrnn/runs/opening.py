"""Open a training run in its folder: start a new one, or resume the one that is there."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from charrnn.config import BUDGETS, ModelOptions, TrainingConfig
from charrnn.errors import CharRNNError, OptionError, PrecisionError
from charrnn.files.atomic import remove_leftovers
from charrnn.machine.distributed import ALONE, Ranks, joined
from charrnn.machine.runtime import Runtime, find_device, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import VERSIONS, Checkpoint, CorpusIdentity
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.run import Run
from charrnn.runs.transfer import transfer
from charrnn.terminal import Notify, silence
from charrnn.text.corpus import Corpus, open_or_prepare
from charrnn.training.heuristics import (
    choose_layout,
    choose_shape,
    default_epochs,
    default_learning_rate,
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
    init_from: str | Path | None,
    seed: int | None,
    device: str,
    precision: str,
    data_dir: Path,
    checkpoint_dir: Path = Path("checkpoints"),
    notify: Notify = silence,
) -> Iterator[Run]:
    """Start or resume a run on a text, raw or prepared, and hold the lock of its folder.

    `given` are the options that were set explicitly, by their names. Raises: CharRNNError.
    """
    with joined(find_device(device)) as ranks, _held(folder, ranks) as folder:
        if ranks.size > 1 and ":" in device:
            raise OptionError(f"--device {device} is one GPU for {ranks.size} processes: say --device cuda")
        if ranks.is_first:
            remove_leftovers(folder.path)
            if folder.holds_run() and not (resuming or overwriting):
                raise CharRNNError(f"{folder.path} holds a run: --resume goes on with it, --overwrite starts again")
        runtime = source = None
        if is_new := ranks.share(lambda: not (resuming and folder.holds_run())):  # errors come before the text is read
            runtime = _open_runtime(device, precision, ranks)
            if init_from is not None:
                source = ranks.share(lambda: Checkpoint.load(find_checkpoint(init_from, checkpoint_dir)))
        corpus = _open_corpus(text, data_dir, ranks, may_replace=is_new)
        for note in corpus.notes:
            notify(note)
        if runtime is not None:
            yield start(folder, corpus, options, config, runtime, seed=seed, init_from=source, notify=notify)
            return
        if init_from is not None:
            notify(f"{folder.path} holds a run: --init-from is for new ones, and left out")
        yield resume(folder, corpus, given, device, ranks, notify=notify)


def _held(folder: RunFolder, ranks: Ranks) -> contextlib.AbstractContextManager[RunFolder]:
    """The folder, locked by the one process that writes to it."""
    return folder.locked() if ranks.is_first else contextlib.nullcontext(folder)


def _open_runtime(device: str, precision: str, ranks: Ranks, notify: Notify | None = None) -> Runtime:
    """The machine in the precision that rank 0 can have: with `notify`, the best there is in place of another.

    Raises: PrecisionError.
    """

    def find_precision() -> str:
        try:
            return open_runtime(device, precision).precision
        except PrecisionError:
            if notify is None:
                raise
        best = open_runtime(device).precision
        notify(f"{precision} is not available here: going on in {best}, maybe a little differently", warning=True)
        return best

    return open_runtime(device, ranks.share(find_precision), ranks=ranks)


def _open_corpus(text: str, data_dir: Path, ranks: Ranks, *, may_replace: bool) -> Corpus:
    """The corpus, prepared once on each machine. Raises: CharRNNError where machines have different texts."""
    opened: list[Corpus] = []

    def open_first() -> str:
        opened.append(open_or_prepare(text, data_dir, may_replace=may_replace))
        return str(opened[0].path)

    path = Path(ranks.share_on_machine("corpus", open_first))
    corpus = opened[0] if opened else Corpus.open(path)
    ranks.meet("corpus")
    if not ranks.share(lambda: CorpusIdentity.of(corpus)).fits(corpus):
        raise CharRNNError(f"{path} of process {ranks.rank} is another text than that of the first: copy that one")
    return corpus


def _diverge(ranks: Ranks, seed: int) -> None:
    """Let each process draw its own dropout from now on."""
    if not ranks.is_first:
        seed_everything(ranks.seed(seed))


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
    """A new run. Its shape is the given one, else that of `init_from`, else chosen. Raises: CharRNNError."""
    ranks = runtime.ranks
    seed = seed_everything(ranks.share(lambda: seed_everything(seed)))
    config = choose_layout(config, len(corpus.indices), runtime)
    text = TrainingText.split(corpus.indices, config, corpus.check, ranks.size).placed(runtime)
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config = replace(config, epochs=default_epochs(len(text.train)))
    if options.hidden_size is None and init_from is not None:
        shape = {each.name: getattr(init_from.model_config, each.name) for each in fields(ModelOptions)}
        options = ModelOptions(**{**shape, "dropout": options.dropout})
    is_open = options.hidden_size is None
    model_config = choose_shape(options, corpus.vocabulary.size, config, text, runtime)
    if is_open:
        notify(f"chose a layer of {model_config.hidden_size} units for text, budget and machine; --size takes another")
    learning_rate = config.learning_rate or default_learning_rate(model_config, text.layout.symbols_per_step)
    config = replace(config, learning_rate=learning_rate)
    seed_everything(seed)  # trials have drawn
    model = CharRNN(model_config)
    if init_from is not None:
        matched = transfer(init_from, model, corpus.vocabulary)
        notify(f"starting from other weights: matched {matched:,} of {corpus.vocabulary.size:,} symbols")
    trainer = Trainer(model, config, text, runtime)
    _diverge(ranks, seed)
    return Run(folder, corpus, trainer, seed)


def resume(
    folder: RunFolder,
    corpus: Corpus,
    given: Mapping[str, Any],
    device: str,
    ranks: Ranks = ALONE,
    *,
    notify: Notify = silence,
) -> Run:
    """The run in a folder, at its newest sound checkpoint.

    `given` are the options that were set explicitly: a budget and the like may differ from the run's own.
    Raises: CharRNNError for another corpus or another model.
    """
    checkpoint, unsound = ranks.share(folder.load_last)
    if not checkpoint.can_be_resumed:
        raise CharRNNError(
            f"the checkpoint in {folder.path} was written without the trainer's state (inspect --slim), so that it "
            "cannot go on: start another run with --init-from"
        )
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
    runtime = _open_runtime(device, given.get("precision", checkpoint.precision), ranks, notify)
    seed_everything(checkpoint.seed)
    layout = choose_layout(config, len(corpus.indices), runtime)
    text = TrainingText.split(corpus.indices, layout, corpus.check, ranks.size).placed(runtime)
    require_memory(checkpoint.model_config, text.layout, runtime)
    trainer = Trainer(CharRNN(checkpoint.model_config), config, text, runtime)
    if (config.minutes is None) != (checkpoint.training_config.minutes is None):
        checkpoint.snapshot.course.patience_lost_at = None  # it was counted in the other unit
    _diverge(ranks, checkpoint.seed)
    trainer.load(checkpoint.snapshot)
    if checkpoint.snapshot.num_ranks != ranks.size:
        notify(
            f"this run was trained in {checkpoint.snapshot.num_ranks} processes and goes on in {ranks.size}: "
            "dropout will be drawn differently"
        )
    for aside in folder.set_aside(unsound if ranks.is_first else ()):
        notify(f"the unsound checkpoint is kept as {aside}")
    notify(f"resuming {folder.path} at step {trainer.course.step:,}")
    if trainer.budget.is_over(trainer.now):
        lost = trainer.evaluations.have_lost_patience(trainer.course)
        ways = "--patience" if lost else "--epochs, --steps or --minutes"
        notify(f"this run is over: a larger {ways} would go on with it")
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=checkpoint.records)


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The run's config with the new values of options that are free to change. Raises: CharRNNError."""
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    for name, value in given.items():
        if name in own and name not in _FREE_TO_CHANGE and value != own[name]:
            # None of one-hot inputs is given as 0.
            asked, found = (0 if each is None else each for each in (value, own[name]))
            raise CharRNNError(
                f"--{name.replace('_', '-')} is {asked}, but the run in {folder.path} has {found}: "
                "leave the option out, or start another run with --run DIR"
            )
    changes = {name: value for name, value in given.items() if name in _FREE_TO_CHANGE}
    if not changes.keys().isdisjoint(BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    return replace(checkpoint.training_config, **changes)
