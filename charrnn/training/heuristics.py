"""Values for options that were not set: epochs, the model's width, dropout, learning rate.

The shape of a chunk depends on the machine, see `Runtime.training_layout`. `tests/benchmarks/README.md` has the
measurements.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from charrnn.config import Cell, ModelConfig, ModelOptions, Optimizer, TrainingConfig
from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, count_parameters
from charrnn.model.scoring import max_logits
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.budget import Budget
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.timing import seconds_per_step

MAX_PARAMETERS_PER_CHAR = 20  # of a text; a model with more overfits
SHAPES = ((1, 64), (1, 128), (1, 256), (1, 384), (1, 512), (1, 768), (1, 1024), (2, 1024))
"""Candidates for the numbers of layers and of units per layer, sorted by their parameters."""

_CHARS_TO_TRAIN_WELL, _MAX_EPOCHS = 10_000_000, 15
_MIN_UPDATES, _CHARS_PER_CPU_STEP = 5_000, 2_048
_MIN_STREAMS, _MIN_STEPS_PER_EPOCH = 32, 200  # below which large steps are no longer worth their size
_CHARS_READ_PER_PARAMETER = 5
_MUON_PACE = 5  # times as many characters have to be read with AdamW to bear as much dropout
_MUON_PEAKS: Mapping[Cell, float] = {"lstm": 6e-2, "gru": 6e-2, "rnn": 3e-2}
_PEAKS: Mapping[Cell, float] = {"lstm": 3e-2, "gru": 8e-3, "rnn": 8e-3}
"""The peaks of the learning rate that did best at 512 units and 32 x 32 characters a step."""


def choose_layout(config: TrainingConfig, num_chars: int, runtime: Runtime) -> TrainingConfig:
    """The config with streams and chunks chosen where they are not set: fewer streams where an epoch would be short.

    Raises: OptionError for streams that the processes cannot share evenly.
    """
    B, T = runtime.training_layout
    T, num_ranks = config.seq_length or T, runtime.ranks.size
    multiple = runtime.stream_multiple * num_ranks
    if config.optimizer == "muon":
        B = max(B, _MIN_STREAMS)  # in float32 too: 1.418 instead of 1.446 nats after three minutes
    if not runtime.shares_host_memory:  # a GPU of its own for each process
        B *= num_ranks
    while B > _MIN_STREAMS and num_chars < _MIN_STEPS_PER_EPOCH * B * T:
        B //= 2
    if (given := config.batch_size) is not None and given % num_ranks:
        lower, upper = given // num_ranks * num_ranks, -(-given // num_ranks) * num_ranks
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise OptionError(f"{num_ranks} processes cannot share {opt.batch_size(given)} evenly: choose {nearest}")
    return replace(config, batch_size=given or -(-B // multiple) * multiple, seq_length=T)


def choose_shape(
    options: ModelOptions,
    vocab_size: int,
    config: TrainingConfig,
    text: TrainingText,
    runtime: Runtime,
    num_chars_before: int = 0,
) -> ModelConfig:
    """A model's shape, with layers and dropout chosen where they are not set; `num_chars_before` as `default_dropout`.

    Raises: CharRNNError for lack of memory.
    """
    num_chars = len(text.train)
    expect_epochs = cache(partial(expected_epochs, config=config, text=text, runtime=runtime))

    def suits(model: ModelConfig) -> bool:
        fits = lacking_memory(model, text.layout, runtime) is None
        return fits and suits_budget(model, num_chars, lambda: expect_epochs(model) * num_chars)

    shape = partial(ModelConfig, **{**vars(options), "vocab_size": vocab_size})
    if options.hidden_size is not None:
        model = shape()
    else:
        model = largest([shape(num_layers=L, hidden_size=H) for L, H in SHAPES], suits)
    require_memory(model, text.layout, runtime)
    if model.dropout is not None:
        return model
    pace = _MUON_PACE if config.optimizer == "muon" else 1
    dropout = default_dropout(count_parameters(model), num_chars, expect_epochs(model), num_chars_before, pace)
    return replace(model, dropout=dropout)


def choose_learning_rate(
    model: ModelConfig, config: TrainingConfig, text: TrainingText, runtime: Runtime, *, is_warm: bool = False
) -> float:
    """The peak of the learning rate; if not set, it is chosen with three digits, lower for weights of another run."""
    if config.learning_rate is not None:
        return config.learning_rate
    learning_rate = default_learning_rate(model, config.optimizer, text.layout.symbols_per_step)
    if is_warm:
        epochs = expected_epochs(model, config, text, runtime)
        learning_rate *= warm_share(count_parameters(model), len(text.train), epochs)
    return float(f"{learning_rate:.3g}")


def expected_epochs(model: ModelConfig, config: TrainingConfig, text: TrainingText, runtime: Runtime) -> float:
    """Passes over the text that the budget allows; a trial on this machine measures those of a budget of time."""
    if config.epochs is not None:
        return config.epochs
    budget = Budget.of(config, text.layout.num_chunks)
    if budget.steps is not None:
        return budget.steps / text.layout.num_chunks
    trial = TruncatedBPTT(CharRNN(model), config, text, runtime)
    return budget.expected_steps(seconds_per_step(trial)) / text.layout.num_chunks


def default_epochs(num_chars: int, steps_per_epoch: int) -> int:
    """Epochs that a medium model needs on a corpus of this size, with a minimum of updates for large steps."""
    epochs = min(_MAX_EPOCHS, max(3, math.ceil(_CHARS_TO_TRAIN_WELL / num_chars)))
    return max(epochs, math.ceil(min(_MIN_UPDATES, _MAX_EPOCHS * num_chars / _CHARS_PER_CPU_STEP) / steps_per_epoch))


def default_dropout(
    num_parameters: int, num_chars: int, epochs: float, num_chars_before: int = 0, pace: float = 1
) -> float:
    """More dropout the more often a text is read, and the more parameters could overfit it.

    A straight line in the logarithm of both, through the best values found for three budgets; limited for a model that
    reads few characters for each of its parameters. `num_chars_before` counts characters of another text that its
    weights were trained on before; `pace` is the optimizer's, 1 for AdamW.
    """
    overfitting = max(epochs * num_parameters / num_chars, 1e-9)
    learned = max(pace * (num_chars_before + epochs * num_chars) / num_parameters, 1e-9)
    dropout = 0.11 * min(math.log2(overfitting) - 1.8, math.log2(learned) - 0.7)
    return round(min(0.5, max(0.0, dropout)), 2)


def largest(models: Sequence[ModelConfig], suits: Callable[[ModelConfig], bool]) -> ModelConfig:
    """The largest model that suits, or the first; `models` are sorted by size. Few are tried, since a trial takes time.

    >>> models = [ModelConfig(vocab_size=7, hidden_size=hidden_size) for hidden_size in (64, 128, 256, 512)]
    >>> largest(models, lambda model: model.hidden_size < 300).hidden_size
    256
    """
    num_suitable = bisect.bisect_left(models, True, key=lambda model: not suits(model))
    return models[max(num_suitable - 1, 0)]


def suits_budget(model: ModelConfig, num_chars: int, num_chars_read: Callable[[], float]) -> bool:
    """True if training reads five characters for each parameter.

    A layer of half the width reads three to four times as many characters in the same time, and learns less of each.
    `num_chars` is the length of the text, and `num_chars_read` counts characters as often as the budget reads them.
    """
    if count_parameters(model) > MAX_PARAMETERS_PER_CHAR * num_chars:
        return False
    # Measured with about 70 symbols; the rows of rare ones are no reason for a narrower layer.
    num_parameters = count_parameters(replace(model, vocab_size=min(model.vocab_size, 70)))
    return num_chars_read() >= _CHARS_READ_PER_PARAMETER * num_parameters


def default_learning_rate(model: ModelConfig, optimizer: Optimizer, chars_per_step: int) -> float:
    """A peak for these shapes: lower for smaller steps than those that were measured, with AdamW for wider layers too.

    Source: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022), for the root.
    """
    peaks, share = (_MUON_PEAKS, 1.0) if optimizer == "muon" else (_PEAKS, min(1.0, 512 / model.hidden_size) ** 2)
    return peaks[model.cell] * share * min(1.0, math.sqrt(chars_per_step / 1024))


def warm_share(num_parameters: int, num_chars: int, epochs: float) -> float:
    """Share of the default learning rate for weights of another run: at most a half, less the sooner they overfit.

    A curve near the best values found for two texts and two budgets each.
    """
    return 0.5 / (1 + epochs * num_parameters / num_chars / 25)


def require_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> None:
    """Check that training fits into memory, before the system ends the process for it. Raises: CharRNNError."""
    if (lacking := lacking_memory(model, layout, runtime)) is not None:
        raise CharRNNError(
            f"{lacking}: lower {opt.batch_size}, {opt.seq_length}, {opt.hidden_size} or {opt.num_layers}"
        )


def lacking_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> str | None:
    """A sentence about the memory that training needs and the device lacks, or None."""
    # Weights, gradients and two moments; the two snapshots to go back to, and the one being saved, without the
    # gradients; two outputs of each layer, and the logits of a step, or in float32 those of an evaluation, three times.
    copies = 4 + 3 * (2 + runtime.shares_host_memory)
    outputs = 2 * model.num_layers * model.hidden_size * runtime.dtype.itemsize + 4 * model.vocab_size
    ranks = runtime.ranks
    copies += ranks.size > 1  # the message
    activations = max(layout.symbols_per_step // ranks.size * outputs, 12 * max_logits(model.vocab_size))
    needed, free = 4 * copies * count_parameters(model) + activations, runtime.free_memory()
    if runtime.shares_host_memory:
        needed *= ranks.local_size
    if free is None or needed <= free:
        return None
    return (
        f"out of memory: the training needs at least {needed / 1e9:,.1f} GB, and {runtime.device} has "
        f"{free / 1e9:,.1f} GB left"
    )
