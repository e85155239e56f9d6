"""A map of the model's symbols: their input vectors in two dimensions.

Letters in shapes: V vocabulary size, E embedding size, G gate rows, K symbols on the map.
"""

import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.model.network import CharRNN, layer_weights
from charrnn.text.tokenizers import Tokenizer

_MAX_SYMBOLS, _MAX_LABEL_CHARS = 150, 250  # max symbols on the map, and max characters in all labels
_MAX_CHARS = 12  # per label
_DISTANCE, _CHAR_WIDTH = 0.036, 0.02  # between labels, and per further character of a label; relative to the map width
_NUM_PUSHES = 100


@dataclass(frozen=True)
class Map:
    """The most frequent symbols on the plane of their first two principal components."""

    places: list[tuple[str, float, float, str]]
    """The text, x and y of each symbol, from 0 to 1 to the right and downwards, and its kind for the colour."""
    share: float
    """The fraction of the variance in this plane."""
    is_whole: bool


def draw_map(model: CharRNN, tokenizer: Tokenizer, names: list[str]) -> Map | None:
    """The map of a model's symbols by principal components; None for fewer than three symbols."""
    counts = torch.tensor(tokenizer.counts[: len(tokenizer.symbols)])
    shown = counts.argsort(descending=True, stable=True)[:_MAX_SYMBOLS]
    shown = shown[counts[shown] > 0]
    lengths = torch.tensor([min(_MAX_CHARS, len(names[i])) for i in shown])
    fits = lengths.cumsum(0) <= _MAX_LABEL_CHARS
    shown, lengths = shown[fits], lengths[fits]
    if len(shown) < 3:
        return None
    points, share = project(_vectors(model)[shown])
    low, high = points.amin(0), points.amax(0)
    points = push_apart((points - low) / (high - low).clamp(min=1e-9), lengths)
    places = []
    for i, (x, y) in zip(shown.tolist(), points.tolist(), strict=True):
        kind = _kind((tokenizer.texts[i].strip() or names[i])[:1], of_word=tokenizer.has_words)
        places.append((names[i][:_MAX_CHARS], round(x, 4), round(1 - y, 4), kind))
    return Map(places, share, len(places) == int((counts > 0).sum()))


def project(vectors: Tensor) -> tuple[Tensor, float]:
    """The first two principal components (K, 2) of vectors (K, E), and their fraction of the variance."""
    u, s, _ = torch.linalg.svd((vectors - vectors.mean(0)).double(), full_matrices=False)
    points = F.pad(u[:, :2] * s[:2], (0, max(0, 2 - u.shape[1])))
    return points, float(s[:2].square().sum() / s.square().sum().clamp(min=1e-30))


def push_apart(points: Tensor, lengths: Tensor) -> Tensor:
    """Move points (K, 2) in [0, 1] apart until their labels, of `lengths` (K,) characters, do not overlap."""
    margins = torch.stack([(lengths - 1) * _CHAR_WIDTH / 2, torch.zeros(len(lengths))], 1)
    reach = margins[:, None] + margins + _DISTANCE  # (K, K, 2)
    for _ in range(_NUM_PUSHES):
        away = (points[:, None] - points) / reach
        distance = away.norm(dim=2).clamp(min=1e-6)
        push = (1 - distance).clamp(min=0).fill_diagonal_(0) / 2
        points = (points + (away / distance[:, :, None] * push[:, :, None] * reach).sum(1)).clamp(margins, 1 - margins)
    return points


def _vectors(model: CharRNN) -> Tensor:
    """Each symbol's contribution to the gates of the first layer (V, G)."""
    weight_ih = layer_weights(model.stack.layers[0])[0]  # (G, E), or (G, V) for one-hot inputs
    return (weight_ih.T if model.embedding is None else model.embedding.weight @ weight_ih.T).detach()


def _kind(char: str, *, of_word: bool) -> str:
    """The kind of a symbol by its first character; vowels are not distinguished in words."""
    if not char.isalpha():
        return "digit" if char.isdigit() else "other"
    if char.isupper():
        return "upper"
    is_vowel = unicodedata.normalize("NFD", char)[0].lower() in "aeiouy"
    return "vowel" if is_vowel and not of_word else "letter"
