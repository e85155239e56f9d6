"""Resume a run from its newest valid checkpoint."""

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
from charrnn.runs.start import find_runtime, require_same_options, seed_per_process, split
from charrnn.terminal import Notify, silence
from charrnn.text.corpus import Corpus
from charrnn.training.heuristics import choose_layout, require_memory
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.trainer import Trainer

_FREE_TO_CHANGE = {*BUDGETS, "eval_every", "patience", "checkpoint_every", "sample_every"}
"""Options that may be changed when a run is resumed."""


def resume(
    folder: RunFolder,
    corpus: Corpus,
    given: Mapping[str, Any],
    device: str,
    ranks: Ranks = SINGLE_PROCESS,
    *,
    notify: Notify = silence,
) -> Run:
    """Resume the run in a folder from its newest valid checkpoint. `given` are the options set explicitly.

    Raises: CharRNNError if the corpus or the options differ from those of the run.
    """
    checkpoint, damaged = ranks.broadcast(folder.load_newest)
    _require_resumable(checkpoint, corpus, folder)
    for problem in damaged.values():
        notify(f"{problem}; using the previous checkpoint", warning=True)
    if checkpoint.versions != VERSIONS:
        by, now = (f"charrnn {of['charrnn']} with PyTorch {of['torch']}" for of in (checkpoint.versions, VERSIONS))
        notify(f"this run was written by {by}, and this is {now}: results may differ slightly", warning=True)
    config = _changed(checkpoint, given, folder)
    if config.batch_size is not None and config.batch_size % ranks.size:
        raise CharRNNError(
            f"the run in {folder.path} has {opt.batch_size(config.batch_size)}, which is not divisible by "
            f"{ranks.size} processes: resume it with a number of processes that divides it"
        )
    runtime = find_runtime(device, given.get("precision", checkpoint.precision), ranks, notify)
    seed_everything(checkpoint.seed)
    num_ranks = checkpoint.snapshot.num_ranks
    text = _split_alike(corpus, config, runtime, num_ranks)
    require_memory(checkpoint.model_config, text.layout, runtime)
    trainer = Trainer(CharRNN(checkpoint.model_config), config, text, runtime)
    if (config.minutes is None) != (checkpoint.training_config.minutes is None):
        checkpoint.snapshot.progress.patience_lost_at = None  # in the unit of the old budget
    seed_per_process(ranks, checkpoint.seed)
    trainer.load(checkpoint.snapshot)
    if num_ranks != ranks.size:
        notify(f"the number of processes was {num_ranks} and is {ranks.size} now: dropout will differ")
    for path in folder.rename_damaged(damaged if ranks.is_first else ()):
        notify(f"the damaged checkpoint is kept as {path}")
    notify(f"resuming {folder.path} at step {trainer.progress.step:,}")
    if trainer.budget.is_over(trainer.now):
        lost = trainer.evaluations.has_lost_patience(trainer.progress)
        options = opt.patience if lost else f"{opt.epochs}, {opt.steps} or {opt.minutes}"
        notify(f"this run has reached its end: raise {options} to continue")
    return Run(folder, corpus, trainer, checkpoint.seed, is_new=False, num_records=checkpoint.records)


def _require_resumable(checkpoint: Checkpoint, corpus: Corpus, folder: RunFolder) -> None:
    """Raises: CharRNNError if the checkpoint has no trainer state, or is for another corpus."""
    if not checkpoint.can_be_resumed:
        raise CharRNNError(
            f"the checkpoint in {folder.path} was written without the trainer's state (inspect {opt.slim}) and cannot "
            f"be resumed: start another run with {opt.init_from}"
        )
    if not checkpoint.corpus.matches(corpus) or checkpoint.tokenizer != corpus.tokenizer:
        raise CharRNNError(
            f"{corpus.path} is not the corpus that the run in {folder.path} was trained on (another version of charrnn "
            f"may have read the text differently): resume with {checkpoint.corpus.path}, or start another run with "
            f"{opt.run('DIR')}"
        )


def _split_alike(corpus: Corpus, config: TrainingConfig, runtime: Runtime, num_ranks: int) -> TrainingText:
    """Split the text into the same streams as for `num_ranks` processes. Raises: CharRNNError if it is too short."""
    layout = choose_layout(config, len(corpus.ids), runtime)
    text = split(corpus, layout, runtime.ranks).placed(runtime)
    if text.layout != Layout.fit(len(text.train), layout.batch_size or 1, layout.seq_length or 1, num_ranks):
        raise CharRNNError(
            f"the text is too short to be split between {runtime.ranks.size} processes as between {num_ranks}: resume "
            f"with {num_ranks}"
        )
    return text


def _changed(checkpoint: Checkpoint, given: Mapping[str, Any], folder: RunFolder) -> TrainingConfig:
    """The config of the run with the new values of the given options. Raises: CharRNNError if one may not change."""
    changes = {name: value for name, value in given.items() if name in _FREE_TO_CHANGE}
    fixed = {name: value for name, value in given.items() if name not in _FREE_TO_CHANGE}
    own = {**vars(checkpoint.model_config), **vars(checkpoint.training_config), "seed": checkpoint.seed}
    remedy = f"leave the option out, or start another run with {opt.run('DIR')}"
    require_same_options(fixed, own, f"the run in {folder.path}", remedy)
    if not changes.keys().isdisjoint(BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    return replace(checkpoint.training_config, **changes)
