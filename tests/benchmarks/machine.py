"""Training, sampling and preparing on this machine, each beside reference rates, in turn; medians of rounds.

Run by hand on an otherwise idle machine, from the project's root:

    python -m tests.benchmarks.machine [--size small] [--device cuda] [--json]

Letters in shapes: T time steps, B parallel streams, V vocabulary size, H hidden size, L layers.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import SIZES, ModelConfig, PreparationConfig, SamplingConfig, TrainingConfig
from charrnn.machine.probes import device_name
from charrnn.machine.runtime import Runtime, open_runtime
from charrnn.model.network import CharRNN, count_multiplications
from charrnn.model.stepper import fastest_runtime
from charrnn.sampling.generate import Sampler
from charrnn.text.corpus import prepare
from charrnn.text.sources import find_sources
from charrnn.text.tokenizers import CharTokenizer
from charrnn.training.heuristics import choose_layout
from charrnn.training.streams import Layout, TrainingText
from charrnn.training.trainer import Trainer

_SYMBOLS = tuple(chr(ord("!") + i) for i in range(65))  # as in Shakespeare
ROUNDS = 5
_SECONDS = 0.7
_MANY_STREAMS = 64
_LARGE_MATRIX = 2048  # rows and columns
_TEXT_BYTES = 2**25
_COPIED_BYTES = 2**28  # larger than any cache

Work = Callable[[], float]
"""A short piece of work that returns its amount, in units of the measurement."""


@dataclass(frozen=True)
class Measurement:
    """A rate, the median of several rounds, and reference rates in the same unit."""

    name: str
    unit: str
    rate: float
    references: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """The fields, and the rate as a share of each reference."""
        return asdict(self) | {"shares": {name: self.rate / rate for name, rate in self.references.items()}}


def run_benchmark(shape: Mapping[str, Any], config: TrainingConfig, runtime: Runtime) -> Iterator[Measurement]:
    """Measure this machine with a model of this shape (the fields of a ModelConfig except `vocab_size`)."""
    model_config = ModelConfig(vocab_size=len(_SYMBOLS), **shape)
    products = measure_rates({"": _matrix_products(runtime)}, runtime)[""] / (2 * count_multiplications(model_config))
    yield _training(model_config, config, runtime, products)
    yield from _sampling(model_config, runtime)
    yield _preparing(runtime)


def measure_rates(works: Mapping[str, Work], runtime: Runtime, round_seconds: float = _SECONDS) -> dict[str, float]:
    """Units per second of each work, measured in turn so that slow moments of the machine affect all alike."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # warm-up
    for _ in range(ROUNDS):
        for name, work in works.items():
            runtime.synchronize()
            begin, done = time.perf_counter(), 0.0
            while time.perf_counter() - begin < round_seconds:
                done += work()
                runtime.synchronize()
            rates[name].append(done / (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in rates.items()}


def _compare(name: str, unit: str, works: Mapping[str, Work], runtime: Runtime, **bounds: float) -> Measurement:
    """Measure the first work against the others and against given bounds."""
    ours, *others = measure_rates(works, runtime).items()
    return Measurement(name, unit, ours[1], dict(others) | bounds)


def _matrix_products(runtime: Runtime) -> Work:
    """Floating-point operations of large matrix products in the precision of the run."""
    size = _LARGE_MATRIX if runtime.shares_host_memory else 4 * _LARGE_MATRIX  # to keep the whole device busy
    a, b = (torch.randn(size, size, device=runtime.device, dtype=runtime.dtype) for _ in range(2))

    def work() -> float:
        for _ in range(5):
            torch.mm(a, b)
        return 5 * 2.0 * size**3

    return work


def _training(config: ModelConfig, training: TrainingConfig, runtime: Runtime, products: float) -> Measurement:
    """Training without dropout. A step has three times the multiplications of a forward pass."""
    ids = torch.randint(config.vocab_size, (1_000_000,), dtype=torch.uint8)
    endless = replace(training, epochs=None, minutes=None, steps=10**9, eval_every=10**9, val_fraction=0.0)
    endless = choose_layout(endless, len(ids), runtime)
    text = TrainingText.split(ids, endless)
    trainer = Trainer(CharRNN(config), endless, text, runtime)
    events = trainer.run()

    def steps() -> float:
        return sum(text.layout.symbols_per_step for _ in itertools.islice(events, 5))

    works = {"ours": steps, "bare loop": bare_training(config, text.layout, runtime, records=False)}
    if runtime.captures:
        works["bare loop, recorded"] = bare_training(config, text.layout, runtime, records=True)
    name = f"training, {text.layout.batch_size} x {text.layout.seq_length}, {runtime.precision}"
    return _compare(name, "characters/s", works, runtime, **{"matrix products alone": products / 3})


class _BareModel(nn.Module):
    """An embedding, an nn.LSTM, nn.GRU or nn.RNN, and a linear layer, as in a tutorial."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        V, E, H = config.vocab_size, config.embedding_size or 64, config.hidden_size
        layers = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[config.cell]
        self.embedding = nn.Embedding(V, E)
        self.layers = layers(E, H, config.num_layers)
        self.head = nn.Linear(H, V)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, state = self.layers(self.embedding(x), state)
        return self.head(outputs), state


def bare_training(config: ModelConfig, layout: Layout, runtime: Runtime, *, records: bool) -> Work:
    """A training loop without state resets, reports or checks, on a single chunk.

    It `records` its step where a GPU can, so that no time goes into launching the operations.
    """
    B, T = layout.batch_size, layout.seq_length
    model = _BareModel(config).to(runtime.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=records)
    scaler = runtime.gradient_scaler()
    text = torch.randint(config.vocab_size, (T + 1, B), device=runtime.device)
    is_lstm = config.cell == "lstm"
    shape = (config.num_layers, B, config.hidden_size)
    state = tuple(torch.zeros(shape, device=runtime.device) for _ in range(1 + is_lstm))

    def step() -> None:
        optimizer.zero_grad()
        with runtime.autocast():
            logits, after = model(text[:-1], state if is_lstm else state[0])
        loss = F.cross_entropy(logits.float().flatten(0, 1), text[1:].flatten())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        for buffer, tensor in zip(state, after if is_lstm else [after], strict=True):
            buffer.copy_(tensor.detach())

    take_step = runtime.capture(step) if records else step

    def steps() -> float:
        for _ in range(5):
            take_step()
        return 5.0 * B * T

    return steps


def _sampling(config: ModelConfig, runtime: Runtime) -> Iterator[Measurement]:
    """Sampling with `sample`: one stream, then many at once."""
    H = config.hidden_size
    weights, x = (
        torch.randn(count_multiplications(config) // H, H, device=runtime.device),
        torch.randn(H, device=runtime.device),
    )

    def read() -> float:
        for _ in range(10):
            torch.mv(weights, x)
        return 10.0

    bare = bare_sampling(config, runtime)
    exact, fastest = replace(runtime, dtype=torch.float32), fastest_runtime(runtime, config)
    for single in (exact, fastest) if fastest != exact else (exact,):
        works = {"ours": _pieces(config, 1, single), "bare loop": bare, "reading float32 weights": read}
        yield _compare(f"sampling, one sample, {single.precision}", "characters/s", works, runtime)
    works = {"ours": _pieces(config, _MANY_STREAMS, fastest), "bare loop, one sample": bare}
    name = f"sampling, {_MANY_STREAMS} samples, {fastest.precision}"
    yield _compare(name, "characters/s", works, runtime)


def _pieces(config: ModelConfig, num_samples: int, runtime: Runtime) -> Work:
    tokenizer = CharTokenizer(_SYMBOLS, (1,) * len(_SYMBOLS))
    endless = SamplingConfig(length=2**31 - 1, num_samples=num_samples)
    pieces = Sampler(CharRNN(config).to(runtime.device), tokenizer, endless, runtime).sample(seed=0)
    return lambda: float(sum(len(piece.text) for piece in itertools.islice(pieces, num_samples)))


def bare_sampling(config: ModelConfig, runtime: Runtime) -> Work:
    """A loop of one model call and one multinomial draw per character."""
    model = _BareModel(config).to(runtime.device).eval()
    symbol, state = 0, None

    @torch.inference_mode()
    def characters() -> float:
        nonlocal symbol, state
        for _ in range(20):
            logits, state = model(torch.tensor([[symbol]], device=runtime.device), state)
            symbol = int(torch.multinomial(logits[0, 0].softmax(-1), 1).item())
        return 20.0

    return characters


def _preparing(runtime: Runtime) -> Measurement:
    """Preparing a text file, beside copying as many bytes in memory."""
    line = "".join(random.Random(0).choices(_SYMBOLS, k=1023)) + "\n"
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)

    def copy() -> float:
        target.copy_(source)
        return _COPIED_BYTES / 1e6

    with tempfile.TemporaryDirectory() as folder:
        text, output = Path(folder, "text.txt"), Path(folder, "text.safetensors")
        text.write_text(line * (_TEXT_BYTES // len(line)))
        sources = find_sources([str(text)])

        def work() -> float:
            prepare(sources, PreparationConfig(), output, overwrite=True)
            return _TEXT_BYTES / 1e6

        return _compare("preparing", "MB/s", {"ours": work, "copying in memory": copy}, runtime)


_COLUMNS = "{:32} {:>12} {:14} {:>12}  {:26} {:>7}"


def rows(measurement: Measurement) -> list[str]:
    """One line per reference rate."""
    head = (measurement.name, f"{measurement.rate:,.0f}", measurement.unit)
    lines = []
    for name, rate in measurement.references.items():
        lines.append(_COLUMNS.format(*head, f"{rate:,.0f}", name, f"{measurement.rate / rate:,.3g}x"))
        head = ("", "", "")
    return lines


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seq-length", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = TrainingConfig(batch_size=arguments.batch_size, seq_length=arguments.seq_length)
    runtime = open_runtime(arguments.device, arguments.precision)
    measurements = run_benchmark(SIZES[arguments.size], config, runtime)
    if arguments.json:
        print(json.dumps([measurement.to_json() for measurement in measurements]))
        return
    print(f"measuring on {device_name(runtime.device)}, {runtime.device}, {arguments.size} model", file=sys.stderr)
    print(_COLUMNS.format("", "rate", "", "beside", "", "share").rstrip())
    for measurement in measurements:
        print("\n".join(rows(measurement)), flush=True)


if __name__ == "__main__":
    main()
