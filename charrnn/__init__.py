"""charrnn turns any text into a model that writes like it.

The command line is the interface; see `charrnn --help`. Importing this package imports no torch.
"""

__version__ = "0.1.0"
