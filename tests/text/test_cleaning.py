"""Raw sources to clean text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unidecode import unidecode

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text import sources
from charrnn.text.cleaning import CleanText, transliterate
from charrnn.text.sources import Source


def clean(raw: bytes, **options: object) -> str:
    return "".join(CleanText([Source("raw", None, raw)], PreparationConfig(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_is_honoured_and_dropped(encoding: str) -> None:
    assert clean("Blåbær".encode(encoding)) == "Blåbær"


def test_line_ends_are_unified_even_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1)
    assert clean("å\r\nb\r\n\r\nc".encode()) == "å\nb\n\nc"


def test_undecodable_byte_is_named_with_its_offset_and_encodings_that_work() -> None:
    raw = b"x" * 5_000_000 + "é".encode("cp1252") + b" end"
    with pytest.raises(CharRNNError, match=r"raw is not utf-8 at byte 5000000: try .*cp1252"):
        clean(raw)
    assert clean(raw, encoding="cp1252").endswith("é end")


def test_character_cut_off_at_the_end_is_an_error() -> None:
    with pytest.raises(CharRNNError, match="at byte 3: it ends in the middle"):
        clean("abc€".encode()[:-1])


def test_binary_file_is_recognised() -> None:
    with pytest.raises(CharRNNError, match="is it a text"):
        clean(b"\x89PNG\x00\x00\xff")


@given(st.text())
def test_transliteration_is_that_of_the_whole_text(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert transliterate(text) == unidecode(text)


def test_ascii_and_lowercase_fold_and_report() -> None:
    reader = CleanText([Source("raw", None, "Ærø ØL".encode())], PreparationConfig(ascii=True, lowercase=True))
    assert "".join(reader) == "aero ol"
    assert reader.notes == ["transliterated 3 characters to ASCII"]


def test_boilerplate_can_be_kept() -> None:
    raw = b"*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce upon a time.\n"
    assert clean(raw, keep_boilerplate=True) == raw.decode()
    assert clean(raw) == "Once upon a time.\n"


@pytest.mark.parametrize("name", ["\0", "utf-8\0", "klingon", "undefined", "rot13"])
def test_encoding_of_absurd_name_is_unknown(name: str) -> None:
    with pytest.raises(CharRNNError, match="is unknown"):
        CleanText([], PreparationConfig(encoding=name))
