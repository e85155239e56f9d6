"""A step recorded once as a CUDA graph and then launched as a whole."""

import functools
from collections.abc import Callable

import torch

from charrnn.errors import CharRNNError


class CapturedStep:
    """A step as one CUDA graph: the first calls run it, the next one records it, and the recording is replayed."""

    _WARM_UP_CALLS = 3

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step, self._stream = step, _side_stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_recorded(self) -> bool:
        """True if the next call launches a recording."""
        return self._graph is not None

    def __call__(self) -> None:
        """Run one step. Raises: CharRNNError if it cannot be recorded."""
        if self._graph is None and self._calls >= self._WARM_UP_CALLS:
            self._record()
        if self._graph is not None:
            self._graph.replay()
            return
        self._calls += 1
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step()
        current.wait_stream(self._stream)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on to use the device.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CharRNNError(
                f"a step could not be recorded as a CUDA graph ({str(error).partition(chr(10))[0]}): "
                "set CHARRNN_CAPTURE=0 in the environment, which is slower"
            ) from error
        self._graph = graph


@functools.cache
def _side_stream(device: torch.device) -> "torch.cuda.Stream":
    """One stream per device for all recordings, since cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)
