"""Raw sources to clean text."""

import encodings.aliases
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unidecode import unidecode

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text import cleaning, sources
from charrnn.text.cleaning import CleanText, normal_form, normalise
from charrnn.text.gutenberg import cut_boilerplate
from charrnn.text.sources import Source


@pytest.fixture
def one_byte_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1)
    monkeypatch.setattr(cleaning, "HEAD_BYTES", 1)


def in_one_string(raw: bytes, config: PreparationConfig) -> str:
    """The reference: each step on the whole text."""
    text = raw.decode(config.encoding).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(cut_boilerplate([text], lambda what: None))
    text = text if config.normalize == "none" else unicodedata.normalize(config.normalize.upper(), text)  # type: ignore[arg-type]
    text = unidecode(text) if config.ascii else text
    text = text.lower() if config.lowercase else text
    return text if config.normalize == "none" else unicodedata.normalize(config.normalize.upper(), text)  # type: ignore[arg-type]


def clean(raw: bytes, **options: object) -> str:
    return "".join(CleanText([Source("raw", None, raw)], PreparationConfig(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_is_honoured_and_dropped(encoding: str) -> None:
    assert clean("Blåbær".encode(encoding)) == "Blåbær"


@pytest.mark.usefixtures("one_byte_blocks")
def test_line_ends_are_unified_even_across_blocks() -> None:
    assert clean("å\r\nb\r\n\r\nc\r".encode()) == "å\nb\n\nc\n"


TROUBLE = (
    "ea'. \r\n1\N{GREEK CAPITAL LETTER SIGMA}\N{GREEK SMALL LETTER SIGMA}äçAÅ漢😀"
    "\u0301\u0323\u0308\u0307\u0130\u00ad각\u1100\u1161\u11a8"
    "\u09c7\u09be\u0f71\u0f72\u0344\u0958ﬁ²℡\uff9e\uff2bJ\u030c\u0131ẞ"
)
CONFIGS = st.builds(
    PreparationConfig,
    normalize=st.sampled_from(["nfc", "nfkc", "none"]),
    ascii=st.booleans(),
    lowercase=st.booleans(),
)


@given(st.text(TROUBLE), CONFIGS, st.integers(1, 9), st.sampled_from(["utf-8", "utf-16", "gb18030", "utf-7"]))
def test_block_borders_do_not_matter(text: str, config: PreparationConfig, size: int, encoding: str) -> None:
    config = replace(config, encoding=encoding)
    raw = text.encode(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", size)
        patch.setattr(cleaning, "HEAD_BYTES", 4)
        patch.setattr(cleaning, "_SLICE", size)
        reader = CleanText([Source("raw", None, raw)], config)
        assert "".join(reader) == in_one_string(raw, config)


def test_everything_happens_at_the_borders_of_large_blocks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    text = (
        "".join(chr(0x20 + 37 * i % 0xD7E0) for i in range(20_000))
        + "*** END OF THE PROJECT GUTENBERG EBOOK X ***\r\nx"
    )
    for options in ({}, {"normalize": "nfkc", "lowercase": True}, {"ascii": True}):
        config = PreparationConfig(**options)
        assert "".join(CleanText([Source("raw", None, text.encode())], config)) == in_one_string(text.encode(), config)


def able_encodings() -> Iterator[str]:
    for name in sorted({*encodings.aliases.aliases.values(), "unicode_escape", "raw_unicode_escape"}):
        try:
            cleaning._require_encoding(name)
            if "aé\nb漢 ".encode(name, "ignore").decode(name):
                yield name
        except (CharRNNError, UnicodeError):
            pass


@pytest.mark.usefixtures("one_byte_blocks")
@pytest.mark.parametrize("encoding", list(able_encodings()))
def test_every_encoding_is_decoded_across_blocks(encoding: str) -> None:
    raw = "Ab\ncafé Ж漢字가ｱ\n".encode(encoding, "ignore")
    assert clean(raw, encoding=encoding, normalize="none") == raw.decode(encoding)


def test_characters_that_combine_are_looked_for_where_they_are() -> None:
    parts = {point: unicodedata.decomposition(chr(point)).split() for point in range(sys.maxunicode + 1)}
    pairs = [point for point, found in parts.items() if len(found) == 2 and not found[0].startswith("<")]
    assert len(pairs) > 1000
    assert all(any(point in points for points in cleaning._MAY_BE_PAIRS) for point in pairs)


@pytest.mark.parametrize("form", ["nfc", "nfkc"])
def test_characters_of_both_forms_become_one(form: str) -> None:
    mixed = "Bär, Ba\u0308r".encode()
    assert clean(mixed, normalize=form) == "Bär, Bär"
    assert normalise("Ba\u0308r", PreparationConfig(normalize=form)) == "Bär"  # type: ignore[arg-type]
    assert clean(mixed, normalize="none") == mixed.decode()


def test_marks_without_end_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 100)
    monkeypatch.setattr(cleaning, "_MAX_HELD", 1000)
    config = PreparationConfig(keep_boilerplate=True)
    blocks = list(CleanText([Source("raw", None, ("e" + "\u0301" * 5000).encode())], config))
    assert max(map(len, blocks)) <= 1100


def test_marks_without_end_take_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, normalize = [], unicodedata.normalize

    def measure(form: Any, text: str) -> str:
        lengths.append(len(text))
        return normalize(form, text)

    monkeypatch.setattr(unicodedata, "normalize", measure)
    normal_form("a" + "\u0301\u0323" * 20_000, "nfc")
    assert sum(lengths) == 40_001
    assert max(lengths) <= 2**13
    assert normal_form("ｱ" + "ｶﾞ" * 20_000, "nfkc") == "ア" + "ガ" * 20_000


SIGNED = [
    (b"%PDF-1.7 ...", "a PDF"),
    (b"PK\x03\x04 ...", "a zip archive"),
    (b"{\\rtf1 ...", "an RTF document"),
    (b"\xef\xbb\xbf \n<!DocType html>", "an HTML page"),
    ("<HTML><body>".encode("utf-16"), "an HTML page"),
]


@pytest.mark.parametrize(("raw", "described"), SIGNED)
def test_what_is_no_text_is_refused_by_its_first_bytes(raw: bytes, described: str) -> None:
    with pytest.raises(CharRNNError, match=f"raw is {described}.*--force reads it all the same"):
        clean(raw)
    forced = "".join(CleanText([Source("raw", None, raw)], PreparationConfig(), force=True))
    assert forced.lstrip() in raw.decode("utf-16" if raw[:1] == b"\xff" else "utf-8-sig")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["Once upon a time.\n", "漢字仮名交じり文、\n" * 9])
def test_nul_bytes_are_refused_with_the_encoding_that_reads_them(encoding: str, text: str) -> None:
    raw = text.encode(encoding)
    with pytest.raises(CharRNNError, match=rf"raw holds NUL bytes, at byte \d+: --encoding {encoding} reads it"):
        clean(raw)
    assert clean(raw, encoding=encoding) == text


def test_nul_characters_are_refused_unless_forced() -> None:
    with pytest.raises(CharRNNError, match="NUL bytes, at byte 3: is it a text"):
        clean(b"abc\0\0\0def")
    with pytest.raises(CharRNNError, match="NUL characters as utf-16"):
        clean("abc\0def".encode("utf-16"))
    source = Source("raw", None, b"abc\0def")
    assert "".join(CleanText([source], PreparationConfig(), force=True)) == "abc\0def"


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


def test_ascii_and_lowercase_fold_and_report() -> None:
    reader = CleanText([Source("raw", None, "Ærø ØL".encode())], PreparationConfig(ascii=True, lowercase=True))
    assert "".join(reader) == "aero ol"
    assert reader.notes == ["transliterated 3 characters to ASCII"]


def test_boilerplate_can_be_kept() -> None:
    raw = b"*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce upon a time.\n"
    assert clean(raw, keep_boilerplate=True) == raw.decode()
    assert clean(raw) == "Once upon a time.\n"


@pytest.mark.parametrize("name", ["\0", "utf-8\0", "klingon", "undefined", "rot13", "punycode"])
def test_encoding_of_absurd_name_is_unknown(name: str) -> None:
    with pytest.raises(CharRNNError, match="is unknown"):
        CleanText([], PreparationConfig(encoding=name))
