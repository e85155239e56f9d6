"""Sample many texts side by side from a trained model, as a stream of pieces.

A step is computed by `stepper.py`, random numbers by `noise.py`.
Letters in shapes: K steps between two looks at what was drawn, B streams, V vocabulary size.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.machine.runtime import Runtime, Threads
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Reading, Stepper
from charrnn.sampling.copies import SuffixArray, pack, unpack
from charrnn.sampling.filters import Filter, make_filters
from charrnn.sampling.noise import gumbel, stream_key
from charrnn.text.vocabulary import Vocabulary

_STEPS_TO_AN_END = 16  # where any symbol may be a sample's last, and what is drawn behind it is lost
_MAX_VALUES = 2**23  # of K steps, B streams and V symbols
_MAX_REJECTIONS = 100
_MIN_TEMPERATURE = 1e-4  # below it only the most likely symbol is left, and float32 overflows


@dataclass(frozen=True)
class Piece:
    """The next symbols of sample `index`, and their text; the last piece has the reason of the end and the likelihood.

    `symbols` are packed, see `copies.pack`; `nats` are their surprisals. `finish_reason` is "length", "stop" or
    "lines". Surprisals and `bits_per_char` are under the model itself, at temperature 1 and without filters.
    """

    index: int
    symbols: str
    text: str
    nats: Sequence[float] = ()
    finish_reason: str | None = None
    bits_per_char: float | None = None


def choose(
    logits: Tensor, temperature: float, filters: list[Filter], noise: Tensor, out: Tensor | None = None
) -> Tensor:
    """Draw one symbol for each stream: logits and Gumbel noise (B, V) to (B,) int64.

    The largest log p + noise falls on each symbol with exactly its probability p, and logits differ from log p by a
    constant only: this is `multinomial` without a look at the numbers.
    """
    greedy = temperature < _MIN_TEMPERATURE
    if filters:
        logits, temperature = logits.clone() if greedy else logits / temperature, 1.0
    for keep in filters:
        logits = keep(logits)
    return torch.argmax(torch.add(logits, noise, alpha=0.0 if greedy else temperature), -1, out=out)


@dataclass(frozen=True)
class _Rules:
    """The ends of a sample and the text that it must not copy, in packed symbols."""

    stops: tuple[str, ...]
    newline: str | None
    lines: int | None
    max_length: int
    max_copy: int | None = None
    """Successive symbols of the corpus from which on they are a copy."""
    corpus: SuffixArray | None = None


class _Stream:
    """One sample in the making, in packed symbols. Those that may yet prove copied are pending, to be taken back."""

    def __init__(self, index: int, seed: int, rules: _Rules) -> None:
        self.index = index
        self.key = stream_key(seed, index, 0)
        """Of its random numbers; another one after each rejection."""
        self.num_launched = 0
        """Symbols whose steps were launched and are not taken back: `length`, and those on their way."""
        self.finish_reason: str | None = None
        self.bits_per_char: float | None = None
        """Of the whole sample, once it has ended."""
        self.rejections = 0
        self.read: tuple[int, Reading] | None = None
        """The number of symbols that were read again after a rejection, and the state behind them."""
        self._seed, self._rules = seed, rules
        self._fruitless_rejections, self._furthest = 0, -1  # since one left more symbols than ever before, and how many
        self._longest_stop = max(map(len, rules.stops), default=0)
        self._settled = ""  # only its end, where nothing is ever taken back
        self._pending = ""
        self._pending_nats: list[float] = []
        self._length, self._lines, self._nats = 0, 0, 0.0  # of what is settled

    @property
    def symbols(self) -> str:
        """The whole sample so far, or its end where nothing is ever taken back."""
        return self._settled + self._pending

    def wants_steps(self) -> bool:
        """True unless the steps launched so far bring it to the greatest length."""
        return self.num_launched < self._rules.max_length

    @property
    def length(self) -> int:
        """Number of symbols that were drawn and not taken back."""
        return self._length + len(self._pending)

    def add(self, symbols: str, nats: list[float]) -> tuple[str, list[float]]:
        """Take the next symbols and their surprisals, as far as the sample's end.

        Returns: the symbols that can no longer be taken back, and their surprisals.

        Raises: CharRNNError if a sample is taken back over and over.
        """
        self._pending += symbols
        self._pending_nats += nats
        end, reason = self._find_end()
        self._cut(end)
        corpus, size = self._rules.corpus, self._rules.max_copy or 1
        if corpus is not None:
            # Symbols drawn anew can make a copy of what was settled before them.
            tail = _tail(self._settled, size - 1)
            begin = corpus.find_copy(tail + self._pending, size)
            if begin is not None:
                self._cut(max(begin - len(tail), 0))
                self._reject(size)
                return "", []
        self.finish_reason = reason
        return self._settle(max(end if reason or corpus is None else end - size + 1, 0))

    def _find_end(self) -> tuple[int, str | None]:
        """The number of pending symbols that belong to the sample, and the reason of its end if it is among them."""
        ends: list[tuple[int, str]] = []
        rules = self._rules
        for stop in rules.stops:
            tail = _tail(self._settled, len(stop) - 1)
            found = (tail + self._pending).find(stop)
            if found >= 0:
                ends.append((found + len(stop) - len(tail), "stop"))
        if rules.lines is not None and rules.newline is not None:
            end = 0
            for _ in range(rules.lines - self._lines):
                end = self._pending.find(rules.newline, end) + 1
                if not end:
                    break
            else:
                ends.append((end, "lines"))
        if self.length >= rules.max_length:
            ends.append((rules.max_length - self._length, "length"))
        return min(ends, key=lambda end: end[0], default=(len(self._pending), None))

    def _cut(self, end: int) -> None:
        self._pending = self._pending[:end]
        self._pending_nats = self._pending_nats[:end]

    def _reject(self, size: int) -> None:
        self.rejections += 1
        self.key = stream_key(self._seed, self.index, self.rejections)
        self.num_launched = self.length
        self._fruitless_rejections = self._fruitless_rejections + 1 if self.length <= self._furthest else 0
        self._furthest = max(self._furthest, self.length)
        if self._fruitless_rejections >= _MAX_REJECTIONS:
            raise CharRNNError(
                f"sample {self.index} comes no further than {self._furthest} symbols without a copy of {size} "
                f"characters of the corpus, tried {_MAX_REJECTIONS} times: raise --avoid-copying or --temperature"
            )

    def _settle(self, size: int) -> tuple[str, list[float]]:
        symbols, self._pending = self._pending[:size], self._pending[size:]
        nats, self._pending_nats = self._pending_nats[:size], self._pending_nats[size:]
        self._nats += sum(nats)
        self._length += size
        if self._rules.newline is not None:
            self._lines += symbols.count(self._rules.newline)
        self._settled += symbols
        if self._rules.corpus is None:
            self._settled = _tail(self._settled, self._longest_stop)
        if self.finish_reason is not None:
            self.bits_per_char = self._nats / self._length / math.log(2)
        return symbols, nats


def _tail(symbols: str, size: int) -> str:
    return symbols[max(len(symbols) - size, 0) :]


_Launch: TypeAlias = tuple[dict[int, int], Callable[[], Tensor]]
"""K steps that were launched: the keys of the streams by slot, and a function that waits for what they drew."""


class Sampler:
    """Draw samples as a config says, for any number of prompts.

    Sample i follows from the seed and i alone. Up to B samples advance together, K steps between two looks; where
    one ends, the next takes its place. A device that works through a queue is given the next K steps before the last
    are looked at; what these drew for a sample that has ended meanwhile, or is taken back, is dropped. One prompt at a
    time: all samples share these tensors.
    """

    def __init__(
        self,
        model: CharRNN,
        vocabulary: Vocabulary,
        config: SamplingConfig,
        runtime: Runtime,
        corpus: SuffixArray | None = None,
    ) -> None:
        """The model lies on the runtime's device already: to move it again would tear it from a recorded training step.

        `corpus` is the text that `avoid_copying` refers to, packed symbols of the same vocabulary.
        Raises: OptionError if it is missing or no symbol can be sampled.
        """
        if config.avoid_copying is not None and corpus is None:
            raise OptionError("--avoid-copying needs the corpus: name it with --corpus FILE")
        self._vocabulary = vocabulary
        self._config = config
        self._runtime = runtime
        self._rules = _make_rules(config, vocabulary, corpus)
        self._text_of = dict(enumerate(vocabulary.texts))
        self._filters = make_filters(config, vocabulary, runtime)
        V = vocabulary.size
        B = min(config.num_samples, runtime.max_streams, max(_MAX_VALUES // (_STEPS_TO_AN_END * V), 1))
        ends_anywhere = config.num_samples > 1 and (config.stop or config.lines is not None)
        steps = min(_STEPS_TO_AN_END if ends_anywhere else runtime.max_steps(B), max(config.max_length, 1))
        K = max(min(steps, _MAX_VALUES // (B * V)), 1)
        self._stepper = Stepper(model, runtime, B)
        self._keys_and_begin = runtime.place(torch.zeros(2, B, dtype=torch.int64))
        self._noise = runtime.place(torch.zeros(K, B, V))
        self._logits = torch.zeros_like(self._noise)
        self._symbols = runtime.place(torch.zeros(K, B, dtype=torch.int64))
        self._drawn = runtime.place(torch.zeros(2, B, K))
        # Views made once: to make them costs as much as to compute with them.
        self._steps = list(zip(self._noise, self._logits, self._symbols, strict=True))
        self._advance = runtime.capture(self._take_steps, self._stepper.recover)
        self._threads = Threads(runtime)
        self._prompts_begun = 0

    def sample(self, prompt: str = "", *, seed: int) -> Iterator[Piece]:
        """Continue the prompt `config.num_samples` times, piece by piece; without a prompt a line is begun.

        Raises, before the first piece: CharRNNError for a prompt outside the vocabulary.
        """
        self._vocabulary.require(prompt)
        start = self._vocabulary.encode(prompt) if prompt else line_start(self._vocabulary)
        return self._sample(start, seed)

    def _sample(self, start: Tensor, seed: int) -> Iterator[Piece]:
        if self._config.max_length == 0:
            yield from (Piece(i, "", "", finish_reason="length") for i in range(self._config.num_samples))
            return
        self._prompts_begun += 1
        number = self._prompts_begun
        prompt = self._stepper.read(start)
        waiting = iter(range(self._config.num_samples))
        streams = self._begin(range(self._symbols.shape[1]), waiting, seed, prompt)
        launched: deque[_Launch] = deque()
        while streams:
            if number != self._prompts_begun:
                raise RuntimeError("this Sampler has begun another prompt: one at a time")
            while len(launched) <= self._runtime.launches_ahead and any(map(_Stream.wants_steps, streams.values())):
                launched.append(self._threads.run(functools.partial(self._launch, streams)))
            ended = []
            for slot, symbols, nats in self._look(launched.popleft(), streams):
                stream = streams[slot]
                rejections = stream.rejections
                settled, nats = stream.add(symbols, nats)
                if settled or stream.finish_reason is not None:
                    text = settled.translate(self._text_of)
                    yield Piece(stream.index, settled, text, nats, stream.finish_reason, stream.bits_per_char)
                if stream.rejections > rejections:
                    self._stepper.place([slot], self._read_again(stream, prompt))
                elif stream.finish_reason is not None:
                    ended.append(slot)
            for slot in ended:
                del streams[slot]
            streams |= self._begin(ended, waiting, seed, prompt)

    def _begin(self, slots: Iterable[int], waiting: Iterator[int], seed: int, prompt: Reading) -> dict[int, _Stream]:
        """The next samples, as far as there are any, each in one of these slots and behind the prompt."""
        begun = {slot: _Stream(index, seed, self._rules) for slot, index in zip(slots, waiting, strict=False)}
        if begun:
            self._stepper.place(list(begun), prompt)
        return begun

    @torch.inference_mode()
    def _launch(self, streams: dict[int, _Stream]) -> _Launch:
        """Begin K steps of all streams."""
        K, B = self._symbols.shape
        keys, begin = [0] * B, [0] * B
        for slot, stream in streams.items():
            keys[slot] = stream.key
            begin[slot] = stream.num_launched
            stream.num_launched += K
        self._keys_and_begin.copy_(self._runtime.send(torch.tensor([keys, begin])))
        self._advance()
        return {slot: keys[slot] for slot in streams}, self._runtime.fetch(self._drawn)

    def _take_steps(self) -> None:
        """K steps of all streams, without a look at what is drawn: its indices and surprisals in nats."""
        K, _, V = self._noise.shape
        self._noise.copy_(gumbel(self._keys_and_begin[0], self._keys_and_begin[1], K, V))
        for noise, logits, symbols in self._steps:
            logits.copy_(self._stepper.logits)
            choose(logits, self._config.temperature, self._filters, noise, out=symbols)
            self._stepper.step(symbols)
        self._stepper.settle()
        log_p = self._logits.log_softmax(-1).gather(-1, self._symbols[:, :, None])[:, :, 0]
        # In one tensor (2, B, K), for one copy to the host; an index is exact as a float.
        self._drawn.copy_(torch.stack([self._symbols.float(), -log_p]).transpose(1, 2))

    def _look(self, launch: _Launch, streams: dict[int, _Stream]) -> list[tuple[int, str, list[float]]]:
        """For each stream that has not ended or been taken back since: slot, packed symbols, surprisals in nats."""
        keys, wait = launch
        symbols, surprisals = wait()
        packed, nats, K = pack(symbols.flatten()), surprisals.tolist(), symbols.shape[1]
        slots = [slot for slot, key in keys.items() if slot in streams and streams[slot].key == key]
        return [(slot, packed[slot * K : (slot + 1) * K], nats[slot]) for slot in slots]

    def _read_again(self, stream: _Stream, prompt: Reading) -> Reading:
        """Read the symbols that a stream keeps, from the last place that was read after a rejection."""
        length, before = stream.read or (0, prompt)
        if length > len(stream.symbols):
            length, before = 0, prompt
        if length < len(stream.symbols):
            before = self._stepper.read(unpack(stream.symbols[length:]), before)
        stream.read = (len(stream.symbols), before)
        return before


def _make_rules(config: SamplingConfig, vocabulary: Vocabulary, corpus: SuffixArray | None) -> _Rules:
    """The rules of a config in a vocabulary's symbols; a text with others ends no sample."""
    stops = tuple(pack(vocabulary.encode(stop)) for stop in config.stop if not vocabulary.missing(stop))
    newline = pack(vocabulary.encode("\n")) if "\n" in vocabulary.symbols else None
    corpus = corpus if config.avoid_copying is not None else None
    return _Rules(stops, newline, config.lines, config.max_length, config.avoid_copying, corpus)


def sample(
    model: CharRNN,
    vocabulary: Vocabulary,
    config: SamplingConfig,
    *,
    seed: int,
    runtime: Runtime,
    prompt: str = "",
) -> Iterator[Piece]:
    """Continue one prompt as a `Sampler` does, which see."""
    return Sampler(model, vocabulary, config, runtime).sample(prompt, seed=seed)


def line_start(vocabulary: Vocabulary) -> Tensor:
    """The symbol that is read where there is no prompt: a line's end, or the most frequent one of a text without."""
    if "\n" in vocabulary.symbols:
        return vocabulary.encode("\n")
    counts = vocabulary.counts[: len(vocabulary.symbols)]
    return vocabulary.encode(vocabulary.symbols[counts.index(max(counts))])
