"""Texts as numbers, before their vocabulary is known."""

import contextlib
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.config import PreparationConfig, Unit
from charrnn.text import numbering
from charrnn.text.numbering import NumberedText
from charrnn.text.tokenizers import TOKENIZERS, UNKNOWN_CHAR, ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer
from charrnn.text.words import EOS_MARK, split_words

MANY = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) + "".join(map(chr, range(0x20000, 0x20000 + 20_000)))


def blocks_of(text: str, size: int) -> list[str]:
    return [text[begin : begin + size] for begin in range(0, len(text), size)]


@contextlib.contextmanager
def numbered(blocks: list[str], kind: type[Tokenizer], folder: Path) -> Iterator[NumberedText]:
    with tempfile.TemporaryFile(dir=folder) as stream:
        yield NumberedText([blocks], kind, stream)


def with_forgotten(numbers: NumberedText, **options: Any) -> Tokenizer:
    """The tokenizer of a text of words, of which some were forgotten."""
    forgotten = numbers.num_forgotten, numbers.forgotten_chars
    return WordTokenizer.build(numbers.totals, PreparationConfig(unit="word", **options), forgotten)


def check(blocks: list[str], unit: Unit, folder: Path, min_count: int = 1) -> None:
    """Assert that blocks that were numbered are encoded as their text is, by the same tokenizer."""
    text = "".join(blocks)
    has_eos = EOS_MARK in text
    if not text.strip(EOS_MARK):
        return
    totals = Counter(split_words(text) if unit == "word" else text)
    config = PreparationConfig(unit=unit, min_count=min_count, documents=has_eos)
    with numbered(blocks, TOKENIZERS[unit], folder) as numbers:
        assert numbers.totals == totals
        assert (numbers.num_forgotten, numbers.forgotten_chars) == (0, 0)
        tokenizer = TOKENIZERS[unit].build(totals, config)
        ids = torch.cat([torch.empty(0, dtype=tokenizer.dtype), *numbers.encode(tokenizer)[0]])
    if tokenizer.unk_id is None:
        expected = tokenizer.encode(text)
    else:
        expected = tokenizer.ids_of(tokenizer.split(text)).to(tokenizer.dtype)
    assert ids.dtype == tokenizer.dtype
    assert torch.equal(ids, expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(min_size=1) | st.text("ab \n漢😀" + EOS_MARK, min_size=1),
    st.integers(1, 9),
    st.sampled_from(("char", "word")),
    st.sampled_from((2**16, 3)),
)
def test_numbered_text_is_encoded_as_the_text_is(tmp_path: Path, text: str, size: int, unit: Unit, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbering, "_BLOCK", block)
        check(blocks_of(text, size), unit, tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1), st.booleans(), st.integers(1, 9))
def test_numbered_bytes_are_encoded_as_the_bytes_are(tmp_path: Path, data: bytes, has_eos: bool, size: int) -> None:
    text = data.decode("ascii", "surrogateescape")
    if has_eos:
        with numbered(blocks_of(EOS_MARK + text + EOS_MARK, size), ByteTokenizer, tmp_path) as numbers:
            tokenizer = ByteTokenizer.build(numbers.totals, PreparationConfig(unit="byte", documents=True))
            assert torch.cat(list(numbers.encode(tokenizer)[0])).tolist() == [256, *data, 256]
    else:
        check(blocks_of(text, size), "byte", tmp_path)


@pytest.mark.parametrize("plain", [0, 100_000])
@pytest.mark.parametrize("num_symbols", [100, 127, 128, 254, 255, 256, 32_639, 32_640, 40_000])
def test_numbers_become_wider_as_symbols_are_found(num_symbols: int, plain: int, tmp_path: Path) -> None:
    text = MANY[:num_symbols]
    check(blocks_of("plain " * plain + text + "plain " * plain + text[::-1], 2**18), "char", tmp_path)


def test_rare_letters_among_long_plain_passages_are_found(tmp_path: Path) -> None:
    check(["A plain tale. " * 10_000 + "é" + "It goes on. " * 10_000 + "😀", EOS_MARK, "The end."], "char", tmp_path)


@pytest.mark.parametrize("unit", ["char", "word"])
def test_rare_symbols_are_encoded_to_the_unknown_one(unit: Unit, tmp_path: Path) -> None:
    check(["Zwölf Boxkämpfer jagen Viktor ", "über den großen Sylter Deich, den Deich"], unit, tmp_path, min_count=2)
    check(["Zwei Boxer jagen Zwei Boxer ", MANY[:500], " und zurück"], unit, tmp_path, min_count=2)


def test_words_after_as_many_as_memory_should_hold_become_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbering, "MAX_KNOWN", 20)
    rare = [" " + "".join(letters) for letters in itertools.product("abcde", repeat=2)]
    words = [" at", " last", *rare, *[" at", " last"] * 30]
    with numbered(blocks_of("".join(words), 50), WordTokenizer, tmp_path) as numbers:
        assert numbers.totals == Counter({" at": 31, " last": 31} | dict.fromkeys(rare[:16], 1))
        assert (numbers.num_forgotten, numbers.forgotten_chars) == (9, 27)
        tokenizer = with_forgotten(numbers)
        symbols = tokenizer.decode_marked(torch.cat(list(numbers.encode(tokenizer)[0])))
    assert list(symbols) == [*words[:18], *[UNKNOWN_CHAR] * 9, *words[27:]]
    assert (sum(tokenizer.counts), tokenizer.num_chars) == (len(words), len("".join(words)))


def test_numbers_that_are_gone_are_an_error(tmp_path: Path) -> None:
    with numbered(["Once upon a time"], CharTokenizer, tmp_path) as numbers:
        tokenizer = CharTokenizer.build(numbers.totals, PreparationConfig())
        list(numbers.encode(tokenizer)[0])
        with pytest.raises(OSError, match="Input/output error"):
            list(numbers.encode(tokenizer)[0])


def test_eos_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbering, "MAX_KNOWN", 5)
    text = EOS_MARK + "".join(f"{word}{EOS_MARK}" for word in random.Random(1).choices(["one", "two", "three"], k=20))
    text += " ".join(map("".join, itertools.permutations("abcde"))) + EOS_MARK
    with numbered([text], WordTokenizer, tmp_path) as numbers:
        tokenizer = with_forgotten(numbers, separator="\n")
        ids = torch.cat(list(numbers.encode(tokenizer)[0]))
    assert ids.tolist().count(tokenizer.eos_id) == text.count(EOS_MARK) == tokenizer.counts[-1]
