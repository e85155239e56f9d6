"""Facts about a corpus or a checkpoint, from a file whose digest is verified."""

import math
from pathlib import Path
from typing import Any

from charrnn.files import container
from charrnn.files.schema import dump
from charrnn.model.network import count_parameters
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import find_checkpoint
from charrnn.text import corpus as corpora
from charrnn.text.corpus import Corpus
from charrnn.text.tokenizers import Tokenizer

_MAX_SYMBOLS = 10  # that are named, of the most frequent and of the rarest


def inspect(path: str, checkpoint_dir: Path) -> dict[str, Any]:
    """Facts about a prepared corpus or about a run's checkpoint, as JSON values. Raises: CharRNNError."""
    if container.is_stored(Path(path)) and container.kind_of(Path(path)) == corpora.KIND:
        return _about_corpus(Corpus.open(Path(path)))
    return _about_checkpoint(find_checkpoint(path, checkpoint_dir))


def _about_corpus(corpus: Corpus) -> dict[str, Any]:
    return {
        **_about_file(corpus.path, corpora.KIND),
        **_about_text(corpus.tokenizer),
        "vocabulary": _about_vocabulary(corpus.tokenizer),
        "preparation": dump(corpus.config),
        "sources": list(corpus.sources),
        "source_digest": corpus.source_digest,
    }


def _about_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.load(path)
    course, history = checkpoint.snapshot.course, checkpoint.snapshot.history
    loss, cursor, config = history.best_val_loss, checkpoint.snapshot.cursor, checkpoint.training_config
    symbols_per_step = (config.batch_size or 0) * (config.seq_length or 0)
    num_train = (1 - config.val_fraction) * sum(checkpoint.tokenizer.counts)
    return {
        **_about_file(path, "checkpoint"),
        "model": {**dump(checkpoint.model_config), "parameters": count_parameters(checkpoint.model_config)},
        "history": {
            "steps": course.step,
            "epoch": round(cursor.epoch + min(cursor.chunk * symbols_per_step / num_train, 1), 2),
            "elapsed_s": round(history.elapsed_s, 3),
            "best_val_loss": loss,
            "bits_per_char": None if loss is None else loss / math.log(2),
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


def _about_text(tokenizer: Tokenizer) -> dict[str, Any]:
    """The size of the text that a vocabulary was counted on; symbols and documents where they say more."""
    return {
        "characters": tokenizer.num_chars,
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
