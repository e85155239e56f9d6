"""A long sequence of indices as parallel streams, read in chunks with a cursor that can be saved.

Pure tensor arithmetic: no device, no model. Letters in shapes: N symbols, B parallel streams, T time steps
of a chunk, S time steps of a whole stream.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from charrnn.errors import CharRNNError


@dataclass(frozen=True)
class Cursor:
    """Where the next chunk begins: its number within the epoch, and the epoch's shift of all streams."""

    epoch: int
    chunk: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """How N symbols are cut into B streams of `num_chunks` chunks of T symbols, with some symbols to spare.

    Each epoch shifts all streams by a random offset up to `slack`, so that the borders of the chunks move
    and every symbol gets its turn.
    """

    batch_size: int
    seq_length: int
    num_chunks: int
    slack: int

    @classmethod
    def fit(cls, num_symbols: int, batch_size: int, seq_length: int) -> "Layout":
        """The layout of N symbols, with fewer and shorter streams where there are too few for those asked.

        Raises: CharRNNError for fewer than two symbols.
        """
        if num_symbols < 2:
            raise CharRNNError(f"{num_symbols} symbols to train on: at least 2 are needed")
        targets = num_symbols - 1
        T = min(seq_length, targets)
        B = min(batch_size, targets // T)
        # T - 1 symbols are set aside for the shift, unless that leaves no chunk.
        num_chunks = max(1, (targets - (T - 1)) // (B * T))
        return cls(B, T, num_chunks, targets - B * T * num_chunks)


def chunk_at(indices: Tensor, layout: Layout, cursor: Cursor) -> tuple[Tensor, Tensor]:
    """The chunk at a cursor: inputs x and targets y, one symbol ahead, both (T, B) int64.

    >>> alphabet = torch.arange(26)
    >>> x, y = chunk_at(alphabet, Layout(2, 3, 4, 1), Cursor(epoch=0, chunk=1, offset=0))
    >>> ["".join(chr(97 + i) for i in stream) for stream in x.T.tolist()]  # of a..l and m..x
    ['def', 'pqr']
    >>> ["".join(chr(97 + i) for i in stream) for stream in y.T.tolist()]
    ['efg', 'qrs']
    """
    B, T = layout.batch_size, layout.seq_length
    length = layout.num_chunks * T
    begin = cursor.offset + cursor.chunk * T
    chunk = indices.as_strided((B, T + 1), (length, 1), indices.storage_offset() + begin)
    chunk = chunk.t().long()  # (T + 1, B)
    return chunk[:-1], chunk[1:]


def advance(layout: Layout, cursor: Cursor, generator: torch.Generator) -> Cursor:
    """The cursor of the next chunk; at the end of an epoch, of the next epoch with an offset of its own."""
    if cursor.chunk + 1 < layout.num_chunks:
        return Cursor(cursor.epoch, cursor.chunk + 1, cursor.offset)
    return Cursor(cursor.epoch + 1, 0, draw_offset(layout, generator))


def draw_offset(layout: Layout, generator: torch.Generator) -> int:
    """A random shift of the streams, from 0 to the layout's slack."""
    return int(torch.randint(layout.slack + 1, (1,), generator=generator))
