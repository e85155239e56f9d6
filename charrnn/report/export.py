"""A model as one HTML page that writes by itself: its weights in 8-bit integers, and the program that steps it.

The program is `model.js` (the equations), `units.js` (text and symbols) and `page.js`; the page around it is
`page.html`, its looks are `page.css`.
All content of a checkpoint is data on the page: JSON without a `<`, which the program shows as text only.

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
from charrnn.report.assets import policy, read, write_page
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sampling.filters import samplable_ids
from charrnn.terminal import count_of
from charrnn.text.tokenizers import Tokenizer

TITLE = "A model that writes"
_MAX_LEVEL = 127


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix (R, C) to 8-bit integers (R, C) times one scale per row (R,), float32."""
    scales = (weight.abs().amax(1) / _MAX_LEVEL).clamp(min=torch.finfo(torch.float32).tiny)  # a row may be zero
    return torch.round(weight / scales[:, None]).clamp(-_MAX_LEVEL, _MAX_LEVEL).to(torch.int8), scales


def export(checkpoint: Checkpoint, path: Path | None, title: str = TITLE, *, overwrite: bool = False) -> int:
    """Write a checkpoint's model as a page, see `write_page`. Returns: its size in bytes. Raises: CharRNNError."""
    return write_page(render(checkpoint, title), path, overwrite=overwrite)


def render(checkpoint: Checkpoint, title: str = TITLE) -> str:
    """The page of a checkpoint's model, without its paths and its origin."""
    data = {"title": title, "description": describe(checkpoint)}
    vocabulary = _tokenizer(checkpoint.tokenizer, checkpoint.corpus.config)
    return fill({**data, "vocabulary": vocabulary, "model": _model(checkpoint.build_model())})


def fill(data: dict[str, Any]) -> str:
    """The page with this data, which the program reads."""
    style, script = read("colours.css") + read("page.css"), read("model.js") + read("units.js") + read("page.js")
    model = json.dumps(data).replace("<", "\\u003c")  # so that no symbol ends the element
    allowed = policy(script, style, "worker-src blob:")
    return Template(read("page.html")).substitute(
        policy=allowed, style=style, script=script, model=model, temperature=RECOMMENDED_TEMPERATURE
    )


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
        "border_text": config.border_text,
        "separator": config.separator,
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
