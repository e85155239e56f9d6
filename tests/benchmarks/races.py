"""Prepare one name of a text from two processes at once, many times: does each open the corpus of its own text?

    python -m tests.benchmarks.races --pairs 200

Half of the pairs have different texts in files of the same name, half have one text and different options.
"""

import argparse
import multiprocessing
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path

from charrnn.config import PreparationConfig
from charrnn.text.cache import TextArgument

_WORDS = 20_000


def _open(text: Path, data: Path, config: PreparationConfig, expected: str, barrier: Barrier) -> None:
    barrier.wait()
    corpus = TextArgument(str(text), data).open(config, ("lowercase",))
    assert ("".join(corpus.marked_blocks()), corpus.config.lowercase) == (expected, config.lowercase)


def _count_wrong(pair: int, folder: Path) -> int:
    """Processes of a pair that opened another corpus than theirs."""
    texts = []
    for number in range(2):
        text = folder / str(number) / "tale.txt"
        text.parent.mkdir()
        text.write_text(f"Tale {number if pair % 2 else 0}. " * _WORDS)
        texts.append(text)
    barrier = multiprocessing.Barrier(2)
    processes = []
    for number, text in enumerate(texts):
        config = PreparationConfig(lowercase=bool(number) and not pair % 2)
        expected = text.read_text().lower() if config.lowercase else text.read_text()
        processes.append(multiprocessing.Process(target=_open, args=(text, folder, config, expected, barrier)))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


def main() -> None:
    """Print the number of wrong corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    num_pairs = parser.parse_args().pairs
    num_wrong = 0
    for pair in range(num_pairs):
        with tempfile.TemporaryDirectory() as folder:
            num_wrong += _count_wrong(pair, Path(folder))
    print(f"{num_wrong} of {2 * num_pairs} processes opened a wrong corpus or failed")


if __name__ == "__main__":
    main()
