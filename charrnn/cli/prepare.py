"""`charrnn prepare`: raw text to an index tensor and its vocabulary."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

from charrnn.cli.options import DATA_DIR, DataDir, Json, declare, takes_configs
from charrnn.cli.signals import exit_on_signals
from charrnn.config import PreparationConfig
from charrnn.terminal import escape_controls
from charrnn.text.sources import find_sources


@takes_configs
def prepare(
    *,
    text: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Files, folders (their *.txt, sorted) or - for stdin, joined in order; "
            ".gz, .bz2 and .xz are read as they are.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        declare("Default: <stem of the first source>.safetensors in --data-dir.", "--output", "-o", metavar="FILE"),
    ] = None,
    config: PreparationConfig,
    overwrite: Annotated[bool, declare("Replace an existing output.", "--overwrite")] = False,
    json: Json = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Turn raw text into an index tensor and its vocabulary, for `train`."""
    sources = find_sources(text)
    from charrnn.text import corpus as corpora

    exit_on_signals()

    output = output or corpora.default_output(text[0], data_dir)
    corpus = corpora.prepare(sources, config, output, overwrite=overwrite)
    for note in corpus.notes:
        print(escape_controls(note), file=sys.stderr)
    if json:
        size = corpus.vocabulary.size
        summary = {"corpus": str(output), "characters": len(corpus.indices), "vocabulary": size}
        print(json_module.dumps(summary), flush=True)
    else:
        print(
            f"{escape_controls(str(output))}: {len(corpus.indices):,} characters, "
            f"{corpus.vocabulary.size:,} distinct symbols",
            file=sys.stderr,
        )
