"""Prepared corpora."""

import errno
import itertools
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.text import numbering, sources
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.numbering import NumberedText
from charrnn.text.sources import Source, find_sources
from charrnn.text.tokenizers import CharTokenizer, Tokenizer
from tests.support import marked_text, prepared


def test_opened_corpus_is_the_prepared_one(tmp_path: Path) -> None:
    made = prepared("Hello, Blåbær!\n", tmp_path / "c.safetensors", lowercase=True)
    opened = Corpus.open(made.path)
    assert opened.tokenizer.decode(opened.ids) == "hello, blåbær!\n"
    assert (opened, opened.config.lowercase) == (made, True)


def test_file_holds_the_indices_as_bytes(tmp_path: Path) -> None:
    prepared("abcab", tmp_path / "c.safetensors")
    ids = load_file(tmp_path / "c.safetensors")["indices"]
    assert (ids.tolist(), ids.dtype) == ([0, 1, 2, 0, 1], torch.uint8)


def test_same_text_and_options_are_up_to_date_and_others_are_errors(tmp_path: Path) -> None:
    output = tmp_path / "c.safetensors"
    prepared("abc", output)
    before = output.read_bytes()
    assert "up to date" in prepared("abc", output).notes[0]
    with pytest.raises(CharRNNError, match="another text: --overwrite"):
        prepared("abcd", output)
    with pytest.raises(CharRNNError, match=r"other options \(lowercase=False\): --overwrite"):
        prepared("abc", output, lowercase=True)
    assert output.read_bytes() == before


@pytest.mark.parametrize(("text", "problem"), [("", "empty"), ("a", "one character long"), ("aaa", "repeats one")])
def test_text_with_nothing_to_learn_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CharRNNError, match=problem):
        prepared(text, tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("escaped", [r"\ud800", r"\udfff", r"\ud83d\ude00"])
@pytest.mark.parametrize("min_count", [1, 2])
def test_surrogates_are_no_characters(tmp_path: Path, escaped: str, min_count: int) -> None:
    with pytest.raises(CharRNNError, match=r"text holds U\+D[8F][03F][0DF], half of a character .* as unicode_escape"):
        prepared(f"aabb{escaped}", tmp_path / "c.safetensors", encoding="unicode_escape", min_count=min_count)
    assert not list(tmp_path.iterdir())
    whole = prepared(r"aabb\U0001F600", tmp_path / "c.safetensors", encoding="unicode_escape")
    assert marked_text(whole) == "aabb\U0001f600"


def test_rare_symbols_bring_advice_and_folding_is_reported(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(50)) + "ab" * 500
    assert prepared(text, tmp_path / "a.safetensors").notes == (
        "50 of 52 symbols occur fewer than 10 times, 4.8 % of the text: "
        "--min-count 10 would fold them into one, --ascii would transliterate them",
    )
    folded = prepared(text, tmp_path / "b.safetensors", min_count=10)
    assert "folded 50 characters (4.8 %)" in folded.notes[0]


def test_transliteration_is_not_advised_to_texts_that_are_mostly_not_latin(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(50)) + "ж" * 500 + "ab" * 100
    (note,) = prepared(text, tmp_path / "a.safetensors").notes
    assert note.endswith("6.7 % of the text: --min-count 10 would fold them into one")


def test_many_short_lines_bring_advice_on_documents(tmp_path: Path) -> None:
    names = "".join(f"Anna-{chr(97 + i % 26)}\n" for i in range(2_000))
    advice = "2,000 short lines: if each is a document, use --separator '\\n'"
    for unit in ("char", "word"):
        assert prepared(names, tmp_path / f"{unit}.safetensors", unit=unit).notes == (advice,)
    verse = "Twinkle, twinkle,\nlittle star.\n" * 100
    for text in (verse, verse.encode().hex("\n", 25), "寒随穷律变\uff0c春逐鸟声开。\n" * 200, "Anna\n" * 199):
        assert not prepared(text, tmp_path / f"{len(text)}.safetensors").notes
    assert advice not in prepared(names, tmp_path / "split.safetensors", separator="\n").notes


def test_large_cuts_are_warnings_of_the_corpus(tmp_path: Path) -> None:
    header = "This file should be named x.txt\n" * 300 + "Title: X\n"
    book = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\nOnce.\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "Updated editions will replace the previous one.\n" * 400 + "to hear about new eBooks.\n"
    corpus = prepared(2 * (header + book + licence), tmp_path / "c.safetensors")
    assert marked_text(corpus) == "Once.\nOnce.\n"
    assert (corpus.notes, len(corpus.warnings)) == ((), 1)


def test_text_that_changes_meanwhile_is_the_one_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "tale.txt"
    text.write_text("abcabc")
    build = CharTokenizer.build

    def change(*arguments: Any, **options: Any) -> Tokenizer:
        text.write_text("abcxyz")
        return build(*arguments, **options)

    monkeypatch.setattr(CharTokenizer, "build", change)
    corpus = prepare(find_sources([str(text)]), PreparationConfig(), tmp_path / "c.safetensors")
    assert marked_text(corpus) == "abcabc"
    with pytest.raises(CharRNNError, match="was made from another text"):
        prepare(find_sources([str(text)]), PreparationConfig(), tmp_path / "c.safetensors")


@pytest.mark.parametrize("place", ["_append", "encode"])
def test_disk_without_room_for_the_text_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(NumberedText, place, fail)
    source = Source("tale", None, b"Once upon\na time")
    with pytest.raises(CharRNNError, match=r"c\.safetensors cannot be written: No space left on device; nothing was"):
        prepare([source], PreparationConfig(), tmp_path / "new" / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_too_many_distinct_words_ask_for_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "MAX_KNOWN", 30)
    text = " ".join(map("".join, itertools.product("abcde", repeat=3)))
    with pytest.raises(CharRNNError, match=r"text has too many distinct words: --max-vocab 8000 keeps the frequent"):
        prepared(text, tmp_path / "c.safetensors", unit="word")
    corpus = prepared(f" at last at last {text}", tmp_path / "c.safetensors", unit="word", max_vocab=5)
    assert marked_text(corpus).startswith(" at last at last")
    assert corpus.tokenizer.num_chars == len(text) + len(" at last at last ")


def test_changed_corpus_is_damaged_whatever_its_times_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_IN_MEMORY", 100)
    corpus = prepared("abc" * 1000, tmp_path / "c.safetensors")
    status = corpus.path.stat()
    with corpus.path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    os.utime(corpus.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CharRNNError, match="damaged"):
        Corpus.open(corpus.path)


def test_folder_tells_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "b.pdf").write_text("abc")
    corpus = prepare(find_sources([str(tmp_path)]), PreparationConfig(), tmp_path / "c.safetensors")
    assert corpus.notes == (f"{tmp_path}: 1 file read, skipped 1: b.pdf",)


def test_text_is_never_overwritten_by_its_own_corpus(tmp_path: Path) -> None:
    text = tmp_path / "tale.txt"
    text.write_text("abc")
    with pytest.raises(CharRNNError, match="is the text itself"):
        prepare(find_sources([str(text)]), PreparationConfig(), text, overwrite=True)
    assert text.read_text() == "abc"


def test_indices_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    corpus = prepared("abc", tmp_path / "c.safetensors")
    header = container.read(corpus.path, "corpus").header
    container.write(corpus.path, "corpus", header, {"indices": torch.tensor([0, 3], dtype=torch.uint8)})
    with pytest.raises(CharRNNError, match="beyond its vocabulary of 3"):
        Corpus.open(corpus.path)


@pytest.mark.parametrize("config", [PreparationConfig(), PreparationConfig(ascii=True, lowercase=True)])
def test_memory_does_not_grow_with_a_text_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PreparationConfig
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2**14)
    text = tmp_path / "line.txt"

    def peak(words: int) -> int:
        text.write_text("Слова и слова. " * words, encoding="utf-8")
        tracemalloc.start()
        try:
            prepare(find_sources([str(text)]), config, tmp_path / "c.safetensors", overwrite=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # tables are made once
    assert peak(200_000) < 1.3 * peak(50_000)
