"""The vectors of a model's symbols in two dimensions.

Letters in shapes: V vocabulary size, E embedding size, G gate rows, K symbols that are shown.
"""

import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.model.network import CharRNN, layer_weights
from charrnn.text.tokenizers import Tokenizer

_MAX_SYMBOLS, _MAX_LABELS = 150, 250  # symbols, and characters of their labels
_MAX_CHARS = 12  # of a label
_DISTANCE, _CHAR_WIDTH = 0.036, 0.02  # between labels, and of each further character of one, of a map's width
_NUM_PUSHES = 100


@dataclass(frozen=True)
class Map:
    """The most frequent symbols on the plane in which their vectors differ most, and its share of their variance."""

    places: list[tuple[str, float, float, str]]
    """A symbol's text, x and y from 0 to 1 to the right and downwards, and its kind for the colour."""
    share: float
    is_whole: bool


def draw_map(model: CharRNN, tokenizer: Tokenizer, names: list[str]) -> Map | None:
    """The map of a model's symbols by principal components; None of fewer than three symbols."""
    counts = torch.tensor(tokenizer.counts[: len(tokenizer.symbols)])
    shown = counts.argsort(descending=True, stable=True)[:_MAX_SYMBOLS]
    shown = shown[counts[shown] > 0]
    lengths = torch.tensor([min(_MAX_CHARS, len(names[i])) for i in shown])
    fits = lengths.cumsum(0) <= _MAX_LABELS
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
    """Vectors (K, E) on their first two principal components (K, 2), and the share of the variance that these hold."""
    u, s, _ = torch.linalg.svd((vectors - vectors.mean(0)).double(), full_matrices=False)
    points = F.pad(u[:, :2] * s[:2], (0, max(0, 2 - u.shape[1])))
    return points, float(s[:2].square().sum() / s.square().sum().clamp(min=1e-30))


def push_apart(points: Tensor, lengths: Tensor) -> Tensor:
    """Points (K, 2) from 0 to 1, moved until their labels, of `lengths` (K,) in characters, no longer overlap."""
    margins = torch.stack([(lengths - 1) * _CHAR_WIDTH / 2, torch.zeros(len(lengths))], 1)
    reach = margins[:, None] + margins + _DISTANCE  # (K, K, 2)
    for _ in range(_NUM_PUSHES):
        away = (points[:, None] - points) / reach
        distance = away.norm(dim=2).clamp(min=1e-6)
        push = (1 - distance).clamp(min=0).fill_diagonal_(0) / 2
        points = (points + (away / distance[:, :, None] * push[:, :, None] * reach).sum(1)).clamp(margins, 1 - margins)
    return points


def _vectors(model: CharRNN) -> Tensor:
    """Each symbol's part in the first layer's gates (V, G): its embedding, if it has one, times their weights."""
    weight_ih = layer_weights(model.stack.layers[0])[0]  # (G, E), or (G, V) where inputs are one-hot
    return (weight_ih.T if model.embedding is None else model.embedding.weight @ weight_ih.T).detach()


def _kind(char: str, *, of_word: bool) -> str:
    """The kind of a symbol by its first character; in words a vowel is a letter like others."""
    if not char.isalpha():
        return "digit" if char.isdigit() else "other"
    if char.isupper():
        return "upper"
    is_vowel = unicodedata.normalize("NFD", char)[0].lower() in "aeiouy"
    return "vowel" if is_vowel and not of_word else "letter"
