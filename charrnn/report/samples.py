"""Samples for a report, and the longest copies from the training text in them."""

import statistics

import torch

from charrnn.config import RECOMMENDED_TEMPERATURE, SamplingConfig
from charrnn.machine.runtime import Runtime
from charrnn.report.subject import Subject
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.generate import Sampler

TEMPERATURES = (0.2, RECOMMENDED_TEMPERATURE, SamplingConfig.temperature, 1.5)
_SEED, _NUM_CHARS = 1, 400
COPYING = SamplingConfig(num_samples=16, length=500, temperature=RECOMMENDED_TEMPERATURE)
"""The options of the samples that are searched for copies."""
_NUM_COPIES = 3


def write_at_temperatures(subject: Subject) -> list[tuple[float, str]]:
    """A sample at each temperature, with the same seed and about the same length."""
    length = max(1, round(_NUM_CHARS / subject.tokenizer.chars_per_symbol))
    configs = [SamplingConfig(length=length, temperature=each) for each in TEMPERATURES]
    return [(config.temperature, "".join(subject.show(_write(subject, config)[0]))) for config in configs]


def find_copies(subject: Subject) -> tuple[list[tuple[int, str]], int] | None:
    """The longest copies from the training text in samples; None without the training text.

    Returns: (length, text) of the longest copies, longest first; the median length of the longest copy per sample.
    """
    if not len(subject.train):
        return None
    corpus = CopyIndex(_as_text(subject.train.tolist()))
    longest = [corpus.longest_copy(_as_text(ids)) for ids in _write(subject, COPYING)]
    copies = {(len(copy), "".join(subject.show(map(ord, copy)))) for copy in longest}
    return sorted(copies, reverse=True)[:_NUM_COPIES], statistics.median_high(map(len, longest))


def _as_text(ids: list[int]) -> str:
    """Convert ids to code points, so that copies are found as in a text of characters."""
    return "".join(map(chr, ids))


def _write(subject: Subject, config: SamplingConfig) -> list[list[int]]:
    """Generate samples with a config; return their ids."""
    runtime = Runtime(torch.device("cpu"), torch.float32)
    written: list[list[int]] = [[] for _ in range(config.num_samples)]
    for piece in Sampler(subject.model, subject.tokenizer, config, runtime).sample(seed=_SEED):
        written[piece.index] += piece.ids
    return written
