"""A prepared corpus: the indices of a text, its vocabulary, and the options that it was made with.

Letters in shapes: N characters.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, CorpusChangedError
from charrnn.files import container
from charrnn.files.schema import dump, parse
from charrnn.text.cleaning import CleanText
from charrnn.text.sources import COMPRESSIONS, Source, digest, find_sources
from charrnn.text.vocabulary import StoredVocabulary, Vocabulary, code_points, count

KIND = "corpus"
RARE = 10


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
    def open(cls, path: Path) -> "Corpus":
        """Open and verify a prepared file. Raises: CharRNNError if it is not a sound corpus."""
        stored = container.read(path, KIND)
        header = parse(_Header, stored.header, str(path))
        if stored.tensors.keys() != {"indices"}:
            raise CharRNNError(f"{path} lacks parts of a corpus: prepare it again")
        corpus = cls(
            path=path,
            indices=stored.tensors["indices"],
            vocabulary=Vocabulary.restore(header.vocabulary),
            config=header.config,
            sources=header.sources,
            source_digest=header.source_digest,
            mapping=stored.mapping,
        )
        corpus._check_indices()
        return corpus

    def check(self) -> None:
        """Raises: CorpusChangedError once the mapped file is shorter, so that to read it would be fatal."""
        if self.mapping is not None and self.mapping.size() < len(self.mapping):
            raise CorpusChangedError(f"{self.path} was truncated while it was read: prepare the same text again")

    @property
    def text(self) -> str:
        """The characters of the indices, decoded anew at each call."""
        return self.vocabulary.decode(self.indices)

    def save(self) -> None:
        """Write the file that `open` reads. Raises: CharRNNError."""
        header = _Header(self.vocabulary.stored(), self.config, self.sources, self.source_digest)
        container.write(self.path, KIND, dump(header), {"indices": self.indices})

    def _check_indices(self) -> None:
        indices, size = self.indices, self.vocabulary.size
        if indices.dtype != self.vocabulary.dtype or indices.dim() != 1 or len(indices) < 2:
            raise CharRNNError(f"{self.path} holds no indices of its vocabulary: prepare it again")
        if int(indices.min()) < 0 or int(indices.max()) >= size:
            raise CharRNNError(f"{self.path} holds indices beyond its vocabulary of {size}: prepare it again")


def prepare(sources: Sequence[Source], config: PreparationConfig, output: Path, *, overwrite: bool = False) -> Corpus:
    """Turn raw text into a corpus file; one that was made from the same text with the same options stays.

    Raises: CharRNNError for text that cannot be read or is too short, or where another file is in the way.
    """
    if output.is_dir():
        raise CharRNNError(f"{output} is a folder: name a file in it with -o FILE")
    for source in sources:
        if source.path is not None and output.exists() and output.samefile(source.path):
            raise CharRNNError(f"{output} is the text itself: name another file with -o FILE")
        if source.path is not None and container.is_stored(source.path):
            raise CharRNNError(f"{source.name} is a file of charrnn's own, not a text: name the text it was made from")
    if output.exists() and not overwrite:
        corpus = Corpus.open(output)
        if corpus.source_digest != digest(sources):
            raise CharRNNError(f"{output} was made from another text: {_WAYS_OUT}")
        if corpus.config != config:
            raise CharRNNError(f"{output} was made with other options: {_WAYS_OUT}")
        return replace(corpus, notes=(f"{output} is up to date",))
    text = CleanText(sources, config)
    blocks = [code_points(block) for block in text]
    indices, vocabulary = _encode(blocks, config, " + ".join(source.name for source in sources))
    corpus = Corpus(
        path=output,
        indices=indices,
        vocabulary=vocabulary,
        config=config,
        sources=tuple(_origins(sources)),
        source_digest=text.digest.hexdigest(),
        notes=(*text.notes, *_describe_folding(vocabulary)),
    )
    corpus.save()
    return corpus


_WAYS_OUT = "--overwrite replaces it, -o FILE writes elsewhere"


def _encode(blocks: list[Tensor], config: PreparationConfig, name: str) -> tuple[Tensor, Vocabulary]:
    """Code points, block by block, to indices (N,) and their vocabulary; empties the list as it goes."""
    totals = torch.zeros(1, dtype=torch.int64)
    for points in blocks:
        totals = count(points, totals)
    if (num_chars := int(totals.sum())) < 2:
        what = "empty" if num_chars == 0 else "one character long"
        raise CharRNNError(f"{name} is {what}: a corpus needs at least 2 characters")
    if int((totals > 0).sum()) < 2:
        raise CharRNNError(f"{name} repeats one character: a corpus needs at least 2 distinct ones")
    if len(halves := torch.nonzero(totals[0xD800:0xE000])):
        raise CharRNNError(
            f"{name} holds U+{0xD800 + int(halves[0]):04X}, half of a character and none of itself, "
            f"as {config.encoding}: try another --encoding"
        )
    vocabulary = Vocabulary.build(totals, min_count=config.min_count, max_vocab=config.max_vocab)
    indices = torch.empty(num_chars, dtype=vocabulary.dtype)
    end = num_chars
    while blocks:
        encoded = vocabulary.encode_points(blocks.pop())
        indices[end - len(encoded) : end] = encoded
        end -= len(encoded)
    return indices, vocabulary


def _origins(sources: Sequence[Source]) -> list[str]:
    """Absolute paths as they were given, by which a text that has changed is known again."""
    return list(dict.fromkeys(source.origin for source in sources))


def _describe_folding(vocabulary: Vocabulary) -> list[str]:
    if vocabulary.unknown is not None:
        folded = vocabulary.counts[vocabulary.unknown]
        return [f"folded {folded:,} characters, rare ones, into one unknown symbol that is never sampled"]
    rare = sum(n < RARE for n in vocabulary.counts)
    if rare * 5 < vocabulary.size or rare < 20:
        return []
    return [
        f"{rare:,} of {vocabulary.size:,} symbols occur fewer than {RARE} times: "
        f"--min-count {RARE} would fold them into one, --ascii would transliterate them"
    ]


def default_stem(source: str) -> str:
    """The name of a corpus made from this file, folder or -, and of a run on it, without the suffixes."""
    if source == "-":
        return "stdin"
    path = Path(os.path.abspath(source))  # noqa: PTH100 (resolve() would follow links to other names)
    return path.with_suffix("").stem if path.suffix in COMPRESSIONS else path.stem


def default_output(source: str, data_dir: Path) -> Path:
    """`<data_dir>/<stem of the first source>.safetensors`."""
    return data_dir / f"{default_stem(source)}{container.SUFFIX}"


def open_or_prepare(argument: str, data_dir: Path, *, may_replace: bool = True) -> Corpus:
    """The corpus that `train` was given: a prepared file, or raw text that is prepared on the way.

    Raises: CharRNNError where the text's prepared file was made from another text, or if the text has changed
    since and that file may not be replaced.
    """
    if argument.endswith(container.SUFFIX) or container.is_stored(Path(argument)):
        return Corpus.open(Path(argument))
    sources = find_sources([argument])
    output = default_output(argument, data_dir)
    if not output.exists():
        return prepare(sources, PreparationConfig(), output)
    corpus = Corpus.open(output)
    if corpus.source_digest == digest(sources):
        options = {k: v for k, v in asdict(corpus.config).items() if v != getattr(PreparationConfig(), k)}
        made_with = ", ".join(f"{k}={v}" for k, v in options.items()) or "default options"
        return replace(corpus, notes=(f"using {output}, made from this text with {made_with}",))
    if argument == "-" or list(corpus.sources) != _origins(sources):
        raise CharRNNError(
            f"{output} was made from another text, {' + '.join(corpus.sources)}: "
            f"train on {output} itself, remove it, or prepare {argument} with -o FILE and train on that"
        )
    if not may_replace:
        raise CharRNNError(
            f"{argument} has changed since {output} was made: --resume with {output} goes on with the old text, "
            "--overwrite starts again with the new one"
        )
    corpus = prepare(sources, corpus.config, output, overwrite=True)
    return replace(corpus, notes=(f"{argument} has changed: prepared it again", *corpus.notes))


def read_text(argument: str, config: PreparationConfig) -> str:
    """The text of a prepared file, or of a raw one as it would be prepared. Raises: CharRNNError."""
    if container.is_stored(Path(argument)):
        return Corpus.open(Path(argument)).text
    return "".join(CleanText(find_sources([argument]), config))
