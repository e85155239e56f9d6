"""Open a training run in its folder: start a new one, or resume the one that is there."""

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from charrnn.config import BUDGETS, SIZES, ModelOptions, PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError, PrecisionError, opt
from charrnn.files import container
from charrnn.files.atomic import remove_leftovers
from charrnn.machine.distributed import ALONE, Ranks, joined
from charrnn.machine.runtime import Runtime, draw_seed, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import KIND, VERSIONS, Checkpoint, CorpusIdentity, Header
from charrnn.runs.definition import origin_of
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.listing import read_newest_header
from charrnn.runs.run import Run
from charrnn.runs.transfer import transfer
from charrnn.terminal import Notify, count_of, silence
from charrnn.text.cache import TextArgument
from charrnn.text.corpus import Corpus
from charrnn.training.heuristics import (
    choose_layout,
    choose_learning_rate,
    choose_shape,
    default_epochs,
    require_memory,
)
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.trainer import Trainer

_FREE_TO_CHANGE = {*BUDGETS, "eval_every", "patience", "checkpoint_every", "sample_every"}
"""Options that a resumed run may be given anew; all others are those it began with."""


@contextlib.contextmanager
def opened(
    folder: RunFolder,
    text: TextArgument,
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
    checkpoint_dir: Path,
    preparation: PreparationConfig,
    notify: Notify = silence,
) -> Iterator[Run]:
    """Start or resume a run on a text, and hold the lock of its folder.

    `given` are the options that were set explicitly, by name. `preparation` is for raw text of a new run; a resumed run
    has its own. Raises: CharRNNError.
    """
    with joined(device) as ranks, folder.locked() if ranks.is_first else contextlib.nullcontext(folder) as folder:
        before = ranks.share(
            lambda: _find_run(folder, text, given, checkpoint_dir, resuming=resuming, overwriting=overwriting)
        )
        runtime = source = None
        if before is None:  # errors come before the text is read
            runtime = _open_runtime(device, precision, ranks)
            if "embedding_size" not in given:
                options = replace(options, embedding_size=runtime.embedding_size)
            if init_from is not None:
                source = ranks.share(lambda: _load_source(init_from, checkpoint_dir, given))
                if "optimizer" not in given:
                    config = replace(config, optimizer="adamw")  # 0.005 to 0.02 nats lower here than Muon
            corpus = _open_corpus(lambda: text.open(preparation, given), ranks)
        else:
            corpus = _open_corpus(lambda: text.open(before.config, vars(before.config)), ranks)
        corpus.report(notify)
        if runtime is not None:
            yield start(folder, corpus, options, config, runtime, seed=seed, init_from=source, notify=notify)
            return
        if init_from is not None:
            notify(f"{folder.path} holds a run: {opt.init_from} is for new runs and is ignored")
        yield resume(folder, corpus, given, device, ranks, notify=notify)


def _find_run(
    folder: RunFolder,
    text: TextArgument,
    given: Mapping[str, Any],
    checkpoint_dir: Path,
    *,
    resuming: bool,
    overwriting: bool,
) -> CorpusIdentity | None:
    """The corpus of the run to resume; None for a new run.

    Raises: CharRNNError if the folder holds a run that may not be replaced, or was trained on another text.
    """
    _require_text(text.argument, checkpoint_dir)
    remove_leftovers(folder.path)
    if overwriting or not folder.holds_run():
        return None
    try:
        corpus = read_newest_header(folder).corpus
    except CharRNNError as error:
        raise CharRNNError(f"{error}; {opt.overwrite(True)} starts the run again") from error
    is_same_text = corpus.source_digest == text.digest
    another = f"{opt.run('DIR')} starts another, with {opt.init_from(folder.path)} from its weights"
    ways = f"{another}; {opt.overwrite(True)} replaces it"
    if not resuming:
        which = (
            f"; {opt.resume(True)} continues it"
            if is_same_text
            else f" on another text or an older version, {corpus.path}"
        )
        raise CharRNNError(f"{folder.path} holds a run{which}; {ways}")
    if not is_same_text:
        raise CharRNNError(
            f"the run in {folder.path} was trained on another text or an older version of {text.argument}: "
            f"{opt.resume(True)} with {corpus.path} continues it; {ways}"
        )
    remedy = f"leave the option out, or start another run with {opt.run('DIR')}"
    _require_own(given, vars(corpus.config), f"the run in {folder.path}", remedy)
    return corpus


def _require_text(text: str, checkpoint_dir: Path) -> None:
    """Raises: CharRNNError where a run or a checkpoint stands in a text's place, with what was meant perhaps."""
    path = Path(text)
    if container.is_stored(path):
        what, is_run = "a checkpoint, not a corpus", container.kind_of(path) == KIND
    elif path.is_dir():
        what, is_run = "a run, not a text", RunFolder(path).holds_run() and not any(path.glob("*.txt"))
    else:
        what, is_run = "a run, not a text", not path.exists() and RunFolder(checkpoint_dir / path).holds_run()
    if is_run:
        checkpoint = find_checkpoint(path, checkpoint_dir)
        corpus = shlex.quote(Header.read(checkpoint).corpus.path)
        resume = f"charrnn train {corpus} {opt.run(shlex.quote(str(checkpoint.parent)))} {opt.resume(True)}"
        raise CharRNNError(
            f"{text} is {what}: `{resume}` continues it, and {opt.init_from(text)} starts another run from its weights"
        )


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

    runtime = open_runtime(device, ranks.share(find_precision), ranks=ranks)
    if (kind := ranks.share(lambda: runtime.device.type)) != runtime.device.type:
        raise CharRNNError(
            f"process {ranks.rank} has {runtime.device.type} where the first one has {kind}: {opt.device('cpu')}"
        )
    return runtime


def _open_corpus(open_or_prepare: Callable[[], Corpus], ranks: Ranks) -> Corpus:
    """The corpus, prepared once on each machine. Raises: CharRNNError where machines have different texts."""
    opened: list[Corpus] = []

    def open_first() -> str:
        opened.append(open_or_prepare())
        return str(opened[0].path)

    path = Path(ranks.share_on_machine("corpus", open_first))
    corpus = opened[0] if opened else Corpus.open(path)
    ranks.meet("corpus")
    if not ranks.share(lambda: CorpusIdentity.of(corpus)).fits(corpus):
        raise CharRNNError(f"{path} of process {ranks.rank} is another text than that of the first: copy that one")
    if ranks.share(lambda: VERSIONS) != VERSIONS:
        raise CharRNNError(f"process {ranks.rank} has other versions of charrnn or PyTorch than the first: {VERSIONS}")
    return corpus


def _split(corpus: Corpus, config: TrainingConfig, ranks: Ranks) -> TrainingText:
    """The text that is trained on, and that which validates. Raises: CharRNNError."""
    vocabulary = corpus.vocabulary
    return TrainingText.split(
        corpus.indices,
        config,
        corpus.check,
        ranks.size,
        border=vocabulary.border,
        count_chars=vocabulary.count_chars,
    )


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
    """A new run. Its shape is that of `init_from`, else the given one, else chosen. Raises: CharRNNError."""
    ranks = runtime.ranks
    seed = ranks.share(lambda: draw_seed() if seed is None else seed)
    seed_everything(seed)
    config = choose_layout(config, len(corpus.indices), runtime)
    text = _split(corpus, config, ranks).placed(runtime)
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config = replace(config, epochs=default_epochs(len(text.train), text.layout.num_chunks))
    if init_from is not None:
        options = replace(options, **_shape(init_from))
    is_open = options.hidden_size is None
    num_chars_before = 0 if init_from is None else init_from.num_chars_trained
    model_config = choose_shape(options, corpus.vocabulary.size, config, text, runtime, num_chars_before)
    if is_open:
        L, H = model_config.num_layers, model_config.hidden_size
        fixed = f"{opt.hidden_size(H)}" if L == 1 else f"{opt.num_layers(L)} {opt.hidden_size(H)}"
        notify(f"chose {count_of(L, 'layer')} of {H} units for text, budget and machine; {fixed} fixes it")
    learning_rate = choose_learning_rate(model_config, config, text, runtime, is_warm=init_from is not None)
    if init_from is not None and config.learning_rate is None:
        notify(f"chose a learning rate of {learning_rate:.3g} for trained weights; {opt.learning_rate} sets another")
    config = replace(config, learning_rate=learning_rate)
    seed_everything(seed)  # trials have drawn
    model = CharRNN(model_config)
    if init_from is not None:
        matched = transfer(init_from, model, corpus.vocabulary)
        notify(f"starting from other weights: matched {matched:,} of {corpus.vocabulary.size:,} symbols")
    model.load_state_dict(ranks.share(model.state_dict))  # drawn alike only by CPUs that are alike
    trainer = Trainer(model, config, text, runtime)
    _diverge(ranks, seed)
    return Run(folder, corpus, trainer, seed, origin=None if init_from is None else origin_of(init_from))


def _load_source(init_from: str | Path, checkpoint_dir: Path, given: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of `--init-from`. Raises: CharRNNError, also for options of another shape."""
    path = find_checkpoint(init_from, checkpoint_dir)
    source = Checkpoint.load(path)
    remedy = f"leave the option out, or start without {opt.init_from}"
    _require_own(given, _shape(source), f"the model in {path}", remedy)
    return source


def _shape(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of a model's shape, with which weights can be taken over; dropout is none of them."""
    config = checkpoint.model_config
    return {each.name: getattr(config, each.name) for each in fields(ModelOptions) if each.name != "dropout"}


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
    _require_resumable(checkpoint, corpus, folder)
    for reason in unsound.values():
        notify(f"{reason}; going back to the checkpoint before it", warning=True)
    if checkpoint.versions != VERSIONS:
        by, now = (f"charrnn {of['charrnn']} with PyTorch {of['torch']}" for of in (checkpoint.versions, VERSIONS))
        notify(f"this run was written by {by}, and this is {now}: it may go on a little differently", warning=True)
    config = _changed(checkpoint, given, folder)
    if config.batch_size is not None and config.batch_size % ranks.size:
        raise CharRNNError(
            f"the run in {folder.path} has {opt.batch_size(config.batch_size)}, which {ranks.size} processes cannot "
            "share evenly: resume it with a number of processes that divides it"
        )
    runtime = _open_runtime(device, given.get("precision", checkpoint.precision), ranks, notify)
    seed_everything(checkpoint.seed)
    before = checkpoint.snapshot.num_ranks
    text = _split_alike(corpus, config, runtime, before)
    require_memory(checkpoint.model_config, text.layout, runtime)
    trainer = Trainer(CharRNN(checkpoint.model_config), config, text, runtime)
    if (config.minutes is None) != (checkpoint.training_config.minutes is None):
        checkpoint.snapshot.course.patience_lost_at = None  # it was counted in the other unit
    _diverge(ranks, checkpoint.seed)
    trainer.load(checkpoint.snapshot)
    if before != ranks.size:
        notify(f"the number of processes was {before} and is {ranks.size} now: other dropout will be drawn")
    for aside in folder.set_aside(unsound if ranks.is_first else ()):
        notify(f"the unsound checkpoint is kept as {aside}")
    notify(f"resuming {folder.path} at step {trainer.course.step:,}")
    if trainer.budget.is_over(trainer.now):
        lost = trainer.evaluations.have_lost_patience(trainer.course)
        ways = opt.patience if lost else f"{opt.epochs}, {opt.steps} or {opt.minutes}"
        notify(f"this run is over: a larger {ways} would go on with it")
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=checkpoint.records)


def _require_resumable(checkpoint: Checkpoint, corpus: Corpus, folder: RunFolder) -> None:
    """Raises: CharRNNError for a checkpoint without the trainer's state, or of another text."""
    if not checkpoint.can_be_resumed:
        raise CharRNNError(
            f"the checkpoint in {folder.path} was written without the trainer's state (inspect {opt.slim}), so that it "
            f"cannot go on: start another run with {opt.init_from}"
        )
    if not checkpoint.corpus.fits(corpus) or checkpoint.vocabulary != corpus.vocabulary:
        raise CharRNNError(
            f"{corpus.path} is not the corpus that the run in {folder.path} was trained on (another version of charrnn "
            f"may have read the text differently): resume with {checkpoint.corpus.path}, or start another run with "
            f"{opt.run('DIR')}"
        )


def _split_alike(corpus: Corpus, config: TrainingConfig, runtime: Runtime, num_ranks: int) -> TrainingText:
    """The text in the streams that another number of processes read.

    Raises: CharRNNError for a text too short for that.
    """
    layout = choose_layout(config, len(corpus.indices), runtime)
    text = _split(corpus, layout, runtime.ranks).placed(runtime)
    if text.layout != Layout.fit(len(text.train), layout.batch_size or 1, layout.seq_length or 1, num_ranks):
        raise CharRNNError(
            f"the text is too short for {runtime.ranks.size} processes to cut it as {num_ranks} did: resume with "
            f"{num_ranks}"
        )
    return text


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The run's config with the new values of options that are free to change. Raises: CharRNNError."""
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    fixed = {name: value for name, value in own.items() if name not in _FREE_TO_CHANGE}
    _require_own(
        given, fixed, f"the run in {folder.path}", f"leave the option out, or start another run with {opt.run('DIR')}"
    )
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
            option = str(getattr(opt, name))
            if (size := given.get("size")) is not None and SIZES[size].get(name) == value:
                option = f"{opt.size} is {size}, so that {option}"
            raise CharRNNError(f"{option} is {asked}, but {owner} has {found}: {remedy}")
