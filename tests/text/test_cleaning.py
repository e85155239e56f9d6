"""Raw sources to clean text."""

import encodings.aliases
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unidecode import unidecode

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.terminal import silence
from charrnn.text import cleaning, sources
from charrnn.text.cleaning import CleanText, normalise
from charrnn.text.gutenberg import cut_boilerplate
from charrnn.text.sources import Source
from charrnn.text.words import EOS_MARK


@pytest.fixture
def one_byte_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1)
    monkeypatch.setattr(cleaning, "HEAD_BYTES", 1)


def in_one_string(raw: bytes, config: PreparationConfig) -> str:
    """The reference: each step on the whole text."""
    text = raw.decode(config.encoding).replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(cut_boilerplate([text], silence))
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
        patch.setattr(cleaning, "_PARTS", re.compile(rf".{{1,{size}}}\S*", re.DOTALL))
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


@pytest.mark.parametrize("raw", [b"abc\0\0\0def", b"a\0b", "Zürich\0Bern\0Ägeri\0".encode() * 99, bytes(100)])
def test_nul_bytes_of_no_encoding_are_refused_with_the_separator(raw: bytes) -> None:
    with pytest.raises(CharRNNError, match=rf"NUL bytes, at byte {raw.index(0)}: is it a text\? --separator '\\0'"):
        clean(raw)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_nul_as_separator_is_no_sign_of_a_foreign_file(encoding: str) -> None:
    raw = "Zoë\0Ann\0".encode(encoding)
    assert clean(raw, encoding=encoding, separator="\0") == f"{EOS_MARK}Zoë{EOS_MARK}Ann{EOS_MARK}"


def test_nul_characters_are_refused_unless_forced() -> None:
    with pytest.raises(CharRNNError, match="NUL characters as utf-16"):
        clean("abc\0def".encode("utf-16"))
    source = Source("raw", None, b"abc\0def")
    assert "".join(CleanText([source], PreparationConfig(), force=True)) == "abc\0def"


def test_undecodable_byte_is_named_with_its_offset_and_encodings_that_work() -> None:
    raw = b"x" * 5_000_000 + "é".encode("cp1252") + b" end"
    with pytest.raises(CharRNNError, match=r"raw is not utf-8 at byte 5000000: try .*cp1252"):
        clean(raw)
    assert clean(raw, encoding="cp1252").endswith("é end")


def test_stray_bytes_of_utf8_text_are_counted_wherever_they_are_read_from(tmp_path: Path) -> None:
    raw = "déjà vu\n".encode() * 100_000 + b"it\x92s \x93\n" + "encore à\n".encode() * 100_000
    problem = rf"is UTF-8 except for 2 bytes, the first at byte {raw.index(0x92)}: `iconv -c .* drops"
    (tmp_path / "mix.txt").write_bytes(raw)
    with (tmp_path / "mix.txt").open("rb") as stream:
        for source in (Source("raw", None, raw), Source("raw", None, stream), Source("raw", tmp_path / "mix.txt")):
            for encoding in ("utf-8", "ascii", "shift_jis"):
                with pytest.raises(CharRNNError, match=problem):
                    list(CleanText([source], PreparationConfig(encoding=encoding)))
    with pytest.raises(CharRNNError, match=r"raw is not ascii at byte 1: try --encoding utf-8$"):
        clean("déjà vu".encode(), encoding="ascii")


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


def test_characters_without_ascii_form_are_counted() -> None:
    reader = CleanText([Source("raw", None, "é\u2603\U00010348\u200d".encode() * 5_000)], PreparationConfig(ascii=True))
    assert "".join(reader) == "e" * 5_000
    found = "transliterated 20,000 characters to ASCII, of which 15,000 have no ASCII form and were dropped"
    assert reader.notes == [found]


@pytest.mark.parametrize("unit", ["char", "word"])
def test_byte_order_marks_inside_a_text_are_dropped_and_counted(unit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1)
    parts = [Source("raw", None, f"\ufeff{part}\n".encode()) for part in ("e\ufeff\u0301", "b\n\ufeffc")]
    reader = CleanText(parts, PreparationConfig(unit=unit))
    assert "".join(reader) == "é\nb\nc\n"
    assert reader.notes == ["dropped 2 byte-order marks (U+FEFF) inside the text"]
    assert normalise("\ufeffe\ufeff\u0301", PreparationConfig(unit=unit)) == "é"
    with pytest.raises(OptionError, match="give it as '--'"):
        CleanText([], PreparationConfig(unit=unit, separator="-\ufeff-"))


def test_byte_order_marks_of_bytes_are_kept() -> None:
    assert clean(b"a\xef\xbb\xbf", unit="byte") == "a\udcef\udcbb\udcbf"
    assert normalise("\ufeff", PreparationConfig(unit="byte")) == "\ufeff"


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("a.jsonl", "", "jq -j '.text"),
        ("a.NDJSON", "[1]\n", "jq -j '.text"),
        ("stdin", '{"id": 1, "text": "a"}\r\n{"id": 2}\r\n', "jq -j '.text"),
        ("long.txt", '{"text": "' + "a " * 1_000, "jq -j '.text"),
        ("a.csv", "id,text\n", "DictReader(sys.stdin)"),
        ("a.tsv", "id\ttext\n", "DictReader(sys.stdin, delimiter='\\t')"),
        ("a.txt", "{\n  body {}\n}\n", None),
        ("a.txt", '{"a quote"\n', None),
        ("csv", "One, two.\n", None),
    ],
)
def test_records_bring_one_line_of_advice_unless_they_are_split(name: str, text: str, command: str | None) -> None:
    for config in (PreparationConfig(), PreparationConfig(separator="\n")):
        reader = CleanText([Source(name, None, f"{text} ".encode())], config)
        assert "".join(reader)
        assert len(reader.notes) == (command is not None and config.separator is None)
        assert all(command in note and note.endswith("train - --separator '\\0'") for note in reader.notes if command)


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize(("number", "of"), [(1, "header and licence"), (2, "2 headers and 2 licences")])
def test_large_cuts_are_warnings_with_the_name_of_the_source(number: int, of: str, is_large: bool) -> None:
    header = "This file should be named x.txt\n" * (300 if is_large else 1) + "Title: X\n"
    book = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce.\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "Updated editions will replace the previous one.\n" * 400 + "to hear about new eBooks.\n"
    reader = CleanText([Source("raw", None, ((header + book + licence) * number).encode())], PreparationConfig())
    assert "".join(reader) == "Once.\n" * number
    (line,) = reader.warnings if is_large else reader.notes
    assert line.startswith(f"cut Project Gutenberg's {of} (")
    assert line.endswith(") from raw")
    assert len(reader.notes + reader.warnings) == 1


@pytest.mark.parametrize("records", [b"%07d\0", b"one %d\0two\0", b"a %03d\tb\0", "caf\u00e9 %d\0".encode()])
def test_records_that_end_with_nul_are_not_taken_for_utf16(records: bytes) -> None:
    raw = b"".join(records % i for i in range(3_000))
    with pytest.raises(CharRNNError, match=r"holds NUL bytes, at byte \d+: .* --separator '\\0' reads such records"):
        clean(raw)


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbf" + b"a line\n" * 500 + b"caf\xe9\n", b"\xff\xfea\0\0\xd8b\0"])
def test_what_contradicts_a_byte_order_mark_is_dropped_by_iconv(raw: bytes) -> None:
    for encoding in ("utf-8", "latin-1"):  # the mark is stronger
        with pytest.raises(CharRNNError, match=r"byte-order mark of utf-.*`iconv -c -f utf-\d+ -t utf-8 FILE > NEW`"):
            clean(raw, encoding=encoding)


def test_boilerplate_can_be_kept() -> None:
    raw = b"*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce upon a time.\n"
    assert clean(raw, keep_boilerplate=True) == raw.decode()
    assert clean(raw) == "Once upon a time.\n"


@pytest.mark.parametrize("name", ["\0", "utf-8\0", "klingon", "undefined", "rot13", "punycode"])
def test_encoding_of_absurd_name_is_unknown(name: str) -> None:
    with pytest.raises(CharRNNError, match="is unknown"):
        CleanText([], PreparationConfig(encoding=name))
