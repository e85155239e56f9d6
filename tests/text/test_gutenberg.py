"""Project Gutenberg's headers and licences."""

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.terminal import silence
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
    "\n\nEnd of the Project Gutenberg EBook of X, by Y\n\n*** END OF THIS PROJECT GUTENBERG EBOOK X ***\nSTART: FULL\n",
    "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nUpdated editions",
    "***END OF THE PROJECT GUTENBERG EBOOK X***\n",
    "\nEnd of Project Gutenberg's X, by Y",
    "\nEnd of the Project Gutenberg EBook of X, by Y\n",
    "\nEnd of The Project Gutenberg Etext of X\n",
    "\nThis is the end of the Project Gutenberg Edition of X\n",
    "",
]


LICENCE = "Updated editions will replace the previous one.\n" * 380 + "newsletter to hear about new eBooks.\n\n\n"


def cut(text: str, block_chars: int = 2**19) -> tuple[str, list[str], list[str]]:
    """The text that is kept, the notes and the warnings."""
    notes: list[str] = []
    warnings: list[str] = []

    def report(message: str, *, warning: bool = False) -> None:
        (warnings if warning else notes).append(message)

    blocks = [text[begin : begin + block_chars] for begin in range(0, len(text), block_chars)]
    return "".join(cut_boilerplate(blocks, report)), notes, warnings


def book(title: str, *, header: bool = True, licence: str = LICENCE) -> tuple[str, str]:
    """A book of Project Gutenberg, and its text."""
    body = f"{title}\n\n" + f"A line of {title}.\n" * 2_000
    begin = f"The Project Gutenberg eBook of {title}\n\n*** START OF THE PROJECT GUTENBERG EBOOK {title} ***\n\n\n"
    end = f"\n\n*** END OF THE PROJECT GUTENBERG EBOOK {title} ***\n\n{licence}"
    return (begin if header else "") + body + end, body


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_gutenberg_boilerplate_is_cut_in_all_its_spellings(header: str, ending: str) -> None:
    kept, notes, warnings = cut(header + BODY + ending)
    assert kept.strip() == BODY.strip()
    assert (bool(notes), warnings) == (bool(header or ending), [])


def test_text_that_mentions_gutenberg_is_left_alone() -> None:
    text = "I love Project Gutenberg.\nThe end of the Project Gutenberg was near.\nGUTENBERG printed.\n"
    assert cut(text) == (text, [], [])


@pytest.mark.parametrize("lines", [1, 50_000])
def test_several_books_in_one_file_are_each_cut(lines: int) -> None:
    bodies = [f"Book {i}.\n" + "Text.\n" * lines for i in range(3)]
    joined = "".join(HEADERS[0] + body + ENDINGS[0] for body in bodies)
    assert cut(joined, 100_001)[0] == "".join(bodies)


@pytest.mark.parametrize("has_header", list(itertools.product([True, False], repeat=3)))
def test_books_joined_keep_what_each_keeps_alone(has_header: tuple[bool, ...]) -> None:
    books = [book(title, header=each) for title, each in zip("ABC", has_header, strict=True)]
    kept, (note,), warnings = cut("".join(whole for whole, _ in books), 100_001)
    assert kept == "".join(body for _, body in books)
    headers = {0: "", 1: "header and ", 2: "2 headers and ", 3: "3 headers and "}[sum(has_header)]
    assert (note.partition(" (")[0], warnings) == (f"Project Gutenberg's {headers}3 licences", [])


def test_text_around_a_book_is_kept() -> None:
    whole, body = book("A")
    diary = "".join(f"Day {i}: dear diary, I read.\n" for i in range(5_000))
    kept, notes, warnings = cut(diary + whole + diary, 100_001)
    assert kept == diary + body + diary
    assert (len(notes), warnings) == (1, [])
    for length in (10, 5_000):  # lines, less and more than a licence's
        tail = "Dear diary.\n" * length
        assert cut(book("A", licence=tail)[0])[0] == body + tail
        assert cut(tail + book("A")[0])[0] == tail + body


@pytest.mark.parametrize(
    "text",
    [
        "Day.\n" * 200
        + "*** END OF THE PROJECT GUTENBERG EBOOK FOO ***\nLicense plates I saw: many.\n"
        + "Day.\n" * 300,
        "Project Gutenberg's site opened today.\n"
        + "Day.\n" * 300
        + "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n",
        "* End of Project Gutenberg reading list\n* Buy milk\n* Phone Anna\n* Mend the *red* coat*\n",
        "*** START OF THE PROJECT GUTENBERG EBOOK\nOne.\n* * * *\nTwo.\n",
        "I read to the\nend of the Project Gutenberg era coming\n",
        "End of Project Gutenberg's Foo\nI walked by Anna's house.\n",
    ],
)
def test_only_the_markers_line_is_cut_from_text_that_mentions_one(text: str) -> None:
    lines = text.splitlines()
    assert set(lines) - set(cut(text)[0].splitlines()) <= {
        line for line in lines if "Project Gutenberg".upper() in line.upper()
    }


def test_licence_of_another_length_and_end_is_kept() -> None:
    whole, body = book("A", licence="The licence.\n" * 5_000)
    assert cut(whole)[0] == body + "The licence.\n" * 5_000
    full = "\nEBooks posted before 2003.\n\n*** END: FULL LICENSE ***\n"
    assert cut(book("A", licence=LICENCE.strip() + full)[0] + "Dear diary.\n")[0] == body + "Dear diary.\n"


def test_small_print_before_or_after_a_book_is_cut() -> None:
    small_print = "This file should be named b.txt\n" + "Project Gutenberg Etexts are free.\n" * 400 + HEADERS[6]
    whole, body = book("B", header=False, licence=small_print)
    assert cut(whole + whole)[0] == body + body
    assert cut("***The Project Gutenberg Etext of B***\n" + small_print + body + ENDINGS[3])[0] == body


def test_bare_closing_lines_are_cut_with_the_author() -> None:
    line = "End of the Project Gutenberg EBook of A Tale Messages Twice, by \nHans Christian Andersen\n"
    assert cut(BODY + line + BODY + line)[0] == BODY + BODY


MARKERS = st.sampled_from(
    [*HEADERS, *ENDINGS, BODY, "End of Project Gutenberg's X\n", "\n\n \n", "Gutenberg " * 9 + "\n"]
)
SIZES = {"HEADER_CHARS": 300, "LICENCE_CHARS": 400, "LOOKAHEAD": 400 + 4 * 1000}


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SIZES.items():
        monkeypatch.setattr(gutenberg, f"_{name}", size)


@given(st.lists(st.one_of(MARKERS, st.integers(0, 600).map(lambda n: "A line.\n" * n)), max_size=8), st.data())
def test_block_borders_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=9))
    borders = [0, *sorted(cuts), len(text)]
    blocks = [text[begin:end] for begin, end in itertools.pairwise(borders)]
    with pytest.MonkeyPatch.context() as patch:
        for name, size in SIZES.items():
            patch.setattr(gutenberg, f"_{name}", size)
        assert "".join(cut_boilerplate(blocks, silence)) == cut(text)[0]


LINE = "".join(f"{i:05} " for i in range(5_000))


@pytest.mark.usefixtures("small_sizes")
def test_single_long_line_comes_out_whole_while_it_is_read() -> None:
    num_read = num_yielded = 0

    def blocks() -> Iterator[str]:
        nonlocal num_read
        for begin in range(0, len(LINE), 100):
            num_read += 100
            yield LINE[begin : begin + 100]

    parts = []
    for part in cut_boilerplate(blocks(), lambda what, *, warning=False: pytest.fail(what)):
        assert num_read - num_yielded <= sum(SIZES.values()) + 2_000 + 2 * 100, "text is held back without need"
        parts.append(part)
        num_yielded += len(part)
    assert "".join(parts) == LINE
    assert len(parts) > 5


@pytest.mark.usefixtures("small_sizes")
@pytest.mark.parametrize("before", ["", "A line.\n" * 20])
def test_long_line_between_header_and_licence_is_all_that_is_kept(before: str) -> None:
    header = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nUpdated editions\n"
    assert cut(f"{header}{before}{LINE}\n{licence}", 100)[0] == f"{before}{LINE}\n".replace(" \n", "\n")
