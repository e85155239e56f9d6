"""Confidence against truth: of the symbols that a model was so and so sure of, the share that came.

Source: Guo et al., "On Calibration of Modern Neural Networks" (2017): the likeliest symbol in bins of equal width.
"""

from dataclasses import dataclass

import torch

from charrnn.report.reading import Reading

_NUM_BINS, _MIN_COUNT = 10, 20


@dataclass(frozen=True)
class Calibration:
    """Bins of predictions by the probability of the likeliest symbol: its mean, the share that came true."""

    confidences: list[float]
    accuracies: list[float]
    counts: list[int]
    error: float
    """The expected calibration error: the mean distance of the two, each bin by its count."""
    accuracy: float
    """The share of all symbols that were the likeliest."""


def calibrate(reading: Reading) -> Calibration:
    """The calibration of a reading. Bins of a few predictions count, but are not shown."""
    confidence = reading.probabilities[:, 0].double()
    is_right = (reading.likeliest[:, 0] == reading.indices).double()
    bins = (confidence * _NUM_BINS).long().clamp(max=_NUM_BINS - 1)
    counts = torch.bincount(bins, minlength=_NUM_BINS)
    confidences, accuracies = (
        torch.bincount(bins, weights=each, minlength=_NUM_BINS) / counts.clamp(min=1) for each in (confidence, is_right)
    )
    error = float(((confidences - accuracies).abs() * counts).sum() / counts.sum())
    is_shown = counts >= min(_MIN_COUNT, int(counts.max()))
    return Calibration(
        confidences[is_shown].tolist(),
        accuracies[is_shown].tolist(),
        counts[is_shown].tolist(),
        error,
        float(is_right.mean()),
    )
