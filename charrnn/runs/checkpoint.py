"""Save and load checkpoints.

A checkpoint is one file that suffices to sample: weights, vocabulary, all configs. It also holds the trainer's state,
so that training can go on where it stood. Where checkpoints lie is left to `folder.py`.
"""

import contextlib
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charrnn.config import ModelConfig, PreparationConfig, TrainingConfig, config_from_json
from charrnn.errors import CharRNNError
from charrnn.files import atomic, container
from charrnn.machine.runtime import PRECISIONS
from charrnn.model.network import CharRNN, count_parameters
from charrnn.text.corpus import Corpus
from charrnn.text.vocabulary import Vocabulary
from charrnn.version import __version__

KIND = "checkpoint"
VERSIONS = {"charrnn": __version__, "torch": str(torch.__version__)}
_VERSION = re.compile(r"[\w.+-]{1,100}")
_MODEL, _TRAINER = "model.", "trainer."
_TWISTER_BYTES, _TWISTER_NUMBERS = 5056, 624
_MAX_VALUE = 1e15
"""Of a weight: products of two of them, summed over the largest layer, stay finite in float32."""


@dataclass(frozen=True)
class CorpusIdentity:
    """Which corpus a model was trained on, and how its text was prepared (prompts are normalised likewise)."""

    path: str
    text_digest: str
    config: PreparationConfig

    @classmethod
    def of(cls, corpus: Corpus) -> "CorpusIdentity":
        """What a checkpoint remembers of its corpus."""
        return cls(path=str(corpus.path), text_digest=corpus.text_digest, config=corpus.config)

    def fits(self, corpus: Corpus) -> bool:
        """Whether this is the same text, prepared alike, wherever it lies now."""
        return (self.text_digest, self.config) == (corpus.text_digest, corpus.config)

    def find(self, folders: Iterable[Path]) -> Corpus | None:
        """The corpus among the prepared files of some folders. `path`, which a stranger may have written, is no guide.

        A damaged file is none. Raises: OSError for a folder that cannot be read.
        """
        for path in (path for folder in folders for path in sorted(folder.glob(f"*{container.SUFFIX}"))):
            if path.is_file() and container.mentions(path, self.text_digest):
                with contextlib.suppress(CharRNNError):
                    if self.fits(corpus := Corpus.open(path)):
                        return corpus
        return None


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a run. `trainer_tensors` and `counters` are the trainer's own state, opaque here."""

    model_config: ModelConfig
    training_config: TrainingConfig
    vocabulary: Vocabulary
    corpus: CorpusIdentity
    seed: int
    precision: str
    weights: Mapping[str, Tensor]
    trainer_tensors: Mapping[str, Tensor]
    counters: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=lambda: VERSIONS)
    """Of the programs that wrote it."""

    def copy(self) -> "Checkpoint":
        """The same moment, in memory of its own on the CPU: the run may go on."""
        return replace(self, weights=_copy(self.weights), trainer_tensors=_copy(self.trainer_tensors))

    def save(self, path: Path, backup: Path | None = None, guard: atomic.Guard = atomic.no_guard) -> None:
        """Write the file, durably and in one step; what stood there becomes `backup`.

        Of `guard` tells `atomic.write_atomically`. Raises: CharRNNError.
        """
        tensors = {_MODEL + name: tensor for name, tensor in self.weights.items()}
        tensors |= {_TRAINER + name: tensor for name, tensor in self.trainer_tensors.items()}
        header = {
            **self.versions,
            "model_config": asdict(self.model_config),
            "training_config": asdict(self.training_config),
            "vocabulary": self.vocabulary.to_json(),
            "corpus": asdict(self.corpus),
            "seed": self.seed,
            "precision": self.precision,
            "counters": dict(self.counters),
        }
        container.write(path, KIND, header, tensors, backup, guard)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read and verify a file. Raises: CharRNNError if it is not a sound checkpoint."""
        stored = container.read(path, KIND)
        match stored.header:
            case {
                "charrnn": str(charrnn_version),
                "torch": str(torch_version),
                "model_config": model_config,
                "training_config": training_config,
                "vocabulary": vocabulary,
                "corpus": {"path": str(path_of_corpus), "text_digest": str(text_digest), "config": preparation},
                "seed": int(seed),
                "precision": str(precision),
                "counters": dict(counters),
            } if 0 <= seed < 2**31 and precision in PRECISIONS and _VERSION.fullmatch(charrnn_version + torch_version):
                checkpoint = cls(
                    model_config=config_from_json(ModelConfig, model_config),
                    training_config=config_from_json(TrainingConfig, training_config),
                    vocabulary=Vocabulary.from_json(vocabulary),
                    corpus=CorpusIdentity(
                        path=path_of_corpus,
                        text_digest=text_digest,
                        config=config_from_json(PreparationConfig, preparation),
                    ),
                    seed=seed,
                    precision=precision,
                    weights=_strip(_MODEL, stored.tensors),
                    trainer_tensors=_strip(_TRAINER, stored.tensors),
                    counters=counters,
                    versions={"charrnn": charrnn_version, "torch": torch_version},
                )
                checkpoint._check_weights(path)
                checkpoint._check_values(path)
                return checkpoint
        raise CharRNNError(f"{path} lacks parts of a checkpoint: it was not written by this version")

    def _check_weights(self, path: Path) -> None:
        """Compare sizes with the config before memory is taken for a model of that size."""
        if self.model_config.vocab_size != self.vocabulary.size:
            raise CharRNNError(f"{path} has a model and a vocabulary of different sizes")
        if sum(tensor.numel() for tensor in self.weights.values()) != count_parameters(self.model_config):
            raise CharRNNError(f"{path} has weights that do not fit its model's config")
        if any(tensor.dtype != torch.float32 for tensor in self.weights.values()):
            raise CharRNNError(f"{path} has weights of another type than float32")

    def _check_values(self, path: Path) -> None:
        """Refuse numbers that no training goes on from and no text is sampled from. Raises: CharRNNError."""
        for name, tensor in [*self.weights.items(), *self.trainer_tensors.items()]:
            if name in ("offsets", "random.cpu") and not _is_sound_generator(tensor):
                raise CharRNNError(f"{path} has an impossible state of a random generator in {name}")
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            low, high = map(float, tensor.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CharRNNError(f"{path} has values in {name} that are not finite: use another checkpoint")
            if name in self.weights and max(-low, high) > _MAX_VALUE:
                largest = max(-low, high)
                raise CharRNNError(
                    f"{path} has a value of {largest:.3g} in {name}, more than {_MAX_VALUE:g}: use another checkpoint"
                )
            if name.startswith("optimizer.") and name.endswith((".step", ".exp_avg_sq")) and low < 0:
                raise CharRNNError(f"{path} has a value of {low:.3g} in {name}, which is never negative")

    def build_model(self) -> CharRNN:
        """The model with these weights, on the CPU. Raises: CharRNNError if they do not fit."""
        model = CharRNN(self.model_config)
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise CharRNNError(f"the checkpoint's weights do not fit its model: {error}") from error
        return model


def _is_sound_generator(state: Tensor) -> bool:
    """False if numbers would be drawn from beyond the state of a Mersenne Twister, which PyTorch does not check."""
    if state.dtype != torch.uint8 or state.shape != (_TWISTER_BYTES,):
        return True  # which PyTorch does check
    left, _, position = struct.unpack_from("=iiQ", state.numpy().data, 8)
    return left + position in (1, _TWISTER_NUMBERS + 1)  # freshly seeded, or drawn from


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _strip(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
