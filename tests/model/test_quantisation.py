"""Weights in 8 bits."""

import pytest
import torch

from charrnn.model.quantisation import dequantised, quantised


def test_restored_matrices_differ_by_half_a_level_at_most() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 40, generator=generator) * torch.tensor([1e-6, 1.0, 3.0, 1e6, 0.0])[:, None]
    tensors = {"model.weight": weight, "model.bias": torch.randn(5, generator=generator)}
    stored = quantised(tensors)
    assert stored["model.weight"].dtype == torch.int8
    result = dequantised(stored)
    assert result.keys() == tensors.keys()
    assert torch.equal(result["model.bias"], tensors["model.bias"])
    half = weight.abs().amax(1, keepdim=True) / 127 / 2
    assert ((result["model.weight"] - weight).abs() <= half * 1.0001).all()


def test_tensors_without_integers_are_restored_as_they_are() -> None:
    tensors = {"model.weight": torch.ones(2, 3), "trainer.step": torch.ones(1)}
    assert dequantised(tensors) == tensors


@pytest.mark.parametrize("scales", [None, torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.float64)])
def test_integers_without_a_scale_per_row_are_an_error(scales: torch.Tensor | None) -> None:
    tensors = {"model.weight": torch.ones(2, 3, dtype=torch.int8)}
    tensors |= {} if scales is None else {"scales.model.weight": scales}
    with pytest.raises(ValueError, match=r"8-bit integers in model\.weight without a scale for each row"):
        dequantised(tensors)
