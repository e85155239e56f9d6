"""Characters, bytes and words, and the form of a text inside the program."""

import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text.cleaning import normalise
from charrnn.text.units import BORDER, Display, display, forms_with_borders, inner, split_word_blocks, split_words
from charrnn.text.vocabulary import UNKNOWN_CHAR, StoredVocabulary, Vocabulary

NAMES = PreparationConfig(separator="\n")
BYTES = PreparationConfig(unit="byte")
WORDS = PreparationConfig(unit="word")
BORDERED_BYTES = PreparationConfig(unit="byte", separator="é")
WORDLIKE = st.text("ab'- .\n\t9_é\u0301漢ก\u200dÀ\ufffd\U0001f600")


@given(st.text() | WORDLIKE)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(split_words(text)) == text


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("Once upon a time.", ["Once", " upon", " a", " time", "."]),
        ("rock'n'roll, don't! well-known", ["rock'n'roll", ",", " don't", "!", " well-known"]),
        ("'tis -- so... x_y", ["'", "tis", " --", " so", "...", " x", "_", "y"]),
        ("in 1847, 3.5", ["in", " 1847", ",", " 3", ".", "5"]),
        ("a\n\nb\n   c", ["a", "\n\n", "b", "\n", "  ", " c"]),
        ("e\u0301te\u0301 l\u2019été", ["e\u0301te\u0301", " l\u2019été"]),
        ("हिन्दी भाषा", ["हिन्दी", " भाषा"]),
        ("漢字かな", ["漢", "字", "か", "な"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
    ],
)
def test_words_take_the_space_before_them_along(text: str, symbols: list[str]) -> None:
    assert split_words(text) == symbols


@given(st.text() | WORDLIKE, st.randoms(use_true_random=False))
def test_words_do_not_depend_on_the_borders_of_blocks(text: str, generator: random.Random) -> None:
    places = sorted(generator.choices(range(len(text) + 1), k=generator.randrange(6)))
    blocks = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert [symbol for block in split_word_blocks(blocks) for symbol in block] == split_words(text)


@given(WORDLIKE.filter(bool))
def test_words_are_decoded_to_the_text(text: str) -> None:
    vocabulary = Vocabulary.build(Counter(split_words(text)), "word")
    indices = vocabulary.encode(text)
    assert vocabulary.decode(indices) == text
    assert vocabulary.count_chars(indices) == len(text)
    assert list(vocabulary.counts) == sorted(vocabulary.counts, reverse=True)
    assert Vocabulary.restore(vocabulary.stored(), WORDS) == vocabulary


def test_rare_words_become_one_unknown_symbol_of_their_mean_length() -> None:
    text = "a cat a cat a dog a horse"
    vocabulary = Vocabulary.build(Counter(split_words(text)), "word", max_vocab=3)
    assert vocabulary.symbols == (" a", " cat")
    assert vocabulary.decode(vocabulary.encode(text)) == f"{UNKNOWN_CHAR} cat a cat a{UNKNOWN_CHAR} a{UNKNOWN_CHAR}"
    assert vocabulary.lengths.tolist() == [2, 4, len("a dog horse") / 3]
    assert vocabulary.count_chars(vocabulary.encode(text)) == len(text)
    vocabulary.require(["a", " zebra"])  # is read as an unknown word
    with pytest.raises(CharRNNError, match=r"words outside the vocabulary .* ' zebra'"):
        Vocabulary.build(Counter(split_words(text)), "word").require(["a", " zebra"])


def test_mean_size_of_a_symbol_is_its_share_of_the_text() -> None:
    text = "the cat sat on the mat.\n"
    words = split_words(text)
    assert Vocabulary.build(Counter(split_words(text)), "word").mean_size == pytest.approx(len(text) / len(words))
    assert Vocabulary.build(Counter(text)).mean_size == 1


def test_half_of_a_character_has_no_bytes() -> None:
    with pytest.raises(CharRNNError, match=r"U\+D83D is half of a character"):
        normalise("a\ud83d", BYTES)


@given(st.binary(min_size=1))
def test_bytes_are_decoded_to_the_bytes(data: bytes) -> None:
    text = data.decode("latin-1")
    vocabulary = Vocabulary.build(Counter(text), "byte")
    assert vocabulary.size == 256
    assert vocabulary.decode(vocabulary.encode(text)).encode("latin-1") == data
    shown = Display(BYTES, "surrogateescape")
    pieces = [shown(char, final=i == len(text)) for i, char in enumerate(text, 1)]
    assert "".join(pieces).encode("utf-8", "surrogateescape") == data


@given(st.text(min_size=1))
def test_bytes_of_utf8_are_counted_as_characters(text: str) -> None:
    inner = normalise(text, BYTES)
    vocabulary = Vocabulary.build(Counter(inner), "byte")
    assert vocabulary.count_chars(vocabulary.encode(inner)) == len(text)
    assert display(inner, BYTES) == text


def test_bytes_that_are_no_utf8_are_characters_each() -> None:
    vocabulary = Vocabulary.build(Counter("\xff\x80\x80a"), "byte")
    assert vocabulary.lengths.tolist() == [1.0] * 256


@pytest.mark.parametrize("config", [NAMES, BORDERED_BYTES])
def test_a_separator_is_a_border_inside_and_itself_outside(config: PreparationConfig) -> None:
    separator = config.separator
    inner = normalise(f"Anna{separator}Bert", config)
    assert inner == f"Anna{BORDER}Bert"
    assert display(inner, config) == f"Anna{separator}Bert"
    vocabulary = Vocabulary.build(Counter(inner), config.unit, border_chars=config.border_chars)
    indices = vocabulary.encode(inner)
    assert indices.tolist().index(vocabulary.border) == 4
    assert vocabulary.decode(indices) == inner
    assert vocabulary.count_chars(indices) == 9
    assert Vocabulary.restore(vocabulary.stored(), config) == vocabulary


@pytest.mark.parametrize(
    ("separator", "text", "expected"),
    [
        (None, "a\n", ["a\n"]),
        ("\n", "a\n", ["a" + BORDER]),
        ("\n\n", "\n", ["\n", BORDER]),
        ("\n\n", ".\n", [".\n", "." + BORDER]),
        ("\n---\n", "--", ["--", BORDER]),
        ("<>", ">a<", [">a<", ">a" + BORDER, BORDER + "a<", BORDER + "a" + BORDER]),
    ],
)
def test_stop_that_overlaps_a_separator_matches_a_border(separator: str | None, text: str, expected: list[str]) -> None:
    config = PreparationConfig(separator=separator)
    assert list(forms_with_borders(inner(text, config), config)) == expected


@given(st.text("ab" + BORDER), st.text("ab", min_size=1), st.text("ab", min_size=1))
def test_a_text_is_seen_where_one_of_its_forms_is(text: str, part: str, separator: str) -> None:
    config = PreparationConfig(separator=separator)
    shown, forms = display(text, config), forms_with_borders(part, config)
    assert not any(form in text for form in forms) or part in shown
    if len(part) <= len(separator) and separator not in part:  # else whole documents may be within it
        assert any(form in text for form in forms) or part not in shown


def test_a_border_and_an_unknown_symbol_have_an_index_each() -> None:
    vocabulary = Vocabulary.build(Counter("aab" + BORDER + "c"), min_count=2, border_chars=1)
    assert (vocabulary.symbols, vocabulary.counts) == (("a",), (2, 2, 1))
    assert (vocabulary.unknown, vocabulary.border, vocabulary.outside) == (1, 2, 1)
    assert vocabulary.decode([0, 1, 2]) == f"a{UNKNOWN_CHAR}{BORDER}"
    assert torch.equal(vocabulary.encode(f"ax{BORDER}"), torch.tensor([0, 1, 2], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("stored", "config", "problem"),
    [
        (StoredVocabulary("", (1, 1), ("a", "a")), WORDS, "distinct words"),
        (StoredVocabulary("", (1, 1), ("a", "")), WORDS, "distinct words"),
        (StoredVocabulary("ab", (1, 1)), WORDS, "at least one"),
        (StoredVocabulary("", (1,), ("a\ud900",)), WORDS, "surrogates are none"),
        (StoredVocabulary("ab", (1, 1)), BYTES, "all 256"),
        (StoredVocabulary("ab", (1, 1)), NAMES, "one count for each symbol"),
    ],
)
def test_a_stored_vocabulary_of_another_unit_is_refused(
    stored: StoredVocabulary, config: PreparationConfig, problem: str
) -> None:
    with pytest.raises(CharRNNError, match=problem):
        Vocabulary.restore(stored, config)


def test_forgotten_words_are_unknown_ones() -> None:
    vocabulary = Vocabulary.build({" four": 20, " a": 1}, "word", min_count=2, num_forgotten=10, forgotten_chars=40)
    assert (vocabulary.unknown, vocabulary.counts, vocabulary.unknown_chars) == (1, (20, 11), 40 + 2)
