"""What all tests share: a tiny text, a small trained run, the installed command."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from charrnn.checkpoint import RunFolder
from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.corpus import Corpus, prepare
from charrnn.run import Run, start
from charrnn.runtime import Runtime
from charrnn.text import find_sources

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\na hen ran to the den.\n" * 40
CPU = Runtime(torch.device("cpu"), torch.float32)
needs_fbgemm = pytest.mark.skipif(not CPU.has_fbgemm, reason="needs FBGEMM")
TINY = {"hidden_size": 16, "num_layers": 1, "embedding_size": 8, "dropout": 0.1}

Command = Callable[..., subprocess.CompletedProcess[str]]


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
    run = start(folder, corpus, {**TINY, "hidden_size": 32, "dropout": 0.0}, config, CPU, seed=1)
    run.drive([])
    return run


@pytest.fixture
def charrnn(tmp_path: Path) -> Command:
    """Run the installed command in an empty folder: `charrnn("prepare", "x.txt", input="...")`."""

    def run(*arguments: str | Path, input: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHARRNN_")} | {"NO_COLOR": "1"}
        executable = Path(sys.executable).with_name("charrnn")
        return subprocess.run(
            [executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
