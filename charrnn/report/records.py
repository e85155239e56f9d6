"""The log of a run, `metrics.jsonl`, as curves and samples.

It is not trusted: values of another type are dropped.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from charrnn.runs.reporting import Records

Item = TypeVar("Item")
_MAX_VALUE = 1e15
_MAX_POINTS, _MAX_SAMPLES, _MAX_CHARS = 400, 12, 600


@dataclass(frozen=True)
class Curve:
    """Values over the number of characters that were trained on."""

    chars: list[float]
    values: list[float]


def number(record: dict[str, Any], name: str) -> float | None:
    """A finite number of a record."""
    value: Any = record.get(name)
    return float(value) if type(value) in (int, float) and abs(value) < _MAX_VALUE else None


def curve(records: Records, name: str, factor: float = 1.0) -> Curve:
    """A field's values times a factor, thinned to a few hundred points; but for the record that ends a run."""
    rows = [(number(each, "chars"), number(each, name)) for each in records if "finished" not in each]
    points = [(chars, value * factor) for chars, value in rows if chars is not None and value is not None]
    points = thin(points, _MAX_POINTS)
    return Curve([chars for chars, _ in points], [value for _, value in points])


def samples(records: Records) -> Records:
    """Texts written while training, with their step and the loss before; at most a dozen, spread over the run."""
    found, bits = [], None
    for record in records:
        bits = number(record, "bits_per_char") or bits
        text, step = record.get("text"), number(record, "step")
        if isinstance(text, str) and step is not None:
            found.append({"step": int(step), "bits_per_char": bits, "text": text[:_MAX_CHARS]})
    return thin(found, _MAX_SAMPLES)


def thin(items: list[Item], limit: int) -> list[Item]:
    """At most `limit` items at even distances, the first and the last among them.

    >>> thin([0, 1, 2, 3, 4], 3)
    [0, 2, 4]
    """
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
