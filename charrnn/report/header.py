"""The facts at the start of a report: what is needed to reproduce or to judge a run."""

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import PureWindowsPath

from charrnn.config import Config, options_of
from charrnn.model.network import count_parameters
from charrnn.report.export import describe_layers
from charrnn.report.records import number
from charrnn.report.subject import Subject
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.reporting import definition_of
from charrnn.terminal import escape, format_seconds

_MAX_NAME, _MAX_WORD, _MAX_WORDS = 80, 1000, 100


def list_facts(subject: Subject) -> dict[str, str]:
    """The facts by name."""
    checkpoint = subject.checkpoint
    config, history = checkpoint.model_config, checkpoint.snapshot.history
    last = subject.records[-1] if subject.records else {}
    step = number(last, "step") or checkpoint.snapshot.progress.step
    seconds = number(last, "elapsed_s") or history.elapsed_s
    speed = number(last, "chars_per_second")
    loss = math.nan if history.best_val_loss is None else history.best_val_loss
    bits = f"{loss / math.log(2):.3f} bits per character ({loss:.4f} nats)"
    return {
        "Best loss": bits if math.isfinite(loss) else "not measured",
        "Model": f"{describe_layers(config)}, {count_parameters(config):,} parameters, {config.vocab_size:,} symbols",
        "Text": f"{corpus_name(checkpoint)}, {sum(checkpoint.tokenizer.counts):,} {subject.noun}s",
        "Trained": f"{step:,.0f} steps in {format_seconds(seconds)}"
        + (f", {speed:,.0f} characters/s" if speed else ""),
        "Seed": str(checkpoint.seed),
        "Machine": _machine(subject),
        "Computed in": f"{checkpoint.precision}, by charrnn {checkpoint.versions['charrnn']} "
        f"with PyTorch {checkpoint.versions['torch']}",
    }


def corpus_name(checkpoint: Checkpoint) -> str:
    """The file name of the corpus without its folder, which may contain a user name; paths of any system."""
    return PureWindowsPath(checkpoint.corpus.path).name or "the text"


def write_command(subject: Subject) -> list[str]:
    """The command of the run in parts: from the log, or else from the options in the checkpoint."""
    definition, checkpoint = definition_of(subject.records), subject.checkpoint
    if isinstance(given := definition.get("command"), list) and given[:2] == ["charrnn", "train"]:
        command = shlex.join(str(word)[:_MAX_WORD] for word in given[:_MAX_WORDS])
        home = os.path.expanduser("~")  # noqa: PTH111 (expanduser of pathlib raises for a user without a home)
        return command.replace(f" {home}/", " ~/").split(" ")  # hides the user name
    parts = [["charrnn", "train", corpus_name(checkpoint)]]
    for config in (checkpoint.model_config, checkpoint.training_config, checkpoint.corpus.config):
        parts += _options(config)
    origin = definition.get("init_from")
    if isinstance(origin, dict) and isinstance(source := origin.get("corpus"), str):
        parts.append(["--init-from", source[:_MAX_NAME]])
    parts += [["--precision", checkpoint.precision], ["--seed", str(checkpoint.seed)]]
    return [shlex.join(part) for part in parts]


def _options(config: Config) -> Iterator[list[str]]:
    """The options of a config that differ from their defaults, and the hidden size."""
    for name, option in options_of(type(config)).items():
        value = getattr(config, name)
        is_shown = value != getattr(type(config), name) or name == "hidden_size"
        if is_shown and (value is not None or option.none is not None):
            words = [] if value is True else [escape(str(option.none if value is None else value))]
            yield [f"--{name.replace('_', '-')}", *words]


def _machine(subject: Subject) -> str:
    """The machine, from the log."""
    machine = definition_of(subject.records).get("machine")
    if not isinstance(machine, dict):
        return "not recorded"
    words = [machine[each][:_MAX_NAME] for each in ("name", "system") if isinstance(machine.get(each), str)]
    if threads := number(machine, "threads"):
        words.append(f"{threads:.0f} thread{'' if threads == 1 else 's'}")
    return ", ".join(words)
