"""The Python reference: its examples run, and it names everything public."""

import dataclasses
import doctest
import inspect
import re
from pathlib import Path

import pytest

import charrnn

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "python.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def option_names() -> None:
    """Messages name options as in Python."""


def test_examples_give_the_results_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.sub(r"^```.*$", "", TEXT, flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(examples, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 20
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=failures.append)
    assert not failures, "".join(failures)


@pytest.mark.parametrize("name", charrnn.__all__)
def test_page_names_what_is_public(name: str) -> None:
    public = getattr(charrnn, name)
    assert re.search(rf"\b{name}\b", TEXT)
    if inspect.isclass(public) and not issubclass(public, Exception):
        fields = [field.name for field in dataclasses.fields(public)] if dataclasses.is_dataclass(public) else []
        members = [member for member in {*vars(public), *fields} if not member.startswith("_")]
        internal = {"mapping", "check", "report", "marked_blocks"} if name == "Corpus" else set()
        assert [each for each in members if each not in internal and not re.search(rf"\b{each}\b", TEXT)] == []


@pytest.mark.parametrize("name", ["train", "prepare", "load"])
def test_signature_on_the_page_is_that_of_the_function(name: str) -> None:
    parameters = inspect.signature(inspect.unwrap(getattr(charrnn, name))).parameters
    [shown] = re.findall(rf"^`charrnn\.{name}\((.*)\) -> \w+`$", TEXT, re.MULTILINE)
    assert [each.partition("=")[0] for each in shown.split(", ") if each != "*"] == [
        f"**{each.name}" if each.kind is each.VAR_KEYWORD else each.name for each in parameters.values()
    ]
