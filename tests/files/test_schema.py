"""A stranger's JSON as checked dataclasses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.files.schema import dump, parse


@dataclass(frozen=True)
class Inner:
    name: str
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    share: float
    flag: bool
    kind: Literal["a", "b"]
    scale: Mapping[str, float]
    limit: int | None = None
    part: Inner | None = None
    digest: str = field(default="", metadata={"key": "text_digest"})


RECORD = Outer(Inner("x", (1, 2)), 0.5, True, "a", {"scale": 2.0}, 3, Inner("y"), "ab")
JSON: dict[str, Any] = {
    "inner": {"name": "x", "numbers": [1, 2]},
    "share": 0.5,
    "flag": True,
    "kind": "a",
    "scale": {"scale": 2.0},
    "limit": 3,
    "part": {"name": "y", "numbers": []},
    "text_digest": "ab",
}


def test_records_survive_json() -> None:
    assert dump(RECORD) == JSON
    assert parse(Outer, JSON) == RECORD
    for config in (ModelConfig(vocab_size=5, embedding_size=None), TrainingConfig(minutes=2)):
        assert parse(type(config), dump(config)) == config


@pytest.mark.parametrize(
    "change",
    [
        {"inner": {"name": 1, "numbers": []}},
        {"inner": {"name": "x", "numbers": [1, "2"]}},
        {"inner": {"name": "x", "numbers": [1.0]}},
        {"inner": {"name": "x", "numbers": [True]}},
        {"share": "0.5"},
        {"share": True},
        {"share": math.nan},
        {"share": math.inf},
        {"share": -1},
        {"share": 1e39},
        {"flag": 1},
        {"kind": "c"},
        {"kind": []},
        {"scale": []},
        {"scale": {"scale": None}},
        {"limit": -1},
        {"limit": 2**60},
        {"limit": 1.0},
        {"limit": 10**400},
        {"text_digest": 7},
    ],
)
def test_value_of_another_type_or_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CharRNNError, match="is of the wrong type or out of range"):
        parse(Outer, JSON | change)


@pytest.mark.parametrize("change", [{"more": 1}, {"digest": "ab"}, {"inner": {"numbers": []}}])
def test_missing_and_unknown_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CharRNNError, match="lacks or has unknown fields in its header"):
        parse(Outer, JSON | change)
    with pytest.raises(CharRNNError, match="lacks or has unknown fields in its header: inner"):
        parse(Outer, {name: value for name, value in JSON.items() if name != "inner"})


@pytest.mark.parametrize("values", [None, [], "x", 1])
def test_other_json_than_an_object_is_refused(values: object) -> None:
    with pytest.raises(CharRNNError, match=r"x\.safetensors has no object in its header$"):
        parse(Outer, values, "x.safetensors")
    with pytest.raises(CharRNNError, match="has no object in its header at inner"):
        parse(Outer, JSON | {"inner": values})


@pytest.mark.parametrize("change", [{"hidden_size": "512"}, {"hidden_size": True}, {"hidden_size": None}])
def test_config_of_a_hostile_header_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CharRNNError, match="hidden_size is of the wrong type"):
        parse(ModelConfig, dump(ModelConfig(vocab_size=5)) | change)


@pytest.mark.parametrize("change", [{"hidden_size": 0}, {"dropout": 1.0}, {"num_layers": 65}])
def test_config_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CharRNNError, match="is out of range: --"):
        parse(ModelConfig, dump(ModelConfig(vocab_size=5)) | change)
