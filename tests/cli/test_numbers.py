"""The commands that tell numbers about models."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from tests.support import TEXT, Command, marked_text


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
    assert re.search(r"^good +tiny +char +1 x 32 LSTM ", table.stdout, re.MULTILINE)
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
    assert charrnn("score", "good", text_file).returncode == 0
    assert charrnn("inspect", "good").returncode == 0
    for words in (("sample", "goood"), ("score", "goood", text_file), ("inspect", "goood")):
        missing = charrnn(*words)
        assert missing.returncode == 1
        assert missing.stderr == "error: no trained model is called goood: did you mean good?\n"
    printed = (
        "error: no trained model is called tales: name a checkpoint or one of the runs in checkpoints: fresh, good"
    )
    assert charrnn("sample", "tales").stderr == f"{printed}\n"
    page = charrnn("export", "-o", "page.html")
    assert page.stderr.startswith("run new: the newest in checkpoints\n") or "run fresh" in page.stderr


def test_score_of_a_file_stdin_or_corpus_is_the_same(two_runs: Path, charrnn: Command, trained_run: Run) -> None:
    text = marked_text(trained_run.corpus)[-200:]
    (two_runs / "text.txt").write_text(text)
    arguments = ("--device", "cpu", "--precision", "float32", "--json")
    printed = json.loads(charrnn("score", "good", "text.txt", *arguments).stdout)
    figures = "bits_per_char loss chars bits_per_symbol symbols perplexity bytes bits_per_byte unknown"
    assert set(printed) == {*figures.split(), "window", "checkpoint", "text", "device", "precision"}
    assert (printed["chars"], printed["checkpoint"]) == (199, "checkpoints/good/best.safetensors")
    for words in (("good",), ("good", "-"), ("text.txt",), ("-",), ()):
        done = charrnn("score", *words, *arguments, input=text)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["bits_per_char"] == pytest.approx(printed["bits_per_char"], abs=1e-3)
        assert ("run fresh: the newest" in done.stderr) == ("good" not in words)
    adapting = json.loads(charrnn("score", "good", "text.txt", "--adapt", *arguments).stdout)
    assert adapting["bits_per_char"] == printed["bits_per_char"] != adapting["adapted_bits_per_char"]
    whole = charrnn("score", trained_run.corpus.path, *arguments)
    assert json.loads(whole.stdout)["chars"] == len(trained_run.corpus.ids) - 1


def test_score_prints_a_number_for_each_line_or_character(two_runs: Path, charrnn: Command) -> None:
    lines = "the cat sat on the mat.\nxyz\ttab\n"
    done = charrnn("score", "good", "--per-line", input=lines)
    assert [line.split("\t", 1)[1] for line in done.stdout.splitlines()] == ["the cat sat on the mat.", "xyz\ttab"]
    scores = [float(line.split("\t")[0]) for line in done.stdout.splitlines()]
    assert scores[0] < 1.5 < scores[1]
    assert "5 characters outside the vocabulary were scored with at least 4.00 bits each: '\\t'" in done.stderr
    chars = charrnn("score", "good", "--per-char", "--precision", "float32", input="the cat\nsat").stdout.splitlines()
    assert [line.split("\t")[1] for line in chars] == ["h", "e", " ", "c", "a", "t", "\\n", "s", "a", "t"]
    total = charrnn("score", "good", "--json", "--precision", "float32", input="the cat\nsat")
    mean = sum(float(line.split("\t")[0]) for line in chars) / len(chars)
    assert json.loads(total.stdout)["bits_per_char"] == pytest.approx(mean, abs=1e-4)
    records = [
        json.loads(line) for line in charrnn("score", "good", "--per-char", "--json", input="a\nt").stdout.splitlines()
    ]
    assert [record["char"] for record in records] == ["\n", "t"]


def test_inspect_prints_corpora_and_checkpoints_side_by_side(
    two_runs: Path, charrnn: Command, trained_run: Run
) -> None:
    corpus = trained_run.corpus.path
    rows = charrnn("inspect", "good", "fresh", corpus).stdout.splitlines()
    kinds = next(row for row in rows if row.startswith("kind ")).split()
    assert kinds == ["kind", "checkpoint", "checkpoint", "corpus"]
    run, other, text = (
        json.loads(line) for line in charrnn("inspect", "good", "fresh", corpus, "--json").stdout.splitlines()
    )
    assert run["model"]["hidden_size"] == 32
    assert run["history"]["best_val_loss"] == trained_run.trainer.history.best_val_loss
    assert other["history"]["best_val_loss"] is None
    assert run["training"]["seed"] == trained_run.seed
    assert run["history"]["epoch"] == pytest.approx(400 / trained_run.trainer.layout.num_chunks, abs=0.01)
    assert text["characters"] == run["corpus"]["characters"] == len(TEXT)
    assert text["vocabulary"]["most_frequent"][" "] == TEXT.count(" ")
    assert min(text["vocabulary"]["rarest"].values()) == min(TEXT.count(symbol) for symbol in set(TEXT))
    damaged = two_runs / "damaged.safetensors"
    damaged.write_bytes(corpus.read_bytes()[:-1] + b"?")
    assert "its digest does not match" in charrnn("inspect", "damaged.safetensors").stderr


def test_slim_checkpoint_serves_for_all_but_resuming(
    two_runs: Path, charrnn: Command, trained_run: Run, text_file: Path
) -> None:
    assert charrnn("inspect", "good", "--slim", "shared.safetensors").returncode == 0
    slim = two_runs / "shared.safetensors"
    assert slim.stat().st_size < 0.45 * trained_run.folder.best.stat().st_size
    seeded = ("--seed", "1", "-n", "50", "-t", "2")
    assert charrnn("sample", slim, *seeded).stdout == charrnn("sample", "good", *seeded).stdout
    assert charrnn("score", slim, text_file).stdout == charrnn("score", "good", text_file).stdout
    started = charrnn("train", text_file, "--init-from", slim, "--steps", "1", "-o", "new")
    assert started.returncode == 0, started.stderr
    again = charrnn("inspect", "good", "--slim", "shared.safetensors")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "exists" in again.stderr

    (two_runs / "sent").mkdir()
    slim.rename(two_runs / "sent" / "best.safetensors")
    resumed = charrnn("train", trained_run.corpus.path, "-o", "sent", "--resume")
    assert (resumed.returncode, resumed.stderr.count("\n")) == (1, 1)
    assert "written without the trainer's state" in resumed.stderr
