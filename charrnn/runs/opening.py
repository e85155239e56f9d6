"""Start a new training run in a folder, or resume the existing one."""

import contextlib
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from charrnn.config import ModelOptions, PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError, OptionError, opt
from charrnn.files import container
from charrnn.files.atomic import remove_leftovers
from charrnn.machine.distributed import Ranks, joined
from charrnn.runs.checkpoint import KIND, VERSIONS, Checkpoint, CorpusIdentity, Header
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.preflight import recommend_english
from charrnn.runs.resume import resume
from charrnn.runs.run import Run
from charrnn.runs.start import find_runtime, require_same_options, shape_options, start
from charrnn.terminal import Notify, silence
from charrnn.text.cache import TextArgument
from charrnn.text.corpus import Corpus


@dataclass(frozen=True)
class Request:
    """The arguments of `charrnn train`. `given` are the options set explicitly, `preparation` is for a new run."""

    folder: RunFolder
    text: TextArgument
    preparation: PreparationConfig
    model: ModelOptions
    training: TrainingConfig
    given: Mapping[str, Any]
    checkpoint_dir: Path
    resume: bool = False
    overwrite: bool = False
    init_from: str | Path | None = None
    seed: int | None = None
    device: str = "auto"
    precision: str = "auto"


@contextlib.contextmanager
def open_run(request: Request, notify: Notify = silence) -> Iterator[Run]:
    """Start or resume a run on a text, and hold the lock of its folder. Raises: CharRNNError."""
    folder = request.folder
    with (
        joined(request.device) as ranks,
        folder.locked() if ranks.is_first else contextlib.nullcontext(folder) as locked_folder,
    ):
        existing = ranks.broadcast(lambda: _find_corpus_to_resume(request))
        if existing is None:
            yield _start(request, locked_folder, ranks, notify)
            return
        corpus = _open_corpus(request.text, existing.config, vars(existing.config), ranks, notify)
        if request.init_from is not None:
            notify(f"{folder.path} holds a run: {opt.init_from} is for new runs and is ignored")
        yield resume(locked_folder, corpus, request.given, request.device, ranks, notify=notify)


def _start(request: Request, folder: RunFolder, ranks: Ranks, notify: Notify) -> Run:
    """Start a new run; most errors are raised before the text is read. Raises: CharRNNError."""
    runtime, given = find_runtime(request.device, request.precision, ranks), request.given
    model, training, source = request.model, request.training, None
    if "embedding_size" not in given:
        model = replace(model, embedding_size=runtime.embedding_size)
    if (init_from := request.init_from) is not None:
        source = ranks.broadcast(lambda: _load_source(request, init_from))
        if "optimizer" not in given:
            training = replace(training, optimizer="adamw")  # the loss is 0.005 to 0.02 nats lower than with Muon
    corpus = _open_corpus(request.text, request.preparation, given, ranks, notify)
    if corpus.validation_start is not None:
        if "val_fraction" in given:
            raise OptionError(f"{corpus.path} contains a validation text: leave {opt.val_fraction} out")
        training = replace(training, val_fraction=1 - corpus.validation_start / len(corpus.ids))
    sets_shape = any(each.name in given for each in fields(ModelOptions) if each.name != "dropout")
    if source is None and ranks.is_first and not sets_shape:
        recommend_english(corpus, notify)
    return start(folder, corpus, model, training, runtime, seed=request.seed, init_from=source, notify=notify)


def _load_source(request: Request, init_from: str | Path) -> Checkpoint:
    """The checkpoint to copy weights from. Raises: CharRNNError, also if an option does not match its shape."""
    path = find_checkpoint(init_from, request.checkpoint_dir)
    source = Checkpoint.load(path)
    remedy = f"leave the option out, or start without {opt.init_from}"
    require_same_options(request.given, shape_options(source), f"the model in {path}", remedy)
    return source


def _find_corpus_to_resume(request: Request) -> CorpusIdentity | None:
    """The corpus of the run to resume; None to start a run. Raises: CharRNNError if the folder has another run."""
    folder, text = request.folder, request.text
    for path in text.paths:
        _require_text(path, request.checkpoint_dir)
    remove_leftovers(folder.path)
    if request.overwrite or not folder.holds_run():
        return None
    try:
        corpus = folder.newest_header().corpus
    except CharRNNError as error:
        raise CharRNNError(f"{error}; {opt.overwrite(True)} starts the run again") from error
    is_same_text = corpus.source_digest == text.digest
    another = f"{opt.run('DIR')} starts another, with {opt.init_from(folder.path)} from its weights"
    ways = f"{another}; {opt.overwrite(True)} replaces it"
    if not request.resume:
        other_text = f" on another text or an older version, {corpus.path}"
        which = f"; {opt.resume(True)} continues it" if is_same_text else other_text
        raise CharRNNError(f"{folder.path} holds a run{which}; {ways}")
    if not is_same_text:
        raise CharRNNError(
            f"the run in {folder.path} was trained on another text or an older version of {text.argument}: "
            f"{opt.resume(True)} with {corpus.path} continues it; {ways}"
        )
    remedy = f"leave the option out, or start another run with {opt.run('DIR')}"
    require_same_options(request.given, vars(corpus.config), f"the run in {folder.path}", remedy)
    return corpus


def _require_text(text: str, checkpoint_dir: Path) -> None:
    """Raises: CharRNNError if the text is a run or a checkpoint; the message has the likely command."""
    path = Path(text)
    if container.is_stored(path):
        what, is_run = "a checkpoint, not a corpus", container.kind_of(path) == KIND
    elif path.is_dir():
        what, is_run = "a run, not a text", RunFolder(path).holds_run() and not any(path.glob("*.txt"))
    else:
        what, is_run = "a run, not a text", not path.exists() and RunFolder(checkpoint_dir / path).holds_run()
    if is_run:
        checkpoint = find_checkpoint(path, checkpoint_dir)
        corpus = shlex.quote(Header.read(checkpoint).corpus.path)
        resume = f"charrnn train {corpus} {opt.run(shlex.quote(str(checkpoint.parent)))} {opt.resume(True)}"
        raise CharRNNError(
            f"{text} is {what}: `{resume}` continues it, and {opt.init_from(text)} starts another run from its weights"
        )


def _open_corpus(
    text: TextArgument, config: PreparationConfig, required: Collection[str], ranks: Ranks, notify: Notify
) -> Corpus:
    """Open the corpus, prepared once per machine. Raises: CharRNNError if machines have different texts."""
    corpora: list[Corpus] = []

    def open_first() -> str:
        corpora.append(text.open(config, required))
        return str(corpora[0].path)

    path = Path(ranks.broadcast_on_machine(open_first))
    corpus = corpora[0] if corpora else Corpus.open(path)
    ranks.barrier()
    if not ranks.broadcast(lambda: CorpusIdentity.of(corpus)).matches(corpus):
        raise CharRNNError(f"{path} of process {ranks.rank} differs from that of process 0: copy the file")
    if ranks.broadcast(lambda: VERSIONS) != VERSIONS:
        raise CharRNNError(f"process {ranks.rank} has other versions of charrnn or PyTorch than process 0: {VERSIONS}")
    corpus.report(notify)
    return corpus
