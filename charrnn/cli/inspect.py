"""`charrnn inspect`: the content of a prepared corpus or a checkpoint."""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from charrnn.cli.options import CHECKPOINT_DIR, CheckpointDir, Json, declare, print_message
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.errors import CharRNNError, OptionError
from charrnn.terminal import align, escape, format_bytes, print_json

_MAX_SYMBOLS, _DIGEST_CHARS = 4, 16
"""Limits for a column of the table, so that several fit on a screen."""


def inspect(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Prepared corpora, checkpoints, folders or names of runs (their best checkpoint)"
        ),
    ],
    slim: Annotated[
        Path | None,
        declare("Write the checkpoint without the optimizer state to FILE", metavar="FILE"),
    ] = None,
    json: Json = False,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """Verify corpora and checkpoints, and print what they contain.

    Examples:
      charrnn inspect tales data/tales.safetensors
      charrnn inspect tales first-try                    side by side
      charrnn inspect tales --slim tales.safetensors     a small file to share
    """
    if slim is not None and len(paths) > 1:
        raise OptionError(f"--slim is for one checkpoint, not {len(paths)}: run it once for each")
    from charrnn.runs import inspection
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.runs.folder import find_checkpoint

    raise_exit_on_signals()

    if slim is not None:
        path = find_checkpoint(paths[0], checkpoint_dir)
        if os.path.lexists(slim):
            raise CharRNNError(f"{slim} exists: name another file, or remove it first")
        Checkpoint.load(path).slim().save(slim)
        before, after = (format_bytes(each.stat().st_size) for each in (path, slim))
        print_message(f"{slim}: {after} instead of {before}; now run: charrnn sample {shlex.quote(str(slim))}")
        paths = [str(slim)]
    found = [inspection.inspect(path, checkpoint_dir) for path in paths]
    if json:
        for facts in found:
            print_json(facts, flush=True)
        return
    tables = [dict(_flatten(facts)) for facts in found]
    names = dict.fromkeys(name for table in tables for name in table)
    for line in align([[name, *(table.get(name, "") for table in tables)] for name in names], left=1 + len(tables)):
        print(line)


def _flatten(facts: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested facts to pairs of a name and a text; the name of a section is a prefix."""
    for name, value in facts.items():
        label = f"{section} {name}".strip().replace("_", " ")
        if name in ("most_frequent", "rarest"):
            yield label, ", ".join(f"{symbol!r} {count}" for symbol, count in [*value.items()][:_MAX_SYMBOLS])
        elif isinstance(value, Mapping):
            yield from _flatten(value, name)
        elif value is not None:
            yield label, _show(name, value)


def _show(name: str, value: object) -> str:
    if name == "bytes" and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if name == "separator":
        return escape(str(value))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if name == "source_digest":
        return str(value)[:_DIGEST_CHARS]
    return f"{value:,}" if isinstance(value, int) and name != "seed" else str(value)
