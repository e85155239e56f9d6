"""Loss on held-out text after a time, in both protocols: three seeds; medians and ranges.

Run by hand on an otherwise idle machine, from the project's root; further options go to `charrnn train`:

    python -m tests.benchmarks.quality ../shared/corpora/tinyshakespeare.txt --minutes 3 [--size large]

Carried: the validation text is read once through, its state carried. Windowed, as nanoGPT measures: windows of
256 at random places of the validation text, each from an empty state, every position counted.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.machine.runtime import open_runtime
from charrnn.model.network import CharRNN, evaluating
from charrnn.model.scoring import evaluate
from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.corpus import Corpus
from charrnn.training.streams import TrainingText
from tests.benchmarks.foundation import CHARRNN, measure, show

SEEDS = (11, 12, 13)
WINDOW, WINDOWS, BATCH_SIZE = 256, 4096, 128


@torch.no_grad()
def windowed_loss(model: CharRNN, ids: Tensor) -> float:
    """Mean loss in nats over random windows, drawn with a seed of their own: the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(len(ids) - WINDOW, (WINDOWS,), generator=generator)
    losses = []
    with evaluating(model):
        for batch in starts.split(BATCH_SIZE):
            text = torch.stack([ids[i : i + WINDOW + 1] for i in batch.tolist()], dim=1).long()
            logits, _ = model(text[:-1])
            losses.append(F.cross_entropy(logits.flatten(0, 1), text[1:].flatten()))
    return float(torch.stack(losses).mean())


def carried_loss(model: CharRNN, ids: Tensor) -> float:
    """Mean loss in nats, in float32, of one pass over the text."""
    return evaluate(model, ids, open_runtime("cpu", "float32")).loss


def main() -> None:
    """Train with each seed, then measure the best checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    arguments, options = parser.parse_known_args()
    columns: dict[str, list[float]] = {"carried": [], "windowed": [], "wall-clock": [], "overhead": [], "rate": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            command = [*CHARRNN, "train", arguments.corpus.resolve(), *options, "--seed", seed, "--overwrite", "--json"]
            begin = time.perf_counter()
            summary = json.loads(measure(command, Path(folder)))
            total = time.perf_counter() - begin
            checkpoint = Checkpoint.load(Path(folder, summary["checkpoint"]))
            corpus = Corpus.open(Path(folder, "data", f"{arguments.corpus.stem}.safetensors"))
            val = TrainingText.split(corpus.ids, checkpoint.training_config).val
            model = checkpoint.build_model()
            elapsed = summary["elapsed_s"]
            columns["carried"].append(carried_loss(model, val))
            columns["windowed"].append(windowed_loss(model, val))
            columns["wall-clock"].append(elapsed)
            columns["overhead"].append(100 * (1 - summary["chars"] / summary["chars_per_second"] / elapsed))
            columns["rate"].append(summary["chars_per_second"])
            print(
                f"seed {seed}: carried {columns['carried'][-1]:.4f}, windowed {columns['windowed'][-1]:.4f}, "
                f"{math.ceil(summary['epochs'])} epochs, {total - elapsed:.1f} s before and after the run",
                flush=True,
            )
    units = {"carried": "nats", "windowed": "nats", "wall-clock": "s", "overhead": "%", "rate": "chars/s"}
    for name, values in columns.items():
        show(name, values, units[name])


if __name__ == "__main__":
    main()
