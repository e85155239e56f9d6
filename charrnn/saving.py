"""A run's checkpoints to its folder while the training goes on, which waits for no more than a copy in memory."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from charrnn.checkpoint import Checkpoint, RunFolder


class Saver:
    """Writes one checkpoint after another in a thread of its own.

    `seconds` is how long the last one took. An error is raised by the next call of whatever method.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.seconds = 0.0
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saver")
        self._writing: Future[None] | None = None

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Copy a checkpoint and begin to write it, once the one before is written. Raises: CharRNNError."""
        self.wait()
        self._writing = self._thread.submit(self._write, checkpoint.copy(), best)

    def check(self) -> None:
        """Raises: CharRNNError if the last checkpoint is known to have failed."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until all is written. Raises: CharRNNError."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """End the thread, after what it is writing; errors that nobody has heard of are lost."""
        self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        begin = time.perf_counter()
        self._folder.save(checkpoint, best=best)
        self.seconds = time.perf_counter() - begin
