"""The page of an exported model: its size, the cost of its rounded weights, and its speed in Chromium.

Run by hand on an otherwise idle machine, from the project's root; the corpus is the one that the model was trained on:

    python -m tests.benchmarks.export --checkpoint FILE --corpus FILE
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from charrnn.machine.runtime import Runtime
from charrnn.model.scoring import Part, evaluate
from charrnn.report.export import export
from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.corpus import Corpus
from tests.benchmarks.foundation import show
from tests.report.conftest import rounded

RUNS, LENGTH = 3, 2000


def compare_losses(checkpoint: Checkpoint, corpus: Corpus, max_symbols: int) -> None:
    """The loss on the last tenth, or on a part that is spread over it, with the weights as trained and rounded."""
    runtime, model = Runtime(torch.device("cpu"), torch.float32), checkpoint.build_model()
    text = corpus.ids[-(len(corpus.ids) // 10) :]
    part = Part.fit(len(text), checkpoint.tokenizer.size, max_symbols)
    exact, coarse = (evaluate(each, text, runtime, part).loss for each in (model, rounded(model)))
    print(f"loss {exact:.5f}, rounded {coarse:.5f}: {coarse - exact:+.5f} nats", flush=True)


def time_writing(path: Path) -> None:
    """Characters per second of the page, drawn and shown."""
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=shutil.which("chromium")).new_page()
        page.goto(path.as_uri())
        page.locator("#write:enabled").wait_for()
        page.fill("#length", str(LENGTH))
        rates = []
        for seed in range(1, RUNS + 1):
            page.fill("#seed", str(seed))
            rates.append(LENGTH / page.evaluate(_WRITE))
        show("writing in Chromium", rates, "char/s")


_WRITE = """async () => {
    const begin = performance.now();
    document.getElementById("write").click();
    while (document.getElementById("go_on").disabled) await new Promise((resolve) => setTimeout(resolve, 5));
    return (performance.now() - begin) / 1000;
}"""


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--max-symbols", type=int, default=200_000)
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        print(f"page: {export(checkpoint, path):,} bytes", flush=True)
        time_writing(path)
    compare_losses(checkpoint, Corpus.open(arguments.corpus), arguments.max_symbols)


if __name__ == "__main__":
    main()
