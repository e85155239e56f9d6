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
_BARE_MARKER_WORDS = ("Gutenberg", "GUTENBERG")
_MARKER_WORDS = (*_BARE_MARKER_WORDS, "SMALL PRINT")
_HEADER_CHARS = 100_000
_LAST_PAGE_CHARS = 32_000
_CLOSING_CHARS = 1_000
"""Max distance of a bare closing line from the END line that follows it; max white space cut before them."""
_LINE_CHARS = 1_000
"""Max length of a marker's line."""
_TITLE_LINES = 4


def cut_boilerplate(blocks: Iterable[str], report: Callable[[str], object]) -> Iterator[str]:
    """Cut Project Gutenberg's headers and licences, of one book or of several in one file.

    An END line cuts up to the next START line, a START line near the beginning cuts all before it. `report` receives a
    summary of the cuts. The result is the same wherever the borders of blocks lie, and memory is bounded by a block.
    """
    cutter = _Cutter()
    for block in blocks:
        yield from cutter.feed(block)
    yield from cutter.finish()
    if cutter.removed:
        report(f"Project Gutenberg's header and licence ({cutter.removed:,} characters)")


class _Cutter:
    """A window that moves over a Gutenberg file; all positions are counted from the beginning of the file.

    A line is judged once as much text follows it as that takes: a page, since it might be the last one, or the lines
    of its title. Text is let go once no line to come can cut it.
    """

    def __init__(self) -> None:
        self.removed = 0
        self._window = ""
        self._window_begin = 0
        self._judged = 0  # lines that begin before it have been
        self._in_book = True
        self._begin = 0  # of the text in the book that was not let go yet
        self._after_marker = False
        self._bare_end: int | None = None

    def feed(self, block: str) -> Iterator[str]:
        """Add a block; yields text that belongs to a book."""
        self._window += block
        self.removed += len(block)
        limit = self._end - _LAST_PAGE_CHARS - (_TITLE_LINES + 1) * _LINE_CHARS
        if limit > max(_HEADER_CHARS, self._judged):
            yield from self._counted(self._judge(limit, last=False))
            yield from self._counted(self._let_go(limit - 2 * _CLOSING_CHARS - _LINE_CHARS))

    def finish(self) -> Iterator[str]:
        """Yield the rest, at the end of the text."""
        yield from self._counted(self._judge(self._end + 1, last=True))
        yield from self._counted(self._let_go(self._end))

    def _counted(self, parts: Iterable[str]) -> Iterator[str]:
        for part in parts:
            if part:
                self.removed -= len(part)
                yield part

    @property
    def _end(self) -> int:
        return self._window_begin + len(self._window)

    def _slice(self, begin: int, end: int) -> str:
        return self._window[max(0, begin - self._window_begin) : max(0, end - self._window_begin)]

    def _judge(self, limit: int, *, last: bool) -> Iterator[str]:
        """Follow the markers among the lines that begin before a limit; yields books that end there."""
        for start, end in self._lines_with_marker_words(limit):
            line = self._slice(start, end)
            on_last_page = last and self._end - start <= _LAST_PAGE_CHARS
            if _START.match(line) and (start < _HEADER_CHARS or not self._in_book):
                self._begin = self._marker_end(start, end)
                self._in_book = self._after_marker = True
                self._bare_end = None
            elif not self._in_book or start < self._begin:
                continue
            elif _BARE_END.match(line) and not on_last_page:
                self._bare_end = start  # the end of the book if an END line follows
            elif _END.match(line) or _BARE_END.match(line):
                is_near = self._bare_end is not None and start - self._bare_end < _CLOSING_CHARS
                yield from self._close(self._bare_end if is_near and self._bare_end is not None else start)
        self._judged = limit

    def _close(self, end: int) -> Iterator[str]:
        """Yield the last text of a book that ends here, without the white space behind it."""
        self._skip_empty_lines()
        begin = max(self._begin, end - _CLOSING_CHARS)
        yield self._slice(self._begin, begin)
        yield self._slice(begin, end).rstrip() + "\n"
        self._in_book = self._after_marker = False

    def _let_go(self, end: int) -> Iterator[str]:
        """Drop the window's text up to a position; yields it if it belongs to a book."""
        self._skip_empty_lines()
        if self._in_book and self._begin < end:
            yield self._slice(self._begin, end)
            self._begin = end
            self._after_marker = False
        self._window = self._slice(end, self._end)
        self._window_begin = max(self._window_begin, end)

    def _skip_empty_lines(self) -> None:
        """Pass over the empty lines behind a START line, as far as they are there."""
        if self._after_marker:
            rest = self._slice(self._begin, self._end)
            self._begin += len(rest) - len(rest.lstrip("\n"))

    def _lines_with_marker_words(self, limit: int) -> list[tuple[int, int]]:
        """The positions (start, end) of the lines that may be markers and begin before a limit, in order."""
        text, offset = self._window, self._window_begin
        first = self._judged - offset
        lines = set()
        words = _MARKER_WORDS if "*" in text else _BARE_MARKER_WORDS  # the small print's line has asterisks
        for word in words:  # str.find is ten times faster than one regular expression for all
            found = text.find(word, first, limit - offset + _LINE_CHARS)
            while found >= 0:
                start = text.rfind("\n", max(0, found - _LINE_CHARS), found) + 1
                end = text.find("\n", found, start + _LINE_CHARS) + 1 or min(len(text), start + _LINE_CHARS)
                is_line = start > 0 or (offset == 0 and found < _LINE_CHARS)
                is_whole = end == len(text) or text[end - 1] == "\n"
                if is_line and is_whole and self._judged <= start + offset < limit:
                    lines.add((start + offset, end + offset))
                found = text.find(word, found + 1, limit - offset + _LINE_CHARS)
        return sorted(lines)

    def _marker_end(self, start: int, end: int) -> int:
        """End of a marker: a long title wraps over several lines up to its closing asterisks."""
        position = end
        for _ in range(_TITLE_LINES):
            if self._slice(start, position).rstrip().endswith("*"):
                return position
            more = self._slice(position, position + _LINE_CHARS)
            if "\n" not in more and len(more) == _LINE_CHARS:
                break
            position += more.find("\n") + 1 or len(more)
        return end
