"""A long sequence of ids as parallel streams, read in chunks with a cursor that can be saved.

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


def _trust() -> None:
    """No check, of ids that nobody else can change."""


@dataclass(frozen=True)
class Cursor:
    """Begin of the next chunk: its number within the epoch, and the epoch's shift of all streams."""

    epoch: int
    chunk: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """N symbols cut into B streams of `num_chunks` chunks of T symbols, with some symbols to spare.

    Each epoch shifts all streams by a random offset up to `slack`, so that chunks start at other symbols.
    """

    batch_size: int
    seq_length: int
    num_chunks: int
    slack: int

    @classmethod
    def fit(cls, num_symbols: int, batch_size: int, seq_length: int, num_ranks: int = 1) -> "Layout":
        """The layout of N symbols, with fewer and shorter streams if there are too few for those requested.

        Each of several processes has as many streams. Raises: CharRNNError for too few symbols.
        """
        if num_symbols < num_ranks + 1:
            raise CharRNNError(f"{num_symbols} symbols to train on: at least {num_ranks + 1} are needed")
        targets = num_symbols - 1
        T = min(seq_length, targets // num_ranks)
        B = min(batch_size, targets // T) // num_ranks * num_ranks
        # T - 1 symbols are set aside for the shift, unless that leaves no chunk.
        num_chunks = max(1, (targets - (T - 1)) // (B * T))
        return cls(B, T, num_chunks, targets - B * T * num_chunks)

    @property
    def symbols_per_step(self) -> int:
        """Symbols of a chunk: B x T."""
        return self.batch_size * self.seq_length

    def require(self, cursor: Cursor) -> None:
        """Check that a cursor is within the streams. Raises: ValueError."""
        if cursor.chunk >= self.num_chunks or cursor.offset > self.slack:
            raise ValueError(f"chunk {cursor.chunk} at offset {cursor.offset} is beyond the streams")


@dataclass(frozen=True)
class TrainingText:
    """Training ids (N,), validation ids, and the streams of the former.

    `check` raises CorpusChangedError if another program has truncated the file of the ids. `chars_per_symbol` is
    the mean number of characters of a symbol of the validation text, or else of the training text.
    """

    train: Tensor
    val: Tensor
    layout: Layout
    check: Callable[[], None] = _trust
    chars_per_symbol: float = 1.0

    @classmethod
    def split(
        cls,
        ids: Tensor,
        config: TrainingConfig,
        check: Callable[[], None] = _trust,
        num_ranks: int = 1,
        *,
        eos_id: int | None = None,
        validation_start: int | None = None,
        count_chars: Callable[[Tensor], float] = len,
    ) -> "TrainingText":
        """Hold out the last part for validation, and lay the rest out in the config's streams and chunks.

        The part starts at `validation_start`, or is a fraction of the text.
        With `eos_id` the cut is at the end of a document, whose EOS both parts have. A text whose last part
        would be shorter than two symbols is not split. Raises: CharRNNError for too few symbols.
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
        return replace(self, train=train, val=val, check=self.check if train is self.train else _trust)

    def count_chars(self, num_symbols: int) -> int:
        """The mean number of characters of `num_symbols` symbols."""
        return round(num_symbols * self.chars_per_symbol)

    def per_char(self, loss: _Loss) -> _Loss:
        """A mean loss per symbol as one per character."""
        return loss if self.chars_per_symbol == 1 else loss / self.chars_per_symbol

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Check the file of the ids around the enclosed reads. Raises: CorpusChangedError."""
        self.check()
        try:
            yield
        except IndexError as error:
            changed = "the corpus was overwritten while it was read: prepare the same text again"
            raise CorpusChangedError(changed) from error


def _nearest_eos(ids: Tensor, place: int, eos_id: int) -> int:
    """Position of the EOS nearest to a place, without the first and the last id; 0 if there is none."""
    last = len(ids) - 1
    for distance in range(0, len(ids), _BLOCK):
        low, high = max(place - distance - _BLOCK, 1), max(place - distance, 1)
        before = torch.nonzero(ids[low:high] == eos_id)
        begin = min(place + distance, last)
        after = torch.nonzero(ids[begin : min(begin + _BLOCK, last)] == eos_id)
        found = [low + int(each) for each in before[-1:]] + [begin + int(each) for each in after[:1]]
        if found:
            return min(found, key=lambda each: abs(each - place))
    return 0


def chunk_at(ids: Tensor, layout: Layout, cursor: Cursor) -> Tensor:
    """A view of the chunk at a cursor and of the symbols after it: (T + 1, B).

    All but the last row are a step's inputs, all but the first its targets.

    >>> alphabet = torch.arange(26)
    >>> chunk = chunk_at(alphabet, Layout(2, 3, 4, 1), Cursor(epoch=0, chunk=1, offset=0))
    >>> ["".join(chr(97 + i) for i in stream) for stream in chunk.T.tolist()]  # of a..l and m..x
    ['defg', 'pqrs']
    """
    B, T = layout.batch_size, layout.seq_length
    length = layout.num_chunks * T
    begin = cursor.offset + cursor.chunk * T
    return ids.as_strided((B, T + 1), (length, 1), ids.storage_offset() + begin).t()


def advance(layout: Layout, cursor: Cursor, generator: torch.Generator) -> Cursor:
    """The cursor of the next chunk; after the last one of an epoch, the start of the next at a new offset."""
    if cursor.chunk + 1 < layout.num_chunks:
        return Cursor(cursor.epoch, cursor.chunk + 1, cursor.offset)
    return Cursor(cursor.epoch + 1, 0, draw_offset(layout, generator))


def draw_offset(layout: Layout, generator: torch.Generator) -> int:
    """A random shift of the streams, from 0 to the layout's slack."""
    return int(torch.randint(layout.slack + 1, (1,), generator=generator))
