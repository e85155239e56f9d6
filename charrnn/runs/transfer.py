"""Copy weights from a model of one vocabulary to a model of another, symbol by symbol."""

import torch

from charrnn.errors import CharRNNError
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.vocabulary import Vocabulary


def transfer(source: Checkpoint, model: CharRNN, vocabulary: Vocabulary) -> int:
    """Copy another run's weights into a model, matching rows by symbol.

    Rows of new symbols are unchanged. Returns: the number of matched symbols.
    Raises: CharRNNError if the models differ in more than their vocabulary.
    """
    old = {symbol: i for i, symbol in enumerate(source.vocabulary.symbols)}
    pairs = [(i, old[symbol]) for i, symbol in enumerate(vocabulary.symbols) if symbol in old]
    if vocabulary.unknown is not None and source.vocabulary.unknown is not None:
        pairs.append((vocabulary.unknown, source.vocabulary.unknown))
    here, there = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    weights = source.build_model().state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            other = weights.get(name)
            by_symbol = _symbol_dimension(name, model)
            if other is None or not _same_except(by_symbol, weight.shape, other.shape):
                raise CharRNNError(f"the checkpoint's model has another shape ({name}): give the same model options")
            if by_symbol is None:
                weight.copy_(other)
            else:
                weight.index_copy_(by_symbol, here, other.index_select(by_symbol, there))
    return len(pairs)


def _symbol_dimension(name: str, model: CharRNN) -> int | None:
    """The dimension of a weight that has size V: rows of embedding and head, columns of the one-hot input."""
    if name.startswith(("embedding.", "head.")):
        return 0
    return 1 if model.embedding is None and name == "stack.layers.0.weight_ih_l0" else None


def _same_except(dimension: int | None, a: torch.Size, b: torch.Size) -> bool:
    return len(a) == len(b) and all(i == dimension or a[i] == b[i] for i in range(len(a)))
