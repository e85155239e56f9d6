"""One sample in the making: its end, and the parts of it that are taken back."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import TypeAlias

from charrnn.config import SamplingConfig
from charrnn.errors import OptionError, opt
from charrnn.model.stepper import Reading
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.filters import banned_texts, samplable_ids, writable_characters
from charrnn.sampling.noise import stream_key
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Prompt, Tokenizer
from charrnn.text.words import EOS_MARK

_MAX_REJECTIONS = 100  # max successive rejections without progress
_LINE_ENDS = "\n" + EOS_MARK
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


@dataclass(frozen=True)
class Constraints:
    """The ends of samples, and the text that they must not contain.

    `corpus` is the text for `avoid_copying`, `known` are the hashes of the documents for `new`, `written` those of all
    samples so far.
    """

    config: SamplingConfig
    tokenizer: Tokenizer
    corpus: CopyIndex | None = None
    known: Collection[int] | None = None
    written: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Raises: OptionError if the corpus is missing, or a sample could not end."""
        config, eos_id = self.config, self.tokenizer.eos_id
        copies, news = config.avoid_copying is not None, config.new
        for option, is_set, corpus in ((opt.avoid_copying, copies, self.corpus), (opt.new, news, self.known)):
            if is_set and corpus is None:
                raise OptionError(f"{option} needs the corpus: name it with {opt.corpus('FILE')}")
        if (config.documents is not None or config.new or config.unique) and eos_id is None:
            raise OptionError(
                f"{opt.documents}, {opt.new} and {opt.unique} need a model of a text that was prepared as documents"
            )
        writable = writable_characters(config, self.tokenizer)
        for count, what, ends in ((config.lines, "line", _LINE_ENDS), (config.documents, "document", EOS_MARK)):
            if count is not None and writable.isdisjoint(ends):
                raise OptionError(f"no sample can end after a {what}: its end is unknown to the model, or banned")

    @cached_property
    def lengths(self) -> list[float] | None:
        """The number of characters of each id; None if all are 1."""
        lengths: list[float] = self.tokenizer.lengths.tolist()
        return None if all(length == 1 for length in lengths) else lengths

    @cached_property
    def samplable(self) -> set[int]:
        """The ids that may be drawn."""
        return samplable_ids(self.config, self.tokenizer)

    @cached_property
    def stops(self) -> list[str]:
        """The marked texts after which a sample ends."""
        return [form for stop in self.config.stop for form in self.tokenizer.marked_forms(stop)]

    @cached_property
    def banned(self) -> list[str]:
        """Banned characters of several symbols."""
        return [text for text in banned_texts(self.config, self.tokenizer) if len(text) > 1]

    @property
    def max_copy(self) -> int | None:
        """Length of a run of characters of the corpus that counts as a copy."""
        return None if self.corpus is None else self.config.avoid_copying

    @property
    def judges_documents(self) -> bool:
        """True if a document may be taken back."""
        return self.config.unique or self.config.new

    @cached_property
    def num_held(self) -> int:
        """Characters at the end of the text that may turn out, with those that follow, to be copied or banned."""
        return max([self.max_copy or 1, *map(len, self.banned)]) - 1

    def unmarked(self, texts: list[str]) -> list[str]:
        """The texts of symbols."""
        return list(map(self.tokenizer.unmark, texts)) if EOS_MARK in texts else texts

    @property
    def takes_back(self) -> bool:
        """True if symbols may be drawn again."""
        return self.max_copy is not None or bool(self.banned) or self.judges_documents


_Fault: TypeAlias = tuple[int, int | None, str, str]
"""Text that must not be written: its begin and end in the pending text, a description and a remedy.

The end is None for a whole document.
"""


class Draft:
    """A sample in the making. Symbols that may yet be taken back are pending.

    The text of its first symbol begins with the prompt's `prefix`, which is left out of the sample's text. If whole
    documents are requested, each begins with the part of a document that is in the prompt, and is drawn from the state
    after it.
    """

    def __init__(self, index: int, seed: int, constraints: Constraints, prompt: Prompt) -> None:
        self.index = index
        self.key = stream_key(seed, index, 0)
        """The key of its random numbers; another one after each rejection and before each further document."""
        self.num_launched = 0
        """Number of symbols whose steps were launched: those that `length` counts, and those not yet drawn."""
        self.finish_reason: str | None = None
        self.problem: str | None = None
        """The number of symbols at which the sample was given up, the reason and a remedy."""
        self.rejections = 0
        self.read: tuple[int, Reading] | None = None
        """Number of symbols that were read again, and the state after them."""
        self.excluded: dict[int, set[int]] = {}
        """Ids excluded at each position."""
        self.begin = 0
        """Number of symbols before the last reading of the prompt."""
        self._seed, self._constraints, self._prompt = seed, constraints, prompt
        self._repeats_prompt = constraints.config.documents is not None and bool(prompt.begun)
        self._furthest = -1  # the most symbols that a rejection has left
        self._fruitless_rejections = 0  # since then
        self._patience = _MAX_REJECTIONS
        self._tail_size = max(constraints.num_held, *(len(stop) - 1 for stop in constraints.stops), 0)
        self._echo = ""
        self._ids: list[int] = []  # settled since then, if any may be taken back
        self._tail = ""  # of their text
        self._length, self._lines, self._num_documents = 0, 0, 0  # of what is settled
        self._nats, self._chars = 0.0, float(-len(prompt.prefix))
        self._pending = _Pending()

    @property
    def ids(self) -> list[int]:
        """All ids after the last reading of the prompt, if any may be taken back."""
        return self._ids + self._pending.ids

    def wants_steps(self) -> bool:
        """True unless the steps launched so far bring it to its maximum length."""
        return self.num_launched < self._constraints.config.max_length

    @property
    def length(self) -> int:
        """Number of symbols that were drawn and not taken back."""
        return self._length + len(self._pending.ids)

    def add(self, ids: Sequence[int], nats: Sequence[float]) -> Piece:
        """Take the next symbols and their surprisals, as far as the sample's end.

        Returns: the part that can no longer be taken back. A sample that is taken back over and over is given up.
        """
        constraints, pending = self._constraints, self._pending
        texts = [constraints.tokenizer.tokens[i] for i in ids]
        if self.length == self.begin and texts:
            texts[0] = texts[0].removeprefix(self._prompt.prefix)
        pending.extend(ids, texts, nats)
        end, reason = self._find_end()
        pending.cut(end)
        fault = self._find_run(pending.text)
        is_whole = reason is not None or (self._repeats_prompt and pending.text.endswith(EOS_MARK))
        if fault is None:
            settled_end = end if is_whole else max(end - constraints.num_held, 0)
            if constraints.judges_documents and not reason:
                settled_end = pending.text.rfind(EOS_MARK, 0, settled_end) + 1
            fault = self._judge_documents(settled_end)
        if fault is not None:
            self._reject(*fault)
            return Piece(self.index) if self.problem is None else self._settle(len(pending.text))
        self.finish_reason = reason
        piece = self._settle(settled_end)
        if is_whole and reason is None:
            self._begin_document()
        return piece

    def _find_end(self) -> tuple[int, str | None]:
        """The length of the pending text to keep, and the reason of the sample's end if it ends there."""
        config, text = self._constraints.config, self._pending.text
        ends: list[tuple[int, str | None]] = []
        for stop in self._constraints.stops:
            tail = _last(self._tail, len(stop) - 1)
            found = (tail + text).find(stop)
            if found >= 0:
                ends.append((found + len(stop) - len(tail), "stop"))
        if config.lines is not None and (end := _find_nth(text, _LINE_ENDS, config.lines - self._lines)):
            ends.append((end, "lines"))
        if config.documents is not None and (end := _find_nth(text, EOS_MARK, config.documents - self._num_documents)):
            ends.append((end, "documents"))
        if self.length >= config.max_length:
            ends.append((self._pending.end_of(config.max_length - self._length), "length"))
        if self._repeats_prompt and (end := text.find(EOS_MARK) + 1):
            ends.append((end, None))
        return min(ends, key=lambda end: end[0], default=(len(text), None))

    def _find_run(self, text: str) -> _Fault | None:
        """First banned or copied run that ends in `text`; it may begin in settled text."""
        constraints = self._constraints
        for banned in constraints.banned:
            tail = _last(self._tail, len(banned) - 1)
            if (place := (tail + text).find(banned) - len(tail)) >= -len(tail):
                return place, place + len(banned), "a banned character", f"ban fewer, or raise {opt.temperature}"
        if constraints.corpus is not None and constraints.max_copy is not None:
            tail = _last(self._tail, constraints.max_copy - 1)  # symbols drawn again can make a copy of settled text
            if (found := constraints.corpus.find_copy(tail + text, constraints.max_copy)) is not None:
                place, size = found - len(tail), constraints.max_copy
                what = f"a copy of {count_of(size, 'character')} of the corpus"
                return place, place + size, what, f"raise {opt.avoid_copying} or {opt.temperature}"
        return None

    def _judge_documents(self, end: int) -> _Fault | None:
        """The first document before `end` that must not be written, or not again; if none is found, note them all."""
        constraints, begin, text = self._constraints, 0, self._pending.text
        if not constraints.judges_documents:
            return None
        new: set[int] = set()
        while (place := text.find(EOS_MARK, begin, end)) >= 0:
            is_first = begin == 0 and (self._repeats_prompt or self._num_documents == 0)
            document = hash((self._prompt.begun if is_first else "") + text[begin:place])
            if constraints.config.new and document in (constraints.known or ()):
                return begin, None, "a document of the corpus", f"raise {opt.temperature}"
            if constraints.config.unique and (document in constraints.written or document in new):
                return begin, None, "a document that was written before", f"write fewer, or raise {opt.temperature}"
            new.add(document)
            begin = place + 1
        constraints.written.update(new)
        return None

    def _reject(self, begin: int, end: int | None, what: str, remedy: str) -> None:
        """Take back a fault; after too many rejections only its last symbol, which is excluded."""
        self.rejections += 1
        is_stuck = False
        if end is None or self._fruitless_rejections < self._patience:
            self._pending.cut_before(max(begin, 0))
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
        pending.cut_before(end - 1)
        runs = {i for i in samplable if self._find_run(pending.text + self._constraints.tokenizer.tokens[i])}
        excluded = runs | self.excluded.get(self.length, set())
        while excluded == samplable and pending.ids:
            last = pending.ids[-1]
            pending.cut_before(len(pending.text) - 1)
            excluded = {last} | self.excluded.get(self.length, set())
        self.excluded[self.length] = excluded
        # A prefix restricts the first symbol, so it is not excluded.
        return excluded != samplable and (self.length > self.begin or not self._prompt.prefix)

    def _begin_document(self) -> None:
        """Start the next document from the prompt."""
        self.begin, self._echo, self._ids, self._tail = self._length, self._prompt.begun, [], ""
        self._chars -= len(self._prompt.prefix)
        self._redraw()

    def _redraw(self) -> None:
        """Change the random key and drop launched steps."""
        self.key = stream_key(self._seed, self.index, self.rejections + self._repeats_prompt * self._num_documents)
        self.num_launched = self.length
        self.excluded = {n: symbols for n, symbols in self.excluded.items() if self._length <= n <= self.length}

    def _settle(self, end: int) -> Piece:
        """The next piece: pending symbols up to `end`, or all if the sample has ended."""
        is_last, constraints = self.finish_reason is not None, self._constraints
        taken = self._pending.take(end, whole=is_last)
        piece = Piece(self.index, taken.ids, constraints.unmarked(taken.texts), taken.nats, self.finish_reason)
        if self._echo and taken.ids:
            piece, self._echo = replace(piece, echo=self._echo), ""
        self._length += len(taken.ids)
        self._lines += sum(map(taken.text.count, _LINE_ENDS))
        self._num_documents += taken.text.count(EOS_MARK)
        self._nats += sum(taken.nats)
        lengths = constraints.lengths
        self._chars += len(taken.ids) if lengths is None else sum(lengths[i] for i in taken.ids)
        self._tail = _last(self._tail + taken.text, self._tail_size)
        if constraints.takes_back:
            self._ids += taken.ids
        if is_last and self._length:
            piece = replace(piece, bits_per_char=self._nats / max(self._chars, 1) / math.log(2))
        return piece


class _Pending:
    """Symbols that may yet be taken back: ids, marked texts, which joined are `text`, and surprisals in nats."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.nats: list[float] = []
        self.text = ""

    def extend(self, ids: Sequence[int], texts: Sequence[str], nats: Sequence[float]) -> None:
        """Add symbols."""
        self.ids += ids
        self.texts += texts
        self.nats += nats
        self.text += "".join(texts)

    def end_of(self, size: int) -> int:
        """The end in the text of the first symbols."""
        return sum(map(len, self.texts[:size]))

    def cut(self, end: int) -> None:
        """Keep the text up to an end, and the symbols that it needs."""
        if end < len(self.text):
            ends = self._ends()
            size = bisect_left(ends, end) + 1
            self._keep(size)
            self.texts[-1] = self.texts[-1][: len(self.texts[-1]) - ends[size - 1] + end]
            self.text = self.text[:end]

    def cut_before(self, begin: int) -> None:
        """Keep the whole symbols before a place in the text."""
        self._keep(bisect_right(self._ends(), begin))

    def take(self, end: int, *, whole: bool) -> "_Pending":
        """Remove and return the symbols that end at `end` or before, or with `whole` all."""
        size = len(self.ids) if whole or end == len(self.text) else bisect_right(self._ends(), end)
        taken = _Pending()
        taken.extend(self.ids[:size], self.texts[:size], self.nats[:size])
        self.ids, self.texts, self.nats = self.ids[size:], self.texts[size:], self.nats[size:]
        self.text = self.text[len(taken.text) :]
        return taken

    def _ends(self) -> list[int]:
        """The symbols' ends in the text."""
        return list(accumulate(map(len, self.texts)))

    def _keep(self, size: int) -> None:
        self.ids, self.texts, self.nats = self.ids[:size], self.texts[:size], self.nats[:size]
        self.text = "".join(self.texts)


def _find_nth(text: str, chars: str, count: int) -> int:
    """The place after the nth of these characters in a text; 0 if there are fewer."""
    places = (i for i, char in enumerate(text, 1) if char in chars)
    return next((end for n, end in enumerate(places, 1) if n == count), 0)


def _last(text: str, size: int) -> str:
    return text[max(len(text) - size, 0) :]
