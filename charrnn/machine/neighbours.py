"""Share the cores with other programs.

The threads of a training wait for each other in a loop ("spin"), since waking a sleeping thread takes longer than the
wait. But where another program needs the core, a thread spins for one that cannot run: two trainings on the same two
cores used to halt each other. So threads should sleep while they wait if cores are scarce, and only then.

GNU's OpenMP library has such a mode, for as long as it manages more threads than there are cores. A second team of
threads, which does nothing, brings the library into it. Source: `gomp_throttled_spin_count_var` in libgomp.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_SCHEDSTAT = Path("/proc/self/schedstat")
_INTERVAL = 0.5  # seconds between two looks
_CONTENDED = 0.1  # the share of the time that the main thread waits for a core: 0.3 beside a busy process, else 0.01
_MIN_PARALLEL = 2**15  # elements that PyTorch gives to a thread


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Inside the context, let waiting threads sleep while the main thread has to wait for a core.

    Enter it before torch is imported. Nothing is done if the environment sets how threads wait. If the kernel does not
    count the time that a thread waits, threads sleep soon in any case, which costs a training up to a tenth of its
    speed.
    """
    if _is_chosen() or not _SCHEDSTAT.exists():
        if not _is_chosen():
            os.environ["GOMP_SPINCOUNT"] = "1000"
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _is_chosen() -> bool:
    return not os.environ.keys().isdisjoint(_SPIN_VARIABLES)


def _watch(over: threading.Event) -> None:
    with contextlib.ExitStack() as team:
        is_contended = False
        waited, then = _waited_seconds(), time.perf_counter()
        while not over.wait(_INTERVAL):
            before, waited = waited, _waited_seconds()
            begin, then = then, time.perf_counter()
            was_contended, is_contended = is_contended, waited - before > _CONTENDED * (then - begin)
            is_contended &= "torch" in sys.modules  # the team must not be the first to import it
            if is_contended and not was_contended:
                team.enter_context(idle_team())
            elif was_contended and not is_contended:
                team.close()


def _waited_seconds() -> float:
    """Seconds that the main thread could have run and had no core."""
    return int(_SCHEDSTAT.read_text().split()[1]) / 1e9


@contextlib.contextmanager
def idle_team() -> Iterator[None]:
    """Inside the context, a second team of OpenMP's threads exists, asleep."""
    ready, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=_lead_team, args=(ready, over), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _lead_team(ready: threading.Event, over: threading.Event) -> None:
    """Make a team by work for all threads; it ends with this thread."""
    import torch

    try:
        torch.zeros(_MIN_PARALLEL * torch.get_num_threads()).add_(1)
    finally:
        ready.set()
    over.wait()
