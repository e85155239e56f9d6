"""What a run must remember, to a file and back, and the folder that a run lives in.

A checkpoint is one file that suffices to sample: weights, vocabulary, all configs. It also holds the
trainer's state, so that training can go on where it stood.
"""

import contextlib
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import charrnn
from charrnn import storage
from charrnn.config import ModelConfig, PreparationConfig, TrainingConfig, config_from_json
from charrnn.corpus import Corpus
from charrnn.errors import CharRNNError
from charrnn.lock import Lock, locked
from charrnn.model import CharRNN, count_parameters
from charrnn.runtime import PRECISIONS
from charrnn.vocabulary import Vocabulary

KIND = "checkpoint"
VERSIONS = {"charrnn": charrnn.__version__, "torch": str(torch.__version__)}
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
        for path in (path for folder in folders for path in sorted(folder.glob(f"*{storage.SUFFIX}"))):
            if path.is_file() and storage.mentions(path, self.text_digest):
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

    def save(self, path: Path, backup: Path | None = None, guard: storage.Guard | None = None) -> None:
        """Write the file, durably and in one step; what stood there becomes `backup`.

        Of `guard` tells `storage.write_atomically`. Raises: CharRNNError.
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
        storage.write(path, KIND, header, tensors, backup, guard)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read and verify a file. Raises: CharRNNError if it is not a sound checkpoint."""
        stored = storage.read(path, KIND)
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


@dataclass(frozen=True)
class RunFolder:
    """Where a run's checkpoints and metrics lie. While `lock` is held, nothing is written once it is another's."""

    path: Path
    lock: Lock | None = field(default=None, compare=False)

    @contextlib.contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """The same folder, made if need be and with its lock held. Raises: CharRNNError, see `lock.locked`."""
        with locked(self.path) as lock:
            yield replace(self, lock=lock)

    @property
    def guard(self) -> storage.Guard | None:
        """The check of the lock, for whoever writes into the folder."""
        return None if self.lock is None else self.lock.check

    @property
    def best(self) -> Path:
        """The checkpoint of the lowest validation loss."""
        return self.path / f"best{storage.SUFFIX}"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / f"last{storage.SUFFIX}"

    @property
    def last_but_one(self) -> Path:
        """The checkpoint before the newest, in case that one does not survive."""
        return self.path / f"last-1{storage.SUFFIX}"

    @property
    def metrics(self) -> Path:
        """The log of the run, one JSON record a line."""
        return self.path / "metrics.jsonl"

    def holds_run(self) -> bool:
        """Whether there is any checkpoint."""
        return any(path.exists() for path in (self.last, self.last_but_one, self.best))

    def begin(self, checkpoint: Checkpoint, *, best: bool, begin_log: Callable[[], None] | None = None) -> None:
        """Write a run's first checkpoint, and its log, in place of the run that was there before, if any.

        At every instant there is a sound checkpoint of one of the two, if the other run had one; its log goes a moment
        before. Raises: CharRNNError.
        """
        first = storage.temporary_beside(self.last)
        try:
            checkpoint.save(first, guard=self.guard)
            if begin_log is not None:
                begin_log()  # whoever finds the checkpoint finds all that it knows to have been logged
            storage.rename(first, self.last, self.guard)
        except CharRNNError as error:
            raise CharRNNError(str(error).replace(first.name, self.last.name)) from error
        finally:
            first.unlink(missing_ok=True)
        for path in (self.best, self.last_but_one, *map(_aside, (self.best, self.last_but_one, self.last))):
            if path.exists():
                storage.remove(path, self.guard)
        if best and not storage.link(self.last, self.best, self.last_but_one, self.guard):
            checkpoint.save(self.best, guard=self.guard)

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Write the newest checkpoint and keep the one before it; at every instant one of the two is whole.

        One that is also the best so far is written once, under two names where the file system has such.
        Raises: CharRNNError.
        """
        if best:
            checkpoint.save(self.best, guard=self.guard)
        if not best or not storage.link(self.best, self.last, self.last_but_one, self.guard):
            checkpoint.save(self.last, self.last_but_one, self.guard)

    def load_last(self) -> tuple[Checkpoint, dict[Path, str]]:
        """The newest sound checkpoint, and each newer one that is not with the reason.

        Raises: CharRNNError if there is none.
        """
        unsound: dict[Path, str] = {}
        for path in (self.last, self.last_but_one, self.best):
            if path.exists():
                try:
                    return Checkpoint.load(path), unsound
                except CharRNNError as error:
                    unsound[path] = str(error)
        raise CharRNNError(f"{self.path} holds no sound checkpoint: {next(iter(unsound.values()), '')}")

    def set_aside(self, unsound: Iterable[Path]) -> list[Path]:
        """Rename checkpoints that failed verification, so that none of them is ever kept as a backup.

        Returns: their new names, in place of what was set aside before. Raises: CharRNNError.
        """
        return [storage.rename(path, _aside(path), self.guard) for path in unsound]


def _aside(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-damaged")


def find_checkpoint(argument: Path | None, checkpoint_dir: Path) -> Path:
    """The file meant by a checkpoint file, by a run folder (its best, else its last) or by nothing.

    Nothing means the newest run under `checkpoint_dir`. Raises: CharRNNError if there is none.
    """
    if argument is not None and not argument.is_dir():
        return argument
    folders = [argument] if argument is not None else _subfolders(checkpoint_dir)
    newest = max(folders, key=lambda folder: _modified(_candidates(folder)), default=None)
    found = [] if newest is None else [path for path in _candidates(newest) if path.exists()]
    if not found:
        where = argument or checkpoint_dir
        raise CharRNNError(f"{where} holds no trained model: run `charrnn train CORPUS` first, or name a checkpoint")
    return found[0]


def _candidates(folder: Path) -> list[Path]:
    run = RunFolder(folder)
    return [run.best, run.last, run.last_but_one]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _modified(paths: Iterable[Path]) -> float:
    return max((path.stat().st_mtime for path in paths if path.exists()), default=-1.0)


def transfer(source: Checkpoint, model: CharRNN, vocabulary: Vocabulary) -> int:
    """Copy another run's weights into a model, matching the rows of symbols that both vocabularies have.

    Rows of new symbols stay as they are. Returns: how many symbols were matched.
    Raises: CharRNNError if the models differ in more than their vocabulary.
    """
    old = {symbol: i for i, symbol in enumerate(source.vocabulary.symbols)}
    pairs = [(i, old[symbol]) for i, symbol in enumerate(vocabulary.symbols) if symbol in old]
    if vocabulary.unknown is not None and source.vocabulary.unknown is not None:
        pairs.append((vocabulary.unknown, source.vocabulary.unknown))
    here, there = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    weights = source.build_model().state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            other = weights.get(name)
            by_symbol = _symbol_dimension(name, model)
            if other is None or not _same_but(by_symbol, weight.shape, other.shape):
                raise CharRNNError(f"the checkpoint's model has another shape ({name}): give the same model options")
            if by_symbol is None:
                weight.copy_(other)
            else:
                weight.index_copy_(by_symbol, here, other.index_select(by_symbol, there))
    return len(pairs)


def _symbol_dimension(name: str, model: CharRNN) -> int | None:
    """Which dimension of a weight counts symbols: rows of the embedding and head, columns of one-hot input."""
    if name.startswith(("embedding.", "head.")):
        return 0
    return 1 if model.embedding is None and name == "stack.layers.0.weight_ih_l0" else None


def _same_but(dimension: int | None, a: torch.Size, b: torch.Size) -> bool:
    return len(a) == len(b) and all(i == dimension or a[i] == b[i] for i in range(len(a)))
