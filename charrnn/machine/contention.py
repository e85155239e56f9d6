"""Share the cores with other programs.

The threads of a training run wait for each other in a loop ("spin"), since waking a sleeping thread takes longer than
the wait. But if another program needs the core, a thread spins for one that cannot run: two runs on the same two cores
used to halt each other. So threads should sleep while they wait if cores are scarce, and only then.

GNU's OpenMP library does so while it manages more threads than there are cores. A second team of threads, which does
nothing, starts that mode. Source: `gomp_throttled_spin_count_var` in libgomp.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_SPIN_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
_SCHEDSTAT = Path("/proc/self/schedstat")
_INTERVAL = 0.5  # seconds between two readings
_CONTENDED = 0.1  # the share of the time that the main thread waits for a core: 0.3 beside a busy process, else 0.01
_MIN_PARALLEL = 2**15  # elements that PyTorch gives to a thread


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Inside the context, let waiting threads sleep while the main thread has to wait for a core.

    Enter it before torch is imported. If the environment sets how threads wait, nothing changes. If the kernel does not
    count how long a thread waits, threads always sleep soon, which costs up to a tenth of the speed of training.
    """
    with contextlib.ExitStack() as stack:
        if os.environ.keys().isdisjoint(_SPIN_VARIABLES):
            if _SCHEDSTAT.exists():
                stack.enter_context(_background(_watch))
            else:
                os.environ["GOMP_SPINCOUNT"] = "1000"
        yield


@contextlib.contextmanager
def _background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a function in another thread inside the context; it returns once its argument is set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(over: threading.Event) -> None:
    """Keep a second team while the main thread waits for cores."""
    with contextlib.ExitStack() as team:
        has_team, before, begin = False, _waited_seconds(), time.perf_counter()
        while not over.wait(_INTERVAL):
            waited, now = _waited_seconds(), time.perf_counter()
            is_contended = waited - before > _CONTENDED * (now - begin)
            before, begin = waited, now
            is_contended &= "torch" in sys.modules  # the team must not be the first to import it
            if is_contended and not has_team:
                team.enter_context(_background(_idle_team))
            elif has_team and not is_contended:
                team.close()
            has_team = is_contended


def _waited_seconds() -> float:
    """Seconds that the main thread could have run and had no core."""
    return int(_SCHEDSTAT.read_text().split()[1]) / 1e9


def _idle_team(over: threading.Event) -> None:
    """Start a second team of OpenMP's threads by work for all of them; it ends with this thread."""
    import torch

    torch.zeros(_MIN_PARALLEL * torch.get_num_threads()).add_(1)
    over.wait()
