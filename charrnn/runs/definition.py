"""Everything that defines a run, as JSON values: the first record of its log."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.files.schema import dump
from charrnn.machine.probes import device_name
from charrnn.machine.runtime import Runtime
from charrnn.model.network import count_parameters
from charrnn.runs.checkpoint import VERSIONS, Checkpoint
from charrnn.text.corpus import Corpus


def define(
    corpus: Corpus,
    model_config: ModelConfig,
    training_config: TrainingConfig,
    seed: int,
    runtime: Runtime,
    origin: dict[str, Any] | None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Command line, versions, machine, corpus, all options as resolved, origin of the weights, seed."""
    return {
        "command": None if command is None else list(command),
        "versions": {**VERSIONS, "python": platform.python_version()},
        "machine": {
            "device": str(runtime.device),
            "name": device_name(runtime.device),
            "system": f"{platform.system()} {platform.machine()}",
            "processes": runtime.ranks.size,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "corpus": {
            "path": str(corpus.path.absolute()),
            "sources": list(corpus.sources),
            "source_digest": corpus.source_digest,
            "symbols": len(corpus.indices),
        },
        "preparation": dump(corpus.config),
        "model": {**dump(model_config), "parameters": count_parameters(model_config)},
        "training": {**dump(training_config), "precision": runtime.precision},
        "init_from": origin,
        "seed": seed,
    }


def origin_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The run that weights were taken from, as far as its checkpoint tells."""
    corpus = checkpoint.corpus
    return {
        "corpus": Path(corpus.path).stem,
        "source_digest": corpus.source_digest,
        "steps": checkpoint.snapshot.course.step,
        "seed": checkpoint.seed,
    }
