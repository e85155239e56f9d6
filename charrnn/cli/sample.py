"""`charrnn sample`: generate text with a trained model."""

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.cli.writing import Batch, Formatter, View, as_json, as_text, counted, shows_count, view_on_stdout, write
from charrnn.config import COMMON, FILTERS, SamplingConfig, options_of
from charrnn.errors import CharRNNError, OptionError, UnknownSymbolsError
from charrnn.terminal import Notify, decode_argument, list_characters, prints_unicode, unescape

if TYPE_CHECKING:
    from charrnn.api import LanguageModel
    from charrnn.sampling.constraints import Piece
    from charrnn.sampling.copies import CopyIndex
    from charrnn.sampling.generate import Sampler

_QUICKLY_INDEXED = 2**22  # characters; indexing them takes a second
_TEMPERATURE = options_of(SamplingConfig)["temperature"]


@options.takes_configs
def sample(
    *,
    checkpoint: options.CheckpointArgument = None,
    prompt: Annotated[
        str | None, declare("Text to continue", "--prompt", "-p", metavar="TEXT", parse=decode_argument)
    ] = None,
    prompt_file: Annotated[
        str | None, declare("Read the prompt from a file, or from stdin (-)", metavar="FILE")
    ] = None,
    output: Annotated[Path | None, declare("Output file; - is stdout", "--output", "-o", metavar="FILE")] = None,
    overwrite: options.Overwrite = False,
    separator: Annotated[str, declare("Text between samples, with escapes such as \\n", metavar="TEXT")] = r"\n\n",
    show_surprisal: Annotated[bool, declare("Colour each symbol by its surprisal in bits", "--show-surprisal")] = False,
    skip_unknown: Annotated[
        bool, declare("Drop characters of the prompt that the model lacks", "--skip-unknown")
    ] = False,
    raw: Annotated[bool, declare("Print control characters unescaped on a terminal", "--raw")] = False,
    no_echo: Annotated[bool, declare("Do not print the prompt", "--no-echo")] = False,
    interactive: Annotated[bool, declare("Read one prompt per line from stdin", "--interactive", "-i")] = False,
    keep_state: Annotated[bool, declare("With --interactive: keep the state between lines", "--keep-state")] = False,
    config: SamplingConfig,
    temperature: Annotated[
        str,
        declare(
            f"{_TEMPERATURE.help}; several: 0.3,0.7,1",
            "--temperature",
            "-t",
            metavar="X,...",
            panel=FILTERS,
        ),
    ] = str(SamplingConfig.temperature),
    corpus: Annotated[
        str | None,
        declare(
            "Text not to copy, if it is not the training text",
            metavar="FILE",
            panel=FILTERS,
        ),
    ] = None,
    quiet: Annotated[bool, declare("Print errors and warnings only", "--quiet", "-q", panel=COMMON)] = False,
    json: options.Json = False,
    seed: options.Seed = None,
    device: options.Device = "auto",
    precision: options.SamplingPrecision = "auto",
    data_dir: options.DataDir = options.DATA_DIR,
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Generate text with a trained model.

    Examples:
      charrnn sample --temperature 0.5                 the newest run
      charrnn sample tales --prompt "Once upon a time" --length 400
      charrnn sample names --num-samples 50 --lines 1 --avoid-copying 12
    """
    if corpus == "-" and (interactive or prompt_file == "-"):
        raise OptionError("stdin can only be read once: use a file for --corpus")
    if corpus is not None and config.avoid_copying is None and not config.new and not json:
        raise OptionError("--corpus is for --avoid-copying, --new and --json: use one of them")
    if keep_state and not (interactive and config.num_samples == 1 and "," not in temperature):
        raise OptionError("--keep-state needs --interactive, one sample and one temperature")
    if interactive and (prompt is not None or prompt_file is not None):
        raise OptionError("--interactive reads its prompts from stdin: leave --prompt and --prompt-file out")
    output = options.require_output(output, overwrite=overwrite)
    if show_surprisal and (json or output is not None):
        raise OptionError("--show-surprisal is for a terminal: leave --json and --output out")
    configs = [replace(config, temperature=each) for each in _parse_temperatures(temperature)]
    from charrnn.api import LanguageModel
    from charrnn.machine.runtime import seed_everything

    raise_exit_on_signals()

    notify = options.notifier(quiet=quiet)
    path = options.choose_checkpoint(checkpoint, checkpoint_dir, notify)
    model = LanguageModel.open(path, device=device, precision=precision, data_dir=data_dir)
    _warn_of_likely_mistakes(temperature, config.ban, model, notify)
    takes_bytes = model.tokenizer.config.keeps_bytes
    prompts = _read_lines(takes_bytes) if interactive else [_read_prompt(prompt, prompt_file, takes_bytes)]
    documents = model.known_documents(corpus) if config.new else None
    copies = _index_corpus(model, config, corpus, json=json)
    formatter: Formatter
    if json:
        ascii_only = output is None and not prints_unicode()
        formatter = functools.partial(as_json, tokenizer=model.tokenizer, corpus=copies, ascii_only=ascii_only)
    else:
        view = View() if output is not None else view_on_stdout(model.tokenizer, notify, show_surprisal, raw)
        formatter = functools.partial(as_text, separator=unescape(separator), view=view, notify=notify)
    make_sampler = functools.partial(model.sampler, corpus=copies, known=documents)
    session = _Session(
        make_sampler=functools.lru_cache(maxsize=1)(make_sampler),  # a sampler has large tensors
        configs=configs,
        formatter=formatter,
        seed=seed_everything(seed),
        notify=notify,
        is_seed_known=seed is not None,
        skips_unknown=skip_unknown,
        echoes=not no_echo,
        keeps_state=keep_state,
        shows_progress=config.num_samples > 1 and not (quiet or interactive) and shows_count(output),
    )
    texts = session.continue_all(map(model.normalise, prompts), skip_errors=interactive)
    write(texts, output, overwrite=overwrite)
    if session.has_failed and not (interactive and sys.stdin.isatty()):
        raise typer.Exit(1)


@dataclass(kw_only=True)
class _Session:
    """Generate samples for one prompt after another, at each temperature.

    `has_failed` is True after a prompt that could not be continued or a sample that was given up.
    """

    make_sampler: "Callable[[SamplingConfig], Sampler]"
    configs: Sequence[SamplingConfig]
    formatter: Formatter
    seed: int
    notify: Notify
    is_seed_known: bool
    skips_unknown: bool
    echoes: bool
    keeps_state: bool
    shows_progress: bool
    has_failed: bool = False
    errors: list[CharRNNError] = field(default_factory=list)

    def continue_all(self, prompts: Iterable[str], *, skip_errors: bool) -> Iterator[str]:
        """The output for all prompts. Raises: CharRNNError; with `skip_errors` errors are printed instead."""
        for number, prompt in enumerate(prompts):
            try:
                yield from self.formatter(self._batches(prompt, self.seed + number))
            except CharRNNError as error:
                if isinstance(error, UnknownSymbolsError):
                    remedy = "--skip-unknown leaves them out"
                    if "\\" in error.missing:
                        remedy = rf"escapes are not supported in prompts: use $'\n' in bash, or --prompt-file; {remedy}"
                    error.args = (f"{error}; {remedy}",)
                if not skip_errors or isinstance(error, OptionError):
                    raise
                options.print_message(f"error: {error}")
                self.has_failed = True
            finally:
                while self.errors:  # printed after the last line end of the text
                    options.print_message(f"error: {self.errors.pop(0)}")

    def _batches(self, text: str, seed: int) -> Iterator[Batch]:
        """The samples of a prompt at each temperature."""
        for number, config in enumerate(self.configs):
            sampler = self.make_sampler(config)
            prompt = sampler.read_prompt(text, skip_unknown=self.skips_unknown)
            if number == 0 and prompt.missing:
                message = "not in the vocabulary, read as <unk>"
                if self.skips_unknown:
                    message = "not in the vocabulary, left out of the prompt"
                self.notify(f"{message}: {list_characters(prompt.missing)}")
            pieces = sampler.sample(prompt, seed=seed, keeps_state=self.keeps_state)
            notes = [] if self.is_seed_known else [f"seed {self.seed}"]
            if len(self.configs) > 1:
                notes.append(f"temperature {config.temperature:g}")
            self.is_seed_known = True
            if self.shows_progress:
                pieces = counted(pieces, config.num_samples)
            echo = prompt if self.echoes else None
            yield Batch(config, echo, seed, self._store_errors(pieces), ", ".join(notes))

    def _store_errors(self, pieces: "Iterator[Piece]") -> "Iterator[Piece]":
        """Yield the pieces; store an error about samples that were given up."""
        try:
            yield from pieces
        except CharRNNError as error:
            self.errors.append(error)
            self.has_failed = True


def _warn_of_likely_mistakes(temperature: str, ban: str, model: "LanguageModel", notify: Notify) -> None:
    """Report a decimal comma, and banned characters that the model cannot generate."""
    from charrnn.sampling.filters import writable_characters

    if re.fullmatch(r"\d,\d+", temperature):
        point = temperature.replace(",", ".")
        notify(f"-t {temperature} is two temperatures: use {point} for a decimal number", warning=True)
    known = writable_characters(SamplingConfig(), model.tokenizer)
    unknown = {char for char in ban if not known.issuperset(model.tokenizer.mark(model.normalise(char)))}
    if unknown:
        notify(f"banned, but not in the vocabulary: {list_characters(unknown)}")


def _parse_temperatures(temperature: str) -> list[float]:
    """Parse a comma-separated list of temperatures. Raises: OptionError."""
    try:
        return [float(each) for each in temperature.split(",")]
    except ValueError:
        limits = f"{_TEMPERATURE.limits}, or several, such as 0.3,0.7,1"
        raise OptionError(f"--temperature is {temperature}: it must be {limits}") from None


def _read_lines(takes_bytes: bool) -> Iterator[str]:
    """The lines of stdin, with a prompt sign on a terminal."""
    sign = ""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (line editing and history)
        sign = "> "
    if isinstance(sys.stdin, io.TextIOWrapper):
        # UTF-8 in every locale. Invalid bytes become U+FFFD, which is reported because no vocabulary contains it.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape" if takes_bytes else "replace")
    while True:
        try:
            if not sys.stdout.isatty():
                print(end=sign, file=sys.stderr, flush=True)
            yield input(sign if sys.stdout.isatty() else "").removesuffix("\r")
        except EOFError:
            print(end="\n" if sign else "", file=sys.stderr)
            return


def _index_corpus(
    model: "LanguageModel", config: SamplingConfig, corpus: str | None, *, json: bool
) -> "CopyIndex | None":
    """The index of a corpus, to avoid copies or to report them in JSON; for JSON only if indexing is fast."""
    if config.avoid_copying is not None or (corpus is not None and not config.new):
        return model.index_corpus(corpus)
    if json and model.tokenizer.num_chars <= _QUICKLY_INDEXED:
        with contextlib.suppress(CharRNNError):
            return model.index_corpus()
    return None


def _read_prompt(prompt: str | None, prompt_file: str | None, takes_bytes: bool) -> str:
    """The prompt, with surrogates for bytes that are not UTF-8. Raises: CharRNNError, OptionError."""
    if prompt_file is None:
        return prompt or ""
    if prompt is not None:
        raise OptionError("--prompt and --prompt-file exclude each other: use one")
    try:
        raw = sys.stdin.buffer.read() if prompt_file == "-" else Path(prompt_file).read_bytes()
        if takes_bytes:
            return raw.decode("utf-8", "surrogateescape").removesuffix("\n")
        return raw.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except OSError as error:
        raise CharRNNError(f"{prompt_file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CharRNNError(f"{prompt_file} is not utf-8 at byte {error.start}: convert it first") from error
