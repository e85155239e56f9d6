"""Find parts of a text that stand word for word in another, by a suffix array of the latter.

Letters in shapes: N symbols of the corpus.
"""

from bisect import bisect_left

import torch
from torch import Tensor

from charrnn.text.vocabulary import code_points


def pack(indices: Tensor) -> str:
    """Indices (N,) as a string, each the code point of a character: Python compares, searches and slices it fast.

    >>> pack(torch.tensor([0, 1, 65]))
    '\\x00\\x01A'
    """
    return indices.cpu().numpy().astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def unpack(symbols: str) -> Tensor:
    """The indices (N,) of a packed string."""
    return code_points(symbols)


class SuffixArray:
    """All suffixes of a text in alphabetical order, so that any run of symbols is found by bisection.

    For "abab" these are ab, abab, b and bab, so "ba" is found behind three of them. Texts are packed symbols.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        # A memory view gives Python's own integers, several times as fast as a tensor or an array.
        self._suffixes = sort_suffixes(unpack(text)).numpy().data

    def __contains__(self, run: str) -> bool:
        """True if these symbols follow one another somewhere in the text."""
        text, size = self._text, len(run)
        slot = bisect_left(self._suffixes, run, key=lambda begin: text[begin : begin + size])
        return slot < len(text) and text.startswith(run, self._suffixes[slot])

    def find_copy(self, sample: str, size: int) -> int | None:
        """The place in a sample of the first run of `size` symbols that stands in the text, or None."""
        return next((i for i in range(len(sample) - size + 1) if sample[i : i + size] in self), None)

    def longest_copy(self, sample: str) -> int:
        """The length of the longest run of the sample's symbols that stands in the text."""
        longest = 0
        for begin in range(len(sample)):
            while begin + longest < len(sample) and sample[begin : begin + longest + 1] in self:
                longest += 1
        return longest


def sort_suffixes(points: Tensor) -> Tensor:
    """The beginnings of all suffixes of code points (N,), sorted: (N,) int64.

    Suffixes of equal rank are told apart by the ranks of what follows them, which doubles each time the depth
    to which all are sorted. Source: Manber and Myers, "Suffix Arrays: A New Method for On-Line String Searches"
    (1993); only those still tied are sorted again, as Larsson and Sadakane (1999) do.
    """
    N = len(points)
    symbols = torch.unique(points, return_inverse=True)[1] + 1  # 0 is the text's end
    bits = int(symbols.max().item()).bit_length() if N else 1
    depth = 62 // bits
    keys = torch.zeros(N, dtype=torch.int64)
    for i in range(depth):
        keys <<= bits
        keys[: max(N - i, 0)] += symbols[i:]
    keys, suffixes = keys.sort()
    slots = torch.arange(N)
    ranks = torch.empty(N, dtype=torch.int64)
    ranks[suffixes] = _first_of_equals(keys, slots)
    while len(slots := _tied(ranks[suffixes], slots)):
        tied = suffixes[slots]
        following = torch.where(tied + depth < N, ranks[(tied + depth).clamp(max=N - 1)] + 1, 0)
        keys, order = (ranks[tied] * (N + 1) + following).sort()
        suffixes[slots] = tied = tied[order]
        ranks[tied] = _first_of_equals(keys, slots)
        depth *= 2
    return suffixes


def _first_of_equals(keys: Tensor, slots: Tensor) -> Tensor:
    """For sorted keys in these slots the first slot of each run of equals."""
    begins = torch.ones_like(keys, dtype=torch.bool)
    begins[1:] = keys[1:] != keys[:-1]
    return slots[begins][begins.cumsum(0) - 1]


def _tied(ranks: Tensor, slots: Tensor) -> Tensor:
    """Those of these slots whose suffix shares its rank with another one; ranks of all slots, in order."""
    same = ranks[1:] == ranks[:-1]
    tied = torch.zeros(len(ranks), dtype=torch.bool)
    tied[1:] |= same
    tied[:-1] |= same
    return tied.nonzero().flatten()
