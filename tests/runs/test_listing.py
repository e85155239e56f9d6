"""The list of runs."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from charrnn.cli.app import app
from charrnn.runs.folder import RunFolder, find_checkpoint, find_runs
from charrnn.runs.inspection import list_runs
from charrnn.runs.run import Run
from tests.support import Messages


@pytest.fixture
def runs(trained_run: Run, tmp_path: Path) -> Path:
    for written, name in ((1e9, "old"), (2e9, "new")):
        RunFolder(tmp_path / name).save(replace(trained_run.checkpoint(), written=written), best=True)
    for path in (tmp_path / "new").iterdir():
        os.utime(path, (1, 1))
    return tmp_path


def test_time_of_a_run_is_that_of_its_training_after_a_copy(runs: Path) -> None:
    shutil.copytree(runs / "old", runs / "copy")
    assert next(list_runs(runs))["name"] == "new"
    assert {run["name"]: run["modified"] for run in list_runs(runs)} == {"new": 2e9, "old": 1e9, "copy": 1e9}
    assert find_checkpoint(None, runs) == runs / "new" / "best.safetensors"


def test_time_of_a_run_of_an_older_version_is_that_of_its_file(trained_run: Run, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.save(replace(trained_run.checkpoint(), written=None), best=False)
    os.utime(run.last, (5, 5))
    assert next(list_runs(tmp_path))["modified"] == 5
    damaged = RunFolder(tmp_path / "damaged")
    damaged.path.mkdir()
    damaged.last.write_text("damaged")
    os.utime(damaged.last, (6, 6))
    assert [each.path.name for each in find_runs(tmp_path)] == ["damaged", "run"]


def test_runs_are_listed_newest_first_with_their_facts(runs: Path, trained_run: Run) -> None:
    listed = list(list_runs(runs))
    assert [run["name"] for run in listed] == ["new", "old"]
    facts = listed[1]
    assert (facts["corpus"], facts["unit"], facts["steps"], facts["hidden_size"]) == ("tiny", "char", 400, 32)
    assert facts["best_val_loss"] == trained_run.trainer.history.best_val_loss
    assert facts["parameters"] == trained_run.trainer.bptt.model.num_parameters


def test_file_with_two_names_is_counted_once(trained_run: Run, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "linked")
    run.path.mkdir()
    shutil.copy(trained_run.folder.last, run.last)
    os.link(run.last, run.best)
    assert next(list_runs(tmp_path))["bytes"] == run.last.stat().st_size


def test_damaged_and_foreign_files_leave_the_other_runs_listed(runs: Path) -> None:
    (runs / "notes.txt").write_text("foreign")
    (runs / "empty").mkdir()
    (runs / "folder" / "best.safetensors").mkdir(parents=True)
    damaged = RunFolder(runs / "damaged")
    shutil.copytree(runs / "old", damaged.path)
    damaged.last.write_bytes(damaged.last.read_bytes()[:-1])
    foreign = RunFolder(runs / "foreign")
    foreign.path.mkdir()
    foreign.last.write_bytes(b"\xff" * 100)
    messages = Messages()
    assert {run["name"] for run in list_runs(runs, messages)} == {"new", "old", "damaged"}
    assert len(messages) == 2
    assert any("foreign/last.safetensors is not a charrnn file" in line for line in messages)
    foreign.best.write_bytes((runs / "old" / "best.safetensors").read_bytes())
    assert {run["name"] for run in list_runs(runs)} == {"new", "old", "damaged", "foreign"}


def test_run_from_other_weights_is_labelled(trained_run: Run, tmp_path: Path) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("own", "warm", "damaged", "strange")]
    lines = ['{"definition": {"init_from": null}}', '{"definition": {"init_from": {"corpus": "english"}}}', "{", "[]"]
    for folder, line in zip(folders, lines, strict=True):
        folder.save(trained_run.checkpoint(), best=True)
        folder.metrics.write_text(line + "\n")
    assert {run["name"]: run["init_from"] for run in list_runs(tmp_path)} == {
        "own": None,
        "warm": "english",
        "damaged": None,
        "strange": None,
    }
    done = CliRunner().invoke(app, ["runs", "--checkpoint-dir", str(tmp_path)])
    assert "tiny, from english" in done.stdout
