"""Sampling beside the usual loop and the weight-read floor, in turn; int8's loss; the time to the first character.

Run by hand on an otherwise idle machine, from the project's root:

    python -m tests.benchmarks.sampling [--device cuda] [--baselines FOLDER] [--checkpoint FILE --text TEXT]
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from charrnn.config import ModelConfig, SamplingConfig
from charrnn.machine.runtime import SAMPLING_PRECISIONS, Runtime, open_runtime
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Stepper
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sampling.generate import Sampler
from charrnn.text.tokenizers import CharTokenizer
from tests.benchmarks.foundation import CHARRNN, ROOT, RUNS, measure, options, show

TOKENIZER = CharTokenizer(tuple(map(chr, range(40, 105))), (1,) * 65)
_SECONDS = 5.0
_LONG_PROMPT = 500_000

CASES = {
    "cpu": [
        (2, 512, 1, "float32"),
        (2, 512, 1, "bfloat16"),
        (2, 512, 1, "int8"),
        (2, 512, 64, "int8"),
        (2, 512, 64, "bfloat16"),
        (2, 512, 256, "bfloat16"),
        (1, 512, 1, "int8"),
        (1, 128, 1, "float32"),
    ],
    "cuda": [(2, 512, 1, "float16"), (2, 512, 64, "float16"), (2, 512, 1024, "float16"), (1, 128, 1, "float32")],
}
"""Layers, hidden size, samples at once, precision."""


def rate(num_layers: int, hidden_size: int, num_samples: int, precision: str, device: str) -> float:
    """Characters per second of all samples together, as `charrnn sample` draws them, at temperature 0.8."""
    config = ModelConfig(vocab_size=65, hidden_size=hidden_size, num_layers=num_layers, embedding_size=64)
    return rate_of(config, open_runtime(device, precision, SAMPLING_PRECISIONS), num_samples, _SECONDS)


def rate_of(config: ModelConfig, runtime: Runtime, num_samples: int, seconds: float) -> float:
    """Characters per second of all samples together, of a new model of this shape."""
    endless = SamplingConfig(length=2**31 - 1, num_samples=num_samples, temperature=0.8)
    pieces = Sampler(CharRNN(config).to(runtime.device), TOKENIZER, endless, runtime).sample(seed=0)
    for _ in range(6 * num_samples):
        next(pieces)
    begin, num_chars = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        num_chars += sum(len(next(pieces).text) for _ in range(num_samples))
    return num_chars / (time.perf_counter() - begin)


def speed(baselines: Path, device: str) -> None:
    """Each case as a multiple of the usual loop, and of the floor, that were measured just before it."""
    for case in CASES[device]:
        num_layers, hidden_size, num_samples, precision = case
        rates: dict[str, list[float]] = {"ours": [], "loop": [], "floor": []}
        for _ in range(RUNS):
            shape = options(num_layers=num_layers, hidden_size=hidden_size, device=device, seconds=_SECONDS)
            bare = json.loads(measure([sys.executable, baselines / "bare_sampling.py", *shape]))
            rates["loop"].append(bare["loop_chars_per_second"])
            rates["floor"].append(bare["float32_weight_read_floor_per_second"])
            rates["ours"].append(rate(*case, device))
        print(f"{num_layers}x{hidden_size}, {num_samples} at once, {precision}")
        show("  charrnn", rates["ours"], "chars/s")
        for name in ("loop", "floor"):
            show(f"  {name}", rates[name], "chars/s")
            show(f"  as a multiple of the {name}", [a / b for a, b in zip(rates["ours"], rates[name], strict=True)], "")


def held_out_loss(model: CharRNN, text: Tensor, runtime: Runtime, num_streams: int = 128, warm_up: int = 100) -> float:
    """Nats per character of a text's streams, read step by step."""
    streams = text[: len(text) // num_streams * num_streams].view(num_streams, -1).t().long()
    stepper, losses = Stepper(model, runtime, num_streams), []
    stepper.set_state(list(range(num_streams)), stepper.read(streams[:1, 0]))
    with torch.inference_mode():
        for t, (symbols, following) in enumerate(itertools.pairwise(streams)):
            stepper.step(symbols)
            if t >= warm_up:
                losses.append(-stepper.logits.log_softmax(-1).gather(1, following[:, None]).mean())
    return float(torch.stack(losses).mean())


def precisions(path: Path, text: Path) -> None:
    """The loss of the last tenth of the text in each precision, less that of float32."""
    checkpoint = Checkpoint.load(path)
    characters = text.read_text(encoding="utf-8")
    held_out = checkpoint.tokenizer.encode(characters[-len(characters) // 10 :])
    model = checkpoint.build_model()
    cpu = torch.device("cpu")
    exact = held_out_loss(model, held_out, Runtime(cpu, torch.float32))
    for name, runtime in (
        ("bfloat16", Runtime(cpu, torch.bfloat16)),
        ("int8", Runtime(cpu, torch.int8)),
    ):
        loss = held_out_loss(model, held_out, runtime)
        print(f"{path}: {name} {loss:.5f}, float32 {exact:.5f}, difference {loss - exact:+.5f} nats", flush=True)


def prompt(path: Path, text: Path) -> None:
    """Characters per second of a prompt, without the time that a prompt of one character takes."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = [Path(folder, name) for name in ("short", "long")]
        characters = text.read_text(encoding="utf-8")[-_LONG_PROMPT:]
        for prompt_file, content in zip(prompts, (characters[:1], characters), strict=True):
            prompt_file.write_text(content, encoding="utf-8")
        rates = []
        for _ in range(RUNS):
            seconds = []
            for prompt_file in prompts:
                begin = time.perf_counter()
                measure([*CHARRNN, "sample", path, "--prompt-file", prompt_file, "--no-echo", "-n", "1"])
                seconds.append(time.perf_counter() - begin)
            rates.append(len(characters) / (seconds[1] - seconds[0]))
    show(f"prompt of {_LONG_PROMPT:,} characters", rates, "chars/s")


def first_character(path: Path) -> None:
    """Seconds from the shell to the first character, beside importing torch."""
    seconds: dict[str, list[float]] = {"charrnn sample -n 200": [], "python -c 'import torch'": []}
    commands = [[*CHARRNN, "sample", str(path), "-n", "200"], [sys.executable, "-c", "import torch; print(1)"]]
    for _ in range(2 * RUNS):
        for command, values in zip(commands, seconds.values(), strict=True):
            begin = time.perf_counter()
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                process.stdout.read(1)
                values.append(time.perf_counter() - begin)
                process.stdout.read()
    for name, values in seconds.items():
        show(name, values, "s")
    sampled, imported = seconds.values()
    print(f"  median above import torch: {statistics.median(sampled) - statistics.median(imported):.3f} s", flush=True)


def main() -> None:
    """Measure everything that the options allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(CASES), default="cpu")
    parser.add_argument("--baselines", type=Path, default=ROOT.parent / "shared" / "baselines")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--text", type=Path)
    arguments = parser.parse_args()
    if arguments.checkpoint is not None:
        first_character(arguments.checkpoint.resolve())
        if arguments.text is not None:
            prompt(arguments.checkpoint.resolve(), arguments.text)
            precisions(arguments.checkpoint, arguments.text)
    speed(arguments.baselines.resolve(), arguments.device)


if __name__ == "__main__":
    main()
