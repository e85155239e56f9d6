"""The Python API: a trained model that writes. Training one is in `learning.py`; the package exports both.

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

_CHUNK = 2**12  # symbols that are read at once
_MAX_BITS = 8  # of a symbol in the darkest colour


@dataclass(frozen=True)
class TextScore:
    """Bits per character of a text under a model, and the surprisal in bits of each of its `symbols`.

    `text` is the part that was predicted: all symbols but the first and those outside the vocabulary, which
    `num_unknown` counts (the unknown symbol, if there is one, is predicted in their place). A byte is the character of
    its number, the end of a document the separator.
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

    `h` (L, N, H) are the layers' outputs, in (-1, 1); the model predicts from those of the last layer, `h[-1]`.
    `c` (L, N, H) are an LSTM's cell states, None for other cells.
    """

    symbols: tuple[str, ...]
    h: Tensor
    c: Tensor | None


class Surprisals(list[tuple[str, float]]):
    """Pairs of a symbol and its surprisal in bits; in a notebook a text, darker where the model is more surprised."""

    def _repr_html_(self) -> str:
        spans = (
            f'<span style="background: rgb(230 90 30 / {min(bits / _MAX_BITS, 1):.2f})" title="{bits:.1f} bits">'
            f"{html.escape(symbol)}</span>"
            for symbol, bits in self
        )
        return f'<div style="white-space: pre-wrap; font-family: monospace">{"".join(spans)}</div>'


class LanguageModel:
    """A trained model on a device: samples, predictions, scores and states; `module` is the network itself."""

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
        cls, path: Path, *, device: str = "auto", precision: str = "auto", data_dir: Path = Path("data")
    ) -> "LanguageModel":
        """Open a checkpoint file. Raises: CharRNNError."""
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
        """The tokenizer, which holds the vocabulary."""
        return self.checkpoint.tokenizer

    vocabulary = tokenizer  # its name in version 0.1.0

    @property
    def module(self) -> CharRNN:
        """The network, a `torch.nn.Module` on the model's device, in float32 whatever the precision of sampling.

        `logits, state = model.module(x, state)` takes ids (T, B) int64 and a state (by default zeros), and returns
        logits (T, B, V). The ids of a text are `model.tokenizer.encode(text).long()[:, None]`.
        """
        return self._model

    @property
    def history(self) -> list[dict[str, Any]]:
        """Losses, samples and speeds by step, the records of the run's `metrics.jsonl`; empty without that file."""
        return [record for record in read_records(RunFolder(self.path.parent).metrics) if "step" in record]

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the training and the validation loss over the characters read. Raises: CharRNNError."""
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
        """Write the model to a file that `load` reads, without the state to resume training. Raises: CharRNNError."""
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
        """Generate a continuation of the prompt, without the prompt itself.

        Without a seed each call gives another text. `corpus` names the text that `avoid_copying` and `new` refer to, if
        not the model's own. Raises: CharRNNError for a prompt outside the vocabulary, an option out of its range, or a
        text that cannot be continued without a copy.
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
        """The text that `sample` returns, in pieces as they are drawn."""
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
        """Independent samples, computed together; the first is that of `sample` with the same seed."""
        texts = [""] * num_samples
        for piece in self._pieces(num_samples, prompt, seed, corpus, options):
            texts[piece.index] += piece.text
        return list(map(readable, texts))

    @with_options(SamplingOptions, SamplingConfig)
    def conversation(
        self, *, seed: int | None = None, corpus: str | None = None, **options: Unpack[SamplingOptions]
    ) -> "Conversation":
        """Turns of reading and writing that share one state. Raises: CharRNNError as `sample` does."""
        seed = secrets.randbits(31) if seed is None else seed
        return Conversation(self, self._make_sampler(1, corpus, options), seed)

    def next(self, text: str = "") -> dict[str, float]:
        """The probability of each symbol to follow a text, the most likely first, at temperature 1 without filters.

        The unknown symbol, if the vocabulary has one, is U+FFFD, the end of a document the empty text, and a byte the
        character of its number. Raises: CharRNNError for a text outside the vocabulary.
        """
        ids = self.tokenizer.start(self._encode(text))
        with evaluating(self._model), torch.no_grad():
            for outputs, _ in self._read(ids, _CHUNK):
                last = outputs[-1, 0]
            p = self._model.head(last).softmax(-1).cpu()
        probabilities: dict[str, float] = {}
        for index in p.argsort(descending=True).tolist():
            symbol = self._text_of(index)
            probabilities[symbol] = probabilities.get(symbol, 0.0) + float(p[index])
        return probabilities

    def states(self, text: str) -> TextStates:
        """The states after each symbol of a text, which is read from a state of zeros.

        A model of documents reads EOS first. A word that is known only with a space before it, or only without, is
        read so, as in prompts. Raises: CharRNNError for a text outside the vocabulary.
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

    def _text_of(self, index: int) -> str:
        return "" if index == self.tokenizer.eos_id else self.tokenizer.name(self.tokenizer.texts[index])

    def _encode(self, text: str) -> Tensor:
        """The ids (N,) of a text, whose words are read as in prompts. Raises: CharRNNError."""
        tokenizer = self.tokenizer
        symbols = tokenizer.known_forms(tokenizer.split(tokenizer.mark(self.normalise(text))))
        if tokenizer.unk_id is None:
            tokenizer.require(symbols)
        return tokenizer.ids_of(symbols)

    def _read(self, ids: Tensor, size: int) -> Iterator[tuple[Tensor, State]]:
        """The last layer's outputs (T, 1, H) for `size` symbols at a time, and the state after them."""
        state = None
        for chunk in ids.long().to(self.runtime.device).split(size) if len(ids) else ():
            outputs, state = self._model.stack(self._model.encode(chunk[:, None]), state)
            yield outputs, state

    def sampler(
        self, config: SamplingConfig, corpus: CopyIndex | None = None, known: Collection[int] | None = None
    ) -> Sampler:
        """A sampler for any number of prompts; bans and stops are normalised as prompts are. Raises: OptionError."""
        config = replace(config, ban=self.normalise(config.ban))
        writable = writable_characters(config, self.tokenizer)
        stops = [self.normalise(stop) for stop in config.stop]
        for given, stop in zip(config.stop, stops, strict=True):
            if not stop or not any(map(writable.issuperset, self.tokenizer.marked_forms(stop))):
                raise OptionError(f"no sample can end after {given!r}: a character is unknown to the model, or banned")
        config = replace(config, stop=tuple(stops))
        return Sampler(self._model, self.tokenizer, config, self.runtime, corpus, known)

    def score(self, text: str, *, window: int | None = None, adapt: bool = False) -> TextScore:
        """The surprisal of each symbol of a text but the first, which nothing predicts.

        The state is carried through the text, or emptied every `window` symbols. With `adapt` the text is also read by
        a copy of the model that learns from it (dynamic evaluation).
        Raises: CharRNNError for a text without two characters of the vocabulary, OptionError.
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
        """The surprisal in bits of each symbol of a text but the first. Raises: CharRNNError as `score` does."""
        score = self.score(text)
        return Surprisals(zip(score.symbols, score.surprisals, strict=True))

    def scorer(self, advance: Callable[[int], object] = lambda num_symbols: None) -> Scorer:
        """A scorer of texts of any length, in this model's precision, or in float32 if that is int8."""
        is_int8 = self.runtime.dtype == torch.int8
        runtime = replace(self.runtime, dtype=torch.float32) if is_int8 else self.runtime
        return Scorer(self._model, self.tokenizer, runtime, advance)

    def normalise(self, text: str) -> str:
        """A prompt or a text to score as the corpus was prepared."""
        return normalise(text, self.checkpoint.corpus.config)

    def index_corpus(self, corpus: str | None = None) -> CopyIndex:
        """The model's corpus, or another text, raw or prepared, to find copies in. Raises: CharRNNError if missing."""
        return CopyIndex(self._read_corpus(corpus))

    def known_documents(self, corpus: str | None = None) -> set[int]:
        """The hashes of the documents of the same text. Raises: CharRNNError if it is missing."""
        return set(map(hash, self._read_corpus(corpus).split(EOS_MARK)))

    def _read_corpus(self, corpus: str | None) -> str:
        """The marked text of a corpus, by default of the model's own. Raises: CharRNNError."""
        origin = self.checkpoint.corpus
        if corpus is not None:
            blocks = read_blocks(corpus, origin.config)
        elif (own := origin.find(self.path, self._data_dir)) is not None:
            blocks = own.marked_blocks()
        else:
            raise CharRNNError(
                f"the model's corpus is neither {origin.path} nor in {self._data_dir}: name it ({opt.corpus('FILE')})"
            )
        if not (text := "".join(blocks)):
            raise CharRNNError(f"{corpus} is empty: nothing can be copied from it")
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
    """A model that reads and writes in turns, and keeps its state between them."""

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
    """Load a checkpoint file, or the best checkpoint of a run: of its folder, or of its name in checkpoint_dir.

    The model's corpus, if needed, is looked for at its recorded path and in data_dir. The folders default to the
    environment's CHARRNN_CHECKPOINT_DIR and CHARRNN_DATA_DIR, else to checkpoints and data.
    Raises: CharRNNError if there is no checkpoint, or the device or precision is not available.
    """
    path = find_checkpoint(path, checkpoint_folder(checkpoint_dir))
    return LanguageModel.open(path, device=device, precision=precision, data_dir=data_folder(data_dir))


def checkpoint_folder(path: str | Path | None) -> Path:
    """The folder of runs: by default that of the environment, else `checkpoints`."""
    return Path(path or os.environ.get("CHARRNN_CHECKPOINT_DIR") or "checkpoints")


def data_folder(path: str | Path | None) -> Path:
    """The folder of prepared corpora: by default that of the environment, else `data`."""
    return Path(path or os.environ.get("CHARRNN_DATA_DIR") or "data")
