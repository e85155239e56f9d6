r"""Split a text into words, numbers, punctuation marks and white space.

The space before a word belongs to it, so that a text has few symbols and the first word of a line has none:

>>> split_words("A cat's paw -- well-known.\n\nThe end...")
['A', " cat's", ' paw', ' --', ' well-known', '.', '\n\n', 'The', ' end', '...']
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator

EOS_MARK = "\ud800"
"""The end of a document in a marked text (`tokenizers.py`): a surrogate that stands for no byte."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana, bopomofo, Han: written without spaces, so that each letter is a symbol."""
_JOINERS = "\u00ad\u200c\u200d"
_INNER = "'\u2019\u2010\u2011-"
_MAX_REPEATS = 16
_LOOKAHEAD = 2
"""Characters after a symbol that decide on its end: an apostrophe or a hyphen is in a word if a letter follows."""


def split_words(text: str) -> list[str]:
    """Split a text into symbols, which joined are the text.

    A word is a run of letters, with apostrophes and hyphens inside, or one letter of a script without spaces. A run of
    digits is a number, a run of the same dot, hyphen or the like is one mark. One space before any of them belongs to
    it.
    """
    return _pattern(is_ascii=text.isascii()).findall(text)


def split_word_blocks(blocks: Iterable[str]) -> Iterator[list[str]]:
    """Split a text that comes in blocks into the symbols that `split_words` gives for the whole."""
    rest = ""
    for block in blocks:
        text = rest + block
        symbols = split_words(text)
        end = len(text)
        while symbols and end > len(text) - _LOOKAHEAD:
            end -= len(symbols.pop())
        rest = text[end:]
        yield symbols
    yield split_words(rest)


def respaced(word: str) -> str:
    """A word without the space before it, or with one if it has none."""
    return word[1:] if word.startswith(" ") else f" {word}"


@functools.cache
def _pattern(*, is_ascii: bool) -> "re.Pattern[str]":
    letter = "[A-Za-z]" if is_ascii else f"[{_letters()}]"
    inner = f"[{_INNER}]"
    word = f"{letter}{{1,64}}(?:{inner}{letter}{{1,64}}){{0,7}}"
    if not is_ascii:
        marks = f"[{_marks()}]"
        part = f"{letter}{{1,64}}(?:{marks}{{1,8}}{letter}{{0,64}}){{0,16}}"
        plain = "[A-Za-z]{1,64}(?=[ \\n.,;:!?])"  # is found several times as fast
        word = f"{plain}|{part}(?:{inner}{part}){{0,7}}|[{_UNSPACED}]{marks}{{0,8}}"
    repeated = "|".join(f"{re.escape(mark)}{{1,{_MAX_REPEATS}}}" for mark in "-.*_=")
    spaces = f" {{1,{_MAX_REPEATS}}}(?= )| |\\n{{1,{_MAX_REPEATS}}}|\\t{{1,{_MAX_REPEATS}}}|\\s"
    return re.compile(f"{EOS_MARK}| ?(?:{word}|\\d{{1,{_MAX_REPEATS}}}|{repeated}|[^\\w\\s{EOS_MARK}]|\\w)|{spaces}")


def _letters() -> str:
    """The letters of scripts with spaces, and signs that are numbers without being digits, as ranges of a class."""
    characters = re.sub(f"[{_UNSPACED}]", "", "".join(map(chr, range(0x20000))))
    return _ranges(ord(char) for char in characters if char.isalnum() and not char.isdecimal())


def _marks() -> str:
    """The characters that belong to the letter before them, as ranges of a class."""
    marks = (point for point in range(0x300, 0xE0200) if unicodedata.category(chr(point)).startswith("M"))
    return _JOINERS + _ranges(marks)


def _ranges(points: Iterable[int]) -> str:
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
