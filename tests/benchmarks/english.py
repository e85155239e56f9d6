"""The model `english` that comes with charrnn: train it, round it to 8 bits, measure it, and write it to the package.

Run by hand from the project's root, with the books described in `docs/english.md` in a folder; about 80 minutes on two
cores with AMX. A run that was interrupted is continued:

    python -m tests.benchmarks.english ../shared/corpora/english --run checkpoints/english-books

Four whole books are held out: fairy tales, Celtic myths, a collection of stories and a novel, one of each.
"""

import argparse
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import PRETRAINED, RunFolder
from charrnn.text.corpus import Corpus
from tests.benchmarks.foundation import CHARRNN
from tests.benchmarks.quality import carried_loss

HELD_OUT = ("english-fairy-tales", "high-deeds-of-finn", "jungle-book", "evelinas-garden")
PREPARATION = ("--min-count", "10")
TRAINING = (
    *("--hidden-size", "704", "--embedding-size", "128", "--dropout", "0.1"),
    *("--batch-size", "128", "--seq-length", "64", "--steps", "25000", "--seed", "1"),
)
NUMBERS = "28 131 339 503 640 1727 3833 4687 4928 5160 6130 7128 11339 12814 14465 17208 18817 22373 29021 34206 39195"


def prepare(books: Path, corpus: Path) -> None:
    """Prepare the books, with all of ASCII in the vocabulary."""
    with tempfile.TemporaryDirectory() as name:
        parts = Path(name, "train"), Path(name, "held-out")
        for part in parts:
            part.mkdir()
        for book in sorted(books.glob("*.txt")):
            text = re.sub(" {3,}", "  ", book.read_text(encoding="utf-8"))  # else it learns to write blank lines
            (parts[book.stem in HELD_OUT] / book.name).write_text(text, encoding="utf-8")
        printable = "".join(map(chr, range(32, 127)))
        (parts[0] / "ascii.txt").write_text(f"{printable}\n" * 10)
        command = [*CHARRNN, "prepare", "train", "--validate", "held-out", *PREPARATION, "-o", str(corpus.absolute())]
        subprocess.run(command, check=True, cwd=name)


def publish(run: Path, corpus: Corpus, commit: str) -> None:
    """Write the best checkpoint with 8-bit weights and a model card; print the losses before and after rounding."""
    checkpoint = Checkpoint.load(RunFolder(run).best)
    held_out = corpus.ids[corpus.validation_start :]
    loss = carried_loss(checkpoint.build_model(), held_out)
    history = checkpoint.snapshot.history
    card = {
        "texts": f"Project Gutenberg {', '.join(NUMBERS.split())}; Peter Pan",
        "held out": "Project Gutenberg 7439, 14749, 17891; The Jungle Book",
        "licence": "the texts are in the public domain in the United States; the weights are MIT, as charrnn is",
        "loss": f"{loss:.4f} nats per character on the books held out ({len(held_out):,} characters)",
        "training": f"{history.elapsed_s / 60:.0f} minutes on two cores, {checkpoint.snapshot.progress.step:,} steps",
        "commit": commit,
    }
    corpus_identity = replace(checkpoint.corpus, path="english")
    replace(checkpoint, card=card, corpus=corpus_identity, written=None).quantised().save(PRETRAINED)
    rounded = carried_loss(Checkpoint.load(PRETRAINED).build_model(), held_out)
    size = PRETRAINED.stat().st_size
    print(f"held-out books: {loss:.4f} nats per character in float32, {rounded:.4f} in 8 bits; {size:,} bytes")


def main() -> None:
    """Prepare, train and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    arguments = parser.parse_args()
    path = arguments.run.with_name(f"{arguments.run.name}.safetensors")
    if not path.exists():
        prepare(arguments.books, path)
    subprocess.run([*CHARRNN, "train", path, *TRAINING, "--run", arguments.run, "--resume"], check=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    publish(arguments.run, Corpus.open(path), commit.strip())


if __name__ == "__main__":
    main()
