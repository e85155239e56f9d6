"""Measuring this machine."""

import json
from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner

from charrnn import benchmark
from charrnn.benchmark import run_benchmark
from charrnn.cli.app import app
from charrnn.config import Cell, TrainingConfig
from charrnn.machine.runtime import Runtime, can_compute
from tests.conftest import CPU


@pytest.fixture(autouse=True)
def in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "_SECONDS", 0.01)
    monkeypatch.setattr(benchmark, "_LARGE_MATRIX", 64)
    monkeypatch.setattr(benchmark, "_MANY_STREAMS", 4)
    monkeypatch.setattr(benchmark, "_TEXT_BYTES", 2**16)
    monkeypatch.setattr(benchmark, "_COPIED_BYTES", 2**16)


NUM_PRECISIONS = 2 if can_compute(CPU.device, torch.int8) else 1  # float32, and int8 where it is there
OPTIONS = ["bench", "--device", "cpu", "--precision", "float32", "--size", "small"]


def test_json_tells_each_rate_beside_what_it_is_held_against() -> None:
    done = CliRunner().invoke(app, [*OPTIONS, "--json"])
    result = json.loads(done.stdout)
    assert (result["device"], result["precision"], result["size"]) == ("cpu", "float32", "small")
    found = [(m["name"].split(",")[0], m["unit"], set(m["references"])) for m in result["measurements"]]
    assert found == [
        ("training", "characters/s", {"bare loop", "matrix products alone"}),
        *[("sampling", "characters/s", {"bare loop", "reading float32 weights"})] * NUM_PRECISIONS,
        ("sampling", "characters/s", {"bare loop, one sample"}),
        ("preparing", "MB/s", {"copying in memory"}),
    ]
    for measurement in result["measurements"]:
        for name, rate in measurement["references"].items():
            assert rate > 0
            assert measurement["shares"][name] == pytest.approx(measurement["rate"] / rate)


def test_table_has_a_line_for_each_reference() -> None:
    done = CliRunner().invoke(app, OPTIONS)
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 2 + 2 * NUM_PRECISIONS + 1 + 1
    assert all(line.endswith("x") for line in lines[1:])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_training_that_is_recorded_is_held_against_a_loop_that_is_recorded_too(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []

    def capture(runtime: Runtime, step: Callable[[], None], reset: Callable[[], None]) -> Callable[[], None]:
        recorded.append(step)
        reset()  # as after a recording that fails
        return step

    monkeypatch.setattr(Runtime, "captures", True)
    monkeypatch.setattr(Runtime, "capture", capture)
    shape = {"cell": cell, "hidden_size": 16, "num_layers": 2}
    training = next(run_benchmark(shape, TrainingConfig(batch_size=2, seq_length=3), CPU))
    assert list(training.references) == ["bare loop", "bare loop, recorded", "matrix products alone"]
    assert all(rate > 0 for rate in training.references.values())
    assert len(recorded) == 2
