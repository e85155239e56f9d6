"""Text coloured by surprisal: a passage that is typical of the held-out text, and those predicted worst.

Letters in shapes: N symbols.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from charrnn.report.reading import Reading
from charrnn.report.visible import name

_PASSAGE_CHARS, _WORST_CHARS, _NUM_WORST = 720, 100, 6
_APART = 8  # lengths of a bad passage from one to the next, lest all be of one place
_MAX_LEVEL = 8


@dataclass(frozen=True)
class Token:
    """A symbol on the page: the number of its prediction, its surprisal in whole bits, its text."""

    number: int
    level: int
    text: str


@dataclass(frozen=True)
class Sheet:
    """A coloured piece of text."""

    bits_per_symbol: float
    tokens: list[Token]


@dataclass
class Predictions:
    """Tokens expected in place of each token, for the page's script.

    A row is the token's name, its bits, the likeliest with their percentages, and the place of the right one, or -1.
    """

    rows: list[list[Any]] = field(default_factory=list)

    def add(self, reading: Reading, names: list[str], begin: int, end: int) -> Sheet:
        """A part of a reading as a sheet. Symbols without a text, the first bytes of a character, join the next one."""
        tokens, first = [], begin
        for i in range(begin, end):
            if reading.texts[i] or i == end - 1:
                bits, likeliest = float(reading.bits[first : i + 1].sum()), reading.likeliest[first].tolist()
                tokens.append(Token(len(self.rows), min(_MAX_LEVEL, int(bits)), reading.texts[i]))
                percentages = [round(100 * p, 1) for p in reading.probabilities[first].tolist()]
                expected = [[names[each], p] for each, p in zip(likeliest, percentages, strict=True)]
                came = int(reading.indices[first])
                place = likeliest.index(came) if came in likeliest else -1
                self.rows.append([name(reading.texts[i]) or names[came], round(bits, 2), expected, place])
                first = i + 1
        return Sheet(float(reading.bits[begin:end].mean()), tokens)


def find_typical(reading: Reading) -> tuple[int, int]:
    """A passage from the beginning of a line that is about as surprising as all, and as varied as such can be."""
    size = _num_symbols(reading, _PASSAGE_CHARS)
    means = _window_means(reading.bits, size)
    begins = [i for i in range(1, len(means)) if reading.texts[i - 1].endswith("\n")]
    begins = begins or list(range(0, len(means), max(1, size // 8)))
    distances = (means - reading.bits.double().mean()).abs()
    begins.sort(key=distances.tolist().__getitem__)
    typical = begins[: max(1, len(begins) // 10)]
    begin = max(typical, key=lambda i: len(set(reading.texts[i : i + size])))
    return begin, begin + size


def find_worst(reading: Reading) -> Iterator[tuple[int, int]]:
    """The passages of the highest mean surprisal, some way apart, worst first; each begins and ends with a word."""
    size = _num_symbols(reading, _WORST_CHARS)
    means = _window_means(reading.bits, size)
    for _ in range(_NUM_WORST):
        worst = int(means.argmax())
        if means[worst] < 0:
            return
        begin, end = (_begin_of_word(reading.texts, place, size // 2) for place in (worst, worst + size))
        yield begin, end
        means[max(0, worst - _APART * size) : worst + _APART * size] = -1


def _begin_of_word(texts: list[str], place: int, reach: int) -> int:
    """The nearest place at or before this one where a word begins; the place itself if there is none within reach."""
    nearby = range(place, max(0, place - reach), -1)
    return next((i for i in nearby if _begins_word(texts[i - 1], texts[i] if i < len(texts) else "")), place)


def _begins_word(before: str, symbol: str) -> bool:
    """True after a blank, and of a word that takes its blank along."""
    return before.isspace() or (len(symbol) > 1 and symbol[0].isspace())


def _num_symbols(reading: Reading, num_chars: int) -> int:
    """The number of symbols that make about so many characters."""
    chars_per_symbol = max(1.0, sum(map(len, reading.texts)) / len(reading.texts))
    return min(len(reading.texts), max(1, round(num_chars / chars_per_symbol)))


def _window_means(bits: Tensor, size: int) -> Tensor:
    """The mean of each `size` successive values of (N,): (N - size + 1,)."""
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), bits.double().cumsum(0)])
    return (sums[size:] - sums[:-size]) / size
