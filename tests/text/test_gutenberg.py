"""Project Gutenberg's boilerplate in texts of unusual form; `test_cleaning.py` has its spellings."""

from collections.abc import Iterator

import pytest

from charrnn.text import gutenberg
from charrnn.text.gutenberg import cut_boilerplate

PAGE, BLOCK, NUM_BLOCKS = 200, 100, 60
LINE = "".join(f"{i:04} " for i in range(BLOCK * NUM_BLOCKS // 5))


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gutenberg, "_HEADER_CHARS", 300)
    monkeypatch.setattr(gutenberg, "_LAST_PAGE_CHARS", PAGE)


def test_single_long_line_comes_out_whole_while_it_is_read() -> None:
    num_read = num_yielded = 0

    def blocks() -> Iterator[str]:
        nonlocal num_read
        for begin in range(0, len(LINE), BLOCK):
            num_read += BLOCK
            yield LINE[begin : begin + BLOCK]

    parts = []
    for part in cut_boilerplate(blocks(), lambda what: pytest.fail(what)):
        assert num_read - num_yielded <= 300 + 2 * PAGE + BLOCK, "text is held back without need"
        parts.append(part)
        num_yielded += len(part)
    assert "".join(parts) == LINE
    assert len(parts) > 5


@pytest.mark.parametrize("before", ["", "A line.\n" * 20])
def test_long_line_between_header_and_licence_is_all_that_is_kept(before: str) -> None:
    header = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence\n"
    text = f"{header}{before}{LINE}\n{licence}"
    blocks = [text[begin : begin + BLOCK] for begin in range(0, len(text), BLOCK)]
    assert "".join(cut_boilerplate(blocks, lambda what: None)) == f"{before}{LINE}\n".replace(" \n", "\n")
