"""`charrnn train`: train a model on a prepared corpus or on raw text."""

import contextlib
import itertools
import json as json_module
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charrnn.cli import options
from charrnn.cli.help import value_options
from charrnn.cli.options import declare
from charrnn.cli.signals import raise_exit_on_signals, request_stop_on_signals
from charrnn.config import (
    COMMON,
    MODEL,
    RECOMMENDED_TEMPERATURE,
    REPORTS,
    RUN,
    SIZES,
    Choice,
    ModelOptions,
    PreparationConfig,
    Size,
    TrainingConfig,
    apply_size,
)
from charrnn.errors import CharRNNError, OptionError
from charrnn.terminal import Notify, byte_bar, is_main_process, no_bar, silence
from charrnn.text.sources import find_tales

if TYPE_CHECKING:
    from charrnn.runs.reporting import Reporter
    from charrnn.runs.run import Run

_PATHS = ("--run", "-o", "--data-dir", "--checkpoint-dir", "--validate")
_SHAPES = ", ".join(f"{name} {shape['num_layers']}x{shape['hidden_size']}" for name, shape in SIZES.items())


@options.takes_configs
def train(
    *,
    ctx: typer.Context,
    corpus: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS",
            help="A text: a file (also .gz, .bz2, .xz), a folder of *.txt or - for stdin; or a corpus from `prepare`; "
            "default: the text of the resumed run, or the packaged tales",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        declare(
            "Folder of the run; default: CHECKPOINT_DIR/NAME",
            "--run",
            "-o",
            metavar="DIR",
            panel=RUN,
            parse=options.read_folder,
        ),
    ] = None,
    resume: Annotated[
        bool, declare("Continue the run in DIR, or start it if there is none", "--resume", panel=RUN)
    ] = False,
    overwrite: Annotated[bool, declare("Replace the run in DIR", "--overwrite", panel=RUN)] = False,
    init_from: Annotated[
        str | None,
        declare("Start from the weights of another run, or of english", metavar="RUN", panel=RUN),
    ] = None,
    preparation: PreparationConfig,
    validate: options.Validate = None,
    recursive: options.Recursive = False,
    force: options.Force = False,
    config: TrainingConfig,
    size: Annotated[
        Size | None,
        declare(
            f"Layers and units: {_SHAPES}",
            metavar="NAME",
            panel=MODEL,
            limits=Choice(tuple(SIZES)),
        ),
    ] = None,
    model: ModelOptions,
    tensorboard: Annotated[
        bool, declare("Write losses and samples for TensorBoard", "--tensorboard", panel=REPORTS)
    ] = False,
    quiet: Annotated[bool, declare("Print errors and warnings only", "--quiet", "-q", panel=REPORTS)] = False,
    json: options.Json = False,
    seed: options.Seed = None,
    deterministic: Annotated[
        bool,
        declare("Make training on a GPU reproducible, but slower", "--deterministic", panel=COMMON),
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    data_dir: options.DataDir = options.DATA_DIR,
    checkpoint_dir: options.CheckpointDir = options.CHECKPOINT_DIR,
) -> None:
    """Train a model on a text, and save its best and its last checkpoint.

    Examples:
      charrnn train book.txt --minutes 30            chooses the size of the model
      charrnn train book.txt --minutes 1h --resume   continues, to an hour in all
      charrnn train poems.txt --init-from book       starts from the weights of book
      charrnn train poems.txt --init-from english    starts from a model of English
    """
    if resume and overwrite:
        raise OptionError("--resume and --overwrite exclude each other: either continue or replace the run")
    start = time.perf_counter()
    given = options.given(ctx, preparation, config, model)
    notify = options.notifier(quiet=quiet) if is_main_process() else silence
    from charrnn.machine.runtime import compute_deterministically
    from charrnn.runs.folder import RunFolder
    from charrnn.runs.opening import Request, open_run
    from charrnn.runs.preflight import describe
    from charrnn.runs.reporting import TensorBoard, Terminal
    from charrnn.text.cache import TextArgument, default_stem

    raise_exit_on_signals()

    if corpus is None:
        corpus = _default_text(run if resume else None, notify)
    if deterministic:
        compute_deterministically()
    folder = RunFolder(run or checkpoint_dir / default_stem(corpus))
    if run is not None and "data_dir" not in given:
        data_dir = _data_dir_of(run)
    bar = byte_bar(sys.stderr) if is_main_process() and not quiet else no_bar
    text = TextArgument(corpus, data_dir, validate, recursive=recursive, force=force, bar=bar)
    reporters: list[Reporter] = [TensorBoard(folder.path)] if tensorboard and is_main_process() else []
    request = Request(
        folder=folder,
        text=text,
        preparation=preparation,
        model=apply_size(model, size, given),
        training=config,
        given={**({} if size is None else SIZES[size]), **given},
        checkpoint_dir=checkpoint_dir,
        resume=resume,
        overwrite=overwrite,
        init_from=init_from,
        seed=seed,
        device=device,
        precision=precision,
    )
    with open_run(request, notify) as training_run:
        describe(training_run, notify)
        if is_main_process():
            reporters.append(Terminal(sys.stderr, training_run.trainer.fraction, quiet=quiet))
            path = None if corpus == "-" else corpus
            training_run.command = _with_absolute_paths(sys.argv[2:], ctx, path, checkpoint_dir)
            training_run.open_log()
        if training_run.trainer.config.minutes is not None:
            notify(f"started in {time.perf_counter() - start:.0f} s, which --minutes does not include")
        _train(training_run, reporters, json=json and is_main_process(), notify=notify)


def _default_text(run: Path | None, notify: Notify) -> str:
    """The text of the run to resume, or else the tales that come with charrnn."""
    from charrnn.runs.folder import RunFolder

    if run is not None and RunFolder(run).holds_run():
        return RunFolder(run).newest_header().corpus.path
    tales = str(find_tales())
    notify("training on the tales that come with charrnn; `charrnn train book.txt` trains on your own text")
    return tales


def _data_dir_of(run: Path) -> Path:
    """The default folder of prepared corpora: `data`, next to the folder of runs if `run` is an absolute path."""
    if not run.is_absolute() or run.is_relative_to(Path.cwd()):
        return options.DATA_DIR
    return (run.parent if run.parent.name == options.CHECKPOINT_DIR.name else run).parent / options.DATA_DIR


def _with_absolute_paths(arguments: list[str], ctx: typer.Context, text: str | None, checkpoint_dir: Path) -> list[str]:
    """The command line with absolute paths, so that it works in any folder."""
    from charrnn.runs.folder import find_checkpoint

    with_value = value_options(ctx.command)
    words = ["charrnn", "train"]
    for before, argument in itertools.pairwise(["", *arguments]):
        name, sign, value = argument.partition("=") if "=" in argument else ("", "", argument)
        option = name or (before if before in with_value else "")
        if (option in _PATHS and value != "-") or (not option and argument == text):
            value = str(Path(value).absolute())
        elif option == "--init-from" and value:
            with contextlib.suppress(CharRNNError):  # a resumed run does not need it
                value = str(find_checkpoint(value, checkpoint_dir).absolute())
        words.append(name + sign + value)
    return words


def _train(run: "Run", reporters: "list[Reporter]", *, json: bool, notify: Notify) -> None:
    """Run the training until its end or a signal, and report the result."""
    from charrnn.runs.preflight import describe_result

    try:
        with request_stop_on_signals(run.trainer.request_stop) as signals:
            finished = run.drive(reporters)
    finally:
        run.close(reporters)
    summary = run.summary(finished)
    notify(describe_result(run, summary, with_curve=not json))
    if summary["steps"]:
        more = "" if run.corpus.tokenizer.eos_id is None else " --documents 20"
        notify(f"now run: charrnn sample {shlex.quote(summary['run'])} --temperature {RECOMMENDED_TEMPERATURE}{more}")
    try:
        if json:
            print(json_module.dumps(summary), flush=True)
    finally:  # also if Ctrl-C has ended the reader of stdout
        if signals:
            raise typer.Exit(128 + signals[0])
