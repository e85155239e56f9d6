"""Sample many texts side by side from a trained model, as a stream of pieces.

A step is computed by `stepper.py`, random numbers by `noise.py`.
Letters in shapes: K steps between two looks at what was drawn, B streams, V vocabulary size.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.machine.runtime import Runtime
from charrnn.machine.threads import Threads
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Reading, Stepper
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.draft import Draft, Rules
from charrnn.sampling.filters import Filter, excluded_symbols, make_filters, split_ban, writable_characters
from charrnn.sampling.noise import gumbel
from charrnn.terminal import count_of
from charrnn.text.units import BORDER
from charrnn.text.vocabulary import Vocabulary, respaced

_STEPS_TO_AN_END = 16  # where any symbol may be a sample's last, and what is drawn behind it is lost
_MAX_VALUES = 2**23  # of K steps, B streams and V symbols
_MIN_TEMPERATURE = 1e-4  # below it only the most likely symbol is left, and float32 overflows


@dataclass(frozen=True)
class Piece:
    """The next symbols of sample `index`; the last piece has the reason of the end and the likelihood.

    `ids`, `texts` and `nats` are the symbols' ids, texts and surprisals. Texts are as they are inside the program, see
    `text/units.py`; the first and the last may be parts of words. `finish_reason` is "length", "stop", "lines",
    "documents" or "given_up". Surprisals and `bits_per_char` are under the model itself, at temperature 1 and without
    filters. `echo` is the prompt, if a further document begins here; it is not part of the text.
    """

    index: int
    ids: Sequence[int] = ()
    texts: Sequence[str] = ()
    nats: Sequence[float] = ()
    finish_reason: str | None = None
    bits_per_char: float | None = None
    echo: str = ""

    @property
    def text(self) -> str:
        """The text of all symbols."""
        return "".join(self.texts)


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


_Launch: TypeAlias = tuple[dict[int, int], Callable[[], Tensor]]
"""K steps that were launched: the keys of the streams by slot, and a function that waits for what they drew."""


class Sampler:
    """Draw samples as a config says, for any number of prompts.

    Sample i depends on the seed and i alone, with `unique` also on the other samples. Up to B samples advance together,
    K steps between two looks; where one ends, the next takes its place. A device that works through a queue is given
    the next K steps before the last are looked at; those drawn for a sample that has ended meanwhile, or is taken back,
    are dropped. One prompt at a time: all samples share these tensors.
    """

    def __init__(
        self,
        model: CharRNN,
        vocabulary: Vocabulary,
        config: SamplingConfig,
        runtime: Runtime,
        corpus: CopyIndex | None = None,
        known: Collection[int] | None = None,
    ) -> None:
        """The model lies on the runtime's device already: to move it again would tear it from a recorded training step.

        `corpus` is the text that `avoid_copying` refers to, `known` are the hashes of the documents that `new` does.
        Raises: OptionError if they are missing, no symbol can be sampled or the end of a sample never comes.
        """
        if config.avoid_copying is not None and corpus is None:
            raise OptionError(f"{opt.avoid_copying} needs the corpus: name it with {opt.corpus('FILE')}")
        if config.new and known is None:
            raise OptionError(f"{opt.new} needs the corpus: name it with {opt.corpus('FILE')}")
        if (config.documents is not None or config.new or config.unique) and vocabulary.border is None:
            raise OptionError(
                f"{opt.documents}, {opt.new} and {opt.unique} need a model of a text that was prepared as documents"
            )
        writable = writable_characters(config, vocabulary)
        for num, what, end in ((config.lines, "line", f"\n{BORDER}"), (config.documents, "document", BORDER)):
            if num is not None and writable.isdisjoint(end):
                raise OptionError(f"no sample can end after a {what}: its end is unknown to the model, or banned")
        self._vocabulary = vocabulary
        self._config = config
        self._runtime = runtime
        self._rules = _make_rules(config, vocabulary, corpus, known)
        self._filters = make_filters(config, vocabulary, runtime)
        V = vocabulary.size
        B = min(config.num_samples, runtime.max_streams, max(_MAX_VALUES // (_STEPS_TO_AN_END * V), 1))
        ends = (config.lines, config.documents)
        ends_anywhere = config.num_samples > 1 and (config.stop or any(end is not None for end in ends))
        steps = min(_STEPS_TO_AN_END if ends_anywhere else runtime.max_steps(B), max(config.max_length, 1))
        K = max(min(steps, _MAX_VALUES // (B * V)), 1)
        self._stepper = Stepper(model, runtime, B)
        self._keys_and_begin = torch.zeros(2, B, dtype=torch.int64)
        if runtime.draws_noise:
            self._keys_and_begin = runtime.place(self._keys_and_begin)
        self._noise = runtime.place(torch.zeros(K, B, V))
        self._logits = torch.zeros_like(self._noise)
        self._constraint = runtime.place(torch.zeros(B, V)) if vocabulary.unit == "word" else None
        """Added to the logits of each stream's next step."""
        self._exclusion = runtime.place(torch.zeros(B, V)) if self._rules.takes_back else None
        """The same, but surprisals are computed without it."""
        self._symbols = runtime.place(torch.zeros(K, B, dtype=torch.int64))
        self._drawn = runtime.place(torch.zeros(2, B, K))
        # Views made once: to make them costs as much as to compute with them.
        self._steps = list(zip(self._noise, self._logits, self._symbols, strict=True))
        num_launches = config.num_samples / B * config.max_length / K
        self._advance = runtime.capture(self._take_steps, num_calls=num_launches)
        self._threads = Threads(is_fixed=runtime.dtype != torch.int8)  # floating-point sums may depend on it
        self._prompts_begun = 0

    def sample(self, prompt: str = "", *, seed: int) -> Iterator[Piece]:
        """Continue the prompt `config.num_samples` times, piece by piece; without a prompt a line is begun.

        Raises: CharRNNError, before the first piece for a prompt outside the vocabulary, behind the last one for
        samples that were given up because they were taken back over and over.
        """
        return self._sample(self._read_prompt(prompt), seed)

    def _read_prompt(self, prompt: str) -> "_Prompt":
        """Split a prompt into symbols to read and the begin of the first word to sample. Raises: CharRNNError."""
        vocabulary = self._vocabulary
        begun = prompt[prompt.rfind(BORDER) + 1 :]
        if vocabulary.unit == "word" and prompt and (word := self._find_begun_word(prompt, begun)) is not None:
            return word
        symbols = vocabulary.split_prompt(prompt)
        vocabulary.require(symbols)
        return _Prompt(start_symbols(vocabulary, vocabulary.encode_symbols(symbols)), begun=begun)

    def _find_begun_word(self, prompt: str, begun: str) -> "_Prompt | None":
        """The prompt without its last word, which samples begin with, or with a longer one; None if no word fits."""
        vocabulary = self._vocabulary
        symbols, whole = vocabulary.split_prompt(prompt), vocabulary.split(prompt)
        excluded = set(excluded_symbols(self._config, vocabulary))
        last = whole[-1]
        for size, prefix in ((2, "".join(whole[-2:])), (1, last), (1, respaced(last))):  # two: "don" and "'"
            fitting = [i for i in vocabulary.beginning_with(prefix) if i not in excluded]
            if prefix and fitting and len(symbols) >= size:
                vocabulary.require(symbols[:-size])
                allowed = torch.full((vocabulary.size,), -math.inf)
                allowed[fitting] = 0.0
                start = start_symbols(vocabulary, vocabulary.encode_symbols(symbols[:-size]))
                return _Prompt(start, prefix, begun, self._runtime.place(allowed))
        return None

    def _sample(self, prompt: "_Prompt", seed: int) -> Iterator[Piece]:
        if self._config.max_length == 0:
            yield from (Piece(i, finish_reason="length") for i in range(self._config.num_samples))
            return
        self._prompts_begun += 1
        number = self._prompts_begun
        read = self._stepper.read(prompt.start)
        self._rules.written.clear()
        drafts = (
            Draft(index, seed, self._rules, prompt.prefix, prompt.begun) for index in range(self._config.num_samples)
        )
        streams = self._begin(range(self._symbols.shape[1]), drafts, read)
        launched: deque[_Launch] = deque()
        given_up: list[Draft] = []
        while streams:
            if number != self._prompts_begun:
                raise RuntimeError("this Sampler has begun another prompt: one at a time")
            while len(launched) <= self._runtime.launches_ahead and any(map(Draft.wants_steps, streams.values())):
                launched.append(self._threads.run(functools.partial(self._launch, streams, prompt.allowed)))
            ended = []
            for slot, ids, nats in self._look(launched.popleft(), streams):
                stream = streams[slot]
                key = stream.key
                settled = stream.add(ids, nats)
                if settled.ids or stream.finish_reason is not None:
                    yield Piece(stream.index, **vars(settled), **stream.end)
                if stream.finish_reason is not None:
                    ended.append(slot)
                elif stream.key != key:
                    self._stepper.place([slot], self._read_again(stream, read))
            for slot in ended:
                given_up += [streams[slot]] if streams[slot].problem is not None else []
                del streams[slot]
            streams |= self._begin(ended, drafts, read)
        if given_up:
            first = min(given_up, key=lambda draft: draft.index)
            others = f" (and {count_of(len(given_up) - 1, 'other')})" if given_up[1:] else ""
            raise CharRNNError(f"sample {first.index}{others} gave up at {first.problem}")

    def _begin(self, slots: Iterable[int], drafts: Iterator[Draft], prompt: Reading) -> dict[int, Draft]:
        """The next samples, as far as there are any, each in one of these slots and behind the prompt."""
        begun = dict(zip(slots, drafts, strict=False))
        if begun:
            self._stepper.place(list(begun), prompt)
        return begun

    @torch.inference_mode()
    def _launch(self, streams: dict[int, Draft], allowed: Tensor | None) -> _Launch:
        """Launch K steps of all streams; `allowed` is added to the logits of the first symbol after the prompt."""
        K, B = self._symbols.shape
        keys, begin = [0] * B, [0] * B
        for added in filter(torch.is_tensor, (self._constraint, self._exclusion)):
            added.zero_()
        for slot, stream in streams.items():
            keys[slot] = stream.key
            if self._constraint is not None and allowed is not None and stream.num_launched == stream.begin:
                self._constraint[slot] = allowed
            if self._exclusion is not None and (excluded := stream.excluded.get(stream.num_launched)):
                self._exclusion[slot, list(excluded)] = -math.inf
            begin[slot] = stream.num_launched
            stream.num_launched += K
        self._keys_and_begin.copy_(self._runtime.send(torch.tensor([keys, begin])))
        self._advance()
        return {slot: keys[slot] for slot in streams}, self._runtime.fetch(self._drawn)

    def _take_steps(self) -> None:
        """K steps of all streams, without a look at what is drawn: its indices and surprisals in nats."""
        K, _, V = self._noise.shape
        self._noise.copy_(gumbel(self._keys_and_begin[0], self._keys_and_begin[1], K, V))
        for i, (noise, logits, symbols) in enumerate(self._steps):
            logits.copy_(self._stepper.logits)
            if i == 0 and self._constraint is not None:
                logits += self._constraint
            if i == 0 and self._exclusion is not None:
                logits = logits + self._exclusion
            choose(logits, self._config.temperature, self._filters, noise, out=symbols)
            self._stepper.step(symbols)
        log_p = self._logits.log_softmax(-1).gather(-1, self._symbols[:, :, None])[:, :, 0]
        # In one tensor (2, B, K), for one copy to the host; an index is exact as a float.
        self._drawn.copy_(torch.stack([self._symbols.float(), -log_p]).transpose(1, 2))

    def _look(self, launch: _Launch, streams: dict[int, Draft]) -> list[tuple[int, list[int], list[float]]]:
        """For each stream that has not ended or been taken back since: slot, ids, surprisals in nats."""
        keys, wait = launch
        drawn, surprisals = wait()
        ids, nats = drawn.int().tolist(), surprisals.tolist()
        slots = [slot for slot, key in keys.items() if slot in streams and streams[slot].key == key]
        return [(slot, ids[slot], nats[slot]) for slot in slots]

    def _read_again(self, stream: Draft, prompt: Reading) -> Reading:
        """Read the symbols that a stream keeps, from a place before those that may be taken back next."""
        ids, (length, before) = stream.ids, stream.read or (0, prompt)
        if length > len(ids):
            length, before = 0, prompt
        place = max(len(ids) - self._rules.num_held, length)
        if place > length:
            before = self._stepper.read(torch.tensor(ids[length:place]), before)
        stream.read = (place, before)
        return self._stepper.read(torch.tensor(ids[place:]), before) if place < len(ids) else before


@dataclass(frozen=True)
class _Prompt:
    """The symbols (N,) that are read before a sample, and the text that its first symbol begins with.

    `begun` is the text behind the last border, `allowed` (V,) 0 for the symbols that may come first and else -inf.
    """

    start: Tensor
    prefix: str = ""
    begun: str = ""
    allowed: Tensor | None = None


def _make_rules(
    config: SamplingConfig, vocabulary: Vocabulary, corpus: CopyIndex | None, known: Collection[int] | None
) -> Rules:
    return Rules(
        texts=vocabulary.texts,
        lengths=vocabulary.lengths.tolist(),
        max_length=config.max_length,
        samplable=set(range(vocabulary.size)).difference(excluded_symbols(config, vocabulary)),
        stops=config.stop,
        line_ends="\n" if vocabulary.border_chars is None else "\n" + BORDER,
        lines=config.lines,
        documents=config.documents,
        banned=tuple(char for char in split_ban(config.ban, vocabulary.unit) if len(char) > 1),
        max_copy=config.avoid_copying,
        corpus=corpus if config.avoid_copying is not None else None,
        unique=config.unique,
        known=known if config.new else None,
    )


def start_symbols(vocabulary: Vocabulary, prompt: Tensor) -> Tensor:
    """The symbols (N,) that are read before a sample: a border, if there are documents, and the prompt.

    Without both a line's end, or the most frequent symbol of a text without lines.
    """
    if vocabulary.border is not None:
        if len(prompt) and prompt[0] == vocabulary.border:
            return prompt
        return torch.cat([torch.tensor([vocabulary.border]), prompt])
    if len(prompt):
        return prompt
    counts = dict(zip(vocabulary.symbols, vocabulary.counts, strict=False))
    first = "\n" if counts.get("\n") else max(counts, key=lambda symbol: counts[symbol])
    return torch.tensor([vocabulary.symbols.index(first)])
