"""The number of CPU threads that compute."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


@contextlib.contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Compute with this number of CPU threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Threads:
    """Run repeated work with all CPU threads or with one, whichever is faster; with all if it `is_fixed`.

    Trials are repeated, since other processes come and go: several threads that lack a core are slower than one. The
    number of threads changes only while work runs.
    """

    _ROUNDS = 3
    _SECONDS = 2.0

    def __init__(self, *, is_fixed: bool) -> None:
        max_threads = torch.get_num_threads()
        self._counts = () if is_fixed or max_threads == 1 else (max_threads, 1)
        self._trials: list[int] = []
        self._next_trial = -math.inf

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do a piece of work and return its result; all pieces should be of about the same size."""
        if not self._counts:
            return work()
        begin = time.perf_counter()
        if not self._trials and begin > self._next_trial:
            self._trials = list(self._counts) * self._ROUNDS
            self._seconds = dict.fromkeys(self._counts, math.inf)
            self._next_trial = begin + self._SECONDS
        count = self._trials.pop() if self._trials else min(self._counts, key=self._seconds.__getitem__)
        with num_threads(count):
            result = work()
        self._seconds[count] = min(self._seconds[count], time.perf_counter() - begin)
        return result
