"""Raw sources to clean text."""

import bz2
import gzip
import hashlib
import itertools
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unidecode import unidecode

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.terminal import escape_controls
from charrnn.text import gutenberg, sources
from charrnn.text.cleaning import CleanText, transliterate
from charrnn.text.gutenberg import cut_boilerplate
from charrnn.text.sources import Source, digest, find_sources


def clean(raw: bytes, **options: object) -> str:
    return "".join(CleanText([Source("raw", None, raw)], PreparationConfig(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma), ("", None)])
def test_compressed_files_are_read_as_they_are(tmp_path: Path, suffix: str, compress: object) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress.compress(b"Once upon") if compress else b"Once upon")  # type: ignore[attr-defined]
    sources = find_sources([str(path)])
    assert "".join(CleanText(sources, PreparationConfig())) == "Once upon"
    assert digest(sources) == digest([Source("same", None, b"Once upon")])


def test_digest_tells_where_sources_end() -> None:
    def of(*parts: bytes) -> str:
        return digest([Source("part", None, part) for part in parts])

    assert of(b"ab", b"cd") != of(b"abcd")


def test_no_text_has_the_digest_of_two() -> None:
    def digest_of(*parts: bytes) -> str:
        return digest([Source("part", None, part) for part in parts])

    two = digest_of(b"a", b"b")
    joined = b"".join(hashlib.sha256(part).digest() for part in (b"a", b"b"))
    texts = (b"ab", b"a\0next source\0b", b"a\nb", joined, bytes.fromhex(two.partition("-")[0]))
    assert two not in {digest_of(text) for text in texts}
    assert digest_of(b"ab") == hashlib.sha256(b"ab").hexdigest()
    for parts in ((b"a", b"b"), (b"ab",), (b"", b"ab")):
        text = CleanText([Source("part", None, part) for part in parts], PreparationConfig())
        list(text)
        assert text.digest.hexdigest() == digest_of(*parts)


def test_folder_stands_for_its_texts_in_order_joined_at_line_ends(tmp_path: Path) -> None:
    for name, content in (("b.txt", "two"), ("a.txt", "one"), ("c.md", "not this")):
        (tmp_path / name).write_text(content)
    assert "".join(CleanText(find_sources([str(tmp_path)]), PreparationConfig())) == "one\ntwo"


def test_folder_without_texts_and_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match=r"\*\.txt"):
        find_sources([str(tmp_path)])
    with pytest.raises(CharRNNError, match="does not exist"):
        find_sources([str(tmp_path / "no.txt")])


def test_truncated_compressed_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"Once upon a time" * 100)[:-9])
    with pytest.raises(CharRNNError, match="cannot be read"):
        "".join(CleanText(find_sources([str(path)]), PreparationConfig()))


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


BODY = "Once upon a time.\n\nThe end of it all.\n"
HEADERS = [
    "The Project Gutenberg EBook of X\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n",
    "\n***START OF THE PROJECT GUTENBERG EBOOK X***\n",
    "*** START OF THE PROJECT GUTENBERG ETEXT X ***\n",
    "** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK X **\n\n\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE INDEED ***\n",
    "Project Gutenberg's\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "",
]
ENDINGS = [
    "\n\nEnd of the Project Gutenberg EBook of X, by Y\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nlicence\n",
    "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence",
    "***END OF THE PROJECT GUTENBERG EBOOK X***\n",
    "\nEnd of Project Gutenberg's X, by Y",
    "\nEnd of the Project Gutenberg EBook of X, by Y\n",
    "\nEnd of The Project Gutenberg Etext of X\n",
    "\nThis is the end of the Project Gutenberg Edition of X\n",
    "",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_gutenberg_boilerplate_is_cut_in_all_its_spellings(header: str, ending: str) -> None:
    reports: list[str] = []
    assert "".join(cut_boilerplate([header + BODY + ending], reports.append)).strip() == BODY.strip()
    assert bool(reports) == bool(header or ending)


def test_text_that_mentions_gutenberg_is_left_alone() -> None:
    text = "I love Project Gutenberg.\nThe end of the Project Gutenberg was near.\nGUTENBERG printed.\n"
    assert "".join(cut_boilerplate([text], lambda what: pytest.fail(what))) == text


@pytest.mark.parametrize("lines", [1, 50_000])
def test_several_books_in_one_file_are_each_cut(lines: int) -> None:
    bodies = [f"Book {i}.\n" + "Text.\n" * lines for i in range(3)]
    joined = "".join(HEADERS[0] + body + ENDINGS[0] for body in bodies)
    blocks = [joined[i : i + 100_001] for i in range(0, len(joined), 100_001)]
    assert "".join(cut_boilerplate(blocks, lambda what: None)) == "".join(bodies)


def test_bare_closing_line_counts_on_the_last_page_only() -> None:
    text = ("Text.\n" * 20_000 + "End of the Project Gutenberg EBook of X\n") * 2
    kept = "".join(cut_boilerplate([text], lambda what: None))
    assert kept.count("End of the Project") == 1
    assert kept.endswith("Text.\n")


def test_boilerplate_can_be_kept() -> None:
    raw = (HEADERS[0] + BODY).encode()
    assert clean(raw, keep_boilerplate=True) == raw.decode()


@given(st.lists(st.integers(0, 2_000), max_size=6), st.sampled_from(HEADERS), st.sampled_from(ENDINGS[:4]))
def test_block_borders_do_not_matter(cuts: list[int], header: str, ending: str) -> None:
    text = header + BODY * 40 + ending
    borders = [0, *sorted(cuts), len(text)]
    blocks = [text[begin:end] for begin, end in itertools.pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_HEADER_CHARS", 300), ("_LAST_PAGE_CHARS", 200), ("_CLOSING_CHARS", 100)):
            patch.setattr(gutenberg, name, size)
        cut = "".join(cut_boilerplate(blocks, lambda what: None))
    assert cut.strip() == (BODY * 40).strip()


def test_only_what_steers_a_terminal_is_escaped() -> None:
    assert escape_controls("a\tb\nc \u00e9\u4e2d\u2028") == "a\tb\nc \u00e9\u4e2d\u2028"
    assert escape_controls("\x1b[2J\r\x07\x7f\x9b") == r"\x1b[2J\x0d\x07\x7f\x9b"
