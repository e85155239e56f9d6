"""`charrnn prepare`: convert text to a corpus file of ids and a vocabulary."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.config import REPORTS, PreparationConfig
from charrnn.errors import OptionError
from charrnn.terminal import byte_bar, no_bar
from charrnn.text.sources import find_sources


@options.takes_configs
def prepare(
    *,
    text: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...",
            help="Files (also .gz, .bz2, .xz), folders (their *.txt, sorted) or - for stdin, joined in this order",
        ),
    ],
    output: Annotated[
        Path | None,
        declare("Output file; default: DATA_DIR/NAME.safetensors", "--output", "-o", metavar="FILE"),
    ] = None,
    config: PreparationConfig,
    validate: options.Validate = None,
    recursive: options.Recursive = False,
    force: options.Force = False,
    overwrite: options.Overwrite = False,
    quiet: Annotated[bool, declare("Print errors and warnings only", "--quiet", "-q", panel=REPORTS)] = False,
    json: options.Json = False,
    data_dir: options.DataDir = options.DATA_DIR,
) -> None:
    """Convert text to a corpus file; `train` also does this with default options.

    Examples:
      charrnn prepare book.txt --lowercase
      charrnn prepare poems/ letters.txt.gz -o data/writings.safetensors
      curl -s https://example.org/a.txt | charrnn prepare - -o data/a.safetensors
    """
    if output == Path("-"):
        raise OptionError("prepare cannot write to stdout: use -o FILE")
    sources = find_sources(text, recursive=recursive, force=force)
    validation = [] if validate is None else find_sources([validate], recursive=recursive, force=force)
    from charrnn.text import corpus as corpora
    from charrnn.text.cache import default_output

    raise_exit_on_signals()

    output = output or default_output(text[0], data_dir)
    bar = no_bar if quiet else byte_bar(sys.stderr)
    corpus = corpora.prepare(sources, config, output, validation=validation, overwrite=overwrite, force=force, bar=bar)
    notify = options.notifier(quiet=quiet)
    corpus.report(notify)
    size, length, num_chars = corpus.tokenizer.size, len(corpus.ids), corpus.tokenizer.num_chars
    if json:
        summary = {
            "corpus": str(output),
            "characters": num_chars,
            "unit": config.unit,
            "symbols": length,
            "vocabulary": size,
        }
        if config.separator_text is not None:
            summary["documents"] = corpus.tokenizer.num_documents
        print(json_module.dumps(summary), flush=True)
    else:
        symbols = "" if config.unit == "char" else f" in {length:,} {config.unit}s"
        notify(f"{output}: {num_chars:,} characters{symbols}, {size:,} distinct symbols")
