"""Copy weights between models with different vocabularies, symbol by symbol.

Letters in shapes: S symbols of the source, V symbols of the model.
"""

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, opt
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.tokenizers import Tokenizer


def transfer(source: Checkpoint, model: CharRNN, tokenizer: Tokenizer) -> int:
    """Copy another run's weights into a model of the same shape, matching rows by symbol.

    Rows of new symbols are drawn with the mean and the standard deviation of the source's rows, their biases are set
    from their frequencies. Returns: the number of matched symbols. Raises: CharRNNError if the units differ.
    Source: Hewitt, "Initializing New Word Embeddings for Pretrained Language Models" (2021); the standard deviation is
    added here to keep new symbols distinct.
    """
    if tokenizer.noun != source.tokenizer.noun:
        raise CharRNNError(
            f"{opt.init_from} is a model of {source.tokenizer.noun}s, but the corpus consists of {tokenizer.noun}s: "
            f"prepare the text with {opt.unit(source.tokenizer.config.unit)}"
        )
    old = {symbol: i for i, symbol in enumerate(source.tokenizer.symbols)}
    pairs = [(i, old[symbol]) for i, symbol in enumerate(tokenizer.symbols) if symbol in old]
    for name in ("unk_id", "eos_id"):
        special = getattr(tokenizer, name), getattr(source.tokenizer, name)
        pairs += [special] if None not in special else []
    here, there = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    weights = source.build_model().state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            other, by_symbol = weights[name], _symbol_dimension(name, model)
            if by_symbol is None:
                weight.copy_(other)
                continue
            rows = other.movedim(by_symbol, 0)  # (S, ...)
            if name == "head.bias":
                log_p = _log_frequencies(source.tokenizer)
                new = _log_frequencies(tokenizer) + (rows - log_p).mean()  # (V,)
            else:
                new = _draw_like(rows, tokenizer.size)  # (V, ...)
            weight.copy_(new.index_copy(0, here, rows[there]).movedim(0, by_symbol))
    return len(pairs)


def _draw_like(rows: Tensor, count: int) -> Tensor:
    """Normal rows (count, ...) with the mean and the standard deviation of each column of `rows` (S, ...)."""
    std, mean = torch.std_mean(rows, dim=0, correction=0)
    return mean + std * torch.randn(count, *rows.shape[1:])


def _log_frequencies(tokenizer: Tokenizer) -> Tensor:
    """The log of each symbol's relative frequency (V,); symbols that do not occur count as one."""
    return torch.tensor(tokenizer.counts, dtype=torch.float32).clamp(min=1).log().log_softmax(0)


def _symbol_dimension(name: str, model: CharRNN) -> int | None:
    """The dimension of size V in a weight: rows of embedding and head, columns of the one-hot input; else None."""
    if name.startswith(("embedding.", "head.")):
        return 0
    return 1 if model.embedding is None and name == "stack.layers.0.weight_ih_l0" else None
