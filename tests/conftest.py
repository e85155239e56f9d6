"""What all tests share: a tiny text, a small trained run, the installed command."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before torch: waiting threads of many processes starve one another, and models so small gain nothing by a second one.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # deterministic from the first use of a GPU on

import pytest
import torch
from hypothesis import settings

from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.errors import command_line
from charrnn.machine.probes import failure
from charrnn.machine.runtime import compute_deterministically
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from tests.support import CPU, TEXT, TINY, Command, Forked, child_environment

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests for GPUs on a machine without one; `-m cuda` selects them."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def option_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """Messages name options as on the command line, except in tests of the Python interface."""
    of_python = ("test_api.py", "test_learning.py", "test_notebook.py", "errors.py")
    with contextlib.nullcontext() if request.path.name in of_python else command_line():
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "tiny.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def corpus(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    output = tmp_path_factory.mktemp("data") / "tiny.safetensors"
    return prepare(find_sources([str(text_file)]), PreparationConfig(), output)


@pytest.fixture(scope="session")
def trained_run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learned something of the tiny text."""
    config = TrainingConfig(steps=400, batch_size=8, seq_length=16, learning_rate=1e-2)
    folder = RunFolder(tmp_path_factory.mktemp("checkpoints") / "tiny")
    run = start(folder, corpus, replace(TINY, hidden_size=32, dropout=0.0), config, CPU, seed=1)
    run.drive([])
    return run


@pytest.fixture
def installed(tmp_path: Path) -> Command:
    """Run the installed command in an empty folder: `installed("prepare", "x.txt", input="...")`."""

    def run(*arguments: str | Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
        executable = Path(sys.executable).with_name("charrnn")
        command = [str(executable), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=child_environment(), input=input, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture
def forked(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Forked]:
    """Start a command in an empty folder and in a forked process: `forked("train", "x.txt").wait()`."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs processes that fork")

    def begin(*arguments: str | Path, **options: Any) -> Forked:
        return Forked(
            [str(argument) for argument in arguments], tmp_path, tmp_path_factory.mktemp("streams"), **options
        )

    return begin


@pytest.fixture
def charrnn(request: pytest.FixtureRequest) -> Command:
    """Run a command in an empty folder, in a forked process where there are such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        installed: Command = request.getfixturevalue("installed")
        return installed
    forked = request.getfixturevalue("forked")

    def run(*arguments: str | Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = forked(*arguments, input=input).wait()
        return done

    return run


@pytest.fixture
def deterministic() -> Iterator[None]:
    compute_deterministically()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def lacks_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU that says it has the instructions, on which oneDNN finds no LSTM in bfloat16."""

    def refuse(*arguments: object) -> None:
        raise RuntimeError("could not create a primitive descriptor")

    failure.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch, "lstm", refuse)
    yield
    failure.cache_clear()
