"""Make control characters visible, and name symbols."""

from charrnn.terminal import INVISIBLE
from charrnn.text.tokenizers import UNKNOWN_CHAR, Tokenizer

_EOS = "∎"
_BLANKS = str.maketrans("\n\t ", "↵⇥␣")


def visible(text: str) -> str:
    """Replace control characters, direction marks and surrogates by their code points.

    >>> visible("a\\x1b\\u202eb\\n")
    'a[U+001B][U+202E]b\\n'
    """
    return INVISIBLE.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def name(symbol: str) -> str:
    """The name of a symbol, for use outside of a text.

    >>> name("\\n"), name("to be")
    ('↵', 'to␣be')
    """
    return visible(symbol.translate(_BLANKS))


def name_all(tokenizer: Tokenizer) -> list[str]:
    """The names of all symbols by id; bytes that are not characters in hexadecimal, EOS as ∎.

    >>> from charrnn.config import PreparationConfig
    >>> from charrnn.text.tokenizers import CharTokenizer
    >>> name_all(CharTokenizer(("a", "\\n"), (2, 1, 1), PreparationConfig(documents=True)))
    ['a', '↵', '∎']
    """
    bytes_or_not = ((each, ord(each[0]) - 0xDC00) for each in tokenizer.symbols)
    names = [f"{byte:02X}" if 0 < byte < 2**8 else name(each) for each, byte in bytes_or_not]
    if tokenizer.unk_id is not None:
        names.append(UNKNOWN_CHAR)
    return names if tokenizer.eos_id is None else [*names, _EOS]
