"""Options: each reaches the config of its command, with the default that the README tells."""

import signal
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from charrnn.cli.app import app
from charrnn.config import ModelOptions, PreparationConfig, SamplingConfig, TrainingConfig

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
DEFAULTS: dict[type, dict[str, Any]] = {
    PreparationConfig: {
        "encoding": "utf-8",
        "normalize": "nfc",
        "ascii": False,
        "lowercase": False,
        "min_count": 1,
        "max_vocab": None,
        "keep_boilerplate": False,
        "unit": "char",
        "separator": None,
        "documents": False,
        "drop_duplicates": False,
        "keep_order": False,
        "shuffle_seed": 0,
    },
    ModelOptions: {
        "cell": "lstm",
        "hidden_size": None,
        "num_layers": 1,
        "embedding_size": 64,
        "dropout": None,
    },
    TrainingConfig: {
        "epochs": None,
        "steps": None,
        "minutes": None,
        "optimizer": "muon",
        "batch_size": None,
        "seq_length": None,
        "learning_rate": None,
        "weight_decay": 0.05,
        "grad_clip": 1.0,
        "warmup_steps": 100,
        "val_fraction": 0.1,
        "eval_every": None,
        "patience": None,
        "checkpoint_every": None,
        "sample_every": None,
    },
    SamplingConfig: {
        "length": None,
        "temperature": 1.0,
        "top_k": None,
        "top_p": None,
        "min_p": None,
        "ban": "",
        "stop": (),
        "lines": None,
        "num_samples": 1,
        "avoid_copying": None,
        "documents": None,
        "unique": False,
        "new": False,
    },
}
COMMAND_LINES = {  # that end with an error once their configs are made
    PreparationConfig: "prepare missing.txt",
    ModelOptions: "train missing.txt",
    TrainingConfig: "train missing.txt",
    SamplingConfig: "sample missing.safetensors",
}


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[object]]:
    """The configs that are made during a test."""
    configs: list[object] = []
    for kind in DEFAULTS:
        check: Any = kind.__post_init__  # type: ignore[attr-defined]

        def keep(self: object, check: Any = check) -> None:
            check(self)
            configs.append(self)

        monkeypatch.setattr(kind, "__post_init__", keep)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield configs
    for number, handler in handlers.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def config_of(kind: type, options: str, built: list[object]) -> dict[str, Any]:
    """The config of this kind that a command line with these options makes."""
    done = CliRunner().invoke(app, [*COMMAND_LINES[kind].split(), *options.split()])
    assert done.exit_code == 1, done.output
    assert "missing" in done.output, "the command line was understood"
    config = [config for config in built if isinstance(config, kind)][-1]
    return asdict(config)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_the_documented_ones(kind: type, built: list[object]) -> None:
    assert config_of(kind, "", built) == DEFAULTS[kind]


OPTIMISATION = "--optimizer adamw --batch-size 4 --seq-length 8 --learning-rate 0.5 --weight-decay 0.25 --grad-clip 2"
EVALUATION = "--warmup-steps 3 --val-fraction 0.5 --eval-every 6 --patience 2 --checkpoint-every 5 --sample-every 7"
TRAINING = {
    "optimizer": "adamw",
    "batch_size": 4,
    "seq_length": 8,
    "learning_rate": 0.5,
    "weight_decay": 0.25,
    "grad_clip": 2.0,
    "warmup_steps": 3,
    "val_fraction": 0.5,
    "eval_every": 6,
    "patience": 2,
    "checkpoint_every": 5,
    "sample_every": 7,
    "epochs": None,
    "steps": None,
    "minutes": None,
}
GIVEN: list[tuple[type, str, dict[str, Any]]] = [
    (
        PreparationConfig,
        "--encoding cp1252 --normalize nfkc --ascii --lowercase --min-count 2 --max-vocab 9 --keep-boilerplate"
        " --unit word --separator \\n\\\\ --drop-duplicates --keep-order --shuffle-seed 3",
        {"encoding": "cp1252", "normalize": "nfkc", "ascii": True, "lowercase": True}
        | {"min_count": 2, "max_vocab": 9, "keep_boilerplate": True, "unit": "word", "separator": "\n\\"}
        | {"documents": False, "drop_duplicates": True, "keep_order": True, "shuffle_seed": 3},
    ),
    (
        PreparationConfig,
        "--documents",
        DEFAULTS[PreparationConfig] | {"documents": True},
    ),
    (
        ModelOptions,
        "--cell gru --hidden-size 24 --num-layers 3 --embedding-size 0 --dropout 0.25",
        {"cell": "gru", "hidden_size": 24, "num_layers": 3, "embedding_size": None, "dropout": 0.25},
    ),
    (TrainingConfig, f"--epochs 1.5 {OPTIMISATION} {EVALUATION}", TRAINING | {"epochs": 1.5}),
    (TrainingConfig, f"--steps 9 {OPTIMISATION} {EVALUATION}", TRAINING | {"steps": 9}),
    (TrainingConfig, f"--minutes 0.5 {OPTIMISATION} {EVALUATION}", TRAINING | {"minutes": 0.5}),
    (TrainingConfig, f"--minutes 1h30m {OPTIMISATION} {EVALUATION}", TRAINING | {"minutes": 90.0}),
    (
        SamplingConfig,
        "-n 5 -t 0.5 --top-k 3 --top-p 0.5 --min-p 0.25 --ban x --ban \\n\\\\ --stop a --stop \\t\\0 --lines 2 "
        "--num-samples 4 --avoid-copying 6 --documents 3 --unique --new",
        {"length": 5, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25}
        | {"ban": "x\n\\", "stop": ("a", "\t\0")}
        | {"lines": 2, "num_samples": 4, "avoid_copying": 6, "documents": 3, "unique": True, "new": True},
    ),
]


@pytest.mark.parametrize(("kind", "options", "expected"), GIVEN, ids=[options for _, options, _ in GIVEN])
def test_options_reach_the_config(kind: type, options: str, expected: dict[str, Any], built: list[object]) -> None:
    assert config_of(kind, options, built) == expected


@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_field_of_a_config_is_given_by_an_option(kind: type) -> None:
    """No field is left out above: each has another value than its default in some command line."""
    given = [expected for of, _, expected in GIVEN if of is kind]
    names = {field.name for field in fields(kind)}
    assert names == {name for name in names if any(e[name] != DEFAULTS[kind][name] for e in given)}


def test_every_option_has_help() -> None:
    assert set(COMMANDS) == set("prepare train sample score runs inspect report export".split())
    for command in COMMANDS.values():
        assert len(command.params) > 2
        for parameter in command.params:
            assert parameter.help, f"{command.name} {parameter.name}"
