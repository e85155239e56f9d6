"""Text and numbers on a terminal."""

import io

import pytest

from charrnn import terminal
from charrnn.terminal import byte_bar, escape_controls, format_seconds


def test_only_what_steers_a_terminal_is_escaped() -> None:
    assert escape_controls("a\tb\nc \u00e9\u4e2d\u2028") == "a\tb\nc \u00e9\u4e2d\u2028"
    assert escape_controls("\x1b[2J\r\x07\x7f\x9b") == r"\x1b[2J\x0d\x07\x7f\x9b"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h"), (float("inf"), "unknown")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_by_bytes_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with byte_bar(plain := io.StringIO())("preparing", 10) as advance:
        advance(5)
    assert not plain.getvalue()
    monkeypatch.setattr(terminal, "_BAR_DELAY_S", 0)
    with byte_bar(screen := Terminal())("preparing", 4000) as advance:
        advance(1000)
        advance(3000)
    assert "preparing" in screen.getvalue()
    assert "4.00k" in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == "", "it is gone at the end"
