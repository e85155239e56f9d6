"""Run an iterator in a thread of its own, a few items ahead of its consumer.

Hashing, reading, decompressing and NumPy release the interpreter's lock, so that two cores share the work.
"""

import contextlib
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_SWITCH_INTERVAL_S = 1e-4
"""After so long a thread lets others have the interpreter, which may need it for an instant only."""


@contextlib.contextmanager
def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Iterator[Item]]:
    """The same items, of which up to `depth` are made while the consumer is busy; exceptions come through.

    The thread ends with the context, at the latest. Where none can be started, the items are made in turn.
    """
    ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_make, args=(items, ready, stop), name="ahead", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        yield iter(items)
        return
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(min(before, _SWITCH_INTERVAL_S))
        yield _take(ready)
    finally:
        sys.setswitchinterval(before)
        stop.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                ready.get_nowait()
            thread.join(0.01)


def _make(items: Iterable[Item], ready: queue.Queue[tuple[Item] | BaseException | None], stop: threading.Event) -> None:
    """Put the items into a queue, then the exception that ended them, or None."""
    last: BaseException | None = None
    iterator = iter(items)
    try:
        for item in iterator:
            ready.put((item,))
            if stop.is_set():
                break
        if hasattr(iterator, "close"):
            iterator.close()  # in this thread, as it may itself wait for a thread
    except BaseException as error:
        last = error
    ready.put(last)


def _take(ready: queue.Queue[tuple[Item] | BaseException | None]) -> Iterator[Item]:
    while isinstance(found := ready.get(), tuple):
        yield found[0]
    if found is not None:
        raise found
