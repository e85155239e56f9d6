"""Symbols to indices and back."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.files.schema import parse
from charrnn.text.vocabulary import UNKNOWN_CHAR, StoredVocabulary, Vocabulary


def build(text: str, **options: int) -> Vocabulary:
    return Vocabulary.build(Counter(text), min_count=options.get("min_count", 1), max_vocab=options.get("max_vocab"))


@given(st.text(min_size=1))
def test_decoding_gives_back_the_text(text: str) -> None:
    vocabulary = build(text)
    indices = vocabulary.encode(text)
    assert vocabulary.decode(indices) == text
    assert vocabulary.symbols == tuple(sorted(set(text)))
    assert vocabulary.counts == tuple(text.count(symbol) for symbol in vocabulary.symbols)


@given(st.text(alphabet="abcdefgé漢😀", min_size=1), st.integers(1, 5))
def test_rare_symbols_become_one_unknown_symbol(text: str, min_count: int) -> None:
    frequent = {symbol for symbol in text if text.count(symbol) >= min_count}
    if not frequent:
        with pytest.raises(CharRNNError, match="--min-count"):
            build(text, min_count=min_count)
        return
    vocabulary = build(text, min_count=min_count)
    expected = "".join(char if char in frequent else UNKNOWN_CHAR for char in text)
    assert vocabulary.decode(vocabulary.encode(text)) == expected
    assert sum(vocabulary.counts) == len(text)


def test_prompts_may_not_hold_unknown_characters_even_where_texts_may() -> None:
    with pytest.raises(CharRNNError, match="'c'"):
        build("aaabbbc", min_count=2).require("abc")


def test_max_vocab_keeps_the_most_frequent_and_counts_the_unknown_symbol() -> None:
    vocabulary = build("aaaabbbccd", max_vocab=3)
    assert vocabulary.symbols == ("a", "b")
    assert (vocabulary.size, vocabulary.unknown, vocabulary.counts) == (3, 2, (4, 3, 3))
    assert build("aaaabbbccd", max_vocab=4).unknown is None


def test_missing_characters_are_listed() -> None:
    with pytest.raises(CharRNNError, match=r"'c' 'é'"):
        build("ab").encode("abcéc")
    with pytest.raises(CharRNNError, match="'漢'"):
        build("ab").encode("漢")


@pytest.mark.parametrize(("size", "dtype"), [(256, torch.uint8), (257, torch.int16), (40_000, torch.int32)])
def test_dtype_is_the_smallest_that_holds_the_vocabulary(size: int, dtype: torch.dtype) -> None:
    text = "".join(chr(0x4E00 + i) if i < 20_000 else chr(0x20000 + i) for i in range(size))
    vocabulary = build(text)
    indices = vocabulary.encode(text)
    assert indices.dtype == dtype
    assert indices.tolist() == list(range(size))


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (None, "has no object in its header"),
        ({}, "lacks or has unknown fields"),
        ({"symbols": "ab"}, "lacks or has unknown fields"),
        ({"symbols": "aa", "counts": [1, 1]}, "distinct"),
        ({"symbols": "ab", "counts": [1]}, "one count for each symbol"),
        ({"symbols": "ab", "counts": [1, -1]}, "out of range"),
        ({"symbols": "ab", "counts": [1, "1"]}, "of the wrong type"),
        ({"symbols": "", "counts": []}, "at least one"),
    ],
)
def test_header_without_a_sound_vocabulary_is_refused(header: object, problem: str) -> None:
    with pytest.raises(CharRNNError, match=problem):
        Vocabulary.restore(parse(StoredVocabulary, header), PreparationConfig())


def test_vocabulary_is_restored_from_what_is_stored() -> None:
    vocabulary = build("hello world", max_vocab=5)
    assert Vocabulary.restore(vocabulary.stored(), PreparationConfig()) == vocabulary


@pytest.mark.parametrize("symbols", ["a\ud800", "\udfff", "\ud83d\ude00"])
def test_surrogates_are_refused_by_whoever_reads_a_vocabulary(symbols: str) -> None:
    with pytest.raises(CharRNNError, match="surrogates are none"):
        Vocabulary.restore(StoredVocabulary(symbols, (1,) * len(symbols)), PreparationConfig())
