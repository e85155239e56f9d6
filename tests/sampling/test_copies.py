"""Parts of a text that stand in another."""

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.sampling.copies import SuffixArray, pack, sort_suffixes, unpack
from charrnn.text.vocabulary import code_points

texts = st.text(alphabet="abé文", max_size=60)


@given(texts | st.text(max_size=60))
@example("banana")
@example("a" * 300)
@example("abracadabra" * 30)
def test_suffixes_are_sorted(text: str) -> None:
    expected = sorted(range(len(text)), key=lambda begin: text[begin:])
    assert sort_suffixes(code_points(text)).tolist() == expected


@given(texts, texts)
def test_index_finds_what_a_search_finds(corpus: str, sample: str) -> None:
    index = SuffixArray(corpus)
    runs = {sample[i:j] for i in range(len(sample)) for j in range(i + 1, len(sample) + 1)}
    assert {run for run in runs if run in index} == {run for run in runs if run in corpus}
    assert index.longest_copy(sample) == max((len(run) for run in runs if run in corpus), default=0)


def test_first_copy_is_found_where_it_begins() -> None:
    index = SuffixArray("the cat sat on the mat")
    assert index.find_copy("a cat sat up", 8) == 1
    assert index.find_copy("a cat sat up", 10) is None
    assert index.find_copy("cat", 4) is None
    assert index.find_copy("", 1) is None


def test_nothing_stands_in_an_empty_text() -> None:
    assert "a" not in SuffixArray("")
    assert SuffixArray("").longest_copy("abc") == 0


@given(st.lists(st.integers(0, 0x10FFFF), max_size=20))
def test_packed_indices_are_unpacked_and_compare_as_they_do(indices: list[int]) -> None:
    packed = pack(torch.tensor(indices, dtype=torch.int64))
    assert unpack(packed).tolist() == indices
    assert (packed < pack(torch.tensor([7, 8]))) == (indices < [7, 8])
