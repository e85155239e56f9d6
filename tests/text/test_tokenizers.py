"""Texts to ids and back: characters, bytes, words and documents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.files.schema import parse
from charrnn.terminal import Readable, readable
from charrnn.text.tokenizers import (
    TOKENIZERS,
    UNKNOWN_CHAR,
    ByteTokenizer,
    CharTokenizer,
    StoredVocabulary,
    WordTokenizer,
)
from charrnn.text.words import EOS_MARK, split_words
from tests.support import tokenizer_of
from tests.text.test_words import WORDLIKE

CHARS = PreparationConfig()
BYTES = PreparationConfig(unit="byte")
WORDS = PreparationConfig(unit="word")
NAMES = PreparationConfig(separator="\n")


@given(st.text(min_size=1))
def test_decoding_gives_back_the_text(text: str) -> None:
    tokenizer = tokenizer_of(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.symbols == tuple(sorted(set(text)))
    assert tokenizer.counts == tuple(text.count(symbol) for symbol in tokenizer.symbols)


@given(st.text(alphabet="abcdefgé漢😀", min_size=1), st.integers(1, 5))
def test_rare_symbols_become_one_unknown_symbol(text: str, min_count: int) -> None:
    frequent = {symbol for symbol in text if text.count(symbol) >= min_count}
    if not frequent:
        with pytest.raises(CharRNNError, match="--min-count"):
            tokenizer_of(text, min_count=min_count)
        return
    tokenizer = tokenizer_of(text, min_count=min_count)
    expected = "".join(char if char in frequent else UNKNOWN_CHAR for char in text)
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert sum(tokenizer.counts) == len(text)


def test_prompts_may_not_hold_unknown_characters_even_where_texts_may() -> None:
    tokenizer = tokenizer_of("aaabbbc", min_count=2)
    with pytest.raises(CharRNNError, match="'c'"):
        tokenizer.require("abc")
    with pytest.raises(CharRNNError, match="'c'"):
        tokenizer.encode_prompt("abc")


def test_max_vocab_keeps_the_most_frequent_and_counts_the_unknown() -> None:
    tokenizer = tokenizer_of("aaaabbbccd", max_vocab=3)
    assert tokenizer.symbols == ("a", "b")
    assert (tokenizer.size, tokenizer.unk_id, tokenizer.counts) == (3, 2, (4, 3, 3))
    assert tokenizer_of("aaaabbbccd", max_vocab=4).unk_id is None


def test_missing_characters_are_listed() -> None:
    with pytest.raises(CharRNNError, match=r"'c' 'é'"):
        tokenizer_of("ab").encode("abcéc")
    with pytest.raises(CharRNNError, match="'漢'"):
        tokenizer_of("ab").encode("漢")


@pytest.mark.parametrize(("size", "dtype"), [(256, torch.uint8), (257, torch.int16), (40_000, torch.int32)])
def test_dtype_is_the_smallest_that_holds_the_vocabulary(size: int, dtype: torch.dtype) -> None:
    text = "".join(chr(0x4E00 + i) if i < 20_000 else chr(0x20000 + i) for i in range(size))
    ids = tokenizer_of(text).encode(text)
    assert ids.dtype == dtype
    assert ids.tolist() == list(range(size))


@pytest.mark.parametrize("unit", TOKENIZERS)
@pytest.mark.parametrize("separator", [None, "\n"])
def test_no_ids_have_no_text(unit: str, separator: str | None) -> None:
    tokenizer = tokenizer_of("ab", unit=unit, separator=separator)
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode([]) == ""


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
        CharTokenizer.restore(parse(StoredVocabulary, header), CHARS)


def test_tokenizer_is_restored_from_what_is_stored() -> None:
    tokenizer = tokenizer_of("hello world", max_vocab=5)
    assert CharTokenizer.restore(tokenizer.stored(), CHARS) == tokenizer


@pytest.mark.parametrize("symbols", ["a\ud800", "\udfff", "\ud83d\ude00"])
def test_surrogates_are_refused_by_whoever_reads_a_vocabulary(symbols: str) -> None:
    with pytest.raises(CharRNNError, match="not surrogates"):
        CharTokenizer.restore(StoredVocabulary(symbols, (1,) * len(symbols)), CHARS)


@pytest.mark.parametrize(
    ("stored", "config", "problem"),
    [
        (StoredVocabulary("", (1, 1), ("a", "a")), WORDS, "distinct words"),
        (StoredVocabulary("", (1, 1), ("a", "")), WORDS, "distinct words"),
        (StoredVocabulary("ab", (1, 1)), WORDS, "at least one"),
        (StoredVocabulary("", (1,), ("a\ud900",)), WORDS, "not surrogates"),
        (StoredVocabulary("ab", (1, 1)), BYTES, "all 256"),
        (StoredVocabulary("ab", (1, 1)), NAMES, "one count for each symbol"),
    ],
)
def test_a_stored_vocabulary_of_another_unit_is_refused(
    stored: StoredVocabulary, config: PreparationConfig, problem: str
) -> None:
    with pytest.raises(CharRNNError, match=problem):
        TOKENIZERS[config.unit].restore(stored, config)


@given(WORDLIKE.filter(bool))
def test_words_are_decoded_to_the_text(text: str) -> None:
    tokenizer = tokenizer_of(text, unit="word")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.count_chars(ids) == len(text)
    assert list(tokenizer.counts) == sorted(tokenizer.counts, reverse=True)
    assert WordTokenizer.restore(tokenizer.stored(), WORDS) == tokenizer


def test_rare_words_become_one_unknown_symbol_of_their_mean_length() -> None:
    text = "a cat a cat a dog a horse"
    tokenizer = tokenizer_of(text, unit="word", max_vocab=3)
    assert tokenizer.symbols == (" a", " cat")
    assert tokenizer.decode(tokenizer.encode(text)) == f"{UNKNOWN_CHAR} cat a cat a{UNKNOWN_CHAR} a{UNKNOWN_CHAR}"
    assert tokenizer.lengths.tolist() == [2, 4, len("a dog horse") / 3]
    assert tokenizer.count_chars(tokenizer.encode(text)) == len(text)


def test_unknown_words_of_a_prompt_are_read_only_if_some_were_folded() -> None:
    text = "a cat a cat a dog a horse"
    prompt = tokenizer_of(text, unit="word", max_vocab=3).encode_prompt("a zebra sat")
    assert (prompt.ids.tolist(), prompt.missing) == ([0, 2, 2], [" sat", " zebra"])
    with pytest.raises(CharRNNError, match=r"words outside the vocabulary .* ' zebra'"):
        tokenizer_of(text, unit="word").encode_prompt("a zebra")


def test_forgotten_words_are_unknown_ones() -> None:
    config = PreparationConfig(unit="word", min_count=2)
    tokenizer = WordTokenizer.build({" four": 20, " a": 1}, config, forgotten=(10, 40))
    assert (tokenizer.unk_id, tokenizer.counts, tokenizer.unknown_chars) == (1, (20, 11), 40 + 2)


def test_the_beginning_of_a_word_is_not_skipped() -> None:
    tokenizer = WordTokenizer(("The", " king"), (1, 1), WORDS)
    for text in ("The ki", "ki", "king"):  # the space before a word may be missing
        prompt = tokenizer.encode_prompt(text, skip_unknown=True)
        assert (prompt.text, prompt.missing, prompt.first) == (text, [], [1])
    prompt = tokenizer.encode_prompt("The queen", skip_unknown=True)
    assert (prompt.text, prompt.missing) == ("The", [" queen"])


def test_chars_per_symbol_are_its_mean_share_of_the_text() -> None:
    text = "the cat sat on the mat.\n"
    assert tokenizer_of(text, unit="word").chars_per_symbol == pytest.approx(len(text) / len(split_words(text)))
    assert tokenizer_of(text).chars_per_symbol == 1


def test_half_of_a_character_has_no_bytes() -> None:
    with pytest.raises(CharRNNError, match=r"U\+D83D is half of a character"):
        tokenizer_of("ab", unit="byte").mark("a\ud83d")


@given(st.binary(min_size=1))
def test_bytes_are_decoded_to_the_bytes(data: bytes) -> None:
    text = data.decode("ascii", "surrogateescape")
    tokenizer = tokenizer_of(text, unit="byte")
    assert tokenizer.size == 256
    assert tokenizer.encode(text).tolist() == list(data)
    assert tokenizer.decode(tokenizer.encode(text)).encode("ascii", "surrogateescape") == data
    shown = Readable("surrogateescape")
    pieces = [shown(char, final=i == len(text)) for i, char in enumerate(text, 1)]
    assert "".join(pieces).encode("utf-8", "surrogateescape") == data
    assert ByteTokenizer.restore(tokenizer.stored(), BYTES) == tokenizer


@given(st.text(min_size=1))
def test_bytes_of_utf8_are_counted_as_characters(text: str) -> None:
    spelled = ByteTokenizer.spelled(text)
    tokenizer = tokenizer_of(spelled, unit="byte")
    assert tokenizer.count_chars(tokenizer.encode(text)) == len(text)
    assert tokenizer.decode(tokenizer.encode(text)) == spelled
    assert readable(spelled) == text


def test_bytes_that_are_no_utf8_are_characters_each() -> None:
    assert tokenizer_of("\udcff\udc80\udc80a", unit="byte").lengths.tolist() == [1.0] * 256


@pytest.mark.parametrize("options", [{"separator": "\n"}, {"unit": "byte", "separator": "é"}], ids=str)
def test_a_separator_is_one_token_and_itself_in_the_text(options: dict[str, str]) -> None:
    marked, text = f"Anna{EOS_MARK}Bert", f"Anna{options['separator']}Bert"
    tokenizer = tokenizer_of(marked, **options)
    assert tokenizer.mark(text) == marked
    assert readable(tokenizer.unmark(marked)) == text
    ids = tokenizer.encode(text)
    assert ids.tolist().index(tokenizer.eos_id) == 4
    assert "".join(tokenizer.decode_marked(ids)) == marked
    assert readable(tokenizer.decode(ids)) == text
    assert tokenizer.count_chars(ids) == 9
    assert type(tokenizer).restore(tokenizer.stored(), tokenizer.config) == tokenizer


@pytest.mark.parametrize(
    ("separator", "text", "expected"),
    [
        (None, "a\n", ["a\n"]),
        ("\n", "a\n", ["a" + EOS_MARK]),
        ("\n\n", "\n", ["\n", EOS_MARK]),
        ("\n\n", ".\n", [".\n", "." + EOS_MARK]),
        ("\n---\n", "--", ["--", EOS_MARK]),
        ("<>", ">a<", [">a<", ">a" + EOS_MARK, EOS_MARK + "a<", EOS_MARK + "a" + EOS_MARK]),
    ],
)
def test_stop_that_overlaps_a_separator_matches_eos(separator: str | None, text: str, expected: list[str]) -> None:
    assert tokenizer_of("a", separator=separator).marked_forms(text) == expected


@given(st.text("ab" + EOS_MARK), st.text("ab", min_size=1), st.text("ab", min_size=1))
def test_a_text_is_seen_where_one_of_its_forms_is(text: str, part: str, separator: str) -> None:
    tokenizer = tokenizer_of("a", separator=separator)
    shown, forms = tokenizer.unmark(text), tokenizer.marked_forms(part)
    assert not any(form in text for form in forms) or part in shown
    if len(part) <= len(separator) and separator not in part:  # else whole documents may be within it
        assert any(form in text for form in forms) or part not in shown


def test_eos_and_the_unknown_symbol_have_an_id_each() -> None:
    tokenizer = tokenizer_of(f"aab{EOS_MARK}c", min_count=2, separator="\n")
    assert (tokenizer.symbols, tokenizer.counts) == (("a",), (2, 2, 1))
    assert (tokenizer.unk_id, tokenizer.eos_id, tokenizer.outside) == (1, 2, 1)
    assert "".join(tokenizer.decode_marked(torch.tensor([0, 1, 2]))) == f"a{UNKNOWN_CHAR}{EOS_MARK}"
    assert tokenizer.decode([0, 1, 2]) == f"a{UNKNOWN_CHAR}\n"
    assert torch.equal(tokenizer.encode("ax\n"), torch.tensor([0, 1, 2], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("text", "marked", "options"),
    [
        ("né 漢\n", "né 漢\n", {}),
        ("né", "n\udcc3\udca9", {"unit": "byte"}),
        ("né à la gare\n", "né à la gare\n", {"unit": "word"}),
        ("né--à", f"né{EOS_MARK}à", {"separator": "--"}),
        ("né\n", f"né{EOS_MARK}\n", {"documents": True}),
    ],
)
def test_bytes_are_those_of_the_text_in_utf8(text: str, marked: str, options: dict[str, object]) -> None:
    tokenizer = tokenizer_of(marked, **options)
    assert tokenizer.count_bytes(tokenizer.encode(text)) == len(text.encode())
