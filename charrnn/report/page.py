"""The report of one or several runs: one self-contained HTML page.

All text is escaped by jinja2's autoescape, and control characters are replaced by visible ones.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charrnn.errors import CharRNNError
from charrnn.report import assets
from charrnn.report.charts import draw_calibration, draw_curves
from charrnn.report.embeddings import draw_map
from charrnn.report.header import list_facts, write_command
from charrnn.report.neurons import find_neurons
from charrnn.report.passage import Prediction, find_typical, find_worst, make_sheet
from charrnn.report.reading import Reading, calibrate, read
from charrnn.report.records import samples
from charrnn.report.samples import COPYING, find_copies, write_at_temperatures
from charrnn.report.subject import Subject
from charrnn.report.visible import visible


def require_extra() -> None:
    """Raises: CharRNNError if matplotlib or jinja2 is missing."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no warnings about its cache, such as for a read-only home
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError:
        raise CharRNNError("charrnn report needs matplotlib and jinja2: pip install 'charrnn[report]'") from None


def write_report(subjects: Sequence[Subject], path: Path | None, *, overwrite: bool = False) -> int:
    """Write the report of the runs, see `write_page`. Returns: the size in bytes. Raises: CharRNNError."""
    return assets.write_page(render(subjects), path, overwrite=overwrite)


def render(subjects: Sequence[Subject]) -> str:
    """The HTML page."""
    style, script = assets.read("colours.css") + assets.read("report.css"), assets.read("report.js")
    predictions: list[Prediction] = []
    chapters = [_describe(subject, predictions) for subject in subjects]
    page: str = _template().render(
        policy=assets.policy(script, style),
        style=style,
        script=script,
        names=[subject.name for subject in subjects],
        figures=draw_curves([subject.records for subject in subjects]),
        chapters=chapters,
        predictions=predictions,
        copying=COPYING,
    )
    return page


def _describe(subject: Subject, predictions: list[Prediction]) -> dict[str, Any]:
    """The data of a run for `report.html`; None for parts that need a missing text. Appends to `predictions`."""
    reading = read(subject.model, subject.held_out, subject.show)
    return {
        "name": subject.name,
        "tokenizer": subject.tokenizer,
        "noun": subject.noun,
        "facts": list_facts(subject),
        "command": write_command(subject),
        "training_samples": samples(subject.records),
        "temperatures": write_at_temperatures(subject),
        "copies": find_copies(subject),
        "map": draw_map(subject.model, subject.tokenizer, subject.names),
        "held_out": None if reading is None else _describe_held_out(subject, reading, predictions),
        "has_text": subject.has_text,
    }


def _describe_held_out(subject: Subject, reading: Reading, predictions: list[Prediction]) -> dict[str, Any]:
    """The data about held-out text for `report.html`. Appends to `predictions`."""
    start, end = find_typical(reading)
    calibration = calibrate(reading)
    worst = [make_sheet(reading, subject.names, *each, predictions) for each in find_worst(reading)]
    neurons, missed = find_neurons(subject, reading, start, end)
    return {
        "num_symbols": len(reading.texts),
        "bits_per_symbol": float(reading.bits.double().mean()),
        "passage": make_sheet(reading, subject.names, start, end, predictions),
        "worst": sorted(worst, key=lambda sheet: -sheet.bits_per_symbol),
        "calibration": calibration,
        "chart": draw_calibration(calibration),
        "neurons": neurons,
        "missed": missed,
    }


def _template() -> Any:
    """The template of the page, which escapes all text and replaces control characters."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def with_line_ends(text: str) -> Markup:
        """Text with visible line ends; the word joiner keeps the sign of a line end in its line."""
        return escape(visible(text)).replace("\n", Markup("&#8288;↵\n"))

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True)
    environment.filters["with_line_ends"] = with_line_ends
    return environment.from_string(assets.read("report.html"))
