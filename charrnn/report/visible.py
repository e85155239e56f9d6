"""Characters that would steer the display, shown by their numbers; names for symbols that are blank."""

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
_BLANK = {"\n": "↵", "\t": "⇥", " ": "␣"}


def visible(text: str) -> str:
    """The text with control characters, marks of direction and halves of characters as numbers.

    >>> visible("a\\x1b\\u202eb\\n")
    'a[U+001B][U+202E]b\\n'
    """
    return _STEERING.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def name(symbol: str) -> str:
    """A symbol as it is named outside its text.

    >>> name("\\n"), name("to be")
    ('↵', 'to␣be')
    """
    return visible("".join(_BLANK.get(char, char) for char in symbol))
