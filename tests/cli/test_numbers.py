"""The commands that tell numbers about models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from tests.conftest import Command


@pytest.fixture
def two_runs(trained_run: Run, tmp_path: Path) -> Path:
    """A folder with the runs `good`, and `fresh`, which is newer and was never evaluated."""
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(trained_run.folder.path, checkpoints / "good")
    checkpoint = trained_run.checkpoint()
    history = replace(checkpoint.snapshot.history, best_val_loss=None)
    fresh = replace(checkpoint, snapshot=replace(checkpoint.snapshot, history=history))
    fresh.save(RunFolder(checkpoints / "fresh").last)
    return tmp_path


def test_runs_are_a_table_or_json(two_runs: Path, charrnn: Command) -> None:
    table = charrnn("runs")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["name", "fresh", "good"]
    assert "1 x 32 LSTM" in table.stdout
    by_loss = charrnn("runs", "--sort", "loss", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in by_loss] == ["good", "fresh"]
    assert table.stderr == ""


def test_no_runs_are_no_error(charrnn: Command) -> None:
    done = charrnn("runs")
    assert (done.returncode, done.stdout) == (0, "")
    assert "holds no trained model" in done.stderr


def test_names_of_runs_are_taken_by_every_command(two_runs: Path, charrnn: Command, text_file: Path) -> None:
    assert charrnn("sample", "good", "-n", "5").returncode == 0
    started = charrnn("train", text_file, "--init-from", "good", "--steps", "1", "-o", "new")
    assert started.returncode == 0, started.stderr
    assert "starting from other weights" in started.stderr
    for words in (("sample", "goood"),):
        missing = charrnn(*words)
        assert missing.returncode == 1
        told = "error: no trained model is called goood: name a checkpoint or one of the runs in checkpoints: "
        assert missing.stderr == f"{told}fresh, good\n"
