"""The facts about a run that its report begins with: only what helps to make it again or to judge it."""

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import Any

from charrnn.config import Config, ModelConfig, options_of
from charrnn.model.network import count_parameters
from charrnn.report.records import number
from charrnn.report.subject import Subject
from charrnn.runs.checkpoint import Checkpoint
from charrnn.terminal import escape, format_seconds

_MAX_NAME, _MAX_WORD, _MAX_WORDS = 80, 1000, 100
_CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN"}


def list_facts(subject: Subject) -> dict[str, str]:
    """The facts by their names."""
    checkpoint = subject.checkpoint
    config, history = checkpoint.model_config, checkpoint.snapshot.history
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    last = subject.records[-1] if subject.records else {}
    step = number(last, "step") or checkpoint.snapshot.course.step
    seconds = number(last, "elapsed_s") or history.elapsed_s
    speed = number(last, "chars_per_second")
    return {
        "Best loss": _loss(subject),
        "Model": f"{_CELLS[config.cell]}, {layers} of {config.hidden_size:,} units, "
        f"{count_parameters(config):,} parameters, {config.vocab_size:,} symbols",
        "Text": f"{corpus_name(checkpoint)}, {sum(checkpoint.tokenizer.counts):,} {subject.noun}s",
        "Trained": f"{step:,.0f} steps in {format_seconds(seconds)}"
        + (f", {speed:,.0f} characters/s" if speed else ""),
        "Seed": str(checkpoint.seed),
        "Machine": _machine(subject),
        "Computed in": f"{checkpoint.precision}, by charrnn {checkpoint.versions['charrnn']} "
        f"with PyTorch {checkpoint.versions['torch']}",
    }


def corpus_name(checkpoint: Checkpoint) -> str:
    """The name of the prepared file, without the folder, which may tell a user's name, on whatever system it lay."""
    return PureWindowsPath(checkpoint.corpus.path).name or "the text"


def write_command(subject: Subject) -> list[str]:
    """The command of the run in parts: as the log has it, else made of the options in the checkpoint."""
    definition, checkpoint = _definition(subject), subject.checkpoint
    if isinstance(given := definition.get("command"), list) and given[:2] == ["charrnn", "train"]:
        command = shlex.join(str(word)[:_MAX_WORD] for word in given[:_MAX_WORDS])
        home = os.path.expanduser("~")  # noqa: PTH111 (which raises for a user without one)
        return command.replace(f" {home}/", " ~/").split(" ")  # pages are sent to others
    parts = [["charrnn", "train", corpus_name(checkpoint)]]
    for config in (checkpoint.model_config, checkpoint.training_config, checkpoint.corpus.config):
        parts += _options(config)
    origin = definition.get("init_from")
    if isinstance(origin, dict) and isinstance(source := origin.get("corpus"), str):
        parts.append(["--init-from", source[:_MAX_NAME]])
    parts += [["--precision", checkpoint.precision], ["--seed", str(checkpoint.seed)]]
    return [shlex.join(part) for part in parts]


def _definition(subject: Subject) -> dict[str, Any]:
    """Definition of the run in its log, which a stranger may have written; empty if there is none."""
    definition = subject.records[0].get("definition") if subject.records else None
    return definition if isinstance(definition, dict) else {}


def _options(config: Config) -> Iterator[list[str]]:
    """The options of a config that differ from their defaults."""
    defaults: dict[str, Any] = {each: getattr(type(config), each) for each in options_of(type(config))}
    for name, option in options_of(type(config)).items():
        value = getattr(config, name)
        if value == defaults[name] and not (isinstance(config, ModelConfig) and name == "hidden_size"):
            continue
        if value is not None or option.none is not None:
            words = [] if value is True else [escape(str(option.none if value is None else value))]
            yield [f"--{name.replace('_', '-')}", *words]


def _machine(subject: Subject) -> str:
    """The machine as the log names it."""
    machine = _definition(subject).get("machine")
    if not isinstance(machine, dict):
        return "not recorded"
    words = [machine[each][:_MAX_NAME] for each in ("name", "system") if isinstance(machine.get(each), str)]
    if threads := number(machine, "threads"):
        words.append("1 thread" if threads == 1 else f"{threads:.0f} threads")
    return ", ".join(words)


def _loss(subject: Subject) -> str:
    loss = subject.checkpoint.snapshot.history.best_val_loss
    if loss is None or not math.isfinite(loss):
        return "not measured"
    return f"{loss / math.log(2):.3f} bits per character ({loss:.4f} nats)"
