"""Streams and chunks."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.machine.runtime import Runtime
from charrnn.training import streams
from charrnn.training.streams import Cursor, Layout, TrainingText, advance, chunk_at, draw_offset

sizes = st.tuples(st.integers(2, 300), st.integers(1, 8), st.integers(1, 20))


@given(sizes)
def test_layout_fits_and_shrinks_only_where_it_must(size: tuple[int, int, int]) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    assert layout.batch_size * layout.seq_length * layout.num_chunks + layout.slack == N - 1
    assert layout.slack >= 0
    if N - 1 >= B * T:
        assert (layout.batch_size, layout.seq_length) == (B, T)


def read_epoch(layout: Layout, num_symbols: int, offset: int) -> list[tuple[Tensor, Tensor]]:
    """The chunks (x, y) of an epoch with this offset; the symbols are their own places."""
    chunks, cursor = [], Cursor(0, 0, offset)
    while cursor.epoch == 0:
        chunk = chunk_at(torch.arange(num_symbols, dtype=torch.int16), layout, cursor)
        chunks.append((chunk[:-1], chunk[1:]))
        cursor = advance(layout, cursor, torch.Generator())
    return chunks


@given(sizes, st.data())
def test_streams_continue_from_chunk_to_chunk(size: tuple[int, int, int], data: st.DataObject) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    chunks = read_epoch(layout, N, data.draw(st.integers(0, layout.slack)))
    assert len(chunks) == layout.num_chunks
    for x, y in chunks:
        assert x.shape == y.shape == (layout.seq_length, layout.batch_size)
        assert torch.equal(y, x + 1), "each target is the symbol after its input"
        assert torch.equal(x[1:], y[:-1]), "within a chunk"
    for (_, y), (x, _) in pairwise(chunks):
        assert torch.equal(x[0], y[-1]), "from one chunk to the next"


@given(sizes, st.data())
def test_an_epoch_predicts_no_symbol_twice(size: tuple[int, int, int], data: st.DataObject) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    chunks = read_epoch(layout, N, data.draw(st.integers(0, layout.slack)))
    targets = [int(symbol) for _, y in chunks for symbol in y.flatten()]
    assert len(set(targets)) == len(targets) == N - 1 - layout.slack


@given(sizes)
def test_every_symbol_is_predicted_at_some_offset(size: tuple[int, int, int]) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    epochs = [read_epoch(layout, N, offset) for offset in range(layout.slack + 1)]
    targets = {symbol for chunks in epochs for _, y in chunks for symbol in y.flatten().tolist()}
    assert targets == set(range(1, N))


def test_every_offset_is_drawn() -> None:
    layout, generator = Layout.fit(50, 3, 4), torch.Generator().manual_seed(0)
    assert layout.slack > 0
    offsets = {draw_offset(layout, generator) for _ in range(500)}
    assert offsets == set(range(layout.slack + 1))


def test_next_epoch_starts_at_another_offset() -> None:
    layout, generator = Layout.fit(50, 3, 4), torch.Generator().manual_seed(0)
    cursor = Cursor(0, layout.num_chunks - 1, 0)
    started = [advance(layout, cursor, generator) for _ in range(500)]
    assert {(cursor.epoch, cursor.chunk) for cursor in started} == {(1, 0)}
    assert {cursor.offset for cursor in started} == set(range(layout.slack + 1))


def test_views_of_a_longer_sequence_are_read_where_they_lie() -> None:
    part = torch.arange(100)[40:60]
    chunk = chunk_at(part, Layout.fit(20, 2, 3), Cursor(0, 0, 0))
    assert chunk[0, 0] == 40


def test_one_symbol_cannot_be_trained_on() -> None:
    with pytest.raises(CharRNNError, match="at least 2"):
        Layout.fit(1, 2, 3)


def test_validation_takes_the_last_part_or_nothing() -> None:
    def lengths(num_symbols: int, val_fraction: float) -> tuple[int, int]:
        config = TrainingConfig(val_fraction=val_fraction, batch_size=4, seq_length=8)
        text = TrainingText.split(torch.arange(num_symbols), config)
        assert torch.equal(torch.cat([text.train, text.val]), torch.arange(num_symbols))
        return len(text.train), len(text.val)

    assert lengths(100, 0.1) == (90, 10)
    assert lengths(100, 0.0) == (100, 0)
    assert lengths(2, 0.5) == (2, 0)


def test_text_that_would_take_half_of_a_devices_memory_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TrainingText.split(torch.arange(1000, dtype=torch.uint8), TrainingConfig(batch_size=4, seq_length=8))
    meta = Runtime(torch.device("meta"), torch.float32)
    for free, kind in ((None, "meta"), (2000, "meta"), (1999, "cpu")):
        monkeypatch.setattr(Runtime, "free_memory", lambda self, free=free: free)
        assert {part.device.type for part in (text.placed(meta).train, text.placed(meta).val)} == {kind}


def documents_of(*lengths: int) -> Tensor:
    """Borders, 0, around documents of 1 of these lengths."""
    return torch.cat([torch.zeros(1), *(torch.tensor([1] * (length - 1) + [0]) for length in lengths)]).to(torch.uint8)


@pytest.mark.parametrize("block", [2**20, 3])
@pytest.mark.parametrize(
    ("lengths", "val_fraction", "num_val"),
    [
        ((90, 5, 5), 0.1, 11),  # of which the first is the border that both parts have
        ((5, 90, 5), 0.1, 6),  # the nearest border, if it is behind the place
        ((95, 5), 0.1, 6),
        ((5, 95), 0.1, 96),
        ((100,), 0.1, 11),  # cut within the only document
        ((50, 50), 0.0, 0),
    ],
)
def test_the_split_is_at_the_nearest_border(
    lengths: tuple[int, ...], val_fraction: float, num_val: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_BLOCK", block)
    config = TrainingConfig(val_fraction=val_fraction, batch_size=2, seq_length=4)
    ids = documents_of(*lengths)
    text = TrainingText.split(ids, config, eos_id=0)
    assert len(text.val) == num_val
    if len(lengths) > 1 and num_val:
        assert torch.equal(torch.cat([text.train[:-1], text.val]), ids)


def test_a_validation_text_within_one_character_has_a_length() -> None:
    config = TrainingConfig(batch_size=2, seq_length=4)
    assert TrainingText.split(torch.zeros(20), config, count_chars=lambda ids: 0.0).chars_per_symbol == 1
