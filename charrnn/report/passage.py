"""Text coloured by surprisal: a typical passage of the held-out text, and those with the highest surprisal.

Letters in shapes: N symbols, S symbols of a window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from charrnn.report.reading import Reading
from charrnn.report.visible import name

_PASSAGE_CHARS, _WORST_CHARS, _NUM_WORST = 720, 100, 6
_MIN_DISTANCE = 8  # between the worst passages, in lengths of a passage
_MAX_LEVEL = 8

Prediction = list[Any]
"""Data for the script: a token's name, bits, the likeliest symbols with percentages, and the token's rank or -1."""


@dataclass(frozen=True)
class Sheet:
    """A coloured passage. A token is the number of its prediction, its surprisal in whole bits, and its text."""

    bits_per_symbol: float
    tokens: list[tuple[int, int, str]]


def make_sheet(reading: Reading, names: list[str], start: int, end: int, predictions: list[Prediction]) -> Sheet:
    """A passage of a reading as a sheet. Appends to `predictions`.

    The first bytes of a character have no text; they are joined with its last byte.
    """
    tokens, first = [], start
    for i in range(start, end):
        if reading.texts[i] or i == end - 1:
            bits, likeliest = float(reading.bits[first : i + 1].sum()), reading.likeliest[first].tolist()
            tokens.append((len(predictions), min(_MAX_LEVEL, int(bits)), reading.texts[i]))
            percentages = [round(100 * p, 1) for p in reading.probabilities[first].tolist()]
            expected = [[names[each], p] for each, p in zip(likeliest, percentages, strict=True)]
            actual = int(reading.ids[first])
            rank = likeliest.index(actual) if actual in likeliest else -1
            predictions.append([name(reading.texts[i]) or names[actual], round(bits, 2), expected, rank])
            first = i + 1
    return Sheet(float(reading.bits[start:end].mean()), tokens)


def find_typical(reading: Reading) -> tuple[int, int]:
    """A passage of average surprisal from the start of a line; of these, one with many different symbols."""
    size, means = _window_means(reading, _PASSAGE_CHARS)
    starts = [i for i in range(1, len(means)) if reading.texts[i - 1].endswith("\n")]
    starts = starts or list(range(0, len(means), max(1, size // 8)))
    distances = (means - reading.bits.double().mean()).abs()
    starts.sort(key=distances.tolist().__getitem__)
    typical = starts[: max(1, len(starts) // 10)]
    start = max(typical, key=lambda i: len(set(reading.texts[i : i + size])))
    return start, start + size


def find_worst(reading: Reading) -> Iterator[tuple[int, int]]:
    """Distant passages with the highest mean surprisal, worst first; each consists of whole words."""
    size, means = _window_means(reading, _WORST_CHARS)
    for _ in range(_NUM_WORST):
        worst = int(means.argmax())
        if means[worst] < 0:
            return
        start, end = (_word_start(reading.texts, position, size // 2) for position in (worst, worst + size))
        yield start, end
        means[max(0, worst - _MIN_DISTANCE * size) : worst + _MIN_DISTANCE * size] = -1


def _word_start(texts: list[str], position: int, max_distance: int) -> int:
    """The last start of a word up to a position; the position itself if there is none within `max_distance`."""
    for i in range(position, max(0, position - max_distance), -1):
        if texts[i - 1].isspace() or (i < len(texts) and len(texts[i]) > 1 and texts[i][0].isspace()):
            return i  # after a space, or at a word symbol that includes its space
    return position


def _window_means(reading: Reading, num_chars: int) -> tuple[int, Tensor]:
    """The number S of symbols in about `num_chars` characters, and the mean bits (N - S + 1,) of each window."""
    N = len(reading.texts)
    chars_per_symbol = max(1.0, sum(map(len, reading.texts)) / N)
    size = min(N, max(1, round(num_chars / chars_per_symbol)))
    sums = F.pad(reading.bits.double().cumsum(0), (1, 0))
    return size, (sums[size:] - sums[:-size]) / size
