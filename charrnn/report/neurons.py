"""Interpretable units of the state: those that correlate with a feature that people can name.

Source: Karpathy, Johnson and Fei-Fei, "Visualizing and Understanding Recurrent Networks" (2015), arXiv 1506.02078. The
paper selects units by eye. Here the unit with the highest correlation on one half of a text is selected, and its
correlation is measured on the other half.

Letters in shapes: N symbols, U units of the state, F features.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from torch import Tensor

from charrnn.model.network import CharRNN
from charrnn.report.features import FEATURES
from charrnn.report.reading import Reading, read
from charrnn.report.subject import Subject

_MAX_NEURONS = 8
_MIN_CORRELATION = 0.3  # a weaker correlation is not visible
_MAX_LEVEL = 4
_MIN_FRACTION = 0.005  # of the symbols in each half that must have, or not have, the feature
_UNTRAINED_SEED = 1


@dataclass(frozen=True)
class Neuron:
    """A unit with its feature and their correlation; `untrained` is the best correlation before training.

    `runs` are successive symbols of equal activation, as (level, text). The levels, from -4 to 4, are relative to the
    unit's mean; positive levels indicate the feature.
    """

    layer: int
    unit: int
    feature: str
    correlation: float
    untrained: float
    runs: list[tuple[int, str]]


def find_neurons(subject: Subject, reading: Reading, start: int, end: int) -> tuple[list[Neuron], dict[str, float]]:
    """The units whose correlation with a feature has grown most by training, with their activations in a passage.

    Returns: these units, and the correlations of features without such a unit.
    """
    names, features = _features(reading.texts)
    if not names:
        return [], {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_UNTRAINED_SEED)
        model = CharRNN(subject.model.config).eval()
    untrained = read(model, subject.held_out, subject.show)
    assert untrained is not None, "the same text was long enough for the trained model"
    units, correlations = match(features, reading.states)
    _, untrained_correlations = match(features, untrained.states)
    gains = correlations.abs() - untrained_correlations.abs()
    are_found = (correlations.abs() >= _MIN_CORRELATION) & (gains > 0)
    H = subject.model.config.hidden_size
    neurons = [
        Neuron(
            layer=units[i] // H + 1,
            unit=units[i] % H + 1,
            feature=names[i],
            correlation=float(correlations[i]),
            untrained=float(untrained_correlations[i].abs()),
            runs=_runs(reading, units[i], float(correlations[i]), start, end),
        )
        for i in gains.argsort(descending=True).tolist()
        if are_found[i]
    ]
    missed = {names[i]: float(correlations[i].abs()) for i in range(len(names)) if not are_found[i]}
    return neurons[:_MAX_NEURONS], missed


def match(features: Tensor, states: Tensor) -> tuple[list[int], Tensor]:
    """Select a unit of `states` (N, U) for each feature (N, F) on the first half; measure them on the second half.

    Features with the highest correlation are matched first. Returns: F units, correlations (F,).
    """
    half = len(states) // 2
    found = correlate(features[:half], states[:half]).abs()  # (F, U)
    units = [0] * len(found)
    for i in found.amax(1).argsort(descending=True).tolist():
        units[i] = int(found[i].argmax())
        found[:, units[i]] = -1
    measured = correlate(features[half:], states[half:])
    return units, measured[torch.arange(len(units)), units]


def correlate(x: Tensor, y: Tensor) -> Tensor:
    """Pearson correlation (F, U) of the columns of x (N, F) and y (N, U); 0 for constant columns."""
    x, y = (each - each.mean(0) for each in (x, y))
    norms = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(norms > 0, x.T @ y / norms.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def _features(texts: list[str]) -> tuple[list[str], Tensor]:
    """The F features that occur in both halves of the text, and their values (N, F) at the end of each symbol."""
    text, ends = "".join(texts), np.fromiter(accumulate(map(len, texts)), np.int64) - 1
    kept = {}
    for feature, measure in FEATURES.items():
        values = torch.from_numpy(measure(text)[ends.clip(min=0)])
        fractions = [float((half > 0).float().mean()) for half in values.tensor_split([len(texts) // 2])]
        if all(_MIN_FRACTION < fraction < 1 - _MIN_FRACTION for fraction in fractions):
            kept[feature] = values
    return list(kept), torch.stack(list(kept.values()), 1) if kept else torch.zeros(len(texts), 0)


def _runs(reading: Reading, unit: int, correlation: float, start: int, end: int) -> list[tuple[int, str]]:
    """The symbols of a passage in runs of equal activation; the highest level is two standard deviations."""
    values = reading.states[:, unit]
    scores = (values[start:end] - values.mean()) / values.std().clamp(min=1e-6) * math.copysign(1, correlation)
    levels = (scores * _MAX_LEVEL / 2).round().clamp(-_MAX_LEVEL, _MAX_LEVEL).int().tolist()
    pairs = zip(levels, reading.texts[start:end], strict=True)
    return [(level, "".join(text for _, text in run)) for level, run in groupby(pairs, key=lambda pair: pair[0])]
