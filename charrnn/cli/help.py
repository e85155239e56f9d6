"""Help pages in plain text: usage, the command's docstring with its examples, options by panel, exit codes."""

import inspect
import itertools
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from charrnn.cli.options import CHECKPOINT_DIR
from charrnn.machine.contention import sharing_cores

UsageError: Any = typer.BadParameter.__base__
"""The base class of usage errors, which Typer does not export."""
_OPTION_WIDTH = 24
_EXIT_CODES = (
    ("0", "success"),
    ("1", "error; explained on stderr"),
    ("2", "wrong usage, such as an option out of its range"),
    ("128 + N", "after signal N, such as 130 after Ctrl-C; train saves first"),
)


class Command(TyperCommand):
    """A command with a plain-text help page."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; threads sleep under CPU contention."""
        with sharing_cores():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; usage errors get the context of this command."""
        try:
            self._reject_names(args)
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def _reject_names(self, args: list[str]) -> None:
        """Raises: UsageError for an argument that looks like an option but is the name of a file or a run."""
        options, with_value = {name for option in self.params for name in option.opts}, value_options(self)
        runs = os.environ.get("CHARRNN_CHECKPOINT_DIR") or CHECKPOINT_DIR
        for before, argument in itertools.pairwise(["", *itertools.takewhile(lambda each: each != "--", args)]):
            if argument in options or argument == "-" or not argument.startswith("-") or before in with_value:
                continue
            if os.path.exists(argument) or os.path.exists(os.path.join(runs, argument)):  # noqa: PTH110, PTH118
                raise UsageError(f"{argument} is read as an option, but a file or run has this name: use -- {argument}")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write(render_page(self, ctx, formatter.width))


def value_options(command: Any) -> set[str]:
    """The names of the options of a command that take a value."""
    return {name for option in command.params for name in option.opts if not getattr(option, "is_flag", True)}


def render_page(command: Any, ctx: Any, width: int) -> str:
    """The help page of a command or of the group, in lines of at most `width` columns."""
    parameters = [parameter for parameter in command.get_params(ctx) if "--help" not in parameter.opts]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    commands = getattr(command, "commands", {})
    usage = ["COMMAND", "[ARGUMENTS]"] if commands else []
    usage += [argument.metavar if argument.required else f"[{argument.metavar}]" for argument in arguments]
    required = [_flags(option).strip() for option in options if option.required]
    parts = [" ".join([_bold("Usage:"), ctx.command_path, *usage, *required, "[OPTIONS]"])]
    parts += _paragraphs(inspect.cleandoc(command.help or ""), width)
    parts += _section("", [(argument.metavar, argument.help or "") for argument in arguments], width)
    summaries = [(name, each.help.partition("\n\n")[0]) for name, each in commands.items()]
    parts += _section("Commands", summaries, width)
    for panel in dict.fromkeys(option.rich_help_panel for option in options):
        rows = [(_flags(option), _explain(option)) for option in options if option.rich_help_panel == panel]
        parts += _section(panel or "Options", rows, width, _OPTION_WIDTH)
    parts += _section("Exit codes", _EXIT_CODES, width)
    return "\n\n".join(parts)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """Wrap the paragraphs of a docstring, except those with indented lines, such as examples."""
    for paragraph in filter(None, text.split("\n\n")):
        head, *rest = paragraph.split("\n")
        if any(line.startswith(" ") for line in rest):
            yield "\n".join([_bold(head), *rest])
        else:
            yield textwrap.fill(paragraph, width)


def _section(title: str, rows: Sequence[tuple[str, str]], width: int, name_width: int | None = None) -> list[str]:
    """A title with rows of two columns; the first is `name_width` wide or fits all names. Empty without rows."""
    name_width = name_width or max((len(name) for name, _ in rows), default=0)
    column = " " * (name_width + 4)
    lines = [_bold(title)] if title and rows else []
    for name, text in rows:
        head = f"  {name}".ljust(len(column))
        if len(name) > name_width:  # the text starts on the next line
            lines.append(f"  {name}")
            head = column
        filled = textwrap.fill(text, width, initial_indent=head, subsequent_indent=column, break_on_hyphens=False)
        lines.append(filled or head.rstrip())
    return ["\n".join(lines)] if lines else []


def _flags(option: Any) -> str:
    """The names of an option, the short one first, with the metavar of its value."""
    names = sorted(option.opts, key=len)
    value = "" if option.is_flag else f" {option.metavar}"
    return ("" if len(names) > 1 else "    ") + ", ".join(names) + value


def _explain(option: Any) -> str:
    """The help of an option with its default and its environment variable."""
    if option.default in (None, "") or option.default is False:
        return str(option.help)
    variable = f"${option.envvar}, else " if option.envvar else ""
    return f"{option.help}; default: {variable}{option.default}"


def _bold(text: str) -> str:
    return text if os.environ.get("NO_COLOR") else typer.style(text, bold=True)
