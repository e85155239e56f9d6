"""The application: its commands, and the one place where errors become exit codes."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import charrnn
from charrnn.cli import prepare, sample, train
from charrnn.cli.signals import exit_on_signals
from charrnn.errors import CharRNNError


class _Group(TyperGroup):
    """Commands whose CharRNNErrors end them with one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CharRNNError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            # The reader, say `head`, has had enough. What is still buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            print(f"error: {error.filename or 'input or output'}: {error.strerror}", file=sys.stderr)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prepare")(prepare.prepare)
app.command("train")(train.train)
app.command("sample")(sample.sample)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"charrnn {charrnn.__version__}")
        raise typer.Exit


@app.callback()
def charrnn_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn any text into a model that writes like it.

    Three commands: prepare a text (optional), train a model on it, sample new text from the model.
    """


def main() -> None:
    """Run the command line."""
    exit_on_signals()
    app()
