"""Samples of models of words, bytes and documents."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.api import LanguageModel
from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.text.tokenizers import UNKNOWN_CHAR, WordTokenizer
from tests.support import CPU, untrained

TEXT = "the knight knows the knot.\nthe king's knave knew nothing.\n\n'tis a well-known tale of the kingdom.\n" * 9


def untrained_model(text: str, folder: Path, **options: Any) -> LanguageModel:
    """A model of random weights, of a text that is prepared with these options."""
    folder.mkdir(exist_ok=True)
    return LanguageModel(untrained(text, folder, **options).checkpoint(), folder, CPU, folder)


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
    model = untrained_model(TEXT, tmp_path, unit="word")
    begin = prompt[: prompt.rindex(" ") + 1]
    made = {prompt + text for text in model.sample_many(60, prompt, length=1, seed=1)}
    assert made <= {begin + word for word in words}
    assert len(made) >= min(len(words), 3)
    continued = model.sample(prompt, length=2, seed=1)
    assert any((prompt + continued).startswith(begin + word) for word in words)


def test_a_prompt_of_rare_words_is_read_as_unknown_ones(tmp_path: Path) -> None:
    model = untrained_model(TEXT, tmp_path, unit="word", max_vocab=6)
    text = model.sample("the zebra", length=50, seed=1)
    assert UNKNOWN_CHAR not in text
    with pytest.raises(CharRNNError, match="words outside the vocabulary"):
        untrained_model(TEXT, tmp_path / "other", unit="word").sample("the zebra and", seed=1)


def test_banned_characters_are_in_no_word(tmp_path: Path) -> None:
    text = untrained_model(TEXT, tmp_path, unit="word").sample("", ban="kw", length=200, seed=1)
    assert not set("kw") & set(text)
    assert len(text) > 200


def test_a_model_of_bytes_bans_characters_and_reads_prompts_of_any(tmp_path: Path) -> None:
    model = untrained_model("né à côté\n" * 40, tmp_path, unit="byte")
    text = model.sample("é漢", ban="éa", length=400, seed=1)
    assert not set("éa") & set(text)
    with pytest.raises(OptionError, match="no sample can end after '�'"):
        model.sample("", seed=1, length=9, stop="\ufffd")


@pytest.mark.parametrize("unit", ["char", "byte", "word"])
def test_a_model_of_documents_writes_whole_ones(tmp_path: Path, unit: str) -> None:
    names = [f"{first}{last}" for first in ("An", "Be", "Ca") for last in ("na", "rt", "rl", "th")]
    model = untrained_model("\n".join(names) + "\n", tmp_path, unit=unit, separator="\n")
    text = model.sample("", documents=5, unique=True, new=True, seed=1)
    made = text.removesuffix("\n").split("\n")
    assert len(set(made)) == len(made) == 5
    if unit != "word":
        assert not set(made) & set(names)
    lines = model.sample("", lines=3, seed=1)
    assert lines.count("\n") == 3
    assert [each.count("\n") for each in model.sample_many(3, documents=2, seed=1)] == [2, 2, 2]
    with pytest.raises(OptionError, match=r"^--documents, --new and --unique need a model of"):
        untrained_model(TEXT, tmp_path / "other").sample(documents=1)


@pytest.mark.parametrize("unit", ["char", "byte", "word"])
def test_each_document_is_drawn_from_the_state_after_the_prompt(tmp_path: Path, unit: str) -> None:
    model = untrained_model("Anna Bart\nAnna Carl\nBea Bart\n" * 9, tmp_path, unit=unit, separator="\n")
    sampler = model.sampler(SamplingConfig(documents=3, num_samples=4, temperature=0.5))
    pieces = list(sampler.sample(model.normalise("Bea Bart\nAnna B"), seed=1))
    for index in range(4):
        own = [piece for piece in pieces if piece.index == index]
        documents = "".join(piece.echo + piece.text for piece in own).split("\n")
        assert (len(documents), documents.pop()) == (4, "")
        assert [each[:6] for each in documents[1:]] == ["Anna B"] * 2
        drawn = torch.tensor([i for piece in own for i in piece.ids])
        ends = drawn.eq(model.tokenizer.size - 1).nonzero().flatten() + 1
        expected = [bits for each in drawn.tensor_split(ends[:-1]) for bits in bits_of(model, each)]
        found = [nats / math.log(2) for piece in own for nats in piece.nats]
        assert found == pytest.approx(expected, abs=1e-3)


def bits_of(model: LanguageModel, drawn: Tensor) -> list[float]:
    """The bits of symbols (N,) after a prompt; the first word is one of those that begin with the prompt's end."""
    tokenizer = model.tokenizer
    is_word = isinstance(tokenizer, WordTokenizer)
    before = tokenizer.start(tokenizer.encode("Bea Bart\nAnna" if is_word else "Bea Bart\nAnna B")).long()
    with torch.no_grad():
        logits = model.module.eval()(torch.cat([before, drawn[:-1].long()])[:, None])[0][len(before) - 1 :, 0]
    if isinstance(tokenizer, WordTokenizer):
        others = set(range(tokenizer.size)).difference(tokenizer.beginning_with(" B"))
        logits[0, list(others)] = -math.inf
    return [float(each) / -math.log(2) for each in logits.log_softmax(-1).gather(1, drawn.long()[:, None])]


def test_no_document_is_repeated_in_another_sample(tmp_path: Path) -> None:
    model = untrained_model("ab\nba\n" * 9, tmp_path, separator="\n")
    options: Any = {"documents": 1, "seed": 1}
    assert len(set(model.sample_many(30, **options))) < 30
    assert len(set(model.sample_many(30, **options, unique=True))) == 30
    assert len(set(model.sample_many(30, "a", **options, unique=True))) == 30


@pytest.mark.parametrize(
    ("prepared", "options"),
    [
        ({}, {"stop": "ZZ"}),
        ({}, {"stop": ["king", "k\\n"]}),
        ({}, {"stop": "king", "ban": "k"}),
        ({}, {"lines": 2, "ban": "\n"}),
        ({"unit": "byte"}, {"stop": "é"}),
        ({"unit": "byte"}, {"stop": "né", "ban": "n"}),
        ({"unit": "word"}, {"stop": "queen"}),
        ({"unit": "word"}, {"lines": 1, "ban": "\n"}),
        ({"separator": "\n"}, {"documents": 1, "ban": "\n"}),
        ({"separator": "\n"}, {"lines": 1, "ban": "\n"}),
        ({"separator": "k"}, {"documents": 1, "ban": "k"}),
        ({"separator": "ing"}, {"stop": "zing"}),
        ({"ascii": True}, {"stop": "\U0001f642"}),
    ],
)
def test_an_end_that_never_comes_is_an_error(tmp_path: Path, prepared: Any, options: Any) -> None:
    model = untrained_model(TEXT.replace("queen", ""), tmp_path, **prepared)
    with pytest.raises(OptionError, match=r"^no sample can end after ") as caught:
        model.sample(**options, length=9)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("prepared", "options"),
    [
        ({}, {"stop": ["king", "\n"], "ban": "z"}),
        ({"unit": "byte"}, {"stop": "king", "lines": 1}),
        ({"unit": "word"}, {"stop": "t k", "lines": 1}),
        ({"separator": "\n"}, {"stop": "\n", "documents": 1, "lines": 1}),
        ({"separator": "knew"}, {"stop": "w nothing", "documents": 1}),
        ({"lowercase": True}, {"stop": "KING"}),
    ],
)
def test_an_end_that_may_come_is_none(tmp_path: Path, prepared: Any, options: Any) -> None:
    untrained_model(TEXT, tmp_path, **prepared).sample(**options, length=9)


@pytest.mark.parametrize("options", [{"unit": "byte"}, {"unit": "word", "max_vocab": 9}, {"separator": "\n"}])
def test_samples_of_each_unit_depend_on_seed_and_number_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    model = untrained_model(TEXT, tmp_path, **options)
    alone = [model.sample("the k", length=60, seed=seed) for seed in (1, 1, 2)]
    assert alone[0] == alone[1] != alone[2]
    assert model.sample_many(5, "the k", length=60, seed=1)[0] == alone[0]


def test_the_beginning_of_a_word_is_known_without_the_space_before_it(tmp_path: Path) -> None:
    model = untrained_model(TEXT, tmp_path, unit="word")
    assert {"ki" + text for text in model.sample_many(20, "ki", length=1, seed=1)} <= {"king's", "kingdom"}


def test_a_prompt_is_not_repeated_where_each_word_is_a_character(tmp_path: Path) -> None:
    model = untrained_model("你好世界\n我爱你\n天地玄黄\n" * 40, tmp_path, unit="word")
    assert model.sample("你", length=1, seed=1) == ""
    assert len(model.sample("你", length=5, seed=1)) == 4


def test_a_prompt_of_bytes_keeps_its_line_ends(tmp_path: Path) -> None:
    model = untrained_model(TEXT, tmp_path, unit="byte")
    assert model.normalise("a\r\nb\udcff") == "a\r\nb\udcff"
    assert model.tokenizer.encode("a\r\nb\udcff").tolist() == list(b"a\r\nb\xff")


def test_each_character_of_a_separator_can_be_banned(tmp_path: Path) -> None:
    model = untrained_model("the cat\nsat on\n\nthe mat\n" * 40, tmp_path, separator="\n\n")
    text = model.sample(ban="\n\n", length=400, seed=1)
    assert not re.search(r"(?<!\n)\n(?!\n)", text), "an EOS is no line end"
    assert "\n\n" in text


def test_separators_in_a_prompt_are_eos_as_they_are_in_a_text(tmp_path: Path) -> None:
    model = untrained_model("Anna\nBert\nCarl\n" * 40, tmp_path, separator="\n")
    prompts = ["Anna\nBe", "\nAnna\nBe", "Anna\n\n\nBe", "\n\nAnna\nBe"]
    assert len({model.sample(prompt, length=30, seed=1) for prompt in prompts}) == 1
    assert model.score("Anna\n\nBert").surprisals == model.score("Anna\nBert").surprisals


def test_half_of_a_character_has_no_bytes(tmp_path: Path) -> None:
    model = untrained_model(TEXT, tmp_path, unit="byte")
    with pytest.raises(CharRNNError, match=r"U\+D812 is half of a character"):
        model.sample("a\ud812")
