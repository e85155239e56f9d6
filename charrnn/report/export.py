"""A model as one HTML page that writes by itself: its weights in 8-bit integers, and the program that steps it.

The program is `model.js` (the equations), `units.js` (text and symbols) and `page.js`; the page around it is
`page.html`, its looks are `page.css`.
Whatever a checkpoint holds reaches the page as data: JSON without a `<`, which the program shows as text only.

Letters in shapes: R rows, C columns.
"""

import base64
import copy
import json
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from charrnn.config import RECOMMENDED_TEMPERATURE, PreparationConfig, SamplingConfig
from charrnn.model.network import CharRNN, layer_weights
from charrnn.report.assets import policy, read, write_page
from charrnn.runs.checkpoint import Checkpoint
from charrnn.sampling.filters import samplable_ids
from charrnn.text.tokenizers import Tokenizer

TITLE = "A model that writes"
_MAX_LEVEL = 127


def round_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a matrix (R, C) to 8-bit integers (R, C) times one scale per row (R,), float32."""
    scales = (weight.abs().amax(1) / _MAX_LEVEL).clamp(min=torch.finfo(torch.float32).tiny)  # a row may be zero
    return torch.round(weight / scales[:, None]).clamp(-_MAX_LEVEL, _MAX_LEVEL).to(torch.int8), scales


@torch.no_grad()
def rounded(model: CharRNN) -> CharRNN:
    """The model with the weights that its page has; biases stay as they are."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            integers, scales = round_rows(parameter)
            parameter.copy_(integers * scales[:, None])
    return model


def export(checkpoint: Checkpoint, path: Path | None, title: str = TITLE, *, overwrite: bool = False) -> int:
    """Write a checkpoint's model as a page, see `write_page`. Returns: its size in bytes. Raises: CharRNNError."""
    return write_page(render(checkpoint, title), path, overwrite=overwrite)


def render(checkpoint: Checkpoint, title: str = TITLE) -> str:
    """The page of a checkpoint's model. Nothing but the title, the model and its symbols tells where it comes from."""
    return fill(
        {
            "title": title,
            "description": describe(checkpoint),
            "vocabulary": _tokenizer(checkpoint.tokenizer, checkpoint.corpus.config),
            "model": _model(checkpoint.build_model()),
        }
    )


def fill(data: dict[str, Any]) -> str:
    """The page with this data, which the program reads."""
    style, script = read("colours.css") + read("page.css"), read("model.js") + read("units.js") + read("page.js")
    model = json.dumps(data).replace("<", "\\u003c")  # lest a symbol end the element
    allowed = policy(script, style, "worker-src blob:")
    return Template(read("page.html")).substitute(
        policy=allowed, style=style, script=script, model=model, temperature=RECOMMENDED_TEMPERATURE
    )


def describe(checkpoint: Checkpoint) -> str:
    """The model's shape in a line."""
    config = checkpoint.model_config
    cell = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN"}[config.cell]
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    return f"{cell}, {layers} of {config.hidden_size:,} units, {config.vocab_size:,} symbols"


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
    layers = []
    for layer in model.stack.layers:
        weight_ih, weight_hh, bias_ih, bias_hh = layer_weights(layer)
        layers.append(
            {
                "weight_ih": _matrix(weight_ih),
                "weight_hh": _matrix(weight_hh),
                "bias_ih": _encode(bias_ih),
                "bias_hh": _encode(bias_hh),
            }
        )
    return {
        "cell": model.config.cell,
        "hidden_size": model.config.hidden_size,
        "embedding": None if model.embedding is None else _matrix(model.embedding.weight),
        "layers": layers,
        "head": {"weight": _matrix(model.head.weight), "bias": _encode(model.head.bias)},
    }


def _matrix(weight: Tensor) -> dict[str, Any]:
    integers, scales = round_rows(weight)
    return {"columns": weight.shape[1], "integers": _encode(integers), "scales": _encode(scales)}


def _encode(values: Tensor) -> str:
    """The bytes of a tensor, little-endian, in base64."""
    array = values.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
