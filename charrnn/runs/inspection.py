"""Facts about a corpus or a checkpoint, with a verified digest; facts about runs, from headers without verification."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charrnn.config import ModelConfig
from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.files.schema import dump
from charrnn.model.network import count_parameters
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder, find_checkpoint, find_runs
from charrnn.runs.reporting import definition_of, read_records
from charrnn.terminal import Notify, silence
from charrnn.text import corpus as corpora
from charrnn.text.corpus import Corpus
from charrnn.text.tokenizers import Tokenizer

_MAX_SYMBOLS = 10  # most frequent symbols to list, and as many of the rarest
_MAX_DEFINITION = 2**16  # bytes of the first record of a log


def inspect(path: str, checkpoint_dir: Path) -> dict[str, Any]:
    """Facts about a prepared corpus or a run's checkpoint, as JSON values. Raises: CharRNNError."""
    if container.is_stored(Path(path)) and container.kind_of(Path(path)) == corpora.KIND:
        return _about_corpus(Corpus.open(Path(path)))
    return _about_checkpoint(find_checkpoint(path, checkpoint_dir))


def _about_corpus(corpus: Corpus) -> dict[str, Any]:
    return {
        **_about_file(corpus.path, corpora.KIND),
        **_about_text(corpus.tokenizer),
        "validation_start": corpus.validation_start,
        "vocabulary": _about_vocabulary(corpus.tokenizer),
        "preparation": dump(corpus.config),
        "sources": list(corpus.sources),
        "source_digest": corpus.source_digest,
    }


def _about_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.load(path)
    progress, history = checkpoint.snapshot.progress, checkpoint.snapshot.history
    loss, cursor, config = history.best_val_loss, checkpoint.snapshot.cursor, checkpoint.training_config
    symbols_per_step = (config.batch_size or 0) * (config.seq_length or 0)
    tokenizer = checkpoint.tokenizer  # its ratios of bytes, symbols and characters are means over the whole corpus
    bytes_per_char = tokenizer.num_bytes / max(tokenizer.num_chars, 1)
    num_train = (1 - config.val_fraction) * sum(checkpoint.tokenizer.counts)
    return {
        **_about_file(path, "checkpoint"),
        **({} if checkpoint.card is None else {"card": dict(checkpoint.card)}),
        "model": _about_model(checkpoint.model_config),
        "history": {
            "steps": progress.step,
            "epoch": round(cursor.epoch + min(cursor.chunk * symbols_per_step / num_train, 1), 2),
            "elapsed_s": round(history.elapsed_s, 3),
            "best_val_loss": loss,
            "bits_per_char": None if loss is None else loss / math.log(2),
            "bits_per_byte": None if loss is None else loss / math.log(2) / bytes_per_char,
            "perplexity": None if loss is None else math.exp(loss * tokenizer.chars_per_symbol),
            "val_chars": history.best_val_chars,
            "recoveries": history.recoveries,
            "can_be_resumed": checkpoint.can_be_resumed,
        },
        "training": {**dump(checkpoint.training_config), "seed": checkpoint.seed, "precision": checkpoint.precision},
        "corpus": {
            "name": Path(checkpoint.corpus.path).stem,
            **_about_text(checkpoint.tokenizer),
            "source_digest": checkpoint.corpus.source_digest,
        },
        "vocabulary": _about_vocabulary(checkpoint.tokenizer),
        "preparation": dump(checkpoint.corpus.config),
        "versions": dict(checkpoint.versions),
    }


def _about_file(path: Path, kind: str) -> dict[str, Any]:
    return {"path": str(path), "kind": kind, "bytes": path.stat().st_size, "digest": "verified"}


def _about_model(config: ModelConfig) -> dict[str, Any]:
    return {**dump(config), "parameters": count_parameters(config)}


def _about_text(tokenizer: Tokenizer) -> dict[str, Any]:
    """The size of the text that the vocabulary was built from."""
    return {
        "characters": tokenizer.num_chars,
        "text_bytes": tokenizer.num_bytes,
        "symbols": None if tokenizer.config.unit == "char" else sum(tokenizer.counts),
        "documents": None if tokenizer.eos_id is None else tokenizer.num_documents,
    }


def _about_vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    counted = zip(map(tokenizer.name, tokenizer.symbols), tokenizer.counts, strict=False)
    symbols = sorted(((symbol, n) for symbol, n in counted if n), key=lambda symbol: -symbol[1])
    return {
        "size": tokenizer.size,
        "most_frequent": dict(symbols[:_MAX_SYMBOLS]),
        "rarest": dict(symbols[: -_MAX_SYMBOLS - 1 : -1]),
        "folded_into_unknown": None if tokenizer.unk_id is None else tokenizer.counts[tokenizer.unk_id],
    }


def list_runs(checkpoint_dir: Path, notify: Notify = silence) -> Iterator[dict[str, Any]]:
    """Facts about the runs directly in a folder, newest first, as JSON values.

    `modified` is in seconds since 1970. Prints a warning for each run without a readable checkpoint.
    """
    for run in find_runs(checkpoint_dir):
        try:
            header = run.newest_header()
        except CharRNNError as error:
            notify(str(error), warning=True)
            continue
        counters, loss = header.counters, header.counters.best_val_loss
        yield {
            "name": run.path.name,
            "run": str(run.path),
            "corpus": Path(header.corpus.path).stem,
            "init_from": _init_from(run),
            "unit": header.corpus.config.unit,
            **_about_model(header.model_config),
            "best_val_loss": loss,
            "val_chars": counters.best_val_chars,
            "bits_per_char": None if loss is None else loss / math.log(2),
            "steps": counters.step,
            "elapsed_s": round(counters.elapsed_s, 3),
            "modified": run.modified or 0.0,
            "bytes": _count_bytes(run.path),
            "charrnn": header.charrnn,
            "torch": header.torch,
        }


def _init_from(run: RunFolder) -> str | None:
    """Name of the corpus of the model whose weights a run started from, from its log; None without such a model."""
    origin = definition_of(read_records(run.metrics, max_bytes=_MAX_DEFINITION)).get("init_from")
    name = origin.get("corpus") if isinstance(origin, dict) else None
    return name if isinstance(name, str) else None


def _count_bytes(folder: Path) -> int:
    """Total size of the files; a file with two names counts once."""
    sizes = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())
