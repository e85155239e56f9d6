"""Parts of a text that are copied from another."""

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.sampling import copies
from charrnn.sampling.copies import CopyIndex, hash_runs

texts = st.text(alphabet="abé文", max_size=60)


def own_hash(run: str) -> int:
    """The polynomial, in Python's integers."""
    return sum(ord(symbol) * pow(0x9E3779B97F4A7C15, k, 2**64) for k, symbol in enumerate(run)) % 2**64


@given(st.text(min_size=1, max_size=60), st.integers(1, 60), st.integers(1, 70))
def test_hashes_are_those_of_each_run_whatever_the_block(text: str, size: int, block: int) -> None:
    size = min(size, len(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "_BLOCK", block)
        hashes = hash_runs(text, size).tolist()
    assert hashes == [own_hash(text[i : i + size]) for i in range(len(text) - size + 1)]


@given(texts, texts)
@example("abé文" * 20, "文" + "abé文" * 15)
@example("a" * 90, "b" + "a" * 100)
def test_index_finds_what_a_search_finds(corpus: str, sample: str) -> None:
    index = CopyIndex(corpus)
    runs = {sample[i:j] for i in range(len(sample)) for j in range(i + 1, len(sample) + 1)}
    longest = index.longest_copy(sample)
    assert len(longest) == max((len(run) for run in runs if run in corpus), default=0)
    assert longest in corpus
    assert longest in sample
    for size in range(1, len(sample) + 2):
        places = (i for i in range(len(sample) - size + 1) if sample[i : i + size] in corpus)
        assert index.find_copy(sample, size) == next(places, None)


@given(st.text("ab", max_size=40), st.text("ab", max_size=40), st.integers(0, 40), st.integers(0, 60))
def test_longest_of_long_copies_is_found(before: str, behind: str, begin: int, size: int) -> None:
    corpus = "abbaababbbaaabab" * 4 + before
    sample = before + corpus[begin : begin + size] + behind + corpus[begin : begin + 2 * size]
    lengths = (j - i for i in range(len(sample)) for j in range(i + 1, len(sample) + 1) if sample[i:j] in corpus)
    assert len(CopyIndex(corpus).longest_copy(sample)) == max(lengths, default=0)


def test_equal_hashes_make_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "hash_runs", lambda text, size: np.zeros(len(text) - size + 1, np.uint64))
    index = CopyIndex("the cat sat on the mat")
    assert index.find_copy("a cat sat up", 8) == 1
    assert index.find_copy("a cat sat up", 10) is None
    assert index.longest_copy("zzzz the cat sag zzzzzzz") == "the cat sa"
    assert index.longest_copy("zzzzzzzzzzzzzzzzz") == ""


def test_first_copy_is_found_where_it_begins() -> None:
    index = CopyIndex("the cat sat on the mat")
    assert index.find_copy("a cat sat up", 8) == 1
    assert index.find_copy("a cat sat up", 10) is None
    assert index.find_copy("cat", 4) is None
    assert index.find_copy("", 1) is None
    assert index.find_copy("the cat", 2**40) is None


def test_an_index_takes_eight_bytes_a_symbol() -> None:
    text = "".join(random.Random(0).choices("ACGT", k=2**20))
    CopyIndex(text[:100]).find_copy("ACGT" * 3, 12)
    tracemalloc.start()
    index = CopyIndex(text)
    assert index.find_copy(f"AAAAAA{text[1000:1012]}", 12) is not None
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 8 * len(text) < size <= peak < 12 * len(text)


def test_nothing_is_copied_from_an_empty_text() -> None:
    assert CopyIndex("").find_copy("abc", 1) is None
    assert CopyIndex("").longest_copy("abc") == ""
