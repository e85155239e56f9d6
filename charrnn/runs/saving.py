"""Write checkpoints in the background; training waits only for a copy in memory."""

import time
from collections.abc import Callable
from threading import Event, Thread

from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder

_CLOSE_TIMEOUT_S = 1.0


class Saver:
    """Write one checkpoint after another in a thread; the next call except `close` raises the error of a write."""

    def __init__(self, folder: RunFolder) -> None:
        self.seconds = 0.0  # duration of the last write
        self._folder = folder
        self._written = Event()  # join() forgets a running thread if a signal interrupts it
        self._written.set()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Wait for the previous checkpoint, copy this one and start to write it. Raises: CharRNNError.

        Without memory for the copy, or without another thread, training waits for the write.
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

    def begin(self, checkpoint: Checkpoint, *, best: bool, begin_log: Callable[[], None]) -> None:
        """Write a run's first checkpoint and start its log, while training waits. Raises: CharRNNError."""
        begin = time.perf_counter()
        self._folder.begin(checkpoint, best=best, begin_log=begin_log)
        self.seconds = time.perf_counter() - begin

    def check(self) -> None:
        """Check without waiting. Raises: CharRNNError if the last checkpoint failed."""
        if self._written.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait until all is written. Raises: CharRNNError."""
        self._written.wait()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait at most a second for the current write; errors are dropped."""
        if self._written.wait(_CLOSE_TIMEOUT_S) and self._thread is not None:
            # A thread that frees its copy while the interpreter exits may abort the process.
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
