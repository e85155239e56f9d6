"""`charrnn export`: a trained model as one HTML page that writes in any browser."""

from pathlib import Path
from typing import Annotated

from charrnn.cli.options import (
    CHECKPOINT_DIR,
    CheckpointArgument,
    CheckpointDir,
    Json,
    Overwrite,
    choose_checkpoint,
    declare,
    require_output,
    takes_configs,
    tell_page,
)
from charrnn.cli.signals import exit_on_signals


@takes_configs
def export(
    *,
    checkpoint: CheckpointArgument = None,
    output: Annotated[Path, declare("The page's file; - is stdout.", "--output", "-o", metavar="FILE")],
    overwrite: Overwrite = False,
    title: Annotated[str | None, declare("The page's heading.", "--title", metavar="TEXT")] = None,
    json: Json = False,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """Write the model as one HTML page that writes in any browser, offline.

    Examples:
      charrnn export tales -o tales.html --title "Tales of a small machine"
    """
    from charrnn.report.assets import is_own_page
    from charrnn.report.export import TITLE, describe
    from charrnn.report.export import export as write_page
    from charrnn.runs.checkpoint import Checkpoint

    exit_on_signals()
    page = require_output(output, overwrite=overwrite or is_own_page(output))
    found = Checkpoint.load(choose_checkpoint(checkpoint, checkpoint_dir))
    size = write_page(found, page, TITLE if title is None else title, overwrite=overwrite)
    tell_page(page, size, f", {describe(found)}", json=json)
