"""`charrnn sample`: text from a trained model."""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.cli.options import (
    CHECKPOINT_DIR,
    DATA_DIR,
    CheckpointArgument,
    CheckpointDir,
    DataDir,
    Device,
    Json,
    SamplingPrecision,
    Seed,
    choose_checkpoint,
    declare,
    takes_configs,
    tell,
)
from charrnn.cli.signals import exit_on_signals
from charrnn.config import FILTERS, SamplingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.terminal import escape_controls, json_line, list_characters, prints_unicode

if TYPE_CHECKING:
    from charrnn.api import LanguageModel
    from charrnn.sampling.copies import SuffixArray
    from charrnn.sampling.sampler import Piece
    from charrnn.text.vocabulary import Vocabulary

Write = Callable[[Iterable["Piece"], str, int], None]
"""Write the samples of one prompt: their pieces, what to repeat before each, the seed."""

_QUICKLY_SORTED = 2**22  # characters, in a second or two


@takes_configs
def sample(
    *,
    checkpoint: CheckpointArgument = None,
    prompt: Annotated[str | None, declare("What to continue.", "--prompt", "-p", metavar="TEXT")] = None,
    prompt_file: Annotated[
        str | None,
        declare("Read the prompt from a file or - (stdin); one final line end is dropped.", metavar="FILE"),
    ] = None,
    skip_unknown: Annotated[
        bool, declare("Leave characters out of prompts that the model does not know.", "--skip-unknown")
    ] = False,
    raw: Annotated[bool, declare("Do not make control characters visible on a terminal.", "--raw")] = False,
    no_echo: Annotated[bool, declare("Do not repeat the prompt.", "--no-echo")] = False,
    interactive: Annotated[
        bool, declare("Read a prompt a line from stdin, and continue each.", "--interactive", "-i")
    ] = False,
    config: SamplingConfig,
    corpus: Annotated[
        str | None,
        declare(
            "The text that must not be copied, raw or prepared; default: what the model was trained on.",
            metavar="FILE",
            panel=FILTERS,
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    seed: Seed = None,
    device: Device = "auto",
    precision: SamplingPrecision = "auto",
    data_dir: DataDir = DATA_DIR,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """Write text in the style of the corpus that a model was trained on.

    Examples:
      charrnn sample --temperature 0.5                 by the newest run
      charrnn sample tales --prompt "Once upon a time" --length 400
      charrnn sample names --num-samples 50 --lines 1 --avoid-copying 12
    """
    if corpus == "-" and (interactive or prompt_file == "-"):
        raise OptionError("stdin can be read once: name a file for --corpus")
    if corpus is not None and config.avoid_copying is None and not json:
        raise OptionError("--corpus is for --avoid-copying and for --json: give one of them")
    prompts = _read_prompts(prompt, prompt_file, interactive=interactive)
    from charrnn.api import load
    from charrnn.machine.runtime import seed_everything

    exit_on_signals()

    model = load(choose_checkpoint(checkpoint, checkpoint_dir), device=device, precision=precision, data_dir=data_dir)
    is_required = config.avoid_copying is not None or corpus is not None
    copies = model.index_corpus(corpus) if is_required else _index_small_corpus(model) if json else None
    if json:
        write: Write = functools.partial(_print_json, corpus=copies)
    else:
        _warn_of_what_cannot_be_printed(model.vocabulary.symbols)
        # A stranger's vocabulary may hold what would steer the terminal.
        show = escape_controls if sys.stdout.isatty() and not raw else str
        write = functools.partial(_stream if config.num_samples == 1 else _print_whole, show=show)
    announce_seed = seed is None and not json
    sampler, seed = model.sampler(config, copies), seed_everything(seed)
    failed = False
    prompts = map(model.normalise, prompts)
    if skip_unknown:
        prompts = (_skip_unknown(each, model.vocabulary) for each in prompts)
    for number, each in enumerate(prompts):
        try:
            pieces = sampler.sample(each, seed=seed + number)
            if announce_seed:
                tell(f"seed {seed}")
                announce_seed = False
            write(pieces, "" if no_echo else each, seed + number)
        except CharRNNError as error:
            if not interactive:
                raise
            tell(f"error: {error}")
            failed = not sys.stdin.isatty()
    if failed:
        raise typer.Exit(1)


def _read_prompts(prompt: str | None, prompt_file: str | None, *, interactive: bool) -> Iterable[str]:
    """The one prompt, or one after another. Raises: CharRNNError, OptionError."""
    if not interactive:
        return [_read_prompt(prompt, prompt_file)]
    if prompt is not None or prompt_file is not None:
        raise OptionError("--interactive reads its prompts from stdin: leave --prompt and --prompt-file out")
    return _converse()


def _converse() -> Iterator[str]:
    """The lines of stdin, asked for where somebody sits there."""
    sign = ""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (lines can be edited and called up again)
        sign = "> "
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what no vocabulary has is told as such
    while True:
        try:
            if sys.stdout.isatty():
                yield input(sign).removesuffix("\r")
            else:
                print(end=sign, file=sys.stderr, flush=True)
                yield input().removesuffix("\r")
        except EOFError:
            print(end="\n" if sign else "", file=sys.stderr)
            return


def _index_small_corpus(model: "LanguageModel") -> "SuffixArray | None":
    """The suffix array of the model's corpus, if that is at hand and quickly sorted."""
    if sum(model.vocabulary.counts) <= _QUICKLY_SORTED:
        with contextlib.suppress(CharRNNError):
            return model.index_corpus()
    return None


def _read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt as it was given. Raises: CharRNNError, OptionError."""
    if prompt_file is None:
        return prompt or ""
    if prompt is not None:
        raise OptionError("--prompt and --prompt-file exclude each other: give one")
    try:
        raw = sys.stdin.buffer.read() if prompt_file == "-" else Path(prompt_file).read_bytes()
        return raw.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except OSError as error:
        raise CharRNNError(f"{prompt_file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CharRNNError(f"{prompt_file} is not utf-8 at byte {error.start}: convert it first") from error


def _skip_unknown(prompt: str, vocabulary: "Vocabulary") -> str:
    """The prompt without the characters that have no symbol, which are told."""
    if not (missing := vocabulary.missing(prompt)):
        return prompt
    tell(f"left out of the prompt, since the model does not know them: {list_characters(missing)}")
    return prompt.translate(dict.fromkeys(map(ord, missing)))


def _stream(pieces: Iterable["Piece"], echo: str, seed: int, *, show: Callable[[str], str]) -> None:
    """Write a single sample as it is made; a final line's end is added if it has none."""
    last = echo
    print(show(echo), end="", flush=True)
    for piece in pieces:
        print(show(piece.text), end="", flush=True)
        last = piece.text or last
    print(end="" if last.endswith("\n") else "\n", flush=True)


def _collect(pieces: Iterable["Piece"]) -> Iterator[list["Piece"]]:
    """The pieces of each sample as it ends, in the order of the samples' numbers."""
    made: dict[int, list[Piece]] = {}
    number = 0
    for piece in pieces:
        made.setdefault(piece.index, []).append(piece)
        while number in made and made[number][-1].finish_reason is not None:
            yield made.pop(number)
            number += 1


def _print_whole(pieces: Iterable["Piece"], echo: str, seed: int, *, show: Callable[[str], str]) -> None:
    for sample in _collect(pieces):
        whole = show(echo + "".join(piece.text for piece in sample))
        print(whole, end="" if whole.endswith("\n") else "\n", flush=True)


def _print_json(pieces: Iterable["Piece"], echo: str, seed: int, *, corpus: "SuffixArray | None") -> None:
    for sample in _collect(pieces):
        symbols = "".join(piece.symbols for piece in sample)
        record = {
            "text": echo + "".join(piece.text for piece in sample),
            "seed": seed,
            "index": sample[-1].index,
            "finish_reason": sample[-1].finish_reason,
            "bits_per_char": sample[-1].bits_per_char,
            "longest_copy": None if corpus is None else corpus.longest_copy(symbols),
        }
        print(json_line(record, ascii_only=not prints_unicode()), flush=True)


def _warn_of_what_cannot_be_printed(symbols: Iterable[str]) -> None:
    """Warn of the model's symbols that stdout's encoding lacks."""
    encoding = sys.stdout.encoding
    lacking = sum(symbol.encode(encoding, "ignore") == b"" for symbol in symbols)
    if not prints_unicode() and lacking:
        tell(
            f"warning: {lacking:,} symbols of the model are shown as ?: {encoding} has none; try PYTHONIOENCODING=utf-8"
        )
