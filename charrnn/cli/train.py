"""`charrnn train`: a model from a prepared corpus or raw text."""

import json as json_module
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from charrnn.cli.options import (
    CHECKPOINT_DIR,
    COMMON,
    DATA_DIR,
    CheckpointDir,
    DataDir,
    Device,
    Json,
    Precision,
    Seed,
    tell,
)
from charrnn.cli.signals import exit_on_signals, stop_on_signals
from charrnn.config import EVALUATIONS_A_RUN, SIZES, Cell, Size
from charrnn.config import ModelConfig as Model
from charrnn.config import TrainingConfig as Training
from charrnn.errors import CharRNNError, OptionError

if TYPE_CHECKING:
    from charrnn.runs.reporting import Reporter
    from charrnn.runs.run import Run

RUN, BUDGET, MODEL, OPTIMISATION, EVALUATION, REPORTS = (
    "The run",
    "The budget: one of the three",
    "The model",
    "The optimisation",
    "Evaluation and checkpoints",
    "Reports",
)


_PURPOSES: Mapping[Size, str] = {
    "small": "for a first look or a short text (Shakespeare after 3 minutes of 2 cores: 1.42 nats)",
    "medium": "for minutes on a CPU (1.40)",
    "large": "for a GPU, or hours",
}


def _describe_sizes() -> str:
    return "; ".join(
        f"{name} is {shape['num_layers']}x{shape['hidden_size']}, {_PURPOSES[name]}" for name, shape in SIZES.items()
    )


def train(
    ctx: typer.Context,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS", help="A prepared file, or raw text that is prepared first.", show_default=False
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            "-o",
            metavar="DIR",
            help="Where the run lives; default: <corpus stem> in --checkpoint-dir.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in DIR; start it if it is not there yet.",
            rich_help_panel=RUN,
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start again in a DIR that holds a run.", rich_help_panel=RUN)
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Start from another run's weights, matched symbol by symbol.",
            rich_help_panel=RUN,
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(metavar="X", help="Passes over the text; default: chosen from its size.", rich_help_panel=BUDGET),
    ] = Training.epochs,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Updates of the weights.", rich_help_panel=BUDGET)
    ] = Training.steps,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="X", help="Wall-clock time, evaluations included.", rich_help_panel=BUDGET),
    ] = Training.minutes,
    size: Annotated[
        Size | None,
        typer.Option(
            metavar="|".join(SIZES),
            help=f"A preset of the shape, which single options override: {_describe_sizes()}; default: "
            "the shape is chosen from the budget, the text and this machine's speed.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    cell: Annotated[
        Cell, typer.Option(metavar="|".join(get_args(Cell)), help="The kind of layers.", rich_help_panel=MODEL)
    ] = Model.cell,
    hidden_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Units of a layer; default: {Model.hidden_size} where another option of the shape is given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    num_layers: Annotated[
        int, typer.Option(metavar="N", help="Stacked layers.", rich_help_panel=MODEL)
    ] = Model.num_layers,
    embedding_size: Annotated[
        int, typer.Option(metavar="N", help="Size of a symbol's vector; 0: one-hot.", rich_help_panel=MODEL)
    ] = Model.embedding_size or 0,
    dropout: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of a layer's outputs dropped in training; default: chosen from the budget.",
            rich_help_panel=MODEL,
        ),
    ] = Model.dropout,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Parallel streams of text; default: 16 in float32 on a CPU, else 32.",
            rich_help_panel=OPTIMISATION,
        ),
    ] = Training.batch_size,
    seq_length: Annotated[
        int,
        typer.Option(metavar="N", help="Characters that gradients reach back through.", rich_help_panel=OPTIMISATION),
    ] = Training.seq_length,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="AdamW's, at its peak; a cosine leads it to 0; default: chosen from the shapes.",
            rich_help_panel=OPTIMISATION,
        ),
    ] = Training.learning_rate,
    weight_decay: Annotated[
        float, typer.Option(metavar="X", help="AdamW's, on matrices only.", rich_help_panel=OPTIMISATION)
    ] = Training.weight_decay,
    grad_clip: Annotated[
        float, typer.Option(metavar="X", help="The gradients' largest norm.", rich_help_panel=OPTIMISATION)
    ] = Training.grad_clip,
    warmup_steps: Annotated[
        int,
        typer.Option(metavar="N", help="Steps in which the learning rate rises.", rich_help_panel=OPTIMISATION),
    ] = Training.warmup_steps,
    val_fraction: Annotated[
        float,
        typer.Option(metavar="X", help="The last part of the text, which validates.", rich_help_panel=EVALUATION),
    ] = Training.val_fraction,
    eval_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Steps between evaluations; default: at most {EVALUATIONS_A_RUN} in a run.",
            rich_help_panel=EVALUATION,
        ),
    ] = Training.eval_every,
    patience: Annotated[
        int | None,
        typer.Option(metavar="N", help="Stop after N evaluations without progress.", rich_help_panel=EVALUATION),
    ] = Training.patience,
    checkpoint_every: Annotated[
        int, typer.Option(metavar="N", help="Steps between checkpoints.", rich_help_panel=EVALUATION)
    ] = Training.checkpoint_every,
    sample_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Steps between samples; default: one at each evaluation.",
            rich_help_panel=REPORTS,
        ),
    ] = Training.sample_every,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log curves to the run's folder.", rich_help_panel=REPORTS)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no samples.", rich_help_panel=REPORTS)
    ] = False,
    json: Json = False,
    seed: Seed = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same to the bit from the same seed on a GPU too, if slower; on a CPU it is so anyway.",
            rich_help_panel=COMMON,
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
    if os.environ.get("WORLD_SIZE", "").strip() not in ("", "0", "1"):
        raise CharRNNError("this version trains in one process: start it without torchrun")
    options: dict[str, Any] = {**ctx.params, "embedding_size": embedding_size or None}
    given = {name: options[name] for name in options if _is_given(ctx, name)}
    preset = SIZES[size] if size is not None else {}
    shape = {name: options[name] for name in Model.__dataclass_fields__ if name in options and name != "hidden_size"}
    shape |= {name: value for name, value in preset.items() if name not in given}
    if "hidden_size" in given:
        shape["hidden_size"] = hidden_size
    elif not given.keys().isdisjoint(("cell", "num_layers", "embedding_size")):
        shape.setdefault("hidden_size", Model.hidden_size)
    Model(vocab_size=2, **shape)  # out of range? better said now than after the text was read
    config = Training(**{name: options[name] for name in Training.__dataclass_fields__})
    notify = _notifier(quiet=quiet)

    _yield_to_other_processes()
    from charrnn.files.atomic import remove_leftovers
    from charrnn.machine.runtime import compute_deterministically, open_runtime
    from charrnn.runs import run as runs
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.runs.folder import RunFolder
    from charrnn.text import corpus as corpora

    exit_on_signals()

    if deterministic:
        compute_deterministically()
    with RunFolder(run or checkpoint_dir / corpora.default_stem(corpus)).locked() as folder:
        remove_leftovers(folder.path)
        if folder.holds_run() and not (resume or overwrite):
            raise CharRNNError(f"{folder.path} holds a run: --resume goes on with it, --overwrite starts again")
        resuming = resume and folder.holds_run()
        runtime = source = None
        if not resuming:  # errors come before the text is read
            runtime, source = open_runtime(device, precision), None if init_from is None else Checkpoint.load(init_from)
        opened = corpora.open_or_prepare(corpus, data_dir, may_replace=not resuming)
        for note in opened.notes:
            notify(note)
        if runtime is None:
            if init_from is not None:
                notify(f"{folder.path} holds a run: --init-from is for new ones, and left out")
            begun = runs.resume(folder, opened, {**preset, **given}, device, notify=notify)
        else:
            begun = runs.start(folder, opened, shape, config, runtime, seed=seed, init_from=source, notify=notify)
        for line in begun.describe():
            notify(line)
        reporters = _reporters(begun, quiet=quiet, tensorboard=tensorboard)
        begun.open_log()
        _train(begun, reporters, json=json, notify=notify)


def _yield_to_other_processes() -> None:
    """Let OpenMP's threads sleep soon while they wait: two trainings on the same cores would starve each other.

    The library reads this as torch is imported; whoever has set something of the kind knows better.
    """
    if os.environ.keys().isdisjoint(("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was set on the command line or in the environment."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _notifier(*, quiet: bool) -> Callable[[str], None]:
    def notify(message: str) -> None:
        if not quiet or message.startswith("warning:"):
            tell(message)

    return notify


def _reporters(run: "Run", *, quiet: bool, tensorboard: bool) -> "list[Reporter]":
    from charrnn.runs.reporting import TensorBoard, Terminal, Warnings

    reporters: list[Reporter] = [TensorBoard(run.folder.path)] if tensorboard else []
    reporters.append(Warnings(sys.stderr) if quiet else Terminal(sys.stderr, run.trainer.fraction))
    return reporters


def _train(run: "Run", reporters: "list[Reporter]", *, json: bool, notify: Callable[[str], None]) -> None:
    """Drive a run to its end or to a signal, and say what came of it."""
    try:
        with stop_on_signals(run.trainer.request_stop) as signals:
            finished = run.drive(reporters)
    finally:
        for reporter in (run.log, *reporters):
            if reporter is not None:
                reporter.close()
    summary = run.summary(finished)
    notify(_closing_lines(summary, finished.reason, run.trainer.num_predictions))
    try:
        if json:
            print(json_module.dumps(summary), flush=True)
    finally:  # Ctrl-C may have ended the reader too
        if signals:
            raise typer.Exit(128 + signals[0])


def _closing_lines(summary: dict[str, Any], reason: str, num_predictions: int) -> str:
    how = {
        "budget": "done",
        "patience": "stopped early: no improvement",
        "stopped": "stopped and saved; --resume goes on",
    }[reason]
    line = f"{how}: {summary['steps']:,} steps, {summary['chars_per_second']:,} characters/s in training"
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
