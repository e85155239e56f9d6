"""Sample many texts side by side from a trained model, as a stream of pieces.

A step is computed by `stepper.py`, random numbers by `noise.py`.
Letters in shapes: K steps between two transfers of the drawn symbols, B streams, V vocabulary size.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError
from charrnn.machine.runtime import Runtime
from charrnn.machine.threads import Threads
from charrnn.model.network import CharRNN
from charrnn.model.stepper import Stepper, StreamState
from charrnn.sampling.constraints import Constraints, Draft, Piece
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.filters import Filter, make_filters
from charrnn.sampling.noise import gumbel
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Prompt, Tokenizer

_STEPS_TO_AN_END = 16  # if a sample may end at any symbol: symbols drawn after the end are wasted
_MAX_VALUES = 2**23  # of K steps, B streams and V symbols
_MIN_TEMPERATURE = 1e-4  # below it only the most likely symbol remains, and float32 overflows


def choose(
    logits: Tensor, temperature: float, filters: list[Filter], noise: Tensor, out: Tensor | None = None
) -> Tensor:
    """Draw one symbol for each stream: logits and Gumbel noise (B, V) to (B,) int64.

    The largest log p + noise is at each symbol with exactly its probability p, that of the filtered logits divided by
    the temperature; logits differ from log p by a constant only. Unlike `multinomial`, this does not wait for the
    device.
    """
    greedy = temperature < _MIN_TEMPERATURE
    if filters:
        logits, temperature = logits.clone() if greedy else logits / temperature, 1.0
    for keep in filters:
        logits = keep(logits)
    return torch.argmax(torch.add(logits, noise, alpha=0.0 if greedy else temperature), -1, out=out)


class Sampler:
    """Draw samples with the options of a config, for any number of prompts.

    Sample i depends on the seed and i alone, with `unique` also on the other samples. Up to B samples advance together,
    K steps between two transfers of the drawn symbols; when one ends, the next takes its place. A device with a queue
    receives the next K steps before the last ones are read; those drawn for a sample that has ended since are dropped,
    and those after symbols that are taken back because they break a constraint. One prompt at a time: prompts share the
    buffers.
    """

    def __init__(
        self,
        model: CharRNN,
        tokenizer: Tokenizer,
        config: SamplingConfig,
        runtime: Runtime,
        corpus: CopyIndex | None = None,
        known: Collection[int] | None = None,
    ) -> None:
        """`model` is already on the runtime's device: moving it would replace the tensors of a recorded training step.

        `corpus` is the text for `avoid_copying`, `known` are the hashes of the documents for `new`.
        Raises: OptionError if they are missing, no symbol can be sampled, or no sample could end.
        """
        self._tokenizer, self._config, self._runtime = tokenizer, config, runtime
        self._constraints = Constraints(config, tokenizer, corpus, known)
        self._filters = make_filters(config, tokenizer, runtime)
        V = tokenizer.size
        B = min(config.num_samples, runtime.max_streams, max(_MAX_VALUES // (_STEPS_TO_AN_END * V), 1))
        ends_anywhere = config.num_samples > 1 and (config.stop or config.lines or config.documents)
        steps = min(_STEPS_TO_AN_END if ends_anywhere else runtime.max_steps(B), max(config.max_length, 1))
        K = max(min(steps, _MAX_VALUES // (B * V)), 1)
        self._stepper = Stepper(model, runtime, B)
        self._keys_and_begin = torch.zeros(2, B, dtype=torch.int64)
        if runtime.draws_noise:
            self._keys_and_begin = runtime.place(self._keys_and_begin)
        self._noise = runtime.place(torch.zeros(K, B, V))
        self._logits = torch.zeros_like(self._noise)
        self._first = runtime.place(torch.zeros(B, V)) if tokenizer.has_words else None
        """Added to the logits of each stream's first symbol, which may have to go on with the prompt's last word."""
        self._exclusion = runtime.place(torch.zeros(B, V)) if self._constraints.takes_back else None
        """Added likewise, for symbols excluded after others were taken back; surprisals are computed without it."""
        self._symbols = runtime.place(torch.zeros(K, B, dtype=torch.int64))
        self._drawn = runtime.place(torch.zeros(2, B, K))
        # Views made once: making them costs as much as computing with them.
        self._steps = list(zip(self._noise, self._logits, self._symbols, strict=True))
        num_launches = config.num_samples / B * config.max_length / K
        self._advance = runtime.capture(self._take_steps, num_calls=num_launches)
        self._threads = Threads(
            is_fixed=runtime.dtype != torch.int8
        )  # floating-point sums may depend on the number of threads
        self._num_prompts = 0
        self._kept: StreamState | None = None

    def read_prompt(self, prompt: str, *, skip_unknown: bool = False) -> Prompt:
        """A prompt for `sample`. Raises: CharRNNError for symbols that the model lacks, unless they are skipped."""
        excluded = set(range(self._tokenizer.size)) - self._constraints.samplable
        return self._tokenizer.encode_prompt(prompt, excluded, skip_unknown=skip_unknown, starts=self._kept is None)

    def sample(self, prompt: str | Prompt = "", *, seed: int, keeps_state: bool = False) -> Iterator[Piece]:
        """Continue the prompt `config.num_samples` times, piece by piece; without a prompt a line starts.

        With `keeps_state` the next prompt continues the single sample of this one.
        Raises: CharRNNError, before the first piece for a prompt outside the vocabulary, after the last one for
        samples that were given up because they were taken back over and over.
        """
        return self._sample(self.read_prompt(prompt) if isinstance(prompt, str) else prompt, seed, keeps_state)

    def _sample(self, prompt: Prompt, seed: int, keeps_state: bool) -> Iterator[Piece]:
        ahead, max_length = self._runtime.launches_ahead, self._config.max_length
        if max_length == 0:
            self._kept = self._read(prompt.ids, self._kept) if keeps_state else None
            yield from (Piece(i, finish_reason="length") for i in range(self._config.num_samples))
            return
        self._num_prompts = number = self._num_prompts + 1
        read = self._read(prompt.ids, self._kept)
        self._constraints.written.clear()
        first = None if prompt.first is None else self._penalties(prompt.first)
        waiting = (Draft(index, seed, self._constraints, prompt) for index in range(self._config.num_samples))
        drafts = self._begin(range(self._symbols.shape[1]), waiting, read)
        launched: deque[tuple[dict[int, int], Callable[[], Tensor]]] = deque()
        given_up: list[Draft] = []
        written: list[int] = []
        while drafts:
            if number != self._num_prompts:
                raise RuntimeError("this Sampler has started another prompt: one at a time")
            while len(launched) <= ahead and any(draft.num_launched < max_length for draft in drafts.values()):
                launched.append(self._threads.run(functools.partial(self._launch, drafts, first)))
            keys, wait = launched.popleft()
            drawn, surprisals = wait()
            ids, nats, ended = drawn.int().tolist(), surprisals.tolist(), []
            for slot, key in keys.items():
                draft = drafts.get(slot)
                if draft is None or draft.key != key:  # it has ended or been taken back since
                    continue
                piece = draft.add(ids[slot], nats[slot])
                if piece.ids or piece.finish_reason is not None:
                    written += piece.ids if keeps_state else ()
                    yield piece
                if draft.finish_reason is not None:
                    ended.append(slot)
                elif draft.key != key:
                    self._stepper.set_state([slot], self._read_again(draft, read))
            given_up += [draft for draft in map(drafts.pop, ended) if draft.problem is not None]
            drafts |= self._begin(ended, waiting, read)
        if keeps_state:
            self._kept = self._read(torch.tensor(written, dtype=torch.int64), read)
        if given_up:
            raise _gave_up(given_up)

    def _read(self, ids: Tensor, before: StreamState | None) -> StreamState:
        return before if before is not None and not len(ids) else self._stepper.read(ids, before)

    def _penalties(self, ids: Collection[int]) -> Tensor:
        """Penalties (V,) for logits: 0 for these ids, minus infinity for all others."""
        penalties = torch.full((self._tokenizer.size,), -math.inf)
        penalties[list(ids)] = 0.0
        return self._runtime.place(penalties)

    def _begin(self, slots: Iterable[int], waiting: Iterator[Draft], prompt: StreamState) -> dict[int, Draft]:
        """The next samples, as far as there are any, each in one of these slots and after the prompt."""
        started = dict(zip(slots, waiting, strict=False))
        if started:
            self._stepper.set_state(list(started), prompt)
        return started

    @torch.inference_mode()
    def _launch(self, drafts: dict[int, Draft], first: Tensor | None) -> tuple[dict[int, int], Callable[[], Tensor]]:
        """Launch K steps of all streams; `first` is added to the logits of the first symbol after the prompt.

        Returns: the keys of the drafts by slot, and a function that waits for the symbols and surprisals drawn.
        """
        K, B = self._symbols.shape
        keys, begin = [0] * B, [0] * B
        for added in filter(torch.is_tensor, (self._first, self._exclusion)):
            added.zero_()
        for slot, draft in drafts.items():
            keys[slot] = draft.key
            if self._first is not None and first is not None and draft.num_launched == draft.begin:
                self._first[slot] = first
            if self._exclusion is not None and (excluded := draft.excluded.get(draft.num_launched)):
                self._exclusion[slot, list(excluded)] = -math.inf
            begin[slot] = draft.num_launched
            draft.num_launched += K
        self._keys_and_begin.copy_(self._runtime.send(torch.tensor([keys, begin])))
        self._advance()
        return {slot: keys[slot] for slot in drafts}, self._runtime.fetch(self._drawn)

    def _take_steps(self) -> None:
        """K steps of all streams, without a transfer to the host: ids and surprisals in nats."""
        K, _, V = self._noise.shape
        self._noise.copy_(gumbel(self._keys_and_begin[0], self._keys_and_begin[1], K, V))
        for i, (noise, logits, symbols) in enumerate(self._steps):
            logits.copy_(self._stepper.logits)
            if i == 0 and self._first is not None:
                logits += self._first
            if i == 0 and self._exclusion is not None:
                logits = logits + self._exclusion
            choose(logits, self._config.temperature, self._filters, noise, out=symbols)
            self._stepper.step(symbols)
        log_p = self._logits.log_softmax(-1).gather(-1, self._symbols[:, :, None])[:, :, 0]
        # In one tensor (2, B, K), for one copy to the host; an id is exact as a float.
        self._drawn.copy_(torch.stack([self._symbols.float(), -log_p]).transpose(1, 2))

    def _read_again(self, draft: Draft, prompt: StreamState) -> StreamState:
        """Read the symbols that a draft keeps, from a place before those that may be taken back next."""
        ids, (length, before) = draft.ids, draft.read or (0, prompt)
        if length > len(ids):
            length, before = 0, prompt
        place = max(len(ids) - self._constraints.num_held, length)
        if place > length:
            before = self._stepper.read(torch.tensor(ids[length:place]), before)
        draft.read = (place, before)
        return self._stepper.read(torch.tensor(ids[place:]), before) if place < len(ids) else before


def _gave_up(drafts: list[Draft]) -> CharRNNError:
    """The error about samples that were given up."""
    lowest = min(drafts, key=lambda draft: draft.index)
    others = f" (and {count_of(len(drafts) - 1, 'other')})" if drafts[1:] else ""
    return CharRNNError(f"sample {lowest.index}{others} gave up at {lowest.problem}")
