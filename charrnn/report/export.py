"""Export a model as an HTML page or as an ES module: 8-bit weights and a JavaScript program that generates text.

The program is `model.js` (the network), `units.js` (text to ids and back) and `sampling.js`. The page adds `page.js`,
`page.html` and `page.css`, the module adds `module.js`.
The content of a checkpoint is only included as JSON without `<`, and the page displays it only as text.

Letters in shapes: R rows, C columns.
"""

import base64
import json
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from charrnn.config import RECOMMENDED_TEMPERATURE, ModelConfig, PreparationConfig, SamplingConfig
from charrnn.model.network import CharRNN, layer_weights
from charrnn.model.quantisation import quantise_rows
from charrnn.report.assets import policy, read, write_page
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sampling.filters import samplable_ids
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Tokenizer, separator_pattern
from charrnn.version import __version__

TITLE = "A model that writes"


def export(checkpoint: Checkpoint, path: Path | None, title: str = TITLE, *, overwrite: bool = False) -> int:
    """Write a model as an HTML page, see `write_page`. Returns: the size in bytes. Raises: CharRNNError."""
    return write_page(render(checkpoint, title), path, overwrite=overwrite)


def export_module(checkpoint: Checkpoint, path: Path | None, *, overwrite: bool = False) -> int:
    """Write a model as an ES module, see `write_page`. Returns: the size in bytes. Raises: CharRNNError."""
    return write_page(render_module(checkpoint), path, overwrite=overwrite)


def render(checkpoint: Checkpoint, title: str = TITLE) -> str:
    """The page of a model, without paths and other facts about its training."""
    return fill({"title": title, "description": describe(checkpoint), **_data(checkpoint)})


def fill(data: dict[str, Any]) -> str:
    """The page with this data for the program."""
    style, script = read("colours.css") + read("page.css"), _program() + read("page.js")
    allowed = policy(script, style, "worker-src blob:")
    return Template(read("page.html")).substitute(
        policy=allowed, style=style, script=script, model=_as_json(data), temperature=RECOMMENDED_TEMPERATURE
    )


def render_module(checkpoint: Checkpoint) -> str:
    """The ES module of a model, without paths and other facts about its training."""
    return Template(read("module.js")).substitute(
        description=describe(checkpoint), version=__version__, program=_program(), data=_as_json(_data(checkpoint))
    )


def _program() -> str:
    """The program that the page and the module share."""
    return "\n".join(map(read, ("model.js", "units.js", "sampling.js")))


def _as_json(data: dict[str, Any]) -> str:
    """JSON without `<`, which could end an HTML element; also valid as JavaScript."""
    return json.dumps(data).replace("<", "\\u003c")


def _data(checkpoint: Checkpoint) -> dict[str, Any]:
    """The vocabulary and the model for the program."""
    vocabulary = _tokenizer(checkpoint.tokenizer, checkpoint.corpus.config)
    return {"vocabulary": vocabulary, "model": _model(checkpoint.build_model())}


def describe(checkpoint: Checkpoint) -> str:
    """The shape of the model in one line."""
    config = checkpoint.model_config
    return f"{describe_layers(config)}, {config.vocab_size:,} symbols"


def describe_layers(config: ModelConfig) -> str:
    """The kind, number and width of the layers."""
    cell = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN"}[config.cell]
    return f"{cell}, {count_of(config.num_layers, 'layer')} of {config.hidden_size:,} units"


def _tokenizer(tokenizer: Tokenizer, config: PreparationConfig) -> dict[str, Any]:
    """The vocabulary for `units.js`: the conversion of prompts to ids, and the ids that are never sampled."""
    return {
        "unit": config.unit,
        "size": tokenizer.size,
        "symbols": list(map(tokenizer.name, tokenizer.symbols)),
        "unknown": tokenizer.unk_id,
        "eos": tokenizer.eos_id,
        "eos_text": config.separator_text,
        "separator": None if config.separator is None else separator_pattern(config.separator),
        "start": int(tokenizer.encode_prompt("").ids[0]),
        "excluded": sorted(set(range(tokenizer.size)) - samplable_ids(SamplingConfig(), tokenizer)),
        "normalize": config.normalize,
        "lowercase": config.lowercase,
    }


@torch.no_grad()
def _model(model: CharRNN) -> dict[str, Any]:
    """The model for `model.js`."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [dict(zip(names, map(_stored, layer_weights(each)), strict=True)) for each in model.stack.layers]
    return {
        "cell": model.config.cell,
        "hidden_size": model.config.hidden_size,
        "embedding": None if model.embedding is None else _stored(model.embedding.weight),
        "layers": layers,
        "head": {"weight": _stored(model.head.weight), "bias": _stored(model.head.bias)},
    }


def _stored(weight: Tensor) -> dict[str, Any] | str:
    """A matrix (R, C) as quantised rows, a bias (R,) as float32."""
    if weight.dim() == 1:
        return _encode(weight)
    integers, scales = quantise_rows(weight)
    return {"columns": weight.shape[1], "integers": _encode(integers), "scales": _encode(scales)}


def _encode(values: Tensor) -> str:
    """The values of a tensor in base64."""
    return base64.b64encode(values.contiguous().numpy().data).decode()
