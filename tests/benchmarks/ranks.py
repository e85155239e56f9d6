"""The message between processes in a training step, beside the whole step, three rounds in turn.

Run by hand on an otherwise idle machine, from the project's root:

    torchrun --standalone --nproc-per-node 2 -m tests.benchmarks.ranks

The message is timed by itself, with the copies before and after it, in processes that have nothing else to wait for.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

from charrnn.config import SIZES, ModelConfig, TrainingConfig
from charrnn.machine.distributed import Ranks, joined
from charrnn.machine.runtime import open_runtime
from charrnn.model.network import CharRNN
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.streams import TrainingText
from tests.benchmarks.foundation import show

ROUNDS, SECONDS = 3, 4.0


def median_seconds(work: Callable[[], object], ranks: Ranks) -> float:
    """The median duration of a piece of work in rank 0, done as often in each process as rank 0 can in some seconds."""
    durations: list[float] = []
    begin, is_over = time.perf_counter(), False
    while not is_over:
        before = time.perf_counter()
        work()
        durations.append(time.perf_counter() - before)
        is_over = ranks.agree(time.perf_counter() - begin, stop=False)[0] > SECONDS
    return statistics.median(durations[3:] or durations)


def main() -> None:
    """Measure both sizes."""
    with joined("auto") as ranks:
        runtime = open_runtime(ranks=ranks)
        config = TrainingConfig(steps=1, batch_size=32, seq_length=32)
        ids = torch.randint(65, (1_000_000,), generator=torch.Generator().manual_seed(1))
        text = TrainingText.split(ids, config, num_ranks=ranks.size)
        for size in ("medium", "large"):
            bptt = TruncatedBPTT(CharRNN(ModelConfig(vocab_size=65, **SIZES[size])), config, text, runtime)

            def step(bptt: TruncatedBPTT = bptt) -> None:
                bptt.step(1e-3)
                runtime.synchronize()

            def send(bptt: TruncatedBPTT = bptt) -> None:
                ranks.average(bptt.model.parameters(), bptt.loss)
                runtime.synchronize()

            steps, messages = [], []
            for _ in range(ROUNDS):
                steps.append(1e3 * median_seconds(step, ranks))
                messages.append(1e3 * median_seconds(send, ranks))
            if ranks.is_first:
                show(f"{size}, a step of {ranks.size} processes", steps, "ms")
                show("  its message", messages, "ms")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # as the command does
