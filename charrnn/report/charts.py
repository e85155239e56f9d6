"""Charts by matplotlib as SVG; colours and fonts come from the style sheet of the page."""

import io
import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from charrnn.report.reading import Calibration
from charrnn.report.records import Curve, curve
from charrnn.runs.reporting import Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _LINE = "#010101", "#010102"
_SERIES = tuple(f"#0102{i:02x}" for i in range(6))
"""Placeholders for the colours of the page, which matplotlib cannot use."""
_COLOURS = {_INK: "var(--ink)", _LINE: "var(--line)"} | {each: f"var(--series-{i})" for i, each in enumerate(_SERIES)}
_SIZE = (4.6, 2.7)  # in inches of 72 points; about the width of a phone
_SVG = "{http://www.w3.org/2000/svg}"
_FONTS = ("font", "font-size", "font-family", "font-weight", "font-style")
_LOSSES = "Lines with dots: validation loss. Thin lines: running mean of the training loss."


def draw_curves(runs: Sequence[Records]) -> list[tuple[str, str, str]]:
    """The title, SVG and caption of each chart, with the curves of all runs; charts without data are left out."""

    def curves_of(name: str, factor: float = 1.0) -> list[Curve]:
        return [curve(records, name, factor) for records in runs]

    training, validation = curves_of("train_loss", 1 / math.log(2)), curves_of("val_loss", 1 / math.log(2))
    rates, speeds = curves_of("learning_rate"), curves_of("chars_per_second")
    charts = [
        ("Loss", _draw_over_chars("bits per character", validation, training), _LOSSES),
        ("Learning rate", _draw_over_chars("learning rate", rates), ""),
        ("Speed", _draw_over_chars("characters per second", speeds, from_zero=True), ""),
    ]
    return [(title, svg, caption) for title, svg, caption in charts if svg]


def _draw_over_chars(
    label: str, curves: Sequence[Curve], thin: Sequence[Curve] = (), *, from_zero: bool = False
) -> str:
    """A chart over the characters trained on; `thin` curves are drawn first, without dots. Empty without data."""
    from matplotlib.ticker import EngFormatter

    def paint(axes: "Axes") -> None:
        for each, colour in zip(thin, cycle(_SERIES)):
            axes.plot(each.chars, each.values, color=colour, linewidth=1, alpha=0.7)
        for each, colour in zip(curves, cycle(_SERIES)):
            dots = "o" if thin or len(each.values) == 1 else ""
            axes.plot(each.chars, each.values, color=colour, linewidth=2, marker=dots, markersize=4)
        axes.set_xlim(left=0)
        if from_zero:
            axes.set_ylim(0, 1.15 * max([value for each in curves for value in each.values if value > 0], default=1))
            axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlabel("characters trained on", color=_INK)
        axes.set_ylabel(label, color=_INK)

    has_points = any(each.values for each in (*curves, *thin))
    return _draw(f"{label} over the characters trained on", paint) if has_points else ""


def draw_calibration(calibration: Calibration) -> str:
    """The accuracy of the most likely symbol over its probability; the area of a dot grows with its count."""
    from matplotlib.ticker import PercentFormatter

    def paint(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle="--")
        confidences, accuracies, counts = zip(*calibration.bins, strict=True)
        axes.plot(confidences, accuracies, color=_SERIES[0], linewidth=1.5)
        for confidence, accuracy, count in calibration.bins:
            size = 3 + 9 * math.sqrt(count / max(counts))
            axes.plot(confidence, accuracy, marker="o", markersize=size, color=_SERIES[0], markeredgewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_xlabel("probability of the most likely symbol", color=_INK)
        axes.set_ylabel("accuracy", color=_INK)

    return _draw("Accuracy over the probability of the most likely symbol", paint)


def _draw(description: str, paint: Callable[["Axes"], None]) -> str:
    """The SVG of a chart with a grid and two axes; screen readers read the `description`."""
    from matplotlib import style
    from matplotlib.figure import Figure

    written = io.BytesIO()
    with style.context(["default", {"svg.fonttype": "none", "svg.hashsalt": "charrnn"}]):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_LINE)
        axes.tick_params(color=_LINE, labelcolor=_INK)
        paint(axes)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return _for_page(written.getvalue(), description)


def _for_page(svg: bytes, description: str) -> str:
    """The SVG with attributes instead of styles, which the content security policy forbids."""
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{_SVG}style", f"{_SVG}metadata")]:
            parent.remove(child)
        for declaration in filter(None, parent.attrib.pop("style", "").split(";")):
            name, value = map(str.strip, declaration.split(":", 1))
            if name not in _FONTS:
                parent.set(name, _COLOURS.get(value, value))
        if parent.tag == f"{_SVG}g":
            parent.attrib.pop("id", None)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return ElementTree.tostring(root, encoding="unicode")
