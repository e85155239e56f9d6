"""The Python API for preparing texts and training models. `api.py` is the API of a trained model.

>>> model = charrnn.train("book.txt", minutes=3)  # doctest: +SKIP
>>> print(model.sample("Once upon a time", temperature=0.5))  # doctest: +SKIP
"""

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, Unpack

from charrnn.api import LanguageModel, checkpoint_folder, data_folder, load
from charrnn.config import SIZES, ModelOptions, PreparationConfig, Size, TrainingConfig, apply_size, check_seed
from charrnn.errors import CharRNNError, OptionError
from charrnn.keywords import PreparationOptions, TrainingOptions, config_of, with_options
from charrnn.machine.contention import sharing_cores
from charrnn.machine.runtime import compute_deterministically
from charrnn.runs.folder import RunFolder
from charrnn.runs.opening import Request, open_run
from charrnn.runs.preflight import describe, describe_result
from charrnn.runs.reporting import Callback, Reporter, TensorBoard, Terminal
from charrnn.runs.run import Run
from charrnn.terminal import Bar, Notify, byte_bar, escape_controls, is_single_process, no_bar
from charrnn.text.cache import TextArgument, default_output
from charrnn.text.corpus import Corpus
from charrnn.text.sources import find_tales

__all__ = ["Corpus", "prepare", "train"]

Paths = str | Path | Sequence[str | Path]


@with_options(PreparationOptions, PreparationConfig)
def prepare(
    path: Paths | None = None,
    *,
    text: str | None = None,
    output: str | Path | None = None,
    validate: str | Path | None = None,
    recursive: bool = False,
    force: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    data_dir: str | Path | None = None,
    **options: Unpack[PreparationOptions],
) -> Corpus:
    """Convert text to a corpus file, like `charrnn prepare`.

    `path` is a file, a folder or a list of these; alternatively `text` is the text itself. The corpus contains the ids
    (N,) in `ids` and the vocabulary in `tokenizer`; `train` takes it instead of a path. Raises: CharRNNError.
    """
    _, bar, notify = _progress(quiet=quiet)
    encoding = options.get("encoding")
    argument = _text(path, text, data_folder(data_dir), validate, encoding, recursive=recursive, force=force, bar=bar)
    output = Path(output or default_output(argument.argument, argument.data_dir))
    corpus = argument.prepare(config_of(PreparationConfig, options), output, overwrite=overwrite)
    corpus.report(notify)
    return corpus


@with_options(TrainingOptions, PreparationConfig, ModelOptions, TrainingConfig)
def train(
    corpus: Paths | Corpus | None = None,
    *,
    text: str | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    validate: str | Path | None = None,
    recursive: bool = False,
    force: bool = False,
    size: Size | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    on_event: Callable[[dict[str, Any]], object] | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    device: str = "auto",
    precision: str = "auto",
    data_dir: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    **options: Unpack[TrainingOptions],
) -> LanguageModel:
    """Train a model on a text, and return its best checkpoint.

    `corpus` is a file, a folder, a list of these or a prepared corpus; alternatively `text` is the text itself. The
    default are the tales that come with charrnn. `run` is the folder of the run, by default a temporary folder that is
    deleted with the model: use `model.save` to keep the model. `on_event` is called with each new record of
    `model.history`. Ctrl-C stops training, saves the run and returns the model trained so far; a second Ctrl-C raises
    KeyboardInterrupt. Raises: CharRNNError.
    """
    if not is_single_process():
        raise CharRNNError("train() runs in one process: use `torchrun ... -m charrnn train` for several")
    check_seed(seed)
    if resume and (overwrite or run is None):
        raise OptionError("resume needs the folder of a run: set run, and leave overwrite out")
    given = {name: value for name, value in options.items() if value is not None}
    preparation, training = config_of(PreparationConfig, given), config_of(TrainingConfig, given)
    model_options = apply_size(config_of(ModelOptions, given), size, given)
    stream, bar, notify = _progress(quiet=quiet)
    if deterministic:
        compute_deterministically()
    with sharing_cores(), _folder_of(run) as (folder, default_data_dir):
        argument = _text(
            _default_text(folder, resume=resume) if corpus is None and text is None else corpus,
            text,
            default_data_dir if data_dir is None else Path(data_dir),
            validate,
            options.get("encoding"),
            recursive=recursive,
            force=force,
            bar=bar,
        )
        request = Request(
            folder=folder,
            text=argument,
            preparation=preparation,
            model=model_options,
            training=training,
            given={**({} if size is None else SIZES[size]), **given},
            checkpoint_dir=checkpoint_folder(checkpoint_dir),
            resume=resume,
            overwrite=overwrite,
            init_from=init_from,
            seed=seed,
            device=device,
            precision=precision,
        )
        reporters: list[Reporter] = [TensorBoard(folder.path)] if tensorboard else []
        reporters += [] if on_event is None else [Callback(on_event)]
        with open_run(request, notify) as training_run:
            describe(training_run, notify)
            terminal = Terminal(stream, training_run.trainer.fraction, quiet=quiet, is_notebook=_is_notebook())
            _drive(training_run, [*reporters, terminal], notify)
        model = load(folder.path, device=device, data_dir=argument.data_dir)
    if run is None:
        weakref.finalize(model, shutil.rmtree, folder.path.parent, ignore_errors=True)
    return model


def _drive(run: Run, reporters: Sequence[Reporter], notify: Notify) -> None:
    """Drive a run to its end or to Ctrl-C, and report the result."""
    run.open_log()
    try:
        with _stop_on_interrupt(run.trainer.request_stop):
            finished = run.drive(reporters)
    finally:
        run.close(reporters)
    notify(describe_result(run, run.summary(finished)))


@contextlib.contextmanager
def _folder_of(run: str | Path | None) -> Iterator[tuple[RunFolder, Path]]:
    """The folder of a run and the folder of its corpus; without `run` both are temporary, and removed on an error."""
    if run is not None:
        yield RunFolder(Path(run)), data_folder(None)
        return
    temporary = Path(tempfile.mkdtemp(prefix="charrnn-"))
    try:
        yield RunFolder(temporary / "run"), temporary / "data"
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _default_text(folder: RunFolder, *, resume: bool) -> Path:
    """The corpus of the run to resume, or else the tales that come with charrnn."""
    return Path(folder.newest_header().corpus.path) if resume and folder.holds_run() else find_tales()


def _text(
    paths: Paths | Corpus | None,
    text: str | None,
    data_dir: Path,
    validate: str | Path | None,
    encoding: str | None,
    **more: Any,
) -> TextArgument:
    """The text to read. Raises: OptionError unless there is either a path or a text."""
    if (paths is None) == (text is None):
        raise OptionError("set either a path or text= (exactly one of them)")
    validate = None if validate is None else str(validate)
    if text is not None:
        if encoding not in (None, PreparationConfig.encoding):
            raise OptionError(f"encoding is {encoding!r}: it is for files, and text= needs none")
        try:
            content = text.encode("utf-8", "surrogateescape")
        except (AttributeError, UnicodeEncodeError) as error:
            raise OptionError(f"text= is not a string of Unicode characters: {error}") from error
        return TextArgument("text", data_dir, validate, content=content, **more)
    paths = paths.path if isinstance(paths, Corpus) else paths
    names = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths or [])]
    if not names:
        raise OptionError("the list of paths is empty: name at least one text")
    return TextArgument(names[0], data_dir, validate, names[1:], **more)


def _progress(*, quiet: bool) -> tuple[TextIO, Bar, Notify]:
    """The stream for messages (stdout in a notebook), a progress bar, and a function that prints messages."""
    stream = sys.stdout if _is_notebook() else sys.stderr

    def notify(message: str, *, warning: bool = False) -> None:
        if warning or not quiet:
            print(escape_controls(f"warning: {message}" if warning else message), file=stream, flush=True)

    return stream, no_bar if quiet else byte_bar(stream), notify


def _is_notebook() -> bool:
    """True in a Jupyter kernel; Jupyter shows stderr in red."""
    return "ipykernel" in sys.modules


@contextlib.contextmanager
def _stop_on_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on the first SIGINT; the second raises KeyboardInterrupt. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
