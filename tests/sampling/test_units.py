"""Samples of models of words, bytes and documents."""

import re
from pathlib import Path
from typing import Any

import pytest

from charrnn.api import LanguageModel
from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.runs.folder import RunFolder
from charrnn.runs.opening import start
from charrnn.text.corpus import prepare
from charrnn.text.sources import find_sources
from charrnn.text.vocabulary import UNKNOWN_CHAR
from tests.conftest import CPU, TINY

TEXT = "the knight knows the knot.\nthe king's knave knew nothing.\n\n'tis a well-known tale of the kingdom.\n" * 9


def untrained(text: str, folder: Path, **options: Any) -> LanguageModel:
    """A model of random weights of a text that is prepared so."""
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text(text)
    sources = find_sources([str(folder / "text.txt")])
    corpus = prepare(sources, PreparationConfig(**options), folder / "data" / "corpus.safetensors")
    config = TrainingConfig(steps=1, batch_size=2, seq_length=8)
    run = start(RunFolder(folder / "run"), corpus, TINY, config, CPU, seed=1)
    return LanguageModel(run.checkpoint(), folder, CPU, folder / "data")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("the kn", ["knight", "knows", "knot", "knave", "knew"]),
        ("the king'", ["king's"]),
        ("a well-", ["well-known"]),
        ("'tis a k", ["knight", "knows", "knot", "king's", "knave", "knew", "kingdom"]),
        ("of the", ["the"]),
    ],
)
def test_a_prompt_that_ends_within_a_word_is_continued_to_a_word(tmp_path: Path, prompt: str, words: list[str]) -> None:
    model = untrained(TEXT, tmp_path, unit="word")
    begin = prompt[: prompt.rindex(" ") + 1]
    made = {prompt + text for text in model.sample_many(60, prompt, length=1, seed=1)}
    assert made <= {begin + word for word in words}
    assert len(made) >= min(len(words), 3)
    continued = model.sample(prompt, length=2, seed=1)
    assert any((prompt + continued).startswith(begin + word) for word in words)


def test_a_prompt_of_rare_words_is_read_as_unknown_ones(tmp_path: Path) -> None:
    model = untrained(TEXT, tmp_path, unit="word", max_vocab=6)
    text = model.sample("the zebra", length=50, seed=1)
    assert UNKNOWN_CHAR not in text
    with pytest.raises(CharRNNError, match="words outside the vocabulary"):
        untrained(TEXT, tmp_path / "other", unit="word").sample("the zebra and", seed=1)


def test_banned_characters_are_in_no_word(tmp_path: Path) -> None:
    text = untrained(TEXT, tmp_path, unit="word").sample("", ban="kw", length=200, seed=1)
    assert not set("kw") & set(text)
    assert len(text) > 200


def test_a_model_of_bytes_bans_characters_and_reads_prompts_of_any(tmp_path: Path) -> None:
    model = untrained("né à côté\n" * 40, tmp_path, unit="byte")
    text = model.sample("é漢", ban="éa", length=400, seed=1)
    assert not set("éa") & set(text)
    assert model.sample("", seed=1, length=9, stop="\ufffd") is not None


@pytest.mark.parametrize("unit", ["char", "byte", "word"])
def test_a_model_of_documents_writes_whole_ones(tmp_path: Path, unit: str) -> None:
    names = [f"{first}{last}" for first in ("An", "Be", "Ca") for last in ("na", "rt", "rl", "th")]
    model = untrained("\n".join(names) + "\n", tmp_path, unit=unit, separator="\n")
    text = model.sample("", documents=5, unique=True, new=True, seed=1)
    made = text.removesuffix("\n").split("\n")
    assert len(set(made)) == len(made) == 5
    if unit != "word":
        assert not set(made) & set(names)
    lines = model.sample("", lines=3, seed=1)
    assert lines.count("\n") == 3
    assert [each.count("\n") for each in model.sample_many(3, documents=2, seed=1)] == [2, 2, 2]
    with pytest.raises(OptionError, match="documents, new and unique need a model of documents"):
        untrained(TEXT, tmp_path / "other").sample(documents=1)


@pytest.mark.parametrize("options", [{"unit": "byte"}, {"unit": "word", "max_vocab": 9}, {"separator": "\n"}])
def test_samples_of_each_unit_depend_on_seed_and_number_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    model = untrained(TEXT, tmp_path, **options)
    alone = [model.sample("the k", length=60, seed=seed) for seed in (1, 1, 2)]
    assert alone[0] == alone[1] != alone[2]
    assert model.sample_many(5, "the k", length=60, seed=1)[0] == alone[0]


def test_the_begin_of_a_word_is_known_without_the_space_before_it(tmp_path: Path) -> None:
    model = untrained(TEXT, tmp_path, unit="word")
    assert {"ki" + text for text in model.sample_many(20, "ki", length=1, seed=1)} <= {"king's", "kingdom"}


def test_a_prompt_is_not_repeated_where_each_word_is_a_character(tmp_path: Path) -> None:
    model = untrained("你好世界\n我爱你\n天地玄黄\n" * 40, tmp_path, unit="word")
    assert model.sample("你", length=1, seed=1) == ""
    assert len(model.sample("你", length=5, seed=1)) == 4


def test_a_prompt_of_bytes_keeps_its_line_ends(tmp_path: Path) -> None:
    model = untrained(TEXT, tmp_path, unit="byte")
    assert model.normalise("a\r\nb\udcff") == "a\r\nb\xff"


def test_each_character_of_a_separator_can_be_banned(tmp_path: Path) -> None:
    model = untrained("the cat\nsat on\n\nthe mat\n" * 40, tmp_path, separator="\n\n")
    text = model.sample(ban="\n\n", length=400, seed=1)
    assert not re.search(r"(?<!\n)\n(?!\n)", text), "the border is no line end"
    assert "\n\n" in text


def test_separators_in_a_prompt_are_borders_as_they_are_in_a_text(tmp_path: Path) -> None:
    model = untrained("Anna\nBert\nCarl\n" * 40, tmp_path, separator="\n")
    prompts = ["Anna\nBe", "\nAnna\nBe", "Anna\n\n\nBe", "\n\nAnna\nBe"]
    assert len({model.sample(prompt, length=30, seed=1) for prompt in prompts}) == 1
    assert model.score("Anna\n\nBert").surprisals == model.score("Anna\nBert").surprisals


def test_half_of_a_character_has_no_bytes(tmp_path: Path) -> None:
    model = untrained(TEXT, tmp_path, unit="byte")
    with pytest.raises(CharRNNError, match=r"U\+D812 is half of a character"):
        model.sample("a\ud812")
