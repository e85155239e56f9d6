"""Text from a trained model: filters over log-probabilities, stop conditions, `sample` as a stream of pieces.

How a step is computed is `stepper.py`'s business. Letters in shapes: B streams, V vocabulary size.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import OptionError
from charrnn.model import CharRNN
from charrnn.runtime import Runtime
from charrnn.stepper import Stepper
from charrnn.vocabulary import Vocabulary

Filter = Callable[[Tensor], Tensor]
"""Log-probabilities (B, V) in, the same with those of excluded symbols at minus infinity out."""

_BATCH_SIZE = 256
_NOISE_STEPS = 64
_LOWEST_TEMPERATURE = 1e-4  # below it only the most likely symbol is left, and float32 overflows


@dataclass(frozen=True)
class Piece:
    """The next symbols of sample `index`; the last piece says why it ended and how likely the sample was.

    `finish_reason` is "length", "stop" or "lines"; `bits_per_char` is under the model itself, at temperature 1
    and without filters.
    """

    index: int
    text: str
    finish_reason: str | None = None
    bits_per_char: float | None = None


def top_k(k: int) -> Filter:
    """Keep the k most likely symbols."""

    def keep(log_p: Tensor) -> Tensor:
        least = log_p.topk(min(k, log_p.shape[-1])).values[..., -1:]
        return log_p.masked_fill(log_p < least, -math.inf)

    return keep


def top_p(p: float) -> Filter:
    """Keep the most likely symbols whose probabilities just reach p in sum.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020).
    """

    def keep(log_p: Tensor) -> Tensor:
        ordered, symbols = log_p.log_softmax(-1).sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        excluded = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, symbols, before >= p)
        return log_p.masked_fill(excluded, -math.inf)

    return keep


def min_p(p: float) -> Filter:
    """Keep the symbols at least p times as likely as the most likely one.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs" (2024).
    """
    return lambda log_p: log_p.masked_fill(log_p < log_p.amax(-1, keepdim=True) + math.log(p), -math.inf)


def exclude(indices: list[int]) -> Filter:
    """Never these symbols."""

    def keep(log_p: Tensor) -> Tensor:
        log_p = log_p.clone()
        log_p[..., indices] = -math.inf
        return log_p

    return keep


def make_filters(config: SamplingConfig, vocabulary: Vocabulary) -> list[Filter]:
    """The filters that a config asks for, in the order in which they apply; the unknown symbol never passes.

    Raises: OptionError if every symbol is banned.
    """
    banned = [i for i, symbol in enumerate(vocabulary.symbols) if symbol in config.ban]
    if len(banned) == len(vocabulary.symbols):
        raise OptionError("--ban leaves no symbol to sample: ban fewer")
    if vocabulary.unknown is not None:
        banned.append(vocabulary.unknown)
    filters = [exclude(banned)] if banned else []
    if config.top_k is not None:
        filters.append(top_k(config.top_k))
    if config.top_p is not None:
        filters.append(top_p(config.top_p))
    if config.min_p is not None:
        filters.append(min_p(config.min_p))
    return filters


def choose(logits: Tensor, temperature: float, filters: list[Filter], noise: Tensor) -> Tensor:
    """Draw one symbol for each stream: logits and noise (B, V) to (B,).

    With standard exponential noise E the first arrival of a race, argmin E / p, falls on a symbol with
    exactly its probability p: this is `multinomial` without a copy to the host.
    """
    greedy = temperature < _LOWEST_TEMPERATURE
    log_p = logits if greedy else (logits / temperature).log_softmax(-1)
    for keep in filters:
        log_p = keep(log_p)
    return log_p.argmax(-1) if greedy else (log_p - noise.log()).argmax(-1)


class _Noise:
    """Exponential noise (B, V) a step; what stream i gets depends on the seed and i alone."""

    def __init__(self, seed: int, indices: range, vocab_size: int) -> None:
        base = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
        self._generators = [torch.Generator().manual_seed((base + i) % 2**32) for i in indices]
        self._shape = (_NOISE_STEPS, vocab_size)
        self._steps: list[Tensor] = []

    def draw(self) -> Tensor:
        if not self._steps:
            drawn = [torch.empty(self._shape).exponential_(generator=g) for g in self._generators]
            self._steps = list(torch.stack(drawn, dim=1).clamp_min_(1e-38).flip(0))
        return self._steps.pop()


@dataclass
class _Stream:
    """One sample in the making: when it must end."""

    index: int
    config: SamplingConfig
    length: int = 0
    lines: int = 0
    tail: str = ""
    nats: float = 0.0
    finish_reason: str | None = None
    tail_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.tail_length = max(map(len, self.config.stop), default=0)

    def add(self, symbol: str, nats: float) -> Piece:
        self.length += 1
        self.nats += nats
        self.lines += symbol == "\n"
        if self.tail_length:
            self.tail = (self.tail + symbol)[-self.tail_length :]
        self.finish_reason = self._reason_to_end()
        if self.finish_reason is None:
            return Piece(self.index, symbol)
        return Piece(self.index, symbol, self.finish_reason, self.nats / self.length / math.log(2))

    def _reason_to_end(self) -> str | None:
        if self.tail_length and self.tail.endswith(self.config.stop):
            return "stop"
        if self.config.lines is not None and self.lines >= self.config.lines:
            return "lines"
        return "length" if self.length >= self.config.length else None


def sample(
    model: CharRNN,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    *,
    seed: int,
    runtime: Runtime,
    prompt: str = "",
) -> Iterator[Piece]:
    """Continue the prompt `config.num_samples` times, piece by piece as the symbols are drawn.

    The model lies on the runtime's device already: to move it there again would tear it from a recorded training
    step. Without a prompt a line is begun. Raises, before the first piece: CharRNNError for a prompt outside the
    vocabulary.
    """
    filters = make_filters(config, vocabulary)
    vocabulary.require(prompt)
    start = vocabulary.encode(prompt) if prompt else _line_start(vocabulary)
    stepper = Stepper(model, runtime)
    return _sample_all(stepper, vocabulary, config, filters, start, seed)


def _sample_all(
    stepper: Stepper,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    filters: list[Filter],
    start: Tensor,
    seed: int,
) -> Iterator[Piece]:
    for first in range(0, config.num_samples, _BATCH_SIZE):
        indices = range(first, min(first + _BATCH_SIZE, config.num_samples))
        if config.length == 0:
            yield from (Piece(i, "", "length") for i in indices)
        else:
            noise = _Noise(seed, indices, vocabulary.size)
            streams = [_Stream(i, config) for i in indices]
            yield from _sample_batch(stepper, vocabulary, config, filters, start, noise, streams)


def _sample_batch(
    stepper: Stepper,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    filters: list[Filter],
    start: Tensor,
    noise: _Noise,
    streams: list[_Stream],
) -> Iterator[Piece]:
    logits, state = stepper.read(start, len(streams))
    while True:
        symbols = choose(logits, config.temperature, filters, noise.draw().to(logits.device))
        losses = -logits.log_softmax(-1).gather(-1, symbols[:, None])[:, 0]
        for stream, symbol, nats in zip(streams, symbols.tolist(), losses.tolist(), strict=True):
            if stream.finish_reason is None:
                yield stream.add(vocabulary.symbols[symbol], nats)
        if all(stream.finish_reason for stream in streams):
            return
        logits, state = stepper.step(symbols, state)


def _line_start(vocabulary: Vocabulary) -> Tensor:
    """What is read where there is no prompt: a line's end, or the most frequent symbol of a text without one."""
    if "\n" in vocabulary.symbols:
        return vocabulary.encode("\n")
    counts = vocabulary.counts[: len(vocabulary.symbols)]
    return vocabulary.encode(vocabulary.symbols[counts.index(max(counts))])
