"""A text is split into words, numbers, marks and white space."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.text.words import split_word_blocks, split_words

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
def test_words_do_not_depend_on_where_blocks_end(text: str, generator: random.Random) -> None:
    places = sorted(generator.choices(range(len(text) + 1), k=generator.randrange(6)))
    blocks = [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert [symbol for block in split_word_blocks(blocks) for symbol in block] == split_words(text)
