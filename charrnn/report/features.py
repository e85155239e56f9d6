"""Features of a position in a text that people can name, each as one number per character.

Letters in shapes: N characters.
"""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
"""One number per character of a text (N,)."""

_LETTER = r"[^\W\d_\u2e80-\u9fff]"  # without Chinese and Japanese, which have no spaces between words
_WORD = re.compile(rf"{_LETTER}+(?:['\u2019]{_LETTER}+)*")
_QUOTED = re.compile(r'"(?:[^"\n]|\n(?!\n))*"?|[“„](?:[^“”\n]|\n(?!\n))*[“”]?|«(?:[^»\n]|\n(?!\n))*»?')
_BRACKETED = re.compile(r"\((?:[^)\n]|\n(?!\n))*\)?|\[(?:[^]\n]|\n(?!\n))*\]?")
_END_OF_SENTENCE = re.compile(r"[.!?\u3002\uff01\uff1f]+[^\w\s]*\s*")
_FIRST_LINE = re.compile(r"(?:\A|(?<=\n\n))[^\n]+")


def within(text: str, pattern: re.Pattern[str], accepts: Callable[[str], bool] = lambda found: True) -> Values:
    """1 within each match that is accepted, 0 elsewhere.

    >>> within("a Cat", _WORD, accepts=lambda word: word[0].isupper()).tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """
    values = np.zeros(len(text), np.float32)
    for found in pattern.finditer(text):
        if accepts(found[0]):
            values[found.start() : found.end()] = 1
    return values


def among(text: str, is_one: Callable[[str], bool]) -> Values:
    """1 at each character for which `is_one` is true, 0 elsewhere."""
    return np.fromiter(map(is_one, text), np.float32, len(text))


def since(text: str, is_mark: Callable[[str], bool]) -> Values:
    """Number of characters since the last mark.

    >>> since("ab.cd", ".".__eq__).tolist()
    [1.0, 2.0, 0.0, 1.0, 2.0]
    """
    marks = among(text, is_mark)
    position = np.arange(1, len(text) + 1)
    return (position - np.maximum.accumulate(np.where(marks > 0, position, 0))).astype(np.float32)


def is_no_letter(char: str) -> bool:
    """True for characters between words."""
    return re.match(_LETTER, char) is None


def common_words(text: str) -> set[str]:
    """The 12 most frequent words of a text."""
    return {word for word, _ in Counter(_WORD.findall(text)).most_common(12)}


FEATURES: dict[str, Callable[[str], Values]] = {
    "inside quotation marks": lambda text: within(text, _QUOTED),
    "inside brackets": lambda text: within(text, _BRACKETED),
    "how far along the line": lambda text: since(text, "\n".__eq__),
    "how far along the sentence": lambda text: since(text, lambda char: char in ".!?\u3002\uff01\uff1f"),
    "how far along the word": lambda text: since(text, is_no_letter),
    "in a capitalised word": lambda text: within(text, _WORD, lambda word: word[0].isupper() and not word.isupper()),
    "in a word in capitals": lambda text: within(text, _WORD, lambda word: len(word) > 1 and word.isupper()),
    "in the first line of a paragraph": lambda text: within(text, _FIRST_LINE),
    "right after a space": lambda text: among(text, " ".__eq__),
    "right after the end of a line": lambda text: among(text, "\n".__eq__),
    "right after a vowel": lambda text: among(text, lambda char: char.lower() in "aeiou"),
    "right after a capital letter": lambda text: among(text, str.isupper),
    "right after a comma": lambda text: among(text, ",;:\u3001\uff0c\uff1a\uff1b".__contains__),
    "between two sentences": lambda text: within(text, _END_OF_SENTENCE),
    "deep in a long word": lambda text: (since(text, is_no_letter) > 4).astype(np.float32),
    "in one of the commonest words": lambda text: within(text, _WORD, common_words(text).__contains__),
    "in a number": lambda text: among(text, str.isdigit),
}
"""The features by their names in the report."""
