"""A model as one HTML page that writes by itself, or as one ES module: its weights in 8-bit integers, and a program.

The program is `model.js` (the equations), `units.js` (text and symbols) and `sampling.js` (a model that writes). The
page adds `page.js`, `page.html` and `page.css`, the module `module.js`.
All content of a checkpoint is data: JSON without a `<`, which the page shows as text only.

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
from charrnn.model.rounding import round_rows
from charrnn.report.assets import policy, read, write_page
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sampling.filters import samplable_ids
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Tokenizer, separator_pattern
from charrnn.version import __version__

TITLE = "A model that writes"


def export(checkpoint: Checkpoint, path: Path | None, title: str = TITLE, *, overwrite: bool = False) -> int:
    """Write a checkpoint's model as a page, see `write_page`. Returns: its size in bytes. Raises: CharRNNError."""
    return write_page(render(checkpoint, title), path, overwrite=overwrite)


def export_module(checkpoint: Checkpoint, path: Path | None, *, overwrite: bool = False) -> int:
    """Write a checkpoint's model as an ES module, see `write_page`. Returns: its size. Raises: CharRNNError."""
    return write_page(render_module(checkpoint), path, overwrite=overwrite)


def render(checkpoint: Checkpoint, title: str = TITLE) -> str:
    """The page of a checkpoint's model, without its paths and its origin."""
    return fill({"title": title, "description": describe(checkpoint), **_data(checkpoint)})


def fill(data: dict[str, Any]) -> str:
    """The page with this data, which the program reads."""
    style, script = read("colours.css") + read("page.css"), _program() + read("page.js")
    allowed = policy(script, style, "worker-src blob:")
    return Template(read("page.html")).substitute(
        policy=allowed, style=style, script=script, model=_as_json(data), temperature=RECOMMENDED_TEMPERATURE
    )


def render_module(checkpoint: Checkpoint) -> str:
    """The ES module of a checkpoint's model, without its paths and its origin."""
    return Template(read("module.js")).substitute(
        description=describe(checkpoint), version=__version__, program=_program(), data=_as_json(_data(checkpoint))
    )


def _program() -> str:
    """The program that the page and the module share."""
    return "\n".join(map(read, ("model.js", "units.js", "sampling.js")))


def _as_json(data: dict[str, Any]) -> str:
    """JSON that ends no element of a page, whatever the symbols; as code it is the same data."""
    return json.dumps(data).replace("<", "\\u003c")


def _data(checkpoint: Checkpoint) -> dict[str, Any]:
    """The vocabulary and the model as the program reads them."""
    vocabulary = _tokenizer(checkpoint.tokenizer, checkpoint.corpus.config)
    return {"vocabulary": vocabulary, "model": _model(checkpoint.build_model())}


def describe(checkpoint: Checkpoint) -> str:
    """The model's shape in a line."""
    config = checkpoint.model_config
    return f"{describe_layers(config)}, {config.vocab_size:,} symbols"


def describe_layers(config: ModelConfig) -> str:
    """The kind, number and width of the layers."""
    cell = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN"}[config.cell]
    return f"{cell}, {count_of(config.num_layers, 'layer')} of {config.hidden_size:,} units"


def _tokenizer(tokenizer: Tokenizer, config: PreparationConfig) -> dict[str, Any]:
    """The vocabulary as `units.js` reads it: how prompts are read, and what is never drawn."""
    return {
        "unit": config.unit,
        "size": tokenizer.size,
        "symbols": list(map(tokenizer.name, tokenizer.symbols)),
        "unknown": tokenizer.unk_id,
        "border": tokenizer.eos_id,
        "border_text": config.separator_text,
        "separator": None if config.separator is None else separator_pattern(config.separator),
        "start": int(tokenizer.encode_prompt("").ids[0]),
        "excluded": sorted(set(range(tokenizer.size)) - samplable_ids(SamplingConfig(), tokenizer)),
        "normalize": config.normalize,
        "lowercase": config.lowercase,
    }


@torch.no_grad()
def _model(model: CharRNN) -> dict[str, Any]:
    """The model as `model.js` reads it."""
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
    """A matrix (R, C) as rounded rows, a bias (R,) as float32."""
    if weight.dim() == 1:
        return _encode(weight)
    integers, scales = round_rows(weight)
    return {"columns": weight.shape[1], "integers": _encode(integers), "scales": _encode(scales)}


def _encode(values: Tensor) -> str:
    """The bytes of a tensor in base64."""
    return base64.b64encode(values.contiguous().numpy().data).decode()
