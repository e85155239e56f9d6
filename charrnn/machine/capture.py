"""A step recorded once as a CUDA graph and then launched as a whole."""

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable

import torch

from charrnn.errors import CharRNNError, CharRNNWarning


class CapturedStep:
    """A step as one CUDA graph.

    If recording fails, the step runs unrecorded after `reset` and a warning, in all processes of a training if
    `any_fails` returns whether its argument is true in any of them.
    """

    _WARM_UP_CALLS = 3

    def __init__(
        self,
        step: Callable[[], None],
        device: torch.device,
        reset: Callable[[], None],
        any_fails: Callable[[bool], bool] = bool,
    ) -> None:
        self._step, self._reset, self._any_fails = step, reset, any_fails
        self._stream = _side_stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_failed = False

    @property
    def is_recorded(self) -> bool:
        """True if the next call launches a recording."""
        return self._graph is not None

    def __call__(self) -> None:
        """Run one step: the first calls warm up, the next one records, and the recording is replayed.

        Raises: CharRNNError if recording fails and this PyTorch could not go on.
        """
        if self._graph is None and self._calls >= self._WARM_UP_CALLS and not self._has_failed:
            self._try_to_record()
        if self._graph is not None:
            self._graph.replay()
            return
        self._calls += 1
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step()
        current.wait_stream(self._stream)

    def _try_to_record(self) -> None:
        reason = "another process could not"
        try:
            self._graph = record(self._step, self._stream)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
        if not self._any_fails(self._graph is None):
            return
        if torch.__version__ < "2.13":  # a TorchVersion, whose random generator cannot draw any more
            raise CharRNNError(
                f"a step could not be recorded ({reason}), and PyTorch {torch.__version__} cannot continue after that: "
                "set CHARRNN_CAPTURE=0 in the environment, or install PyTorch 2.13 or newer"
            )
        self._graph, self._has_failed = None, True
        self._reset()
        warnings.warn(f"steps are not recorded, so they are slower: {reason}", CharRNNWarning, stacklevel=2)


def record(step: Callable[[], None], stream: "torch.cuda.Stream") -> "torch.cuda.CUDAGraph":
    """Record a step without running it, and leave the current stream as it was. Raises: RuntimeError, the first one."""
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    torch.cuda.synchronize(stream.device)
    gc.collect()  # during a recording no tensor of another stream may be freed
    with torch.cuda.stream(stream):
        try:
            # Other threads may go on to use the device.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the step's own error comes first
                    graph.capture_end()
                raise
            graph.capture_end()
        except BaseException:
            _failed.append(graph)
            graph.reset()
            with contextlib.suppress(AttributeError, RuntimeError):  # private functions; needed if CUDA refused the end
                torch._C._cuda_endAllocateToPool(stream.device.index, pool)
                torch._C._cuda_releasePool(stream.device.index, pool)
            raise
    return graph


_failed: "list[torch.cuda.CUDAGraph]" = []  # PyTorch's allocators keep pointers to them


@functools.cache
def _side_stream(device: torch.device) -> "torch.cuda.Stream":
    """One stream per device for all recordings, since cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)
