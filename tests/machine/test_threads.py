"""The number of CPU threads."""

import time

import pytest
import torch

from charrnn.machine.threads import Threads


def test_work_is_done_with_the_number_of_threads_that_is_fastest_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, before, used = 0.0, torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    seconds = {3: 0.1, 1: 0.05}

    def work() -> int:
        nonlocal clock
        used.append(torch.get_num_threads())
        clock += seconds[used[-1]]
        return len(used)

    try:
        threads = Threads(is_fixed=False)
        assert [threads.run(work) for _ in range(20)] == list(range(1, 21))
        assert set(used[:6]) == {1, 3}
        assert set(used[6:]) == {1}
        seconds = {3: 0.01, 1: 0.05}  # the machine is idle again
        clock += 10
        del used[:]
        for _ in range(20):
            threads.run(work)
        assert set(used[6:]) == {3}
        assert torch.get_num_threads() == 3
        fixed = Threads(is_fixed=True)
        del used[:]
        for _ in range(10):
            fixed.run(work)
        assert set(used) == {3}
    finally:
        torch.set_num_threads(before)
