"""Errors that the user can fix: the command line prints them as one line, without a traceback."""

from collections.abc import Sequence


class CharRNNError(Exception):
    """Base class of these errors; the message states the value, the limit and the remedy."""

    exit_code = 1
    is_claimed = False
    """True where this one of several processes has to tell of it."""


class OptionError(CharRNNError):
    """An option out of its range, or options that exclude each other."""

    exit_code = 2


class UnknownSymbolsError(CharRNNError):
    """Symbols outside a model's vocabulary, in `missing`."""

    def __init__(self, message: str, missing: Sequence[str]) -> None:
        super().__init__(message)
        self.missing = missing


class OutputExistsError(CharRNNError):
    """A file that may not be overwritten."""


class CorpusChangedError(CharRNNError):
    """A corpus file that was truncated while it was in use."""


class CharRNNWarning(UserWarning):
    """A machine that does less than it should; the command line prints it as one line."""


class PrecisionError(CharRNNError):
    """A precision that the device cannot compute in."""
