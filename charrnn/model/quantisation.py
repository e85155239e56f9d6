"""Quantisation of weights: matrices of 8-bit integers with one scale per row, a quarter of the size of float32.

Letters in shapes: R rows, C columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_MAX_LEVEL = 127
_SCALES = "scales."


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix (R, C) to 8-bit integers (R, C) times one scale per row (R,), float32."""
    scales = (weight.abs().amax(1) / _MAX_LEVEL).clamp(min=torch.finfo(torch.float32).tiny)  # a row may be all zeros
    return torch.round(weight / scales[:, None]).clamp(-_MAX_LEVEL, _MAX_LEVEL).to(torch.int8), scales


def quantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise each float32 matrix; its scales are added as another tensor."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and tensor.dtype == torch.float32:
            result[name], result[_SCALES + name] = quantise_rows(tensor)
    return result


def dequantised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantised`, up to rounding errors. Raises: ValueError for integers without matching scales."""
    result = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SCALES)}
    for name, tensor in result.items():
        if tensor.dtype == torch.int8:
            scales = tensors.get(_SCALES + name)
            if tensor.dim() != 2 or scales is None or scales.dtype != torch.float32 or scales.shape != tensor.shape[:1]:
                raise ValueError(f"8-bit integers in {name} without a scale for each row")
            result[name] = tensor * scales[:, None]
    return result
