"""Format text, numbers and records so that they are safe and readable on a terminal; progress bars."""

import codecs
import contextlib
import json
import math
import os
import re
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TextIO


class Notify(Protocol):
    """A function that prints a message or a warning for the user."""

    def __call__(self, message: str, *, warning: bool = False) -> None:
        """Print a message of one or several lines."""


def silence(message: str, *, warning: bool = False) -> None:
    """Print nothing."""


def is_single_process() -> bool:
    """False in a process that torchrun has started together with others."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    rank, local_rank, world_size = (os.environ.get(name, "").strip() for name in names)
    return not (rank and local_rank) or world_size in ("", "0", "1")


def is_main_process() -> bool:
    """True in the process that prints messages: the first one if there are several."""
    return is_single_process() or os.environ["RANK"].strip() == "0"


Advance = Callable[[int], object]
"""Report progress: called with the number of bytes since the last call."""


def advance_nothing(num_bytes: int) -> None:
    """Report no progress."""


_BAR_DELAY_S, _LINE_S = 0.5, 30.0
Bar = Callable[[str, int | None], contextlib.AbstractContextManager[Advance]]
"""A progress bar for a task, with its total in bytes, None if unknown."""


def no_bar(work: str, total: int | None) -> contextlib.AbstractContextManager[Advance]:
    """Show no bar."""
    return contextlib.nullcontext(advance_nothing)


def byte_bar(stream: TextIO) -> Bar:
    """Progress in bytes: a bar on a terminal, else a line every 30 s."""

    @contextlib.contextmanager
    def show_bar(work: str, total: int | None) -> Iterator[Advance]:
        from tqdm import tqdm

        form: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False, "delay": _BAR_DELAY_S}
        with tqdm(desc=work, total=total, file=stream, ncols=width_of(stream), **form) as bar:
            yield bar.update

    @contextlib.contextmanager
    def print_lines(work: str, total: int | None) -> Iterator[Advance]:
        done, printed = 0, time.monotonic()

        def advance(num_bytes: int) -> None:
            nonlocal done, printed
            done += num_bytes
            if time.monotonic() - printed > _LINE_S:
                printed = time.monotonic()
                of_total = "" if total is None else f" of {format_bytes(total)}"
                with contextlib.suppress(OSError):
                    print(f"{work}: {format_bytes(done)}{of_total}", file=stream, flush=True)

        yield advance

    return show_bar if stream.isatty() else print_lines


class Readable:
    """Decode bytes, which a text contains as surrogates, to characters, for a text that arrives in pieces.

    `errors` is Python's error handler for bytes that are not UTF-8; by default they become U+FFFD.
    """

    def __init__(self, errors: str = "replace") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def __call__(self, piece: str, *, final: bool = False) -> str:
        """Decode the next piece; `final` for the last one."""
        whole = _HALVES.sub("\N{REPLACEMENT CHARACTER}", piece)
        return self._decoder.decode(whole.encode("utf-8", "surrogateescape"), final)


def readable(text: str) -> str:
    """Decode the bytes in a complete text, see `Readable`."""
    return Readable()(text, final=True)


def prints_unicode() -> bool:
    """True if stdout can encode all characters."""
    return sys.stdout.encoding.lower().replace("-", "").startswith("utf")


def format_number(value: float) -> str:
    """Format a number with three digits and without an exponent.

    >>> format_number(1153.0), format_number(2.0), format_number(0.01234), format_number(1e6)
    ('1,150', '2', '0.0123', '1,000,000')
    """
    return f"{float(f'{value:.3g}'):,.10f}".rstrip("0").rstrip(".")


def count_of(number: float, noun: str) -> str:
    """Format a count with its noun; fractions have three digits.

    >>> count_of(1, "step"), count_of(12_345, "step"), count_of(1.5, "epoch")
    ('1 step', '12,345 steps', '1.5 epochs')
    """
    text = f"{number:,}" if isinstance(number, int) else format_number(number)
    return f"{text} {noun}{'' if text == '1' else 's'}"


def parse_minutes(text: str) -> float:
    """Parse a duration in minutes: a number, or hours, minutes and seconds with units. Raises: ValueError.

    >>> parse_minutes("2.5"), parse_minutes("90s"), parse_minutes("1h30m")
    (2.5, 1.5, 90.0)
    """
    found = _DURATION.fullmatch(text.strip().lower())
    try:
        if found is None or not any(found.groups()):
            return float(text)
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
    except ValueError:
        raise ValueError("a number of minutes, or hours, minutes and seconds as in 90s, 10m or 1h30m") from None
    return 60 * hours + minutes + seconds / 60


def width_of(stream: TextIO) -> int:
    """Width in columns of a stream's terminal; 80 if it is not a terminal."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


def wrap(text: str, width: int) -> list[str]:
    """Break the lines of a text at spaces to at most `width` columns.

    Chinese and Japanese characters take two columns each.

    >>> wrap("to be or not to be", 8)
    ['to be or', 'not to', 'be']
    >>> wrap("日本語", 4)
    ['日本', '語']
    """
    lines = []
    for line in text.splitlines():
        # NUL, which no displayed text contains, is a placeholder for the second column.
        wide = "".join(f"{c}\0" if unicodedata.east_asian_width(c) in "WF" else c for c in line)
        broken = textwrap.wrap(wide, width, replace_whitespace=False, break_on_hyphens=False) or [""]
        lines += [each.replace("\0", "") for each in broken]
    return lines


def format_seconds(seconds: float) -> str:
    """Format a duration: 45 s, 12 min or 3.5 h."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def format_share(part: int, whole: int) -> str:
    """Format a ratio in percent with two digits.

    >>> format_share(1, 3), format_share(1, 30_000)
    ('33 %', '0.0033 %')
    """
    return f"{float(f'{100 * part / whole:.2g}'):.10g} %"


def format_bytes(num_bytes: int) -> str:
    """Format a size: 512 B, 3.4 KB, 12 MB.

    >>> format_bytes(512), format_bytes(3_400), format_bytes(12_300_000)
    ('512 B', '3.4 KB', '12 MB')
    """
    power = min(3, max(0, len(str(num_bytes)) - 1) // 3)
    value, unit = num_bytes / 1000**power, ("B", "KB", "MB", "GB")[power]
    return f"{value:.1f} {unit}" if power and value < 9.95 else f"{value:.0f} {unit}"


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table with the first `left` columns aligned to the left and the others to the right.

    Control characters in a cell are escaped; line ends become spaces.

    >>> align([("name", "loss"), ("a", "1.25")], left=1)
    ['name  loss', 'a     1.25']
    """
    cells = [[escape_controls(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    return [
        "  ".join(pad(cell, width) for pad, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in cells
    ]


BLOCKS = "▁▂▃▄▅▆▇█"


def blocks(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """Draw finite values as a line of at most 60 blocks; adjacent values are averaged if there are more.

    >>> blocks([3.0, 2.0, 1.5, 1.2, 1.0]), blocks([3.0, 2.0, 1.0], ascii_only=True), blocks([1, 1])
    ('█▅▃▂▁', '#=_', '▁▁')
    """
    N, width = len(values), min(len(values), 60)
    bins = [values[i * N // width : (i + 1) * N // width] for i in range(width)]
    means = [sum(each) / len(each) for each in bins]
    low, high = min(means), max(means)
    signs = "_.:-=+*#" if ascii_only else BLOCKS
    return "".join(signs[round((mean - low) / ((high - low) or 1.0) * (len(signs) - 1))] for mean in means)


def can_print(text: str, stream: TextIO) -> bool:
    """True if the stream can encode the text."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def list_characters(characters: Collection[str]) -> str:
    """List characters in quotes, at most 20.

    >>> list_characters("éa")
    "'a' 'é'"
    """
    shown = " ".join(map(repr, sorted(characters)[:20]))
    return f"{shown} ..." if len(characters) > 20 else shown


def escape_controls(text: str) -> str:
    """Replace control characters and invisible characters by Python escapes.

    >>> escape_controls("red \\x1b[31m \\u202e")
    'red \\\\x1b[31m \\\\u202e'
    """

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return INVISIBLE.sub(escaped, text)


def decode_argument(text: str) -> str:
    """Decode a command-line argument as UTF-8 if the locale could not decode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    return text


def unescape(text: str) -> str:
    r"""Replace ``\n``, ``\t``, ``\0``, ``\f``, ``\\``, ``\xNN`` and ``\uNNNN`` by the characters that they represent.

    >>> unescape(r"a\tb"), unescape(r"a\\tb"), unescape(r"\f"), unescape(r"\u00e9"), unescape(r"\d")
    ('a\tb', 'a\\tb', '\x0c', 'é', '\\d')
    """
    return _ESCAPES.sub(lambda found: _ESCAPED.get(found[1]) or chr(int(found[1][1:], 16)), decode_argument(text))


def escape(text: str) -> str:
    """The inverse of `unescape`."""
    return "".join(f"\\{_LETTERS[char]}" if char in _LETTERS else char for char in text)


_ESCAPED = {"n": "\n", "t": "\t", "0": "\0", "f": "\f", "\\": "\\"}
_LETTERS = {char: letter for letter, char in _ESCAPED.items()}
_ESCAPES = re.compile(r"\\([nt0f\\]|x[\da-fA-F]{2}|u[\da-fA-F]{4})")


def json_line(record: object, *, ascii_only: bool = False) -> str:
    """Format a record as one line of JSON with invisible characters escaped.

    >>> json_line({"text": "café \\x9b31m"})
    '{"text": "café \\\\u009b31m"}'
    """
    return INVISIBLE.sub(lambda found: json.dumps(found[0])[1:-1], json.dumps(record, ensure_ascii=ascii_only))


def print_json(record: object, *, flush: bool = False) -> None:
    """Print a record as one line of JSON, in ASCII if stdout cannot encode all characters."""
    print(json_line(record, ascii_only=not prints_unicode()), flush=flush)


_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that do not represent bytes
_DURATION = re.compile(r"(?:([\d.]+)h)?(?:([\d.]+)m(?:in)?)?(?:([\d.]+)s)?")
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
"""Characters that control a display or are invisible: control characters except tab and line feed, direction marks,
fillers, zero-width spaces, tags and surrogates."""
