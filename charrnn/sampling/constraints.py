"""One sample in the making: its end, and the parts of it that are taken back."""

import math
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TypeAlias

from charrnn.config import SamplingConfig
from charrnn.errors import OptionError, opt
from charrnn.model.stepper import StreamState
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.filters import samplable_ids, writable_characters
from charrnn.sampling.noise import stream_key
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Prompt, Tokenizer
from charrnn.text.words import EOS_MARK

_LINE_ENDS = "\n" + EOS_MARK
_MAX_REJECTIONS = 100  # max successive rejections without progress
_FEW_REJECTIONS = 3  # max once a sample has reached _MAX_REJECTIONS


@dataclass(frozen=True)
class Piece:
    """The next symbols of sample `index`; the last piece has the reason of the end and the likelihood.

    `ids`, `texts` and `nats` are the symbols' ids, texts and surprisals; the first and the last text may be parts of
    words. `finish_reason` is "length", "stop", "lines", "documents" or "given_up". Surprisals and `bits_per_char` are
    under the model itself, at temperature 1 and without filters. `echo` is the prompt, if a further document begins
    here; it is not part of the text.
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

    def marked(self, eos_id: int | None) -> str:
        """The text with an EOS_MARK at each end of a document."""
        return "".join(EOS_MARK if i == eos_id else text for i, text in zip(self.ids, self.texts, strict=True))


class Constraints:
    """The ends of samples, and the text that they must not contain.

    `corpus` is the text for `avoid_copying`, `known` are the hashes of the documents for `new`, `written` those of all
    samples so far.
    """

    def __init__(
        self,
        config: SamplingConfig,
        tokenizer: Tokenizer,
        corpus: CopyIndex | None = None,
        known: Collection[int] | None = None,
    ) -> None:
        """Raises: OptionError if the corpus is missing, or a sample could not end."""
        copies = config.avoid_copying is not None
        for option, is_set, needed in ((opt.avoid_copying, copies, corpus), (opt.new, config.new, known)):
            if is_set and needed is None:
                raise OptionError(f"{option} needs the corpus: name it with {opt.corpus('FILE')}")
        if (config.documents is not None or config.new or config.unique) and tokenizer.eos_id is None:
            raise OptionError(
                f"{opt.documents}, {opt.new} and {opt.unique} need a model of a text that was prepared as documents"
            )
        writable = writable_characters(config, tokenizer)
        for count, what, ends in ((config.lines, "line", _LINE_ENDS), (config.documents, "document", EOS_MARK)):
            if count is not None and writable.isdisjoint(ends):
                raise OptionError(f"no sample can end after a {what}: its end is unknown to the model, or banned")
        self.config, self.tokenizer, self.corpus, self.known = config, tokenizer, corpus, known or ()
        self.written: set[int] = set()
        self.samplable = samplable_ids(config, tokenizer)
        self.lengths: list[float] = tokenizer.lengths.tolist()  # number of characters of each id
        self.stops = [form for stop in config.stop for form in tokenizer.marked_forms(stop)]
        self.banned = [text for text in map(tokenizer.mark, config.ban) if len(text) > 1]  # texts of several symbols
        self.judges_documents = config.unique or config.new  # and may take them back
        self.takes_back = copies or bool(self.banned) or self.judges_documents
        self.num_held = max([config.avoid_copying or 1, *map(len, self.banned)]) - 1
        """Characters at the end of the text that may turn out, with those that follow, to be copied or banned."""
        self.tail_size = max([1, self.num_held, *(len(stop) - 1 for stop in self.stops)])
        """Characters at the end of the settled text that may begin a stop, or text that must not be written."""


_Fault: TypeAlias = tuple[int, int | None, str, str]
"""Text that must not be written: its begin and end in the pending text, a description and a remedy.

The end is None for a whole document.
"""


class Draft:
    """A sample in the making. Symbols that may yet be taken back are pending, all others are settled.

    The text of its first symbol begins with the prompt's `prefix`, which is left out of the sample's text. If whole
    documents are requested, each begins with the part of a document that is in the prompt, and is drawn from the state
    after it.
    """

    def __init__(self, index: int, seed: int, constraints: Constraints, prompt: Prompt) -> None:
        self.index = index
        self.key = stream_key(seed, index, 0)  # of its random numbers; changes with each rejection and further document
        self.num_launched = 0  # symbols whose steps were launched: those that `length` counts, and those not yet drawn
        self.finish_reason: str | None = None
        self.problem: str | None = None  # the number of symbols at which it was given up, the reason and a remedy
        self.rejections = 0
        self.read: tuple[int, StreamState] | None = None  # number of symbols read again, and the state after them
        self.excluded: dict[int, set[int]] = {}  # ids at each position
        self.begin = 0  # number of symbols before the last reading of the prompt
        self._seed, self._constraints, self._prompt = seed, constraints, prompt
        self._repeats_prompt = constraints.config.documents is not None and bool(prompt.unfinished)
        self._furthest = -1  # the most symbols that a rejection has left
        self._fruitless_rejections = 0  # since then
        self._patience = _MAX_REJECTIONS
        self._pending = _Symbols()
        self._ids: list[int] = []  # settled since `begin`, if any may be taken back
        self._tail = ""  # of their text
        self._length, self._lines, self._num_documents = 0, 0, 0  # of all that is settled
        self._nats, self._chars = 0.0, float(-len(prompt.prefix))

    @property
    def ids(self) -> list[int]:
        """All ids after the last reading of the prompt, if any may be taken back."""
        return self._ids + self._pending.ids

    @property
    def length(self) -> int:
        """Number of symbols that were drawn and not taken back."""
        return self._length + len(self._pending.ids)

    def add(self, ids: Sequence[int], nats: Sequence[float]) -> Piece:
        """Take the next symbols and their surprisals, as far as the sample's end.

        Returns: the part that can no longer be taken back. A sample that is taken back over and over is given up.
        """
        constraints, pending, tokens = self._constraints, self._pending, self._constraints.tokenizer.marked_texts
        texts = [tokens[i] for i in ids]
        if self.length == self.begin and texts:
            texts[0] = texts[0].removeprefix(self._prompt.prefix)
        pending.extend(ids, texts, nats)
        end, reason = self._find_end(pending.text)
        pending.cut(end)
        text = pending.text
        is_whole = reason is not None or (self._repeats_prompt and text.endswith(EOS_MARK))
        if (fault := self._find_run(text)) is None:
            settled_end = end if is_whole else max(end - constraints.num_held, 0)
            if constraints.judges_documents:
                if reason is None:
                    settled_end = text.rfind(EOS_MARK, 0, settled_end) + 1
                fault = self._judge_documents(text[:settled_end])
        if fault is not None:
            self._reject(*fault)
            return Piece(self.index) if self.problem is None else self._settle(len(pending.text))
        self.finish_reason = reason
        piece = self._settle(settled_end)
        if is_whole and reason is None:  # the next document starts from the prompt
            self.begin, self._ids, self._tail = self._length, [], ""
            self._chars -= len(self._prompt.prefix)
            self._redraw()
        return piece

    def _find_end(self, text: str) -> tuple[int, str | None]:
        """The length of the pending text to keep, and the reason of the sample's end if it ends there."""
        config, tail = self._constraints.config, self._tail
        ends: list[tuple[int, str | None]] = []
        for stop in self._constraints.stops:
            if (place := (tail + text).find(stop)) >= 0:
                ends.append((place + len(stop) - len(tail), "stop"))
        if config.lines is not None and (end := _find_nth(text, _LINE_ENDS, config.lines - self._lines)):
            ends.append((end, "lines"))
        if config.documents is not None and (end := _find_nth(text, EOS_MARK, config.documents - self._num_documents)):
            ends.append((end, "documents"))
        if self.length >= config.max_length:
            ends.append((sum(map(len, self._pending.texts[: config.max_length - self._length])), "length"))
        if self._repeats_prompt and (end := text.find(EOS_MARK) + 1):
            ends.append((end, None))
        return min(ends, key=lambda end: end[0], default=(len(text), None))

    def _find_run(self, text: str) -> _Fault | None:
        """First banned or copied run that ends in `text`; it may begin in settled text, which holds no whole one."""
        constraints, tail, size = self._constraints, self._tail, self._constraints.config.avoid_copying
        for banned in constraints.banned:
            if (place := (tail + text).find(banned)) >= 0:
                begin = place - len(tail)
                return begin, begin + len(banned), "a banned character", f"ban fewer, or raise {opt.temperature}"
        if constraints.corpus is None or size is None:
            return None
        if (found := constraints.corpus.find_copy(tail + text, size)) is None:
            return None
        begin, what = found - len(tail), f"a copy of {count_of(size, 'character')} of the corpus"
        return begin, begin + size, what, f"raise {opt.avoid_copying} or {opt.temperature}"

    def _judge_documents(self, text: str) -> _Fault | None:
        """The first document in a text that must not be written, or not again; if none is found, note them all."""
        constraints, begin = self._constraints, 0
        new: set[int] = set()
        for document in text.split(EOS_MARK)[:-1]:
            is_first = begin == 0 and (self._repeats_prompt or self._num_documents == 0)
            key = hash((self._prompt.unfinished if is_first else "") + document)
            if constraints.config.new and key in constraints.known:
                return begin, None, "a document of the corpus", f"raise {opt.temperature}"
            if constraints.config.unique and (key in constraints.written or key in new):
                return begin, None, "a document that was written before", f"write fewer, or raise {opt.temperature}"
            new.add(key)
            begin += len(document) + 1
        constraints.written.update(new)
        return None

    def _reject(self, begin: int, end: int | None, what: str, remedy: str) -> None:
        """Take back a fault; after too many rejections only its last symbol, which is excluded."""
        self.rejections += 1
        is_stuck = False
        if end is None or self._fruitless_rejections < self._patience:
            self._pending.keep(self._pending.count(max(begin, 0)))
        else:
            self._patience = _FEW_REJECTIONS
            is_stuck = not self._exclude_last(end)
        self._redraw()
        self._fruitless_rejections = self._fruitless_rejections + 1 if self.length <= self._furthest else 0
        self._furthest = max(self._furthest, self.length)
        if is_stuck or self._fruitless_rejections >= _MAX_REJECTIONS * (1 if end is None else 2):
            self.finish_reason = "given_up"
            length, attempts = count_of(self._furthest, "symbol"), count_of(self._fruitless_rejections, "attempt")
            self.problem = f"{length}: each of {attempts} made {what}; {remedy}"

    def _exclude_last(self, end: int) -> bool:
        """Take back the symbol at the end of a run, and exclude all that would complete one there.

        If no other is left, the symbol before is taken back and excluded. Returns: False if there is none.
        """
        samplable, pending = self._constraints.samplable, self._pending
        tokens = self._constraints.tokenizer.marked_texts
        pending.keep(pending.count(end - 1))
        text = pending.text
        excluded = {i for i in samplable if self._find_run(text + tokens[i])} | self.excluded.get(self.length, set())
        while excluded == samplable and pending.ids:
            last = pending.ids[-1]
            pending.keep(-1)
            excluded = {last} | self.excluded.get(self.length, set())
        self.excluded[self.length] = excluded
        # A prefix restricts the first symbol, so it is not excluded.
        return excluded != samplable and (self.length > self.begin or not self._prompt.prefix)

    def _redraw(self) -> None:
        """Change the random key and drop launched steps."""
        self.key = stream_key(self._seed, self.index, self.rejections + self._repeats_prompt * self._num_documents)
        self.num_launched = self.length
        self.excluded = {n: symbols for n, symbols in self.excluded.items() if self._length <= n <= self.length}

    def _settle(self, end: int) -> Piece:
        """The next piece: the pending symbols up to `end`."""
        constraints, (ids, texts, nats) = self._constraints, self._pending.take(end)
        text = "".join(texts)
        echo = self._prompt.unfinished if ids and self._length == self.begin > 0 else ""
        self._length += len(ids)
        self._lines += sum(map(text.count, _LINE_ENDS))
        self._num_documents += text.count(EOS_MARK)
        self._nats += sum(nats)
        self._chars += sum(map(constraints.lengths.__getitem__, ids))
        self._tail = (self._tail + text)[-constraints.tail_size :]
        if constraints.takes_back:
            self._ids += ids
        bits_per_char = None
        if self.finish_reason is not None and self._length:
            bits_per_char = self._nats / max(self._chars, 1) / math.log(2)
        shown = list(map(constraints.tokenizer.unmark, texts)) if EOS_MARK in text else texts
        return Piece(self.index, ids, shown, nats, self.finish_reason, bits_per_char, echo)


class _Symbols:
    """Ids, marked texts and surprisals in nats of symbols."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.nats: list[float] = []

    @property
    def text(self) -> str:
        """The marked text of all."""
        return "".join(self.texts)

    def extend(self, ids: Sequence[int], texts: Sequence[str], nats: Sequence[float]) -> None:
        """Add symbols."""
        self.ids += ids
        self.texts += texts
        self.nats += nats

    def count(self, end: int) -> int:
        """Number of the symbols whose text ends at `end` or before."""
        return bisect_right(list(accumulate(map(len, self.texts))), end)

    def keep(self, size: int) -> None:
        """Remove all but the first symbols."""
        del self.ids[size:], self.texts[size:], self.nats[size:]

    def cut(self, end: int) -> None:
        """Keep the text up to `end`, and the symbols that it needs."""
        if end < len(self.text):
            self.keep(self.count(end - 1) + 1)
            surplus = len(self.text) - end
            self.texts[-1] = self.texts[-1][: len(self.texts[-1]) - surplus]

    def take(self, end: int) -> tuple[list[int], list[str], list[float]]:
        """Remove and return the symbols whose text ends at `end` or before."""
        size = self.count(end)
        taken = self.ids[:size], self.texts[:size], self.nats[:size]
        del self.ids[:size], self.texts[:size], self.nats[:size]
        return taken


def _find_nth(text: str, chars: str, count: int) -> int:
    """The place after the nth of these characters in a text; 0 if there are fewer."""
    places = (place for place, char in enumerate(text, 1) if char in chars)
    return next(islice(places, count - 1, None), 0)
