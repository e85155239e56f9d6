"""The course of one or several runs as charts: losses, learning rate, speed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from charrnn.report.calibration import Calibration
from charrnn.report.figure import INK, NUM_SERIES, SERIES, chart
from charrnn.report.records import Curve, Records, curve

_LOSSES = "With dots: on held-out text. Thin: on the training text, a running mean."


@dataclass(frozen=True)
class Figure:
    """A chart and the words under it."""

    title: str
    svg: Markup
    caption: str = ""


def draw_curves(runs: Sequence[Records]) -> list[Figure]:
    """The charts of the runs, overlaid; those without a point are left out."""
    training, validation = (
        [curve(records, name, 1 / math.log(2)) for records in runs] for name in ("train_loss", "val_loss")
    )
    losses = _draw("Loss", "bits per character", validation, training, caption=_LOSSES)
    rates = _draw("Learning rate", "learning rate", [curve(records, "learning_rate") for records in runs])
    speeds = [curve(records, "chars_per_second") for records in runs]
    speed = _draw("Speed", "characters per second", speeds, from_zero=True)
    return [figure for figure in (losses, rates, speed) if figure is not None]


def _draw(
    title: str,
    label: str,
    curves: Sequence[Curve],
    thin: Sequence[Curve] = (),
    *,
    caption: str = "",
    from_zero: bool = False,
) -> Figure | None:
    """One chart over the characters trained on; `thin` are drawn behind, without dots. None without a point."""
    from matplotlib.ticker import EngFormatter

    if not any(each.values for each in (*curves, *thin)):
        return None
    with chart(f"{label} over the characters trained on") as drawn:
        axes = drawn.axes
        for i, each in enumerate(thin):
            axes.plot(each.chars, each.values, color=SERIES[i % NUM_SERIES], linewidth=1, alpha=0.7)
        for i, each in enumerate(curves):
            dots = "o" if thin or len(each.values) == 1 else ""
            axes.plot(each.chars, each.values, color=SERIES[i % NUM_SERIES], linewidth=2, marker=dots, markersize=4)
        axes.set_xlim(left=0)
        if from_zero:
            axes.set_ylim(0, 1.15 * max([value for each in curves for value in each.values if value > 0], default=1))
            axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlabel("characters trained on", color=INK)
        axes.set_ylabel(label, color=INK)
    return Figure(title, drawn.svg, caption)


def draw_calibration(calibration: Calibration) -> Markup:
    """The share of likeliest symbols that came, over how sure the model was; a dot's area grows with its count."""
    from matplotlib.ticker import PercentFormatter

    largest = max(calibration.counts, default=1)
    with chart("The share of right guesses over the confidence in them") as drawn:
        axes = drawn.axes
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        axes.plot(calibration.confidences, calibration.accuracies, color=SERIES[0], linewidth=1.5)
        for confidence, accuracy, count in zip(
            calibration.confidences, calibration.accuracies, calibration.counts, strict=True
        ):
            size = 3 + 9 * math.sqrt(count / largest)
            axes.plot(confidence, accuracy, marker="o", markersize=size, color=SERIES[0], markeredgewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        axes.set_xlabel("confidence in the likeliest symbol", color=INK)
        axes.set_ylabel("share that came", color=INK)
    return drawn.svg
