"""A text as parallel streams of ids, read in chunks; the position is a cursor that can be saved.

Letters in shapes: N symbols, B parallel streams, T time steps of a chunk.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError, CorpusChangedError
from charrnn.machine.runtime import Runtime

_Loss = TypeVar("_Loss", float, Tensor)

_BLOCK = 2**20


def _no_check() -> None:
    """Do nothing; for ids in memory."""


@dataclass(frozen=True)
class Cursor:
    """Position of the next chunk: the epoch, the chunk within it, and the offset of all streams in this epoch."""

    epoch: int
    chunk: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """N symbols cut into B streams of `num_chunks` chunks of T symbols; `slack` symbols are left over.

    Each epoch shifts all streams by a random offset up to `slack`, so that chunks start at different symbols.
    """

    batch_size: int
    seq_length: int
    num_chunks: int
    slack: int

    @classmethod
    def fit(cls, num_symbols: int, batch_size: int, seq_length: int, num_ranks: int = 1) -> "Layout":
        """The layout of N symbols, with fewer streams and shorter chunks if there are too few symbols.

        All processes have the same number of streams. Raises: CharRNNError for too few symbols.
        """
        if num_symbols < num_ranks + 1:
            raise CharRNNError(f"{num_symbols} symbols to train on: at least {num_ranks + 1} are needed")
        targets = num_symbols - 1
        T = min(seq_length, targets // num_ranks)
        B = min(batch_size, targets // T) // num_ranks * num_ranks
        # T - 1 symbols are reserved for the offset, unless no chunk would be left.
        num_chunks = max(1, (targets - (T - 1)) // (B * T))
        return cls(B, T, num_chunks, targets - B * T * num_chunks)

    @property
    def symbols_per_step(self) -> int:
        """Number of symbols in a step: B x T."""
        return self.batch_size * self.seq_length

    def require(self, cursor: Cursor) -> None:
        """Check that a cursor is within the streams. Raises: ValueError."""
        if cursor.chunk >= self.num_chunks or cursor.offset > self.slack:
            raise ValueError(f"chunk {cursor.chunk} at offset {cursor.offset} is beyond the streams")


@dataclass(frozen=True)
class TrainingText:
    """Training ids (N,), validation ids, and the layout of the training ids.

    `check` raises CorpusChangedError if another program has truncated the file of the ids. `chars_per_symbol` is a mean
    over the validation text, or over the training text if there is none.
    """

    train: Tensor
    val: Tensor
    layout: Layout
    check: Callable[[], None] = _no_check
    chars_per_symbol: float = 1.0

    @classmethod
    def split(
        cls,
        ids: Tensor,
        config: TrainingConfig,
        check: Callable[[], None] = _no_check,
        num_ranks: int = 1,
        *,
        eos_id: int | None = None,
        validation_start: int | None = None,
        count_chars: Callable[[Tensor], float] = len,
    ) -> "TrainingText":
        """Hold out the last part for validation, and lay out the rest in streams and chunks.

        The validation part starts at `validation_start`, or is the `val_fraction` of the config. With `eos_id` the cut
        is at the end of a document, and both parts contain its EOS. If a part would have fewer than two symbols, the
        text is not split. Raises: CharRNNError for too few symbols.
        """
        num_train = int((1 - config.val_fraction) * len(ids))
        first_val = num_train
        if validation_start is not None:
            first_val, num_train = validation_start, validation_start + (eos_id is not None)
        elif eos_id is not None and num_train < len(ids) and (cut := _nearest_eos(ids, num_train, eos_id)):
            first_val, num_train = cut, cut + 1
        if num_train < 2 or len(ids) - first_val < 2:
            first_val = num_train = len(ids)
        if config.batch_size is None or config.seq_length is None:
            raise ValueError("batch_size and seq_length are not set: `heuristics.choose_layout` chooses them")
        layout = Layout.fit(num_train, config.batch_size, config.seq_length, num_ranks)
        train, val = ids[:num_train], ids[first_val:]
        predicted = val[1:] if len(val) else train[1:]
        return cls(train, val, layout, check, max(count_chars(predicted), 1.0) / len(predicted))

    def placed(self, runtime: Runtime) -> "TrainingText":
        """The same text on a device, if it takes at most half of the free memory."""
        free = runtime.free_memory()
        if free is not None and 2 * (self.train.nbytes + self.val.nbytes) > free:
            return self
        train, val = runtime.place(self.train), runtime.place(self.val)
        return replace(self, train=train, val=val, check=self.check if train is self.train else _no_check)

    def count_chars(self, num_symbols: int) -> int:
        """Number of characters of `num_symbols` symbols, by their mean length."""
        return round(num_symbols * self.chars_per_symbol)

    def per_char(self, loss: _Loss) -> _Loss:
        """Convert a mean loss per symbol to a loss per character."""
        return loss if self.chars_per_symbol == 1 else loss / self.chars_per_symbol

    @contextlib.contextmanager
    def checking_file(self) -> Iterator[None]:
        """Check the file of the ids before and during the enclosed reads. Raises: CorpusChangedError."""
        self.check()
        try:
            yield
        except IndexError as error:
            message = "the corpus was overwritten while it was read: prepare the same text again"
            raise CorpusChangedError(message) from error


def _nearest_eos(ids: Tensor, position: int, eos_id: int) -> int:
    """Position of the nearest EOS other than the first and the last id; 0 if there is no such EOS."""
    last = len(ids) - 1
    for distance in range(0, len(ids), _BLOCK):
        low, high = max(position - distance - _BLOCK, 1), max(position - distance, 1)
        before = torch.nonzero(ids[low:high] == eos_id)
        start = min(position + distance, last)
        after = torch.nonzero(ids[start : min(start + _BLOCK, last)] == eos_id)
        found = [low + int(each) for each in before[-1:]] + [start + int(each) for each in after[:1]]
        if found:
            return min(found, key=lambda each: abs(each - position))
    return 0


def chunk_at(ids: Tensor, layout: Layout, cursor: Cursor) -> Tensor:
    """A view (T + 1, B) of the chunk at a cursor and the symbol after it.

    The inputs of a step are all rows but the last, the targets all rows but the first.

    >>> alphabet = torch.arange(26)
    >>> chunk = chunk_at(alphabet, Layout(2, 3, 4, 1), Cursor(epoch=0, chunk=1, offset=0))
    >>> ["".join(chr(97 + i) for i in stream) for stream in chunk.T.tolist()]  # two streams: a..l, m..x
    ['defg', 'pqrs']
    """
    B, T = layout.batch_size, layout.seq_length
    length = layout.num_chunks * T
    start = cursor.offset + cursor.chunk * T
    return ids.as_strided((B, T + 1), (length, 1), ids.storage_offset() + start).t()


def advance(layout: Layout, cursor: Cursor, generator: torch.Generator) -> Cursor:
    """The cursor of the next chunk; after the last chunk, the start of the next epoch with a new offset."""
    if cursor.chunk + 1 < layout.num_chunks:
        return Cursor(cursor.epoch, cursor.chunk + 1, cursor.offset)
    return Cursor(cursor.epoch + 1, 0, draw_offset(layout, generator))


def draw_offset(layout: Layout, generator: torch.Generator) -> int:
    """A random offset of the streams, from 0 to the slack of the layout."""
    return int(torch.randint(layout.slack + 1, (1,), generator=generator))
