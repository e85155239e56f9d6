"""Texts that a model writes for its report, and what in them stands in the text that it was trained on."""

from dataclasses import dataclass

import torch

from charrnn.config import RECOMMENDED_TEMPERATURE, SamplingConfig
from charrnn.machine.runtime import Runtime
from charrnn.report.subject import Subject
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.generate import Sampler
from charrnn.text.tokenizers import Tokenizer

TEMPERATURES = (0.2, RECOMMENDED_TEMPERATURE, SamplingConfig.temperature, 1.5)
SEED = 1
_NUM_CHARS = 400
COPYING = SamplingConfig(num_samples=16, length=500, temperature=RECOMMENDED_TEMPERATURE)
"""The samples in which copies are looked for."""
_NUM_COPIES = 3


@dataclass(frozen=True)
class Copies:
    """The longest runs of symbols in some samples that stand in the training text, longest first, and their lengths."""

    longest: list[tuple[int, str]]
    median: int
    """Of the longest copy of each sample."""


def write_at_temperatures(subject: Subject) -> list[tuple[float, str]]:
    """A sample at each temperature, all of the same seed."""
    length = _num_symbols(subject.tokenizer)
    return [
        (each, _decode(subject, _write(subject, SamplingConfig(length=length, temperature=each))[0]))
        for each in TEMPERATURES
    ]


def find_copies(subject: Subject) -> Copies | None:
    """The longest copies in samples of the model; None without the text it was trained on."""
    if not len(subject.train):
        return None
    corpus = CopyIndex(_as_text(subject.train.tolist()))  # a run of symbols, whatever they are
    longest = [corpus.longest_copy(_as_text(each)) for each in _write(subject, COPYING)]
    copies = {(len(copy), _decode(subject, list(map(ord, copy)))) for copy in longest}
    return Copies(sorted(copies, reverse=True)[:_NUM_COPIES], sorted(map(len, longest))[len(longest) // 2])


def _num_symbols(tokenizer: Tokenizer) -> int:
    """The number of symbols that make about so many characters."""
    return max(1, round(_NUM_CHARS / tokenizer.chars_per_symbol))


def _as_text(ids: list[int]) -> str:
    """Ids as code points."""
    return "".join(map(chr, ids))


def _write(subject: Subject, config: SamplingConfig) -> list[list[int]]:
    """The ids of the samples of a config."""
    runtime = Runtime(torch.device("cpu"), torch.float32)
    written: list[list[int]] = [[] for _ in range(config.num_samples)]
    for piece in Sampler(subject.model, subject.tokenizer, config, runtime).sample(seed=SEED):
        written[piece.index] += piece.ids
    return written


def _decode(subject: Subject, ids: list[int]) -> str:
    return "".join(subject.show(torch.tensor(ids)))
