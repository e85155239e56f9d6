"""Characters that would steer the display, shown by their numbers; names of symbols."""

from charrnn.terminal import INVISIBLE
from charrnn.text.vocabulary import UNKNOWN_CHAR, Vocabulary

_BORDER = "∎"
_BLANK = {"\n": "↵", "\t": "⇥", " ": "␣"}


def visible(text: str) -> str:
    """The text with control characters, marks of direction and halves of characters as numbers.

    >>> visible("a\\x1b\\u202eb\\n")
    'a[U+001B][U+202E]b\\n'
    """
    return INVISIBLE.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def name(symbol: str) -> str:
    """A symbol as it is named outside its text.

    >>> name("\\n"), name("to be")
    ('↵', 'to␣be')
    """
    return visible("".join(_BLANK.get(char, char) for char in symbol))


def name_all(vocabulary: Vocabulary) -> list[str]:
    """The names of a vocabulary's symbols, by index: bytes that are no characters by their numbers, a border as ∎.

    >>> name_all(Vocabulary(("a", "\\n"), (2, 1, 1), border_chars=0))
    ['a', '↵', '∎']
    """
    if vocabulary.unit == "byte":
        names = [name(byte) if byte.isascii() else f"{ord(byte):02X}" for byte in vocabulary.symbols]
    else:
        names = list(map(name, vocabulary.symbols))
    if vocabulary.unknown is not None:
        names.append(UNKNOWN_CHAR)
    return names if vocabulary.border is None else [*names, _BORDER]
