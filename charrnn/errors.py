"""Errors that the user can fix, and the names of options in their messages.

The command line prints an error as one line, without a traceback. A message names an option as the user writes it:
`--hidden-size 512` on the command line, `hidden_size=512` in Python.
"""

import contextlib
from collections.abc import Iterator, Sequence


class OptionName(str):
    """The name of an option in a message; a call with a value adds the value."""

    def __call__(self, value: object) -> str:
        """The option with its value."""
        if not self.startswith("--"):
            return f"{self}={value}"
        return self if value is True else f"{self} {value}"


class _OptionNames:
    """`opt.hidden_size` is the name of that option, `opt.hidden_size(512)` sets it.

    >>> f"lower {opt.batch_size}, or try {opt.hidden_size(512)} or {opt.force(True)}"
    'lower batch_size, or try hidden_size=512 or force=True'
    >>> with command_line():
    ...     f"lower {opt.batch_size}, or try {opt.hidden_size(512)} or {opt.force(True)}"
    'lower --batch-size, or try --hidden-size 512 or --force'
    """

    on_command_line = False

    def __getattr__(self, name: str) -> OptionName:
        return OptionName(f"--{name.replace('_', '-')}" if self.on_command_line else name)


opt = _OptionNames()


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Inside the context, messages name options as on the command line."""
    before, opt.on_command_line = opt.on_command_line, True
    try:
        yield
    finally:
        opt.on_command_line = before


class CharRNNError(Exception):
    """Base class of the errors; a message states the value, the limit and the remedy."""

    exit_code = 1
    must_print = False
    """True if this process has to print the error, although it is not the main process."""


class OptionError(CharRNNError):
    """An option out of its range, or options that exclude each other."""

    exit_code = 2


class UnknownSymbolsError(CharRNNError):
    """Symbols outside a model's vocabulary, in `missing`."""

    def __init__(self, message: str, missing: Sequence[str]) -> None:
        super().__init__(message)
        self.missing = missing


class OutputExistsError(CharRNNError):
    """An output file that exists and may not be overwritten."""


class CorpusChangedError(CharRNNError):
    """A corpus file that was truncated while it was in use."""


class CharRNNWarning(UserWarning):
    """A warning about the machine; the command line prints it as one line."""


class PrecisionError(CharRNNError):
    """A precision that the device does not support."""
