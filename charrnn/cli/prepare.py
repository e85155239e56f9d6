"""`charrnn prepare`: raw text to an index tensor and its vocabulary."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

from charrnn.cli.options import DATA_DIR, DataDir, Json
from charrnn.cli.signals import exit_on_signals
from charrnn.config import PreparationConfig as Defaults
from charrnn.terminal import escape_controls
from charrnn.text.sources import find_sources


def prepare(
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
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Default: <stem of the first source>.safetensors in --data-dir.",
        ),
    ] = None,
    encoding: Annotated[
        str, typer.Option(metavar="NAME", help="The texts' encoding; a byte-order mark is honoured.")
    ] = Defaults.encoding,
    ascii: Annotated[  # noqa: A002 (the option's name)
        bool, typer.Option("--ascii", help="Transliterate to ASCII, here and in every prompt.")
    ] = Defaults.ascii,
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="Fold case, here and in every prompt.")
    ] = Defaults.lowercase,
    min_count: Annotated[
        int,
        typer.Option(metavar="N", help="Rarer symbols become one unknown symbol, which is never sampled."),
    ] = Defaults.min_count,
    max_vocab: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep the most frequent symbols only, N with the unknown one."),
    ] = Defaults.max_vocab,
    keep_boilerplate: Annotated[
        bool, typer.Option("--keep-boilerplate", help="Keep Project Gutenberg's header and licence.")
    ] = Defaults.keep_boilerplate,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    json: Json = False,
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Turn raw text into an index tensor and its vocabulary, for `train`."""
    config = Defaults(
        encoding=encoding,
        ascii=ascii,
        lowercase=lowercase,
        min_count=min_count,
        max_vocab=max_vocab,
        keep_boilerplate=keep_boilerplate,
    )
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
