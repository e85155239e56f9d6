"""Units of the state that follow something a reader can name, as Karpathy, Johnson and Fei-Fei looked for them.

Source: "Visualizing and Understanding Recurrent Networks" (2015), arXiv 1506.02078. They found theirs by eye; here
each is the unit of the highest correlation on one half of a text, and its figure is measured on the other half.

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
_MIN_CORRELATION = 0.3  # a weaker one could not be seen
_MAX_LEVEL = 4
_MIN_SHARE = 0.005  # of the places that a feature marks in each half
_UNTRAINED_SEED = 1


@dataclass(frozen=True)
class Neuron:
    """A unit, the feature that it follows, and their correlation; `untrained` is the same of a model before training.

    `runs` are successive symbols of equal activation, as (step, text). The steps, from -4 to 4, lead from the unit's
    mean away from the feature or towards it.
    """

    layer: int
    unit: int
    feature: str
    correlation: float
    untrained: float
    runs: list[tuple[int, str]]


def find_neurons(subject: Subject, reading: Reading, begin: int, end: int) -> tuple[list[Neuron], dict[str, float]]:
    """The units that training has made follow a feature most, with what they do over a part of the reading.

    Returns: those units, and the correlations of features that no unit follows, or none more than before training.
    """
    names, features = _features(reading.texts)
    if not names:
        return [], {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_UNTRAINED_SEED)
        model = CharRNN(subject.model.config).eval()
    untrained = read(model, subject.held_out, subject.show)
    assert untrained is not None, "the trained model has read the same text"
    units, correlations = match(features, reading.states)
    _, before = match(features, untrained.states)
    gains = correlations.abs() - before.abs()
    are_found = (correlations.abs() >= _MIN_CORRELATION) & (gains > 0)
    H = subject.model.config.hidden_size
    neurons = [
        Neuron(
            layer=units[i] // H + 1,
            unit=units[i] % H + 1,
            feature=names[i],
            correlation=float(correlations[i]),
            untrained=float(before[i].abs()),
            runs=_runs(reading, units[i], float(correlations[i]), begin, end),
        )
        for i in gains.argsort(descending=True).tolist()
        if are_found[i]
    ]
    missed = {names[i]: float(correlations[i].abs()) for i in range(len(names)) if not are_found[i]}
    return neurons[:_MAX_NEURONS], missed


def match(features: Tensor, states: Tensor) -> tuple[list[int], Tensor]:
    """A unit of (N, U) for each feature (N, F), found on the first half, and their correlation on the second.

    Features that are followed best choose first. Returns: F units, correlations (F,).
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
    """Pearson's correlation of each column of x (N, F) with each of y (N, U): (F, U); 0 of a constant."""
    x, y = (each - each.mean(0) for each in (x, y))
    norms = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return torch.where(norms > 0, x.T @ y / norms.clamp(min=torch.finfo(torch.float32).tiny), 0.0)


def _features(texts: list[str]) -> tuple[list[str], Tensor]:
    """The names of F features that both halves of the text have, and their values (N, F) at the end of each symbol."""
    text, ends = "".join(texts), np.fromiter(accumulate(map(len, texts)), np.int64) - 1
    kept = {}
    for feature, measure in FEATURES.items():
        values = torch.from_numpy(measure(text)[ends.clip(min=0)])
        shares = [float((half > 0).float().mean()) for half in values.tensor_split([len(texts) // 2])]
        if all(_MIN_SHARE < share < 1 - _MIN_SHARE for share in shares):
            kept[feature] = values
    return list(kept), torch.stack(list(kept.values()), 1) if kept else torch.zeros(len(texts), 0)


def _runs(reading: Reading, unit: int, correlation: float, begin: int, end: int) -> list[tuple[int, str]]:
    """The symbols of a part of the reading in runs of equal activation; two standard deviations are the last step."""
    values = reading.states[:, unit]
    scores = (values[begin:end] - values.mean()) / values.std().clamp(min=1e-6) * math.copysign(1, correlation)
    steps = (scores * _MAX_LEVEL / 2).round().clamp(-_MAX_LEVEL, _MAX_LEVEL).int().tolist()
    pairs = zip(steps, reading.texts[begin:end], strict=True)
    return [(step, "".join(text for _, text in run)) for step, run in groupby(pairs, key=lambda pair: pair[0])]
