"""`sample` by models of bytes and words."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from charrnn.cli.sample import _skip_unknown
from charrnn.cli.writing import View, view_on_stdout
from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.runs.folder import RunFolder
from charrnn.runs.inspection import inspect
from charrnn.runs.start import start
from charrnn.sampling.sampler import Piece
from charrnn.text.vocabulary import Vocabulary
from tests.support import CPU, TINY, Command, Told, prepared

BYTES = PreparationConfig(unit="byte")


def untrained(folder: Path, text: bytes, **options: Any) -> Path:
    """A checkpoint of random weights."""
    corpus = prepared(text, folder / "corpus.safetensors", **options)
    run = start(RunFolder(folder / "run"), corpus, TINY, TrainingConfig(steps=1, batch_size=2, seq_length=8), CPU)
    run.checkpoint().save(folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("way", ["file", "line"])
def test_a_prompt_of_any_bytes_is_read_and_echoed(tmp_path: Path, charrnn: Command, way: str) -> None:
    model = untrained(tmp_path, bytes(range(256)) * 9, unit="byte")
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


def test_each_byte_and_border_is_scored_on_a_line(tmp_path: Path, charrnn: Command) -> None:
    model = untrained(tmp_path, "é|a|".encode() * 20, unit="byte", separator="|")
    (tmp_path / "text.txt").write_text("é|a|", encoding="utf-8")
    lines = charrnn("score", model, "text.txt", "--per-char").stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["\\udcc3", "\\udca9", "|", "a", "|"]
    records = charrnn("score", model, "text.txt", "--per-char", "--json").stdout.splitlines()
    assert [json.loads(record)["char"] for record in records] == ["\udcc3", "\udca9", "|", "a", "|"]


def test_a_sample_of_bytes_goes_on_within_a_character_of_the_prompt() -> None:
    piece = Piece(0, [0xA9], ["\xa9"], [0.1], "length")
    assert "".join(View(BYTES).show("a\xc3", [piece])) == "a\xe9"


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["ing", " is"], "ing\x1b[38;5;34m is\x1b[0m"),  # behind a prompt that ends with " k"
        ([" king", " i"], " king\x1b[38;5;34m i\x1b[0m"),  # up to a --stop
        ([], ""),
        ([" king", "\n\n"], " king\n\n"),  # no colour may run over the lines
    ],
)
def test_parts_of_words_are_coloured_as_they_are_written(texts: list[str], shown: str) -> None:
    piece = Piece(0, range(len(texts)), texts, [0.1, 1.0][: len(texts)], "stop")
    view = View(PreparationConfig(unit="word"), has_colours=True)
    assert "".join(view.show("", [piece])) == shown


def test_words_that_can_be_printed_in_part_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    told = Told()
    view_on_stdout(Vocabulary((" cafés", " tea"), (1, 1), "word"), PreparationConfig(unit="word"), told, False, False)
    assert told == [
        "warning: 1 symbol of the model will be shown with ? for what ascii lacks: try PYTHONIOENCODING=utf-8"
    ]


def test_the_begin_of_a_word_is_not_skipped() -> None:
    vocabulary = Vocabulary(("The", " king"), (1, 1), "word")
    told: list[str] = []

    def tell(message: str, *, warning: bool = False) -> None:
        told.append(message)

    prompts = ["The ki", "ki", "king"]  # the space before a word may be missing
    assert [_skip_unknown(prompt, vocabulary, tell) for prompt in prompts] == prompts
    assert not told
    assert _skip_unknown("The queen", vocabulary, tell) == "The"
    assert told[-1].endswith("know them: ' queen'")


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
    model = untrained(tmp_path, "über dem Meer\n".encode() * 20, **options)
    corpus, checkpoint = (inspect(str(path), tmp_path) for path in (tmp_path / "corpus.safetensors", model))
    for facts in (corpus, checkpoint["corpus"]):
        assert (facts["characters"], facts["symbols"]) == (num_chars, num_symbols)


def test_scored_lines_of_bytes_are_written_as_they_are(tmp_path: Path, charrnn: Command) -> None:
    model = untrained(tmp_path, bytes(range(256)) * 9, unit="byte")
    (tmp_path / "text").write_bytes(b"a\xff\nb\n")
    words = [sys.executable, "-m", "charrnn", "score", str(model), str(tmp_path / "text"), "--per-line"]
    lines = subprocess.run(words, capture_output=True, check=True).stdout.splitlines()
    assert [line.split(b"\t")[1] for line in lines] == [b"a\xff", b"b"]


def test_score_tells_of_words_that_are_words(tmp_path: Path, charrnn: Command) -> None:
    model = untrained(tmp_path, b"the cat sat on the mat\n" * 20, unit="word")
    assert (
        "1 word outside the model's vocabulary was left out"
        in charrnn("score", model, "-", input="the cat sings\n").stderr
    )
    assert "stdin has fewer than 2 words that the model knows" in charrnn("score", model, "-", input="zebra").stderr


def test_rare_words_of_a_prompt_are_told(tmp_path: Path, charrnn: Command) -> None:
    model = untrained(tmp_path, b"the cat sat on the mat\n" * 20, unit="word", max_vocab=5)
    done = charrnn("sample", model, "-p", "the zebra sa", "-n", "3", "--seed", "1")
    assert "rare words of the prompt are read as one unknown word: ' zebra'" in done.stderr
    assert done.stdout.startswith("the zebra sa")
