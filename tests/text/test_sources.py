"""Files, folders and compressed files as streams of raw bytes."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import threading
from pathlib import Path

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text.cleaning import CleanText
from charrnn.text.sources import BLOCK_BYTES, Source, digest, find_sources


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


def test_folder_tells_what_it_skips_and_takes_any_case(tmp_path: Path) -> None:
    contents = {
        "b.TXT": b"two",
        "a.txt": b"one",
        "c.md": b"no",
        "page.txt": b"<html>",
        "in/d.txt": b"three",
        "in/e.pdf": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    def found(**options: bool) -> tuple[list[str], str]:
        sources = find_sources([str(tmp_path)], **options)
        assert not any(source.note for source in sources[1:])
        return [str(source.path.relative_to(tmp_path)) for source in sources if source.path], sources[0].note

    assert found() == (["a.txt", "b.TXT"], f"{tmp_path}: 2 files read, skipped 2: page.txt (an HTML page), c.md")
    names, note = found(recursive=True)
    assert names == ["a.txt", "b.TXT", "in/d.txt"]
    assert note == f"{tmp_path}: 3 files read, skipped 3: page.txt (an HTML page), c.md, in/e.pdf"
    assert found(force=True)[0] == ["a.txt", "b.TXT", "page.txt"]
    assert find_sources([str(tmp_path / "in")])[0].note == f"{tmp_path}/in: 1 file read, skipped 1: e.pdf"


def test_a_folder_of_foreign_files_alone_names_the_option_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_bytes(b"<html>")
    with pytest.raises(
        CharRNNError, match=r"1 \*\.txt file, but none seems to be text; --force .*: page\.txt \(an HTML"
    ):
        find_sources([str(tmp_path)])
    assert len(find_sources([str(tmp_path)], force=True)) == 1


def test_folder_of_a_mac_is_read_without_its_hidden_files(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"one",
        "._a.txt": b"\0\x05\x16\x07\0\x02\0\0Mac OS X",
        ".DS_Store": b"\0\0\0\x01Bud1",
        ".git/x.txt": b"hidden",
        ".git/in/y.txt": b"hidden",
        "nul.txt": b"abc\0def",
        "wide.txt": "drei".encode("utf-16"),
        "b.txt.gz": gzip.compress(b"two"),
        "c.TXT.XZ": lzma.compress(b"three"),
        "d.txt.bz2": bz2.compress(b"%PDF-1.7"),
        "e.csv.gz": gzip.compress(b"two"),
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    sources = find_sources([str(tmp_path)], recursive=True)
    assert [source.name.rpartition("/")[2] for source in sources] == ["a.txt", "b.txt.gz", "c.TXT.XZ", "wide.txt"]
    assert [b"".join(source.blocks()) for source in sources[:3]] == [b"one", b"two", b"three"]
    skipped = "skipped 6: d.txt.bz2 (a PDF), nul.txt (NUL bytes), .DS_Store, ._a.txt, .git, ..."
    assert sources[0].note == f"{tmp_path}: 4 files read, {skipped}"
    forced = {source.name.rpartition("/")[2] for source in find_sources([str(tmp_path)], force=True)}
    assert forced == {"a.txt", "b.txt.gz", "c.TXT.XZ", "d.txt.bz2", "nul.txt", "wide.txt"}


def test_folder_without_texts_is_an_error_that_names_its_suffixes(tmp_path: Path) -> None:
    for name in ("a.abc", "b.abc", "notes.md", ".hidden.rst"):
        (tmp_path / name).write_text("X:1")
    with pytest.raises(CharRNNError, match=r"without \*\.txt files: it has 2 \.abc and 1 \.md files: name .*/\*\.abc"):
        find_sources([str(tmp_path)])


@pytest.mark.parametrize("name", ["stdin", "pipe"])
def test_full_disk_is_not_blamed_on_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class FullFile(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", FullFile)
    monkeypatch.setattr("tempfile.tempdir", "/full")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Once upon")))
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"Once upon",), daemon=True)
    if name == "pipe":
        writer.start()
    with pytest.raises(CharRNNError, match=rf"a copy of .*{name} cannot be written to /full: No space left .*TMPDIR"):
        find_sources(["-" if name == "stdin" else str(path)])


def test_stdin_is_spooled_and_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Once upon" * 1000)))
    (source,) = find_sources(["-"])
    assert not isinstance(source.content, bytes)
    assert source.size == 9000
    for _ in range(2):
        assert b"".join(source.blocks()) == b"Once upon" * 1000


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_progress_counts_the_bytes_on_the_disk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    text = random.Random(0).randbytes(3 * BLOCK_BYTES)
    path.write_bytes(gzip.compress(text) if suffix else text)
    (source,) = find_sources([str(path)])
    told: list[int] = []
    assert b"".join(source.blocks(told.append)) == text
    assert sum(told) == source.size == path.stat().st_size
    assert len(told) == 3


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
