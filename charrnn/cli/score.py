"""`charrnn score`: measure the bits per character of a text under a model."""

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.cli.writing import print_text
from charrnn.config import WINDOWS
from charrnn.errors import CharRNNError, OptionError
from charrnn.terminal import Readable, byte_bar, count_of, escape_controls, list_characters, no_bar, print_json
from charrnn.text.sources import COMPRESSIONS

if TYPE_CHECKING:
    from charrnn.runs.scorer import Scored, Scorer
    from charrnn.text.tokenizers import Tokenizer


def score(
    checkpoint: options.CheckpointArgument = None,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A text, raw or prepared, or - for stdin; default: stdin")
    ] = None,
    window: Annotated[
        int | None,
        declare("Reset the state every N symbols; default: never", metavar="N", parse=int, limits=WINDOWS),
    ] = None,
    per_line: Annotated[bool, declare("Print bits per character, a tab and the line, per line", "--per-line")] = False,
    per_char: Annotated[bool, declare("Print bits, a tab and the character, per character", "--per-char")] = False,
    adapt: Annotated[bool, declare("Also score by dynamic evaluation", "--adapt")] = False,
    encoding: Annotated[
        str, declare("Encoding of the text; a byte-order mark takes precedence", metavar="NAME")
    ] = "utf-8",
    json: options.Json = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Measure how well a model predicts a text, in bits per character.

    A text of more than 50,000 characters is read in parallel streams, each after the 64 characters before it;
    --per-char and --window 1048576 read it in one.

    Examples:
      charrnn score tales chapter.txt
      charrnn score tales --per-line lines.txt | sort -n    the likeliest line first
    """
    if per_line and (per_char or window is not None):
        raise OptionError("--per-line excludes --per-char and --window: each line is scored separately")
    if adapt and (per_line or per_char):
        raise OptionError("--adapt scores the whole text: leave --per-line and --per-char out")
    checkpoint, text = _find_arguments(checkpoint, text)
    from charrnn.api import LanguageModel
    from charrnn.machine.runtime import open_runtime
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.text.corpus import read_blocks
    from charrnn.text.documents import split_lines

    raise_exit_on_signals()

    path = options.choose_checkpoint(checkpoint, checkpoint_dir)
    model = LanguageModel(Checkpoint.load(path), path, open_runtime(device, precision, trains=adapt))
    tokenizer = model.tokenizer
    config = replace(tokenizer.config, encoding=encoding, keep_boilerplate=True)
    blocks = read_blocks(text, config)
    prints_parts = per_line or per_char
    bar = no_bar if prints_parts and sys.stdout.isatty() else byte_bar(sys.stderr)
    with bar("scoring", _count_bytes(text)) as advance:
        scorer = model.scorer(lambda num_symbols: advance(round(num_symbols * tokenizer.chars_per_symbol)))
        if per_line:
            _print_lines(scorer.score_lines(split_lines(blocks)), tokenizer, json=json)
        else:
            parts = scorer.score(blocks, window, adapt=adapt, exact=per_char)
            figures = _figures(_printing_chars(parts, tokenizer, json=json) if per_char else parts)
            if not figures:
                name = "stdin" if text == "-" else text
                few = f"fewer than 2 {tokenizer.noun}s of the model's vocabulary"
                raise CharRNNError(f"{name} has {few}: nothing can be scored")
    _report_unknown(scorer, per_line=per_line)
    if not prints_parts:
        details = {"unknown": scorer.num_unknown, "window": window, "checkpoint": str(path), "text": text}
        machine = {"device": str(model.runtime.device), "precision": model.runtime.precision}
        _print_total(figures | details | machine, json=json)


def _print_total(figures: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(figures, flush=True)
        return
    print("{bits_per_char:.4f} bits per character ({loss:.4f} nats), {chars:,.0f} characters".format(**figures))
    if "adapted_bits_per_char" in figures:
        print("{adapted_bits_per_char:.4f} bits per character, adapting to the text".format(**figures))


def _find_arguments(checkpoint: str | None, text: str | None) -> tuple[str | None, str]:
    """The checkpoint and the text. A single argument is the text if this file exists. Raises: OptionError."""
    if checkpoint is not None and text is None and _is_text(checkpoint):
        return None, checkpoint
    if text is None and sys.stdin.isatty():
        raise OptionError("score needs a text: use a file, or - for stdin")
    return checkpoint, "-" if text is None else text


def _is_text(argument: str) -> bool:
    """True for `-` and for any file except a checkpoint."""
    from charrnn.files import container

    path = Path(argument)
    if argument == "-" or not path.exists() or path.is_dir():
        return argument == "-"
    return not container.is_stored(path) or container.kind_of(path) == "corpus"


def _figures(parts: "Iterable[Scored]") -> dict[str, Any]:
    """The mean surprisals of all parts; empty if nothing was scored."""
    bits = num_chars = num_bytes = num_symbols = 0.0
    adapted = None
    for part in parts:
        bits += float(part.surprisals.double().sum())
        num_chars += part.num_chars
        num_bytes += part.num_bytes
        num_symbols += len(part.surprisals)
        if part.adapted is not None:
            adapted = (adapted or 0.0) + float(part.adapted.double().sum())
    if not num_chars:
        return {}
    figures = {
        "bits_per_char": bits / num_chars,
        "loss": bits / num_chars * math.log(2),
        "chars": round(num_chars),
        "bits_per_symbol": bits / num_symbols,
        "symbols": round(num_symbols),
        "perplexity": 2 ** (bits / num_symbols),
        "bytes": round(num_bytes),
        "bits_per_byte": bits / max(num_bytes, 1),
    }
    return figures if adapted is None else figures | {"adapted_bits_per_char": adapted / num_chars}


def _printing_chars(parts: "Iterable[Scored]", tokenizer: "Tokenizer", *, json: bool) -> "Iterator[Scored]":
    """Print the characters of each part with their surprisals; yield the parts."""
    for part in parts:
        for symbol, bits in zip(part.symbols, part.surprisals.tolist(), strict=True):
            char = tokenizer.unmark(symbol)
            if json:
                print_json({"surprisal_bits": bits, "char": char})
            else:
                print(f"{bits:.4f}\t{_show_char(char)}")
        yield part


def _show_char(text: str) -> str:
    """A symbol in one line: control characters and backslashes as Python escapes."""
    return "".join(
        char.encode("unicode_escape").decode() if char == "\\" or not char.isprintable() else char for char in text
    )


def _print_lines(lines: "Iterable[tuple[str, Scored]]", tokenizer: "Tokenizer", *, json: bool) -> None:
    show = escape_controls if sys.stdout.isatty() else str
    errors = "replace" if json or sys.stdout.isatty() else "surrogateescape"
    for line, scored in lines:
        line = Readable(errors)(tokenizer.unmark(line), final=True)
        if json:
            print_json({"bits_per_char": scored.bits_per_char, "unknown": scored.num_unknown, "line": line})
        else:
            print_text(f"{scored.bits_per_char:.4f}\t{show(line)}\n")


def _report_unknown(scorer: "Scorer", *, per_line: bool) -> None:
    if not scorer.num_unknown:
        return
    treatment = "left out" if scorer.tokenizer.unk_id is None else "scored as <unk>"
    if per_line:
        treatment = f"scored with at least {math.log2(scorer.tokenizer.size):.2f} bits each"
    found = count_of(scorer.num_unknown, scorer.tokenizer.noun)
    verb = "was" if scorer.num_unknown == 1 else "were"
    options.print_message(f"{found} outside the vocabulary {verb} {treatment}: {list_characters(scorer.unknown)}")


def _count_bytes(text: str) -> int | None:
    """The size of an uncompressed file; None for stdin and compressed files."""
    with contextlib.suppress(OSError):
        if Path(text).is_file() and Path(text).suffix not in COMPRESSIONS:
            return Path(text).stat().st_size
    return None
