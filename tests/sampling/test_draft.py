"""A sample in the making: its ends, and what of it is taken back, whatever a symbol is."""

from typing import Any

import pytest

from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.draft import Draft, Rules
from charrnn.text.units import BORDER

WORDS = (" the", " cat", "\n\n", " sat", ",", " the end", BORDER, "\n")
THE, CAT, GAP, SAT, COMMA, THE_END, END, NEWLINE = ([i] for i in range(len(WORDS)))


def draft(texts: tuple[str, ...] = WORDS, prefix: str = "", begun: str = "", **rules: Any) -> Draft:
    rules = {"max_length": 1000, "line_ends": "\n", **rules}
    return Draft(0, 1, Rules(texts=texts, lengths=[len(text) for text in texts], **rules), prefix, begun)


def written(sample: Draft, *parts: list[int]) -> str:
    """What is settled of a sample that draws these parts, as far as its end."""
    text = ""
    for part in parts:
        if sample.finish_reason is None:
            text += "".join(sample.add(part, [1.0] * len(part)).texts)
    return text


@pytest.mark.parametrize(
    ("stop", "text"),
    [(" the c", " the c"), ("cat,", " the cat,"), ("t s", " the cat s"), ("\n", " the cat sat\n"), ("dog", None)],
)
def test_a_stop_is_text_that_may_end_within_a_symbol(stop: str, text: str | None) -> None:
    sample = draft(stops=(stop,))
    parts = (THE + CAT, SAT + GAP) if stop != "cat," else (THE, CAT, COMMA + SAT)
    assert written(sample, *parts) == (text or " the cat sat\n\n")
    assert sample.finish_reason == ("stop" if text else None)


def test_lines_end_within_a_symbol_of_several() -> None:
    sample = draft(lines=2)
    assert written(sample, THE + NEWLINE, CAT + GAP + SAT) == " the\n cat\n"
    assert sample.finish_reason == "lines"


def test_length_counts_symbols_and_bits_are_per_character() -> None:
    sample = draft(max_length=3)
    assert written(sample, THE + CAT + SAT + CAT) == " the cat sat"
    assert sample.finish_reason == "length"
    assert sample.bits_per_char == pytest.approx(3 / 12 / 0.6931471805599453)


def test_the_begin_of_the_first_symbol_is_the_end_of_the_prompt() -> None:
    sample = draft(prefix=" th", max_length=2)
    assert written(sample, THE + CAT) == "e cat"
    assert sample.bits_per_char == pytest.approx(2 / 5 / 0.6931471805599453)
    stopped = draft(prefix=" the", stops=("the",))
    assert written(stopped, THE + CAT + THE) == " cat the"


def test_copies_are_runs_of_characters_and_whole_symbols_are_taken_back() -> None:
    sample = draft(corpus=CopyIndex("the cat, sat"), max_copy=7, max_length=3)
    text = written(sample, SAT, THE, CAT)
    assert (sample.rejections, sample.ids) == (1, SAT)
    assert text + written(sample, CAT + COMMA) == " sat cat,"
    assert sample.finish_reason == "length"


def test_bytes_of_a_banned_character_are_taken_back() -> None:
    sample = draft(tuple(map(chr, range(256))), banned=("\xc3\xa9",))
    assert written(sample, *map(list, (b"caf\xc3", b"\xa9s", b"e", b"\xc3\xa8 "))) == "cafe\xc3\xa8"
    assert sample.rejections == 1


def test_documents_are_counted() -> None:
    sample = draft(documents=2)
    assert written(sample, THE + END + CAT, SAT + END + THE) == f" the{BORDER} cat sat{BORDER}"
    assert sample.finish_reason == "documents"


def test_no_document_is_written_twice() -> None:
    sample = draft(unique=True, documents=3)
    assert (
        written(sample, THE + END + CAT, END + THE, END, THE + CAT + END) == f" the{BORDER} cat{BORDER} the cat{BORDER}"
    )
    assert sample.rejections == 1


def test_no_document_of_the_corpus_is_written() -> None:
    sample = draft(known={hash(" the cat"), hash(" sat")}, documents=2)
    assert written(sample, THE + CAT + END, THE + END, SAT, END, SAT + CAT + END) == f" the{BORDER} sat cat{BORDER}"
    assert sample.rejections == 2


def test_the_first_document_begins_in_the_prompt() -> None:
    sample = draft(known={hash("a the")}, begun="a", documents=1)
    assert written(sample, THE + END, CAT + END) == f" cat{BORDER}"
    assert sample.rejections == 1


def test_documents_and_copies_are_judged_together() -> None:
    corpus = CopyIndex(f"{BORDER} the cat{BORDER}")
    sample = draft(unique=True, corpus=corpus, max_copy=8, documents=2)
    parts = [THE + SAT + END, THE + SAT + END, THE + CAT, SAT + END, NEWLINE + CAT + END]
    assert written(sample, *parts) == f" the sat sat{BORDER}\n cat{BORDER}"
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


def letters(sample: Draft) -> str:
    return "".join(map(chr, sample.ids))


def grown(symbols: str, **options: Any) -> Draft:
    """A sample of characters that always draws the first of these symbols that may come next, until it ends."""
    sample = draft(tuple(map(chr, range(128))), samplable=set(map(ord, symbols)), **options)
    while sample.finish_reason is None:
        excluded = sample.excluded.get(sample.length, set())
        sample.add([next(ord(symbol) for symbol in symbols if ord(symbol) not in excluded)], [1.0])
    return sample


def test_a_symbol_that_always_makes_a_copy_is_excluded() -> None:
    sample = grown("ab", corpus=CopyIndex("aaaa"), max_copy=4, max_length=9)
    assert (letters(sample), sample.finish_reason) == ("aaabaaaba", "length")
    assert sample.rejections <= 102 + 5, "the second time it is tried less often"


def test_where_no_symbol_is_left_the_one_before_is_taken_back() -> None:
    sample = grown("abc", corpus=CopyIndex("aaa aab aac aba abb abc"), max_copy=3, max_length=4)
    assert (letters(sample), sample.finish_reason) == ("acaa", "length")
    assert sample.excluded[1] == {ord("a"), ord("b")}


def test_a_sample_is_given_up_once_all_symbols_are_excluded() -> None:
    sample = grown("abc", corpus=CopyIndex("cab"), max_copy=1)
    assert (letters(sample), sample.finish_reason) == ("", "given_up")
    assert str(sample.problem).startswith("0 symbols: each of 101 attempts made a copy of 1 character of the corpus")


def test_the_last_byte_of_a_banned_character_is_excluded() -> None:
    sample = draft(tuple(map(chr, range(256))), samplable={0xC3, 0xA8, 0xA9}, banned=("\xc3\xa9",))
    for _ in range(102):
        sample.add([0xC3, 0xA9], [1.0] * 2)
    assert (sample.ids, sample.excluded) == ([0xC3], {1: {0xA9}})


def test_the_word_that_goes_on_with_the_prompt_is_not_excluded() -> None:
    sample = draft(samplable=set(range(8)), prefix=" th", corpus=CopyIndex("e"), max_copy=1)
    for _ in range(102):
        sample.add(THE, [1.0])
    assert (sample.finish_reason, sample.ids) == ("given_up", [])


def test_each_document_begins_with_the_prompt() -> None:
    sample = draft(prefix=" th", begun="a th", documents=3)
    key = sample.key
    first = sample.add(THE + CAT + END + SAT, [1.0] * 4)
    assert (first.texts, first.ids, first.echo) == (["e", " cat", BORDER], THE + CAT + END, "")
    assert (sample.begin, sample.num_launched, sample.ids) == (3, 3, [])
    assert sample.key != key, "so that what was launched is dropped"
    second, third = sample.add(THE, [1.0]), sample.add(END + THE, [1.0] * 2)
    assert (second.texts, second.echo, third.texts, third.echo) == (["e"], "a th", [BORDER], "")
    last = sample.add(THE_END + END, [1.0] * 2)
    assert (last.texts, last.echo, sample.finish_reason) == (["e end", BORDER], "a th", "documents")
    assert sample.bits_per_char == pytest.approx(7 / 14 / 0.6931471805599453)


def test_documents_with_the_prompt_are_judged_with_it_and_by_themselves() -> None:
    sample = draft(begun="a", documents=3, known={hash("a the")}, unique=True, corpus=CopyIndex("cat sat"), max_copy=7)
    parts = [THE + END, CAT + END + CAT, CAT + END, SAT + END, CAT + SAT, SAT + SAT + END]
    assert written(sample, *parts) == f" cat{BORDER} sat{BORDER} sat sat{BORDER}"
    assert (sample.rejections, sample.finish_reason) == (3, "documents")


def test_samples_share_the_documents_that_were_written() -> None:
    rules = Rules(texts=WORDS, lengths=[1] * len(WORDS), max_length=9, documents=1, unique=True)
    first, second = (Draft(index, 1, rules) for index in range(2))
    assert written(first, THE + END) == f" the{BORDER}"
    assert written(second, THE + END, CAT + END) == f" cat{BORDER}"
    assert (first.rejections, second.rejections) == (0, 1)
