"""Every option's default stands in one dataclass; the command line and the README follow it."""

import os
from dataclasses import fields
from typing import Any

import pytest
import typer

from charrnn.cli.app import app
from charrnn.cli.train import _yield_to_other_processes
from charrnn.config import ModelConfig, PreparationConfig, SamplingConfig, TrainingConfig

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("prepare", PreparationConfig),
        ("train", TrainingConfig),
        ("train", ModelConfig),
        ("sample", SamplingConfig),
    ],
)
def test_options_are_the_fields_of_the_config_with_its_defaults(command: str, config: Any) -> None:
    options = {parameter.name: parameter for parameter in COMMANDS[command].params}
    for field in fields(config):
        if field.name in ("vocab_size", "hidden_size"):
            continue  # the corpus's; chosen
        default = options[field.name].default
        assert (default or None) == (field.default or None), field.name


def test_every_option_has_help() -> None:
    for command in COMMANDS.values():
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"


def test_training_lets_waiting_threads_sleep_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    _yield_to_other_processes()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    _yield_to_other_processes()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    _yield_to_other_processes()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
