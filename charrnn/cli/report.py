"""`charrnn report`: one HTML page about a run, or about several side by side."""

from pathlib import Path
from typing import Annotated

import typer

from charrnn.cli.options import (
    CHECKPOINT_DIR,
    DATA_DIR,
    CheckpointDir,
    DataDir,
    Json,
    Overwrite,
    choose_checkpoint,
    declare,
    require_output,
    takes_configs,
    tell_page,
)
from charrnn.cli.signals import exit_on_signals

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN...", help="Runs' names, folders or checkpoint files; default: the newest run.", show_default=False
    ),
]


@takes_configs
def report(
    *,
    runs: Runs = None,
    output: Annotated[Path, declare("The page's file; - is stdout.", "--output", "-o", metavar="FILE")] = Path(
        "report.html"
    ),
    overwrite: Overwrite = False,
    corpus: Annotated[
        str | None,
        declare("The text that the models were trained on, raw or prepared, if not in --data-dir.", metavar="FILE"),
    ] = None,
    json: Json = False,
    data_dir: DataDir = DATA_DIR,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """Write one HTML page about a run, or several overlaid: loss curves, and what the model has learned.

    Examples:
      charrnn report tales -o tales.html
      charrnn report tales-256-1 tales-512-1     side by side
    """
    from charrnn.report.assets import is_own_page
    from charrnn.report.page import require_extra, write_report
    from charrnn.report.subject import open_subject

    exit_on_signals()
    require_extra()
    page = require_output(output, overwrite=overwrite or is_own_page(output))
    paths = [Path(run) for run in runs] if runs else [choose_checkpoint(None, checkpoint_dir)]
    subjects = [open_subject(path, data_dir, checkpoint_dir, corpus) for path in paths]
    size = write_report(subjects, page, overwrite=overwrite)
    tell_page(page, size, f" about {', '.join(subject.name for subject in subjects)}", json=json)
