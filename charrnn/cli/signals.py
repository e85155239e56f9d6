"""End a command on Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP, with clean-up and exit code 128 + signal number.

There are three handlers. Until torch is imported, a signal ends the process at once, because an exception during the
import may be lost or crash the process. Later it raises SystemExit. During training it requests a stop.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from charrnn.terminal import is_single_process


def _handle(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Install a handler for the signals of this platform, except SIGHUP under `nohup`; return the old handlers."""
    found = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    handled = [each for each in found if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in handled}


def end_process_on_signals() -> None:
    """Make signals end the process at once, without clean-up."""
    _handle(lambda number, frame: os._exit(128 + number))


def raise_exit_on_signals() -> None:
    """Make signals raise SystemExit, so that clean-up code runs. Call this after torch is imported."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    _handle(leave)


@contextlib.contextmanager
def request_stop_on_signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call `stop` on the first signal and append the signal to the list; a second signal exits at once.

    Under torchrun a second signal does not exit, because torchrun repeats signals; it kills the processes in the end.
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
