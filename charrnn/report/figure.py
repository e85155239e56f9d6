"""Charts by matplotlib as SVG that takes its colours and its font from the page around it."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE = "#010101", "#010102"
NUM_SERIES = 6
SERIES = tuple(f"#0102{i:02x}" for i in range(NUM_SERIES))
"""Stand-ins for the page's colours, which matplotlib does not know."""
_COLOURS = {INK: "var(--ink)", LINE: "var(--line)"} | {colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)}
_WIDTH, _HEIGHT = 4.6, 2.7  # inches, of 72 points: near the width of a phone
_SVG = "{http://www.w3.org/2000/svg}"
_DROPPED = ("font", "font-size", "font-family", "font-weight", "font-style")


class Chart:
    """Axes to draw on, and after the context the SVG."""

    def __init__(self, axes: "Axes") -> None:
        self.axes = axes
        self.svg = Markup("")


@contextlib.contextmanager
def chart(description: str) -> Iterator[Chart]:
    """Draw a chart; `description` is read to those who cannot see it."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("svg", fonttype="none", hashsalt="charrnn")
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        drawn = Chart(figure.add_subplot())
        _dress(drawn.axes)
        yield drawn
        written = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    drawn.svg = _for_page(written.getvalue(), description)


def _dress(axes: "Axes") -> None:
    """A grid and two sides in the page's colours."""
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=INK)


def _for_page(svg: bytes, description: str) -> Markup:
    """The SVG without styles, which the page's policy forbids: each declaration becomes an attribute."""
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{_SVG}style", f"{_SVG}metadata")]:
            parent.remove(child)
        for name, value in _declarations(parent.attrib.pop("style", "")):
            parent.set(name, _COLOURS.get(value, value))
        if parent.tag == f"{_SVG}g":
            parent.attrib.pop("id", None)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": description}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _declarations(style: str) -> list[tuple[str, str]]:
    """The declarations of a style, but for fonts.

    >>> _declarations("fill: none; font: 10px serif; stroke: #010101")
    [('fill', 'none'), ('stroke', '#010101')]
    """
    pairs = [declaration.split(":", 1) for declaration in style.split(";") if ":" in declaration]
    return [(name.strip(), value.strip()) for name, value in pairs if name.strip() not in _DROPPED]
