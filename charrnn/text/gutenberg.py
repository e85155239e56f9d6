"""Cut Project Gutenberg's header and licence from a text that comes in blocks.

A header ends with a START line or, in the 1990s, with the end of "the small print". A licence follows an END line or,
in the oldest files, a bare "End of the Project Gutenberg Etext of ...".
"""

import itertools
import re
from collections.abc import Iterable, Iterator

from charrnn.terminal import Notify, count_of

_BARE_MARKER_WORDS = ("Gutenberg", "GUTENBERG")
_MARKER_WORDS = (*_BARE_MARKER_WORDS, "SMALL PRINT")
_PROJECT = "Project Gutenberg(?:['\u2019]s|\\s{1,9}(?:Etext|E-?book|Edition))"
_STARS = r"[ \t]{,80}\*{2,80}[ \t]{,80}"
_MARKER = re.compile(
    rf"\n(?:(?P<start>{_STARS}START OF (?:THE |THIS )?(?:COPYRIGHTED )?PROJECT GUTENBERG"
    rf"|[ \t]{{,80}}\*{{1,80}}[ \t]{{,80}}END\W{{1,9}}THE SMALL PRINT)"
    rf"|(?P<end>{_STARS}END OF (?:THE |THIS )?(?:COPYRIGHTED )?PROJECT GUTENBERG)"
    rf"|[ \t]{{,80}}(?:This is the )?End of (?:the |this |this is )?(?:COPYRIGHTED )?{_PROJECT})[^\n]{{,500}}(?=\n|\Z)",
    re.IGNORECASE,
)
_TITLE_IN_STARS = re.compile(r"(?:.*\n){,4}?.*[^\s*].*\*{2}[ \t]*(?=\n|\Z)")
_TITLE_WITH_AUTHOR = re.compile(r".*\bby\s+\S.*|(?:.*\S.*\n){1,3}?(?:.*,)?[ \t]*by\s+\S.*")
_HEADER_BEGIN = re.compile(
    rf"^[^\w\n]*(?:(?:This is )?(?:The |a )?{_PROJECT}|This file should be named)", re.IGNORECASE | re.MULTILINE
)
_LICENCE_END = re.compile(r"hear about new\s+eBooks.*(?:[\s\S]{,2000}?END: FULL LICENSE.*)?")
_LICENCE_BEGIN = re.compile(
    r"[\s*]{,200}(?:Updated editions|This file should be named|START: FULL|(?:The )?(?:Full )?Project Gutenberg)",
    re.IGNORECASE,
)
_HEADER_FIELD = re.compile(r"^(?:Title|Author|Release Date|Posting Date|Language):|Etext|eBook", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{,1000}")
_HEADER_CHARS = 16_000  # max length of a header: those with the small print of the 1990s have up to 15,000 characters
_LICENCE_CHARS = 24_000  # max length of a licence: those of 2004 to 2025 have 18,400 to 20,400 characters
_PARAGRAPH_CHARS = 1_000  # max length of a marker, and of white space before it
_LOOKAHEAD = _LICENCE_CHARS + 4 * _PARAGRAPH_CHARS


def cut_boilerplate(blocks: Iterable[str], report: Notify) -> Iterator[str]:
    """Cut Project Gutenberg's headers and licences, of one book or of several in one file.

    Besides the markers, only text with a known first line of a header, or a known first or last line of a licence, is
    cut, up to `_HEADER_CHARS` before START and `_LICENCE_CHARS` after END. `report` receives a summary, as a warning if
    more than a licence's length per book was cut. The result does not depend on blocks; memory is bounded by a block.
    """
    cutter, num_removed = _Cutter(), 0
    for block in itertools.chain(blocks, [None]):
        num_removed += len(block or "")
        for part in cutter.feed(block):
            num_removed -= len(part)
            yield part
    if num_removed:
        counts = {"header": cutter.num_headers, "licence": cutter.num_licences}
        parts = [part if number == 1 else count_of(number, part) for part, number in counts.items() if number]
        parts = parts or ["last line"]
        is_much = num_removed > _LICENCE_CHARS * max(1, *counts.values())
        report(f"Project Gutenberg's {' and '.join(parts)} ({num_removed:,} characters)", warning=is_much)


class _Cutter:
    """A window that moves over a text, with a header's length before and a licence's length after each marker examined.

    Positions are those in the window, which begins with a line end before the text.
    """

    def __init__(self) -> None:
        self.num_headers = self.num_licences = 0
        self._window = "\n"
        self._judged = 1  # lines before it were examined
        self._begin = 1  # start of text neither cut nor yielded

    def feed(self, block: str | None) -> Iterator[str]:
        """Add a block, or None after the last one; yields text that is kept."""
        is_last = block is None
        self._window += block or ""
        limit = len(self._window) + 1 - (0 if is_last else _LOOKAHEAD)
        if limit <= self._judged:
            return
        yield from self._judge(limit, is_last=is_last)
        end = len(self._window) if is_last else max(limit - _HEADER_CHARS - 2 * _PARAGRAPH_CHARS, 0)
        if self._begin < end:
            yield self._window[self._begin : end]
        self._window = self._window[end:]
        self._begin = max(self._begin - end, 0)
        self._judged = limit - end

    def _judge(self, limit: int, *, is_last: bool) -> Iterator[str]:
        """Cut at the markers that begin before a limit; yields the text before each."""
        for line in self._lines_with_marker_words(limit):
            marker = _MARKER.match(self._window, line)
            if marker is None or line + 1 < self._begin:
                continue
            begin, end = line + 1, marker.end()
            title = _TITLE_IN_STARS if marker["start"] or marker["end"] else _TITLE_WITH_AUTHOR
            is_whole = marker[0].rstrip().endswith("*")
            if not is_whole and (whole := title.match(self._window, begin, begin + _PARAGRAPH_CHARS)):
                end = whole.end()
            if marker["start"]:
                self.num_headers += 1
                begin = self._header_begin(self._begin, begin)
            else:
                self.num_licences += marker["end"] is not None
                end = self._licence_end(end, is_last=is_last)
            kept = self._window[self._begin : begin]
            if kept := kept[:-_PARAGRAPH_CHARS] + kept[-_PARAGRAPH_CHARS:].rstrip():
                yield kept + "\n"
            empty = _EMPTY_LINES.match(self._window, end)
            self._begin = empty.end() if empty else end

    def _lines_with_marker_words(self, limit: int) -> list[int]:
        """The positions of the line ends before the lines that may be markers, in order."""
        first, lines = self._judged - 1, set()
        words = _MARKER_WORDS if "*" in self._window else _BARE_MARKER_WORDS
        for word in words:  # str.find is ten times faster than one regular expression for all
            found = self._window.find(word, first, limit + _PARAGRAPH_CHARS)
            while found >= 0:
                lines.add(self._window.rfind("\n", max(found - _PARAGRAPH_CHARS, 0), found))
                found = self._window.find(word, found + 1, limit + _PARAGRAPH_CHARS)
        return sorted(line for line in lines if first <= line < limit - 1)

    def _header_begin(self, begin: int, end: int) -> int:
        """Start of a header in the text before a START line; the line itself if none is found."""
        found = _HEADER_BEGIN.search(self._window, max(begin, end - _HEADER_CHARS), end)
        if found is None:
            return end
        is_short = end - found.end() < _PARAGRAPH_CHARS
        return found.start() if is_short or _HEADER_FIELD.search(self._window, found.end(), end) else end

    def _licence_end(self, begin: int, *, is_last: bool) -> int:
        """End of the licence after an END line; `begin` if none is found."""
        end = min(begin + _LICENCE_CHARS, len(self._window))
        is_rest = is_last and end == len(self._window)
        if following := _MARKER.search(self._window, begin, end):
            is_rest, end = following["start"] is not None, self._header_begin(begin, following.start())
        if found := _LICENCE_END.search(self._window, begin, end):
            return found.end()
        return end if is_rest and _LICENCE_BEGIN.match(self._window, begin, end) else begin
