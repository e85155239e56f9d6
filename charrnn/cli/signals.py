"""End a command on Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, with clean-up and exit code 128 + the signal's number.

Three handlers follow each other: until torch is imported a signal ends the process at once, because an exception during
the import may be lost or crash it; then it raises SystemExit; while a model is trained it requests a stop.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from charrnn.terminal import is_single_process


def _handle(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Install a handler for this platform's signals, without SIGHUP under `nohup`; return those before it."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    handled = [each for each in found if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in handled}


def end_process_on_signals() -> None:
    """Make signals end the process at once, without clean-up."""
    _handle(lambda number, frame: os._exit(128 + number))


def raise_exit_on_signals() -> None:
    """Make signals raise SystemExit, so that all clean-up runs. Call it once torch is imported."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    _handle(leave)


@contextlib.contextmanager
def request_stop_on_signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call `stop` on the first signal and append it to the list; a second signal exits at once.

    Not in one of several processes: torchrun passes on signals that they may have got already, and kills in the end.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if is_single_process():
            raise_exit_on_signals()
        stop()

    before = _handle(handle)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
