"""`charrnn train`: a model from a prepared corpus or raw text."""

import json as json_module
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charrnn.cli.options import (
    CHECKPOINT_DIR,
    DATA_DIR,
    CheckpointDir,
    DataDir,
    Device,
    Force,
    Json,
    Precision,
    Recursive,
    Seed,
    declare,
    given,
    notifier,
    takes_configs,
)
from charrnn.cli.signals import exit_on_signals, stop_on_signals
from charrnn.config import (
    COMMON,
    MODEL,
    REPORTS,
    RUN,
    SIZES,
    ModelOptions,
    PreparationConfig,
    Size,
    TrainingConfig,
    apply_size,
)
from charrnn.errors import OptionError
from charrnn.machine.neighbours import choose_spinning, sharing_cores
from charrnn.terminal import BLOCKS, Notify, blocks, byte_bar, can_print, no_bar, silence, speaks

if TYPE_CHECKING:
    from charrnn.runs.reporting import Reporter
    from charrnn.runs.run import Run

_PURPOSES: Mapping[Size, str] = {
    "small": "for a first look or a short text (Shakespeare after 3 minutes of 2 cores: 1.42 nats)",
    "medium": "for minutes on a CPU (1.40)",
    "large": "for a GPU, or hours",
}


def _describe_sizes() -> str:
    return "; ".join(
        f"{name} is {shape['num_layers']}x{shape['hidden_size']}, {_PURPOSES[name]}" for name, shape in SIZES.items()
    )


@takes_configs
def train(
    *,
    ctx: typer.Context,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS", help="A prepared file, or raw text that is prepared first.", show_default=False
        ),
    ],
    run: Annotated[
        Path | None,
        declare(
            "Where the run lives; default: <corpus stem> in --checkpoint-dir.", "--run", "-o", metavar="DIR", panel=RUN
        ),
    ] = None,
    resume: Annotated[
        bool, declare("Go on with the run in DIR; start it if it is not there yet.", "--resume", panel=RUN)
    ] = False,
    overwrite: Annotated[bool, declare("Start again in a DIR that holds a run.", "--overwrite", panel=RUN)] = False,
    init_from: Annotated[
        str | None,
        declare(
            "Start from the weights of another run (its name, folder or checkpoint), matched symbol by symbol.",
            metavar="CHECKPOINT",
            panel=RUN,
        ),
    ] = None,
    preparation: PreparationConfig,
    recursive: Recursive = False,
    force: Force = False,
    config: TrainingConfig,
    size: Annotated[
        Size | None,
        declare(
            f"A preset of the shape, which single options override: {_describe_sizes()}; default: "
            "the shape is chosen from the budget, the text and this machine's speed.",
            metavar="|".join(SIZES),
            panel=MODEL,
        ),
    ] = None,
    model: ModelOptions,
    tensorboard: Annotated[bool, declare("Log curves to the run's folder.", "--tensorboard", panel=REPORTS)] = False,
    quiet: Annotated[bool, declare("No progress, no samples.", "--quiet", "-q", panel=REPORTS)] = False,
    json: Json = False,
    seed: Seed = None,
    deterministic: Annotated[
        bool,
        declare(
            "The same to the bit from the same seed on a GPU too, if slower; on a CPU it is so anyway.",
            "--deterministic",
            panel=COMMON,
        ),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    data_dir: DataDir = DATA_DIR,
    checkpoint_dir: CheckpointDir = CHECKPOINT_DIR,
) -> None:
    """Train a model on a text, and keep its best and its last state."""
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other: go on, or start again")
    asked = given(ctx, preparation, config, model)
    shape = apply_size(model, size, asked)
    preset = {name: getattr(shape, name) for name in (() if size is None else SIZES[size])}
    notify = notifier(quiet=quiet) if speaks() else silence

    choose_spinning()
    from charrnn.machine.runtime import compute_deterministically
    from charrnn.runs.folder import RunFolder
    from charrnn.runs.opening import opened
    from charrnn.runs.preflight import describe
    from charrnn.text.corpus import default_stem

    exit_on_signals()

    if deterministic:
        compute_deterministically()
    with (
        sharing_cores(),
        opened(
            RunFolder(run or checkpoint_dir / default_stem(corpus)),
            corpus,
            shape,
            config,
            preset | asked,
            resuming=resume,
            overwriting=overwrite,
            init_from=init_from,
            seed=seed,
            device=device,
            precision=precision,
            data_dir=data_dir,
            checkpoint_dir=checkpoint_dir,
            preparation=preparation,
            recursive=recursive,
            force=force,
            notify=notify,
            bar=byte_bar(sys.stderr) if speaks() and not quiet else no_bar,
        ) as begun,
    ):
        describe(begun.trainer, begun.corpus.vocabulary.size, begun.seed, notify)
        reporters: list[Reporter] = []
        if speaks():
            reporters = _reporters(begun, quiet=quiet, tensorboard=tensorboard)
            begun.open_log()
        _train(begun, reporters, json=json and speaks(), notify=notify)


def _reporters(run: "Run", *, quiet: bool, tensorboard: bool) -> "list[Reporter]":
    from charrnn.runs.reporting import TensorBoard, Terminal, Warnings

    reporters: list[Reporter] = [TensorBoard(run.folder.path)] if tensorboard else []
    reporters.append(Warnings(sys.stderr) if quiet else Terminal(sys.stderr, run.trainer.fraction))
    return reporters


def _train(run: "Run", reporters: "list[Reporter]", *, json: bool, notify: Notify) -> None:
    """Drive a run to its end or to a signal, and say what came of it."""
    try:
        with stop_on_signals(run.trainer.request_stop) as signals:
            finished = run.drive(reporters)
    finally:
        for reporter in (run.log, *reporters):
            if reporter is not None:
                reporter.close()
    summary = run.summary(finished)
    notify(_closing_lines(summary, finished.reason, run, with_curve=not json))
    try:
        if json:
            print(json_module.dumps(summary), flush=True)
    finally:  # Ctrl-C may have ended the reader too
        if signals:
            raise typer.Exit(128 + signals[0])


def _closing_lines(summary: dict[str, Any], reason: str, run: "Run", *, with_curve: bool) -> str:
    how = {
        "budget": "done",
        "patience": f"stopped early: no improvement in {run.trainer.config.patience} evaluation(s)",
        "stopped": "stopped and saved; --resume goes on",
    }[reason]
    num_predictions = run.trainer.evaluations.num_predictions
    line = f"{how}: {summary['steps']:,} steps, {summary['chars_per_second']:,} characters/s in training"
    losses = run.log.val_losses() if with_curve and run.log is not None else []
    if len(losses) > 1:
        curve = blocks(losses, ascii_only=not can_print(BLOCKS, sys.stderr))
        line += f"\nvalidation loss {curve} from {losses[0]:.4f} to {losses[-1]:.4f}"
    if summary["best_val_loss"] is not None:
        line += (
            f"\nbest validation loss {summary['best_val_loss']:.4f} nats per character, "
            f"{summary['bits_per_char']:.3f} bits per character"
        )
        if summary["val_chars"] not in (num_predictions, None):
            line += f", on {summary['val_chars']:,} of {num_predictions:,} characters"
    elif num_predictions == 0:
        line += "\nno validation text, so the best checkpoint is that of the lowest training loss"
    else:
        line += "\nit was not evaluated yet"
    return f"{line}\nnow run: charrnn sample {shlex.quote(summary['run'])} --temperature 0.5"
