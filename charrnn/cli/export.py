"""`charrnn export`: a trained model as one HTML page that writes in any browser."""

from pathlib import Path
from typing import Annotated

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals


def export(
    *,
    checkpoint: options.CheckpointArgument = None,
    output: Annotated[Path, declare("The page's file; - is stdout.", "--output", "-o", metavar="FILE")],
    overwrite: options.Overwrite = False,
    title: Annotated[str | None, declare("The page's heading.", "--title", metavar="TEXT")] = None,
    json: options.Json = False,
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Write the model as one HTML page that writes in any browser, offline.

    Examples:
      charrnn export tales -o tales.html --title "Tales of a small machine"
    """
    from charrnn.report.assets import is_own_page
    from charrnn.report.export import TITLE, describe
    from charrnn.report.export import export as write_page
    from charrnn.runs.checkpoint import Checkpoint

    raise_exit_on_signals()
    page = options.require_output(output, overwrite=overwrite or is_own_page(output))
    found = Checkpoint.load(options.choose_checkpoint(checkpoint, checkpoint_dir))
    size = write_page(found, page, TITLE if title is None else title, overwrite=overwrite)
    options.report_page(page, size, f", {describe(found)}", json=json)
