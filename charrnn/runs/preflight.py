"""Describe a training run: before it the model, the machine, the budget and likely problems, after it the result."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from charrnn.errors import CharRNNError, opt
from charrnn.machine import probes
from charrnn.model.network import evaluating
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import ENGLISH, PRETRAINED
from charrnn.runs.run import Run
from charrnn.terminal import BLOCKS, Notify, blocks, can_print, count_of, format_seconds
from charrnn.text.corpus import Corpus
from charrnn.training.heuristics import MAX_PARAMETERS_PER_CHAR
from charrnn.training.timing import seconds_per_step
from charrnn.training.trainer import Trainer

_MIN_PARAMETERS_PER_CHAR = 1 / 50  # per character read
_MIN_SYMBOLS = 500
_MAX_CHARS_FOR_ENGLISH = 3_000_000
_MAX_ENGLISH_BITS = 2.6  # per character under the model `english`; other languages have more
_MIN_LETTERS = 0.6  # fraction of the characters
_STREAMS, _READ, _MEASURED = 32, 96, 64
"""Streams that `english` reads, characters per stream, and characters at the end of each that are scored."""


def describe(run: Run, notify: Notify) -> None:
    """Print the model, the device and the budget, and warnings about likely problems."""
    trainer, tokenizer = run.trainer, run.corpus.tokenizer
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
        f"{optimizer}, learning rate {trainer.learning_rate:.3g}, seed {run.seed}"
    )
    if runtime.ranks.size == 1 and (num_idle := probes.count_idle(runtime.device)) > 1:
        notify(
            f"{num_idle} GPUs are idle: torchrun --standalone --nproc-per-node {num_idle} -m charrnn train ... uses "
            f"all of them, which is faster for {opt.size('large')} and above"
        )
    seconds = seconds_per_step(trainer.bptt)
    epochs = trainer.budget.expected_steps(seconds) / layout.num_chunks
    notify(_describe_budget(trainer, epochs, seconds))
    if all(map(str.isspace, tokenizer.symbols)):
        notify("the text is only white space: there is nothing to learn", warning=True)
    elif (length := sum(tokenizer.counts)) < _MIN_SYMBOLS:
        notify(f"{count_of(length, noun)} are too few to train on: use a longer text", warning=True)
    elif run.origin is None and (advice := _advise(trainer, noun, epochs)) is not None:
        notify(advice, warning=True)
    if (layout.batch_size, layout.seq_length) != (config.batch_size, config.seq_length):
        notify(
            f"the corpus is small: {count_of(layout.batch_size, 'stream')} of chunks of "
            f"{count_of(layout.seq_length, noun)} instead of {config.batch_size} of {config.seq_length}"
        )
    if not trainer.evaluations.has_validation_text and config.val_fraction > 0:
        notify("the corpus is too short to hold out a validation text: the training loss is used instead")


def recommend_english(corpus: Corpus, notify: Notify) -> None:
    """Recommend the model `english` if the text is short and has a low surprisal under this model."""
    tokenizer = corpus.tokenizer
    is_short = _STREAMS * _READ <= len(corpus.ids) <= _MAX_CHARS_FOR_ENGLISH
    if not (is_short and tokenizer.noun == "character" and tokenizer.eos_id is None and PRETRAINED.is_file()):
        return
    starts = [len(corpus.ids) // _STREAMS * i for i in range(_STREAMS)]
    ids = torch.cat([corpus.ids[start : start + _READ] for start in starts])
    text = tokenizer.decode(ids)
    if sum(map(str.isalpha, text)) < _MIN_LETTERS * len(text):
        return
    try:
        checkpoint = Checkpoint.load(PRETRAINED)
    except CharRNNError:
        return  # a damaged file is an error where the model is used
    model = checkpoint.build_model()
    x = checkpoint.tokenizer.encode(text).long().view(_STREAMS, _READ).T  # (T, B)
    with evaluating(model), torch.no_grad():
        logits, _ = model(x[:-1])
    loss = F.cross_entropy(logits[-_MEASURED:].flatten(0, 1), x[-_MEASURED:].flatten())
    if float(loss) / math.log(2) < _MAX_ENGLISH_BITS:
        notify(
            f"the text is English and short: {opt.init_from(ENGLISH)} starts from a model of English, which lowers the "
            "loss by 0.1 to 0.2 nats in runs of a few minutes"
        )


def describe_result(run: Run, summary: Mapping[str, Any], *, with_curve: bool = True) -> str:
    """The lines to print after a run, if `with_curve` with a curve of the validation losses."""
    outcome = {
        "budget": "done",
        "patience": f"stopped early: no improvement in {count_of(run.trainer.config.patience or 0, 'evaluation')}",
        "stopped": f"stopped and saved; {opt.resume(True)} continues",
    }[summary["reason"]]
    if not summary["steps"]:
        remedy = f"{opt.resume(True)} with a larger budget continues"
        return f"{outcome}, before the first step: there is nothing to sample yet; {remedy}"
    num_chars = run.trainer.evaluations.num_chars
    line = f"{outcome}: {count_of(summary['steps'], 'step')}, {summary['chars_per_second']:,} characters/s in training"
    losses = run.log.val_losses() if with_curve and run.log is not None else []
    if len(losses) > 1:
        curve = blocks(losses, ascii_only=not can_print(BLOCKS, sys.stderr))
        line += f"\nvalidation loss {curve} from {losses[0]:.4f} to {losses[-1]:.4f}"
    if summary["best_val_loss"] is not None:
        line += (
            f"\nbest validation loss {summary['best_val_loss']:.4f} nats per character, "
            f"{summary['bits_per_char']:.3f} bits per character"
        )
        if summary["val_chars"] not in (num_chars, None):
            line += f", on {summary['val_chars']:,} of {num_chars:,} characters"
    elif num_chars == 0:
        line += "\nno validation text: the best checkpoint is the one with the lowest training loss"
    else:
        line += "\nnot evaluated yet"
    return line


def _describe_budget(trainer: Trainer, epochs: float, seconds: float) -> str:
    steps, config = trainer.budget.steps, trainer.config
    chars_per_step = trainer.bptt.text.count_chars(trainer.layout.symbols_per_step)
    rate = f"about {chars_per_step / seconds:,.0f} characters/s"
    if steps is None:
        minutes, num_steps = count_of(config.minutes or 0.0, "minute"), round(epochs * trainer.layout.num_chunks)
        return f"budget: {minutes}; {count_of(epochs, 'epoch')}, {count_of(num_steps, 'step')} at {rate}"
    left = max(steps - trainer.progress.step, 0)
    return (
        f"budget: {count_of(epochs, 'epoch')}, {count_of(steps, 'step')}; {left:,} to go, "
        f"about {format_seconds(left * seconds)} at {rate}, without evaluations"
    )


def _advise(trainer: Trainer, noun: str, epochs: float) -> str | None:
    """A warning if the model is far too large for its text, or far too small for the part that is read."""
    model, length = trainer.bptt.model, len(trainer.bptt.text.train)
    if model.num_parameters > MAX_PARAMETERS_PER_CHAR * length:
        # Width of one LSTM layer with half the limit of parameters, at least 32 units.
        smaller = max(32, int(math.sqrt(MAX_PARAMETERS_PER_CHAR / 2 * length / 4)) // 32 * 32)
        is_narrower = smaller < model.config.hidden_size
        remedy = f"try {opt.hidden_size(smaller)} or a longer text" if is_narrower else "use a longer text"
        return f"{model.num_parameters:,} parameters are far too many for {count_of(length, noun)}: {remedy}"
    if model.num_parameters < _MIN_PARAMETERS_PER_CHAR * length * min(epochs, 1.0):
        remedy = f"try a larger {opt.hidden_size}, if there is time"
        return f"{model.num_parameters:,} parameters are far too few for {count_of(length, noun)}: {remedy}"
    return None
