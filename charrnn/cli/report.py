"""`charrnn report`: an HTML page about one or several runs."""

from pathlib import Path
from typing import Annotated

import typer

from charrnn.cli import options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN...", help="Names or folders of runs, or checkpoint files; default: the newest run"),
]


def report(
    *,
    runs: Runs = None,
    output: Annotated[Path, declare("Output file; - is stdout", "--output", "-o", metavar="FILE")] = Path(
        "report.html"
    ),
    overwrite: options.Overwrite = False,
    corpus: Annotated[
        str | None,
        declare("Training text, raw or prepared, if not in --data-dir", metavar="FILE"),
    ] = None,
    json: options.Json = False,
    data_dir: options.DataDir = options.DATA_DIR,
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Write an HTML page about one or several runs: loss curves, samples, what the model learned.

    Examples:
      charrnn report tales -o tales.html
      charrnn report tales-256-1 tales-512-1     side by side
    """
    from charrnn.report.assets import is_own_page
    from charrnn.report.page import require_extra, write_report
    from charrnn.report.subject import open_subject

    raise_exit_on_signals()
    require_extra()
    page = options.require_output(output, overwrite=overwrite or is_own_page(output))
    paths = [Path(run) for run in runs] if runs else [options.choose_checkpoint(None, checkpoint_dir)]
    subjects = [open_subject(path, data_dir, checkpoint_dir, corpus) for path in paths]
    size = write_report(subjects, page, overwrite=overwrite)
    options.report_page(page, size, f" about {', '.join(subject.name for subject in subjects)}", json=json)
