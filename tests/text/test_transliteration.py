"""Transliteration: Unidecode's, of any text of any length."""

import random
import sys

from hypothesis import given
from hypothesis import strategies as st
from unidecode import unidecode

from charrnn.text.transliteration import transliterate

# Without surrogates, of which Unidecode warns.
ALL = "".join(chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_transliteration_is_that_of_the_whole_text(text: str) -> None:
    assert transliterate(text)[0] == unidecode(text)


def test_every_character_of_a_long_text_becomes_what_unidecode_makes_of_it() -> None:
    assert transliterate(ALL)[0] == "".join(map(unidecode, ALL))
    few = "".join(random.Random(1).choices("Ærø ❄ 北京 щ ㌀ ♔ \u0301", k=100_000))  # of long, short and empty texts
    assert transliterate(few)[0] == "".join(map(unidecode, few))


def test_characters_beyond_ascii_are_counted() -> None:
    assert transliterate("Ærø, \u0301Æ" * 20_000) == ("AEro, AE" * 20_000, 80_000, 20_000)
    assert transliterate("㌀\u0301♔" * 20_000)[1:] == (60_000, 20_000)
    assert transliterate("plain") == ("plain", 0, 0)
