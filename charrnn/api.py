"""The Python API of a trained model. `learning.py` trains models; the package exports both.

>>> model = charrnn.load("checkpoints/tales")  # doctest: +SKIP
>>> print(model.sample("Once upon a time", length=200, temperature=0.5))  # doctest: +SKIP
"""

import html
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.keywords import SamplingOptions, config_of, with_options
from charrnn.machine.runtime import SAMPLING_PRECISIONS, Runtime, open_runtime
from charrnn.model.network import CharRNN, State, evaluating
from charrnn.model.stepper import fastest_runtime
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.reporting import read_records
from charrnn.runs.scorer import Scorer
from charrnn.sampling.constraints import Piece
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.filters import writable_characters
from charrnn.sampling.generate import Sampler
from charrnn.terminal import Readable, readable
from charrnn.text.cleaning import normalise
from charrnn.text.corpus import read_blocks
from charrnn.text.tokenizers import Tokenizer
from charrnn.text.words import EOS_MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CharRNNError", "LanguageModel", "Surprisals", "TextScore", "TextStates", "load"]

_CHUNK = 2**12  # symbols to read at once
_MAX_BITS = 8  # surprisal of the darkest colour


@dataclass(frozen=True)
class TextScore:
    """Bits per character of a text under a model, and the surprisals of its `symbols` in bits.

    `text` is the predicted part: all symbols except the first one and the `num_unknown` symbols outside the vocabulary,
    which are replaced by <unk> if the vocabulary has it. A byte is shown as the character with its number, EOS as the
    document separator.
    """

    bits_per_char: float
    text: str = field(repr=False)
    symbols: list[str] = field(repr=False)
    surprisals: list[float] = field(repr=False)
    num_unknown: int
    adapted_bits_per_char: float | None = None


@dataclass(frozen=True)
class TextStates:
    """The states of L layers of H units after each of the N symbols of a text, on the CPU in float32.

    `h` (L, N, H) are the outputs of the layers, in (-1, 1); the model predicts from the last layer, `h[-1]`.
    `c` (L, N, H) are the cell states of an LSTM, None for other cells.
    """

    symbols: tuple[str, ...]
    h: Tensor
    c: Tensor | None


class Surprisals(list[tuple[str, float]]):
    """Pairs of a symbol and its surprisal in bits; notebooks show coloured text, darker for a higher surprisal."""

    def _repr_html_(self) -> str:
        spans = (
            f'<span style="background: rgb(230 90 30 / {min(bits / _MAX_BITS, 1):.2f})" title="{bits:.1f} bits">'
            f"{html.escape(symbol)}</span>"
            for symbol, bits in self
        )
        return f'<div style="white-space: pre-wrap; font-family: monospace">{"".join(spans)}</div>'


class LanguageModel:
    """A trained model on a device: sampling, predictions, scores and states; `module` is the PyTorch network."""

    def __init__(self, checkpoint: Checkpoint, path: Path, runtime: Runtime, data_dir: Path = Path("data")) -> None:
        self.checkpoint = checkpoint
        self.path = path
        self.runtime = runtime
        self._data_dir = data_dir
        self._model = checkpoint.build_model().to(runtime.device)
        self._indices: dict[str | None, CopyIndex] = {}
        self._documents: dict[str | None, set[int]] = {}

    @classmethod
    def open(
        cls, path: str | Path, *, device: str = "auto", precision: str = "auto", data_dir: Path = Path("data")
    ) -> "LanguageModel":
        """Open a checkpoint file. Raises: CharRNNError."""
        path = Path(path)
        checkpoint = Checkpoint.load(path)
        runtime = open_runtime(device, precision, SAMPLING_PRECISIONS, trains=False)
        if precision == "auto":
            runtime = fastest_runtime(runtime, checkpoint.model_config)
        return cls(checkpoint, path, runtime, data_dir)

    def _facts(self) -> list[str]:
        config, history = self.checkpoint.model_config, self.checkpoint.snapshot.history
        facts = [
            f"{config.num_layers} x {config.hidden_size} {config.cell.upper()}",
            f"{self._model.num_parameters:,} parameters",
            f"{self.tokenizer.size:,} symbols",
            f"trained for {self.checkpoint.snapshot.progress.step:,} steps",
        ]
        if history.best_val_chars is not None:
            facts.append(f"best validation loss {history.best_val_loss:.4f}")
        return [*facts, f"{self.runtime.precision} on {self.runtime.device}"]

    def __repr__(self) -> str:
        return f"<LanguageModel {self.path}: {', '.join(self._facts())}>"

    def _repr_html_(self) -> str:
        return f"<b>LanguageModel</b><ul>{''.join(f'<li>{html.escape(fact)}</li>' for fact in self._facts())}</ul>"

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which contains the vocabulary."""
        return self.checkpoint.tokenizer

    vocabulary = tokenizer  # the name in version 0.1.0

    @property
    def module(self) -> CharRNN:
        """The network, a `torch.nn.Module` on the model's device, always in float32.

        `logits, state = model.module(x, state)` takes ids (T, B) int64 and a state (default: zeros), and returns logits
        (T, B, V) and the new state. The ids of a text are `model.tokenizer.encode(text).long()[:, None]`.
        """
        return self._model

    @property
    def history(self) -> list[dict[str, Any]]:
        """Losses, samples and speeds by step: the records of the run's `metrics.jsonl`; empty if it does not exist."""
        return [record for record in read_records(RunFolder(self.path.parent).metrics) if "step" in record]

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Plot the training and validation loss against the characters read. Raises: CharRNNError."""
        try:
            from matplotlib import pyplot
        except ImportError:
            raise CharRNNError("plot() needs matplotlib: pip install matplotlib") from None
        axes = pyplot.figure().add_subplot() if axes is None else axes
        for name, label, marker in (("train_loss", "training", ""), ("val_loss", "validation", "o")):
            points = [(record["chars"], record[name]) for record in self.history if name in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker=marker)
        axes.set(xlabel="characters read", ylabel="loss in nats per character")
        if axes.lines:
            axes.legend()
        return axes

    def save(self, path: str | Path) -> None:
        """Write the model to a file that `load` reads, without the state for resuming. Raises: CharRNNError."""
        self.checkpoint.slim().save(Path(path))

    @with_options(SamplingOptions, SamplingConfig)
    def sample(
        self,
        prompt: str = "",
        *,
        seed: int | None = None,
        corpus: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str:
        """Generate a continuation of the prompt; the result does not include the prompt.

        Without a seed each call returns a different text. `corpus` is the text for `avoid_copying` and `new`; the
        default is the model's corpus. Raises: CharRNNError for a prompt outside the vocabulary, an option out of its
        range, or a sample that cannot be continued without a copy.
        """
        return "".join(self.stream(prompt, seed=seed, corpus=corpus, **options))

    @with_options(SamplingOptions, SamplingConfig)
    def stream(
        self,
        prompt: str = "",
        *,
        seed: int | None = None,
        corpus: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """Yield the text that `sample` returns, in pieces as they are drawn."""
        show = Readable()
        pieces = self._pieces(1, prompt, seed, corpus, options)
        return (show(piece.text, final=piece.finish_reason is not None) for piece in pieces)

    @with_options(SamplingOptions, SamplingConfig)
    def sample_many(
        self,
        num_samples: int,
        prompt: str = "",
        *,
        seed: int | None = None,
        corpus: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[str]:
        """Independent samples, computed as a batch; the first equals that of `sample` with the same seed."""
        texts = [""] * num_samples
        for piece in self._pieces(num_samples, prompt, seed, corpus, options):
            texts[piece.index] += piece.text
        return list(map(readable, texts))

    @with_options(SamplingOptions, SamplingConfig)
    def conversation(
        self, *, seed: int | None = None, corpus: str | None = None, **options: Unpack[SamplingOptions]
    ) -> "Conversation":
        """Alternate between reading and generating text, with one state. Raises: CharRNNError as `sample`."""
        seed = secrets.randbits(31) if seed is None else seed
        return Conversation(self, self._make_sampler(1, corpus, options), seed)

    def next(self, text: str = "") -> dict[str, float]:
        """The probabilities of the next symbol after a text, most likely first, at temperature 1 without filters.

        <unk> is shown as U+FFFD, EOS as the empty text, and a byte as the character with its number. Raises:
        CharRNNError for a text outside the vocabulary.
        """
        ids = self.tokenizer.start(self._encode(text))
        with evaluating(self._model), torch.no_grad():
            for outputs, _ in self._read(ids, _CHUNK):
                last = outputs[-1, 0]
            p = self._model.head(last).softmax(-1).cpu()
        probabilities: dict[str, float] = {}
        for i in p.argsort(descending=True).tolist():
            symbol = self._text_of(i)
            probabilities[symbol] = probabilities.get(symbol, 0.0) + float(p[i])
        return probabilities

    def states(self, text: str) -> TextStates:
        """The states after each symbol of a text, starting from zeros.

        A model of documents reads EOS first. If the vocabulary has a word only with, or only without, a space before
        it, that form is read, as in prompts. Raises: CharRNNError for a text outside the vocabulary.
        """
        ids = self._encode(text)
        if self.tokenizer.eos_id is not None:
            ids = self.tokenizer.start(ids)
        symbols = tuple(map(self._text_of, ids.tolist()))
        with evaluating(self._model), torch.no_grad():
            states = [self._model.initial_state(1), *(state for _, state in self._read(ids, 1))]
        h_and_c = [torch.cat([torch.stack(layer) for layer in state], dim=1) for state in states]  # (1 or 2, L, 1, H)
        h, *c = torch.cat(h_and_c, dim=2)[:, :, 1:].cpu()
        return TextStates(symbols, h, c[0] if c else None)

    def _text_of(self, symbol: int) -> str:
        return "" if symbol == self.tokenizer.eos_id else self.tokenizer.name(self.tokenizer.texts[symbol])

    def _encode(self, text: str) -> Tensor:
        """The ids (N,) of a text, with the known forms of words as in prompts. Raises: CharRNNError."""
        tokenizer = self.tokenizer
        symbols = tokenizer.known_forms(tokenizer.split(tokenizer.mark(self.normalise(text))))
        if tokenizer.unk_id is None:
            tokenizer.require(symbols)
        return tokenizer.ids_of(symbols)

    def _read(self, ids: Tensor, size: int) -> Iterator[tuple[Tensor, State]]:
        """Yield the last layer's outputs (T, 1, H) for `size` symbols at a time, and the state after them."""
        state = None
        for chunk in ids.long().to(self.runtime.device).split(size) if len(ids) else ():
            outputs, state = self._model.stack(self._model.encode(chunk[:, None]), state)
            yield outputs, state

    def sampler(
        self, config: SamplingConfig, corpus: CopyIndex | None = None, known: Collection[int] | None = None
    ) -> Sampler:
        """A sampler for any number of prompts; `ban` and `stop` are normalised like prompts. Raises: OptionError."""
        config = replace(config, ban=self.normalise(config.ban))
        writable = writable_characters(config, self.tokenizer)
        stops = [self.normalise(stop) for stop in config.stop]
        for given, stop in zip(config.stop, stops, strict=True):
            if not stop or not any(map(writable.issuperset, self.tokenizer.marked_forms(stop))):
                raise OptionError(f"no sample can end after {given!r}: a character is banned or not in the vocabulary")
        config = replace(config, stop=tuple(stops))
        return Sampler(self._model, self.tokenizer, config, self.runtime, corpus, known)

    def score(self, text: str, *, window: int | None = None, adapt: bool = False) -> TextScore:
        """The surprisals of all symbols of a text except the first, which is not predicted.

        The state is carried through the text, or reset every `window` symbols. With `adapt` the text is also scored by
        dynamic evaluation: a copy of the model is trained on it.
        Raises: CharRNNError for a text with fewer than two characters of the vocabulary, OptionError.
        """
        scorer = self.scorer()
        marked = self.tokenizer.mark(self.normalise(text))
        parts = list(scorer.score([marked], window, adapt=adapt))
        symbols = [symbol for part in parts for symbol in part.symbols]
        surprisals = torch.cat([part.surprisals for part in parts])
        num_chars = sum(part.num_chars for part in parts)
        if not num_chars:
            raise CharRNNError("nothing can be scored: give a text with at least 2 characters of the vocabulary")
        adapted = sum(float(part.adapted.double().sum()) for part in parts if part.adapted is not None)
        return TextScore(
            float(surprisals.double().sum()) / num_chars,
            readable(self.tokenizer.unmark("".join(symbols))),
            list(map(self.tokenizer.name, symbols)),
            surprisals.tolist(),
            scorer.num_unknown,
            adapted_bits_per_char=adapted / num_chars if adapt else None,
        )

    def surprisal(self, text: str) -> Surprisals:
        """The surprisals in bits of all symbols of a text except the first. Raises: CharRNNError as `score`."""
        score = self.score(text)
        return Surprisals(zip(score.symbols, score.surprisals, strict=True))

    def scorer(self, advance: Callable[[int], object] = lambda num_symbols: None) -> Scorer:
        """A scorer for texts of any length, in the model's precision, or in float32 instead of int8."""
        is_int8 = self.runtime.dtype == torch.int8
        runtime = replace(self.runtime, dtype=torch.float32) if is_int8 else self.runtime
        return Scorer(self._model, self.tokenizer, runtime, advance)

    def normalise(self, text: str) -> str:
        """Normalise a text in the same way as the corpus."""
        return normalise(text, self.checkpoint.corpus.config)

    def index_corpus(self, corpus: str | None = None) -> CopyIndex:
        """An index of the model's corpus or of another text, raw or prepared, to find copies. Raises: CharRNNError."""
        return CopyIndex(self._read_corpus(corpus))

    def known_documents(self, corpus: str | None = None) -> set[int]:
        """The hashes of the documents of this text. Raises: CharRNNError."""
        return set(map(hash, self._read_corpus(corpus).split(EOS_MARK)))

    def _read_corpus(self, corpus: str | None) -> str:
        """The text of a corpus with document marks, by default of the model's corpus. Raises: CharRNNError."""
        origin = self.checkpoint.corpus
        if corpus is not None:
            blocks = read_blocks(corpus, origin.config)
        elif (own := origin.find(self.path, self._data_dir)) is not None:
            blocks = own.marked_blocks()
        else:
            raise CharRNNError(
                f"the model's corpus was not found at {origin.path} or in {self._data_dir}: use {opt.corpus('FILE')}"
            )
        if not (text := "".join(blocks)):
            raise CharRNNError(f"{corpus} is empty: use another text")
        return text

    def _pieces(
        self, num_samples: int, prompt: str, seed: int | None, corpus: str | None, options: SamplingOptions
    ) -> Iterator[Piece]:
        seed = secrets.randbits(31) if seed is None else seed
        return self._make_sampler(num_samples, corpus, options).sample(self.normalise(prompt), seed=seed)

    def _make_sampler(self, num_samples: int, corpus: str | None, options: SamplingOptions) -> Sampler:
        config = config_of(SamplingConfig, options, num_samples=num_samples)
        index = known = None
        if config.avoid_copying is not None:
            index = self._indices[corpus] = self._indices.get(corpus) or self.index_corpus(corpus)
        if config.new:
            known = self._documents[corpus] = self._documents.get(corpus) or self.known_documents(corpus)
        return self.sampler(config, index, known)


class Conversation:
    """Read and generate text in turns; the state is kept between them."""

    def __init__(self, model: LanguageModel, sampler: Sampler, seed: int) -> None:
        self._model, self._sampler, self._seed = model, sampler, seed

    def reply(self, text: str = "") -> str:
        """Read a text and continue it. Raises: CharRNNError for a text outside the vocabulary."""
        pieces = self._sampler.sample(self._model.normalise(text), seed=self._seed, keeps_state=True)
        self._seed += 1
        return readable("".join(piece.text for piece in pieces))


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    data_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
) -> LanguageModel:
    """Load a checkpoint file, or the best checkpoint of a run, given by its folder or by its name in checkpoint_dir.

    The model's corpus, if needed, is searched at its stored path and in data_dir. The folders default to the
    environment variables CHARRNN_CHECKPOINT_DIR and CHARRNN_DATA_DIR, or else to checkpoints and data.
    Raises: CharRNNError if there is no checkpoint, or if the device or precision is not available.
    """
    path = find_checkpoint(path, checkpoint_folder(checkpoint_dir))
    return LanguageModel.open(path, device=device, precision=precision, data_dir=data_folder(data_dir))


def checkpoint_folder(path: str | Path | None) -> Path:
    """The folder of runs; default: $CHARRNN_CHECKPOINT_DIR, else `checkpoints`."""
    return Path(path or os.environ.get("CHARRNN_CHECKPOINT_DIR") or "checkpoints")


def data_folder(path: str | Path | None) -> Path:
    """The folder of prepared corpora; default: $CHARRNN_DATA_DIR, else `data`."""
    return Path(path or os.environ.get("CHARRNN_DATA_DIR") or "data")
