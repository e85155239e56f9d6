"""The commands in `reference/cli.md`, generated from the command line: `python -m docs.cli` writes them."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from charrnn.cli.app import app

PAGE = Path(__file__).parent / "reference" / "cli.md"
_BEGIN, _END = "<!-- commands -->\n", "<!-- end -->\n"
_GUIDES = {
    "prepare": ("prepare",),
    "train": ("train", "gpus-and-clusters", "preemptible-machines"),
    "sample": ("sample",),
    "score": ("score",),
    "runs": ("compare-runs",),
    "inspect": ("compare-runs",),
    "report": ("report-and-export",),
    "export": ("report-and-export", "javascript"),
}


def render(name: str, command: Any) -> str:
    """The section of a command: its help page as Markdown."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    usage += [_names(option) for option in options if option.required]
    guides = [f"[{guide}](../guides/{guide}.md)" for guide in _GUIDES[name]]
    parts = [
        f"## {name}",
        *_paragraphs(inspect.cleandoc(command.help or "")),
        f"Guides: {', '.join(guides)}.",
        f"```text\ncharrnn {name} {' '.join(usage)} [OPTIONS]\n```".replace("  ", " "),
        "\n".join(f"- `{each.metavar}`: {_escape(each.help)}" for each in arguments),
    ]
    for panel in dict.fromkeys(option.rich_help_panel for option in options):
        rows = [_row(option) for option in options if option.rich_help_panel == panel]
        parts.append("\n".join([f"| {panel or 'Options'} | meaning | default |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring, each in a line, and its examples as code."""
    for paragraph in text.split("\n\n"):
        head, *rest = paragraph.split("\n")
        if any(line.startswith(" ") for line in rest):
            yield "\n".join([head, "", "```text", *map(str.strip, rest), "```"])
        else:
            yield _escape(" ".join([head, *rest]))


def _row(option: Any) -> str:
    return f"| `{_names(option)}` | {option.help} | {_default(option)} |".replace("<", "&lt;")


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar}"
    return f"{', '.join(sorted(option.opts, key=len))}{value}".replace("|", "\\|")


def _default(option: Any) -> str:
    unset = option.default is None or option.default is False or option.default == ""
    default = "" if unset else f"`{option.default}`"
    return f"`${option.envvar}`, else {default}" if option.envvar else default


def _escape(text: str) -> str:
    return text.replace("<", "&lt;")


def with_commands(page: str) -> str:
    """The page with the sections of all commands between its marks; the rest is written by hand."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    commands: Any = typer.main.get_command(app)
    sections = [render(name, command) for name, command in commands.commands.items()]
    return before + _BEGIN + "\n" + "\n".join(sections) + "\n" + _END + after


if __name__ == "__main__":
    PAGE.write_text(with_commands(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
