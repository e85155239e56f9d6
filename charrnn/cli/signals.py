"""What Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP do: end the command with 128 + the signal's number, tidily."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
]  # Windows has no SIGUSR1
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # which nohup asks for
    _SIGNALS.append(signal.SIGHUP)


def exit_on_signals() -> None:
    """Turn signals into an exit that runs every clean-up on its way."""
    for number in _SIGNALS:
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

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
