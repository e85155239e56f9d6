"""List the runs of a folder, from the headers of their checkpoints alone."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError
from charrnn.model.network import count_parameters
from charrnn.runs.checkpoint import Header
from charrnn.runs.folder import RunFolder, find_runs
from charrnn.terminal import Notify, silence


@dataclass(frozen=True)
class Listed:
    """A run as a list shows it: the header of its newest readable checkpoint, and facts about its folder."""

    path: Path
    header: Header
    modified: float
    """Seconds since 1970."""
    num_bytes: int
    """Of all files in the folder; one with two names counts once."""

    @property
    def best_val_loss(self) -> float | None:
        """In nats per character; None before the first evaluation."""
        return self.header.counters.best_val_loss

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        header, loss = self.header, self.best_val_loss
        return {
            "name": self.path.name,
            "run": str(self.path),
            "corpus": Path(header.corpus.path).stem,
            "unit": header.corpus.config.unit,
            **shape_of(header.model_config),
            "best_val_loss": loss,
            "val_chars": header.counters.best_val_chars,
            "bits_per_char": None if loss is None else loss / math.log(2),
            "steps": header.counters.step,
            "elapsed_s": round(header.counters.elapsed_s, 3),
            "modified": self.modified,
            "bytes": self.num_bytes,
            "charrnn": header.charrnn,
            "torch": header.torch,
        }


def shape_of(config: ModelConfig) -> dict[str, Any]:
    """A model's shape and its number of parameters as JSON values."""
    return {**vars(config), "parameters": count_parameters(config)}


def list_runs(checkpoint_dir: Path, notify: Notify = silence) -> Iterator[Listed]:
    """The runs directly under a folder, newest first. A run without a readable checkpoint is left out, and told."""
    for run in find_runs(checkpoint_dir):
        try:
            yield Listed(run.path, read_newest_header(run), run.modified or 0.0, _count_bytes(run.path))
        except CharRNNError as error:
            notify(str(error), warning=True)


def read_newest_header(run: RunFolder) -> Header:
    """Header of the newest readable checkpoint. Raises: CharRNNError of the newest one if none is readable."""
    problems = []
    for path in (run.last, run.last_but_one, run.best):
        try:
            return Header.read(path)
        except CharRNNError as error:
            if path.exists():
                problems.append(error)
    raise next(iter(problems), CharRNNError(f"{run.path} is gone"))


def _count_bytes(folder: Path) -> int:
    sizes = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())
