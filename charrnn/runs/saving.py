"""Write checkpoints in the background; training only waits for a copy in memory."""

import time
from collections.abc import Callable
from threading import Event, Thread

from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder

_CLOSE_TIMEOUT_S = 1.0


class Saver:
    """Write checkpoints one by one in a thread; an error is raised by the next call of any method but `close`."""

    def __init__(self, folder: RunFolder) -> None:
        self.seconds = 0.0  # duration of the last write
        self._folder = folder
        self._written = Event()  # join() treats a thread as ended if a signal interrupts it
        self._written.set()
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Wait for the previous checkpoint, copy this one and start writing it. Raises: CharRNNError.

        If there is no memory for the copy or no thread, training waits for the write.
        """
        self.wait()
        try:
            # A daemon thread, so that a hanging disk does not keep the process alive.
            thread = Thread(target=self._write, args=(checkpoint.copy(), best), daemon=True)
            self._written.clear()
            thread.start()
            self._thread = thread
        except (RuntimeError, MemoryError):
            self._write(checkpoint, best)

    def save_first(self, checkpoint: Checkpoint, *, best: bool, start_log: Callable[[], None]) -> None:
        """Write a run's first checkpoint and start its log, while training waits. Raises: CharRNNError."""
        start = time.perf_counter()
        self._folder.save_first(checkpoint, best=best, start_log=start_log)
        self.seconds = time.perf_counter() - start

    def check(self) -> None:
        """Raises: CharRNNError if the last write has failed; does not wait for it."""
        if self._written.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait for the current write. Raises: CharRNNError if it has failed."""
        self._written.wait()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait at most a second for the current write; ignore errors."""
        if self._written.wait(_CLOSE_TIMEOUT_S) and self._thread is not None:
            # A thread that frees its copy while the interpreter shuts down may abort the process.
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        start = time.perf_counter()
        try:
            self._folder.save(checkpoint, best=best)
        except Exception as error:
            self._error = error
        finally:
            self.seconds = time.perf_counter() - start
            self._written.set()
