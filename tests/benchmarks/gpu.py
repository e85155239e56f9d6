"""The first half hour on a GPU: does it work, how fast is it, what does it learn.

Run by hand, from the project's root; it needs nothing but the repository (and pytest and hypothesis for part 4):

    python -m tests.benchmarks.gpu [--part 1 --part 2 ...] [--text FILE]
    python -m tests.benchmarks.gpu --device cpu      everything reduced, to find the faults of this file

Each part is a process with a time limit, which prints JSON lines; tables follow at the end.

1. Versions; for each cell, precision and size of the vocabulary: was the training step recorded?
2. Recorded and eager steps: their losses, times and kernels; characters/s beside the bare loop.
3. Ctrl-C; SIGTERM and an exact resume.
4. The tests that need a GPU.
5. What plain `charrnn train` ends with, on 1 MB and 30 MB; three shapes, two learning rates, both optimizers.
6. Sampling with 1, 64 and 1,024 streams beside the usual loop; seconds to the first character.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from charrnn.config import Cell, ModelConfig, Optimizer, TrainingConfig
from charrnn.machine.capture import CapturedStep
from charrnn.machine.probes import device_name
from charrnn.machine.runtime import PRECISIONS, Runtime, can_compute, open_runtime
from charrnn.model.network import CharRNN
from charrnn.model.stepper import fastest_runtime
from charrnn.runs.checkpoint import Checkpoint
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.heuristics import default_learning_rate
from charrnn.training.streams import Layout, TrainingText
from tests.benchmarks.foundation import CHARRNN, ROOT
from tests.benchmarks.machine import ROUNDS, bare_sampling, bare_training, measure_rates
from tests.benchmarks.sampling import rate_of

V = 65


@dataclass(frozen=True)
class Scale:
    """The sizes and times of a full run on a GPU, or of a reduced one on a CPU."""

    hidden_size: int = 512
    layout: tuple[int, int] = (128, 64)
    vocab_sizes: tuple[int, ...] = (65, 600, 8000)
    steps: int = 200
    seconds: float = 2.0
    text_sizes: tuple[int, ...] = (1_000_000, 30_000_000)
    plain_budget: tuple[object, ...] = ()
    minutes: float = 0.7
    shapes: tuple[tuple[int, int], ...] = ((1, 512), (1, 1024), (2, 1024))
    num_samples: tuple[int, ...] = (1, 64, 1024)
    run_steps: int = 2000


REDUCED = Scale(
    hidden_size=32,
    layout=(4, 8),
    vocab_sizes=(65, 600),
    steps=8,
    seconds=0.2,
    text_sizes=(30_000,),
    plain_budget=("--steps", 20, "--hidden-size", 32),
    minutes=0.02,
    shapes=((1, 32),),
    num_samples=(1, 8),
    run_steps=400,
)


@dataclass(frozen=True)
class Bench:
    """The device, the text and the scale of a run."""

    device: str
    text: Path | None
    scale: Scale

    def corpus(self, folder: Path, num_bytes: int) -> Path:
        """A text of about this size: the given one, or else Python sources of installed packages."""
        if self.text is not None:
            return self.text
        path, size = folder / f"{num_bytes}.txt", 0
        with path.open("w", encoding="utf-8") as stream:
            for source in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
                size += stream.write(source.read_text(encoding="utf-8", errors="ignore").replace("\0", ""))
                if size > num_bytes:
                    break
        return path

    def precisions(self) -> list[str]:
        """The precisions that the device trains in."""
        return [name for name, dtype in PRECISIONS.items() if can_compute(torch.device(self.device), dtype)]

    def bptt(self, config: ModelConfig, runtime: Runtime, optimizer: Optimizer = "muon") -> TruncatedBPTT:
        """A training of a new model on random symbols."""
        torch.manual_seed(0)
        (B, T), num_chars = self.scale.layout, 1_000_000
        training = TrainingConfig(steps=1, batch_size=B, seq_length=T, val_fraction=0.0, optimizer=optimizer)
        ids = torch.randint(config.vocab_size, (num_chars,), dtype=torch.int16)
        return TruncatedBPTT(CharRNN(config), training, TrainingText.split(ids, training), runtime)

    def config(self, **options: Any) -> ModelConfig:
        """A model with dropout, so that steps draw random numbers."""
        defaults = {"vocab_size": V, "hidden_size": self.scale.hidden_size, "embedding_size": 128, "dropout": 0.1}
        return ModelConfig(**(defaults | options))

    def command(self, *words: object) -> list[str]:
        """A command line on this device."""
        return [*CHARRNN, *map(str, words), "--device", self.device]


def report(**figures: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(figures), flush=True)


@contextlib.contextmanager
def attempt(what: str, **case: Any) -> Iterator[None]:
    """Report an error in one case, and go on to the next."""
    try:
        yield
    except Exception as error:
        report(what=what, **case, error=f"{type(error).__name__}: {error}".splitlines()[0])


@contextlib.contextmanager
def eager(*, is_eager: bool = True) -> Iterator[None]:
    """Record no steps inside the context."""
    with mock.patch.dict(os.environ, {"CHARRNN_CAPTURE": "0" if is_eager else "1"}):
        yield


def losses(bptt: TruncatedBPTT, num_steps: int) -> list[float]:
    """The losses of steps."""
    found = []
    for _ in range(num_steps):
        bptt.step(learning_rate=1e-3)
        found.append(bptt.loss.clone())
    return torch.stack(found).tolist()


def is_recorded(step: Callable[[], None]) -> bool:
    """True if a step is launched as a recording."""
    return isinstance(step, CapturedStep) and step.is_recorded


def recorded(bench: Bench) -> None:
    """Part 1."""
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    driver = subprocess.getoutput("nvidia-smi --query-gpu=driver_version --format=csv,noheader")
    runtime = open_runtime(bench.device)
    report(
        what="versions", name=device_name(runtime.device), driver=driver[:20], precision=runtime.precision, **versions
    )
    cells: tuple[Cell, ...] = ("lstm", "gru", "rnn")
    for cell, precision, vocab_size in itertools.product(cells, bench.precisions(), bench.scale.vocab_sizes):
        case = {"cell": cell, "precision": precision, "vocab_size": vocab_size}
        with attempt("recorded", **case), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bptt = bench.bptt(bench.config(cell=cell, vocab_size=vocab_size), open_runtime(bench.device, precision))
            first, *_, last = losses(bptt, 8)
            reasons = [str(each.message)[:80] for each in caught]
            report(what="recorded", **case, recorded=is_recorded(bptt._update), first=first, last=last, reasons=reasons)


def steps(bench: Bench) -> None:
    """Part 2."""
    scale = bench.scale
    for optimizer, precision in itertools.product(("muon", "adamw"), bench.precisions()):
        with attempt("steps", optimizer=optimizer, precision=precision):
            runtime = open_runtime(bench.device, precision)
            figures: dict[bool, Any] = {}
            for is_eager in (False, True):
                with eager(is_eager=is_eager):
                    bptt = bench.bptt(bench.config(), runtime, optimizer)  # type: ignore[arg-type]
                    found = losses(bptt, scale.steps)
                    runtime.synchronize()
                    begin = time.perf_counter()
                    losses(bptt, scale.steps)
                    figures[is_eager] = found, 1e6 * (time.perf_counter() - begin) / scale.steps
            (a, recorded_us), (b, eager_us) = figures[False], figures[True]
            apart = [max(abs(x - y) for x, y in zip(a[:n], b[:n], strict=True)) for n in (10, scale.steps)]
            report(
                what="steps",
                optimizer=optimizer,
                precision=precision,
                recorded_us=recorded_us,
                eager_us=eager_us,
                chars_per_second=1e6 * bptt.layout.symbols_per_step / recorded_us,
                apart_10=apart[0],
                apart_all=apart[1],
                last=a[-1],
            )
    runtime = open_runtime(bench.device)
    for records in (False, True):
        with attempt("bare loop", records=records):
            layout = Layout(*scale.layout, 1, 0)
            bare = bare_training(bench.config(dropout=0.0), layout, runtime, records=records)
            rate = measure_rates({"": bare}, runtime, scale.seconds / ROUNDS)[""]
            report(what="bare loop", precision=runtime.precision, records=records, chars_per_second=rate)
    with attempt("kernels"):
        bptt = bench.bptt(bench.config(), runtime)
        losses(bptt, 8)
        activity = ProfilerActivity.CUDA if bench.device == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            losses(bptt, 8)
        times = {row.key: row.self_device_time_total or row.self_cpu_time_total for row in profiler.key_averages()}
        for name, spent in sorted(times.items(), key=lambda item: -item[1])[:12]:
            report(what="kernels", name=name[:70], share=spent / sum(times.values()))


def failures(bench: Bench) -> None:
    """Part 3."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = bench.corpus(folder, min(bench.scale.text_sizes))
        with attempt("Ctrl-C"):
            report(what="Ctrl-C", **interrupted(bench, folder, text, signal.SIGINT, "interrupted"))
        with attempt("resume"):
            whole, broken = folder / "whole", folder / "broken"
            subprocess.run(train(bench, folder, text, whole), check=True, capture_output=True)
            outcome = interrupted(bench, folder, text, signal.SIGTERM, broken.name)
            subprocess.run([*train(bench, folder, text, broken), "--resume"], check=True, capture_output=True)
            ends = [Checkpoint.load(path / "last.safetensors").snapshot.tensors for path in (whole, broken)]
            differing = [key for key, tensor in ends[0].items() if not torch.equal(tensor, ends[1][key])]
            report(what="resume", **outcome, tensors=len(ends[0]), differing=differing)


def train(bench: Bench, folder: Path, text: Path, run: Path) -> list[str]:
    """A deterministic training of some seconds."""
    options = ["--data-dir", folder, "--run", run, "--seed", 1, "--deterministic", "--quiet"]
    budget = ["--steps", bench.scale.run_steps, "--checkpoint-every", bench.scale.run_steps // 10]
    return bench.command("train", text, "--hidden-size", bench.scale.hidden_size, *budget, *options)


def interrupted(bench: Bench, folder: Path, text: Path, number: signal.Signals, name: str) -> dict[str, Any]:
    """Send a signal to a training once it has saved; returns how it ended."""
    run = folder / name
    process = subprocess.Popen(train(bench, folder, text, run), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (run / "last.safetensors").exists():
        time.sleep(0.05)
    process.send_signal(number)
    begin = time.perf_counter()
    message = process.communicate()[1].strip().splitlines()[-1:]
    step = Checkpoint.load(run / "last.safetensors").snapshot.progress.step
    seconds = time.perf_counter() - begin
    return {"rc": process.returncode, "step": step, "seconds": seconds, "message": message}


def tests(bench: Bench) -> None:
    """Part 4."""
    line = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-rf", "--continue-on-collection-errors", "tests"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    for outcome in done.stdout.strip().splitlines()[-20:]:
        if outcome.startswith(("FAILED", "ERROR")) or outcome[:1].isdigit():
            report(what="tests", rc=done.returncode, outcome=outcome)


def training(bench: Bench) -> None:
    """Part 5."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for num_bytes in bench.scale.text_sizes:
            with attempt("plain", text=num_bytes):
                begin = time.perf_counter()
                end = trained(bench, folder, bench.corpus(folder, num_bytes), *bench.scale.plain_budget)
                report(what="plain", text=num_bytes, **end, seconds=time.perf_counter() - begin)
        text = bench.corpus(folder, max(bench.scale.text_sizes))
        optimizers: tuple[Optimizer, ...] = ("muon", "adamw")
        for (L, H), optimizer, factor in itertools.product(bench.scale.shapes, optimizers, (1.0, 0.5)):
            case = {"shape": f"{L}x{H}", "optimizer": optimizer}
            config = ModelConfig(vocab_size=V, num_layers=L, hidden_size=H)
            peak = factor * default_learning_rate(config, optimizer, chars_per_step=1024)
            with attempt("shape", **case, learning_rate=peak):
                options = ["--num-layers", L, "--hidden-size", H, "--optimizer", optimizer, "--learning-rate", peak]
                report(what="shape", **case, **trained(bench, folder, text, *options, "--minutes", bench.scale.minutes))


def trained(bench: Bench, folder: Path, text: Path, *options: object) -> dict[str, Any]:
    """The figures that a training ends with."""
    where = ["--data-dir", folder, "--run", folder / "run", "--overwrite", "--seed", 1, "--json", "--quiet"]
    done = subprocess.run(bench.command("train", text, *where, *options), capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    end = json.loads(done.stdout)
    model, config = end["definition"]["model"], end["definition"]["training"]
    return {
        "model": f"{model['num_layers']}x{model['hidden_size']}",
        "layout": f"{config['batch_size']}x{config['seq_length']}",
        "learning_rate": config["learning_rate"],
        **{key: end[key] for key in ("best_val_loss", "steps", "epochs", "elapsed_s", "chars_per_second")},
    }


def sampling(bench: Bench) -> None:
    """Part 6."""
    scale = bench.scale
    for L, H in scale.shapes:
        config = ModelConfig(vocab_size=V, num_layers=L, hidden_size=H, embedding_size=128)
        runtime = fastest_runtime(open_runtime(bench.device), config)
        loop = measure_rates({"": bare_sampling(config, runtime)}, runtime, scale.seconds / ROUNDS)[""]
        for num_samples, is_eager in itertools.product(scale.num_samples, (False, True)):
            case = {"shape": f"{L}x{H}", "num_samples": num_samples, "eager": is_eager}
            with attempt("sampling", **case), eager(is_eager=is_eager):
                rate = rate_of(config, runtime, num_samples, scale.seconds)
                report(
                    what="sampling",
                    **case,
                    precision=runtime.precision,
                    chars_per_second=rate,
                    loop=loop,
                    times_the_loop=rate / loop,
                )
    with tempfile.TemporaryDirectory() as name, attempt("first character"):
        folder = Path(name)
        trained(bench, folder, bench.corpus(folder, min(scale.text_sizes)), "--steps", 20, "--hidden-size", 32)
        for _ in range(3):
            begin = time.perf_counter()
            line = bench.command("sample", folder / "run", "--length", 200, "--seed", 1)
            with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.read(1)
                report(what="first character", seconds=time.perf_counter() - begin)


PARTS = (recorded, steps, failures, tests, training, sampling)


def run_part(number: int, arguments: list[str], limit_s: float) -> list[dict[str, Any]]:
    """Run a part in a process and pass its lines on; returns them, with one on how it ended."""
    begin = time.perf_counter()
    command = ["timeout", str(limit_s), sys.executable, "-m", "tests.benchmarks.gpu", "--inside", str(number)]
    lines = []
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    seconds = time.perf_counter() - begin
    end = {"what": "parts", "part": number, "rc": process.returncode, "seconds": seconds}
    if process.returncode:
        end["error"] = "it failed or ran past its time limit"
    report(**end)
    return [*lines, end]


def print_tables(lines: list[dict[str, Any]]) -> None:
    """A table for each kind of line."""
    for what in dict.fromkeys(line["what"] for line in lines):
        rows = [{k: shown(v) for k, v in line.items() if k != "what"} for line in lines if line["what"] == what]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        widths = [max(len(column), *(len(row.get(column, "")) for row in rows)) for column in columns]
        print(f"\n{what}")
        for row in [dict(zip(columns, columns, strict=True)), *rows]:
            cells = zip(columns, widths, strict=True)
            print("  ".join(row.get(column, "").ljust(width) for column, width in cells).rstrip())


def shown(value: object) -> str:
    """A value in a cell."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def main() -> None:
    """Run the parts, each in a process; or, `--inside` such a process, one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, action="append", choices=range(1, len(PARTS) + 1))
    parser.add_argument("--text", type=Path, help="the text to train on; default: Python sources")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--limit", type=float, default=580, help="seconds that a part may take")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    text = arguments.text and arguments.text.resolve()
    if arguments.inside is not None:
        scale = Scale() if arguments.device == "cuda" else REDUCED
        PARTS[arguments.inside - 1](Bench(arguments.device, text, scale))
        return
    options = ["--device", arguments.device, *(["--text", str(text)] if text else [])]
    lines = []
    for number in arguments.part or range(1, len(PARTS) + 1):
        lines += run_part(number, options, arguments.limit)
    print_tables(lines)
    sys.exit(any("error" in line for line in lines))


if __name__ == "__main__":
    main()
