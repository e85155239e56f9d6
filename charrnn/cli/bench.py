"""`charrnn bench`: measure this machine."""

import json as json_module
import sys
from typing import TYPE_CHECKING, Annotated, Any

from charrnn.cli.options import Device, Json, Precision, declare, reads
from charrnn.cli.signals import exit_on_signals
from charrnn.config import SIZES, Choice, Size, TrainingConfig, options_of

if TYPE_CHECKING:
    from charrnn.benchmark import Measurement

_COLUMNS = "{:32} {:>12} {:14} {:>12}  {:26} {:>7}"
_SIZE = declare("The preset of the model's shape.", metavar="|".join(SIZES), **reads(str, Choice(tuple(SIZES))))


def _declare(name: str) -> Any:
    """An option of training."""
    option = options_of(TrainingConfig)[name]
    return declare(option.help, metavar="N", **reads(int, option.limits))


def bench(
    size: Annotated[Size, _SIZE] = "medium",
    batch_size: Annotated[int | None, _declare("batch_size")] = None,
    seq_length: Annotated[int | None, _declare("seq_length")] = None,
    json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure training, sampling and preparing on this machine; takes a minute.

    Examples:
      charrnn bench
      charrnn bench --size large --device cuda
    """
    config = TrainingConfig(batch_size=batch_size, seq_length=seq_length)
    from charrnn.benchmark import run_benchmark
    from charrnn.machine.runtime import open_runtime

    exit_on_signals()

    runtime = open_runtime(device, precision)
    measurements = run_benchmark(SIZES[size], config, runtime)
    if json:
        results = [measurement.to_json() for measurement in measurements]
        summary = {"device": str(runtime.device), "precision": runtime.precision, "size": size}
        print(json_module.dumps(summary | {"measurements": results}), flush=True)
        return
    print(f"measuring on {runtime.device}, {size} model; medians of rounds in turn", file=sys.stderr)
    print(_COLUMNS.format("", "rate", "", "beside", "", "share").rstrip())
    for measurement in measurements:
        print("\n".join(_rows(measurement)), flush=True)


def _rows(measurement: "Measurement") -> list[str]:
    """One line per reference rate."""
    head = (measurement.name, f"{measurement.rate:,.0f}", measurement.unit)
    rows = []
    for name, rate in measurement.references.items():
        share = measurement.rate / rate
        rows.append(_COLUMNS.format(*head, f"{rate:,.0f}", name, f"{share:,.3g}x"))
        head = ("", "", "")
    return rows
