"""The Python API: a trained model that writes. The package offers `load` itself.

>>> model = charrnn.load("checkpoints/tales")  # doctest: +SKIP
>>> print(model.sample("Once upon a time", length=200, temperature=0.5))  # doctest: +SKIP
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError
from charrnn.machine.runtime import SAMPLING_PRECISIONS, Runtime, open_runtime
from charrnn.model.stepper import fastest_runtime
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import find_checkpoint
from charrnn.runs.scorer import Scored, Scorer, check_window
from charrnn.sampling.copies import SuffixArray
from charrnn.sampling.sampler import Piece, Sampler
from charrnn.text.cleaning import normalise
from charrnn.text.corpus import Corpus, read_text
from charrnn.text.vocabulary import Vocabulary

__all__ = ["CharRNNError", "LanguageModel", "TextScore", "load"]


@dataclass(frozen=True)
class TextScore:
    """Bits per character of a text under a model, and the surprisal of each character in bits.

    `text` are the characters that were predicted: all but the first, and but those outside the vocabulary, which
    `num_unknown` counts. (If the vocabulary has an unknown symbol, that is predicted in their place.)
    """

    bits_per_char: float
    text: str
    surprisals: list[float]
    num_unknown: int
    adapted_bits_per_char: float | None = None


class LanguageModel:
    """A checkpoint on a device. The options of its methods are the fields of `SamplingConfig`."""

    def __init__(self, checkpoint: Checkpoint, path: Path, runtime: Runtime, data_dir: Path = Path("data")) -> None:
        self.checkpoint = checkpoint
        self.path = path
        self.runtime = runtime
        self._data_dir = data_dir
        self._model = checkpoint.build_model().to(runtime.device)
        self._indices: dict[str | None, SuffixArray] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols that it reads and writes."""
        return self.checkpoint.vocabulary

    def sample(self, prompt: str = "", *, seed: int | None = None, corpus: str | None = None, **options: Any) -> str:
        """Generate a continuation of the prompt, without the prompt itself; see `stream`."""
        return "".join(self.stream(prompt, seed=seed, corpus=corpus, **options))

    def stream(
        self, prompt: str = "", *, seed: int | None = None, corpus: str | None = None, **options: Any
    ) -> Iterator[str]:
        """The same text as `sample` gives, in pieces as they are made.

        `corpus` names the text that `avoid_copying` refers to, if not the checkpoint's own. Without a seed each
        call gives another text. Raises: CharRNNError for a prompt outside the vocabulary, OptionError.
        """
        return (piece.text for piece in self._pieces(SamplingConfig(num_samples=1, **options), prompt, seed, corpus))

    def sample_many(
        self,
        num_samples: int,
        prompt: str = "",
        *,
        seed: int | None = None,
        corpus: str | None = None,
        **options: Any,
    ) -> list[str]:
        """Independent samples, computed together; the first is that of `sample` with the same seed."""
        texts = [""] * num_samples
        for piece in self._pieces(SamplingConfig(num_samples=num_samples, **options), prompt, seed, corpus):
            texts[piece.index] += piece.text
        return texts

    def sampler(self, config: SamplingConfig, corpus: SuffixArray | None = None) -> Sampler:
        """A sampler for any number of prompts; banned characters and stops are normalised as prompts are.

        Raises: OptionError.
        """
        ban, stop = self.normalise(config.ban), tuple(map(self.normalise, config.stop))
        return Sampler(self._model, self.vocabulary, replace(config, ban=ban, stop=stop), self.runtime, corpus)

    def score(self, text: str, *, window: int | None = None, adapt: bool = False) -> TextScore:
        """The surprisal of each character of a text but the first, which nothing predicts.

        The state is carried through the text, or with `window` emptied every so many characters. With
        `adapt` the text is also read by a copy of the model that learns from it (dynamic evaluation).
        Raises: CharRNNError for a text without two characters of the vocabulary, OptionError.
        """
        scorer = self.scorer()
        parts = list(scorer.score([self.normalise(text)], check_window(window), adapt=adapt))
        scored = Scored("".join(part.text for part in parts), torch.cat([part.surprisals for part in parts]))
        adapted = torch.cat([part.adapted for part in parts if part.adapted is not None] or [torch.zeros(0)])
        if scored.bits_per_char is None:
            raise CharRNNError("nothing can be scored: give a text with at least 2 characters of the vocabulary")
        return TextScore(
            scored.bits_per_char,
            scored.text,
            scored.surprisals.tolist(),
            scorer.num_unknown,
            adapted_bits_per_char=float(adapted.double().mean()) if adapt else None,
        )

    def scorer(self, advance: Callable[[int], None] = lambda num_symbols: None) -> Scorer:
        """A scorer of texts of any length, in this model's precision, or in float32 if that is int8."""
        is_int8 = self.runtime.dtype == torch.int8
        runtime = replace(self.runtime, dtype=torch.float32) if is_int8 else self.runtime
        return Scorer(self._model, self.vocabulary, runtime, advance)

    def normalise(self, prompt: str) -> str:
        """A prompt as the corpus was prepared: its normal form, transliterated, in lower case."""
        return normalise(prompt.replace("\r\n", "\n"), self.checkpoint.corpus.config)

    def index_corpus(self, corpus: str | None = None) -> SuffixArray:
        """The text that this model has learned from, or another one, raw or prepared, so that copies can be found.

        Raises: CharRNNError if it is not there any more.
        """
        text = self._open_own_corpus().text if corpus is None else read_text(corpus, self.checkpoint.corpus.config)
        if not text:
            raise CharRNNError(f"{corpus} is empty: nothing can be copied from it")
        return SuffixArray(text)

    def _open_own_corpus(self) -> Corpus:
        """From the folder of prepared corpora, here or beside the folder of runs that the checkpoint lies in."""
        folders = [self._data_dir, *(root / "data" for root in self.path.absolute().parents[2:3])]
        corpus = self.checkpoint.corpus.find(folders)
        if corpus is None:
            raise CharRNNError(f"the model's corpus is not in {self._data_dir}: name it (--corpus FILE)")
        return corpus

    def _pieces(self, config: SamplingConfig, prompt: str, seed: int | None, corpus: str | None) -> Iterator[Piece]:
        index = None
        if config.avoid_copying is not None:
            index = self._indices[corpus] = self._indices.get(corpus) or self.index_corpus(corpus)
        seed = secrets.randbits(31) if seed is None else seed
        return self.sampler(config, index).sample(self.normalise(prompt), seed=seed)


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    data_dir: str | Path = "data",
    checkpoint_dir: str | Path = "checkpoints",
) -> LanguageModel:
    """Load a checkpoint file, or the best checkpoint of a run: of its folder, or of its name in checkpoint_dir.

    The model's corpus, if ever needed, is looked for in data_dir.
    Raises: CharRNNError if there is none, or the device or precision cannot be had.
    """
    path = find_checkpoint(path, Path(checkpoint_dir))
    checkpoint = Checkpoint.load(path)
    runtime = open_runtime(device, precision, SAMPLING_PRECISIONS)
    if precision == "auto":
        runtime = fastest_runtime(runtime, checkpoint.model_config)
    return LanguageModel(checkpoint, path, runtime, Path(data_dir))
