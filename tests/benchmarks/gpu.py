"""The first half hour on a GPU: does it work, how fast is it, what does it learn. JSON lines, in this order.

Run by hand, from the project's root; each part takes less than ten minutes, and needs nothing but the repository (and
pytest and hypothesis for the tests, which are left out without them):

    python -m tests.benchmarks.gpu --part 1|2|3|4 [--text FILE]
    python -m tests.benchmarks.gpu --device cpu      all parts, shrunk: to find the faults of this file itself

1. Versions; the tests for GPUs; cells, precisions, embeddings, layouts, each recorded and not; determinism; resume.
2. The time of a step by streams and chunk, with inputs padded, looked up, wider, one-hot; bare loops; two profiles.
3. Sampling one and many streams beside the usual loop, by steps between two looks, with fused cells and without, with
   steps launched ahead and without; the time of a single request.
4. A minute of training, by layout and learning rate, for two sizes.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from charrnn import benchmark
from charrnn.benchmark import Work
from charrnn.config import SIZES, Cell, ModelConfig, SamplingConfig, TrainingConfig
from charrnn.machine.runtime import PRECISIONS, Runtime, can_compute, open_runtime
from charrnn.model.network import CharRNN
from charrnn.model.stepper import fastest_runtime
from charrnn.sampling.sampler import Sampler
from charrnn.training.events import Progress
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.trainer import Trainer
from tests.benchmarks.sampling import VOCABULARY, rate_of

ROOT = Path(__file__).parent.parent.parent
V = 65
WITHOUT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "fused cells": {"has_fused_cells": False},
    "float32 results": {"widens_products": False},
    "launches ahead": {"launches_ahead": 0},
}
"""What part 3 samples without, and the properties of a Runtime that say so."""
_CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn")


@dataclass(frozen=True)
class Scale:
    """The sizes and times of a full run on a GPU, or of a shrunk one on a CPU."""

    hidden_size: int = 512
    smoke_layouts: tuple[tuple[int, int], ...] = ((32, 32), (128, 64))
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256)
    seq_lengths: tuple[int, ...] = (32, 64, 128)
    sizes: tuple[str, ...] = ("medium", "large")
    num_samples: tuple[int, ...] = (1, 64, 1024)
    max_steps: tuple[int, ...] = (16, 32, 128)
    seconds: float = 2.0
    minutes: float = 1.0
    train_layouts: tuple[tuple[int, int], ...] = ((32, 32), (64, 64), (128, 64))


SHRUNK = Scale(32, ((4, 8),), (4, 8), (8,), ("small",), (1, 8), (16,), 0.2, 0.03, ((4, 8),))


def tell(part: str, **figures: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps({"part": part, **figures}), flush=True)


@contextlib.contextmanager
def attempt(part: str, **case: Any) -> Iterator[None]:
    """Tell of an error in one case, and go on to the next."""
    try:
        yield
    except Exception as error:
        tell(part, **case, error=f"{type(error).__name__}: {error}".splitlines()[0])


def make_trainer(config: ModelConfig, layout: tuple[int, int], runtime: Runtime, steps: int = 10**9) -> Trainer:
    """A trainer on random symbols, which never evaluates on its way."""
    torch.manual_seed(0)
    indices = torch.randint(V, (1_000_000,), dtype=torch.uint8)
    B, T = layout
    training = TrainingConfig(steps=steps, eval_every=10**9, batch_size=B, seq_length=T, val_fraction=0.0)
    return Trainer(CharRNN(config), training, TrainingText.split(indices, training), runtime)


def losses(config: ModelConfig, layout: tuple[int, int], runtime: Runtime, *, captured: bool) -> list[float]:
    """The running losses of twenty steps."""
    os.environ["CHARRNN_CAPTURE"] = "1" if captured else "0"
    try:
        steps = itertools.islice(make_trainer(config, layout, runtime).run(), 20)
        return [float(event.train_loss) for event in steps if isinstance(event, Progress)]
    finally:
        del os.environ["CHARRNN_CAPTURE"]


def command(*words: object, device: str) -> dict[str, Any]:
    """The object that the command ends with."""
    line = [sys.executable, "-m", "charrnn", *map(str, words), "--device", device, "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def works(device: str, text: Path, scale: Scale) -> None:
    """Part 1."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    tell("versions", device=name, python=sys.version.split()[0], **versions)
    if device == "cuda" and all(importlib.util.find_spec(name) for name in ("pytest", "hypothesis")):
        folders = [f"tests/{folder}" for folder in ("machine", "model", "training", "sampling", "runs")]
        line = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "--continue-on-collection-errors", *folders]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
        tell("tests", outcome=done.stdout.strip().splitlines()[-12:])
    layouts, precisions = (
        scale.smoke_layouts,
        [name for name in PRECISIONS if can_compute(torch.device(device), PRECISIONS[name])],
    )
    for cell, precision, E, layout in itertools.product(_CELLS, precisions, (64, 128), layouts):
        case = {"cell": cell, "precision": precision, "embedding_size": E, "layout": layout}
        with attempt("smoke", **case):
            config = ModelConfig(vocab_size=V, cell=cell, hidden_size=scale.hidden_size, embedding_size=E, dropout=0.1)
            runtime = open_runtime(device, precision)
            recorded, plain = (losses(config, layout, runtime, captured=captured) for captured in (True, False))
            apart = max(abs(a - b) for a, b in zip(recorded, plain, strict=True))
            tell("smoke", **case, first=plain[0], last=plain[-1], recorded_apart=apart)
    with attempt("determinism"), tempfile.TemporaryDirectory() as folder:
        train = ["train", text, "--data-dir", folder, "--steps", 40, "--hidden-size", scale.hidden_size, "--seed", 1]
        ends = [command(*train, "--run", f"{folder}/{i}", "--deterministic", device=device) for i in range(2)]
        tell("determinism", losses=[end["best_val_loss"] for end in ends])
    with attempt("resume"):
        tell("resume", losses_apart=resume_apart(device, layouts[0], scale))


def resume_apart(device: str, layout: tuple[int, int], scale: Scale) -> float:
    """The largest difference between the losses of twenty steps, and of the same ones from a snapshot before them."""
    config = ModelConfig(vocab_size=V, hidden_size=scale.hidden_size, dropout=0.1)
    whole, resumed = (make_trainer(config, layout, open_runtime(device), steps=40) for _ in range(2))
    run = whole.run()
    take_steps(run, 20)
    snapshot = whole.snapshot().copy()
    expected = [float(event.train_loss) for event in run if isinstance(event, Progress)]
    resumed.load(snapshot)
    found = [float(event.train_loss) for event in resumed.run() if isinstance(event, Progress)]
    return max(abs(a - b) for a, b in zip(expected, found, strict=True))


def work_rate(work: Work, runtime: Runtime, seconds: float) -> float:
    """Units per second of a work: the median of five rounds."""
    benchmark._SECONDS = seconds / benchmark._ROUNDS
    return benchmark._measure({"": work}, runtime)[""]


VARIANTS: dict[str, tuple[int | None, bool]] = {
    "narrow": (64, True),
    "wide": (128, True),
    "wide, looked up": (128, False),
    "one-hot": (None, True),
}
"""The embedding's size, and whether it is multiplied or looked up."""


def step_times(device: str, text: Path, scale: Scale) -> None:
    """Part 2."""
    runtime = open_runtime(device)
    for size, B, T, variant in itertools.product(scale.sizes, scale.batch_sizes, scale.seq_lengths, VARIANTS):
        E, multiplies = VARIANTS[variant]
        case = {"size": size, "layout": (B, T), "variant": variant, "precision": runtime.precision}
        with attempt("step", **case):
            config = ModelConfig(vocab_size=V, dropout=0.1, **{**SIZES[size], "embedding_size": E})  # type: ignore[index]
            trainer = make_trainer(config, (B, T), runtime)
            model = trainer.bptt.model
            model.multiplies_one_hot = multiplies
            steps = work_rate(partial(take_steps, trainer.run(), 10), runtime, scale.seconds)
            tell("step", **case, microseconds=1e6 / steps, chars_per_second=B * T * steps)
    for layout, records in itertools.product(scale.smoke_layouts, (False, True)):
        with attempt("bare loop", layout=layout, records=records):
            config = ModelConfig(vocab_size=V, hidden_size=scale.hidden_size)
            bare = benchmark._bare_training(config, Layout(*layout, 1, 0), runtime, records=records)
            found = work_rate(bare, runtime, scale.seconds)
            tell("bare loop", layout=layout, records=records, chars_per_second=found)
    for layout in scale.smoke_layouts:
        with attempt("profile", layout=layout):
            tell("profile", layout=layout, kernels=largest_kernels(device, layout, runtime, scale))


def take_steps(run: Iterator[object], num_steps: int) -> float:
    """Take steps of a training; returns their number."""
    return float(sum(1 for _ in itertools.islice(run, num_steps)))


def largest_kernels(device: str, layout: tuple[int, int], runtime: Runtime, scale: Scale) -> dict[str, float]:
    """Shares of the device's time of the twelve kernels that take most of it."""
    config = ModelConfig(vocab_size=V, hidden_size=scale.hidden_size, dropout=0.1)
    run = make_trainer(config, layout, runtime).run()
    take_steps(run, 20)
    with profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]) as profiler:
        take_steps(run, 20)
        runtime.synchronize()
    times = {row.key: row.self_device_time_total or row.self_cpu_time_total for row in profiler.key_averages()}
    largest = sorted(times.items(), key=lambda item: -item[1])[:12]
    return {name[:80]: round(spent / sum(times.values()), 4) for name, spent in largest}


def sampling(device: str, text: Path, scale: Scale) -> None:
    """Part 3."""
    for size in scale.sizes:
        config = ModelConfig(vocab_size=V, **SIZES[size])  # type: ignore[index]
        runtime = fastest_runtime(open_runtime(device), config)
        loop = usual_loop(config, runtime, scale)
        tell("usual loop", size=size, chars_per_second=loop)
        tell(
            "kernels",
            size=size,
            precision=runtime.precision,
            fused_cells=runtime.has_fused_cells,
            float32_results=runtime.widens_products,
        )
        for steps, (name, lacking) in itertools.product(scale.max_steps, WITHOUT.items()):
            with mock.patch.multiple(Runtime, max_steps=lambda *_, steps=steps: steps, **lacking):
                for num_samples in scale.num_samples:
                    case = {"size": size, "num_samples": num_samples, "steps": steps, "without": name}
                    with attempt("sampling", **case):
                        rate = rate_of(config, runtime, num_samples, scale.seconds)
                        tell("sampling", **case, chars_per_second=rate, times_the_loop=rate / loop)
                with attempt("request", size=size, steps=steps):
                    tell("request", size=size, steps=steps, without=name, seconds=request(config, runtime))


def request(config: ModelConfig, runtime: Runtime) -> float:
    """Seconds of a sample of 1,000 characters, with all that comes before its first step; the second one of two."""
    model = CharRNN(config).to(runtime.device)
    for _ in range(2):
        begin = time.perf_counter()
        for _ in Sampler(model, VOCABULARY, SamplingConfig(temperature=0.8), runtime).sample(seed=0):
            pass
    return time.perf_counter() - begin


@torch.inference_mode()
def usual_loop(config: ModelConfig, runtime: Runtime, scale: Scale) -> float:
    """Characters per second of the model called for one symbol at a time, with `multinomial` and `item`."""
    model, state, symbol, count = CharRNN(config).to(runtime.device).eval(), None, 0, 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < scale.seconds:
        logits, state = model(torch.tensor([[symbol]], device=runtime.device), state)
        symbol = int(torch.multinomial((logits[0, 0] / 0.8).softmax(-1), 1).item())
        count += 1
    return count / (time.perf_counter() - begin)


def learns(device: str, text: Path, scale: Scale) -> None:
    """Part 4."""
    for size in scale.sizes:
        layouts = scale.train_layouts if size == scale.sizes[0] else scale.train_layouts[-1:]
        for (B, T), factor in itertools.product(layouts, (1.0, 0.5)):
            with attempt("minute", size=size, layout=(B, T), factor=factor), tempfile.TemporaryDirectory() as folder:
                peak = factor * 0.03 * min(1.0, 512 / SIZES[size]["hidden_size"]) ** 2  # type: ignore[index]
                shape = ["--size", size, "--batch-size", B, "--seq-length", T, "--learning-rate", peak]
                where = ["--data-dir", folder, "--run", f"{folder}/run", "--minutes", scale.minutes, "--seed", 1]
                end = command("train", text, *where, *shape, device=device)
                keys = ("best_val_loss", "val_chars", "elapsed_s", "epochs", "chars_per_second", "precision")
                tell("minute", size=size, layout=(B, T), learning_rate=peak, **{key: end[key] for key in keys})


def main() -> None:
    """Run one part, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=[1, 2, 3, 4])
    parser.add_argument("--text", type=Path, default=ROOT / "data" / "tales.txt")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    scale = Scale() if arguments.device == "cuda" else SHRUNK
    for number, part in enumerate((works, step_times, sampling, learns), 1):
        if arguments.part in (None, number):
            begin = time.perf_counter()
            part(arguments.device, arguments.text.resolve(), scale)
            tell("end", number=number, seconds=round(time.perf_counter() - begin, 1))


if __name__ == "__main__":
    main()
