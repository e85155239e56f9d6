"""How fast texts of any size are prepared, and in how much memory, beside nanoGPT's dict loop and reading alone.

Run by hand, from the project's root, with --folder on a disk that has room for three times the size:

    python -m tests.benchmarks.preparing [--megabytes 1000] [--cases ascii,cyrillic,...] [--start-up]
"""

import argparse
import gzip
import hashlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from unidecode import unidecode

from tests.benchmarks.scoring import child

_TEXTS = {
    "ascii": "abcdefghijklmnopqrstuvwxyz",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "chinese": "".join(map(chr, range(0x4E00, 0x4E00 + 4000))),
}
_CASES = {
    # name: the text, the form of the file, options
    "ascii": ("ascii", "plain", ()),
    "cyrillic": ("cyrillic", "plain", ()),
    "chinese": ("chinese", "plain", ()),
    "cyrillic --ascii": ("cyrillic", "plain", ("--ascii",)),
    "chinese --ascii": ("chinese", "plain", ("--ascii",)),
    "one line": ("cyrillic", "line", ()),
    "gz": ("cyrillic", "gz", ()),
    "1000 files": ("cyrillic", "folder", ()),
    "stdin": ("cyrillic", "stdin", ()),
    "bytes": ("cyrillic", "plain", ("--unit", "byte")),
    "words": ("ascii", "plain", ("--unit", "word", "--max-vocab", "8000")),
    "lines as documents": ("ascii", "plain", ("--separator", "\\n")),
}
_SLICE = 2**22


def passage(letters: str) -> str:
    """Some megabytes of words made of these letters, of which the first are the most frequent, in lines."""
    draw = random.Random(0)
    weights = [1 / (rank + 5) for rank in range(len(letters))]
    length = 2 if len(letters) > 1000 else 6
    words = ["".join(draw.choices(letters, weights, k=draw.randint(1, 2 * length))) for _ in range(20_000)]
    lines = (" ".join(draw.choices(words, k=12)) for _ in range(2**22 // (24 * length)))
    return ".\n".join(lines) + ".\n"


def generate(folder: Path, case: str, num_bytes: int) -> Path:
    """The input of a case, of so many bytes of text."""
    script, form, _ = _CASES[case]
    block = passage(_TEXTS[script]).encode()
    if form == "line":
        block = block.replace(b"\n", b" ")
    times = max(1, num_bytes // len(block))
    if form == "folder":
        path = folder / "folder"
        path.mkdir()
        piece = block.decode()[: len(block.decode()) * num_bytes // len(block) // 1000].encode()
        for number in range(1000):
            (path / f"{number:04}.txt").write_bytes(piece)
        return path
    path = folder / ("text.txt.gz" if form == "gz" else "text.txt")
    with gzip.open(path, "wb", compresslevel=1) if form == "gz" else path.open("wb") as stream:
        for _ in range(times):
            stream.write(block)
    return path


def dict_loop(text: str, *, is_ascii: bool = False) -> None:
    """nanoGPT's preparation of a text in memory, without its file; of one that is transliterated first if wanted."""
    if is_ascii:
        text = unidecode(text)
    stoi = {char: index for index, char in enumerate(sorted(set(text)))}
    np.array([stoi[char] for char in text], dtype=np.uint16)


def rate(num_bytes: float, work: Callable[[], object]) -> float:
    """Megabytes a second."""
    begin = time.perf_counter()
    work()
    return num_bytes / (time.perf_counter() - begin) / 1e6


def read_and_hash(path: Path) -> None:
    """Read a file and compute its SHA-256."""
    with path.open("rb") as stream:
        hashlib.file_digest(stream, "sha256")


def describe(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def measure(case: str, num_bytes: int, rounds: int, folder: Path) -> None:
    """Print a line of a table."""
    script, form, options = _CASES[case]
    path, output = generate(folder, case, num_bytes), folder / "out.safetensors"
    command = [sys.executable, "-m", "charrnn", "prepare", "-" if form == "stdin" else str(path)]
    command += ["-o", str(output), "--overwrite", *options]
    text = passage(_TEXTS[script]).encode()[:_SLICE].decode("utf-8", "ignore")
    rates, loops, hashes, memory = [], [], [], []
    for _ in range(rounds):
        seconds, peak = child(command, path) if form == "stdin" else child(command)
        rates.append(num_bytes / seconds / 1e6)
        memory.append(peak - child([sys.executable, "-c", "import torch"])[1])
        loops.append(rate(len(text.encode()), lambda: dict_loop(text, is_ascii="--ascii" in options)))
        if path.is_file():
            hashes.append(rate(path.stat().st_size, lambda: read_and_hash(path)))
    ratios = [ours / loop for ours, loop in zip(rates, loops, strict=True)]
    columns = [case, describe(rates), describe(loops), f"{statistics.median(ratios):.1f}"]
    print("| " + " | ".join([*columns, describe(hashes) if hashes else "", describe(memory)]) + " |", flush=True)


def main() -> None:
    """Measure each case in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--cases", default=",".join(_CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args()
    num_bytes = arguments.megabytes * 1_000_000
    print("| text | MB/s | dict loop, MB/s | ratio | reading and SHA-256, MB/s | MB above torch |\n|" + " --- |" * 6)
    for case in arguments.cases.split(","):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            measure(case, num_bytes, arguments.rounds, Path(name))


if __name__ == "__main__":
    main()
