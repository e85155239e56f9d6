"""One sample in the making: its end, and the parts of it that are taken back.

Texts are in the form that they have inside the program (`text/units.py`).
"""

import functools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, TypeAlias

from charrnn.errors import opt
from charrnn.model.stepper import Reading
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.noise import stream_key
from charrnn.terminal import count_of
from charrnn.text.units import BORDER

_MAX_REJECTIONS = 100  # max successive rejections without progress
_FEW_REJECTIONS = 3  # max once a sample has reached _MAX_REJECTIONS


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The ends of a sample, and the text that it must not contain.

    `texts` are those of the indices, `lengths` the characters that they stand for, `samplable` those that may be drawn.
    """

    texts: Sequence[str]
    lengths: Sequence[float]
    max_length: int
    samplable: Collection[int] = frozenset()
    stops: tuple[str, ...] = ()
    line_ends: str = "\n"
    lines: int | None = None
    documents: int | None = None
    banned: tuple[str, ...] = ()
    max_copy: int | None = None
    """Length of a run of characters of the corpus that counts as a copy."""
    corpus: CopyIndex | None = None
    unique: bool = False
    known: Collection[int] | None = None
    """Hashes of the documents that must not be written again."""
    written: set[int] = field(default_factory=set)
    """The same of documents of all samples so far."""

    @functools.cached_property
    def counts_symbols(self) -> bool:
        """True if each index stands for one character."""
        return all(length == 1 for length in self.lengths)

    @property
    def judges_documents(self) -> bool:
        """True if a document may be taken back."""
        return self.unique or self.known is not None

    @functools.cached_property
    def num_held(self) -> int:
        """Characters at the end of the text that may turn out, with those that follow, to be copied or banned."""
        sizes = [self.max_copy or 1 if self.corpus is not None else 1, *map(len, self.banned)]
        return max(sizes) - 1

    @property
    def takes_back(self) -> bool:
        """True if symbols may be drawn again."""
        return self.corpus is not None or bool(self.banned) or self.judges_documents


_Fault: TypeAlias = tuple[int, int | None, str, str]
"""Text that must not be written: its begin and end in the pending text, a description and a remedy.

The end is None for a whole document.
"""


@dataclass(frozen=True)
class Settled:
    """The ids of symbols that can no longer be taken back, their texts and surprisals in nats.

    `echo` is the prompt, if a further document begins here.
    """

    ids: Sequence[int] = ()
    texts: Sequence[str] = ()
    nats: Sequence[float] = ()
    echo: str = ""


class Draft:
    """A sample in the making. Symbols that may yet be taken back are pending.

    The text of its first symbol begins with `prefix`, the end of the prompt, which is left out of the sample's text.
    `begun` is the part of its first document that is in the prompt. If whole documents are asked for, each begins so,
    and is drawn from the state after the prompt.
    """

    def __init__(self, index: int, seed: int, rules: Rules, prefix: str = "", begun: str = "") -> None:
        self.index = index
        self.key = stream_key(seed, index, 0)
        """The key of its random numbers; another one after each rejection and before each further document."""
        self.num_launched = 0
        """Number of symbols whose steps were launched: those that `length` counts, and those not yet drawn."""
        self.finish_reason: str | None = None
        self.problem: str | None = None
        """The number of symbols at which the sample was given up, the reason and a remedy."""
        self.bits_per_char: float | None = None
        """Of the whole sample, once it has ended."""
        self.rejections = 0
        self.read: tuple[int, Reading] | None = None
        """Number of symbols that were read again, and the state after them."""
        self.excluded: dict[int, set[int]] = {}
        """Symbols excluded at each position."""
        self._seed, self._rules, self._prefix, self._begun = seed, rules, prefix, begun
        self._repeats_prompt = rules.documents is not None and bool(begun)
        self._furthest = -1  # the most symbols that a rejection has left
        self._fruitless_rejections = 0  # since then
        self._patience = _MAX_REJECTIONS
        self._tail_size = max(rules.num_held, *(len(stop) - 1 for stop in rules.stops), 0)
        self.begin = 0
        """Number of symbols before the last reading of the prompt."""
        self._echo = ""
        self._ids: list[int] = []  # settled since then, if any may be taken back
        self._tail = ""  # of their text
        self._length, self._lines, self._num_documents = 0, 0, 0  # of what is settled
        self._nats, self._chars = 0.0, float(-len(prefix))
        self._pending = _Pending()

    @property
    def ids(self) -> list[int]:
        """All symbols after the last reading of the prompt, if any may be taken back."""
        return self._ids + self._pending.ids

    @property
    def end(self) -> dict[str, Any]:
        """The reason of the end and the bits per character, None before it."""
        return {"finish_reason": self.finish_reason, "bits_per_char": self.bits_per_char}

    def wants_steps(self) -> bool:
        """True unless the steps launched so far bring it to its maximum length."""
        return self.num_launched < self._rules.max_length

    @property
    def length(self) -> int:
        """Number of symbols that were drawn and not taken back."""
        return self._length + len(self._pending.ids)

    def add(self, ids: Sequence[int], nats: Sequence[float]) -> Settled:
        """Take the next symbols and their surprisals, as far as the sample's end.

        Returns: the part that can no longer be taken back. A sample that is taken back over and over is given up.
        """
        texts = [self._rules.texts[i] for i in ids]
        if self.length == self.begin and texts:
            texts[0] = texts[0].removeprefix(self._prefix)
        self._pending.extend(ids, texts, nats)
        end, reason = self._find_end()
        self._pending.cut(end)
        fault = self._find_run(self._pending.text)
        is_whole = reason is not None or (self._repeats_prompt and self._pending.text.endswith(BORDER))
        if fault is None:
            settled_end = end if is_whole else max(end - self._rules.num_held, 0)
            if self._rules.judges_documents and not reason:
                settled_end = self._pending.text.rfind(BORDER, 0, settled_end) + 1
            fault = self._judge_documents(settled_end)
        if fault is not None:
            self._reject(*fault)
            return Settled() if self.problem is None else self._settle(len(self._pending.text))
        self.finish_reason = reason
        settled = self._settle(settled_end)
        if is_whole and reason is None:
            self._begin_document()
        return settled

    def _find_end(self) -> tuple[int, str | None]:
        """The length of the pending text to keep, and the reason of the sample's end if it ends there."""
        rules, text = self._rules, self._pending.text
        ends: list[tuple[int, str | None]] = []
        for stop in rules.stops:
            tail = _last(self._tail, len(stop) - 1)
            found = (tail + text).find(stop)
            if found >= 0:
                ends.append((found + len(stop) - len(tail), "stop"))
        if rules.lines is not None and (end := _find_nth(text, rules.line_ends, rules.lines - self._lines)):
            ends.append((end, "lines"))
        if rules.documents is not None and (end := _find_nth(text, BORDER, rules.documents - self._num_documents)):
            ends.append((end, "documents"))
        if self.length >= rules.max_length:
            ends.append((self._pending.end_of(rules.max_length - self._length), "length"))
        if self._repeats_prompt and (end := text.find(BORDER) + 1):
            ends.append((end, None))
        return min(ends, key=lambda end: end[0], default=(len(text), None))

    def _find_run(self, text: str) -> _Fault | None:
        """First banned or copied run that ends in `text`; it may begin in settled text."""
        rules = self._rules
        for banned in rules.banned:
            tail = _last(self._tail, len(banned) - 1)
            if (place := (tail + text).find(banned) - len(tail)) >= -len(tail):
                return place, place + len(banned), "a banned character", f"ban fewer, or raise {opt.temperature}"
        if rules.corpus is not None and rules.max_copy is not None:
            tail = _last(self._tail, rules.max_copy - 1)  # symbols drawn anew can make a copy of what was settled
            if (found := rules.corpus.find_copy(tail + text, rules.max_copy)) is not None:
                place, what = found - len(tail), f"a copy of {count_of(rules.max_copy, 'character')} of the corpus"
                return place, place + rules.max_copy, what, f"raise {opt.avoid_copying} or {opt.temperature}"
        return None

    def _judge_documents(self, end: int) -> _Fault | None:
        """The first document before `end` that must not be written, or not again; if there is none, note them all."""
        rules, begin, text = self._rules, 0, self._pending.text
        if not rules.judges_documents:
            return None
        new: set[int] = set()
        while (border := text.find(BORDER, begin, end)) >= 0:
            is_first = begin == 0 and (self._repeats_prompt or self._num_documents == 0)
            document = hash((self._begun if is_first else "") + text[begin:border])
            if rules.known is not None and document in rules.known:
                return begin, None, "a document of the corpus", f"raise {opt.temperature}"
            if rules.unique and (document in rules.written or document in new):
                return begin, None, "a document that was written before", f"write fewer, or raise {opt.temperature}"
            new.add(document)
            begin = border + 1
        rules.written.update(new)
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
        samplable, pending = self._rules.samplable, self._pending
        pending.cut_before(end - 1)
        runs = {i for i in samplable if self._find_run(pending.text + self._rules.texts[i])}
        excluded = runs | self.excluded.get(self.length, set())
        while excluded == samplable and pending.ids:
            last = pending.ids[-1]
            pending.cut_before(len(pending.text) - 1)
            excluded = {last} | self.excluded.get(self.length, set())
        self.excluded[self.length] = excluded
        # A prefix restricts the first symbol, so it is not excluded.
        return excluded != samplable and (self.length > self.begin or not self._prefix)

    def _begin_document(self) -> None:
        """Start the next document from the prompt."""
        self.begin, self._echo, self._ids, self._tail = self._length, self._begun, [], ""
        self._chars -= len(self._prefix)
        self._redraw()

    def _redraw(self) -> None:
        """Change the random key and drop launched steps."""
        self.key = stream_key(self._seed, self.index, self.rejections + self._repeats_prompt * self._num_documents)
        self.num_launched = self.length
        self.excluded = {n: symbols for n, symbols in self.excluded.items() if self._length <= n <= self.length}

    def _settle(self, end: int) -> Settled:
        settled = self._pending.take(end, whole=self.finish_reason is not None)
        if self._echo and settled.ids:
            settled, self._echo = replace(settled, echo=self._echo), ""
        text, rules = "".join(settled.texts), self._rules
        self._length += len(settled.ids)
        self._lines += sum(map(text.count, rules.line_ends))
        self._num_documents += text.count(BORDER)
        self._nats += sum(settled.nats)
        self._chars += len(settled.ids) if rules.counts_symbols else sum(rules.lengths[i] for i in settled.ids)
        self._tail = _last(self._tail + text, self._tail_size)
        if rules.takes_back:
            self._ids += settled.ids
        if self.finish_reason is not None and self._length:
            self.bits_per_char = self._nats / max(self._chars, 1) / math.log(2)
        return settled


class _Pending:
    """Symbols that may yet be taken back: ids, texts, which joined are `text`, and surprisals."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = ""
        self._texts: list[str] = []
        self._nats: list[float] = []

    def extend(self, ids: Sequence[int], texts: Sequence[str], nats: Sequence[float]) -> None:
        """Add symbols."""
        self.ids += ids
        self._texts += texts
        self._nats += nats
        self.text += "".join(texts)

    def end_of(self, size: int) -> int:
        """The end in the text of the first symbols."""
        return sum(map(len, self._texts[:size]))

    def cut(self, end: int) -> None:
        """Keep the text up to an end, and the symbols that it needs."""
        if end < len(self.text):
            ends = self._ends()
            size = bisect_left(ends, end) + 1
            self._keep(size)
            self._texts[-1] = self._texts[-1][: len(self._texts[-1]) - ends[size - 1] + end]
            self.text = self.text[:end]

    def cut_before(self, begin: int) -> None:
        """Keep the whole symbols before a place in the text."""
        self._keep(bisect_right(self._ends(), begin))
        self.text = "".join(self._texts)

    def take(self, end: int, *, whole: bool) -> Settled:
        """Remove and return the symbols that end at `end` or before, or with `whole` all."""
        size = len(self.ids) if whole or end == len(self.text) else bisect_right(self._ends(), end)
        taken = Settled(self.ids[:size], self._texts[:size], self._nats[:size])
        self.ids, self._texts, self._nats = self.ids[size:], self._texts[size:], self._nats[size:]
        self.text = "".join(self._texts)
        return taken

    def _ends(self) -> list[int]:
        """The symbols' ends in the text."""
        return list(accumulate(map(len, self._texts)))

    def _keep(self, size: int) -> None:
        self.ids, self._texts, self._nats = self.ids[:size], self._texts[:size], self._nats[:size]


def _find_nth(text: str, chars: str, count: int) -> int:
    """The place behind the nth of these characters in a text; 0 if there are fewer."""
    places = (i for i, char in enumerate(text, 1) if char in chars)
    return next((end for n, end in enumerate(places, 1) if n == count), 0)


def _last(text: str, size: int) -> str:
    return text[max(len(text) - size, 0) :]
