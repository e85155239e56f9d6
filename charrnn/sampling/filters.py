"""Filters over log-probabilities: top-k, top-p, min-p, banned symbols.

Letters in shapes: B streams, V vocabulary size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import OptionError, opt
from charrnn.machine.runtime import Runtime
from charrnn.text.tokenizers import Tokenizer

Filter = Callable[[Tensor], Tensor]
"""Log-probabilities (B, V), up to a constant, in; the same tensor with those of excluded symbols at minus infinity out.

A device may record them, so a filter must not read a number from it.
"""


def top_k(k: int) -> Filter:
    """Keep the k most likely symbols."""

    def keep(log_p: Tensor) -> Tensor:
        least = log_p.topk(min(k, log_p.shape[-1])).values[..., -1:]
        return log_p.masked_fill_(log_p < least, -math.inf)

    return keep


def top_p(p: float) -> Filter:
    """Keep the most likely symbols whose probabilities just reach p in sum.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """

    def keep(log_p: Tensor) -> Tensor:
        ordered, symbols = log_p.log_softmax(-1).sort(descending=True)
        probabilities = ordered.exp()
        before = probabilities.cumsum(-1) - probabilities
        excluded = torch.empty_like(symbols, dtype=torch.bool).scatter_(-1, symbols, before >= p)
        return log_p.masked_fill_(excluded, -math.inf)

    return keep


def min_p(p: float) -> Filter:
    """Keep the symbols at least p times as likely as the most likely one.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024).
    """
    return lambda log_p: log_p.masked_fill_(log_p < log_p.amax(-1, keepdim=True) + math.log(p), -math.inf)


def exclude(ids: list[int], vocab_size: int, runtime: Runtime) -> Filter:
    """Exclude these symbols."""
    mask = torch.zeros(vocab_size)
    mask[ids] = -math.inf
    mask = runtime.place(mask)
    return lambda log_p: log_p.add_(mask)


def samplable_ids(config: SamplingConfig, tokenizer: Tokenizer) -> set[int]:
    """The ids of the symbols without a banned character; EOS if the separator is not a banned character itself."""
    banned = [text for text in map(tokenizer.mark, config.ban) if len(text) == 1]
    allowed = {i for i, token in enumerate(tokenizer.marked_texts) if not any(char in token for char in banned)}
    return allowed - tokenizer.never_sampled


def writable_characters(config: SamplingConfig, tokenizer: Tokenizer) -> set[str]:
    """The characters of the symbols that can be sampled, in a marked text."""
    return set("".join(tokenizer.marked_texts[i] for i in samplable_ids(config, tokenizer)))


def make_filters(config: SamplingConfig, tokenizer: Tokenizer, runtime: Runtime) -> list[Filter]:
    """The filters of a config in the order in which they apply; the unknown symbol never passes.

    Raises: OptionError if every symbol is banned.
    """
    samplable = samplable_ids(config, tokenizer)
    if not samplable - {tokenizer.eos_id}:
        raise OptionError(f"{opt.ban} leaves no symbol to sample: ban fewer")
    excluded = sorted(set(range(tokenizer.size)) - samplable)
    filters = [exclude(excluded, tokenizer.size, runtime)] if excluded else []
    if config.top_k is not None:
        filters.append(top_k(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        filters.append(top_p(config.top_p))
    if config.min_p is not None:
        filters.append(min_p(config.min_p))
    return filters
