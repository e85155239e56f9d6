"""Start a run: choose the options not set, and initialise the weights or load them from another run."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from charrnn.config import BUDGETS, SIZES, ModelOptions, TrainingConfig
from charrnn.errors import CharRNNError, PrecisionError, opt
from charrnn.machine.distributed import Ranks
from charrnn.machine.runtime import Runtime, draw_seed, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.runs.transfer import transfer
from charrnn.terminal import Notify, count_of, silence
from charrnn.text.corpus import Corpus
from charrnn.training.heuristics import choose_layout, choose_learning_rate, choose_shape, default_epochs
from charrnn.training.streams import TrainingText
from charrnn.training.trainer import Trainer


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
    """Start a new run with the shape of `init_from`, or of `options`, or a chosen one. Raises: CharRNNError."""
    ranks = runtime.ranks
    seed = ranks.broadcast(lambda: draw_seed() if seed is None else seed)
    seed_everything(seed)
    config = choose_layout(config, len(corpus.ids), runtime)
    text = split(corpus, config, ranks).placed(runtime)
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config = replace(config, epochs=default_epochs(len(text.train), text.layout.num_chunks))
    if init_from is not None:
        options = replace(options, **shape_options(init_from))
    is_width_chosen = options.hidden_size is None
    num_chars_before = 0 if init_from is None else init_from.num_chars_trained
    model_config = choose_shape(options, corpus.tokenizer.size, config, text, runtime, num_chars_before)
    if is_width_chosen:
        L, H = model_config.num_layers, model_config.hidden_size
        fixed = opt.hidden_size(H) if L == 1 else f"{opt.num_layers(L)} {opt.hidden_size(H)}"
        notify(f"chose {count_of(L, 'layer')} of {H} units for text, budget and machine; {fixed} fixes it")
    learning_rate = choose_learning_rate(model_config, config, text, runtime, is_pretrained=init_from is not None)
    if init_from is not None and config.learning_rate is None:
        notify(f"chose a learning rate of {learning_rate:.3g} for trained weights; {opt.learning_rate} sets another")
    config = replace(config, learning_rate=learning_rate)
    seed_everything(seed)  # trial steps have used random numbers
    model = CharRNN(model_config)
    if init_from is not None:
        matched = transfer(init_from, model, corpus.tokenizer)
        notify(f"starting from other weights: matched {matched:,} of {corpus.tokenizer.size:,} symbols")
    model.load_state_dict(ranks.broadcast(model.state_dict))  # different CPUs may draw different weights
    trainer = Trainer(model, config, text, runtime)
    seed_per_process(ranks, seed)
    return Run(folder, corpus, trainer, seed, origin=None if init_from is None else _origin_of(init_from))


def _origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Facts about the run that the initial weights come from."""
    return {
        "corpus": Path(checkpoint.corpus.path).stem,
        "source_digest": checkpoint.corpus.source_digest,
        "steps": checkpoint.snapshot.progress.step,
        "seed": checkpoint.seed,
    }


def shape_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of a model's shape, which must be equal for a transfer of weights; dropout may differ."""
    config = checkpoint.model_config
    return {each.name: getattr(config, each.name) for each in fields(ModelOptions) if each.name != "dropout"}


def split(corpus: Corpus, config: TrainingConfig, ranks: Ranks) -> TrainingText:
    """Split a corpus into training and validation text. Raises: CharRNNError."""
    return TrainingText.split(
        corpus.ids,
        config,
        corpus.check,
        ranks.size,
        eos_id=corpus.tokenizer.eos_id,
        validation_start=corpus.validation_start,
        count_chars=corpus.tokenizer.count_chars,
    )


def seed_per_process(ranks: Ranks, seed: int) -> None:
    """Seed each process differently, so that dropout differs between processes."""
    if not ranks.is_first:
        seed_everything(ranks.seed(seed))


def require_same_options(given: Mapping[str, Any], stored: Mapping[str, Any], owner: str, remedy: str) -> None:
    """Raises: CharRNNError if a given option differs from the stored option of a run or a model, the `owner`."""
    for name, value in given.items():
        if name in stored and value != stored[name]:
            new, old = (0 if each is None else each for each in (value, stored[name]))  # None: one-hot inputs
            option = str(getattr(opt, name))
            if (size := given.get("size")) is not None and SIZES[size].get(name) == value:
                option = f"{opt.size} is {size}, so that {option}"
            raise CharRNNError(f"{option} is {new}, but {owner} has {old}: {remedy}")


def find_runtime(device: str, precision: str, ranks: Ranks, notify: Notify | None = None) -> Runtime:
    """The device in the requested precision, as supported by rank 0.

    With `notify`, fall back to the best precision of the device. Raises: PrecisionError.
    """

    def find_precision() -> str:
        try:
            return open_runtime(device, precision).precision
        except PrecisionError:
            if notify is None:
                raise
        best = open_runtime(device).precision
        notify(f"{precision} is not available here: continuing in {best}; results may differ slightly", warning=True)
        return best

    runtime = open_runtime(device, ranks.broadcast(find_precision), ranks=ranks)
    if (kind := ranks.broadcast(lambda: runtime.device.type)) != runtime.device.type:
        raise CharRNNError(
            f"process {ranks.rank} uses {runtime.device.type}, but process 0 uses {kind}: try {opt.device('cpu')}"
        )
    return runtime
