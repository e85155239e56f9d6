"""Write samples as text or JSON to stdout or to a file; `sample.py` generates them."""

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.config import SamplingConfig
from charrnn.files.atomic import write_atomically
from charrnn.terminal import Notify, Readable, can_print, count_of, escape_controls, json_line, prints_unicode, readable
from charrnn.text.words import EOS_MARK

if TYPE_CHECKING:
    from charrnn.sampling.constraints import Piece
    from charrnn.sampling.copies import CopyIndex
    from charrnn.text.tokenizers import Prompt, Tokenizer


@dataclass(frozen=True)
class Batch:
    """Samples that continue one prompt at one temperature.

    `echo` is printed before each sample, `note` once on stderr.
    """

    config: SamplingConfig
    echo: "Prompt | None"
    seed: int
    pieces: Iterable["Piece"]
    note: str


Formatter = Callable[[Iterable[Batch]], Iterator[str]]
"""Yield the output for the samples of a prompt while they are generated."""

_COUNT_DELAY_S = 0.5
_COLOURS = ((1.0, "green", 34), (3.0, "gold", 178), (6.0, "red", 160))
"""The colours of symbols: min surprisal in bits, name, number in the terminal's palette of 256."""


def write(parts: Iterable[str], output: Path | None, *, overwrite: bool) -> None:
    """Write a text in parts to stdout, or in UTF-8 to a file that appears when it is complete.

    A surrogate is written as the byte that it represents. Raises: CharRNNError.
    """
    if output is not None:
        encoded = (part.encode("utf-8", "surrogateescape") for part in parts)
        write_atomically(output, encoded, exclusive=not overwrite)
        return
    for part in parts:
        print_text(part)
        sys.stdout.flush()


def print_text(text: str) -> None:
    """Print to stdout; a surrogate is written as the byte that it represents."""
    if text.isascii() or not any("\udc80" <= char <= "\udcff" for char in text):
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


def as_text(batches: Iterable[Batch], separator: str, view: "View", notify: Notify) -> Iterator[str]:
    """The samples of a prompt with a separator between them, and a line end after the last one.

    A single sample is written while it is generated, several are written when complete. Samples that were given up
    before their first symbol are left out.
    """
    for number, batch in enumerate(batches):
        if number:
            yield separator
        if batch.note:
            notify(batch.note)
        samples = [batch.pieces] if batch.config.num_samples == 1 else filter(_has_text, collect(batch.pieces))
        for index, sample in enumerate(samples):
            if index:
                yield separator
            yield from _without_line_end(view.show(batch.echo, sample))
    yield "\n"


def as_json(
    batches: Iterable[Batch], tokenizer: "Tokenizer", corpus: "CopyIndex | None", *, ascii_only: bool
) -> Iterator[str]:
    """One line of JSON per sample."""
    for batch in batches:
        for sample in collect(batch.pieces):
            echo = batch.echo if _has_text(sample) else None
            before, unfinished = ("", "") if echo is None else (echo.text, echo.unfinished)
            parts = [("" if echo is None else piece.echo, piece.marked(tokenizer.eos_id)) for piece in sample]
            drawn = "".join(text for _, text in parts)
            marked = "".join(itertools.chain.from_iterable(parts))
            record = {
                "text": readable(before + tokenizer.unmark(marked)),
                "seed": batch.seed,
                "index": sample[-1].index,
                "temperature": batch.config.temperature,
                "finish_reason": sample[-1].finish_reason,
                "bits_per_char": sample[-1].bits_per_char,
                "longest_copy": None if corpus is None else len(corpus.longest_copy(drawn)),
            }
            if tokenizer.eos_id is not None:
                documents = (unfinished + marked).removesuffix(EOS_MARK).split(EOS_MARK)
                record["documents"] = list(map(readable, documents)) if before or marked else []
            yield json_line(record, ascii_only=ascii_only) + "\n"


def shows_count(output: Path | None) -> bool:
    """True if stderr is a terminal, and the samples are not printed on it."""
    return sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


def counted(pieces: Iterable["Piece"], total: int) -> Iterator["Piece"]:
    """Yield the pieces; show the number of completed samples on stderr, if sampling takes longer."""
    from tqdm import tqdm

    form = "{n_fmt} of {total_fmt} samples, {remaining} left"
    with tqdm(total=total, bar_format=form, leave=False, delay=_COUNT_DELAY_S) as bar:
        for piece in pieces:
            bar.update(piece.finish_reason is not None)
            yield piece


def collect(pieces: Iterable["Piece"]) -> Iterator[list["Piece"]]:
    """The pieces of each complete sample, in the order of the sample numbers."""
    pieces_of: dict[int, list[Piece]] = {}
    number = 0
    for piece in pieces:
        pieces_of.setdefault(piece.index, []).append(piece)
        while number in pieces_of and pieces_of[number][-1].finish_reason is not None:
            yield pieces_of.pop(number)
            number += 1


def _has_text(sample: Sequence["Piece"]) -> bool:
    """False for a sample that was given up before its first symbol."""
    return sample[-1].finish_reason != "given_up" or any(piece.ids for piece in sample)


def _without_line_end(parts: Iterable[str]) -> Iterator[str]:
    """The same text without a line end at its end."""
    pending = ""
    for part in parts:
        text = pending + part
        pending = "\n" if text.endswith("\n") else ""
        yield text.removesuffix("\n")


@dataclass(frozen=True)
class View:
    """How text is displayed: with escaped control characters, with colours by surprisal, or unchanged."""

    escape: Callable[[str], str] = str
    has_colours: bool = False
    errors: str = "surrogateescape"

    def show(self, echo: "Prompt | None", sample: Iterable["Piece"]) -> Iterator[str]:
        """Yield the echo and the text of a sample in pieces."""
        show = Readable(self.errors)
        for number, piece in enumerate(sample):
            if echo is not None and number == 0 and _has_text([piece]):
                yield self.escape(show(echo.text))
            yield self.escape(show("" if echo is None else piece.echo))
            if self.has_colours:
                for text, nats in zip(piece.texts, piece.nats, strict=True):
                    yield _paint(self.escape(show(text)), nats / math.log(2))
            yield self.escape(show("" if self.has_colours else piece.text, final=piece.finish_reason is not None))


def view_on_stdout(tokenizer: "Tokenizer", notify: Notify, show_surprisal: bool, raw: bool) -> View:
    """The view for stdout: a terminal gets escaped control characters and, with `show_surprisal`, colours."""
    if not (tokenizer.config.keeps_bytes or prints_unicode()):
        lacking = sum(not can_print(symbol, sys.stdout) for symbol in tokenizer.symbols)
        remedy = f"shown as ?, because stdout is in {sys.stdout.encoding}: try PYTHONIOENCODING=utf-8"
        if lacking:
            notify(f"{count_of(lacking, 'symbol')} of the model will be {remedy}", warning=True)
    if not sys.stdout.isatty():
        return View()
    has_colours = show_surprisal and not os.environ.get("NO_COLOR")
    if has_colours:
        notify(", ".join(f"{name} from {bits:g}" for bits, name, _ in _COLOURS) + " bits of surprisal")
    # The vocabulary of a downloaded model may contain control characters.
    escape = str if raw else escape_controls
    return View(escape, has_colours, "surrogateescape" if raw else "replace")


def _paint(text: str, bits: float) -> str:
    """Colour a symbol by its surprisal: a space gets a background colour, a line end no colour."""
    numbers = [number for least, _, number in _COLOURS if bits >= least]
    if not numbers or not text.strip("\n"):
        return text
    return f"\x1b[{48 if text.isspace() else 38};5;{numbers[-1]}m{text}\x1b[0m"
