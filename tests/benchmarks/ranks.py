"""The share of the message between processes in a training step, three rounds in turn.

Run by hand on an otherwise idle machine, from the project's root:

    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.ranks

Each round times steps with the message and without it, which then train apart.
"""

import statistics
import time

import torch

from charrnn.config import SIZES, ModelConfig, TrainingConfig
from charrnn.machine.distributed import ALONE, Ranks, joined
from charrnn.machine.runtime import find_device, open_runtime
from charrnn.model.network import CharRNN
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.streams import TrainingText
from tests.benchmarks.foundation import show

ROUNDS, SECONDS = 3, 4.0


def seconds_of_steps(bptt: TruncatedBPTT, ranks: Ranks) -> float:
    """The median duration of a step in rank 0, of as many in each process as rank 0 can take in some seconds."""
    durations: list[float] = []
    begin, stop = time.perf_counter(), False
    while not stop:
        before = time.perf_counter()
        bptt.step(1e-3)
        bptt.runtime.synchronize()
        durations.append(time.perf_counter() - before)
        seconds, _ = ranks.agree(time.perf_counter() - begin, stop=False)
        stop = seconds > SECONDS
    return statistics.median(durations[3:] or durations)


def main() -> None:
    """Measure both sizes."""
    device = find_device("auto")
    with joined(device) as ranks:
        for size in ("medium", "large"):
            shares, steps = [], []
            for _ in range(ROUNDS):
                rate = {}
                for name, used in (("with", ranks), ("without", ALONE)):
                    runtime = open_runtime(str(device), ranks=used)
                    batch_size = 32 if used is ranks else 32 // ranks.size
                    config = TrainingConfig(steps=1, batch_size=batch_size, seq_length=32)
                    indices = torch.randint(65, (1_000_000,), generator=torch.Generator().manual_seed(1))
                    text = TrainingText.split(indices, config, num_ranks=used.size)
                    model = CharRNN(ModelConfig(vocab_size=65, **SIZES[size]))
                    rate[name] = seconds_of_steps(TruncatedBPTT(model, config, text, runtime), ranks)
                steps.append(1e3 * rate["with"])
                shares.append(1 - rate["without"] / rate["with"])
            if ranks.is_first:
                show(f"{size}, a step of {ranks.size} processes", steps, "ms")
                show("  share of the message", shares, "")


if __name__ == "__main__":
    main()
