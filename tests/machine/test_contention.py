import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from charrnn.cli import help as command_help
from charrnn.cli.app import app
from charrnn.errors import CharRNNError
from charrnn.machine import contention
from charrnn.machine.contention import sharing_cores

needs_schedstat = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel does not count how long a thread waits for a core"
)


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets what share of the time the main thread waits for a core; looks come 50 times a second."""
    share = [0.0]
    monkeypatch.setattr(contention, "_INTERVAL", 0.02)
    seconds, then = 0.0, time.perf_counter()

    def waited_seconds() -> float:
        nonlocal seconds, then
        now = time.perf_counter()
        seconds, then = seconds + share[0] * (now - then), now
        return seconds

    monkeypatch.setattr(contention, "_waited_seconds", waited_seconds)
    return lambda value: share.__setitem__(0, value)


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.perf_counter() + 20
    while not condition() and time.perf_counter() < deadline:
        time.sleep(0.01)
    return condition()


@needs_schedstat
def test_a_second_team_exists_while_cores_are_scarce_and_only_then(waited: Callable[[float], None]) -> None:
    before = threading.active_count()
    with sharing_cores():
        assert comes_true(lambda: threading.active_count() == before + 1)  # the watcher
        time.sleep(0.1)
        assert threading.active_count() == before + 1
        waited(0.3)
        assert comes_true(lambda: threading.active_count() == before + 2)
        waited(0.01)
        assert comes_true(lambda: threading.active_count() == before + 1)
        waited(0.3)
        assert comes_true(lambda: threading.active_count() == before + 2)
    assert threading.active_count() == before


def test_nothing_watches_where_the_environment_says_how_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    before = threading.active_count()
    with sharing_cores():
        assert threading.active_count() == before


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"])
def test_environment_of_the_user_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(contention, "_SCHEDSTAT", tmp_path / "schedstat")
    monkeypatch.setenv(name, "7")
    with sharing_cores():
        assert os.environ[name] == "7"
        assert name == "GOMP_SPINCOUNT" or "GOMP_SPINCOUNT" not in os.environ


def test_threads_sleep_soon_if_the_kernel_counts_no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contention, "_SCHEDSTAT", tmp_path / "schedstat")
    monkeypatch.setattr(os, "environ", {})
    before = threading.active_count()
    with sharing_cores():
        assert os.environ["GOMP_SPINCOUNT"] == "1000"
        assert threading.active_count() == before


@needs_schedstat
def test_spinning_stays_as_it_is_if_the_kernel_counts_waiting() -> None:
    with sharing_cores():
        assert "GOMP_SPINCOUNT" not in os.environ


@needs_schedstat
@pytest.mark.parametrize("command", ["prepare", "train", "sample", "score", "report", "export", "runs"])
def test_every_command_shares_the_cores(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def observe() -> Iterator[None]:
        entered.append(command)
        raise CharRNNError("seen")
        yield

    monkeypatch.setattr(command_help, "sharing_cores", observe)
    needed = {"prepare": ["x"], "export": ["-o", "x"]}
    done = CliRunner().invoke(app, [command, *needed.get(command, [])])
    assert (entered, done.exit_code) == ([command], 1)


@needs_schedstat
def test_waiting_for_a_core_is_counted() -> None:
    before, begin = contention._waited_seconds(), time.perf_counter()
    code = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    rivals = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2 * (os.cpu_count() or 1))]
    while any(rival.poll() is None for rival in rivals):
        pass
    assert 0 < contention._waited_seconds() - before < time.perf_counter() - begin


def test_an_idle_team_ends_with_its_context() -> None:
    before = threading.active_count()
    with contention._background(contention._idle_team):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
