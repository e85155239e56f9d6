"""`charrnn runs`: list the trained models."""

import math
import time
from typing import Annotated, Any, Literal, get_args

from charrnn.cli.options import CHECKPOINT_DIR, CheckpointDir, Json, declare, notifier, print_message
from charrnn.config import Choice
from charrnn.terminal import align, format_bytes, print_json

Sort = Literal["time", "loss"]
_SORT = declare("Sort by time (newest first) or by validation loss", metavar="time|loss", limits=Choice(get_args(Sort)))
_HEAD = ("name", "corpus", "unit", "model", "symbols", "best loss", "bits/char", "steps", "trained", "size")


def runs(
    sort: Annotated[Sort, _SORT] = "time", json: Json = False, checkpoint_dir: CheckpointDir = CHECKPOINT_DIR
) -> None:
    """List the trained models; other commands take their names.

    Examples:
      charrnn runs
      charrnn runs --sort loss      the best first
    """
    from charrnn.runs.inspection import list_runs

    listed = list(list_runs(checkpoint_dir, notifier(quiet=False)))
    if sort == "loss":
        listed.sort(key=lambda run: math.inf if run["best_val_loss"] is None else run["best_val_loss"])
    if json:
        for run in listed:
            print_json(run, flush=True)
    elif listed:
        for line in align([_HEAD, *map(_row, listed)], left=4):
            print(line)
    else:
        print_message(f"{checkpoint_dir} holds no trained model: run `charrnn train CORPUS` first")


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    loss = run["best_val_loss"]
    return (
        run["name"],
        run["corpus"] if run["init_from"] is None else f"{run['corpus']}, from {run['init_from']}",
        run["unit"],
        f"{run['num_layers']} x {run['hidden_size']} {run['cell'].upper()}",
        f"{run['vocab_size']:,}",
        "-" if loss is None else f"{loss:.4f}",
        "-" if loss is None else f"{run['bits_per_char']:.3f}",
        f"{run['steps']:,}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run["modified"])),
        format_bytes(run["bytes"]),
    )
