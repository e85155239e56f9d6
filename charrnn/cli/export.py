"""`charrnn export`: a trained model as an HTML page that generates text, or as a JavaScript module."""

from pathlib import Path
from typing import Annotated

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals
from charrnn.errors import OptionError


def export(
    *,
    checkpoint: options.CheckpointArgument = None,
    output: Annotated[Path, declare("Output file; - is stdout", "--output", "-o", metavar="FILE")],
    overwrite: options.Overwrite = False,
    module: Annotated[bool, declare("Write a JavaScript module instead of a page", "--module")] = False,
    title: Annotated[str | None, declare("Heading of the page", "--title", metavar="TEXT")] = None,
    json: options.Json = False,
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Export a model as an HTML page that generates text offline, or as a JavaScript module.

    Examples:
      charrnn export tales -o tales.html --title "Tales of a small machine"
      charrnn export tales -o model.js --module
    """
    if module and title is not None:
        raise OptionError("--title is for a page, and --module writes no page: use one of them")
    from charrnn.report.assets import is_own_page
    from charrnn.report.export import TITLE, describe, export_module
    from charrnn.report.export import export as export_page
    from charrnn.runs.checkpoint import Checkpoint

    raise_exit_on_signals()
    path = options.require_output(output, overwrite=overwrite or is_own_page(output))
    found = Checkpoint.load(options.choose_checkpoint(checkpoint, checkpoint_dir))
    if module:
        size = export_module(found, path, overwrite=overwrite)
    else:
        size = export_page(found, path, TITLE if title is None else title, overwrite=overwrite)
    options.report_page(path, size, f", {describe(found)}", json=json)
