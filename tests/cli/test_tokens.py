"""`sample` by models of bytes and words."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charrnn.cli.writing import Batch, View, as_json, view_on_stdout
from charrnn.config import PreparationConfig, SamplingConfig
from charrnn.runs.inspection import inspect
from charrnn.sampling.constraints import Piece
from charrnn.sampling.copies import CopyIndex
from charrnn.text.tokenizers import ByteTokenizer, WordTokenizer
from charrnn.text.words import EOS_MARK
from tests.support import Command, Messages, tokenizer_of, untrained


def untrained_model(folder: Path, text: bytes, **options: Any) -> Path:
    """A checkpoint of random weights."""
    untrained(text, folder, **options).checkpoint().save(folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("way", ["file", "line"])
def test_a_prompt_of_any_bytes_is_read_and_echoed(tmp_path: Path, charrnn: Command, way: str) -> None:
    model = untrained_model(tmp_path, bytes(range(256)) * 9, unit="byte")
    (tmp_path / "prompt.bin").write_bytes(b"\xef\xbb\xbfa\r\n\xff\xc3\n")
    (tmp_path / "line.bin").write_bytes(b"a\xff\xc3\n")
    words = ["sample", model, "-n", "0", "-o", "out.bin"]
    if way == "file":
        assert charrnn(*words, "--prompt-file", "prompt.bin").returncode == 0
        assert (tmp_path / "out.bin").read_bytes() == b"\xef\xbb\xbfa\r\n\xff\xc3\n"
    else:
        given = (tmp_path / "line.bin").read_bytes().decode("utf-8", "surrogateescape")
        assert charrnn(*words, "-i", input=given).returncode == 0
        assert (tmp_path / "out.bin").read_bytes() == b"a\xff\xc3\n"


@pytest.mark.parametrize("separator", ["|", "ß"])
def test_each_byte_and_eos_is_scored_on_a_line(tmp_path: Path, charrnn: Command, separator: str) -> None:
    text = f"é{separator}a{separator}"
    model = untrained_model(tmp_path, text.encode() * 20, unit="byte", separator=separator)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    lines = charrnn("score", model, "text.txt", "--per-char").stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["\\udcc3", "\\udca9", separator, "a", separator]
    records = charrnn("score", model, "text.txt", "--per-char", "--json").stdout.splitlines()
    assert [json.loads(record)["char"] for record in records] == ["\udcc3", "\udca9", separator, "a", separator]


def test_a_sample_of_bytes_continues_within_a_character_of_the_prompt() -> None:
    tokenizer = ByteTokenizer.build({}, PreparationConfig(unit="byte"))
    piece = Piece(0, [0xA9], [tokenizer.texts[0xA9]], [0.1], "length")
    assert "".join(View().show(tokenizer.encode_prompt("a\udcc3"), [piece])) == "aé"


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["ing", " is"], "ing\x1b[38;5;34m is\x1b[0m"),  # after a prompt that ends with " k"
        ([" king", " i"], " king\x1b[38;5;34m i\x1b[0m"),  # up to a --stop
        ([], ""),
        ([" king", "\n\n"], " king\n\n"),  # no colour may run over the lines
    ],
)
def test_parts_of_words_are_coloured_as_they_are_written(texts: list[str], shown: str) -> None:
    piece = Piece(0, range(len(texts)), texts, [0.1, 1.0][: len(texts)], "stop")
    assert "".join(View(has_colours=True).show(None, [piece])) == shown


def test_words_that_can_be_printed_in_part_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    messages = Messages()
    view_on_stdout(WordTokenizer((" cafés", " tea"), (1, 1), PreparationConfig(unit="word")), messages, False, False)
    assert messages == [
        "warning: 1 symbol of the model will be shown as ?, because stdout is in ascii: try PYTHONIOENCODING=utf-8"
    ]


@pytest.mark.parametrize(
    ("options", "num_chars", "num_symbols"),
    [
        ({"unit": "word"}, 280, 80),
        ({"unit": "byte"}, 280, 300),
        ({"separator": "\n"}, 280, None),
        ({"separator": "\n", "unit": "word", "max_vocab": 3}, 280, 81),
    ],
)
def test_inspect_counts_characters_and_symbols(
    tmp_path: Path, options: dict[str, Any], num_chars: int, num_symbols: int
) -> None:
    model = untrained_model(tmp_path, "über dem Meer\n".encode() * 20, **options)
    corpus, checkpoint = (inspect(str(path), tmp_path) for path in (tmp_path / "corpus.safetensors", model))
    for facts in (corpus, checkpoint["corpus"]):
        assert (facts["characters"], facts["symbols"]) == (num_chars, num_symbols)


def test_scored_lines_of_bytes_are_written_as_they_are(tmp_path: Path, charrnn: Command) -> None:
    model = untrained_model(tmp_path, bytes(range(256)) * 9, unit="byte")
    (tmp_path / "text").write_bytes(b"a\xff\nb\n")
    words = [sys.executable, "-m", "charrnn", "score", str(model), str(tmp_path / "text"), "--per-line"]
    lines = subprocess.run(words, capture_output=True, check=True).stdout.splitlines()
    assert [line.split(b"\t")[1] for line in lines] == [b"a\xff", b"b"]


def test_score_counts_unknown_words_as_words(tmp_path: Path, charrnn: Command) -> None:
    model = untrained_model(tmp_path, b"the cat sat on the mat\n" * 20, unit="word")
    assert "1 word outside the vocabulary was left out" in charrnn("score", model, "-", input="the cat sings\n").stderr
    assert (
        "stdin has fewer than 2 words of the model's vocabulary" in charrnn("score", model, "-", input="zebra").stderr
    )


def test_skipped_words_of_a_prompt_are_reported(tmp_path: Path, charrnn: Command) -> None:
    model = untrained_model(tmp_path, b"the cat sat on the mat\n" * 20, unit="word")
    done = charrnn("sample", model, "-p", "the zebra sa", "--skip-unknown", "-n", "3", "--seed", "1")
    assert done.stderr == "not in the vocabulary, left out of the prompt: ' zebra'\n"
    assert done.stdout.startswith("the sat")


@pytest.mark.parametrize("options", [{"documents": True}, {"separator": "\n\n"}], ids=str)
def test_a_copy_may_continue_after_the_end_of_a_document(options: dict[str, Any]) -> None:
    marked = f"{EOS_MARK}ab{EOS_MARK}cd{EOS_MARK}"
    tokenizer, corpus = tokenizer_of(marked + "\n", **options), CopyIndex(marked)
    for drawn, longest in ((f"ab{EOS_MARK}cd", f"ab{EOS_MARK}cd"), ("ab\n\ncd", "ab")):
        ids = tokenizer.ids_of(drawn).tolist()
        piece = Piece(0, ids, [tokenizer.texts[i] for i in ids], [0.1] * len(ids), "length")
        batch = Batch(SamplingConfig(), None, 1, [piece], "")
        [line] = as_json([batch], tokenizer, corpus, ascii_only=False)
        assert json.loads(line)["longest_copy"] == len(longest)


def test_rare_words_of_a_prompt_are_reported(tmp_path: Path, charrnn: Command) -> None:
    model = untrained_model(tmp_path, b"the cat sat on the mat\n" * 20, unit="word", max_vocab=6)
    done = charrnn("sample", model, "-p", "the zebra sa", "-n", "3", "--seed", "1")
    assert "not in the vocabulary, read as <unk>: ' zebra' 'the'\n" in done.stderr
    assert done.stdout.startswith("the zebra sa")
