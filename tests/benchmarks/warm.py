"""Loss after a time of a training that starts from another text's model, beside one that starts afresh: three seeds.

Run by hand on an otherwise idle machine, from the project's root; further options go to both trainings:

    python -m tests.benchmarks.warm data/tales.txt --source ../shared/corpora/fairy-tales.txt --minutes 0.5

A source that is a text is trained on once, for three minutes; otherwise it is the folder of a run, or `english`. Losses
are those of the best checkpoint on the whole validation text, its state carried.
"""

import argparse
import json
import tempfile
from pathlib import Path

from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.corpus import Corpus
from charrnn.training.streams import TrainingText
from tests.benchmarks.foundation import CHARRNN, measure, show
from tests.benchmarks.quality import SEEDS, carried_loss

SOURCE_MINUTES = 3


def train(text: Path, run: str, folder: Path, *options: object) -> float:
    """Train in a folder. Returns: the loss of the best checkpoint on the validation text."""
    command = [*CHARRNN, "train", text.resolve(), *options, "--run", run, "--quiet", "--json"]
    summary = json.loads(measure(command, folder))
    checkpoint = Checkpoint.load(folder / summary["checkpoint"])
    corpus = Corpus.open(folder / "data" / f"{text.stem}.safetensors")
    model, config = checkpoint.build_model(), checkpoint.training_config
    loss = carried_loss(model, TrainingText.split(corpus.ids, config).val)
    print(
        f"{run}: {loss:.4f} nats, 1 x {model.config.hidden_size}, dropout {model.config.dropout:g}, learning rate "
        f"{config.learning_rate:.3g}, {summary['epochs']:.3g} epochs, {summary['chars_per_second']:,} characters/s",
        flush=True,
    )
    return loss


def main() -> None:
    """Train the source, then the text from it and afresh, in turn, with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    arguments, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.source.resolve() if arguments.source.exists() else arguments.source  # a run's name
        if source.is_file():
            train(source, "source", folder, "--minutes", SOURCE_MINUTES, "--seed", 1)
            source = folder / "source"
        afresh, warm = [], []
        for seed in SEEDS:
            afresh.append(train(arguments.corpus, f"afresh-{seed}", folder, *options, "--seed", seed))
            warm.append(
                train(arguments.corpus, f"warm-{seed}", folder, *options, "--seed", seed, "--init-from", source)
            )
    show("afresh", afresh, "nats")
    show("warm", warm, "nats")
    show("  afresh - warm, seed by seed", [a - b for a, b in zip(afresh, warm, strict=True)], "nats")


if __name__ == "__main__":
    main()
