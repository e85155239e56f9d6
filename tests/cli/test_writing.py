"""Samples on stdout, on a terminal and in files."""

import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from charrnn.cli import writing
from charrnn.cli.app import app
from charrnn.cli.writing import View, counted, shows_count
from charrnn.runs.run import Run
from charrnn.sampling.constraints import Piece
from charrnn.terminal import escape_controls
from tests.support import Command, Forked
from tests.test_terminal import Terminal

needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")


def test_samples_of_several_temperatures_are_those_of_each(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "30", "--num-samples", "2", "-t"]
    texts = [charrnn(*words, temperature, "--seed", "5").stdout for temperature in ("0.3", "1.5")]
    assert texts[0] != texts[1]
    done = charrnn(*words, "0.3,1.5", "--seed", "5")
    assert done.stdout == f"{texts[0]}\n{texts[1]}"
    assert done.stderr == "temperature 0.3\ntemperature 1.5\n"
    records = [json.loads(line) for line in charrnn(*words, "0.3,1.5", "--seed", "5", "--json").stdout.splitlines()]
    assert [(each["temperature"], each["index"]) for each in records] == [(0.3, 0), (0.3, 1), (1.5, 0), (1.5, 1)]
    assert "\n\n".join(each["text"] for each in records) + "\n" == done.stdout


def test_separator_is_only_between_samples(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "--lines", "1", "--num-samples", "3", "--seed", "2"]
    lines = charrnn(*words, "--separator", r"\n").stdout.splitlines()
    assert len(lines) == 3
    assert charrnn(*words).stdout == "\n\n".join(lines) + "\n", "an empty line by default"
    assert charrnn(*words, "--separator", r" \\n\t").stdout == " \\n\t".join(lines) + "\n"


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_decimal_comma_is_a_warning(charrnn: Command, trained_run: Run, quiet: list[str]) -> None:
    words = ["sample", trained_run.folder.path, "-n", "5", "--seed", "1", *quiet, "-t"]
    printed = "warning: -t {},{} is two temperatures: use {}.{} for a decimal number\n"
    assert charrnn(*words, "0,8").stderr.startswith(printed.format(0, 8, 0, 8))
    assert charrnn(*words, "1,25").stderr.startswith(printed.format(1, 25, 1, 25))
    for temperatures in ("0.3,0.7,1", "0,1,2", "0.5,1", "1", "0,1.0"):
        assert "warning" not in charrnn(*words, temperatures).stderr
    refused = charrnn("train", "x.txt", "--minutes", "0,1")
    assert (refused.returncode, refused.stderr.count("0,1")) == (2, 1)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on names, each a document."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("Ravenford\nRaventon\nRavenby\nOakford\n" * 30)
    options = "--steps 100 --hidden-size 32 --seq-length 16 --learning-rate 1e-2 --seed 1 -q".split()
    folders = ["--data-dir", str(folder / "data"), "--run", str(folder / "run")]
    done = CliRunner().invoke(app, ["train", str(folder / "names.txt"), "--separator", r"\n", *folders, *options])
    assert done.exit_code == 0, done.output
    return folder / "run"


def test_each_document_starts_with_the_prompt(charrnn: Command, names: Path) -> None:
    words = ["sample", names, "--prompt", "Raven", "--documents", "5", "--seed", "1"]
    whole, rest = charrnn(*words).stdout, charrnn(*words, "--no-echo").stdout
    assert whole.count("\n") == 5
    assert whole == "".join(f"Raven{line}\n" for line in rest.splitlines())
    several = charrnn(*words, "--num-samples", "2", "--separator", "--").stdout
    assert several.startswith(whole.removesuffix("\n") + "--Raven")
    context = charrnn("sample", names, "--prompt", "Oakford\nRaven", *words[4:]).stdout
    assert [line[:5] for line in context.splitlines()] == ["Oakfo", *["Raven"] * 5]
    after = charrnn("sample", names, "--prompt", "Oakford\n", *words[4:]).stdout
    assert (after.count("\n"), "Raven" in after) == (6, True), "a whole document is none that others begin with"


def test_json_lists_the_documents(charrnn: Command, names: Path) -> None:
    words = ["sample", names, "--json", "--prompt", "Raven", "--seed", "1"]
    [record] = [json.loads(line) for line in charrnn(*words, "--documents", "5").stdout.splitlines()]
    assert record["documents"] == record["text"].removesuffix("\n").split("\n")
    assert [each[:5] for each in record["documents"]] == ["Raven"] * 5
    assert record["longest_copy"] <= max(len(each) for each in record["documents"]) - 4, "the prompt is no copy"
    plain = json.loads(charrnn(*words, "--documents", "5", "--no-echo").stdout)
    assert [f"Raven{each}" for each in plain["documents"]] == record["documents"]
    cut = json.loads(charrnn(*words, "--length", "9").stdout)
    assert cut["documents"] == cut["text"].split("\n")
    assert json.loads(charrnn("sample", names, "--json", "--length", "0").stdout)["documents"] == []


def test_unique_documents_are_unique_in_all_samples(charrnn: Command, names: Path) -> None:
    words = ["sample", names, "--num-samples", "40", "--documents", "1", "--separator", r"\n", "--seed", "1", "-t", "2"]
    repeated, unique = charrnn(*words), charrnn(*words, "--unique")
    assert len(set(repeated.stdout.splitlines())) < len(repeated.stdout.splitlines()) == 40
    assert len(set(unique.stdout.splitlines())) == len(unique.stdout.splitlines()) == 40


def test_quiet_prints_nothing(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", "--checkpoint-dir", trained_run.folder.path.parent, "-n", "5", "-t", "0.5,1"]
    loud = charrnn(*words).stderr.splitlines()
    assert [line.split()[0] for line in loud] == ["run", "seed", "temperature"]
    assert charrnn(*words, "-q").stderr == ""


def test_output_is_a_file_that_is_whole_or_not_there(tmp_path: Path, charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "40", "--seed", "3"]
    file = tmp_path / "made" / "out.txt"
    for more in ([], ["--num-samples", "3"], ["--json", "--num-samples", "2"]):
        done = charrnn(*words, *more, "-o", file, "--overwrite")
        assert (done.returncode, done.stdout) == (0, "")
        assert file.read_text(encoding="utf-8") == charrnn(*words, *more).stdout
    whole = file.read_bytes()
    assert charrnn(*words, "-p", "XYZ", "-o", file, "--overwrite").returncode == 1
    assert file.read_bytes() == whole
    assert [path.name for path in file.parent.iterdir()] == ["out.txt"]


def test_output_replaces_a_file_only_with_overwrite(tmp_path: Path, charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "40", "--seed", "3"]
    (tmp_path / "text.txt").write_text("my text")
    refused = charrnn(*words, "-o", "text.txt")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: text.txt exists: name another file, or replace it with --overwrite\n"
    assert (tmp_path / "text.txt").read_text() == "my text"
    plain = charrnn(*words, "-o", "-").stdout
    assert plain == charrnn(*words).stdout
    assert not (tmp_path / "-").exists()
    assert charrnn(*words, "-o", "text.txt", "--overwrite").returncode == 0
    assert (tmp_path / "text.txt").read_text() == plain


def test_prompts_that_fail_leave_the_others_in_the_file(tmp_path: Path, charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "0", "-i", "-o", "out.txt"]
    assert charrnn(*words, input="the cat\nXYZ\nthe dog\n").returncode == 1
    assert (tmp_path / "out.txt").read_text() == "the cat\nthe dog\n"


def test_colours_follow_the_surprisal() -> None:
    # Of 0.5, 1, 5 and 20 bits: a letter as it is, a green one, a gold space, a red control character.
    piece = Piece(0, range(5), "ab \x1b\n", [bits * math.log(2) for bits in (0.5, 1.01, 5, 20, 20)])
    view = View(escape_controls, has_colours=True)
    shown = "a\x1b[38;5;34mb\x1b[0m\x1b[48;5;178m \x1b[0m\x1b[38;5;160m\\x1b\x1b[0m\n"
    assert "".join(view.show(None, [piece])) == shown
    assert "".join(View(escape_controls).show(None, [piece])) == "ab \\x1b\n"
    assert "".join(View().show(None, [piece])) == "ab \x1b\n"


@needs_terminals
@pytest.mark.parametrize("no_color", ["", "1"])
def test_surprisal_is_coloured_on_a_terminal_unless_no_color(
    charrnn: Command, forked: Callable[..., Forked], trained_run: Run, no_color: str
) -> None:
    import pty

    words = ["sample", trained_run.folder.path, "-n", "60", "-t", "2", "--seed", "1", "-p", "the cat"]
    plain = charrnn(*words, "--show-surprisal").stdout
    ours, theirs = pty.openpty()
    done = forked(*words, "--show-surprisal", stdout=os.ttyname(theirs), environment={"NO_COLOR": no_color}).wait()
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    os.close(ours)
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == plain
    assert shown.startswith("the cat"), "the prompt surprises nobody"
    assert ("\x1b[38;5;160m" in shown) == (not no_color)
    assert done.stderr == ("" if no_color else "green from 1, gold from 3, red from 6 bits of surprisal\n")
    assert "\x1b" not in plain


def test_samples_are_counted_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_COUNT_DELAY_S", 0)
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    pieces = [Piece(i, finish_reason=end) for i in range(3) for end in (None, "length")]

    def slowly() -> Iterator[Piece]:
        yield from pieces[:-1]
        time.sleep(0.2)  # longer than a bar waits between two looks
        yield pieces[-1]

    assert list(counted(slowly(), 3)) == pieces
    assert "3 of 3 samples" in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == "", "it is gone at the end"


def test_count_is_not_mixed_with_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert shows_count(None)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert not shows_count(None)
    assert shows_count(Path("out.txt"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not shows_count(Path("out.txt"))
