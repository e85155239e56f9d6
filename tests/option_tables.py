"""The README's option tables, generated from the command line: `python -m tests.option_tables` rewrites them."""

import re
from pathlib import Path
from typing import Any

import typer

from charrnn.cli.app import app

README = Path(__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(command_name: str) -> str:
    """One command's options as a Markdown table."""
    command: Any = typer.main.get_command(app).commands[command_name]  # type: ignore[attr-defined]
    rows = ["| option | meaning | default |", "| --- | --- | --- |"]
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            rows.append(f"| {_names(parameter)} | {parameter.help} | {_default(parameter)} |".replace("<", "&lt;"))
    return "\n".join(rows) + "\n"


def _names(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar}"
    return f"`{', '.join(sorted(option.opts, key=len))}{value}`".replace("|", "\\|")


def _default(option: Any) -> str:
    unset = option.default is None or option.default is False or option.default == ""
    return "" if unset else f"`{option.default}`"


def with_current_tables(readme: str) -> str:
    """The README with its tables as they should be."""
    return _TABLE.sub(lambda match: match[1] + render(match[2]) + match[3], readme)


if __name__ == "__main__":
    README.write_text(with_current_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
