"""The application: its commands, and the one place where errors become exit codes."""

import io
import os
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from charrnn.cli import export, inspect, prepare, report, runs, sample, score, train
from charrnn.cli.help import Command, UsageError, render_page
from charrnn.cli.options import BadValueError, tell
from charrnn.errors import CharRNNError, CharRNNWarning, command_line
from charrnn.terminal import escape_controls, is_alone, speaks
from charrnn.version import __version__


class _Group(TyperGroup):
    """Commands whose errors end them with one line on stderr."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page of all commands."""
        formatter.write(render_page(self, ctx, formatter.width))

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command line."""
        with command_line():
            return super().main(*arguments, **options)

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        has_none = not args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            if has_none:
                raise  # the help page is shown
            raise _exit_of_usage(error) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise _exit_of_usage(error) from error
        except CharRNNError as error:
            if not (speaks() or error.is_claimed):  # another process says the same
                raise typer.Exit(error.exit_code) from error
            raise _exit(str(error), error.exit_code) from error
        except BrokenPipeError:
            raise typer.Exit(0) from None  # the reader, say `head`, has had enough
        except OSError as error:
            raise _exit(f"{error.filename or 'input or output'}: {error.strerror}") from error
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            raise _exit("out of memory: lower --batch-size, --seq-length, --hidden-size or --num-samples") from error


def _exit(message: str, code: int = 1) -> typer.Exit:
    """Say what is wrong in one line; returns the exit to raise."""
    print("error:", escape_controls(" ".join(message.split())), file=sys.stderr)
    return typer.Exit(code)


def _exit_of_usage(error: Any) -> typer.Exit:
    """Say what is wrong with a command line, and where its options are listed; returns the exit to raise."""
    if not speaks():  # another process says the same
        return typer.Exit(error.exit_code)
    message = error.format_message()
    if not isinstance(error, BadValueError):
        page = f"{error.ctx.command_path} -h" if error.ctx is not None else "charrnn -h"
        message = f"{message[:1].lower()}{message[1:].rstrip('.')}; {page} tells more"
    return _exit(message, error.exit_code)


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch raises RuntimeErrors of several wordings, on a CPU without a class of their own."""
    if isinstance(error, MemoryError):
        return True
    causes = [error, error.__context__]  # a failed clean-up may mask the cause
    told = " ".join(str(cause).lower() for cause in causes if cause is not None)
    return any(sign in told for sign in ("out of memory", "can't allocate memory", "alloc_failed", "allocation_failed"))


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    prepare.prepare,
    train.train,
    sample.sample,
    score.score,
    runs.runs,
    inspect.inspect,
    report.report,
    export.export,
):
    app.command(command.__name__, cls=Command)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"charrnn {__version__}")
        raise typer.Exit


@app.callback()
def charrnn_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn any text into a model that writes like it.

    Examples:
      charrnn train --minutes 2          learn from the tales that come with charrnn
      charrnn sample --temperature 0.5   write like them
      charrnn train book.txt             learn from a text of your own
      charrnn runs                       see what was trained

    `charrnn COMMAND -h` tells what a command can do.
    """


def main() -> None:
    """Run the command line."""
    _open_standard_streams()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character must not end a sample
    try:
        app()
    except OSError as error:  # of what is printed before a command begins
        sys.exit(_exit(str(error.strerror)).exit_code)
    except SystemExit as end:
        if is_alone() or not isinstance(end.code, int):
            raise
        _flush()
        os._exit(end.code)  # a thread of gloo that wants the interpreter while that is torn down aborts the process
    finally:
        _flush()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print our own warnings as the command line prints its errors, and others as Python does."""
    if issubclass(category, CharRNNWarning):
        if speaks():  # of several processes each meets it
            tell(f"warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _open_standard_streams() -> None:
    """Open those that the caller closed, lest the next file, say a checkpoint, take their place."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, open(number, mode, closefd=False))


def _flush() -> None:
    """A reader who has gone must not change the exit code any more, nor a full disk that was told of."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
