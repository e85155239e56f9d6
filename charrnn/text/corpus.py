"""A prepared corpus: the indices of a text, its vocabulary, and the options that it was made with.

Letters in shapes: N characters.
"""

import contextlib
import mmap
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import Tensor

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, CorpusChangedError
from charrnn.files import container
from charrnn.files.atomic import making_folder
from charrnn.files.schema import dump, parse
from charrnn.machine.runtime import num_threads
from charrnn.terminal import Advance, Bar, count_of, format_share, no_bar
from charrnn.text.ahead import ahead
from charrnn.text.cleaning import CleanText, half_of_a_character
from charrnn.text.documents import shuffled
from charrnn.text.numbering import NumberedText, numbered
from charrnn.text.sources import COMPRESSIONS, Source, digest, find_sources, identity, remember_digest, total_size
from charrnn.text.units import BORDER, NOUNS
from charrnn.text.vocabulary import UNKNOWN_CHAR, StoredVocabulary, Vocabulary

KIND = "corpus"
RARE = 10
_BLOCK = 2**22
_COMMON_WORDS = 8000
"""The classic size of a vocabulary of words."""


@dataclass(frozen=True)
class _Header:
    """The JSON header of a corpus."""

    vocabulary: StoredVocabulary
    config: PreparationConfig
    sources: tuple[str, ...]
    source_digest: str = field(metadata={"key": "text_digest"})


@dataclass(frozen=True)
class Corpus:
    """A text as indices (N,), memory-mapped when opened, in the smallest dtype that holds the vocabulary.

    `sources` are the origins of its raw text, `source_digest` is the digest of its bytes. `notes` has a line per change
    that preparing made; it is not stored.
    """

    path: Path
    indices: Tensor = field(compare=False)  # the digest tells as much
    vocabulary: Vocabulary
    config: PreparationConfig
    sources: tuple[str, ...]
    source_digest: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    mapping: mmap.mmap | None = field(default=None, compare=False)

    @classmethod
    def open(cls, path: Path, *, is_known: bool = False) -> "Corpus":
        """Open and verify a prepared file, once if it is large and does not change (see `container.read`).

        Raises: CharRNNError if it is not a sound corpus.
        """
        stored = container.read(path, KIND, is_known=is_known)
        header = parse(_Header, stored.header, str(path))
        if stored.tensors.keys() != {"indices"}:
            raise CharRNNError(f"{path} lacks parts of a corpus: prepare it again")
        corpus = cls(
            path=path,
            indices=stored.tensors["indices"],
            vocabulary=Vocabulary.restore(header.vocabulary, header.config),
            config=header.config,
            sources=header.sources,
            source_digest=header.source_digest,
            mapping=stored.mapping,
        )
        corpus._check_indices(are_known=stored.is_known)
        stored.remember()
        return corpus

    def check(self) -> None:
        """Raises: CorpusChangedError once the mapped file is shorter, so that to read it would be fatal."""
        if self.mapping is not None and self.mapping.size() < len(self.mapping):
            raise CorpusChangedError(f"{self.path} was truncated while it was read: prepare the same text again")

    @property
    def text(self) -> str:
        """The text of the indices as it is inside the program, decoded anew at each call."""
        return self.vocabulary.decode(self.indices)

    def _check_indices(self, *, are_known: bool) -> None:
        indices, size = self.indices, self.vocabulary.size
        if indices.dtype != self.vocabulary.dtype or indices.dim() != 1 or len(indices) < 2:
            raise CharRNNError(f"{self.path} holds no indices of its vocabulary: prepare it again")
        low, high = (0, 0) if are_known else (int(bound) for bound in indices.aminmax())
        if low < 0 or high >= size:
            raise CharRNNError(f"{self.path} holds indices beyond its vocabulary of {size}: prepare it again")


def prepare(
    sources: Sequence[Source],
    config: PreparationConfig,
    output: Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    bar: Bar = no_bar,
) -> Corpus:
    """Turn raw text into a corpus file; one that was made from the same text with the same options stays.

    The text is read once, in memory that does not grow with it; a file of one to four times the size of the corpus
    lies in the output's folder meanwhile. `force` reads what seems to be no text, `bar` shows the progress.
    Raises: CharRNNError for text that cannot be read or is too short, or where another file is in the way.
    """
    _require_free(output, sources)
    if output.exists() and not overwrite:
        corpus = Corpus.open(output)
        if corpus.source_digest != digest(sources, bar):
            raise CharRNNError(f"{output} was made from another text: {_WAYS_OUT}")
        if corpus.config != config:
            raise CharRNNError(f"{output} was made with other options: {_WAYS_OUT}")
        return replace(corpus, notes=(f"{output} is up to date",))
    before = identity(sources)
    with (
        _numbered(sources, config, output, force=force, bar=bar) as (text, numbers),
        bar("encoding", numbers.num_bytes) as advance,
    ):
        notes = _encode(text, numbers, sources, config, output, advance)
    remember_digest(sources, before, text.digest.hexdigest())
    folders = [source.note for source in sources if source.note]
    return replace(Corpus.open(output, is_known=True), notes=(*folders, *notes))


@contextlib.contextmanager
def _numbered(
    sources: Sequence[Source], config: PreparationConfig, output: Path, *, force: bool, bar: Bar
) -> Iterator[tuple[CleanText, NumberedText]]:
    """Read the sources to their end, and keep their text as numbers beside the output. Raises: CharRNNError."""
    try:
        with making_folder(output.parent), contextlib.ExitStack() as stack:
            # PyTorch's other threads would wait actively, in the way of the one that reads.
            with bar("reading", total_size(sources)) as advance, num_threads(1):
                text = CleanText(sources, config, force=force, advance=advance)
                numbers = stack.enter_context(numbered(text, config.unit, output.parent))
            yield text, numbers
    except OSError as error:
        raise CharRNNError(f"{output} cannot be written: {error.strerror}; nothing was changed") from error


def _encode(
    text: CleanText,
    numbers: NumberedText,
    sources: Sequence[Source],
    config: PreparationConfig,
    output: Path,
    advance: Advance,
) -> list[str]:
    """Encode a text that was read into the file; returns a line per change of preparing. Raises: CharRNNError."""
    _require_learnable(numbers, " + ".join(source.name for source in sources), config)
    vocabulary = Vocabulary.build(
        numbers.totals,
        config.unit,
        min_count=config.min_count,
        max_vocab=config.max_vocab,
        border_chars=config.border_chars,
        num_forgotten=numbers.num_forgotten,
        forgotten_chars=numbers.forgotten_chars,
    )
    notes, length = text.notes, sum(vocabulary.counts)
    if vocabulary.border is not None:
        notes.append(_describe_documents(vocabulary, config))
    header = dump(_Header(vocabulary.stored(), config, tuple(_origins(sources)), text.digest.hexdigest()))
    with ahead(numbers.encode(vocabulary, advance)) as indices:
        if vocabulary.border is not None and not config.keep_order:
            indices = shuffled(indices, vocabulary.border, length, config.shuffle_seed, output.parent)
        container.write_blocks(output, KIND, header, "indices", vocabulary.dtype, length, indices)
    return [*notes, *_describe_rare(vocabulary)]


_WAYS_OUT = "--overwrite replaces it, -o FILE writes elsewhere"


def _require_free(output: Path, sources: Sequence[Source]) -> None:
    """Raises: CharRNNError where the output would be a folder or the text itself, or the text is a file of ours."""
    if output.is_dir():
        raise CharRNNError(f"{output} is a folder: name a file in it with -o FILE")
    for source in sources:
        if source.path is not None and output.exists() and output.samefile(source.path):
            raise CharRNNError(f"{output} is the text itself: name another file with -o FILE")
        if source.path is not None and container.is_stored(source.path):
            raise CharRNNError(f"{source.name} is a file of charrnn's own, not a text: name the text it was made from")


def _require_learnable(numbers: NumberedText, name: str, config: PreparationConfig) -> None:
    """Raises: CharRNNError for a text that holds too few symbols, too many distinct words, or halves of characters."""
    if numbers.num_forgotten and config.max_vocab is None and config.min_count == 1:
        raise CharRNNError(f"{name} has too many distinct words: --max-vocab {_COMMON_WORDS} keeps the frequent ones")
    one, totals = NOUNS[config.unit], numbers.totals + Counter({UNKNOWN_CHAR: numbers.num_forgotten})
    text = {symbol: n for symbol, n in totals.items() if symbol != BORDER or config.border_text is None}
    if (length := sum(text.values())) < 2:
        found = f"one {one} long" if length else "empty"
        raise CharRNNError(f"{name} is {found}: a corpus needs at least 2 {one}s")
    if len(text) < 2:
        raise CharRNNError(f"{name} repeats one {one}: a corpus needs at least 2 distinct ones")
    if halves := [char for symbol in text for char in symbol if "\ud800" <= char <= "\udfff"]:
        raise half_of_a_character(name, halves[0], config)


def _origins(sources: Sequence[Source]) -> list[str]:
    """Absolute paths as they were given, by which a text that has changed is known again."""
    return list(dict.fromkeys(source.origin for source in sources))


def _describe_documents(vocabulary: Vocabulary, config: PreparationConfig) -> str:
    if vocabulary.num_documents == 1:
        return "1 document: " + (
            "--documents makes each file one" if config.documents else "no separator is in the text"
        )
    order = "in their order" if config.keep_order else "shuffled (--keep-order leaves them as they are)"
    return f"{count_of(vocabulary.num_documents, 'document')}, {order}"


def _describe_rare(vocabulary: Vocabulary) -> list[str]:
    """A line on symbols that were folded, or should be."""
    total = sum(vocabulary.counts)
    if vocabulary.unknown is not None:
        num_folded = vocabulary.counts[vocabulary.unknown]
        folded, share = count_of(num_folded, NOUNS[vocabulary.unit]), format_share(num_folded, total)
        return [f"folded {folded} ({share}), rare ones, into one unknown symbol that is never sampled"]
    rare = {symbol: n for symbol, n in zip(vocabulary.symbols, vocabulary.counts, strict=False) if n < RARE}
    if vocabulary.unit == "byte" or len(rare) * 5 < vocabulary.size or len(rare) < 20:
        return []
    if vocabulary.unit == "word":
        if vocabulary.size <= _COMMON_WORDS:
            return []
        share = format_share(sum(rare.values()), total)
        return [
            f"{len(rare):,} of {vocabulary.size:,} words occur fewer than {RARE} times, {share} of all: "
            f"--max-vocab {_COMMON_WORDS} would fold rare ones into one, and train faster"
        ]
    advice = f"--min-count {RARE} would fold them into one"
    if _is_mostly_latin(vocabulary) and not "".join(rare).isascii():
        advice += ", --ascii would transliterate them"
    share = format_share(sum(rare.values()), total)
    return [
        f"{len(rare):,} of {vocabulary.size:,} symbols occur fewer than {RARE} times, {share} of the text: {advice}"
    ]


def _is_mostly_latin(vocabulary: Vocabulary) -> bool:
    """True if more than half of a text's letters are Latin ones."""
    letters = [
        (symbol, n) for symbol, n in zip(vocabulary.symbols, vocabulary.counts, strict=False) if symbol.isalpha()
    ]
    latin = sum(n for symbol, n in letters if unicodedata.name(symbol, "").startswith("LATIN"))
    return 2 * latin > sum(n for _, n in letters)


def default_stem(source: str) -> str:
    """The name of a corpus made from this file, folder or -, and of a run on it, without the suffixes."""
    if source == "-":
        return "stdin"
    path = Path(os.path.abspath(source))  # noqa: PTH100 (resolve() would follow links to other names)
    return path.with_suffix("").stem if path.suffix in COMPRESSIONS else path.stem


def default_output(source: str, data_dir: Path) -> Path:
    """`<data_dir>/<stem of the first source>.safetensors`."""
    return data_dir / f"{default_stem(source)}{container.SUFFIX}"


def open_or_prepare(
    argument: str,
    data_dir: Path,
    config: PreparationConfig | None = None,
    *,
    given: Collection[str] = (),
    may_replace: bool = True,
    recursive: bool = False,
    force: bool = False,
    bar: Bar = no_bar,
) -> Corpus:
    """The corpus that `train` was given: a prepared file, or raw text that is prepared on the way.

    `given` are the names of the options in `config` that were set explicitly; the others yield to those of a file that
    was prepared before. Raises: CharRNNError where one contradicts that file, where the file was made from another
    text, or if the text has changed since and that file may not be replaced.
    """
    config = config or PreparationConfig()
    if argument.endswith(container.SUFFIX) or container.is_stored(Path(argument)):
        corpus = Corpus.open(Path(argument))
        _require_options(corpus, config, given)
        return corpus
    sources = find_sources([argument], recursive=recursive, force=force)
    output = default_output(argument, data_dir)
    if not output.exists():
        return prepare(sources, config, output, force=force, bar=bar)
    corpus = Corpus.open(output)
    is_same = corpus.source_digest == digest(sources, bar)
    if not is_same and (argument == "-" or list(corpus.sources) != _origins(sources)):
        raise CharRNNError(
            f"{output} was made from another text, {' + '.join(corpus.sources)}: "
            f"train on {output} itself, remove it, give {argument} a --data-dir DIR of its own, or prepare it with "
            "-o FILE and train on that"
        )
    _require_options(corpus, config, given)
    if is_same:
        options = {k: v for k, v in asdict(corpus.config).items() if v != getattr(PreparationConfig(), k)}
        made_with = ", ".join(f"{k}={v}" for k, v in options.items()) or "default options"
        return replace(corpus, notes=(f"using {output}, made from this text with {made_with}",))
    if not may_replace:
        raise CharRNNError(
            f"{argument} has changed since {output} was made: --resume with {output} goes on with the old text, "
            "--overwrite starts again with the new one"
        )
    corpus = prepare(sources, corpus.config, output, overwrite=True, force=force, bar=bar)
    return replace(corpus, notes=(f"{argument} has changed: prepared it again", *corpus.notes))


def digest_of(argument: str, *, recursive: bool = False, force: bool = False, bar: Bar = no_bar) -> str:
    """The digest of the raw text behind what `train` was given, raw or prepared. Raises: CharRNNError."""
    path = Path(argument)
    if container.is_stored(path):
        return parse(_Header, container.read_header(path, KIND), argument).source_digest
    return digest(find_sources([argument], recursive=recursive, force=force), bar)


def _require_options(corpus: Corpus, config: PreparationConfig, given: Collection[str]) -> None:
    """Raises: CharRNNError if a given option of preparing contradicts a corpus that is already prepared."""
    for name, found in asdict(corpus.config).items():
        if name in given and (asked := getattr(config, name)) != found:
            how = "without it" if found is None or found is False else f"with {_as_option(name, found)}"
            raise CharRNNError(
                f"{_as_option(name, asked)} contradicts {corpus.path}, which was made {how}: leave the option "
                "out, or prepare the text with it into another file (prepare -o FILE)"
            )


def _as_option(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return option
    return f"{option} {value!a}" if isinstance(value, str) and not value.isalnum() else f"{option} {value}"


def read_text(argument: str, config: PreparationConfig) -> str:
    """The text of a prepared file, or of a raw one as it would be prepared. Raises: CharRNNError."""
    return "".join(read_blocks(argument, config))


def read_blocks(argument: str, config: PreparationConfig) -> Iterator[str]:
    """The same text, block by block."""
    if not container.is_stored(Path(argument)):
        yield from CleanText(find_sources([argument]), config)
        return
    corpus = Corpus.open(Path(argument))
    for name in ("unit", "border_text"):
        own, other = getattr(config, name), getattr(corpus.config, name)
        if own != other:
            what = {"unit": "--unit", "border_text": "the border between documents"}[name]
            theirs, ours = ("none" if each is None else repr(each) for each in (other, own))
            raise CharRNNError(f"{argument} has {theirs} for {what}, where the model has {ours}: give the raw text")
    for indices in corpus.indices.split(_BLOCK):
        corpus.check()
        yield corpus.vocabulary.decode(indices)
