"""Cut Project Gutenberg's header and licence, block by block.

A header ends with a START line (or, in the 1990s, with the end of "the small print"), and a licence begins with an END
line. The oldest files have no END line but close with a bare "End of the Project Gutenberg Etext of ...". It counts on
the last page only, since a text that joins such files may contain it.
"""

import re
from collections.abc import Callable, Iterable, Iterator

_START = re.compile(
    r"\s*\*+\s*(START OF (THE |THIS )?(COPYRIGHTED )?PROJECT GUTENBERG|END\W+THE SMALL PRINT)", re.IGNORECASE
)
_END = re.compile(r"\s*\*+\s*END OF (THE |THIS )?(COPYRIGHTED )?PROJECT GUTENBERG", re.IGNORECASE)
_BARE_END = re.compile(
    r"\s*(This is the )?End of (the |this |this is )?(COPYRIGHTED )?Project Gutenberg('s|\s+E)", re.IGNORECASE
)
_MARKER_WORDS = ("Gutenberg", "GUTENBERG", "SMALL PRINT")
_HEADER_CHARS = 100_000
_LAST_PAGE_CHARS = 32_000
_CLOSING_CHARS = 1_000


def cut_boilerplate(blocks: Iterable[str], report: Callable[[str], object]) -> Iterator[str]:
    """Cut Project Gutenberg's headers and licences, of one book or of several in one file.

    An END line cuts up to the next START line, a START line near the beginning cuts all before it.
    `report` receives a summary of the cuts. Memory is bounded by two blocks, however long the lines.
    """
    cutter = _Cutter()
    held = ""
    for block in blocks:
        held += block
        limit = len(held) - _LAST_PAGE_CHARS
        if limit > _HEADER_CHARS + _LAST_PAGE_CHARS:
            # Cut after a line, or anywhere in one that is longer than a page and thus no marker.
            ready = held.rfind("\n", limit - _LAST_PAGE_CHARS, limit) + 1 or limit
            yield from cutter.cut(held[:ready], last=False)
            held = held[ready:]
    yield from cutter.cut(held, last=True)
    if cutter.removed:
        report(f"Project Gutenberg's header and licence ({cutter.removed:,} characters)")


class _Cutter:
    """The position in a Gutenberg file, advanced segment by segment."""

    def __init__(self) -> None:
        self.removed = 0
        self._first = True
        self._in_book = True

    def cut(self, text: str, *, last: bool) -> list[str]:
        """Return the parts of this segment that belong to a book."""
        parts: list[str] = []
        begin = 0  # of the current part, while in a book
        bare_end = -_CLOSING_CHARS
        for start, end in _lines_with_marker_words(text):
            line = text[start:end]
            in_header = self._first and start < _HEADER_CHARS
            on_last_page = last and len(text) - start <= _LAST_PAGE_CHARS
            if _START.match(line) and (in_header or not self._in_book):
                begin = _marker_end(text, start, end)
                self._in_book = True
            elif not self._in_book or start < begin:
                continue
            elif _BARE_END.match(line) and not on_last_page:
                bare_end = start  # the end of the book if an END line follows
            elif _END.match(line) or _BARE_END.match(line):
                close = bare_end if start - bare_end < _CLOSING_CHARS else start
                parts.append(text[begin:close].rstrip() + "\n")
                self._in_book = False
        if self._in_book:
            parts.append(text[begin:])
        self._first = False
        self.removed += len(text) - sum(map(len, parts))
        return [part for part in parts if part]


def _lines_with_marker_words(text: str) -> list[tuple[int, int]]:
    """Spans (start, end) of the lines that may be markers, in order."""
    lines = set()
    for word in _MARKER_WORDS:  # str.find is ten times faster than one regular expression for all
        found = text.find(word)
        while found >= 0:
            start, end = text.rfind("\n", 0, found) + 1, text.find("\n", found) + 1 or len(text)
            lines.add((start, end))
            found = text.find(word, end)
    return sorted(lines)


def _marker_end(text: str, start: int, end: int) -> int:
    """End of a marker: a long title wraps over several lines up to its closing asterisks."""
    position = end
    for _ in range(4):
        if text[start:position].rstrip().endswith("*"):
            end = position
            break
        position = text.find("\n", position) + 1 or len(text)
    while text[end : end + 1] == "\n":
        end += 1
    return end
