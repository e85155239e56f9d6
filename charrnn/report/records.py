"""The log of a run, `metrics.jsonl`, as curves and samples.

Values of the wrong type are dropped, because the log may come from an untrusted source.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from charrnn.runs.reporting import Records

Item = TypeVar("Item")
_MAX_VALUE = 1e15
_MAX_POINTS, _MAX_SAMPLES, _MAX_CHARS = 400, 12, 600


@dataclass(frozen=True)
class Curve:
    """Values over the number of characters trained on."""

    chars: list[float]
    values: list[float]


def number(record: dict[str, Any], name: str) -> float | None:
    """A finite number in a record; None if it is missing."""
    value: Any = record.get(name)
    return float(value) if type(value) in (int, float) and abs(value) < _MAX_VALUE else None


def curve(records: Records, name: str, factor: float = 1.0) -> Curve:
    """The values of a field times a factor, thinned to 400 points, without the last record of a run."""
    rows = [(number(each, "chars"), number(each, name)) for each in records if "finished" not in each]
    points = [(chars, value * factor) for chars, value in rows if chars is not None and value is not None]
    points = thin(points, _MAX_POINTS)
    return Curve([chars for chars, _ in points], [value for _, value in points])


def samples(records: Records) -> Records:
    """Samples during training, with their step and the last loss before; at most 12, spread over the run."""
    found, bits = [], None
    for record in records:
        bits = number(record, "bits_per_char") or bits
        text, step = record.get("text"), number(record, "step")
        if isinstance(text, str) and step is not None:
            found.append({"step": int(step), "bits_per_char": bits, "text": text[:_MAX_CHARS]})
    return thin(found, _MAX_SAMPLES)


def thin(items: list[Item], limit: int) -> list[Item]:
    """At most `limit` evenly spaced items, including the first and the last.

    >>> thin([0, 1, 2, 3, 4], 3)
    [0, 2, 4]
    """
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
