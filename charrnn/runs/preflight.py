"""Describe a training run before it starts: the model, the machine, the budget, and likely problems."""

import math

from charrnn.errors import opt
from charrnn.machine import probes
from charrnn.terminal import Notify, count_of, format_seconds
from charrnn.text.tokenizers import Tokenizer
from charrnn.training.heuristics import MAX_PARAMETERS_PER_CHAR
from charrnn.training.timing import seconds_per_step
from charrnn.training.trainer import Trainer

_MIN_PARAMETERS_PER_CHAR = 1 / 50  # that is read
_MIN_SYMBOLS = 500


def describe(trainer: Trainer, tokenizer: Tokenizer, seed: int, notify: Notify) -> None:
    """Print three lines, and warn of what will not train well."""
    model, text, runtime = trainer.bptt.model, trainer.bptt.text, trainer.bptt.runtime
    config, layout, noun = trainer.config, trainer.layout, tokenizer.noun
    notify(
        f"model: {model.config.num_layers} x {model.config.hidden_size} {model.config.cell.upper()}, dropout "
        f"{model.config.dropout or 0:g}, {model.num_parameters:,} parameters; "
        f"corpus: {count_of(len(text.train), noun)} to train, {len(text.val):,} to validate, "
        f"{count_of(tokenizer.size, 'symbol')}"
    )
    processes = f" in {runtime.ranks.size} processes" if runtime.ranks.size > 1 else ""
    optimizer = {"muon": "Muon", "adamw": "AdamW"}[config.optimizer]
    notify(
        f"device: {runtime.device}{processes}, {runtime.precision}; "
        f"{optimizer}, learning rate {trainer.learning_rate:.3g}, seed {seed}"
    )
    if runtime.ranks.size == 1 and (num_idle := probes.count_idle(runtime.device)) > 1:
        notify(
            f"{num_idle} GPUs are idle: torchrun --standalone --nproc-per-node {num_idle} -m charrnn train ... uses "
            f"all of them, which pays for {opt.size('large')} and above"
        )
    seconds = seconds_per_step(trainer.bptt)
    epochs = trainer.budget.expected_steps(seconds) / layout.num_chunks
    notify(_describe_budget(trainer, epochs, seconds))
    if all(map(str.isspace, tokenizer.symbols)):
        notify("the text is white space alone: there is nothing to learn from it", warning=True)
    elif (length := sum(tokenizer.counts)) < _MIN_SYMBOLS:
        notify(f"{count_of(length, noun)} are too few to learn to write from: find more text", warning=True)
    elif (advice := _advise(trainer, noun, epochs)) is not None:
        notify(advice, warning=True)
    if (layout.batch_size, layout.seq_length) != (config.batch_size, config.seq_length):
        notify(
            f"the corpus is small: {count_of(layout.batch_size, 'stream')} of chunks of "
            f"{count_of(layout.seq_length, noun)} instead of {config.batch_size} of {config.seq_length}"
        )
    if not trainer.evaluations.are_validating and config.val_fraction > 0:
        notify("the corpus is too short to hold out a validation part: the training loss decides")


def _describe_budget(trainer: Trainer, epochs: float, seconds: float) -> str:
    steps, config = trainer.budget.steps, trainer.config
    chars_per_step = trainer.bptt.text.count_chars(trainer.layout.symbols_per_step)
    rate = f"about {chars_per_step / seconds:,.0f} characters/s"
    if steps is None:
        minutes, num_steps = count_of(config.minutes or 0.0, "minute"), round(epochs * trainer.layout.num_chunks)
        return f"budget: {minutes}; {count_of(epochs, 'epoch')}, {count_of(num_steps, 'step')} at {rate}"
    left = max(steps - trainer.course.step, 0)
    return (
        f"budget: {count_of(epochs, 'epoch')}, {count_of(steps, 'step')}; {left:,} to go, "
        f"about {format_seconds(left * seconds)} at {rate}, evaluations not counted"
    )


def _advise(trainer: Trainer, noun: str, epochs: float) -> str | None:
    """A warning about a model far too large for its text, or far too small for the part that is read."""
    model, length = trainer.bptt.model, len(trainer.bptt.text.train)
    if model.num_parameters > MAX_PARAMETERS_PER_CHAR * length:
        # One LSTM layer with a few parameters per symbol of the text, at least 32 units.
        smaller = max(32, int(math.sqrt(MAX_PARAMETERS_PER_CHAR / 2 * length / 4)) // 32 * 32)
        is_narrower = smaller < model.config.hidden_size
        way_out = f"try {opt.hidden_size(smaller)} or find more text" if is_narrower else "find more text"
        return f"{model.num_parameters:,} parameters are far too many for {count_of(length, noun)}: {way_out}"
    if model.num_parameters < _MIN_PARAMETERS_PER_CHAR * length * min(epochs, 1.0):
        way_out = f"try a larger {opt.hidden_size}, if there is time for it"
        return f"{model.num_parameters:,} parameters are far too few for {count_of(length, noun)}: {way_out}"
    return None
