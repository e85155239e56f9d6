"""All that is to be measured on a GPU: its tests, training and sampling beside bare loops, a profile, quality.

Run by hand, from the project's root; a part takes at most ten minutes:

    python -m tests.benchmarks.gpu TEXT --baselines FOLDER
        [--part tests|saving|speed|sampling|profile|minute|five-minutes]
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.machine.runtime import open_runtime
from charrnn.model.network import CharRNN
from charrnn.training.streams import TrainingText
from charrnn.training.trainer import Trainer
from tests.benchmarks import sampling
from tests.benchmarks.foundation import ROOT, measure, training

SHAPES = [(2, 512, 128, 64), (3, 1024, 128, 64)]
"""Layers, hidden size, batch size, sequence length."""

_LIBRARY_KERNELS = ("cudnn", "cublas", "gemm", "cutlass", "rnn", "lstm", "nvjet", "splitk")
"""Parts of the names of cuDNN's and cuBLAS's kernels."""


def profile_steps(num_layers: int, hidden_size: int, batch_size: int, seq_length: int) -> None:
    """The share of the device's time that is spent outside cuDNN and cuBLAS, and the kernels that take it."""
    config = ModelConfig(vocab_size=65, hidden_size=hidden_size, num_layers=num_layers, dropout=0.1)
    indices = torch.randint(65, (1_000_000,), dtype=torch.uint8)
    endless = TrainingConfig(steps=10**9, eval_every=10**9, batch_size=batch_size, seq_length=seq_length)
    text = TrainingText.split(indices, endless, endless.batch_size or 32)
    trainer = Trainer(CharRNN(config), endless, text, open_runtime("cuda"))
    run = trainer.run()
    for _ in itertools.islice(run, 20):
        pass
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in itertools.islice(run, 50):
            pass
        torch.cuda.synchronize()
    kernels = {row.key: row.self_device_time_total for row in profiler.key_averages()}
    total = sum(kernels.values())
    rest = {k: t for k, t in kernels.items() if not any(part in k.lower() for part in _LIBRARY_KERNELS)}
    print(f"profile {num_layers}x{hidden_size} B {batch_size} T {seq_length}: {sum(rest.values()) / total:.1%} of the ")
    print(f"  device's {total / 50:,.0f} us a step outside cuDNN and cuBLAS; the largest kernels of all:")
    for name, microseconds in sorted(kernels.items(), key=lambda item: -item[1])[:12]:
        print(f"  {microseconds / total:6.1%} {name[:100]}", flush=True)


def quality(corpus: Path, minutes: float) -> None:
    """Both protocols after so many minutes; see quality.py."""
    for size in ("medium", "large"):
        print(f"{minutes:g} minutes, --size {size}")
        print(measure([sys.executable, "-m", "tests.benchmarks.quality", corpus, "--minutes", minutes, "--size", size]))


def main() -> None:
    """Measure one part, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--baselines", type=Path, default=ROOT.parent / "shared" / "baselines")
    parser.add_argument("--part")
    arguments = parser.parse_args()
    corpus, baselines = arguments.corpus.resolve(), arguments.baselines.resolve()

    def tests() -> None:
        # What the tests of --deterministic need, set before the device is first used.
        environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-k", "cuda"]
        subprocess.run(command, cwd=ROOT, env=environment, check=False)

    def save() -> None:
        subprocess.run([sys.executable, "-m", "tests.benchmarks.saving", "--device", "cuda"], cwd=ROOT, check=False)

    def speed() -> None:
        with tempfile.TemporaryDirectory() as folder:
            training(corpus, baselines, "cuda", Path(folder), SHAPES)

    def profiles() -> None:
        for shape in SHAPES:
            profile_steps(*shape)

    parts: dict[str, Callable[[], None]] = {
        "tests": tests,
        "saving": save,
        "speed": speed,
        "sampling": lambda: sampling.speed(baselines, "cuda"),
        "profile": profiles,
        "minute": lambda: quality(corpus, 1),
        "five-minutes": lambda: quality(corpus, 5),
    }
    for name, part in parts.items():
        if arguments.part in (None, name):
            print(f"== {name}", flush=True)
            part()


if __name__ == "__main__":
    main()
