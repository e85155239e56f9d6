"""A run's checkpoints to its folder while the training goes on, which waits for no more than a copy in memory."""

import time
from collections.abc import Callable
from threading import Event, Thread

from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder

_CLOSE_TIMEOUT_S = 1.0


class Saver:
    """Writes one checkpoint after another in a thread of its own.

    `seconds` is how long the last one took. An error is raised by the next call but `close`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.seconds = 0.0
        self._folder = folder
        self._written = Event()  # and no join(), which forgets a thread that still runs if a signal interrupts it
        self._written.set()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Copy a checkpoint and begin to write it, once the one before is written. Raises: CharRNNError.

        Without room for the copy or another thread it is written at once, while the training waits.
        """
        self.wait()
        try:
            # A daemon, so that a disk that hangs does not keep the process.
            thread = Thread(target=self._write, args=(checkpoint.copy(), best), daemon=True)
            self._written.clear()
            thread.start()
            self._thread = thread
        except (RuntimeError, MemoryError):
            self._write(checkpoint, best)

    def begin(self, checkpoint: Checkpoint, *, best: bool, begin_log: Callable[[], None] | None) -> None:
        """Write a run's first checkpoint and begin its log, while the training waits. Raises: CharRNNError."""
        begin = time.perf_counter()
        self._folder.begin(checkpoint, best=best, begin_log=begin_log)
        self.seconds = time.perf_counter() - begin

    def check(self) -> None:
        """Raises: CharRNNError if the last checkpoint is known to have failed."""
        if self._written.is_set():
            self.wait()

    def wait(self) -> None:
        """Until all is written. Raises: CharRNNError."""
        self._written.wait()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Leave, after what is being written if that takes no longer than a second; errors are lost."""
        if self._written.wait(_CLOSE_TIMEOUT_S) and self._thread is not None:
            # One that frees its copy while the interpreter itself ends may abort the process.
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        begin = time.perf_counter()
        try:
            self._folder.save(checkpoint, best=best)
        except Exception as error:
            self._error = error
        finally:
            self.seconds = time.perf_counter() - begin
            self._written.set()
