"""A run to report on: its model, its log, and its text if it is found."""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from charrnn.errors import CharRNNError
from charrnn.model.network import CharRNN
from charrnn.report.visible import name_all
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.reporting import Records, read_records
from charrnn.terminal import Readable
from charrnn.text.corpus import read_blocks
from charrnn.text.tokenizers import Tokenizer
from charrnn.training.streams import TrainingText

_MAX_TRAIN = 2**22  # max symbols to search for copies: indexing them takes a second or two
_MAX_HELD_OUT = 2**18  # max symbols to read


@dataclass(frozen=True)
class Subject:
    """A run. `train` and `held_out` are ids (N,); empty if the text was not found."""

    name: str
    checkpoint: Checkpoint
    model: CharRNN
    records: Records
    train: Tensor
    """The training text; also empty if it is too long to search for copies."""
    held_out: Tensor
    """The start of the validation text."""
    has_text: bool

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self.checkpoint.tokenizer

    @property
    def noun(self) -> str:
        """The noun for a symbol; "symbol" if the symbols are words and punctuation marks."""
        return "symbol" if self.tokenizer.has_words else self.tokenizer.noun

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of the symbols by id."""
        return name_all(self.tokenizer)

    def show(self, ids: Iterable[int]) -> list[str]:
        """The text of each id; a character of several bytes is the text of its last byte."""
        show = Readable()
        return [show(self.tokenizer.texts[i]) for i in ids]


def open_subject(run: str | Path, data_dir: Path, checkpoint_dir: Path, corpus: str | None = None) -> Subject:
    """Open a run by its folder, its name or a checkpoint; `corpus` replaces the model's corpus.

    Raises: CharRNNError.
    """
    path = find_checkpoint(run, checkpoint_dir)
    checkpoint = Checkpoint.load(path)
    folder = path.absolute().parent
    records = read_records(RunFolder(folder).metrics)
    ids, validation_start = _find_text(checkpoint, path, data_dir, corpus)
    train = held_out = torch.zeros(0)
    if ids is not None:
        config = replace(checkpoint.training_config, batch_size=1, seq_length=1)
        eos_id = checkpoint.tokenizer.eos_id
        text = TrainingText.split(ids, config, eos_id=eos_id, validation_start=validation_start)
        train, held_out = text.train, text.val
    return Subject(
        name=folder.name if records and folder != Path(os.path.expanduser("~")) else path.stem,  # noqa: PTH111
        checkpoint=checkpoint,
        model=checkpoint.build_model().eval(),
        records=records,
        train=(train if len(train) <= _MAX_TRAIN else train[:0]).long(),
        held_out=held_out[:_MAX_HELD_OUT].long(),
        has_text=ids is not None,
    )


def _find_text(
    checkpoint: Checkpoint, path: Path, data_dir: Path, corpus: str | None
) -> tuple[Tensor | None, int | None]:
    """The ids (N,) of the given text, or else of the model's corpus if it is found, and the start of validation text.

    Raises: CharRNNError.
    """
    if corpus is None:
        own = checkpoint.corpus.find(path, data_dir)
        return (None, None) if own is None else (own.ids, own.validation_start)
    tokenizer = checkpoint.tokenizer
    ids = tokenizer.ids_of(tokenizer.split("".join(read_blocks(corpus, checkpoint.corpus.config))))
    if tokenizer.unk_id is None:
        ids = ids[ids < tokenizer.size]
    if len(ids) < 2:
        raise CharRNNError(f"{corpus} has fewer than 2 symbols of the model's vocabulary: use its training text")
    return ids, None
