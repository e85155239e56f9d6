"""Help pages: what a newcomer reads at 80 columns."""

import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from charrnn.cli.app import app

GROUP: Any = typer.main.get_command(app)


def page_of(*words: str) -> str:
    """The help page of a command as a terminal of 80 columns shows it."""
    done = CliRunner().invoke(app, [*words, "-h"], terminal_width=80)
    assert done.exit_code == 0
    return done.output


def examples_of(page: str) -> list[str]:
    """The command lines below "Examples:", without what is said beside them."""
    block = page.partition("Examples:\n")[2].partition("\n\n")[0]
    return [re.split(r"\s{2,}", line.strip())[0] for line in block.splitlines()]


@pytest.mark.parametrize("name", ["", *GROUP.commands])
def test_page_fits_80_columns_and_has_examples_options_and_exit_codes(name: str) -> None:
    page = page_of(*filter(None, [name]))
    assert max(map(len, page.splitlines())) <= 80
    assert not re.search(r"<(?!unk>)\w+>|\{", page), "no types for people to decipher"
    assert examples_of(page)
    assert re.search(r"\nExit codes\n  0 +success\n  1 .*\n  2 .*\n  128 \+ N ", page)
    for parameter in (GROUP.commands[name] if name else GROUP).params:
        names = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
        assert all(each in page for each in names if each != "--help")


def test_a_default_of_zero_is_shown() -> None:
    assert re.search(r"--shuffle-seed N\s+Random seed for shuffling the documents; default:\s+0\n", page_of("prepare"))


@pytest.mark.parametrize("name", ["", *GROUP.commands])
def test_examples_are_command_lines_of_today(name: str) -> None:
    for example in examples_of(page_of(*filter(None, [name]))):
        part = next(part for part in example.split(" | ") if part.startswith("charrnn "))
        _, command, *words = shlex.split(part)
        GROUP.commands[command].make_context(command, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train x --size tiny", "error: --size is tiny: it must be one of small, medium, large"),
        ("train x --minutes 1m30", "error: --minutes is 1m30: it must be a number of minutes, or hours"),
        ("train x --minutes 0s", "error: --minutes is 0s: it must be above 0 and at most 10,000,000"),
        ("train x --steps 1.5", "error: --steps is 1.5: it must be a whole number from 1 to 2,147,483,647"),
        ("train x --embedding-size -1", "error: --embedding-size is -1: it must be a whole number from 1 to 65,536"),
        ("train x --seed many", "error: --seed is many: it must be a whole number from 0"),
        ("sample -n many", "error: --length is many: it must be a whole number from 0"),
        ("train x y", "error: got unexpected extra argument"),
        ("trian", "error: no such command 'trian'. Did you mean 'train'?"),
        ("--nonsense", "error: no such option: --nonsense"),
    ],
)
def test_wrong_usage_is_one_plain_line(words: str, message: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert "alue error" not in done.stderr


def test_wrong_usage_is_reported_by_the_first_of_several_processes() -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        done = CliRunner().invoke(app, ["train", "x", "--steps", "1.5"], env=place)
        assert (done.exit_code, done.stderr.count("\n")) == (2, lines)


def test_option_of_given_values_completes_them() -> None:
    train = GROUP.commands["train"]
    cell = next(parameter for parameter in train.params if parameter.name == "cell")
    found = cell.shell_complete(train.make_context("train", ["x"]), "g")
    assert [each.value for each in found] == ["gru"]
