"""The report of one or several runs: one HTML page, complete in itself.

All text reaches the page through jinja2's autoescape, and what would steer the display is made visible on the way.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn.errors import CharRNNError
from charrnn.report import assets
from charrnn.report.subject import Subject
from charrnn.report.visible import visible


def require_extra() -> None:
    """Raises: CharRNNError if matplotlib or jinja2 is missing."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of caches, as of a home that is read-only
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError:
        raise CharRNNError("charrnn report needs matplotlib and jinja2: pip install 'charrnn[report]'") from None


def write_report(subjects: Sequence[Subject], path: Path | None, *, overwrite: bool = False) -> int:
    """Write the report of some runs, see `write_page`. Returns: its size in bytes. Raises: CharRNNError."""
    return assets.write_page(render(subjects), path, overwrite=overwrite)


def render(subjects: Sequence[Subject]) -> str:
    """The page."""
    from markupsafe import Markup

    from charrnn.report.chapters import write_chapter
    from charrnn.report.curves import draw_curves
    from charrnn.report.passage import Predictions
    from charrnn.report.samples import COPYING

    style, script = assets.read("colours.css") + assets.read("report.css"), assets.read("report.js")
    predictions = Predictions()
    chapters = [write_chapter(subject, predictions) for subject in subjects]
    page: str = _template().render(
        policy=assets.policy(script, style),
        style=Markup(style),
        script=Markup(script),
        names=[subject.name for subject in subjects],
        figures=draw_curves([subject.records for subject in subjects]),
        chapters=chapters,
        predictions=predictions.rows,
        copying=COPYING,
    )
    return page


def _template() -> Any:
    """The page's template, which escapes all that it is given and makes visible what would steer the display."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def with_line_ends(text: str) -> Markup:
        """Text whose line ends can be seen and pointed at; a sign of a line end begins no line."""
        return escape(visible(text)).replace("\n", Markup("&#8288;↵\n"))

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True)
    environment.filters["with_line_ends"] = with_line_ends
    return environment.from_string(assets.read("report.html"))
