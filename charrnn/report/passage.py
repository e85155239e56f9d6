"""Text coloured by surprisal: a passage that is typical of the held-out text, and those predicted worst.

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
_APART = 8  # lengths of a bad passage from one to the next, so that they are of several places
_MAX_LEVEL = 8

Prediction = list[Any]
"""For the page's script: a token's name, bits, the likeliest with their percentages, the right one's place or -1."""


@dataclass(frozen=True)
class Sheet:
    """A coloured piece of text. A token is the number of its prediction, its surprisal in whole bits, and its text."""

    bits_per_symbol: float
    tokens: list[tuple[int, int, str]]


def make_sheet(reading: Reading, names: list[str], begin: int, end: int, predictions: list[Prediction]) -> Sheet:
    """A part of a reading as a sheet; the predictions of its tokens are added to those of the page.

    Symbols without a text, the first bytes of a character, join the next one.
    """
    tokens, first = [], begin
    for i in range(begin, end):
        if reading.texts[i] or i == end - 1:
            bits, likeliest = float(reading.bits[first : i + 1].sum()), reading.likeliest[first].tolist()
            tokens.append((len(predictions), min(_MAX_LEVEL, int(bits)), reading.texts[i]))
            percentages = [round(100 * p, 1) for p in reading.probabilities[first].tolist()]
            expected = [[names[each], p] for each, p in zip(likeliest, percentages, strict=True)]
            came = int(reading.ids[first])
            place = likeliest.index(came) if came in likeliest else -1
            predictions.append([name(reading.texts[i]) or names[came], round(bits, 2), expected, place])
            first = i + 1
    return Sheet(float(reading.bits[begin:end].mean()), tokens)


def find_typical(reading: Reading) -> tuple[int, int]:
    """A passage from the beginning of a line that is about as surprising as all, and as varied as such can be."""
    size, means = _window_means(reading, _PASSAGE_CHARS)
    begins = [i for i in range(1, len(means)) if reading.texts[i - 1].endswith("\n")]
    begins = begins or list(range(0, len(means), max(1, size // 8)))
    distances = (means - reading.bits.double().mean()).abs()
    begins.sort(key=distances.tolist().__getitem__)
    typical = begins[: max(1, len(begins) // 10)]
    begin = max(typical, key=lambda i: len(set(reading.texts[i : i + size])))
    return begin, begin + size


def find_worst(reading: Reading) -> Iterator[tuple[int, int]]:
    """The passages of the highest mean surprisal, some way apart, worst first; each begins and ends with a word."""
    size, means = _window_means(reading, _WORST_CHARS)
    for _ in range(_NUM_WORST):
        worst = int(means.argmax())
        if means[worst] < 0:
            return
        begin, end = (_begin_of_word(reading.texts, place, size // 2) for place in (worst, worst + size))
        yield begin, end
        means[max(0, worst - _APART * size) : worst + _APART * size] = -1


def _begin_of_word(texts: list[str], place: int, reach: int) -> int:
    """The nearest place at or before this one where a word begins; the place itself if there is none within reach."""
    for i in range(place, max(0, place - reach), -1):
        if texts[i - 1].isspace() or (i < len(texts) and len(texts[i]) > 1 and texts[i][0].isspace()):
            return i  # after a blank, or at a word that takes its blank along
    return place


def _window_means(reading: Reading, num_chars: int) -> tuple[int, Tensor]:
    """The number S of symbols that make about so many characters, and the mean bits of each window: (N - S + 1,)."""
    N = len(reading.texts)
    chars_per_symbol = max(1.0, sum(map(len, reading.texts)) / N)
    size = min(N, max(1, round(num_chars / chars_per_symbol)))
    sums = F.pad(reading.bits.double().cumsum(0), (1, 0))
    return size, (sums[size:] - sums[:-size]) / size
