"""Documents: an EOS after each, none of them empty, and a shuffle in bounded memory."""

import contextlib
import itertools
import re
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from charrnn.text.tokenizers import Array, separator_pattern
from charrnn.text.words import EOS_MARK

_BUCKET = 2**24  # ids that are shuffled at a time, on average
_MAX_BUCKETS = 200  # files that may be open at a time: some systems allow 256
_BLOCK = 2**20  # ids of a block
_MAX_COMPARED = 2**20  # characters of a document that is compared with others
_GROUP = 2**16  # documents whose places are computed at a time
_MAX_BLANKS = 2**12
"""Max spaces and tabs of a line that counts as empty: more are not held in memory until the line ends."""
_BLANK_LINE = re.compile(f"\n[ \t]{{1,{_MAX_BLANKS}}}(?=\n)")


def mark_documents(blocks: Iterable[str], separator: str) -> Iterator[str]:
    r"""Put an EOS_MARK before the first document and one after each, in place of the separator.

    There may be one between two documents already. A separator of line feeds is any run of at least as many, of
    which lines may hold spaces and tabs. Empty documents are left out, and so are line feeds next to an EOS_MARK where
    the separator has one there.

    >>> "".join(mark_documents(["Anna\nBe", "rt\n", "\nCarl\n"], "\n")).split(EOS_MARK)
    ['', 'Anna', 'Bert', 'Carl', '']
    """
    newlines = 0 if separator.strip("\n") else len(separator)
    before, after = ("\n*", "\n*") if newlines else ("\n?" if separator.endswith("\n") else "", "")
    alone = re.compile(separator_pattern(separator, blanks=""))
    with_marks = re.compile(f"{before}{EOS_MARK}{after}|{alone.pattern}")
    several = re.compile(EOS_MARK * 2 + "+")
    num_held = max(len(separator) - 1, 1)  # of the end of a block, which may begin a separator
    rest, is_after_eos = "", True
    yield EOS_MARK
    for block in _clear_blank_lines(blocks) if newlines > 1 else blocks:
        text = rest + block
        if newlines and is_after_eos:
            text = text.lstrip("\n")
        if EOS_MARK in text:
            text = with_marks.sub(EOS_MARK, text)
        else:  # the same, several times as fast
            text = alone.sub(EOS_MARK, text) if newlines > 1 else text.replace(separator, EOS_MARK)
        if EOS_MARK * 2 in text:
            text = several.sub(EOS_MARK, text)
        end = max(len(text) - num_held, text.rfind(EOS_MARK) + 1)
        text, rest = text[:end], text[end:]
        if is_after_eos:
            text = text.removeprefix(EOS_MARK)
        if text:
            yield text
            is_after_eos = text.endswith(EOS_MARK)
    rest = rest.rstrip("\n") if newlines else rest.removesuffix("\n" if before else "")
    if rest or not is_after_eos:
        yield rest + EOS_MARK


class Duplicates:
    """Documents that are equal to an earlier one, found by a 64-bit hash of each, and left out if it `drops` them.

    Documents of more than 2**20 characters are not compared, since they are not held in memory.
    """

    def __init__(self, *, drops: bool) -> None:
        self._drops = drops
        self._seen = set[int]()  # only if they are dropped, since it takes 8 times the memory of an array
        self._hashes: list[array[int]] = []  # of each text

    @property
    def counts(self) -> list[int]:
        """The number of duplicates in each text, of documents of the same text and of those before."""
        joined = np.concatenate([np.zeros(0, np.int64), *self._hashes])
        ends = itertools.accumulate(map(len, self._hashes), initial=0)
        sizes = [len(np.unique(joined[:end])) for end in ends]
        return [len(each) - (b - a) for each, (a, b) in zip(self._hashes, itertools.pairwise(sizes), strict=True)]

    def watch(self, blocks: Iterable[str]) -> Iterator[str]:
        """The same marked text. Several texts are compared with each other too."""
        self._hashes.append(array("q"))
        rest, is_long = "", False  # the beginning of a long document was yielded already
        for block in blocks:
            *documents, rest = (rest + block).split(EOS_MARK)
            skipped = 1 if documents and (is_long or not documents[0]) else 0  # empty: before the first EOS
            is_long = (is_long and not documents) or len(rest) > _MAX_COMPARED
            self._hashes[-1].extend(map(hash, documents[skipped:]))
            if self._drops:
                kept = documents[:skipped] + [each for each in documents[skipped:] if self._is_new(hash(each))]
                block = "".join(f"{each}{EOS_MARK}" for each in kept) + (rest if is_long else "")
            if is_long:
                rest = ""
            yield block

    def _is_new(self, key: int) -> bool:
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def _clear_blank_lines(blocks: Iterable[str]) -> Iterator[str]:
    """The same text without spaces and tabs in lines that hold nothing else, each EOS_MARK on its own line."""
    held = ""  # of the end of a block, which may begin such a line
    for block in itertools.chain("\n", blocks, "\n"):
        text = _BLANK_LINE.sub("\n", held + block.replace(EOS_MARK, f"\n{EOS_MARK}\n"))
        end = len(text.rstrip(" \t")) - 1
        if text[end : end + 1] != "\n" or len(text) - end > _MAX_BLANKS + 1:
            end = len(text)
        yield text[:end]
        held = text[end:]
    yield held


def split_lines(blocks: Iterable[str]) -> Iterator[str]:
    """The lines of a marked text without their ends. EOS_MARK ends a line too, unless it is at the start of one."""
    rest = ""
    for block in blocks:
        text = rest + block
        if EOS_MARK in text:
            text = text.removeprefix(EOS_MARK).replace("\n" + EOS_MARK, "\n").replace(EOS_MARK, "\n")
        *lines, rest = text.split("\n")
        yield from lines
    if rest:
        yield rest


def shuffled(blocks: Iterable[Tensor], eos_id: int, length: int, seed: int, folder: Path) -> Iterator[Tensor]:
    """The documents of a corpus of `length` ids in random order, each with its EOS; ids (N,) in blocks.

    They are dealt at random to files in `folder` that are small enough to be shuffled in memory, one after another.
    """
    generator = np.random.default_rng(seed)
    num_buckets = min(-(-length // _BUCKET), _MAX_BUCKETS)
    with contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(num_buckets)]
        dtype = _deal(blocks, eos_id, generator, buckets)
        yield torch.tensor([eos_id], dtype=dtype)
        for bucket in buckets:
            yield from _shuffle(bucket, eos_id, dtype, generator)
            bucket.close()


def _deal(
    blocks: Iterable[Tensor], eos_id: int, generator: np.random.Generator, buckets: Sequence[BinaryIO]
) -> torch.dtype:
    """Append each document to a random bucket. Returns: the ids' dtype."""
    bucket = 0  # of the document that the last block ended within
    for i, block in enumerate(blocks):
        ids = block.numpy()[i == 0 :]  # the first id is the EOS before all documents
        ends = np.flatnonzero(ids == eos_id) + 1
        drawn = generator.integers(len(buckets), size=len(ends))
        of_parts = np.concatenate([[bucket], drawn])
        lengths = np.diff(ends, prepend=0, append=len(ids))
        bucket = int(of_parts[-1])
        order = np.argsort(of_parts, kind="stable")  # so that a part of a document follows the one before it
        dealt = ids[_places((np.cumsum(lengths) - lengths)[order], lengths[order])]
        sizes = np.bincount(of_parts, lengths, len(buckets)).astype(np.int64)
        for each, end, size in zip(buckets, np.cumsum(sizes), sizes, strict=True):
            each.write(dealt[end - size : end].tobytes())
    return block.dtype


def _places(begins: Array, lengths: Array) -> Array:
    """The places of parts of these lengths that begin there, one part after another.

    >>> _places(np.array([7, 2]), np.array([2, 3])).tolist()
    [7, 8, 2, 3, 4]
    """
    return np.repeat(begins - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())


def _shuffle(bucket: BinaryIO, eos_id: int, dtype: torch.dtype, generator: np.random.Generator) -> Iterator[Tensor]:
    """The documents of a bucket, each with its EOS, in random order."""
    bucket.flush()
    size = bucket.tell()
    if not size:
        return
    ids = np.memmap(bucket, torch.empty(0, dtype=dtype).numpy().dtype, "r")
    places = np.int32 if len(ids) < 2**31 else np.int64
    parts = (slice(begin, begin + _BLOCK) for begin in range(0, len(ids), _BLOCK))
    ends = [(np.flatnonzero(ids[part] == eos_id) + 1 + part.start).astype(places) for part in parts]
    bounds = np.concatenate([np.zeros(1, places), *ends])
    order = np.arange(len(bounds) - 1, dtype=places)
    generator.shuffle(order)
    for first in range(0, len(order), _GROUP):
        group = order[first : first + _GROUP]
        yield from _take(ids, bounds[group].astype(np.int64), bounds[group + 1].astype(np.int64))


def _take(ids: Array, begins: Array, ends: Array) -> Iterator[Tensor]:
    """The parts of a bucket's ids from these places to those, joined to blocks."""
    lengths = ends - begins
    blocks = np.cumsum(lengths) // _BLOCK
    for begin, end in itertools.pairwise([0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(lengths)]):
        if end - begin == 1:  # perhaps a document larger than memory
            document = ids[begins[begin] : ends[begin]]
            yield from (torch.from_numpy(document[i : i + _BLOCK].copy()) for i in range(0, len(document), _BLOCK))
            continue
        yield torch.from_numpy(ids[_places(begins[begin:end], lengths[begin:end])])
