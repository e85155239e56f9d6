"""Steps that are recorded once and launched as a whole."""

import pytest
import torch

from charrnn.machine.runtime import open_runtime

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
def test_recorded_step_computes_what_the_step_itself_does() -> None:
    runtime = open_runtime("cuda", "float32")
    total, given = (torch.zeros((), device="cuda") for _ in range(2))
    step = runtime.capture(lambda: total.add_(given * 2))  # type: ignore[arg-type]
    for i in range(10):
        given.fill_(i)
        step()
    assert float(total) == 90


@needs_cuda
def test_recorded_step_draws_new_random_numbers_each_time() -> None:
    runtime = open_runtime("cuda", "float32")
    drawn = torch.zeros(8, device="cuda")
    step = runtime.capture(lambda: drawn.copy_(torch.rand(8, device="cuda")))  # type: ignore[arg-type]
    seen = set()
    for _ in range(8):
        step()
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 8
