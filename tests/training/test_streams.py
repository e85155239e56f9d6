"""Streams and chunks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.errors import CharRNNError
from charrnn.training.streams import Cursor, Layout, advance, chunk_at, draw_offset

sizes = st.tuples(st.integers(2, 300), st.integers(1, 8), st.integers(1, 20))


@given(sizes)
def test_layout_fits_and_shrinks_only_where_it_must(size: tuple[int, int, int]) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    assert layout.batch_size * layout.seq_length * layout.num_chunks + layout.slack == N - 1
    assert layout.slack >= 0
    if N - 1 >= B * T:
        assert (layout.batch_size, layout.seq_length) == (B, T)


@given(sizes, st.integers(0, 2**31 - 1))
def test_an_epoch_reads_contiguous_streams_once(size: tuple[int, int, int], seed: int) -> None:
    N, B, T = size
    layout = Layout.fit(N, B, T)
    generator = torch.Generator().manual_seed(seed)
    cursor = Cursor(0, 0, draw_offset(layout, generator))
    inputs, targets = [], []
    while cursor.epoch == 0:
        x, y = chunk_at(torch.arange(N, dtype=torch.int16), layout, cursor)
        inputs.append(x)
        targets.append(y)
        cursor = advance(layout, cursor, generator)
    streams = torch.cat(inputs)  # (S, B)
    assert torch.equal(torch.cat(targets), streams + 1)
    read = streams.T.flatten()
    assert torch.equal(read, torch.arange(len(read)) + int(read[0]))


def test_every_symbol_has_its_turn_in_some_epoch() -> None:
    layout, generator = Layout.fit(50, 3, 4), torch.Generator().manual_seed(0)
    offsets = {draw_offset(layout, generator) for _ in range(500)}
    assert offsets == set(range(layout.slack + 1))


def test_views_of_a_longer_sequence_are_read_where_they_lie() -> None:
    part = torch.arange(100)[40:60]
    x, _ = chunk_at(part, Layout.fit(20, 2, 3), Cursor(0, 0, 0))
    assert x[0, 0] == 40


def test_one_symbol_cannot_be_trained_on() -> None:
    with pytest.raises(CharRNNError, match="at least 2"):
        Layout.fit(1, 2, 3)
