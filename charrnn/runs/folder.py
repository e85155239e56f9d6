"""The folder of a run with its last, previous and best checkpoints; find a checkpoint by name."""

import contextlib
import difflib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from charrnn.errors import CharRNNError
from charrnn.files import atomic, container
from charrnn.files.lock import Lock, locked
from charrnn.runs.checkpoint import Checkpoint, Header, time_of

ENGLISH = "english"
PRETRAINED = Path(__file__).parents[1] / f"{ENGLISH}{container.SUFFIX}"
"""Name and file of the model that comes with charrnn."""
_MAX_NAMES = 20  # max names in an error message


class RunFolder:
    """The paths of a run's checkpoints and metrics. With a `lock`, writing fails once the lock is lost."""

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
        self.best = path / f"best{container.SUFFIX}"  # lowest validation loss
        self.last = path / f"last{container.SUFFIX}"
        self.last_but_one = path / f"last-1{container.SUFFIX}"  # in case the last one is damaged
        self.checkpoints = self.best, self.last, self.last_but_one  # in the order of preference for sampling
        self.newest_first = self.last, self.last_but_one, self.best
        self.metrics = path / "metrics.jsonl"  # one JSON record per line
        self.guard = atomic.no_guard if lock is None else lock.check

    @contextlib.contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """Hold the lock of the folder, which is created if missing. Raises: CharRNNError, see `lock.locked`."""
        with locked(self.path) as lock:
            yield RunFolder(self.path, lock)

    def holds_run(self) -> bool:
        """True if the folder contains a checkpoint."""
        return any(path.exists() for path in self.checkpoints)

    @property
    def modified(self) -> float | None:
        """Time of the newest checkpoint in seconds since 1970; None if there is no checkpoint."""
        for path in self.newest_first:
            with contextlib.suppress(OSError):
                return time_of(path)
        return None

    def save_first(self, checkpoint: Checkpoint, *, best: bool, start_log: Callable[[], None] | None = None) -> None:
        """Write the first checkpoint of a run and start its log; an old run is replaced.

        If the old run has a valid checkpoint, there is one at every instant. The old log is replaced just before the
        old checkpoint. Raises: CharRNNError.
        """
        first = atomic.temporary_beside(self.last)
        try:
            checkpoint.save(first, guard=self.guard)
            if start_log is not None:
                start_log()  # before the checkpoint, which stores the number of its records
            atomic.rename(first, self.last, self.guard)
        except CharRNNError as error:
            raise CharRNNError(str(error).replace(first.name, self.last.name)) from error
        finally:
            first.unlink(missing_ok=True)
        for path in (self.best, self.last_but_one, *map(_damaged_path, (self.best, self.last_but_one, self.last))):
            if path.exists():
                atomic.remove(path, self.guard)
        if best and not atomic.link(self.last, self.best, self.last_but_one, self.guard):
            checkpoint.save(self.best, guard=self.guard)

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Write the last checkpoint and keep the previous one; at every instant one of them is complete.

        If the file system has hard links, the best checkpoint is written once, with two names. Raises: CharRNNError.
        """
        if best:
            checkpoint.save(self.best, guard=self.guard)
        if not best or not atomic.link(self.best, self.last, self.last_but_one, self.guard):
            checkpoint.save(self.last, self.last_but_one, self.guard)

    def load_newest(self) -> tuple[Checkpoint, dict[Path, str]]:
        """The newest valid checkpoint, and the errors of newer, damaged ones. Raises: CharRNNError if none is valid."""
        damaged: dict[Path, str] = {}
        for path in self.newest_first:
            if path.exists():
                try:
                    return Checkpoint.load(path), damaged
                except CharRNNError as error:
                    damaged[path] = str(error)
        raise CharRNNError(f"{self.path} holds no valid checkpoint: {next(iter(damaged.values()), '')}")

    def newest_header(self) -> Header:
        """Header of the newest readable checkpoint. Raises: CharRNNError if none is readable."""
        problems = []
        for path in self.newest_first:
            try:
                return Header.read(path)
            except CharRNNError as error:
                if path.exists():
                    problems.append(error)
        raise next(iter(problems), CharRNNError(f"{self.path} has no checkpoint"))

    def rename_damaged(self, damaged: Iterable[Path]) -> list[Path]:
        """Rename damaged checkpoints, so that none becomes a backup; return their new paths. Raises: CharRNNError."""
        return [atomic.rename(path, _damaged_path(path), self.guard) for path in damaged]


def _damaged_path(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-damaged")


def find_runs(checkpoint_dir: Path) -> list[RunFolder]:
    """The runs directly in a folder, newest first. The name of a run is the name of its folder."""
    folders = checkpoint_dir.iterdir() if checkpoint_dir.is_dir() else ()
    times = {run: time for run in map(RunFolder, folders) if (time := run.modified) is not None}
    return sorted(times, key=times.__getitem__, reverse=True)


def find_checkpoint(argument: str | Path | None, checkpoint_dir: Path) -> Path:
    """The path of a checkpoint, given as a file, or as the folder or the name of a run; None is the newest run.

    Of a run it is the best checkpoint, or the last one if there is no best. Names are folders in `checkpoint_dir`;
    `english` is the model that comes with charrnn, unless a run has this name. Paths take precedence over names.
    Raises: CharRNNError that lists the runs.
    """
    path = None if argument is None else Path(argument)
    if path is not None and container.is_stored(path):
        return path
    runs = find_runs(checkpoint_dir)[:1] if path is None else [RunFolder(path), RunFolder(checkpoint_dir / path)]
    for candidate in itertools.chain.from_iterable(run.checkpoints for run in runs):
        if os.path.exists(candidate):  # noqa: PTH110 (it returns False if permission is denied)
            return candidate
    if path is not None and path.exists() and not path.is_dir():
        return path  # loading it raises the error
    if str(argument) == ENGLISH and PRETRAINED.is_file():
        return PRETRAINED
    raise CharRNNError(_missing(path, checkpoint_dir))


def _missing(path: Path | None, checkpoint_dir: Path) -> str:
    is_name = path is not None and not path.is_dir()
    problem = f"no trained model is called {path}" if is_name else f"{path or checkpoint_dir} holds no trained model"
    names = [run.path.name for run in find_runs(checkpoint_dir)]
    if not names:
        return f"{problem}: run `charrnn train CORPUS` first, or name a checkpoint"
    near = difflib.get_close_matches(str(path), names, n=1)
    if near and is_name:
        return f"{problem}: did you mean {near[0]}?"
    listed = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
    return f"{problem}: name a checkpoint or one of the runs in {checkpoint_dir}: {listed}"
