"""Resume a run at its newest sound checkpoint."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from charrnn.config import BUDGETS, TrainingConfig
from charrnn.errors import CharRNNError, opt
from charrnn.machine.distributed import SINGLE_PROCESS, Ranks
from charrnn.machine.runtime import Runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import VERSIONS, Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.runs.start import diverge, find_runtime, require_own, split
from charrnn.terminal import Notify, silence
from charrnn.text.corpus import Corpus
from charrnn.training.heuristics import choose_layout, require_memory
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.trainer import Trainer

_FREE_TO_CHANGE = {*BUDGETS, "eval_every", "patience", "checkpoint_every", "sample_every"}
"""Options that may change when a run is resumed."""


def resume(
    folder: RunFolder,
    corpus: Corpus,
    given: Mapping[str, Any],
    device: str,
    ranks: Ranks = SINGLE_PROCESS,
    *,
    notify: Notify = silence,
) -> Run:
    """The run in a folder, at its newest sound checkpoint. `given` are the options set explicitly.

    Raises: CharRNNError for another corpus or another model.
    """
    checkpoint, unsound = ranks.broadcast(folder.load_last)
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
    runtime = find_runtime(device, given.get("precision", checkpoint.precision), ranks, notify)
    seed_everything(checkpoint.seed)
    before = checkpoint.snapshot.num_ranks
    text = _split_alike(corpus, config, runtime, before)
    require_memory(checkpoint.model_config, text.layout, runtime)
    trainer = Trainer(CharRNN(checkpoint.model_config), config, text, runtime)
    if (config.minutes is None) != (checkpoint.training_config.minutes is None):
        checkpoint.snapshot.progress.patience_lost_at = None  # counted in the other unit
    diverge(ranks, checkpoint.seed)
    trainer.load(checkpoint.snapshot)
    if before != ranks.size:
        notify(f"the number of processes was {before} and is {ranks.size} now: other dropout will be drawn")
    for aside in folder.set_aside(unsound if ranks.is_first else ()):
        notify(f"the unsound checkpoint is kept as {aside}")
    notify(f"resuming {folder.path} at step {trainer.progress.step:,}")
    if trainer.budget.is_over(trainer.now):
        lost = trainer.evaluations.have_lost_patience(trainer.progress)
        ways = opt.patience if lost else f"{opt.epochs}, {opt.steps} or {opt.minutes}"
        notify(f"this run has reached its end: raise {ways} to continue")
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=checkpoint.records)


def _require_resumable(checkpoint: Checkpoint, corpus: Corpus, folder: RunFolder) -> None:
    """Raises: CharRNNError for a checkpoint without the trainer's state, or of another text."""
    if not checkpoint.can_be_resumed:
        raise CharRNNError(
            f"the checkpoint in {folder.path} was written without the trainer's state (inspect {opt.slim}), so that it "
            f"cannot go on: start another run with {opt.init_from}"
        )
    if not checkpoint.corpus.fits(corpus) or checkpoint.tokenizer != corpus.tokenizer:
        raise CharRNNError(
            f"{corpus.path} is not the corpus that the run in {folder.path} was trained on (another version of charrnn "
            f"may have read the text differently): resume with {checkpoint.corpus.path}, or start another run with "
            f"{opt.run('DIR')}"
        )


def _split_alike(corpus: Corpus, config: TrainingConfig, runtime: Runtime, num_ranks: int) -> TrainingText:
    """The text in the streams that `num_ranks` processes read. Raises: CharRNNError if it is too short for that."""
    layout = choose_layout(config, len(corpus.ids), runtime)
    text = split(corpus, layout, runtime.ranks).placed(runtime)
    if text.layout != Layout.fit(len(text.train), layout.batch_size or 1, layout.seq_length or 1, num_ranks):
        raise CharRNNError(
            f"the text is too short for {runtime.ranks.size} processes to cut it as {num_ranks} did: resume with "
            f"{num_ranks}"
        )
    return text


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The run's config with the new values of options that are free to change. Raises: CharRNNError."""
    changes = {name: value for name, value in given.items() if name in _FREE_TO_CHANGE}
    fixed = {name: value for name, value in given.items() if name not in _FREE_TO_CHANGE}
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    remedy = f"leave the option out, or start another run with {opt.run('DIR')}"
    require_own(fixed, own, f"the run in {folder.path}", remedy)
    if not changes.keys().isdisjoint(BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    return replace(checkpoint.training_config, **changes)
