"""The report of a run: the seconds that it takes, as a command, and the bytes that it has.

Run by hand on an otherwise idle machine, from the project's root; the corpus is the one that the model was trained on:

    python -m tests.benchmarks.report --run DIR --corpus FILE
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.foundation import show

RUNS = 3


def main() -> None:
    """Write the report some times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    arguments = parser.parse_args()
    seconds, sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        options = [str(arguments.run), "--corpus", str(arguments.corpus), "-o", str(page)]
        for _ in range(RUNS):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", "charrnn", "report", *options], check=True)
            seconds.append(time.perf_counter() - begin)
            sizes.append(float(page.stat().st_size))
    show("report, Python's start included", seconds, "s")
    show("page", sizes, "bytes")


if __name__ == "__main__":
    main()
