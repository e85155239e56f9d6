"""Turn JSON that a stranger may have written into dataclasses whose fields have the types that they declare."""

import types
import typing
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from charrnn.errors import CharRNNError, OptionError

_MAX_WHOLE = 2**53  # beyond it a JSON number may lose digits
_MAX_NUMBER = 1e38  # which a float32 holds

Parsed = TypeVar("Parsed")


def parse(kind: type[Parsed], values: object, where: str = "the file", at: str = "") -> Parsed:
    """Build a dataclass from a JSON object with exactly its fields.

    Numbers are neither negative nor infinite. A field whose metadata has a "key" has that name in the file; one with
    a value "absent" has it in older files, which lack the field. `where` is the file and `at` the object's place in it,
    for errors. Raises: CharRNNError.
    """
    hints, known = typing.get_type_hints(kind), {_key(field): field for field in fields(kind)}  # type: ignore[arg-type]
    place = f" at {at}" if at else ""
    if not isinstance(values, dict):
        raise CharRNNError(f"{where} has no object in its header{place}")
    absent = {key: field.metadata["absent"] for key, field in known.items() if "absent" in field.metadata}
    values = absent | values
    if wrong := values.keys() ^ known.keys():
        names = ", ".join(sorted(wrong))
        raise CharRNNError(f"{where} lacks or has unknown fields in its header{place}: {names:.200}")
    parsed = {
        field.name: _convert(values[key], hints[field.name], where, f"{at}.{key}" if at else key)
        for key, field in known.items()
    }
    try:
        return kind(**parsed)
    except OptionError as error:
        raise CharRNNError(f"{where} has a header that is out of range{place}: {error}") from None


def dump(record: Any) -> Any:
    """The JSON values that `parse` reads, without optional fields that have their "absent" value."""
    if is_dataclass(record):
        values = [(field, getattr(record, field.name)) for field in fields(record)]
        left_out = [f for f, value in values if "is_optional" in f.metadata and value == f.metadata["absent"]]
        return {_key(field): dump(value) for field, value in values if field not in left_out}
    if isinstance(record, Mapping):
        return {key: dump(value) for key, value in record.items()}
    return [dump(value) for value in record] if isinstance(record, (tuple, list)) else record


def _key(field: "Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


def _convert(value: Any, hint: Any, where: str, at: str) -> Any:
    """A JSON value as one of an annotated type. Raises: CharRNNError."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None and type(None) in members else _convert(value, members[0], where, at)
    if is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where, at)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(each, members[0], where, at) for each in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {name: _convert(each, members[1], where, at) for name, each in value.items()}
    fits = (
        (origin is Literal and value in members)
        or (hint is float and type(value) in (int, float) and 0 <= value <= _MAX_NUMBER)
        or (hint is int and type(value) is int and 0 <= value <= _MAX_WHOLE)
        or (hint in (bool, str) and type(value) is hint)
    )
    if not fits:
        raise CharRNNError(f"{where} has a header in which {at} is of the wrong type or out of range")
    return value
