"""A training step recorded once as a CUDA graph and then launched as a whole."""

from collections.abc import Callable

import torch


class CapturedStep:
    """A step as one CUDA graph."""

    _WARM_UP_CALLS = 3

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step = step
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Run one step: the first calls warm up, the next one records, and the recording is replayed."""
        if self._graph is None and self._calls == self._WARM_UP_CALLS:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(self._device), torch.cuda.graph(self._graph, stream=self._stream):
                self._step()
        if self._graph is None:
            self._calls += 1
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                self._step()
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        else:
            self._graph.replay()
