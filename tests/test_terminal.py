"""Text and numbers on a terminal."""

import io
import json
import os

import pytest

from charrnn import terminal
from charrnn.report.visible import visible
from charrnn.terminal import byte_bar, escape_controls, format_seconds, json_line


def test_only_what_steers_a_terminal_is_escaped() -> None:
    readable = (
        "a\tb\nc \u00e9\u4e2d \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469 \xa0"
    )
    assert escape_controls(readable) == readable
    assert escape_controls("\x1b[2J\r\x07\x7f\x9b") == r"\x1b[2J\x0d\x07\x7f\x9b"
    assert escape_controls("\u202egnp\u2066\u200b\ufeff\udce9\xad") == r"\u202egnp\u2066\u200b\ufeff\udce9\xad"
    assert escape_controls("\u3164\U000e0041\ufff9") == r"\u3164\U000e0041\ufff9"


def test_invisible_characters_are_the_same_on_terminal_and_pages() -> None:
    for char in map(chr, [*range(0x4000), *range(0xFE00, 0x10000), *range(0x1D100, 0x1D200), *range(0xE0000, 0xE0100)]):
        assert (escape_controls(char) == char) == (visible(char) == char), hex(ord(char))
        assert json.loads(json_line(char)) == char
        assert escape_controls(json_line(char)) == json_line(char)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (9000, "2.5 h"), (float("inf"), "unknown")])
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_is_shown_on_a_terminal_of_unknown_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_BAR_DELAY_S", 0)
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2)
    monkeypatch.setattr("os.get_terminal_size", lambda descriptor=2: os.terminal_size((0, 0)))
    with byte_bar(screen := Terminal())("scoring", 100) as advance:
        advance(50)
    assert "scoring:   0%" in screen.getvalue()


def test_bar_by_bytes_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with byte_bar(plain := io.StringIO())("preparing", 10) as advance:
        advance(5)
    assert not plain.getvalue()
    monkeypatch.setattr(terminal, "_LINE_S", 0)
    for total, line in ((10_000, "preparing: 5.0 KB of 10 KB\n"), (None, "preparing: 5.0 KB\n")):
        with byte_bar(plain := io.StringIO())("preparing", total) as advance:
            advance(5_000)
        assert plain.getvalue() == line, "now and then"
    monkeypatch.setattr(terminal, "_BAR_DELAY_S", 0)
    with byte_bar(screen := Terminal())("preparing", 4000) as advance:
        advance(1000)
        advance(3000)
    assert "preparing" in screen.getvalue()
    assert "4.00k" in screen.getvalue()
    assert screen.getvalue().split("\r")[-2].strip() == "", "it is gone at the end"
