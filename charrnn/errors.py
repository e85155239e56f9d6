"""The errors that a user can put right: the command line prints them as one line, without a traceback."""


class CharRNNError(Exception):
    """Something that cannot be done; the message names the value, the limit and the remedy."""

    exit_code = 1


class OptionError(CharRNNError):
    """An option's value that is out of its range, or options that exclude each other."""

    exit_code = 2


class CorpusChangedError(CharRNNError):
    """A corpus file that became shorter while it was read."""


class PrecisionError(CharRNNError):
    """A precision that the device cannot compute in."""
