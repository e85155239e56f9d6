"""Which text, run and prompt a command takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charrnn.errors import opt
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.run import Run
from charrnn.text.corpus import Corpus
from tests.support import TEXT, Command, marked_text

QUICK = "--steps 4 --hidden-size 8 --batch-size 4 --seq-length 16 --seed 1 --quiet".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "tiny.txt").write_text(TEXT)
    return tmp_path / "tiny.txt"


def trained_on(folder: Path) -> Corpus:
    return Corpus.open(Path(Checkpoint.load(folder / "last.safetensors").corpus.path))


@pytest.mark.parametrize("options", [["--lowercase", "--normalize", "none"], ["--separator", r"\n"]])
def test_run_resumes_from_raw_text_with_its_own_preparation(
    text: Path, tmp_path: Path, charrnn: Command, options: list[str]
) -> None:
    assert charrnn("train", text, *QUICK, *options).returncode == 0
    shutil.rmtree(tmp_path / "data")
    done = charrnn("train", text, "--resume", "--steps", "8", "--quiet", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 8


def test_resumed_run_names_the_option_that_differs(text: Path, charrnn: Command) -> None:
    charrnn("train", text, *QUICK, "--lowercase")
    done = charrnn("train", text, "--resume", "--steps", "8", "--unit", "word")
    assert done.returncode == 1
    assert "--unit is word, but the run in checkpoints/tiny has char" in done.stderr


def test_text_that_has_grown_names_the_ways_on(text: Path, tmp_path: Path, charrnn: Command) -> None:
    charrnn("train", text, *QUICK)
    text.write_text(TEXT + "more\n")
    for words in ([], ["--resume"]):
        done = charrnn("train", text, *QUICK, *words)
        assert done.returncode == 1
        assert "on another text or an older version" in done.stderr
        assert "--run DIR starts another, with --init-from checkpoints/tiny from its weights" in done.stderr
    assert charrnn("train", text, *QUICK, "--run", "checkpoints/more", "--init-from", "tiny").returncode == 0
    assert marked_text(trained_on(tmp_path / "checkpoints" / "more")).endswith("more\n")
    assert charrnn("train", "data/tiny.safetensors", "--resume", "--steps", "8", "--quiet").returncode == 0


def test_texts_and_options_of_one_name_train_without_errors(tmp_path: Path, charrnn: Command) -> None:
    for number, name in enumerate(("p1", "p2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "book.txt").write_text(TEXT + str(number))
        for options in ([], ["--separator", r"\n"], ["--unit", "word"]):
            run = f"checkpoints/{name}{''.join(options)[:6]}"
            done = charrnn("train", f"{name}/book.txt", *QUICK, *options, "--run", run)
            assert done.returncode == 0, done.stderr
            assert str(number) in marked_text(trained_on(tmp_path / run))


def test_absolute_run_elsewhere_has_its_data_beside_it(
    text: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, charrnn: Command
) -> None:
    there = tmp_path_factory.mktemp("there")
    for run, data in (("checkpoints/tiny", "data"), ("own/tiny", "own/data")):
        assert charrnn("train", text, *QUICK, "--run", there / run).returncode == 0
        assert trained_on(there / run).path == there / data / "tiny.safetensors"
        assert charrnn("sample", there / run, "-n", "9", "--avoid-copying", "40", "--seed", "1").returncode == 0
    assert not (tmp_path / "data").exists()
    assert charrnn("train", text, *QUICK, "--run", tmp_path / "here").returncode == 0
    assert (tmp_path / "data" / "tiny.safetensors").exists()


def test_corpus_outside_the_data_folder_is_found_again(text: Path, tmp_path: Path, charrnn: Command) -> None:
    charrnn("prepare", text, "-o", "elsewhere/names.safetensors", "--separator", r"\n")
    charrnn("train", "elsewhere/names.safetensors", *QUICK)
    options = ["-n", "9", "--seed", "1"]
    for words in (["--new"], ["--unique"], ["--avoid-copying", "40"]):
        done = charrnn("sample", "names", *options, *words)
        assert done.returncode == 0, done.stderr


def test_slim_checkpoint_keeps_no_folder(trained_run: Run, tmp_path: Path) -> None:
    slim = Checkpoint.load(trained_run.folder.best).slim()
    assert slim.corpus.path == trained_run.corpus.path.name


@pytest.mark.parametrize(("name", "is_run"), [("-notes", True), ("-x", False), ("--notes", False)])
def test_name_that_is_read_as_options_is_an_error(tmp_path: Path, charrnn: Command, name: str, is_run: bool) -> None:
    path = tmp_path / "checkpoints" / name if is_run else tmp_path / name
    path.mkdir(parents=True)
    done = charrnn("sample", name, "-n", "10")
    assert done.returncode == 2
    assert f"{name} is read as an option, but a file or run has this name: use -- {name}" in done.stderr
    assert "read as options" not in charrnn("sample", "--", name).stderr
    assert "read as options" not in charrnn("sample", "-n", "10").stderr
    assert "read as options" not in charrnn("sample", "--prompt", name).stderr


def prompted(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Sample in a C locale that Python does not turn into UTF-8."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "charrnn", "sample", *words, "--seed", "1", "-q"]
    return subprocess.run(command, cwd=folder, env=os.environ | locale | environment, capture_output=True, check=False)


def test_arguments_are_utf8_in_any_locale(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "k.txt").write_text("der kœnig ging.\n" * 200, encoding="utf-8")
    charrnn("train", "k.txt", *QUICK)
    done = prompted(tmp_path, "k", "--prompt", "kœnig", "-n", "5", "--stop", "œ", "--ban", "gœ")
    assert done.returncode == 2, "the stop is banned"
    done = prompted(tmp_path, "k", "--prompt", "kœnig", "-n", "5", "--ban", "œ")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("kœnig")


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("the king\u2019s", "(the model has \"'\" for '\u2019'); --skip-unknown leaves them out"),
        (r"the cat\n", r"escapes are not supported in prompts: use $'\n' in bash, or --prompt-file; --skip-unknown"),
    ],
)
def test_unknown_characters_of_a_prompt_name_what_was_meant(
    tmp_path: Path, charrnn: Command, prompt: str, message: str
) -> None:
    (tmp_path / "t.txt").write_text("the king's cat.\n" * 200)
    charrnn("train", "t.txt", *QUICK)
    done = charrnn("sample", "t", "--prompt", prompt)
    assert done.returncode == 1
    assert message in done.stderr


def test_errors_for_python_name_no_options_of_the_command_line(
    trained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import charrnn as package

    monkeypatch.setattr(opt, "on_command_line", False)

    model = package.load(trained_run.folder.best, device="cpu")
    cases: list[dict[str, Any]] = [{"prompt": "QX"}, {"documents": 3}, {"unique": True}]
    for options in cases:
        with pytest.raises(package.CharRNNError) as caught:
            model.sample(**options)
        assert "--" not in str(caught.value)
