"""Save and load checkpoints: weights, vocabulary and configs for sampling, the trainer's state for resuming.

`folder.py` chooses their paths.
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
from charrnn.model.quantisation import dequantised, quantised
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
_TWISTER_BYTES, _TWISTER_NUMBERS = 5056, 624  # bytes of the generator's state, numbers per block
_MAX_WEIGHT = 1e15  # sums of products of two such values over the largest layer stay finite in float32


@dataclass(frozen=True)
class CorpusIdentity:
    """The corpus that a model was trained on, and the options to prepare texts and prompts in the same way."""

    path: str
    source_digest: str = field(metadata={"key": "text_digest"})
    config: PreparationConfig

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusIdentity":
        """The identity of a corpus."""
        return cls(str(corpus.path.absolute()), corpus.source_digest, corpus.config)

    def matches(self, corpus: Corpus) -> bool:
        """True if a corpus has the same text and the same preparation; paths may differ."""
        return (self.source_digest, self.config) == (corpus.source_digest, corpus.config)

    def find(self, checkpoint: Path, data_dir: Path) -> Corpus | None:
        """Search for the corpus at its path, in `data_dir`, and in `data` next to the run or next to its parent folder.

        Damaged files are skipped. Raises: OSError for an unreadable folder.
        """
        folders = [data_dir, *(parent / "data" for parent in checkpoint.absolute().parents[1:3])]
        prepared = (path for folder in folders for path in sorted(folder.glob(f"*{container.SUFFIX}")))
        for path in itertools.chain([Path(self.path)], prepared):
            if path.is_file() and container.mentions(path, self.source_digest):
                with contextlib.suppress(CharRNNError):
                    if self.matches(corpus := Corpus.open(path)):
                        return corpus
        return None


@dataclass(kw_only=True)
class Counters(Progress, History):
    """The scalar state of a snapshot, stored as one JSON object."""

    cursor: Cursor
    gradient_scaler: Mapping[str, float]
    records: int | None = None


@dataclass(frozen=True)
class Header:
    """The JSON header of a checkpoint: everything except the tensors."""

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
        """Read a header without verifying the file's digest, which is faster. Raises: CharRNNError."""
        return cls.parse(container.read_header(path, KIND), path)

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path) -> "Header":
        """Check untrusted JSON and return the header. Raises: CharRNNError."""
        header = parse(cls, _upgrade(values), str(path))
        if header.counters.recoveries > MAX_RECOVERIES:
            raise CharRNNError(f"{path} has {header.counters.recoveries} recoveries: the maximum is {MAX_RECOVERIES}")
        if header.seed >= 2**31 or header.precision not in PRECISIONS:
            raise CharRNNError(f"{path} has an invalid seed or precision")
        if not _VERSION.fullmatch(header.charrnn + header.torch):
            raise CharRNNError(f"{path} has an invalid version")
        return header


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step."""

    model_config: ModelConfig
    training_config: TrainingConfig
    tokenizer: Tokenizer
    corpus: CorpusIdentity
    seed: int
    precision: str
    snapshot: Snapshot
    records: int | None = None  # number of records in the run's log; None if unknown
    versions: Mapping[str, str] = field(default_factory=lambda: VERSIONS)
    written: float | None = None  # in seconds since 1970; None in files of older versions
    card: Mapping[str, str] | None = None  # model card of a published model
    is_quantised: bool = False  # matrices are stored in 8 bits

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by their names in the model."""
        return select("model.", self.snapshot.tensors)

    @property
    def num_chars_trained(self) -> int:
        """Characters read in training; an upper bound if the corpus is tiny."""
        config = self.training_config
        return self.snapshot.progress.step * (config.batch_size or 0) * (config.seq_length or 0)

    @property
    def can_be_resumed(self) -> bool:
        """True if the checkpoint contains the trainer's state."""
        return any(name.startswith("trainer.") for name in self.snapshot.tensors)

    def slim(self) -> "Checkpoint":
        """The checkpoint without the trainer's state and the path of the corpus, but its name; it cannot be resumed."""
        tensors = {name: tensor for name, tensor in self.snapshot.tensors.items() if name.startswith("model.")}
        corpus = replace(self.corpus, path=PureWindowsPath(self.corpus.path).name)
        return replace(self, corpus=corpus, snapshot=replace(self.snapshot, tensors=tensors))

    def quantised(self) -> "Checkpoint":
        """The slim checkpoint, to be saved with 8-bit matrices (`model/quantisation.py`): a quarter of the size."""
        return replace(self.slim(), is_quantised=True)

    def copy(self) -> "Checkpoint":
        """A copy on the CPU."""
        return replace(self, snapshot=self.snapshot.copy(torch.device("cpu")))

    def save(self, path: Path, backup: Path | None = None, guard: Guard = no_guard) -> None:
        """Write the file durably and atomically; an existing file becomes `backup`. On `guard` see `files/atomic.py`.

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
        tensors = quantised(snapshot.tensors) if self.is_quantised else snapshot.tensors
        container.write(path, KIND, dump(header), tensors, backup, guard)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read and verify a file. Raises: CharRNNError if it is not a valid checkpoint."""
        stored = container.read(path, KIND)
        header = Header.parse(stored.header, path)
        try:
            tensors = dequantised(stored.tensors)
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
            is_quantised=any(tensor.dtype == torch.int8 for tensor in stored.tensors.values()),
        )
        checkpoint._check_weights(path)
        checkpoint._check_values(path)
        return checkpoint

    def _check_weights(self, path: Path) -> None:
        """Compare the sizes with the config before memory is allocated for the model. Raises: CharRNNError."""
        if self.model_config.vocab_size != self.tokenizer.size:
            raise CharRNNError(f"{path} has a model and a vocabulary of different sizes")
        if sum(tensor.numel() for tensor in self.weights.values()) != count_parameters(self.model_config):
            raise CharRNNError(f"{path} has weights that do not match its model's config")
        if any(tensor.dtype != torch.float32 for tensor in self.weights.values()):
            raise CharRNNError(f"{path} has weights of a type other than float32")

    def _check_values(self, path: Path) -> None:
        """Reject values with which training or sampling would fail. Raises: CharRNNError."""
        for name, tensor in self.snapshot.tensors.items():
            if name.startswith(("trainer.offsets", "trainer.random.cpu")) and not _is_valid_generator_state(tensor):
                raise CharRNNError(f"{path} has an invalid state of a random generator in {name}")
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            low, high = map(float, tensor.aminmax())
            largest = max(-low, high)
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CharRNNError(f"{path} has values in {name} that are NaN or infinite: use another checkpoint")
            if name.startswith("model.") and largest > _MAX_WEIGHT:
                problem = f"a value of {largest:.3g} in {name}, more than {_MAX_WEIGHT:g}"
                raise CharRNNError(f"{path} has {problem}: use another checkpoint")
            if name.startswith("trainer.") and name.endswith((".step", ".exp_avg_sq")) and low < 0:
                raise CharRNNError(f"{path} has a value of {low:.3g} in {name}, which must not be negative")

    def build_model(self) -> CharRNN:
        """The model with these weights, on the CPU. Raises: CharRNNError if they do not match it."""
        model = CharRNN(self.model_config)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CharRNNError(f"the checkpoint's weights do not match its model: {error}") from error
        return model


def time_of(path: Path) -> float:
    """The time of a checkpoint in seconds since 1970, from its header or else from the file. Raises: OSError."""
    with contextlib.suppress(CharRNNError):
        written = container.read_header(path, KIND).get("written")  # ten times as fast as Header.read
        if isinstance(written, int | float) and 0 <= written < 2**33:  # a date that all systems can format
            return written
    return path.stat().st_mtime


def _is_valid_generator_state(state: Tensor) -> bool:
    """False if a Mersenne Twister would read past the end of its state, which PyTorch does not check."""
    if state.dtype != torch.uint8 or state.shape != (_TWISTER_BYTES,):
        return True  # PyTorch checks type and size
    left, _, position = struct.unpack_from("=iiQ", state.numpy().data, 8)
    return left + position in (1, _TWISTER_NUMBERS + 1)  # newly seeded, or in use


def _upgrade(header: dict[str, Any]) -> dict[str, Any]:
    """Add the fields that older files lack; their evaluations read the whole validation text."""
    counters = header.get("counters")
    if not isinstance(counters, dict) or "part" in counters:
        return header
    best, seconds = counters.get("best_val_loss"), counters.get("closing_seconds")
    missing = {"part": dump(Part()), "best_part_loss": best, "best_val_chars": None, "evaluation_seconds": seconds}
    return header | {"counters": counters | missing}
