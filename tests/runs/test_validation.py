"""A text for validation of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from tests.support import TEXT, Command

UNITS: list[dict[str, Any]] = [
    {},
    {"unit": "byte"},
    {"unit": "word"},
    {"separator": "\n"},
    {"separator": "\n", "unit": "word"},
    {"documents": True},
]
HELD_OUT = "The mat sat on a cat.\nA hat was on the rat.\n"


def corpus_of(folder: Path, train: str, valid: str, **options: Any) -> Corpus:
    (folder / "train.txt").write_text(train)
    (folder / "valid.txt").write_text(valid)
    texts = [find_sources([str(folder / name)]) for name in ("train.txt", "valid.txt")]
    return prepare(texts[0], PreparationConfig(**options), folder / "data" / "c.safetensors", validation=texts[1])


@pytest.mark.parametrize("options", UNITS)
def test_validation_file_is_the_end_of_the_corpus(tmp_path: Path, options: dict[str, Any]) -> None:
    corpus = corpus_of(tmp_path, TEXT, HELD_OUT, **options)
    reopened = Corpus.open(corpus.path)
    assert reopened.validation_start == corpus.validation_start is not None
    ids = corpus.ids[corpus.validation_start :]
    border = [] if corpus.tokenizer.eos_id is None else [corpus.tokenizer.eos_id]
    assert ids[: len(border)].tolist() == border
    text = corpus.tokenizer.decode(ids[len(border) :])
    assert text.rstrip("\n") == HELD_OUT.rstrip("\n")
    assert sum(corpus.tokenizer.counts) == len(corpus.ids)
    assert "b" not in TEXT or corpus.tokenizer.num_chars >= len(TEXT)


@pytest.mark.parametrize("options", [[], ["--unit", "word"], ["--separator", r"\n"]])
def test_score_of_the_validation_file_is_the_validation_loss(
    tmp_path: Path, charrnn: Command, options: list[str]
) -> None:
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "valid.txt").write_text(HELD_OUT)
    words = ["train", "train.txt", "--validate", "valid.txt", *options, "--run", "run", "--steps", "30", "--json"]
    small = ["--hidden-size", "16", "--seed", "1", "--device", "cpu", "--precision", "float32"]
    summary = json.loads(charrnn(*words, *small).stdout)
    scored = json.loads(charrnn("score", "run", "valid.txt", *small[4:], "--json").stdout)
    assert summary["val_chars"] == scored["chars"]
    assert summary["best_val_loss"] == pytest.approx(scored["loss"], abs=1e-3)
    assert summary["bits_per_byte"] == pytest.approx(scored["bits_per_byte"], abs=1e-3)
    resumed = json.loads(charrnn(*words[:-3], "--steps", "40", "--json", "--resume").stdout)
    assert resumed["steps"] == 40


def test_validation_file_and_fraction_exclude_each_other(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(HELD_OUT)
    done = charrnn("train", "a.txt", "--validate", "b.txt", "--val-fraction", "0.2")
    assert done.returncode == 2
    assert "contains a validation text: leave --val-fraction out" in done.stderr
    assert charrnn("prepare", "a.txt", "-o", "a.safetensors").returncode == 0
    done = charrnn("train", "a.safetensors", "--validate", "b.txt")
    assert done.returncode == 2
    assert "a.safetensors is prepared: --validate needs the raw text" in done.stderr


@pytest.mark.parametrize("valid", ["", "a"])
def test_validation_file_that_is_too_short_is_refused(tmp_path: Path, valid: str) -> None:
    with pytest.raises(CharRNNError, match=r"valid\.txt has too few characters: validation needs"):
        corpus_of(tmp_path, TEXT, valid)


def test_another_validation_file_is_another_corpus(tmp_path: Path) -> None:
    first = corpus_of(tmp_path, TEXT, HELD_OUT)
    with pytest.raises(CharRNNError, match="was made from another text"):
        corpus_of(tmp_path, TEXT, HELD_OUT + "more")
    assert corpus_of(tmp_path, TEXT, HELD_OUT).notes == (f"{first.path} is up to date",)


def test_dropped_duplicates_leave_the_loss_of_a_list_without_them(tmp_path: Path, charrnn: Command) -> None:
    names = "".join(f"{first}{last}\n" for first in ("An", "Be", "Ca", "Do") for last in ("na", "rt", "rl", "th", "le"))
    (tmp_path / "once.txt").write_text(names)
    (tmp_path / "often.txt").write_text(names * 5)
    small = ["--separator", r"\n", "--hidden-size", "16", "--steps", "20", "--seed", "1", "--device", "cpu", "--json"]
    once = json.loads(charrnn("train", "once.txt", *small).stdout)
    done = charrnn("train", "often.txt", "--drop-duplicates", *small)
    assert "dropped 80 duplicate documents" in done.stderr
    assert json.loads(done.stdout)["best_val_loss"] == once["best_val_loss"]
    (tmp_path / "twice.txt").write_text(names * 2)
    done = charrnn("prepare", "twice.txt", "--separator", r"\n")
    assert "20 duplicate documents, which may be in both parts" in done.stderr
    assert "--drop-duplicates keeps the first of each" in done.stderr
