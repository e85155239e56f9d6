"""Documents: their separators, lines and shuffle."""

import itertools
import re
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.text import documents
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.documents import Duplicates, mark_documents, shuffled, split_lines
from charrnn.text.sources import find_sources
from charrnn.text.words import EOS_MARK
from tests.support import marked_text

EMPTY_LINES = ["\n\n", "\n\n\n"]
SEPARATORS = ["\n", *EMPTY_LINES, "\n---\n", "|", "ab"]


def split(text: str, separator: str) -> list[str]:
    """The documents of a text, in the plainest way."""
    if separator in EMPTY_LINES:
        text = "\n".join("" if re.fullmatch("[ \t]{,9}", line) else line for line in text.split("\n"))
    if not separator.strip("\n"):
        return [part for part in re.split(f"\n{{{len(separator)},}}", text.strip("\n")) if part]
    parts = text.split(separator)
    return [part for part in parts if part]


@given(st.text("ab|-\n \t") | st.text("a\n "), st.sampled_from(SEPARATORS), st.lists(st.integers(0, 30), max_size=5))
def test_documents_do_not_depend_on_where_blocks_end(text: str, separator: str, sizes: list[int]) -> None:
    places = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    blocks = [*(text[begin:end] for begin, end in itertools.pairwise(places)), text[places[-1] :]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_MAX_BLANKS", 9)
        patch.setattr(documents, "_BLANK_LINE", re.compile(documents._BLANK_LINE.pattern.replace("4096", "9")))
        marked = "".join(mark_documents(blocks, separator))
        assert marked == "".join(mark_documents([text], separator))
    expected = split(text, separator)
    if separator.endswith("\n") and separator.strip("\n") and expected and not text.endswith(separator):
        expected[-1] = expected[-1].removesuffix("\n")
    assert marked == EOS_MARK + "".join(document + EOS_MARK for document in expected if document)


@pytest.mark.parametrize("unit", ["char", "word"])
def test_lines_of_blanks_separate_documents_as_empty_lines_do(tmp_path: Path, unit: str) -> None:
    text = "".join(f"X:{i}\r\n  |:d2f a2f \r\n" + ("\r\n", " \r\n", "\t \r\n")[i % 3] for i in range(40))
    (tmp_path / "tunes.abc").write_text("  \n" + text + " \t", newline="")
    options = {"separator": "\n\n", "unit": unit, "keep_order": True}
    corpus = prepared(tmp_path, str(tmp_path / "tunes.abc"), **options)
    assert marked_text(corpus) == EOS_MARK + "".join(f"X:{i}\n  |:d2f a2f {EOS_MARK}" for i in range(40))
    assert corpus.tokenizer.mark("X:1\n \t\n  X:2 ") == f"X:1{EOS_MARK}  X:2 "
    twice = prepared(tmp_path, *[str(tmp_path / "tunes.abc")] * 2, **options)
    assert marked_text(twice) == marked_text(corpus) + marked_text(corpus)[1:]
    lines = prepared(tmp_path, str(tmp_path / "tunes.abc"), separator="\n", keep_order=True)
    assert f"{EOS_MARK}\t {EOS_MARK}" in marked_text(lines)


def test_lines_are_split_wherever_blocks_end() -> None:
    assert list(split_lines(["a\nb", "c\n", "\nd"])) == ["a", "bc", "", "d"]
    assert list(split_lines(["a\n"])) == ["a"]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_an_eos_mark_after_a_line_end_makes_no_line(size: int) -> None:
    text = f"{EOS_MARK}a\n{EOS_MARK}b\n\nc{EOS_MARK}d{EOS_MARK}"
    blocks = [text[begin : begin + size] for begin in range(0, len(text), size)]
    assert list(split_lines(blocks)) == ["a", "b", "", "c", "d"]


def test_endless_blanks_are_not_held_in_memory() -> None:
    parts = mark_documents(["a\n", *[" " * 100] * 1000, "\nb"], "\n\n")
    held = 0
    for part in parts:
        held = max(held, len(part))
    assert held < 2 * documents._MAX_BLANKS


@pytest.mark.parametrize("bucket", [2**24, 50])
def test_a_shuffle_keeps_each_document_whole(bucket: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_BUCKET", bucket)
    monkeypatch.setattr(documents, "_BLOCK", 16)
    each = [[i % 50 + 1] * (i % 40 + 1) for i in range(300)]
    text = torch.tensor([0, *(index for document in each for index in [*document, 0])], dtype=torch.int16)

    def documents_of(seed: int) -> list[list[int]]:
        mixed = torch.cat(list(shuffled(text.split(29), 0, len(text), seed, tmp_path))).tolist()
        assert (len(mixed), mixed[0], mixed[-1]) == (len(text), 0, 0)
        found: list[list[int]] = [[]]
        for index in mixed[1:-1]:
            found[-1] += [index] if index else []
            found += [] if index else [[]]
        return found

    mixed = documents_of(1)
    assert sorted(mixed) == sorted(each)
    assert mixed != each
    assert mixed == documents_of(1)
    assert mixed != documents_of(2)
    neighbours = sum(mixed[i + 1] == each[(each.index(mixed[i]) + 1) % 300] for i in range(299))
    assert neighbours < 20
    assert not list(tmp_path.iterdir())


def prepared(tmp_path: Path, *sources: str, **options: object) -> Corpus:
    config = PreparationConfig(**options)  # type: ignore[arg-type]
    return prepare(find_sources(list(sources)), config, tmp_path / "corpus.safetensors", overwrite=True)


def test_lines_become_shuffled_documents(tmp_path: Path) -> None:
    names = [f"name {i}" for i in range(200)]
    (tmp_path / "names.txt").write_text("\r\n".join(names) + "\r\n")
    kept = prepared(tmp_path, str(tmp_path / "names.txt"), separator="\n", keep_order=True)
    assert marked_text(kept) == EOS_MARK + "".join(name + EOS_MARK for name in names)
    assert kept.tokenizer.num_documents == 200
    assert "\n" not in kept.tokenizer.symbols
    mixed = prepared(tmp_path, str(tmp_path / "names.txt"), separator="\n")
    assert marked_text(mixed) != marked_text(kept)
    assert sorted(marked_text(mixed).split(EOS_MARK)) == sorted(marked_text(kept).split(EOS_MARK))
    assert "200 documents, shuffled (--keep-order leaves them as they are)" in mixed.notes
    other = prepared(tmp_path, str(tmp_path / "names.txt"), separator="\n", shuffle_seed=1)
    assert marked_text(other) != marked_text(mixed)


def test_each_file_is_a_document(tmp_path: Path) -> None:
    for name, text in {"a": "first\n", "b": "", "c": "second\n\nend"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    corpus = prepared(tmp_path, *(str(tmp_path / f"{name}.txt") for name in "abc"), documents=True, keep_order=True)
    assert marked_text(corpus) == f"{EOS_MARK}first\n{EOS_MARK}second\n\nend{EOS_MARK}"
    texts = prepared(tmp_path, *(str(tmp_path / f"{name}.txt") for name in "ac"), separator="\n\n", keep_order=True)
    assert marked_text(texts) == f"{EOS_MARK}first{EOS_MARK}second{EOS_MARK}end{EOS_MARK}"


def test_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    data = bytes(range(256)) + b"\r\n\xc3\xa9 no text \0"
    (tmp_path / "any.bin").write_bytes(data)
    corpus = prepared(tmp_path, str(tmp_path / "any.bin"), unit="byte")
    assert marked_text(corpus).encode("ascii", "surrogateescape") == data
    assert corpus.ids.tolist() == list(data)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"separator": ""}, "--separator is empty"),
        ({"separator": "\n", "documents": True}, "exclude each other"),
        ({"keep_order": True}, "set --separator or --documents"),
        ({"unit": "byte", "ascii": True}, "leave --ascii out"),
        ({"unit": "byte", "max_vocab": 9}, "leave --max-vocab out"),
        ({"unit": "syllable"}, "must be one of char, byte, word"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        PreparationConfig(**options)  # type: ignore[arg-type]


def test_a_text_of_separators_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n\n")
    with pytest.raises(CharRNNError, match="is empty"):
        prepared(tmp_path, str(tmp_path / "empty.txt"), separator="\n")


@pytest.mark.parametrize(
    ("separator", "options", "remedy"),
    [
        ("\r\n", {}, r"give it as '\\n'"),
        (" END ", {"lowercase": True}, "give it as ' end '"),
        ("e\u0301", {}, r"give it as '\\xe9'"),
        ("\u00a7", {"ascii": True}, "give it as 'SS'"),
        ("\u0301", {"ascii": True}, "nothing is left of it, so choose another"),
    ],
)
def test_a_separator_that_cleaning_would_change_is_refused(
    tmp_path: Path, separator: str, options: dict[str, object], remedy: str
) -> None:
    (tmp_path / "text.txt").write_text(f"one{separator}two", newline="")
    with pytest.raises(OptionError, match=f"the text is cleaned first: {remedy}"):
        prepared(tmp_path, str(tmp_path / "text.txt"), separator=separator, **options)
    corpus = prepared(tmp_path, str(tmp_path / "text.txt"), separator=separator, unit="byte")
    assert corpus.tokenizer.num_documents == 2


@pytest.mark.parametrize("unit", ["char", "byte"])
def test_a_separator_that_is_no_text_is_refused(unit: str) -> None:
    for separator in ("\udcff", EOS_MARK):
        with pytest.raises(OptionError, match="is not Unicode text"):
            PreparationConfig(separator=separator, unit=unit)  # type: ignore[arg-type]


def test_half_a_character_is_no_separator(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("one\\ud800two\nthree\n")
    with pytest.raises(CharRNNError, match=r"text.txt holds U\+D800, half of a character .* as unicode_escape"):
        prepared(tmp_path, str(tmp_path / "text.txt"), separator="\n", encoding="unicode_escape")


def test_a_shuffle_of_many_documents_takes_little_memory(tmp_path: Path) -> None:
    """By NumPy's arrays, which tracemalloc sees, of documents of one character."""
    count = 2**20
    text = torch.tensor([1, *[0, 1] * count], dtype=torch.uint8)
    tracemalloc.start()
    try:
        assert sum(map(len, shuffled(text.split(2**18), 1, len(text), 0, tmp_path))) == len(text)
        assert tracemalloc.get_traced_memory()[1] < 22 * count, "bytes, of a document"
    finally:
        tracemalloc.stop()


def test_a_large_corpus_is_shuffled_in_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    make = tempfile.TemporaryFile

    def count(**options: Any) -> Any:
        opened.append(make(**options))
        return opened[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", count)
    monkeypatch.setattr(documents, "_BUCKET", 2)
    text = torch.tensor([1, *[0, 1] * 500], dtype=torch.uint8)
    assert torch.equal(torch.cat(list(shuffled([text], 1, len(text), 0, tmp_path))), text)
    assert len(opened) == documents._MAX_BUCKETS


@given(st.lists(st.sampled_from(["Anna", "Bert", "C", "longer than eight"]), max_size=12), st.integers(1, 9))
def test_duplicates_are_counted_or_dropped_wherever_blocks_end(names: list[str], size: int) -> None:
    text = "".join(f"{document}{EOS_MARK}" for document in ["", *names])
    blocks = [text[i : i + size] for i in range(0, len(text), size)]
    for drops in (False, True):
        duplicates = Duplicates(drops=drops)
        left = "".join(duplicates.watch(blocks)).split(EOS_MARK)[1:-1]
        assert left == (list(dict.fromkeys(names)) if drops else names)
        again = "".join(duplicates.watch(blocks)).split(EOS_MARK)[1:-1]
        assert again == ([] if drops else names)
        assert duplicates.counts == [len(names) - len(set(names)), len(names)]


def test_long_documents_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_MAX_COMPARED", 5)
    duplicates = Duplicates(drops=True)
    text = EOS_MARK.join(["", "too long", "short", "too long", "short", ""])
    left = "".join(duplicates.watch(text[i : i + 3] for i in range(0, len(text), 3)))
    assert left == EOS_MARK.join(["", "too long", "short", "too long", ""])
