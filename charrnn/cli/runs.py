"""`charrnn runs`: the trained models at hand."""

import math
import time
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from charrnn.cli.options import CHECKPOINT_DIR, CheckpointDir, Json, declare, notifier, reads, tell
from charrnn.config import Choice
from charrnn.terminal import align, format_bytes, json_line, prints_unicode

if TYPE_CHECKING:
    from charrnn.runs.listing import Listed

Sort = Literal["time", "loss"]
_SORT = declare(
    "Newest first, or lowest validation loss first.", metavar="time|loss", **reads(str, Choice(get_args(Sort)))
)
_HEAD = ("name", "corpus", "unit", "model", "symbols", "best loss", "bits/char", "steps", "trained", "size")


def runs(
    sort: Annotated[Sort, _SORT] = "time",
    json: Json = False,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """List the trained models, whose names the other commands take.

    Examples:
      charrnn runs
      charrnn runs --sort loss      the best first
    """
    from charrnn.runs.listing import list_runs

    listed = list(list_runs(checkpoint_dir, notifier(quiet=False)))
    if sort == "loss":
        listed.sort(key=lambda run: math.inf if run.best_val_loss is None else run.best_val_loss)
    if json:
        for run in listed:
            print(json_line(run.to_json(), ascii_only=not prints_unicode()), flush=True)
    elif listed:
        for line in align([_HEAD, *map(_row, listed)], left=4):
            print(line)
    else:
        tell(f"{checkpoint_dir} holds no trained model: run `charrnn train CORPUS` first")


def _row(run: "Listed") -> tuple[str, ...]:
    config, loss = run.header.model_config, run.best_val_loss
    return (
        run.path.name,
        str(run.to_json()["corpus"]),
        run.header.corpus.config.unit,
        f"{config.num_layers} x {config.hidden_size} {config.cell.upper()}",
        f"{config.vocab_size:,}",
        "-" if loss is None else f"{loss:.4f}",
        "-" if loss is None else f"{loss / math.log(2):.3f}",
        f"{run.header.counters.step:,}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.modified)),
        format_bytes(run.num_bytes),
    )
