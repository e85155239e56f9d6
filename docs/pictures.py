"""The pictures of `concepts/how-it-works.md` and of the README: `python -m docs.pictures` draws them again.

All that they show is computed by charrnn itself, on its own tales and with the model that is inside `tales.html`. That
page is written again too, with the same model and the current program of `charrnn/report`.

Letters in shapes: T time steps, B parallel streams, V vocabulary size, N characters.
"""

import base64
import json
import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from charrnn.config import ModelConfig, SamplingConfig
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, State, detach, layer_weights
from charrnn.model.scoring import text_losses
from charrnn.report.export import fill
from charrnn.sampling.generate import Sampler
from charrnn.text.tokenizers import CharTokenizer
from charrnn.training.optimizer import orthogonalise
from charrnn.training.streams import Cursor, Layout, advance, chunk_at, draw_offset

DOCS = Path(__file__).parent
PAGE = DOCS / "tales.html"
TALES = DOCS.parent / "data" / "tales.txt"
CPU = Runtime(torch.device("cpu"), torch.float32)
WIDTH, MARGIN = 720, 20

# The card has a background of its own, for the page around it may be dark where the reader's system is light.
STYLE = """
svg { --paper: #fbfaf7; --ink: #1d1d20; --faint: #62615d; --line: #cfccc4; --a: #1f6fa8; --b: #c2540a; --c: #2e7d4f; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #17181b; --ink: #e6e4df; --faint: #a5a39d; --line: #45464c; --a: #8cc4ea; --b: #f59a5c; --c: #86cfa2; }
}
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); white-space: pre; }
.mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.faint { fill: var(--faint); } .strong { font-weight: 600; } .small { font-size: 12px; }
.a { fill: var(--a); } .b { fill: var(--b); } .c { fill: var(--c); }
.card { fill: var(--paper); stroke: var(--line); } .box { fill: none; stroke: var(--line); }
.line { fill: none; stroke: var(--ink); stroke-width: 1.5; } .thin { stroke: var(--line); }
.stroke-a, .stroke-b { fill: none; stroke-width: 2; } .stroke-a { stroke: var(--a); } .stroke-b { stroke: var(--b); }
.hollow { fill: none; stroke: var(--b); stroke-dasharray: 2 2; } .dashed { stroke-dasharray: 4 3; }
"""


@dataclass
class Picture:
    """An SVG of a fixed width: a card with shapes on it. Its title is what a screen reader says."""

    title: str
    height: float = 0
    shapes: list[str] = field(default_factory=list)

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, opacity: float = 1, radius: float = 3
    ) -> None:
        """A rectangle of the class `kind`."""
        see = "" if opacity == 1 else f' opacity="{_number(opacity)}"'
        place = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
        self.shapes.append(f'<rect class="{kind}" {place} rx="{_number(radius)}"{see}/>')

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A line of text."""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.shapes.append(f'<text class="{kind}" x="{_number(x)}" y="{_number(y)}"{where}>{escape(text)}</text>')

    def letters(self, x: float, y: float, text: str, step: float, kind: str = "", space: str = "·") -> None:
        """Characters at even distances, whatever the font."""
        places = " ".join(_number(x + (i + 0.5) * step) for i in range(len(text)))
        shown = escape(text.replace(" ", space).replace("\n", "↵"))
        self.shapes.append(
            f'<text class="mono {kind}" text-anchor="middle" x="{places}" y="{_number(y)}">{shown}</text>'
        )

    def line(self, points: list[tuple[float, float]], kind: str = "line", *, arrow: bool = False) -> None:
        """A line through points, with an arrowhead at its end."""
        joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.shapes.append(f'<polyline class="{kind}" points="{joined}"/>')
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            length = math.hypot(x - x0, y - y0)
            dx, dy = (x - x0) / length, (y - y0) / length
            wings = [(x - 6 * dx - side * 4 * dy, y - 6 * dy + side * 4 * dx) for side in (1, -1)]
            self.line([wings[0], (x, y), wings[1]], kind.replace("dashed", ""))

    def svg(self) -> str:
        """The whole file."""
        box = f'viewBox="0 0 {WIDTH} {_number(self.height)}" width="{WIDTH}" role="img"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
        card = f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{_number(self.height - 1)}" rx="8"/>'
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>", card, *self.shapes, "</svg>\n"]
        )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def read_page(path: Path) -> dict[str, Any]:
    """The data of an exported page."""
    found = re.search(r'<script type="application/json" id="model">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found, f"{path} is no exported page"
    data: dict[str, Any] = json.loads(found[1])
    return data


def load_model(data: dict[str, Any]) -> tuple[CharRNN, CharTokenizer]:
    """The model of an exported page (an LSTM with embeddings), and its symbols."""
    weights, symbols = data["model"], data["vocabulary"]["symbols"]
    tokenizer = CharTokenizer(tuple(symbols), (0,) * len(symbols))
    H, layers = weights["hidden_size"], weights["layers"]
    E = weights["embedding"]["columns"]
    config = ModelConfig(
        vocab_size=len(symbols), cell=weights["cell"], hidden_size=H, num_layers=len(layers), embedding_size=E
    )
    model = CharRNN(config)
    parts = [(model.head.weight, weights["head"]["weight"]), (model.head.bias, weights["head"]["bias"])]
    assert model.embedding is not None
    parts.append((model.embedding.weight, weights["embedding"]))
    for layer, stored in zip(model.stack.layers, layers, strict=True):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        parts += zip(layer_weights(layer), map(stored.get, names), strict=True)
    with torch.no_grad():
        for parameter, stored in parts:
            parameter.copy_(_decode(stored))
    return model.eval(), tokenizer


def _decode(stored: str | dict[str, Any]) -> Tensor:
    """A bias (R,), or a matrix (R, C) of 8-bit integers with a scale for each row."""
    if isinstance(stored, str):
        return torch.from_numpy(np.frombuffer(base64.b64decode(stored), "<f4").copy())
    integers = np.frombuffer(base64.b64decode(stored["integers"]), np.int8).reshape(-1, stored["columns"])
    return torch.from_numpy(integers.astype(np.float32)) * _decode(stored["scales"])[:, None]


@dataclass(frozen=True)
class Tales:
    """The model of `tales.html`, and the tales as it reads them."""

    model: CharRNN
    tokenizer: CharTokenizer
    text: str

    @classmethod
    def load(cls) -> "Tales":
        """From the files of this project; a paragraph is one line, as the model has learned it."""
        text = re.sub(r"(?<!\n)\n(?!\n|\Z)", " ", TALES.read_text(encoding="utf-8"))
        return cls(*load_model(read_page(PAGE)), text)

    def encode(self, text: str) -> Tensor:
        """The ids (N,) of a text."""
        return self.tokenizer.encode(text).long()

    @property
    def held_out(self) -> str:
        """The last tenth, which the model was not trained on."""
        return self.text[int(0.9 * len(self.text)) :]


def draw_streams(tales: Tales) -> Picture:
    """A text, cut into streams, cut into chunks; a step reads one chunk of each."""
    B, T, cell, gap, left = 3, 6, 18, 54, 92
    text = tales.text[tales.text.index("In the yard") :][:78]
    layout = Layout.fit(len(text), B, T)
    ids, cursor = tales.encode(text), Cursor(0, 0, draw_offset(layout, torch.Generator().manual_seed(1)))
    picture = Picture("A text is cut into three streams, and these into chunks of six characters", 342)
    picture.text(MARGIN, 32, f"The text: {len(text)} characters", "strong")
    step, length = (WIDTH - 2 * MARGIN) / len(text), layout.num_chunks * T
    for stream in range(B):
        begin = MARGIN + (cursor.offset + stream * length) * step
        picture.rect(begin, 44, length * step - 2, 26, "abc"[stream], 0.18)
        picture.text(begin + length * step / 2, 88, f"stream {stream + 1}", f"small {'abc'[stream]}", "middle")
    picture.letters(MARGIN, 62, text, step)
    picture.text(MARGIN, 132, "The same text, as it is read", "strong")
    for _ in range(layout.num_chunks):
        chunk = chunk_at(ids, layout, cursor)[:-1]  # (T, B)
        x = left + cursor.chunk * (T * cell + gap)
        if cursor.chunk == 1:
            picture.rect(x - 6, 144, T * cell + 12, 158, "box", radius=6)
        picture.text(x + T * cell / 2, 162, f"step {cursor.chunk + 1}", "small faint", "middle")
        for stream in range(B):
            y = 172 + 42 * stream
            picture.rect(x, y, T * cell, 26, "abc"[stream], 0.18)
            picture.letters(x, y + 18, tales.tokenizer.decode(chunk[:, stream]), cell)
            if cursor.chunk < layout.num_chunks - 1:
                picture.line([(x + T * cell + 11, y + 19), (x + T * cell + gap - 11, y + 19)], arrow=True)
                picture.text(x + T * cell + gap / 2, y + 11, "state", "small faint", "middle")
        cursor = advance(layout, cursor, torch.Generator())
    for stream in range(B):
        picture.text(MARGIN, 190 + 42 * stream, f"stream {stream + 1}", f"small {'abc'[stream]}")
    summary = f"A step reads {T} characters of {B} streams. Each stream goes on where its last chunk ended."
    picture.text(MARGIN, 325, summary, "small faint")
    return picture


def _read(tales: Tales, text: str, state: State | None = None) -> tuple[Tensor, State]:
    """The logits (T, V) behind each character of a text, and the state behind the last."""
    logits, state = tales.model(tales.encode(text)[:, None], state)
    return logits[:, 0], state


def draw_chunk(tales: Tales) -> Picture:
    """One chunk of one stream: inputs, the network unrolled, targets and their surprisal."""
    T, column, left = 6, 82, 118
    text, at = tales.held_out, tales.held_out.index("lantern, twisted")
    x, y = text[at : at + T], text[at + 1 : at + T + 1]
    with torch.no_grad():
        _, state = _read(tales, text[at - 500 : at])
        logits, _ = _read(tales, x, state)
    bits = F.cross_entropy(logits, tales.encode(y), reduction="none") / math.log(2)  # (T,)
    picture = Picture("One chunk: the network reads each character and predicts the next", 278)
    for label, height in (("y, to predict", 47), ("loss, in bits", 80), ("state", 148), ("x, to read", 216)):
        picture.text(MARGIN, height, label, "small faint")
    for t in range(T):
        middle = left + (t + 0.5) * column
        picture.rect(middle - 16, 28, 32, 28, "b", 0.18)
        picture.letters(middle - 16, 47, y[t], 32)
        picture.text(middle, 80, f"{float(bits[t]):.2f}", "small", "middle")
        picture.line([(middle, 124), (middle, 90)], arrow=True)
        picture.rect(middle - 25, 126, 50, 36, "box", radius=6)
        picture.text(middle, 148, "LSTM", "small", "middle")
        picture.line([(middle, 196), (middle, 166)], arrow=True)
        picture.rect(middle - 16, 198, 32, 28, "a", 0.18)
        picture.letters(middle - 16, 217, x[t], 32)
        picture.line([(middle - column + (27 if t else 20), 144), (middle - 28, 144)], arrow=True)
    end = left + T * column
    picture.line([(end - 14, 144), (end + 24, 144)], arrow=True)
    picture.text(end + 30, 140, "to the", "small faint")
    picture.text(end + 30, 156, "next step", "small faint")
    mean = float(bits.mean())
    total = f"The loss of the chunk is the mean: {mean:.2f} bits, or {mean * math.log(2):.2f} nats, per character."
    picture.text(MARGIN, 261, total, "small faint")
    return picture


def _reach(tales: Tales, chunks: list[str], targets: str, cut: Callable[[State], State]) -> list[float]:
    """Lengths of the gradients of the second chunk's loss with respect to the embedding of each character of both."""
    embedded: list[Tensor] = []
    assert tales.model.embedding is not None

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    hook = tales.model.embedding.register_forward_hook(keep)
    _, state = _read(tales, chunks[0])
    logits, _ = _read(tales, chunks[1], cut(state))
    hook.remove()
    F.cross_entropy(logits, tales.encode(targets)).backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in embedded]
    tales.model.zero_grad()
    lengths: list[float] = torch.cat(gradients)[:, 0].norm(dim=1).tolist()
    return lengths


def draw_cut(tales: Tales) -> Picture:
    """Two chunks of a stream: values run on, gradients end where the state was detached."""
    T, gap, bars = 12, 96, 286
    cell = (WIDTH - 2 * MARGIN - gap) / (2 * T)
    begin = tales.held_out.index("underneath with petals") + 5 - T
    text = tales.held_out[begin : begin + 2 * T + 1]
    chunks, targets = [text[:T], text[T : 2 * T]], text[T + 1 :]
    with_cut, without = (_reach(tales, chunks, targets, cut) for cut in (detach, lambda state: state))
    picture = Picture("The state crosses from one chunk to the next, gradients do not", 326)
    border, scale = WIDTH / 2, 100 / max(without)
    for k, chunk in enumerate(chunks):
        x = MARGIN + k * (T * cell + gap)
        begin_x, end_x = x + 4, x + T * cell - 4
        picture.text(x + T * cell / 2, 30, f"step {k + 1}: values", "small a", "middle")
        picture.line([(begin_x, 44), (end_x + (gap if k == 0 else 0), 44)], "stroke-a", arrow=True)
        picture.rect(x, 56, T * cell, 28, "a", 0.18)
        picture.letters(x, 75, chunk, cell)
        picture.line([(end_x, 97), (begin_x, 97)], "stroke-b", arrow=True)
        picture.text(x + T * cell / 2, 118, f"step {k + 1}: gradients", "small b", "middle")
        for t in range(T):
            middle = x + (t + 0.5) * cell
            is_cut = with_cut[k * T + t] == 0
            value = scale * without[k * T + t]
            picture.rect(middle - 7, bars - value, 14, value, "hollow" if is_cut else "b", radius=1)
        picture.line([(x, bars + 0.5), (x + T * cell, bars + 0.5)], "thin")
        picture.letters(x, bars + 17, chunk, cell, "faint")
    picture.text(border, 36, "state", "small a", "middle")
    picture.text(border, 101, "detach", "strong", "middle")
    picture.line([(border, 110), (border, bars + 18)], "line dashed")
    picture.text(MARGIN, 170, "What detach cuts off: without it,", "small faint")
    picture.text(MARGIN, 187, "step 2 would also teach step 1", "small faint")
    picture.text(WIDTH - MARGIN, 152, "Bars: length of the gradient of", "small faint", "end")
    picture.text(WIDTH - MARGIN, 169, "step 2's loss at each character", "small faint", "end")
    return picture


def _bits_by_place(tales: Tales, before: int, T: int) -> Tensor:
    """Mean bits (T,) of the characters of many chunks of the held-out text, whose states have read `before` others."""
    chunks = tales.encode(tales.held_out[1000 - before :]).unfold(0, before + T + 1, _STRIDE).t()  # (before + T + 1, B)
    with torch.no_grad():
        logits, _ = tales.model(chunks[:-1])
    bits = F.cross_entropy(logits.transpose(1, 2), chunks[1:], reduction="none") / math.log(2)
    return bits[before:].mean(1)


_STRIDE = 13  # between the beginnings of two chunks


def _draw_scale(picture: Picture, values: list[float], label: str, left: float, top: float, bottom: float) -> None:
    """Horizontal lines at values from 0 to the last, which is at the top."""
    for value in values:
        y = bottom - (bottom - top) * value / values[-1]
        picture.line([(left, y), (WIDTH - MARGIN, y)], "thin")
        picture.text(left - 12, y + 4, f"{value:g}", "small faint", "end")
    picture.text(MARGIN, top - 14, label, "small faint")


def draw_state(tales: Tales) -> Picture:
    """The loss by place within a chunk, with an empty and with a carried state."""
    T, left, top, bottom = 32, 64, 40, 244
    step, most = (WIDTH - MARGIN - left) / T, 4.0
    picture = Picture("With a carried state the first characters of a chunk are predicted as well as the last", 304)
    _draw_scale(picture, [0, 1, 2, 3, 4], "bits per character", left, top, bottom)
    for place in (1, 8, 16, 24, 32):
        picture.text(left + (place - 0.5) * step, bottom + 20, f"{place}", "small faint", "middle")
    picture.text(WIDTH - MARGIN, bottom + 42, "place of the character within its chunk", "small faint", "end")
    means = {}
    for before, kind in ((0, "b"), (32, "a")):
        curve = _bits_by_place(tales, before, T)
        means[before] = float(curve.mean())
        heights = [bottom - (bottom - top) * value / most for value in curve.tolist()]
        picture.line([(left + (t + 0.5) * step, y) for t, y in enumerate(heights)], f"stroke-{kind}")
    picture.text(left + 5.5 * step, 110, f"state emptied before each chunk: {means[0]:.2f} bits in the mean", "b")
    picture.text(left + 5.5 * step, 172, f"state carried from the chunk before: {means[32]:.2f} bits in the mean", "a")
    return picture


def draw_muon(tales: Tales) -> Picture:
    """Singular values of a gradient, and of the update that Muon makes of it."""
    T, B, left, top, bottom, most = 32, 32, 64, 40, 244, 2.0
    ids = tales.encode(tales.held_out)
    chunk = chunk_at(ids, Layout.fit(len(ids), B, T), Cursor(0, 0, 0))  # (T + 1, B)
    logits, _ = tales.model(chunk[:-1])
    weight, H = layer_weights(tales.model.stack.layers[0])[1], tales.model.config.hidden_size
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten()), weight)
    gate = gradient[2 * H : 3 * H]  # of the cell's candidate
    before, after = (torch.linalg.svdvals(each) for each in (gate, orthogonalise(gate[None])[0]))
    picture = Picture("Muon's update moves many directions, where a few dominate the gradient", 304)
    _draw_scale(picture, [0, 0.5, 1, 1.5, 2], "singular value", left, top, bottom)
    picture.text(WIDTH - MARGIN, bottom + 42, f"rank of the singular value, of {H}", "small faint", "end")
    for rank in range(0, H + 1, 64):
        x = left + (WIDTH - MARGIN - left) * rank / H
        picture.text(x, bottom + 20, f"{rank}", "small faint", "middle")
    for values, kind in ((before / before[0], "b"), (after, "a")):
        points = [(left + (WIDTH - MARGIN - left) * i / H, float(values[i])) for i in range(0, H, 8)]
        picture.line([(x, bottom - (bottom - top) * value / most) for x, value in points], f"stroke-{kind}")
    picture.text(WIDTH - MARGIN - 10, 84, "Muon's update", "a", "end")
    picture.text(WIDTH - MARGIN - 10, 135, "gradient of one gate, divided by its largest singular value", "b", "end")
    return picture


def draw_temperature(tales: Tales) -> Picture:
    """One real distribution at four temperatures, and what is written at each."""
    prompt, height = "The king was ", 106
    with torch.no_grad():
        logits = _read(tales, "\n\n" + prompt)[0][-1]  # (V,)
    order = logits.argsort(descending=True).tolist()
    temperatures = (0.2, 0.5, 1.0, 1.5)
    picture = Picture("What may follow \u201cThe king was\u201d, at four temperatures", 50 + height * len(temperatures))
    heading = "Behind \u201cThe king was \u201d: the next character's probabilities, and what was written"
    picture.text(MARGIN, 32, heading, "strong")
    for row, temperature in enumerate(temperatures):
        y, x = 62 + height * row, float(MARGIN)
        picture.text(MARGIN, y, f"temperature {temperature:g}", "small faint")
        for rank, p in enumerate((logits / temperature).softmax(-1)[order].tolist()):
            width = p * (WIDTH - 2 * MARGIN)
            if width < 1.5:
                break
            picture.rect(x, y + 8, width - 1, 24, "ab"[rank % 2], 0.3, radius=1)
            if width > 11:
                picture.letters(x, y + 25, tales.tokenizer.symbols[order[rank]], width - 1)
            x += width
        config = SamplingConfig(temperature=temperature, length=180)
        pieces = Sampler(tales.model, tales.tokenizer, config, CPU).sample("\n\n" + prompt, seed=1)
        written = prompt + "".join(piece.text for piece in pieces)
        for i, line in enumerate(textwrap.wrap(written, 84)[:2]):
            picture.text(MARGIN, y + 51 + 18 * i, line, "mono")
    return picture


def draw_surprisal(tales: Tales) -> Picture:
    """A passage that the model has not seen, coloured by the bits by which each character surprises it."""
    text = tales.held_out
    begin, end = text.index("Bishop gazed off"), text.index("\n\nOver in the village")
    bits = text_losses(tales.model, tales.encode(text), CPU) / math.log(2)  # of text[1:]
    rows = textwrap.wrap(text[begin:end], 72)
    step, height, top = (WIDTH - 2 * MARGIN) / max(map(len, rows)), 26, 20
    picture = Picture(
        "A passage of a tale that the model has not seen: the darker a character, the more it surprises the model",
        top + height * len(rows) + 46,
    )
    for i, row in enumerate(rows):
        for j in range(len(row)):
            if level := min(8, int(bits[begin + j - 1])):
                picture.rect(MARGIN + j * step, top + i * height, step, 22, "b", 0.08 * level, radius=0)
        picture.letters(MARGIN, top + 16 + i * height, row, step, space="\u00a0")
        begin += len(row) + 1
    y = picture.height - 34
    picture.text(MARGIN, y + 16, "bits of surprise", "small faint")
    for k, level in enumerate((0, 1, 2, 4, 6, 8)):
        picture.rect(MARGIN + 106 + 44 * k, y, 38, 22, "b", 0.08 * level, radius=0)
        picture.text(MARGIN + 125 + 44 * k, y + 16, f"{level}" + "+" * (level == 8), "small", "middle")
    mean = f"mean of the held-out text: {float(bits.mean()):.2f} bits per character"
    picture.text(WIDTH - MARGIN, y + 16, mean, "small faint", "end")
    return picture


PICTURES: dict[str, Callable[[Tales], Picture]] = {
    "streams": draw_streams,
    "chunk": draw_chunk,
    "cut": draw_cut,
    "state": draw_state,
    "muon": draw_muon,
    "temperature": draw_temperature,
    "surprisal": draw_surprisal,
}


def draw() -> dict[str, str]:
    """All pictures and the page of the model, by the name of their file."""
    tales = Tales.load()
    pictures = {f"{name}.svg": function(tales).svg() for name, function in PICTURES.items()}
    return pictures | {PAGE.name: fill(read_page(PAGE))}


if __name__ == "__main__":
    for name, content in draw().items():
        (DOCS / name).write_text(content, encoding="utf-8")
        print(f"docs/{name}: {len(content) / 1000:,.1f} kB")
