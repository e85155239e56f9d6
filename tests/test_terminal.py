"""Text and numbers on a terminal."""

import pytest

from charrnn.terminal import escape_controls, format_seconds


def test_only_what_steers_a_terminal_is_escaped() -> None:
    assert escape_controls("a\tb\nc \u00e9\u4e2d\u2028") == "a\tb\nc \u00e9\u4e2d\u2028"
    assert escape_controls("\x1b[2J\r\x07\x7f\x9b") == r"\x1b[2J\x0d\x07\x7f\x9b"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h"), (float("inf"), "unknown")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
