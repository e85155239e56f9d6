"""End a command on Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, tidily and with exit code 128 + the signal's number.

As long as there is nothing to tidy up, they end it on the spot: an exception in the midst of an import may be lost in
native code, or end the process otherwise.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


def _signals() -> list[signal.Signals]:
    """Those that this platform has; a lost terminal is none where `nohup` asks for it to be ignored."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    return [number for number in found if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


def end_on_signals() -> None:
    """Let signals end the process at once, without any clean-up."""
    for number in _signals():
        signal.signal(number, lambda number, frame: os._exit(128 + number))


def exit_on_signals() -> None:
    """Turn signals into an exit that runs every clean-up on its way; to be called once torch is imported."""
    for number in _signals():
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call `stop` on the first signal, and list it; a second one exits at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        exit_on_signals()
        stop()

    before = {number: signal.signal(number, handle) for number in _signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
