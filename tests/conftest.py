"""What all tests share: a tiny text, a small trained run, the installed command."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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

from charrnn.cli.app import main
from charrnn.config import ModelOptions, PreparationConfig, TrainingConfig
from charrnn.errors import command_line
from charrnn.machine.probes import failure
from charrnn.machine.runtime import Runtime, can_compute, compute_deterministically
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.preflight import describe
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\na hen ran to the den.\n" * 40
CPU = Runtime(torch.device("cpu"), torch.float32)
needs_fbgemm = pytest.mark.skipif(not can_compute(CPU.device, torch.int8), reason="needs FBGEMM")
needs_cuda = pytest.mark.cuda
needs_bfloat16 = pytest.mark.skipif(
    not can_compute(CPU.device, torch.bfloat16), reason="needs a CPU that computes an LSTM in bfloat16"
)
TINY = ModelOptions(hidden_size=16, embedding_size=8, dropout=0.1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests for GPUs on a machine without one; `-m cuda` selects them."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda") is not None:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def option_names(request: pytest.FixtureRequest) -> Iterator[None]:
    """Messages name options as on the command line, except in tests of the Python interface."""
    with contextlib.nullcontext() if request.path.name in ("test_api.py", "errors.py") else command_line():
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
            command, cwd=tmp_path, env=_environment(), input=input, capture_output=True, text=True, timeout=120
        )

    return run


class Forked:
    """A command in a forked process, without the seconds in which Python and PyTorch start.

    Its standard streams are files in a folder of its own, but for those that are given another path. No file that
    it writes may become longer than `file_limit` bytes.
    """

    def __init__(
        self,
        words: list[str],
        folder: Path,
        streams: Path,
        *,
        input: str | None = None,
        environment: dict[str, str] | None = None,
        stdout: str | Path | None = None,
        stderr: str | Path | None = None,
        file_limit: int | None = None,
    ) -> None:
        self._words = words
        stdin = streams / "stdin"
        stdin.write_text(input or "", newline="", errors="surrogateescape")
        self._stdout, self._stderr = Path(stdout or streams / "stdout"), Path(stderr or streams / "stderr")
        names = [str(path) for path in (stdin, self._stdout, self._stderr)]
        self.process = preload().Process(
            target=run_main, args=(words, folder, _environment() | (environment or {}), names, file_limit), daemon=True
        )
        self.process.start()

    def wait_for(self, message: str) -> None:
        """Return once there is a message on stderr."""
        while not self._stderr.exists() or message not in self._stderr.read_text():
            assert self.process.is_alive(), self._stderr.read_text()
            time.sleep(0.01)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Return when it has ended. Pipes and devices are left to the caller."""
        self.process.join(timeout=120)
        assert self.process.exitcode is not None, f"{self._words} takes longer than two minutes"
        out, err = (path.read_text() if path.is_file() else "" for path in (self._stdout, self._stderr))
        return subprocess.CompletedProcess(self._words, self.process.exitcode, out, err)


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


class Told(list[str]):
    """Messages to the user, as the command line would print them."""

    def __call__(self, message: str, *, warning: bool = False) -> None:
        self.append(f"warning: {message}" if warning else message)


def described(run: Run) -> list[str]:
    """The lines that are told before a run begins."""
    told = Told()
    describe(run.trainer, run.corpus.vocabulary, run.seed, told)
    return told


def with_weights(checkpoint: Checkpoint, weights: Mapping[str, torch.Tensor]) -> Checkpoint:
    """The same checkpoint with other weights of the model."""
    others = {name: tensor for name, tensor in checkpoint.snapshot.tensors.items() if not name.startswith("model.")}
    tensors = others | {f"model.{name}": tensor for name, tensor in weights.items()}
    return replace(checkpoint, snapshot=replace(checkpoint.snapshot, tensors=tensors))


def preload() -> Any:
    """A context whose processes begin with all imported that commands import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["charrnn.cli.app", "charrnn.runs.opening", "charrnn.api", "torch._dynamo"])
    return context


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("CHARRNN_")} | {"NO_COLOR": "1"}


def run_main(
    words: list[str], folder: Path, environment: dict[str, str], streams: list[str], file_limit: int | None = None
) -> None:
    """What the installed command does, with files as its standard streams."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    for number, name in enumerate(streams):
        os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # Multiprocessing has closed the first; the others remember what their descriptors were.
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdin, sys.stdout = open(0, encoding=encoding), open(1, "w", encoding=encoding, closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding=encoding, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = ["charrnn", *words]
    main()


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
