"""Options and messages that several commands share."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from charrnn.terminal import escape_controls

COMMON = "Common"

Device = Annotated[
    str,
    typer.Option(
        envvar="CHARRNN_DEVICE",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to compute; auto takes CUDA, else the faster of MPS and CPU by a short trial.",
        rich_help_panel=COMMON,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        envvar="CHARRNN_PRECISION",
        metavar="auto|float32|bfloat16|float16",
        help="auto takes the fastest that loses no quality on this hardware.",
        rich_help_panel=COMMON,
    ),
]
SamplingPrecision = Annotated[
    str,
    typer.Option(
        envvar="CHARRNN_PRECISION",
        metavar="auto|float32|bfloat16|float16|int8",
        help="auto takes the fastest that loses no quality: int8 on an x86 CPU.",
        rich_help_panel=COMMON,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**31 - 1,
        metavar="N",
        help="Everything random follows from it; drawn and reported if unset.",
        rich_help_panel=COMMON,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=COMMON)]
DataDir = Annotated[
    Path,
    typer.Option(
        envvar="CHARRNN_DATA_DIR",
        metavar="DIR",
        help="Where prepared corpora lie by default.",
        rich_help_panel=COMMON,
    ),
]
CheckpointDir = Annotated[
    Path,
    typer.Option(
        envvar="CHARRNN_CHECKPOINT_DIR",
        metavar="DIR",
        help="Where runs lie by default.",
        rich_help_panel=COMMON,
    ),
]

DATA_DIR = Path("data")
CHECKPOINT_DIR = Path("checkpoints")


def tell(message: str) -> None:
    """A line on stderr. Where nobody reads it or it has no room, that is no reason to stop."""
    with contextlib.suppress(OSError):
        print(escape_controls(message), file=sys.stderr, flush=True)
