"""Train a character-level recurrent network on any text and generate text like it.

The command line is the main interface, see `charrnn --help`; `charrnn.train` and `charrnn.load` are for Python.
Importing this package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from charrnn.version import __version__

if TYPE_CHECKING:
    from charrnn.api import CharRNNError, LanguageModel, Surprisals, TextScore, TextStates, load
    from charrnn.learning import Corpus, prepare, train

_LEARNING = ("Corpus", "prepare", "train")
__all__ = [
    "CharRNNError",
    "Corpus",
    "LanguageModel",
    "Surprisals",
    "TextScore",
    "TextStates",
    "__version__",
    "load",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("charrnn.learning" if name in _LEARNING else "charrnn.api"), name)


def __dir__() -> list[str]:
    return __all__
