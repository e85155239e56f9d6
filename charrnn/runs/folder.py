"""The folder of a run: its newest, previous and best checkpoints; finding a checkpoint."""

import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from charrnn.errors import CharRNNError
from charrnn.files import atomic, container
from charrnn.files.lock import Lock, locked
from charrnn.runs.checkpoint import Checkpoint, time_of

_MAX_NAMES = 20  # in an error


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's checkpoints and metrics. With a `lock`, nothing is written once the lock is lost."""

    path: Path
    lock: Lock | None = field(default=None, compare=False)

    @contextlib.contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """Hold the folder's lock; the folder is made if it is missing. Raises: CharRNNError, see `lock.locked`."""
        with locked(self.path) as lock:
            yield replace(self, lock=lock)

    @property
    def guard(self) -> atomic.Guard:
        """The check of the lock, for functions that write to the folder."""
        return atomic.no_guard if self.lock is None else self.lock.check

    @property
    def best(self) -> Path:
        """The checkpoint of the lowest validation loss."""
        return self.path / f"best{container.SUFFIX}"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / f"last{container.SUFFIX}"

    @property
    def last_but_one(self) -> Path:
        """The checkpoint before the newest, in case the newest is damaged."""
        return self.path / f"last-1{container.SUFFIX}"

    @property
    def metrics(self) -> Path:
        """The log of the run, one JSON record per line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> tuple[Path, Path, Path]:
        """The paths of its checkpoints, those first that are preferred for sampling."""
        return self.best, self.last, self.last_but_one

    def holds_run(self) -> bool:
        """True if there is any checkpoint."""
        return any(path.exists() for path in self.checkpoints)

    @property
    def modified(self) -> float | None:
        """The time of the newest checkpoint in seconds since 1970; None if there is none that can be looked at."""
        for path in (self.last, self.last_but_one, self.best):
            with contextlib.suppress(OSError):
                return time_of(path)
        return None

    def begin(self, checkpoint: Checkpoint, *, best: bool, begin_log: Callable[[], None] | None = None) -> None:
        """Write a run's first checkpoint and its log, in place of any old run.

        A sound checkpoint of one of the two runs exists at every instant, if the old run had one. The old log goes a
        moment before. Raises: CharRNNError.
        """
        first = atomic.temporary_beside(self.last)
        try:
            checkpoint.save(first, guard=self.guard)
            if begin_log is not None:
                begin_log()  # before the checkpoint, which counts its records
            atomic.rename(first, self.last, self.guard)
        except CharRNNError as error:
            raise CharRNNError(str(error).replace(first.name, self.last.name)) from error
        finally:
            first.unlink(missing_ok=True)
        for path in (self.best, self.last_but_one, *map(_aside, (self.best, self.last_but_one, self.last))):
            if path.exists():
                atomic.remove(path, self.guard)
        if best and not atomic.link(self.last, self.best, self.last_but_one, self.guard):
            checkpoint.save(self.best, guard=self.guard)

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Write the newest checkpoint and keep the previous one; at every instant one of the two is whole.

        The best checkpoint is written once under two names, if the file system has hard links. Raises: CharRNNError.
        """
        if best:
            checkpoint.save(self.best, guard=self.guard)
        if not best or not atomic.link(self.best, self.last, self.last_but_one, self.guard):
            checkpoint.save(self.last, self.last_but_one, self.guard)

    def load_last(self) -> tuple[Checkpoint, dict[Path, str]]:
        """The newest sound checkpoint, and the reason for each unsound newer one.

        Raises: CharRNNError if there is none.
        """
        unsound: dict[Path, str] = {}
        for path in (self.last, self.last_but_one, self.best):
            if path.exists():
                try:
                    return Checkpoint.load(path), unsound
                except CharRNNError as error:
                    unsound[path] = str(error)
        raise CharRNNError(f"{self.path} holds no sound checkpoint: {next(iter(unsound.values()), '')}")

    def set_aside(self, unsound: Iterable[Path]) -> list[Path]:
        """Rename checkpoints that failed verification, so that none is kept as a backup; replace earlier such ones.

        Returns: their new paths. Raises: CharRNNError.
        """
        return [atomic.rename(path, _aside(path), self.guard) for path in unsound]


def _aside(path: Path) -> Path:
    return path.with_stem(f"{path.stem}-damaged")


def find_runs(checkpoint_dir: Path) -> list[RunFolder]:
    """The runs directly under a folder, newest first. A run's name is that of its folder."""
    folders = checkpoint_dir.iterdir() if checkpoint_dir.is_dir() else ()
    times = {run: run.modified for run in map(RunFolder, folders)}
    return sorted((run for run in times if times[run] is not None), key=lambda run: times[run] or 0, reverse=True)


def find_checkpoint(argument: str | Path | None, checkpoint_dir: Path) -> Path:
    """The checkpoint meant by a file, by a run's folder (its best, else its last), by a run's name, or by None.

    Names are those of `checkpoint_dir`, where None means the newest run. A folder that holds a run, or a file of
    charrnn's own, comes before a run of the same name. Raises: CharRNNError that lists the runs if there is none.
    """
    path = None if argument is None else Path(argument)
    if path is None:
        folders = [run.path for run in find_runs(checkpoint_dir)[:1]]
    elif container.is_stored(path):
        return path
    else:
        folders = [path, checkpoint_dir / path]
    for candidate in (candidate for folder in folders for candidate in RunFolder(folder).checkpoints):
        if os.path.exists(candidate):  # noqa: PTH110 (False, too, where permission is denied)
            return candidate
    if path is not None and path.exists() and not path.is_dir():
        return path  # its reader says why it is no checkpoint
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
