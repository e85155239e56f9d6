"""The program and its pages use the field's words: the glossary of the project's style, as patterns."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from charrnn.cli.app import app

ROOT = Path(__file__).parent.parent
CODE = sorted((ROOT / "charrnn").rglob("*.py"))
PROGRAMS = sorted(path for suffix in ("js", "html", "css") for path in (ROOT / "charrnn").rglob(f"*.{suffix}"))
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
MAX_HELP = 60  # characters

GLOSSARY = {
    r"tells?|told|telling|says|said": "print, report, warn, state",
    r"stands?(?! (?:for|out)\b|-)|stood|lies?|lain": "be, be stored",
    r"dares?|plays safe": "a description of the value",
    r"by heart": "overfit, memorise",
    r"(?<!there )(?:is|are) (?-i:none)|is no (?:number|text)": "does not exist, is NaN, is not text",
    r"anew|lest|herein|of (?:its|their) own": "again, so that ... not, here, own",
    r"behind": "after",
    r"borders?": "document separator, EOS",
    r"index tensor|(?:to|from|of|into) indices|meaning of an index": "id",
    r"left open|what was given": "options not set, options given",
    r"trainings|a training(?! (?:run|loss|text|step|set|process|part|rate|corpus)\b)": "training, a training run",
    r"the begin|\w+'s begin|the course": "the start, progress",
    r"in the mean|so many|at most N of them": "on average, N, at most N",
    r"validates|that validate": "validation text, validation loss",
    r"neighbours?": "other processes, CPU contention",
    r"comes? no further|cannot be done": "gave up at; error",
}
"""Words that are not used, as regular expressions of whole words, and those to use."""

ALLOWED = (
    "measurements behind the defaults",
    "to said med",  # a sample
)
"""Phrases in which such a word is right."""

_WORDS = {re.compile(rf"\b(?:{words})\b", re.IGNORECASE): instead for words, instead in GLOSSARY.items()}
_INVERSION = re.compile(
    r"(?:^|[.:!?] |\*\* |\| )((?:Of (?:a|an|the)|What|Where|Whether|How|Without) (?:[^.?!|\n]|\.\w)*[.?!|]?)",
    re.MULTILINE,
)


def unused_words(text: str) -> Iterator[str]:
    """The words of a text that the glossary replaces, with the words around them."""
    text = " ".join(text.split())
    for phrase in ALLOWED:
        text = text.replace(phrase, "").replace(phrase.capitalize(), "")
    for pattern, instead in _WORDS.items():
        for match in pattern.finditer(text):
            around = text[max(match.start() - 40, 0) : match.end() + 30]
            yield f"{match[0]!r} in {around!r}: {instead}"


def prose_of(page: Path) -> str:
    """A page without code, quotations, link targets and comments."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|^>.*$|`[^`\n]+`", "", text, flags=re.MULTILINE)
    return re.sub(r"\]\([^)]*\)", "]", text)


def comments_of(page: Path) -> str:
    """The comments of a program, or the text of an HTML page without its tags and fields."""
    source = page.read_text(encoding="utf-8")
    if page.suffix == ".html":
        return re.sub(
            r"{{.*?}}|{%.*?%}|{#.*?#}|<(?:script|style).*?</(?:script|style)>|<[^>]*>", "", source, flags=re.DOTALL
        )
    return "\n".join(re.findall(r"/\*.*?\*/|(?<![:\"'])// .*", source, re.DOTALL if page.suffix == ".css" else 0))


def texts_of(module: Path) -> Iterator[str]:
    """The string literals, docstrings and comments of a module; without strings that are names."""
    source = module.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


@pytest.mark.parametrize("module", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_uses_the_words_of_the_field(module: Path) -> None:
    assert [each for text in texts_of(module) for each in unused_words(text)] == []


@pytest.mark.parametrize("page", [*PAGES, *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    text = prose_of(page) if page.suffix == ".md" else comments_of(page)
    assert list(unused_words(text)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_begin_with_their_subject(page: Path) -> None:
    text = re.sub(r"^#.*$", "", prose_of(page), flags=re.MULTILINE)
    assert [each for each in _INVERSION.findall(text) if not each.endswith("?")] == []


def test_help_of_each_option_is_short() -> None:
    commands: Any = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = [(name, option) for name, command in commands.items() for option in command.params]
    texts = {
        f"{name} {max(option.opts, key=len)}": option.help or "" for name, option in options if option.name != "help"
    }
    assert {name: text for name, text in texts.items() if len(text) > MAX_HELP and "--" in name} == {}
