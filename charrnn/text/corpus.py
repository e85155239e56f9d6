"""A prepared corpus: the ids of a text, its vocabulary, and the options that it was made with.

Letters in shapes: N characters.
"""

import itertools
import mmap
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, CorpusChangedError, OutputExistsError, opt
from charrnn.files import container
from charrnn.files.atomic import making_folder
from charrnn.files.schema import dump, parse
from charrnn.terminal import Advance, Bar, Notify, count_of, format_share, no_bar
from charrnn.text.cleaning import CleanText, half_of_a_character
from charrnn.text.documents import Duplicates, shuffled
from charrnn.text.numbering import MAX_KNOWN, NumberedText
from charrnn.text.sources import Source, digest, find_sources
from charrnn.text.tokenizers import TOKENIZERS, UNKNOWN_CHAR, StoredVocabulary, Tokenizer
from charrnn.text.words import EOS_MARK

KIND = "corpus"
_RARE = 10
_BLOCK = 2**22
_COMMON_WORDS = 8000  # the classic size of a vocabulary of words


@dataclass(frozen=True)
class _Header:
    """The JSON header of a corpus."""

    vocabulary: StoredVocabulary
    config: PreparationConfig
    sources: tuple[str, ...]
    source_digest: str = field(metadata={"key": "text_digest"})
    validation_start: int | None = field(default=None, metadata={"absent": None, "is_optional": True})


@dataclass(frozen=True)
class Corpus:
    """A text as ids (N,), memory-mapped if it is large, in the smallest dtype that holds the vocabulary.

    `sources` are the origins of its raw text, `source_digest` is the digest of its bytes. A separate text for
    validation starts at the id `validation_start`, with the EOS before it if there are documents. `notes` has a
    line per change that preparing made, `warnings` a line per unexpectedly large one; they are not stored.
    """

    path: Path
    ids: Tensor = field(compare=False)  # implied by the digest
    tokenizer: Tokenizer
    config: PreparationConfig
    sources: tuple[str, ...]
    source_digest: str
    validation_start: int | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    mapping: mmap.mmap | None = field(default=None, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open and verify a prepared file. Raises: CharRNNError if it is not a sound corpus."""
        path = Path(path)
        stored = container.read(path, KIND)
        header = parse(_Header, stored.header, str(path))
        if stored.tensors.keys() != {"indices"}:
            raise CharRNNError(f"{path} lacks parts of a corpus: prepare it again")
        ids = stored.tensors["indices"]
        tokenizer = TOKENIZERS[header.config.unit].restore(header.vocabulary, header.config)
        if ids.dtype != tokenizer.dtype or ids.dim() != 1 or len(ids) < 2:
            raise CharRNNError(f"{path} holds no ids of its vocabulary: prepare it again")
        low, high = map(int, ids.aminmax())
        if low < 0 or high >= tokenizer.size:
            raise CharRNNError(f"{path} holds ids beyond its vocabulary of {tokenizer.size}: prepare it again")
        if (start := header.validation_start) is not None and not 1 <= start <= len(ids) - 2:
            raise CharRNNError(f"{path} has its validation text at an impossible place: prepare it again")
        facts = header.config, header.sources, header.source_digest, start
        return cls(path, ids, tokenizer, *facts, mapping=stored.mapping)

    def report(self, notify: Notify) -> None:
        """Report notes and warnings."""
        for note in self.notes:
            notify(note)
        for warning in self.warnings:
            notify(warning, warning=True)

    def check(self) -> None:
        """Raises: CorpusChangedError once the mapped file is shorter, so that to read it would be fatal."""
        if self.mapping is not None and self.mapping.size() < len(self.mapping):
            raise CorpusChangedError(f"{self.path} was truncated while it was read: prepare the same text again")

    def marked_blocks(self) -> Iterator[str]:
        """The marked text of the ids (`tokenizers.py`), block by block. Raises: CorpusChangedError."""
        for ids in self.ids.split(_BLOCK):
            self.check()
            yield "".join(self.tokenizer.decode_marked(ids))


def prepare(
    sources: Sequence[Source],
    config: PreparationConfig,
    output: Path,
    *,
    validation: Sequence[Source] = (),
    overwrite: bool = False,
    force: bool = False,
    bar: Bar = no_bar,
) -> Corpus:
    """Turn raw text into a corpus file; one that was made from the same text with the same options is kept.

    `validation` is the text for validation, if it is not to be a part of the other one; both count for the vocabulary.
    The text is read once, in memory that does not grow with it; a temporary file of one to four times the size of the
    corpus is in the output's folder meanwhile. `force` reads what does not look like text, `bar` shows progress.
    Raises: CharRNNError for text that cannot be read or is too short; OutputExistsError if another file is at the
    output, or another process replaced it.
    """
    _require_free(output, [*sources, *validation])
    if output.exists() and not overwrite:
        corpus = Corpus.open(output)
        if corpus.source_digest != digest(sources, bar, validation):
            raise OutputExistsError(f"{output} was made from another text: {_ways_out()}")
        if others := corpus.config.differences(config):
            raise OutputExistsError(f"{output} was made with other options ({others}): {_ways_out()}")
        return replace(corpus, notes=(f"{output} is up to date",))
    try:
        with making_folder(output.parent), tempfile.TemporaryFile(dir=output.parent) as stream:
            with bar("reading", sum(source.size for source in [*sources, *validation])) as advance:
                texts = [CleanText(each, config, force, advance) for each in (sources, validation) if each]
                has_documents = config.separator_text is not None
                num_marks = int(has_documents)  # the training text ends with that before validation
                duplicates = Duplicates(drops=config.drop_duplicates)
                watched: Iterable[Iterable[str]] = map(duplicates.watch, texts) if has_documents else texts
                parts = [itertools.islice(text, num_marks * i, None) for i, text in enumerate(watched)]
                numbers = NumberedText(parts, TOKENIZERS[config.unit], stream)
            with bar("encoding", numbers.num_bytes) as advance:
                notes = _encode(texts, numbers, output, advance, duplicates, overwrite=overwrite)
    except OSError as error:
        raise CharRNNError(f"{output} cannot be written: {error.strerror}; nothing was changed") from error
    corpus = Corpus.open(output)
    if (corpus.source_digest, corpus.config) != (_digest(texts), config):
        raise OutputExistsError(f"{output} was replaced by another process while it was prepared: {_ways_out()}")
    folders = [source.note for source in sources if source.note]
    warnings = tuple(itertools.chain.from_iterable(text.warnings for text in texts))
    return replace(corpus, notes=(*folders, *notes), warnings=warnings)


def _digest(texts: Sequence[CleanText]) -> str:
    return "+".join(text.digest.hexdigest() for text in texts)


def _encode(
    texts: Sequence[CleanText],
    numbers: NumberedText,
    output: Path,
    advance: Advance,
    duplicates: Duplicates,
    *,
    overwrite: bool,
) -> list[str]:
    """Write texts that were read as a corpus; returns a line per change of preparing. Raises: CharRNNError, OSError."""
    text, config = texts[0], texts[0].config
    notes = list(itertools.chain.from_iterable(each.notes for each in texts))
    _require_learnable(text, numbers)
    forgotten = numbers.num_forgotten, numbers.forgotten_chars
    tokenizer = TOKENIZERS[config.unit].build(numbers.totals, config, forgotten)
    length = sum(tokenizer.counts)
    if numbers.num_forgotten:
        unknown = f"{numbers.num_forgotten:,} words are unknown"
        text.warnings.append(f"{unknown}: they follow the first {MAX_KNOWN:,} distinct ones")
    parts, start = numbers.encode(tokenizer, advance), None
    if texts[1:]:
        start = numbers.lengths[0] - (tokenizer.eos_id is not None)
        name = " + ".join(source.name for source in texts[1].sources)
        if start < 1 or length - start < 2:
            left = " left without duplicates" if config.drop_duplicates else ""
            few = f"{name} has too few {tokenizer.noun}s{left}"
            raise CharRNNError(f"{few}: validation needs at least 2, and so does training")
        notes.append(f"validation: {length - start:,} {tokenizer.noun}s from {name}")
    if tokenizer.eos_id is not None:
        is_whole = tokenizer.num_documents == 1 and config.separator is not None
        (text.warnings if is_whole else notes).append(_describe_documents(tokenizer))
        notes += _describe_duplicates(duplicates, config)
        if not config.keep_order:
            parts[0] = shuffled(parts[0], tokenizer.eos_id, numbers.lengths[0], config.shuffle_seed, output.parent)
    origins = tuple(dict.fromkeys(source.origin for each in texts for source in each.sources))
    header = dump(_Header(tokenizer.stored(), config, origins, _digest(texts), start))
    ids = itertools.chain.from_iterable(parts)
    tensors = {"indices": torch.empty(length, dtype=tokenizer.dtype, device="meta")}
    container.write(output, KIND, header, tensors, blocks=ids, exclusive=not overwrite)
    return [*notes, *_describe_rare(tokenizer), *_describe_short_lines(tokenizer)]


def _require_free(output: Path, sources: Sequence[Source]) -> None:
    """Raises: CharRNNError where the output would be a folder or the text itself, or the text is a file of ours."""
    if output.is_dir():
        raise CharRNNError(f"{output} is a folder: name a file in it with {opt.output('FILE')}")
    for source in sources:
        if source.path is not None and output.exists() and output.samefile(source.path):
            raise CharRNNError(f"{output} is the text itself: name another file with {opt.output('FILE')}")
        if source.path is not None and container.is_stored(source.path):
            raise CharRNNError(f"{source.name} is a file of charrnn's own, not a text: name the text it was made from")


def _require_learnable(text: CleanText, numbers: NumberedText) -> None:
    """Raises: CharRNNError for a text with too few symbols, too many distinct words, or halves of characters."""
    config, name = text.config, " + ".join(source.name for source in text.sources)
    if numbers.num_forgotten and config.max_vocab is None and config.min_count == 1:
        raise CharRNNError(
            f"{name} has too many distinct words: {opt.max_vocab(_COMMON_WORDS)} keeps the frequent ones"
        )
    one, totals = TOKENIZERS[config.unit].noun, numbers.totals + Counter({UNKNOWN_CHAR: numbers.num_forgotten})
    if config.separator_text is not None:
        del totals[EOS_MARK]
    if (length := totals.total()) < 2:
        found = f"one {one} long" if length else "empty"
        raise CharRNNError(f"{name} is {found}: a corpus needs at least 2 {one}s")
    if len(totals) < 2:
        raise CharRNNError(f"{name} repeats one {one}: a corpus needs at least 2 distinct ones")
    if not config.keeps_bytes and (surrogate := re.search("[\ud800-\udfff]", "".join(totals))):
        raise half_of_a_character(name, surrogate[0], config)


def _describe_documents(tokenizer: Tokenizer) -> str:
    config, num_documents = tokenizer.config, tokenizer.num_documents
    if num_documents == 1 and config.documents:
        return f"1 document: {opt.documents(True)} makes each file one"
    if num_documents == 1:
        return "1 document: no separator is in the text"
    order = "in their order" if config.keep_order else f"shuffled ({opt.keep_order(True)} leaves them as they are)"
    return f"{count_of(num_documents, 'document')}, {order}"


def _describe_duplicates(duplicates: Duplicates, config: PreparationConfig) -> list[str]:
    remedy = ", which may be in both parts and make the validation loss too low: "
    remedy += f"{opt.drop_duplicates(True)} keeps the first of each"
    dropped, remedy = ("dropped ", "") if config.drop_duplicates else ("", remedy)
    places = ("", " in the validation text, of itself or of the training text")
    counts = zip(duplicates.counts, places, strict=False)
    return [f"{dropped}{count_of(count, 'duplicate document')}{place}{remedy}" for count, place in counts if count]


def _describe_rare(tokenizer: Tokenizer) -> list[str]:
    """A line on symbols that were folded, or should be."""
    total = sum(tokenizer.counts)
    if tokenizer.unk_id is not None:
        num_folded = tokenizer.counts[tokenizer.unk_id]
        folded, share = count_of(num_folded, tokenizer.noun), format_share(num_folded, total)
        return [f"folded {folded} ({share}), rare ones, into one unknown symbol that is never sampled"]
    rare = {symbol: n for symbol, n in zip(tokenizer.symbols, tokenizer.counts, strict=False) if n < _RARE}
    if tokenizer.config.keeps_bytes or len(rare) * 5 < tokenizer.size or len(rare) < 20:
        return []
    if tokenizer.has_words and tokenizer.size <= _COMMON_WORDS:
        return []
    few, share = f"{len(rare):,} of {tokenizer.size:,}", format_share(sum(rare.values()), total)
    if tokenizer.has_words:
        advice = f"{opt.max_vocab(_COMMON_WORDS)} would fold rare ones into one, and train faster"
        return [f"{few} words occur fewer than {_RARE} times, {share} of all: {advice}"]
    advice = f"{opt.min_count(_RARE)} would fold them into one"
    if _is_mostly_latin(tokenizer) and not "".join(rare).isascii():
        advice += f", {opt.ascii(True)} would transliterate them"
    return [f"{few} symbols occur fewer than {_RARE} times, {share} of the text: {advice}"]


def _describe_short_lines(tokenizer: Tokenizer) -> list[str]:
    """Advice for many short lines with little punctuation, such as names."""
    counts = dict(zip(tokenizer.symbols, tokenizer.counts, strict=False))
    num_lines = sum(n * symbol.count("\n") for symbol, n in counts.items())
    num_marks = sum(n for symbol, n in counts.items() if unicodedata.category(symbol[-1]) == "Po")
    is_list = num_lines >= 200 and tokenizer.num_chars <= 20 * num_lines and 2 * num_marks < num_lines
    if tokenizer.eos_id is not None or tokenizer.config.keeps_bytes or not is_list:
        return []
    return [f"{num_lines:,} short lines: if each is a document, use " + opt.separator(r"'\n'")]


def _is_mostly_latin(tokenizer: Tokenizer) -> bool:
    """True if more than half of a text's letters are Latin ones."""
    letters = {symbol: n for symbol, n in zip(tokenizer.symbols, tokenizer.counts, strict=False) if symbol.isalpha()}
    latin = sum(n for symbol, n in letters.items() if unicodedata.name(symbol, "").startswith("LATIN"))
    return 2 * latin > sum(letters.values())


def read_source_digest(path: Path) -> str:
    """Digest of the raw text that a prepared file was made from; its content is not verified. Raises: CharRNNError."""
    return parse(_Header, container.read_header(path, KIND), str(path)).source_digest


def read_blocks(argument: str, config: PreparationConfig) -> Iterator[str]:
    """The marked text of a prepared file, or of a raw one as it would be prepared. Raises: CharRNNError."""
    if not container.is_stored(Path(argument)):
        yield from CleanText(find_sources([argument]), config)
        return
    corpus = Corpus.open(Path(argument))
    for name, what in (("unit", opt.unit), ("separator_text", "the separator of documents")):
        theirs, ours = getattr(corpus.config, name), getattr(config, name)
        if theirs != ours:
            theirs, ours = ("none" if each is None else repr(each) for each in (theirs, ours))
            raise CharRNNError(f"{argument} has {theirs} for {what}, where the model has {ours}: give the raw text")
    yield from corpus.marked_blocks()


def _ways_out() -> str:
    return f"{opt.overwrite(True)} replaces it, {opt.output('FILE')} writes elsewhere"
