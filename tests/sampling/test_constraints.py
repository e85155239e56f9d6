"""A sample in the making: its ends, and what of it is taken back, whatever a symbol is."""

import math
from typing import Any

import pytest
import torch

from charrnn.config import PreparationConfig, SamplingConfig
from charrnn.sampling.constraints import Constraints, Draft, Piece
from charrnn.sampling.copies import CopyIndex
from charrnn.terminal import readable
from charrnn.text.tokenizers import ByteTokenizer, CharTokenizer, Prompt, Tokenizer, WordTokenizer
from charrnn.text.words import EOS_MARK

SYMBOLS = (" the", " cat", "\n\n", " sat", ",", " the end", "\n")
THE, CAT, GAP, SAT, COMMA, THE_END, NEWLINE, END = ([i] for i in range(len(SYMBOLS) + 1))
WORDS = WordTokenizer(SYMBOLS, (1,) * (len(SYMBOLS) + 1), PreparationConfig(unit="word", separator="|"))
ASCII = CharTokenizer(tuple(map(chr, range(2**7))), (1,) * 2**7)
BYTES = PreparationConfig(unit="byte")


def draft(
    tokenizer: Tokenizer = WORDS,
    prefix: str = "",
    begun: str = "",
    corpus: CopyIndex | None = None,
    known: set[int] | None = None,
    **options: Any,
) -> Draft:
    prompt = Prompt(begun, torch.zeros(0, dtype=torch.int64), begun, prefix)
    return Draft(0, 1, Constraints(SamplingConfig(**options), tokenizer, corpus, known), prompt)


def drawn(sample: Draft, *parts: list[int]) -> list[Piece]:
    """What is settled of a sample that draws these parts, as far as its end."""
    return [sample.add(part, [1.0] * len(part)) for part in parts if sample.finish_reason is None]


def written(sample: Draft, *parts: list[int]) -> str:
    """The text of the same."""
    return "".join(piece.text for piece in drawn(sample, *parts))


@pytest.mark.parametrize(
    ("stop", "text"),
    [(" the c", " the c"), ("cat,", " the cat,"), ("t s", " the cat s"), ("\n", " the cat sat\n"), ("dog", None)],
)
def test_a_stop_is_text_that_may_end_within_a_symbol(stop: str, text: str | None) -> None:
    sample = draft(stop=(stop,))
    parts = (THE + CAT, SAT + GAP) if stop != "cat," else (THE, CAT, COMMA + SAT)
    assert written(sample, *parts) == (text or " the cat sat\n\n")
    assert sample.finish_reason == ("stop" if text else None)


def test_lines_end_within_a_symbol_of_several() -> None:
    sample = draft(lines=2)
    assert written(sample, THE + NEWLINE, CAT + GAP + SAT) == " the\n cat\n"
    assert sample.finish_reason == "lines"


def test_length_counts_symbols_and_bits_are_per_character() -> None:
    [piece] = drawn(draft(length=3), THE + CAT + SAT + CAT)
    assert (piece.text, piece.finish_reason) == (" the cat sat", "length")
    assert piece.bits_per_char == pytest.approx(3 / 12 / math.log(2))


def test_the_beginning_of_the_first_symbol_is_the_end_of_the_prompt() -> None:
    [piece] = drawn(draft(prefix=" th", length=2), THE + CAT)
    assert piece.text == "e cat"
    assert piece.bits_per_char == pytest.approx(2 / 5 / math.log(2))
    stopped = draft(prefix=" the", stop=("the",))
    assert written(stopped, THE + CAT + THE) == " cat the"


def test_copies_are_runs_of_characters_and_whole_symbols_are_taken_back() -> None:
    sample = draft(corpus=CopyIndex("the cat, sat"), avoid_copying=7, length=3)
    text = written(sample, SAT, THE, CAT)
    assert (sample.rejections, sample.ids) == (1, SAT)
    assert text + written(sample, CAT + COMMA) == " sat cat,"
    assert sample.finish_reason == "length"


def test_bytes_of_a_banned_character_are_taken_back() -> None:
    sample = draft(ByteTokenizer.build({}, BYTES), ban="é")
    parts = map(list, (b"caf\xc3", b"\xa9s", b"e", b"\xc3\xa8 "))
    assert readable(written(sample, *parts)) == "cafeè"
    assert sample.rejections == 1


def test_documents_are_counted() -> None:
    sample = draft(documents=2)
    assert written(sample, THE + END + CAT, SAT + END + THE) == " the| cat sat|"
    assert sample.finish_reason == "documents"


def test_no_document_is_written_twice() -> None:
    sample = draft(unique=True, documents=3)
    assert written(sample, THE + END + CAT, END + THE, END, THE + CAT + END) == " the| cat| the cat|"
    assert sample.rejections == 1


def test_no_document_of_the_corpus_is_written() -> None:
    sample = draft(new=True, known={hash(" the cat"), hash(" sat")}, documents=2)
    assert written(sample, THE + CAT + END, THE + END, SAT, END, SAT + CAT + END) == " the| sat cat|"
    assert sample.rejections == 2


def test_the_first_document_begins_in_the_prompt() -> None:
    sample = draft(new=True, known={hash("a the")}, begun="a", documents=1)
    assert written(sample, THE + END, CAT + END) == " cat|"
    assert sample.rejections == 1


def test_documents_and_copies_are_judged_together() -> None:
    corpus = CopyIndex(f"{EOS_MARK} the cat{EOS_MARK}")
    sample = draft(unique=True, corpus=corpus, avoid_copying=8, documents=2)
    parts = [THE + SAT + END, THE + SAT + END, THE + CAT, SAT + END, NEWLINE + CAT + END]
    assert written(sample, *parts) == " the sat sat|\n cat|"
    assert sample.finish_reason == "documents"


def test_a_sample_whose_document_is_always_known_is_given_up() -> None:
    sample = draft(unique=True, documents=9)
    written(sample, THE + END)
    assert written(sample, *[THE + END] * 100) == ""
    assert sample.finish_reason is None
    written(sample, THE + END)
    assert sample.finish_reason == "given_up"
    assert sample.problem == (
        "2 symbols: each of 100 attempts made a document that was written before; write fewer, or raise --temperature"
    )


def grown(symbols: str, **options: Any) -> tuple[Draft, str]:
    """A sample of characters that always draws the first of these that may come next, until it ends, and its text."""
    tokenizer = CharTokenizer(tuple(symbols), (1,) * len(symbols))
    sample = draft(tokenizer, **options)
    while sample.finish_reason is None:
        excluded = sample.excluded.get(sample.length, set())
        sample.add([next(i for i in range(len(symbols)) if i not in excluded)], [1.0])
    return sample, "".join(symbols[i] for i in sample.ids)


def test_a_symbol_that_always_makes_a_copy_is_excluded() -> None:
    sample, text = grown("ab", corpus=CopyIndex("aaaa"), avoid_copying=4, length=9)
    assert (text, sample.finish_reason) == ("aaabaaaba", "length")
    assert sample.rejections <= 102 + 5, "the second time it is tried less often"


def test_where_no_symbol_is_left_the_one_before_is_taken_back() -> None:
    sample, text = grown("abc", corpus=CopyIndex("aaa aab aac aba abb abc"), avoid_copying=3, length=4)
    assert (text, sample.finish_reason) == ("acaa", "length")
    assert sample.excluded[1] == {"abc".index("a"), "abc".index("b")}


def test_a_sample_is_given_up_once_all_symbols_are_excluded() -> None:
    sample, text = grown("abc", corpus=CopyIndex("cab"), avoid_copying=1)
    assert (text, sample.finish_reason) == ("", "given_up")
    assert str(sample.problem).startswith("0 symbols: each of 101 attempts made a copy of 1 character of the corpus")


def test_the_last_byte_of_a_banned_character_is_excluded() -> None:
    totals = dict.fromkeys(ByteTokenizer.spelled("éè"), 1)
    sample = draft(ByteTokenizer.build(totals, BYTES), ban="é")
    for _ in range(102):
        sample.add([0xC3, 0xA9], [1.0] * 2)
    assert (sample.ids, sample.excluded) == ([0xC3], {1: {0xA9}})


def test_the_word_that_goes_on_with_the_prompt_is_not_excluded() -> None:
    sample = draft(prefix=" th", corpus=CopyIndex("e"), avoid_copying=1)
    for _ in range(102):
        sample.add(THE, [1.0])
    assert (sample.finish_reason, sample.ids) == ("given_up", [])


def test_each_document_begins_with_the_prompt() -> None:
    sample = draft(prefix=" th", begun="a th", documents=3)
    key = sample.key
    first = sample.add(THE + CAT + END + SAT, [1.0] * 4)
    assert (first.texts, first.ids, first.echo) == (["e", " cat", "|"], THE + CAT + END, "")
    assert (sample.begin, sample.num_launched, sample.ids) == (3, 3, [])
    assert sample.key != key, "so that what was launched is dropped"
    second, third = sample.add(THE, [1.0]), sample.add(END + THE, [1.0] * 2)
    assert (second.texts, second.echo, third.texts, third.echo) == (["e"], "a th", ["|"], "")
    last = sample.add(THE_END + END, [1.0] * 2)
    assert (last.texts, last.echo, sample.finish_reason) == (["e end", "|"], "a th", "documents")
    assert last.bits_per_char == pytest.approx(7 / 14 / math.log(2))


def test_documents_with_the_prompt_are_judged_with_it_and_by_themselves() -> None:
    options: Any = {"documents": 3, "unique": True, "new": True, "avoid_copying": 7}
    sample = draft(begun="a", known={hash("a the")}, corpus=CopyIndex("cat sat"), **options)
    parts = [THE + END, CAT + END + CAT, CAT + END, SAT + END, CAT + SAT, SAT + SAT + END]
    assert written(sample, *parts) == " cat| sat| sat sat|"
    assert (sample.rejections, sample.finish_reason) == (3, "documents")


def test_samples_share_the_documents_that_were_written() -> None:
    constraints = Constraints(SamplingConfig(documents=1, unique=True), WORDS)
    prompt = WORDS.encode_prompt("")
    first, second = (Draft(index, 1, constraints, prompt) for index in range(2))
    assert written(first, THE + END) == " the|"
    assert written(second, THE + END, CAT + END) == " cat|"
    assert (first.rejections, second.rejections) == (0, 1)


def test_what_is_drawn_anew_makes_no_copy_with_what_was_settled_before() -> None:
    sample = draft(ASCII, length=1000, avoid_copying=4, corpus=CopyIndex("cdef bxyz"))
    assert written(sample, *map(list, (b"abcde", b"f", b"xyzq", b"rstuv"))) == "abrs"
    assert (ASCII.decode(sample.ids), sample.length, sample.rejections) == ("abrstuv", 7, 2)


def test_only_rejections_without_progress_end_a_sample() -> None:
    sample = draft(ASCII, length=10**6, avoid_copying=2, corpus=CopyIndex("zz"))
    for _ in range(300):
        written(sample, list(b"abcdef"), list(b"zz"))
    assert sample.rejections == 300
    for _ in range(100):
        assert sample.finish_reason is None
        written(sample, list(b"zz"))
    assert (sample.length, sample.excluded) == (1800, {})
    while sample.finish_reason is None:
        written(sample, list(b"zz"))  # though it is excluded
    assert (sample.finish_reason, sample.length, sample.rejections) == ("given_up", 1801, 601)
    assert str(sample.problem).startswith("1,801 symbols: each of 200 attempts made a copy of 2 characters of the corp")
