"""Prepared files as a cache: the corpus of a text, prepared only if that was not done before.

Preparation itself is in `corpus.py`.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OptionError, OutputExistsError, opt
from charrnn.files import container
from charrnn.files.schema import dump
from charrnn.terminal import Bar, no_bar
from charrnn.text import sources
from charrnn.text.corpus import Corpus, prepare, read_source_digest
from charrnn.text.sources import COMPRESSIONS, Source, find_sources

_KEY_CHARS = 8


@dataclass
class TextArgument:
    """The text that `train` was given: a prepared file, or raw text.

    `more` are paths to join to that of `argument`; with `content` there is no path, and `argument` is the name of a
    text in memory. `validate` names the text for validation. `recursive` and `force` are those of `find_sources`; `bar`
    shows progress.
    """

    argument: str
    data_dir: Path
    validate: str | None = None
    more: Sequence[str] = ()
    content: bytes | None = None
    recursive: bool = False
    force: bool = False
    bar: Bar = no_bar

    @property
    def paths(self) -> list[str]:
        """The paths of the text; none for a text in memory."""
        return [] if self.content is not None else [self.argument, *self.more]

    @functools.cached_property
    def _is_prepared(self) -> bool:
        if self.paths != [self.argument]:
            return False
        return self.argument.endswith(container.SUFFIX) or container.is_stored(Path(self.argument))

    @functools.cached_property
    def _sources(self) -> list[Source]:
        if self.content is not None:
            return [Source(self.argument, None, self.content, origin=self.argument)]
        return find_sources(self.paths, recursive=self.recursive, force=self.force)

    @functools.cached_property
    def _validation(self) -> list[Source]:
        if self.validate is None:
            return []
        return find_sources([self.validate], recursive=self.recursive, force=self.force)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the raw text. Raises: CharRNNError."""
        if self._is_prepared:
            return read_source_digest(Path(self.argument))
        return sources.digest(self._sources, self.bar, self._validation)

    def open(self, config: PreparationConfig, required: Collection[str]) -> Corpus:
        """Return the corpus of the text.

        Raw text uses `<data_dir>/<name>.safetensors` if it was made from this text and agrees with `config` in the
        options named in `required`. Otherwise it is prepared: in that file if it does not exist, else in
        `<name>-<key>.safetensors` beside it, keyed by text and options. Raises: CharRNNError.
        """
        if self._is_prepared:
            if self.validate is not None:
                raise OptionError(f"{self.argument} is prepared: {opt.validate} needs the raw text")
            corpus = Corpus.open(Path(self.argument))
            if asked := config.differences(corpus.config, required):
                found = corpus.config.differences(config, required)
                raise CharRNNError(f"{self.argument} was prepared with {found}, not {asked}: name the raw text")
            return corpus
        plain = default_output(self.argument, self.data_dir)
        with contextlib.suppress(OutputExistsError):  # another process may write it in the meantime
            if not plain.exists():
                return self.prepare(config, plain)
        if known := self._reuse(plain, config, required):
            return known
        options = json.dumps(dump(config), sort_keys=True)
        key = hashlib.sha256(f"{self.digest} {options}".encode()).hexdigest()[:_KEY_CHARS]
        keyed = plain.with_stem(f"{plain.stem}-{key}")
        if known := self._reuse(keyed, config, asdict(config)):
            return known
        corpus = self.prepare(config, keyed, overwrite=True)
        reason = f"{plain} was made from another text or with other options: prepared {keyed}"
        return replace(corpus, notes=(reason, *corpus.notes))

    def prepare(self, config: PreparationConfig, output: Path, *, overwrite: bool = False) -> Corpus:
        """Prepare raw text in a file, see `corpus.prepare`. Raises: CharRNNError."""
        texts = self._sources, config, output
        return prepare(*texts, validation=self._validation, overwrite=overwrite, force=self.force, bar=self.bar)

    def _reuse(self, path: Path, config: PreparationConfig, required: Collection[str]) -> Corpus | None:
        """Open a prepared file; None if it is damaged, or made from another text or with other options."""
        try:
            if read_source_digest(path) != self.digest:
                return None
            corpus = Corpus.open(path)
        except CharRNNError:
            return None
        if corpus.source_digest != self.digest or corpus.config.differences(config, required):
            return None
        options = corpus.config.differences(PreparationConfig()) or "default options"
        return replace(corpus, notes=(f"using {path}, made from this text with {options}",))


def default_stem(source: str) -> str:
    """Name of a corpus of this file, folder or `-`, and of a run on it; only known suffixes are cut.

    >>> default_stem("books/tales.txt.gz"), default_stem("tweets.2024"), default_stem("-")
    ('tales', 'tweets.2024', 'stdin')
    """
    if source == "-":
        return "stdin"
    path = Path(os.path.abspath(source))  # noqa: PTH100 (resolve() would follow links to other names)
    if path.is_dir():
        return path.name
    name = path.stem if path.suffix in COMPRESSIONS else path.name
    name = name.removesuffix(container.SUFFIX)
    name = name[: -len(".txt")] if name.lower().endswith(".txt") else name
    return (name.strip(".") and name) or "text"  # "" and ".." are folders


def default_output(source: str, data_dir: Path) -> Path:
    """`<data_dir>/<stem of the first source>.safetensors`."""
    return data_dir / f"{default_stem(source)}{container.SUFFIX}"
