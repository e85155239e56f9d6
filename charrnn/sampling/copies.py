"""Find parts of a text that are copied from another one, by hashes of its runs of symbols.

Letters in shapes: N symbols of a text, S symbols of a run.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from charrnn.text.tokenizers import code_points

_FACTOR = 0x9E3779B97F4A7C15  # odd: invertible modulo 2^64
_BLOCK = 2**16  # runs that are hashed at a time
_SIZES = (8, 16, 32)  # of runs that are looked up before the text is searched for longer ones
_MAX_SIZES = 4  # max sizes whose hashes are kept, 8 bytes a symbol each


class CopyIndex:
    """Index of all runs of characters of a text.

    A sorted array of hashes finds candidates, and a search of the text verifies them, so that results are exact. The
    array for each size of a run is made when it is first needed.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._sorted_hashes = functools.lru_cache(_MAX_SIZES)(self._sort_hashes)

    def find_copy(self, sample: str, size: int) -> int | None:
        """The place in a sample of the first run of `size` symbols that is in the text, or None."""
        return next((i for i in self._candidates(sample, size) if sample[i : i + size] in self.text), None)

    def longest_copy(self, sample: str) -> str:
        """The longest run of the sample's symbols that is in the text."""
        longest, places = "", list(range(len(sample)))
        for size in _SIZES:
            if (place := self.find_copy(sample, size)) is None:
                break
            longest, places = sample[place : place + size], self._candidates(sample, size)
        for place in places:
            while (end := place + len(longest) + 1) <= len(sample) and sample[place:end] in self.text:
                longest = sample[place:end]
        return longest

    def _candidates(self, sample: str, size: int) -> list[int]:
        """The places in a sample of runs that have the hash of a run of the text."""
        if size > min(len(sample), len(self.text)):
            return []
        hashes, known = hash_runs(sample, size), self._sorted_hashes(size)
        candidates: list[int] = np.flatnonzero(known[np.searchsorted(known[:-1], hashes)] == hashes).tolist()
        return candidates

    def _sort_hashes(self, size: int) -> NDArray[np.uint64]:
        hashes = hash_runs(self.text, size)
        hashes.sort()
        return hashes


def hash_runs(text: str, size: int) -> NDArray[np.uint64]:
    """The hashes (N - S + 1,) of all runs of S symbols x of a text: sum of x[i + k] * factor^k over k, modulo 2^64.

    Source: Karp and Rabin, "Efficient randomized pattern-matching algorithms" (1987). Each is a difference of two
    cumulative sums, divided by the power that its first symbol has in them.
    """
    hashes = np.empty(len(text) - size + 1, np.uint64)
    width = min(len(hashes), _BLOCK)
    powers = np.cumprod(np.full(width + size, _FACTOR, np.uint64))
    inverses = np.cumprod(np.full(width, pow(_FACTOR, -1, 2**64), np.uint64))
    for begin in range(0, len(hashes), _BLOCK):
        symbols = code_points(text[begin : begin + _BLOCK + size - 1])
        sums = np.cumsum(powers[: len(symbols)] * symbols.astype(np.uint64))
        block = hashes[begin : begin + _BLOCK]
        block[:] = sums[size - 1 :]
        block[1:] -= sums[: len(block) - 1]
        block *= inverses[: len(block)]
    return hashes
