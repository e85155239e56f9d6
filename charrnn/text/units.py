r"""Units: an index of a corpus stands for a character, a byte or a word.

Inside the program a text is one string for all units. A border between documents is one BORDER in it, and in a text of
bytes each byte is the character of its number. `inner` turns a user's text into that form, `Display` turns it back.

The space before a word belongs to it, so that a text has few symbols and the first word of a line has none:

>>> split_words("A cat's paw -- well-known.\n\nThe end...")
['A', " cat's", ' paw', ' --', ' well-known', '.', '\n\n', 'The', ' end', '...']
"""

import codecs
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from charrnn.config import PreparationConfig, Unit
from charrnn.errors import CharRNNError

BORDER = "\ud800"
"""A surrogate: no text has one."""
NOUNS: Mapping[Unit, str] = {"char": "character", "byte": "byte", "word": "word"}
"""The names of a symbol in messages."""
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += "\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, kana, bopomofo, Han: written without spaces, so that each letter is a symbol."""
_JOINERS = "\u00ad\u200c\u200d"
_INNER = "'\u2019\u2010\u2011-"
_MAX_REPEATS = 16
_LOOKAHEAD = 2
"""Characters behind a symbol that decide on its end: an apostrophe or a hyphen is in a word if a letter follows."""


def split_words(text: str) -> list[str]:
    """Split a text into words, numbers, punctuation marks and white space, which joined are the text.

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
    return re.compile(f"{BORDER}| ?(?:{word}|\\d{{1,{_MAX_REPEATS}}}|{repeated}|[^\\w\\s{BORDER}]|\\w)|{spaces}")


def _letters() -> str:
    """The letters of scripts with spaces, and signs that are numbers without being digits, as ranges of a class."""
    unspaced = re.compile(f"[{_UNSPACED}]")
    return _ranges(point for point in range(0x20000) if _is_letter(chr(point)) and not unspaced.match(chr(point)))


def _is_letter(char: str) -> bool:
    return char.isalnum() and not char.isdecimal()


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


def inner(text: str, config: PreparationConfig) -> str:
    """A user's text, normalised already, in the form that it has inside the program.

    Raises: CharRNNError for half of a character in a text that is to become bytes.
    """
    if config.unit == "byte":
        try:
            text = text.encode("utf-8", "surrogateescape").decode("latin-1")
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise CharRNNError(f"{half} is half of a character and has no bytes: leave it out of the text") from None
    if config.separator is not None:
        text = re.sub(separator_pattern(inner_separator(config)), BORDER, text)
    return text


def separator_pattern(separator: str, blanks: str = "[ \t]*") -> str:
    """A regular expression for a separator: if it is of line feeds, for any run of at least as many.

    Empty lines may hold `blanks`. Without them the expression begins with the separator as it is, which is found
    several times as fast as a class or a repetition.
    """
    if separator.strip("\n"):
        return re.escape(separator)
    blanks = blanks if len(separator) > 1 else ""
    return f"{blanks.join(separator)}(?:{blanks}\n)*"


def inner_separator(config: PreparationConfig) -> str:
    """The text of a border in the form that texts have inside the program; empty if there are no documents."""
    text = config.border_text or ""
    return text.encode().decode("latin-1") if config.unit == "byte" else text


def forms_with_borders(text: str, config: PreparationConfig) -> tuple[str, ...]:
    """All texts inside the program that hold this one, as `inner` gives it, once they are displayed.

    Where it begins with an end of the separator, or ends with a beginning of it, there may be a border.
    """
    separator = inner_separator(config)
    parts = range(1, len(separator))
    begins = {0, *(n for n in parts if text.startswith(separator[-n:]))}
    ends = {0, *(n for n in parts if text.endswith(separator[:n]))}
    sizes = [(n, m) for n, m in itertools.product(begins, ends) if n + m <= len(text)]
    forms = {BORDER * (n > 0) + text[n : len(text) - m] + BORDER * (m > 0) for n, m in sizes}
    return tuple(sorted(forms | ({BORDER} if text in separator else set())))


class Display:
    """Turn a text from inside the program into one for people, piece by piece.

    Bytes are decoded as UTF-8; `errors` is Python's name for the treatment of invalid ones, by default U+FFFD.
    """

    def __init__(self, config: PreparationConfig, errors: str = "replace") -> None:
        self._separator = inner_separator(config)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors) if config.unit == "byte" else None

    def __call__(self, piece: str, *, final: bool = False) -> str:
        """The next piece; `final` if it is the last one."""
        piece = piece.replace(BORDER, self._separator)
        return piece if self._decoder is None else self._decoder.decode(piece.encode("latin-1"), final)


def display(text: str, config: PreparationConfig) -> str:
    """A whole text from inside the program, for people."""
    return Display(config)(text, final=True)
