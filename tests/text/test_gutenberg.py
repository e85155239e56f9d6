"""Project Gutenberg's headers and licences."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.text import gutenberg
from charrnn.text.gutenberg import cut_boilerplate

BODY = "Once upon a time.\n\nThe end of it all.\n"
HEADERS = [
    "The Project Gutenberg EBook of X\n\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\n\n",
    "\n***START OF THE PROJECT GUTENBERG EBOOK X***\n",
    "*** START OF THE PROJECT GUTENBERG ETEXT X ***\n",
    "** START OF THE COPYRIGHTED PROJECT GUTENBERG EBOOK X **\n\n\n",
    "*** START OF THE PROJECT GUTENBERG EBOOK A VERY LONG\nTITLE INDEED ***\n",
    "Project Gutenberg's\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n",
    "*END THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
    "",
]
ENDINGS = [
    "\n\nEnd of the Project Gutenberg EBook of X, by Y\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nlicence\n",
    "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence",
    "***END OF THE PROJECT GUTENBERG EBOOK X***\n",
    "\nEnd of Project Gutenberg's X, by Y",
    "\nEnd of the Project Gutenberg EBook of X, by Y\n",
    "\nEnd of The Project Gutenberg Etext of X\n",
    "\nThis is the end of the Project Gutenberg Edition of X\n",
    "",
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_gutenberg_boilerplate_is_cut_in_all_its_spellings(header: str, ending: str) -> None:
    reports: list[str] = []
    assert "".join(cut_boilerplate([header + BODY + ending], reports.append)).strip() == BODY.strip()
    assert bool(reports) == bool(header or ending)


def test_text_that_mentions_gutenberg_is_left_alone() -> None:
    text = "I love Project Gutenberg.\nThe end of the Project Gutenberg was near.\nGUTENBERG printed.\n"
    assert "".join(cut_boilerplate([text], lambda what: pytest.fail(what))) == text


@pytest.mark.parametrize("lines", [1, 50_000])
def test_several_books_in_one_file_are_each_cut(lines: int) -> None:
    bodies = [f"Book {i}.\n" + "Text.\n" * lines for i in range(3)]
    joined = "".join(HEADERS[0] + body + ENDINGS[0] for body in bodies)
    blocks = [joined[i : i + 100_001] for i in range(0, len(joined), 100_001)]
    assert "".join(cut_boilerplate(blocks, lambda what: None)) == "".join(bodies)


def test_bare_closing_line_counts_on_the_last_page_only() -> None:
    text = ("Text.\n" * 20_000 + "End of the Project Gutenberg EBook of X\n") * 2
    kept = "".join(cut_boilerplate([text], lambda what: None))
    assert kept.count("End of the Project") == 1
    assert kept.endswith("Text.\n")


MARKERS = st.sampled_from(
    [*HEADERS, *ENDINGS, BODY, "End of Project Gutenberg's X\n", "\n\n \n", "Gutenberg " * 9 + "\n"]
)


@given(st.lists(st.one_of(MARKERS, st.integers(0, 300).map(lambda n: "A line.\n" * n)), max_size=8), st.data())
def test_block_borders_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=9))
    borders = [0, *sorted(cuts), len(text)]
    blocks = [text[begin:end] for begin, end in itertools.pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("HEADER", 300), ("LAST_PAGE", 200), ("CLOSING", 90), ("LINE", 80)):
            patch.setattr(gutenberg, f"_{name}_CHARS", size)
        told: list[str] = []
        whole = "".join(cut_boilerplate([text], told.append))
        assert "".join(cut_boilerplate(blocks, told.append)) == whole
    assert len(set(told)) <= 1


PAGE, BLOCK, NUM_BLOCKS, LINE_CHARS = 200, 100, 60, 60
LINE = "".join(f"{i:04} " for i in range(BLOCK * NUM_BLOCKS // 5))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("HEADER", 300), ("LAST_PAGE", PAGE), ("LINE", LINE_CHARS), ("CLOSING", LINE_CHARS)):
        monkeypatch.setattr(gutenberg, f"_{name}_CHARS", size)


@pytest.mark.usefixtures("small_pages")
def test_single_long_line_comes_out_whole_while_it_is_read() -> None:
    num_read = num_yielded = 0

    def blocks() -> Iterator[str]:
        nonlocal num_read
        for begin in range(0, len(LINE), BLOCK):
            num_read += BLOCK
            yield LINE[begin : begin + BLOCK]

    parts = []
    for part in cut_boilerplate(blocks(), lambda what: pytest.fail(what)):
        assert num_read - num_yielded <= 300 + PAGE + 8 * LINE_CHARS + BLOCK, "text is held back without need"
        parts.append(part)
        num_yielded += len(part)
    assert "".join(parts) == LINE
    assert len(parts) > 5


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("before", ["", "A line.\n" * 20])
def test_long_line_between_header_and_licence_is_all_that_is_kept(before: str) -> None:
    header = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence\n"
    text = f"{header}{before}{LINE}\n{licence}"
    blocks = [text[begin : begin + BLOCK] for begin in range(0, len(text), BLOCK)]
    assert "".join(cut_boilerplate(blocks, lambda what: None)) == f"{before}{LINE}\n".replace(" \n", "\n")
