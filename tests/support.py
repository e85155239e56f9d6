"""Helpers that several test modules share; fixtures are in `conftest.py`."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.cli.app import main
from charrnn.config import ModelOptions, PreparationConfig, TrainingConfig
from charrnn.machine.runtime import Runtime, can_compute
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.preflight import describe
from charrnn.runs.reporting import Reporter
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import Source
from charrnn.text.tokenizers import TOKENIZERS, Tokenizer
from charrnn.text.words import split_words
from charrnn.training.events import Event

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\na hen ran to the den.\n" * 40
CPU = Runtime(torch.device("cpu"), torch.float32)
needs_fbgemm = pytest.mark.skipif(not can_compute(CPU.device, torch.int8), reason="needs FBGEMM")
needs_cuda = pytest.mark.cuda
needs_bfloat16 = pytest.mark.skipif(
    not can_compute(CPU.device, torch.bfloat16), reason="needs a CPU that computes an LSTM in bfloat16"
)
TINY = ModelOptions(hidden_size=16, embedding_size=8, dropout=0.1)

Command = Callable[..., subprocess.CompletedProcess[str]]


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
            target=run_main,
            args=(words, folder, child_environment() | (environment or {}), names, file_limit),
            daemon=True,
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


class StopAt(Reporter):
    """Ask a run to stop at a step."""

    def __init__(self, run: Run, step: int) -> None:
        self._run, self._step = run, step

    def report(self, event: Event) -> None:
        if event.step == self._step:
            self._run.trainer.request_stop()


def log_of(run: Run) -> list[dict[str, Any]]:
    """The records of a run's log."""
    return [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]


def prepared(text: str | bytes, output: Path, **options: object) -> Corpus:
    """The corpus of a text."""
    source = Source("text", None, text.encode() if isinstance(text, str) else text)
    return prepare([source], PreparationConfig(**options), output)  # type: ignore[arg-type]


def marked_text(corpus: Corpus) -> str:
    """The text of a corpus, with an EOS_MARK at the end of each document."""
    return "".join(corpus.marked_blocks())


def tokenizer_of(marked: str, **options: object) -> Tokenizer:
    """The tokenizer of a marked text that is prepared with these options."""
    config = PreparationConfig(**options)  # type: ignore[arg-type]
    kind = TOKENIZERS[config.unit]
    return kind.build(Counter(split_words(marked) if kind.has_words else marked), config)


def untrained(text: str | bytes, folder: Path, **options: object) -> Run:
    """A run on a text that is prepared with these options; its weights are random."""
    corpus = prepared(text, folder / "corpus.safetensors", **options)
    config = TrainingConfig(steps=1, batch_size=2, seq_length=8)
    return start(RunFolder(folder / "run"), corpus, TINY, config, CPU, seed=1)


class Messages(list[str]):
    """Messages to the user, as the command line would print them."""

    def __call__(self, message: str, *, warning: bool = False) -> None:
        self.append(f"warning: {message}" if warning else message)


def described(run: Run) -> list[str]:
    """The lines printed before a run starts."""
    messages = Messages()
    describe(run, messages)
    return messages


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


def child_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("CHARRNN_")} | {"NO_COLOR": "1"}


def run_main(
    words: list[str], folder: Path, environment: dict[str, str], streams: list[str], file_limit: int | None = None
) -> None:
    """Run the installed command's main function with files as standard streams."""
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
