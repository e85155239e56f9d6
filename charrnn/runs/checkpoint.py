"""Save and load checkpoints: weights, vocabulary and configs to sample from, the trainer's state to resume from.

Their paths are left to `folder.py`.
"""

import contextlib
import itertools
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from charrnn.config import ModelConfig, PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.files.atomic import Guard, no_guard
from charrnn.files.schema import dump, parse
from charrnn.machine.runtime import PRECISIONS
from charrnn.model.network import CharRNN, count_parameters
from charrnn.model.rounding import restored, rounded
from charrnn.model.scoring import Part
from charrnn.text.corpus import Corpus
from charrnn.text.tokenizers import TOKENIZERS, StoredVocabulary, Tokenizer
from charrnn.training.recovery import MAX_RECOVERIES
from charrnn.training.snapshot import History, Progress, Snapshot, select
from charrnn.training.streams import Cursor
from charrnn.version import __version__

KIND = "checkpoint"
VERSIONS = {"charrnn": __version__, "torch": str(torch.__version__)}
_VERSION = re.compile(r"[\w.+-]{1,100}")
_TWISTER_BYTES, _TWISTER_NUMBERS = 5056, 624
_MAX_VALUE = 1e15
"""Max weight: products of two, summed over the largest layer, stay finite in float32."""


@dataclass(frozen=True)
class CorpusIdentity:
    """The corpus that a model was trained on, and the preparation of its text and of prompts."""

    path: str
    source_digest: str = field(metadata={"key": "text_digest"})
    config: PreparationConfig

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusIdentity":
        """The identity of a corpus."""
        return cls(str(corpus.path.absolute()), corpus.source_digest, corpus.config)

    def fits(self, corpus: Corpus) -> bool:
        """True if this is the same text with the same preparation, at any path."""
        return (self.source_digest, self.config) == (corpus.source_digest, corpus.config)

    def find(self, checkpoint: Path, data_dir: Path) -> Corpus | None:
        """Find the corpus: at its own path, in a data folder, or in `data` beside the checkpoint's run or its folder.

        Damaged files are skipped. Raises: OSError for a folder that cannot be read.
        """
        folders = [data_dir, *(parent / "data" for parent in checkpoint.absolute().parents[1:3])]
        prepared = (path for folder in folders for path in sorted(folder.glob(f"*{container.SUFFIX}")))
        for path in itertools.chain([Path(self.path)], prepared):
            if path.is_file() and container.mentions(path, self.source_digest):
                with contextlib.suppress(CharRNNError):
                    if self.fits(corpus := Corpus.open(path)):
                        return corpus
        return None


@dataclass(kw_only=True)
class Counters(Progress, History):
    """The numbers of a snapshot in one JSON object."""

    cursor: Cursor
    gradient_scaler: Mapping[str, float]
    records: int | None = None


@dataclass(frozen=True)
class Header:
    """The JSON header of a checkpoint: everything but the tensors."""

    charrnn: str
    torch: str
    model_config: ModelConfig
    training_config: TrainingConfig
    vocabulary: StoredVocabulary
    corpus: CorpusIdentity
    seed: int
    precision: str
    counters: Counters
    written: float | None = field(default=None, metadata={"absent": None})
    card: Mapping[str, str] | None = field(default=None, metadata={"absent": None, "is_optional": True})

    @classmethod
    def read(cls, path: Path) -> "Header":
        """The header of a file whose digest is not verified: quick. Raises: CharRNNError."""
        return cls.parse(container.read_header(path, KIND), path)

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path) -> "Header":
        """The header from untrusted JSON. Raises: CharRNNError."""
        header = parse(cls, _upgraded(values), str(path))
        if header.counters.recoveries > MAX_RECOVERIES:
            raise CharRNNError(f"{path} has {header.counters.recoveries} recoveries: at most {MAX_RECOVERIES} are made")
        if header.seed >= 2**31 or header.precision not in PRECISIONS:
            raise CharRNNError(f"{path} has an impossible seed or precision")
        if not _VERSION.fullmatch(header.charrnn + header.torch):
            raise CharRNNError(f"{path} has an impossible version")
        return header


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run."""

    model_config: ModelConfig
    training_config: TrainingConfig
    tokenizer: Tokenizer
    corpus: CorpusIdentity
    seed: int
    precision: str
    snapshot: Snapshot
    records: int | None = None  # length of the run's log; None if unknown
    versions: Mapping[str, str] = field(default_factory=lambda: VERSIONS)
    written: float | None = None  # seconds since 1970; None in files of older versions
    card: Mapping[str, str] | None = None  # facts about a published model, for people

    @property
    def weights(self) -> dict[str, Tensor]:
        """The model's weights by their names in the model."""
        return select("model.", self.snapshot.tensors)

    @property
    def num_chars_trained(self) -> int:
        """Characters that the run has read in training; an upper limit for a tiny corpus."""
        config = self.training_config
        return self.snapshot.progress.step * (config.batch_size or 0) * (config.seq_length or 0)

    @property
    def can_be_resumed(self) -> bool:
        """False if the trainer's state was left out."""
        return any(name.startswith("trainer.") for name in self.snapshot.tensors)

    def slim(self) -> "Checkpoint":
        """The same checkpoint without the trainer's state and the corpus's folder: for everything but resuming."""
        tensors = {name: tensor for name, tensor in self.snapshot.tensors.items() if name.startswith("model.")}
        corpus = replace(self.corpus, path=PureWindowsPath(self.corpus.path).name)
        return replace(self, corpus=corpus, snapshot=replace(self.snapshot, tensors=tensors))

    def rounded(self) -> "Checkpoint":
        """The slim checkpoint with its matrices as 8-bit integers (`model/rounding.py`), to be saved: a quarter."""
        slim = self.slim()
        return replace(slim, snapshot=replace(slim.snapshot, tensors=rounded(slim.snapshot.tensors)))

    def copy(self) -> "Checkpoint":
        """A copy in separate memory on the CPU."""
        return replace(self, snapshot=self.snapshot.copy(torch.device("cpu")))

    def save(self, path: Path, backup: Path | None = None, guard: Guard = no_guard) -> None:
        """Write the file durably and atomically; the old file becomes `backup`. For `guard` see `files/atomic.py`.

        Raises: CharRNNError.
        """
        snapshot = self.snapshot
        counters = {**vars(snapshot.progress), **vars(snapshot.history), "records": self.records}
        header = Header(
            **self.versions,
            model_config=self.model_config,
            training_config=self.training_config,
            vocabulary=self.tokenizer.stored(),
            corpus=self.corpus,
            seed=self.seed,
            precision=self.precision,
            counters=Counters(**counters, cursor=snapshot.cursor, gradient_scaler=snapshot.gradient_scaler),
            written=self.written,
            card=self.card,
        )
        container.write(path, KIND, dump(header), snapshot.tensors, backup, guard)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read and verify a file. Raises: CharRNNError if it is not a sound checkpoint."""
        stored = container.read(path, KIND)
        header = Header.parse(stored.header, path)
        try:
            tensors = restored(stored.tensors)
        except ValueError as error:
            raise CharRNNError(f"{path} has {error}") from None
        counters = header.counters
        progress = Progress(**{each.name: getattr(counters, each.name) for each in fields(Progress)})
        history = History(**{each.name: getattr(counters, each.name) for each in fields(History)})
        checkpoint = cls(
            model_config=header.model_config,
            training_config=header.training_config,
            tokenizer=TOKENIZERS[header.corpus.config.unit].restore(header.vocabulary, header.corpus.config),
            corpus=header.corpus,
            seed=header.seed,
            precision=header.precision,
            snapshot=Snapshot(tensors, counters.cursor, counters.gradient_scaler, progress, history),
            records=counters.records,
            versions={"charrnn": header.charrnn, "torch": header.torch},
            written=header.written,
            card=header.card,
        )
        checkpoint._check_weights(path)
        checkpoint._check_values(path)
        return checkpoint

    def _check_weights(self, path: Path) -> None:
        """Compare sizes with the config before memory is taken for a model of that size. Raises: CharRNNError."""
        if self.model_config.vocab_size != self.tokenizer.size:
            raise CharRNNError(f"{path} has a model and a vocabulary of different sizes")
        if sum(tensor.numel() for tensor in self.weights.values()) != count_parameters(self.model_config):
            raise CharRNNError(f"{path} has weights that do not fit its model's config")
        if any(tensor.dtype != torch.float32 for tensor in self.weights.values()):
            raise CharRNNError(f"{path} has weights of another type than float32")

    def _check_values(self, path: Path) -> None:
        """Refuse numbers that no training goes on from and no text is sampled from. Raises: CharRNNError."""
        for name, tensor in self.snapshot.tensors.items():
            if name.startswith(("trainer.offsets", "trainer.random.cpu")) and not _is_sound_generator(tensor):
                raise CharRNNError(f"{path} has an impossible state of a random generator in {name}")
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            low, high = map(float, tensor.aminmax())
            largest = max(-low, high)
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CharRNNError(f"{path} has values in {name} that are not finite: use another checkpoint")
            if name.startswith("model.") and largest > _MAX_VALUE:
                problem = f"a value of {largest:.3g} in {name}, more than {_MAX_VALUE:g}"
                raise CharRNNError(f"{path} has {problem}: use another checkpoint")
            if name.startswith("trainer.") and name.endswith((".step", ".exp_avg_sq")) and low < 0:
                raise CharRNNError(f"{path} has a value of {low:.3g} in {name}, which is never negative")

    def build_model(self) -> CharRNN:
        """The model with these weights, on the CPU. Raises: CharRNNError if they do not fit."""
        model = CharRNN(self.model_config)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CharRNNError(f"the checkpoint's weights do not fit its model: {error}") from error
        return model


def time_of(path: Path) -> float:
    """The time of a checkpoint in seconds since 1970: its own record, else the file's. Raises: OSError."""
    with contextlib.suppress(CharRNNError):
        written = container.read_header(path, KIND).get("written")  # Header.read takes ten times as long
        if isinstance(written, int | float) and 0 <= written < 2**33:  # a date that any system can print
            return written
    return path.stat().st_mtime


def _is_sound_generator(state: Tensor) -> bool:
    """False if numbers would be read past the state of a Mersenne Twister, which PyTorch does not check."""
    if state.dtype != torch.uint8 or state.shape != (_TWISTER_BYTES,):
        return True  # PyTorch checks type and size
    left, _, position = struct.unpack_from("=iiQ", state.numpy().data, 8)
    return left + position in (1, _TWISTER_NUMBERS + 1)  # freshly seeded, or drawn from


def _upgraded(header: dict[str, Any]) -> dict[str, Any]:
    """The header with the fields that older files lack: their evaluations read the whole validation text."""
    counters = header.get("counters")
    if not isinstance(counters, dict) or "part" in counters:
        return header
    best, seconds = counters.get("best_val_loss"), counters.get("closing_seconds")
    missing = {"part": dump(Part()), "best_part_loss": best, "best_val_chars": None, "evaluation_seconds": seconds}
    return header | {"counters": counters | missing}
