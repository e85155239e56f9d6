"""Files, folders and compressed files as streams of raw bytes."""

import bz2
import gzip
import hashlib
import lzma
from pathlib import Path

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text.cleaning import CleanText
from charrnn.text.sources import Source, digest, find_sources


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
