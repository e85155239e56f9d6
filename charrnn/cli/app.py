"""The application: all commands, and the conversion of errors to exit codes."""

import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from charrnn.cli.export import export
from charrnn.cli.help import Command, UsageError, render_page
from charrnn.cli.inspect import inspect
from charrnn.cli.options import BadValueError, print_message
from charrnn.cli.prepare import prepare
from charrnn.cli.report import report
from charrnn.cli.runs import runs
from charrnn.cli.sample import sample
from charrnn.cli.score import score
from charrnn.cli.train import train
from charrnn.errors import CharRNNError, CharRNNWarning, command_line
from charrnn.terminal import escape_controls, is_main_process, is_single_process
from charrnn.version import __version__


class _Group(TyperGroup):
    """The group of all commands; an error is printed as one line on stderr."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page of all commands."""
        formatter.write(render_page(self, ctx, formatter.width))

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command line."""
        with command_line():
            return super().main(*arguments, **options)

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        has_arguments = bool(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            if not has_arguments:
                raise  # Typer prints the help page
            raise _usage_exit(error) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise _usage_exit(error) from error
        except CharRNNError as error:
            raise _exit(str(error), error.exit_code, is_printed=is_main_process() or error.must_print) from error
        except BrokenPipeError:
            raise typer.Exit(0) from None  # the reader, such as `head`, has closed the pipe
        except OSError as error:
            raise _exit(f"{error.filename or 'input or output'}: {error.strerror}") from error
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
                raise
            raise _exit("out of memory: lower --batch-size, --seq-length, --hidden-size or --num-samples") from error


def _exit(message: str, code: int = 1, *, is_printed: bool = True) -> typer.Exit:
    """Print an error in one line, unless another process prints it; return the exit to raise."""
    if is_printed:
        print("error:", escape_controls(" ".join(message.split())), file=sys.stderr)
    return typer.Exit(code)


def _usage_exit(error: Any) -> typer.Exit:
    """Print a usage error with a hint to the help page; return the exit to raise."""
    message = error.format_message()
    if not isinstance(error, BadValueError):
        command = error.ctx.command_path if error.ctx is not None else "charrnn"
        message = f"{message[:1].lower()}{message[1:].rstrip('.')}; {command} -h prints the options"
    return _exit(message, error.exit_code, is_printed=is_main_process())


def _is_out_of_memory(error: Exception) -> bool:
    """True for errors about memory; PyTorch raises them as RuntimeErrors with various messages."""
    causes = [error, error.__context__]  # a failed clean-up may hide the cause
    messages = " ".join(str(cause).lower() for cause in causes)
    return any(
        sign in messages for sign in ("out of memory", "can't allocate memory", "alloc_failed", "allocation_failed")
    )


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (prepare, train, sample, score, runs, inspect, report, export):
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
    """Train a model on any text and generate text like it.

    Examples:
      charrnn train --minutes 2          train on the tales that come with charrnn
      charrnn sample --temperature 0.5   generate text
      charrnn train book.txt             train on your own text
      charrnn runs                       list the trained models

    `charrnn COMMAND -h` prints the options of a command.
    """


def main() -> None:
    """Run the command line."""
    _open_standard_streams()
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks must not raise an error
    try:
        app()
    except OSError as error:  # raised by printing before a command runs
        sys.exit(_exit(str(error.strerror)).exit_code)
    except SystemExit as end:
        if is_single_process() or not isinstance(end.code, int):
            raise
        _flush()
        os._exit(end.code)  # a thread of gloo may abort the process while the interpreter shuts down
    finally:
        _flush()


def _show_warning(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
    """Print charrnn's warnings in one line, like errors, and other warnings in Python's format."""
    if issubclass(category, CharRNNWarning):
        if is_main_process():  # all processes raise it
            print_message(f"warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _open_standard_streams() -> None:
    """Reopen closed standard streams, so that no other file, such as a checkpoint, gets their descriptors."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, open(number, mode, closefd=False))


def _flush() -> None:
    """Flush stdout; a closed pipe or a full disk must not change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
