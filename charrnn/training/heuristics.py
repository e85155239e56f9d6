"""Values for options that were not set: epochs, the model's width, dropout, learning rate.

The default shape of a chunk depends on the machine, see `Runtime.training_layout`. The measurements are in
`tests/benchmarks/README.md`.
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

MAX_PARAMETERS_PER_CHAR = 20  # per character of the text; a model with more overfits
SHAPES = ((1, 64), (1, 128), (1, 256), (1, 384), (1, 512), (1, 768), (1, 1024), (2, 1024))
"""Candidates for (num_layers, hidden_size), sorted by the number of parameters."""

_CHARS_TO_TRAIN_WELL, _MAX_EPOCHS = 10_000_000, 15
_MIN_UPDATES, _CHARS_PER_CPU_STEP = 5_000, 2_048
_MIN_STREAMS, _MIN_STEPS_PER_EPOCH = 32, 200  # the number of streams is halved while an epoch has fewer steps
_CHARS_READ_PER_PARAMETER = 5
_MUON_PACE = 5  # a character read with Muon counts as much as this many with AdamW when dropout is chosen
_MUON_PEAKS: Mapping[Cell, float] = {"lstm": 6e-2, "gru": 6e-2, "rnn": 3e-2}
_PEAKS: Mapping[Cell, float] = {"lstm": 3e-2, "gru": 8e-3, "rnn": 8e-3}
"""The best peak learning rates for 512 units and 32 x 32 characters per step."""


def choose_layout(config: TrainingConfig, num_chars: int, runtime: Runtime) -> TrainingConfig:
    """The config with `batch_size` and `seq_length` chosen if they are not set; fewer streams for a short text.

    Raises: OptionError if the streams cannot be divided evenly between the processes.
    """
    B, T = runtime.training_layout
    T, num_ranks = config.seq_length or T, runtime.ranks.size
    multiple = runtime.stream_multiple * num_ranks
    if config.optimizer == "muon":
        B = max(B, _MIN_STREAMS)  # 1.418 instead of 1.446 nats after three minutes in float32
    if not runtime.shares_host_memory:  # each process has its own GPU
        B *= num_ranks
    while B > _MIN_STREAMS and num_chars < _MIN_STEPS_PER_EPOCH * B * T:
        B //= 2
    if (given := config.batch_size) is not None and given % num_ranks:
        lower, upper = given // num_ranks * num_ranks, -(-given // num_ranks) * num_ranks
        nearest = f"{lower} or {upper}" if lower else f"{upper}"
        raise OptionError(f"{opt.batch_size(given)} is not divisible by {num_ranks} processes: use {nearest}")
    return replace(config, batch_size=given or -(-B // multiple) * multiple, seq_length=T)


def choose_shape(
    options: ModelOptions,
    vocab_size: int,
    config: TrainingConfig,
    text: TrainingText,
    runtime: Runtime,
    num_chars_before: int = 0,
) -> ModelConfig:
    """The shape of a model, with layers and dropout chosen if not set. On `num_chars_before` see `default_dropout`.

    Raises: CharRNNError if memory is insufficient.
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
    model: ModelConfig, config: TrainingConfig, text: TrainingText, runtime: Runtime, *, is_pretrained: bool = False
) -> float:
    """The peak learning rate; if not set, it is chosen, and is lower for weights from another run."""
    if config.learning_rate is not None:
        return config.learning_rate
    learning_rate = default_learning_rate(model, config.optimizer, text.layout.symbols_per_step)
    if is_pretrained:
        epochs = expected_epochs(model, config, text, runtime)
        learning_rate *= pretrained_lr_scale(count_parameters(model), len(text.train), epochs)
    return float(f"{learning_rate:.3g}")


def expected_epochs(model: ModelConfig, config: TrainingConfig, text: TrainingText, runtime: Runtime) -> float:
    """Number of epochs in the budget; for a time budget it is estimated from a few trial steps."""
    if config.epochs is not None:
        return config.epochs
    budget = Budget.of(config, text.layout.num_chunks)
    if budget.steps is not None:
        return budget.steps / text.layout.num_chunks
    trial = TruncatedBPTT(CharRNN(model), config, text, runtime)
    return budget.expected_steps(seconds_per_step(trial)) / text.layout.num_chunks


def default_epochs(num_chars: int, steps_per_epoch: int) -> int:
    """Epochs that a medium model needs on a corpus of this size; more if the steps are large, for enough updates."""
    epochs = min(_MAX_EPOCHS, max(3, math.ceil(_CHARS_TO_TRAIN_WELL / num_chars)))
    return max(epochs, math.ceil(min(_MIN_UPDATES, _MAX_EPOCHS * num_chars / _CHARS_PER_CPU_STEP) / steps_per_epoch))


def default_dropout(
    num_parameters: int, num_chars: int, epochs: float, num_chars_before: int = 0, pace: float = 1
) -> float:
    """Dropout that grows with the number of epochs and with the number of parameters per character of the text.

    A linear function of the logarithm, fitted to the best values for three budgets; limited for a model that reads few
    characters per parameter. `num_chars_before` are characters of another text that the weights were trained on;
    `pace` is a factor for the characters read, 1 for AdamW.
    """
    overfitting = max(epochs * num_parameters / num_chars, 1e-9)
    learned = max(pace * (num_chars_before + epochs * num_chars) / num_parameters, 1e-9)
    dropout = 0.11 * min(math.log2(overfitting) - 1.8, math.log2(learned) - 0.7)
    return round(min(0.5, max(0.0, dropout)), 2)


def largest(models: Sequence[ModelConfig], suits: Callable[[ModelConfig], bool]) -> ModelConfig:
    """The largest suitable model, or the first; `models` are sorted by size. A binary search, since a trial takes time.

    >>> models = [ModelConfig(vocab_size=7, hidden_size=hidden_size) for hidden_size in (64, 128, 256, 512)]
    >>> largest(models, lambda model: model.hidden_size < 300).hidden_size
    256
    """
    num_suitable = bisect.bisect_left(models, True, key=lambda model: not suits(model))
    return models[max(num_suitable - 1, 0)]


def suits_budget(model: ModelConfig, num_chars: int, num_chars_read: Callable[[], float]) -> bool:
    """True if the run reads at least five characters per parameter.

    A layer of half the width reads three to four times as many characters in the same time, but learns less from each.
    `num_chars` is the length of the text, `num_chars_read` returns this times the number of epochs.
    """
    if count_parameters(model) > MAX_PARAMETERS_PER_CHAR * num_chars:
        return False
    # The rule was measured with about 70 symbols; embeddings of rare symbols should not make the layer narrower.
    num_parameters = count_parameters(replace(model, vocab_size=min(model.vocab_size, 70)))
    return num_chars_read() >= _CHARS_READ_PER_PARAMETER * num_parameters


def default_learning_rate(model: ModelConfig, optimizer: Optimizer, chars_per_step: int) -> float:
    """The peak learning rate for these shapes: lower for small steps, and with AdamW for wide layers.

    Source of the square root: Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (2022).
    """
    peaks, scale = (_MUON_PEAKS, 1.0) if optimizer == "muon" else (_PEAKS, min(1.0, 512 / model.hidden_size) ** 2)
    return peaks[model.cell] * scale * min(1.0, math.sqrt(chars_per_step / 1024))


def pretrained_lr_scale(num_parameters: int, num_chars: int, epochs: float) -> float:
    """Factor for the default learning rate if the weights come from another run; smaller if they overfit sooner.

    A curve close to the best values for two texts and two budgets each.
    """
    return 0.5 / (1 + epochs * num_parameters / num_chars / 25)


def require_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> None:
    """Check that training fits into memory, before the system kills the process. Raises: CharRNNError."""
    if (lacking := lacking_memory(model, layout, runtime)) is not None:
        raise CharRNNError(
            f"{lacking}: lower {opt.batch_size}, {opt.seq_length}, {opt.hidden_size} or {opt.num_layers}"
        )


def lacking_memory(model: ModelConfig, layout: Layout, runtime: Runtime) -> str | None:
    """A message if training needs more memory than the device has; otherwise None."""
    # Weights, gradients and two moments; two snapshots for recovery and one being saved, without gradients; two outputs
    # per layer and the logits of a step, or three times the float32 logits of an evaluation.
    copies = 4 + 3 * (2 + runtime.shares_host_memory)
    outputs = 2 * model.num_layers * model.hidden_size * runtime.dtype.itemsize + 4 * model.vocab_size
    ranks = runtime.ranks
    copies += ranks.size > 1  # the buffer of the all-reduce
    activations = max(layout.symbols_per_step // ranks.size * outputs, 12 * max_logits(model.vocab_size))
    needed, free = 4 * copies * count_parameters(model) + activations, runtime.free_memory()
    if runtime.shares_host_memory:
        needed *= ranks.local_size
    if free is None or needed <= free:
        return None
    return (
        f"out of memory: training needs at least {needed / 1e9:,.1f} GB, and {runtime.device} has "
        f"{free / 1e9:,.1f} GB free"
    )
