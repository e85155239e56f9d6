"""charrnn turns any text into a model that writes like it.

The command line is the interface, see `charrnn --help`; `charrnn.load` is for Python. Importing this package imports
no torch.
"""

from typing import TYPE_CHECKING, Any

from charrnn.version import __version__

if TYPE_CHECKING:
    from charrnn.api import CharRNNError, LanguageModel, TextScore, TextStates, load

__all__ = ["CharRNNError", "LanguageModel", "TextScore", "TextStates", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from charrnn import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return __all__
