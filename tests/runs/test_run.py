"""Runs in their folders."""

import contextlib
import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.config import Cell, ModelOptions, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.machine import probes
from charrnn.machine.runtime import Runtime, open_runtime
from charrnn.runs import run as run_module
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.reporting import Reporter
from charrnn.runs.resume import resume
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus
from charrnn.training import evaluation
from charrnn.training.events import Evaluated, Event, Finished, Sampled, Stepped
from charrnn.training.heuristics import lacking_memory
from tests.support import CPU, TINY, Messages, described, log_of, needs_bfloat16, needs_cuda

OPEN = ModelOptions()
CONFIG = TrainingConfig(steps=20, batch_size=4, seq_length=8, checkpoint_every=7, eval_every=2)


class Recorder(Reporter):
    """A reporter that remembers, and may act."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def run(corpus: Corpus, tmp_path: Path) -> Run:
    return start(RunFolder(tmp_path / "run"), corpus, TINY, CONFIG, CPU, seed=3)


def test_run_leaves_checkpoints_and_samples(run: Run) -> None:
    recorder = Recorder()
    finished = run.drive([recorder])
    names = {path.name for path in run.folder.path.iterdir()}
    assert names == {"best.safetensors", "last.safetensors", "last-1.safetensors"}
    assert Checkpoint.load(run.folder.last).snapshot.progress.step == finished.step == 20
    kinds = [type(event) for event in recorder.events]
    assert kinds.count(Sampled) == kinds.count(Evaluated) == 10
    best = Checkpoint.load(run.folder.best)
    assert best.snapshot.history.best_val_loss == run.trainer.history.best_val_loss


def test_sampling_and_saving_do_not_change_the_training(corpus: Corpus, tmp_path: Path, run: Run) -> None:
    run.drive([])
    seldom = replace(CONFIG, checkpoint_every=1000, sample_every=1000)
    other = start(RunFolder(tmp_path / "other"), corpus, TINY, seldom, CPU, seed=3)
    other.drive([])
    for name, weight in run.trainer.bptt.model.state_dict().items():
        assert torch.equal(weight, other.trainer.bptt.model.state_dict()[name])


class Interrupt(Recorder):
    """Ends a run at a step: by request, as a signal does, or on the spot, as a pulled plug does."""

    def __init__(self, run: Run, step: int, *, politely: bool) -> None:
        super().__init__()
        self._run, self._step, self._politely = run, step, politely

    def report(self, event: Event) -> None:
        if event.step == self._step:
            if not self._politely:
                raise InterruptedError
            self._run.trainer.request_stop()


SHORT_EPOCHS = replace(CONFIG, batch_size=16, seq_length=16, steps=27, eval_every=6)


Begin = Callable[..., Run]


def begin(corpus: Corpus, folder: Path, device: str, cell: Cell, precision: str, num_layers: int) -> Run:
    """A new run of several short epochs, with its log."""
    shape = replace(TINY, cell=cell, num_layers=num_layers, dropout=0.3)
    config = replace(SHORT_EPOCHS, optimizer="adamw" if cell == "gru" else "muon")
    run = start(RunFolder(folder), corpus, shape, config, open_runtime(device, precision), seed=3)
    run.open_log()
    return run


@pytest.fixture(scope="module")
def uninterrupted(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Begin:
    """Runs that nothing interrupts, each trained once: `uninterrupted(device, cell, precision, num_layers)`."""

    @functools.cache
    def train(*model: Any) -> Run:
        run = begin(corpus, tmp_path_factory.mktemp("whole"), *model)
        assert run.trainer.layout.num_chunks == 9
        run.drive([])
        return run

    return train


@pytest.mark.parametrize("politely", [True, False], ids=["signal", "plug"])
@pytest.mark.parametrize("step", [1, 9, 13, 18, 26])
@pytest.mark.parametrize(
    ("device", "cell", "precision", "num_layers"),
    [
        ("cpu", "lstm", "float32", 1),
        pytest.param("cpu", "lstm", "bfloat16", 2, marks=needs_bfloat16),
        ("cpu", "gru", "float32", 2),
        pytest.param("cpu", "rnn", "bfloat16", 1, marks=needs_bfloat16),
        pytest.param("cuda", "lstm", "float32", 2, marks=needs_cuda),
        pytest.param("cuda", "lstm", "float16", 2, marks=needs_cuda),
        pytest.param("cuda", "gru", "bfloat16", 1, marks=needs_cuda),
    ],
)
def test_interrupted_run_ends_as_if_it_had_not_been(
    corpus: Corpus,
    tmp_path: Path,
    deterministic: None,
    uninterrupted: Begin,
    device: str,
    cell: Cell,
    precision: str,
    num_layers: int,
    step: int,
    politely: bool,
) -> None:
    model = (device, cell, precision, num_layers)
    whole = uninterrupted(*model)
    broken = begin(corpus, tmp_path, *model)
    with contextlib.nullcontext() if politely else pytest.raises(InterruptedError):
        broken.drive([Interrupt(broken, step, politely=politely)])
    if not politely and step < SHORT_EPOCHS.eval_every:  # type: ignore[operator]
        assert not broken.folder.holds_run()
        return
    resumed = resume(broken.folder, corpus, {}, device)
    assert resumed.trainer.progress.step <= step
    assert politely == (resumed.trainer.progress.step == step) or step % 6 == 0
    resumed.open_log()
    resumed.drive([])
    assert timeless_log_of(resumed) == timeless_log_of(whole)
    for name in ("last", "best"):
        ours, theirs = (Checkpoint.load(getattr(run.folder, name)) for run in (resumed, whole))
        assert ours.snapshot.tensors.keys() == theirs.snapshot.tensors.keys()
        for name, tensor in ours.snapshot.tensors.items():
            assert torch.equal(tensor, theirs.snapshot.tensors[name]), name
        assert counters(ours) == counters(theirs)


def counters(checkpoint: Checkpoint) -> dict[str, Any]:
    snapshot = checkpoint.snapshot
    numbers = {**vars(snapshot.progress), **vars(snapshot.history), "records": checkpoint.records}
    return without_times(numbers | {"cursor": snapshot.cursor, "scaler": snapshot.gradient_scaler})


def timeless_log_of(run: Run) -> list[dict[str, Any]]:
    return list(map(without_times, log_of(run)))


def without_times(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not re.search("elapsed|second|^time$", name)}


def test_best_is_kept_even_where_the_last_was_just_saved(corpus: Corpus, tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=5, eval_every=5)
    run = start(RunFolder(tmp_path), corpus, TINY, config, CPU, seed=3)
    run.drive([])
    assert Checkpoint.load(run.folder.best).snapshot.history.best_val_loss == run.trainer.history.best_val_loss
    assert Checkpoint.load(run.folder.last).snapshot.progress.evaluated_step == 20


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, list(range(1, 21))), (60.0, [])])
def test_checkpoints_are_made_by_the_clock_unless_by_steps(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: list[int]
) -> None:
    monkeypatch.setattr(run_module, "_CHECKPOINT_SECONDS", seconds)
    config = replace(CONFIG, checkpoint_every=None, eval_every=100)
    run, steps = start(RunFolder(tmp_path), corpus, TINY, config, CPU, seed=3), list[int]()
    run.is_new = False
    for event in run.trainer.run():
        if isinstance(event, Stepped) and run._save_is_due(event):
            steps.append(event.step)
    assert steps == saved


@pytest.mark.parametrize("have_links", [True, False])
def test_damaged_checkpoint_is_renamed_and_never_the_backup(
    corpus: Corpus, run: Run, monkeypatch: pytest.MonkeyPatch, have_links: bool
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(95, "Operation not supported")

    run.drive([])
    if not have_links:
        monkeypatch.setattr(os, "link", refuse)
    folder, messages = run.folder, Messages()
    before = folder.last_but_one.read_bytes()
    for content in (b"damaged", b"damaged again"):
        folder.last.write_bytes(content)
        with pytest.raises(CharRNNError, match="is not the corpus that the run in"):
            resume(folder, replace(corpus, source_digest="0" * 64), {}, "cpu")
        assert folder.last.exists(), "a resumption that is refused changes nothing"
        resumed = resume(folder, corpus, {"steps": 30}, "cpu", notify=messages)
        damaged = folder.path / "last-damaged.safetensors"
        assert damaged.read_bytes() == content
        assert folder.last_but_one.read_bytes() == before
        assert f"the damaged checkpoint is kept as {damaged}" in messages
        folder.save(resumed.checkpoint(), best=False)
        assert folder.last_but_one.read_bytes() == before, "the sound one is still the backup"
        assert Checkpoint.load(folder.last).snapshot.progress.step == resumed.trainer.progress.step
    assert [path.name for path in folder.path.glob("*damaged*")] == ["last-damaged.safetensors"]
    messages.clear()
    resume(folder, corpus, {}, "cpu", notify=messages)
    assert messages == [f"resuming {folder.path} at step {resumed.trainer.progress.step}"]
    folder.save_first(resumed.checkpoint(), best=False)
    assert [path.name for path in folder.path.iterdir()] == ["last.safetensors"], "a new run clears that away too"


def test_checkpoint_exists_before_the_first_evaluation(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(evaluation, "evaluate", fail)
    run = start(RunFolder(tmp_path / "run"), corpus, TINY, CONFIG, CPU, seed=3)
    with pytest.raises(MemoryError):
        run.drive([])
    assert Checkpoint.load(run.folder.last).snapshot.progress.step == CONFIG.eval_every


@pytest.mark.parametrize("how", ["shorter", "other symbols"])
def test_corpus_that_is_changed_during_the_training_costs_no_step(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(container, "_IN_MEMORY", 0)  # or a corpus of this size would not be mapped
    path = tmp_path / "corpus.safetensors"
    content = corpus.path.read_bytes()
    path.write_bytes(content)
    run = start(RunFolder(tmp_path / "run"), Corpus.open(path), TINY, CONFIG, CPU, seed=3)

    class Vandal(Recorder):
        def report(self, event: Event) -> None:
            if event.step == 5:
                with path.open("r+b") as stream:
                    if how == "shorter":
                        stream.truncate(3000)
                    else:
                        stream.seek(2000)
                        stream.write(b"\xff" * (len(content) - 2000))

    with pytest.raises(CharRNNError, match=r"was changed during training; the run is saved at step \d+: prepare"):
        run.drive([Vandal()])
    path.write_bytes(content)
    assert 5 <= Checkpoint.load(run.folder.last).snapshot.progress.step < 20
    resume(run.folder, Corpus.open(path), {}, "cpu").drive([])
    whole = start(RunFolder(tmp_path / "whole"), corpus, TINY, CONFIG, CPU, seed=3)
    whole.drive([])
    for name, tensor in Checkpoint.load(whole.folder.last).weights.items():
        assert torch.equal(Checkpoint.load(run.folder.last).weights[name], tensor)


def test_larger_budget_brings_its_own_evaluations(corpus: Corpus, tmp_path: Path) -> None:
    start(RunFolder(tmp_path), corpus, TINY, replace(CONFIG, eval_every=None), CPU, seed=3).drive([])
    recorder = Recorder()
    resume(RunFolder(tmp_path), corpus, {"steps": 600}, "cpu").drive([recorder])
    assert [event.step for event in recorder.events if isinstance(event, Evaluated)] == list(range(60, 601, 60))


def test_resuming_takes_a_new_budget_but_no_new_model(corpus: Corpus, run: Run) -> None:
    run.drive([])
    resumed = resume(run.folder, corpus, {"epochs": 3, "hidden_size": 16}, "cpu")
    assert (resumed.trainer.config.epochs, resumed.trainer.config.steps) == (3, None)
    with pytest.raises(CharRNNError, match=r"--hidden-size is 32, but the run in .* has 16"):
        resume(run.folder, corpus, {"hidden_size": 32}, "cpu")


def test_resuming_with_other_versions_is_a_warning(corpus: Corpus, run: Run) -> None:
    older = replace(run.checkpoint(), versions={"charrnn": "0.0.1", "torch": "2.9"})
    run.folder.save(older, best=False)
    messages = Messages()
    resume(run.folder, corpus, {}, "cpu", notify=messages)
    assert messages[0].startswith(
        "warning: this run was written by charrnn 0.0.1 with PyTorch 2.9, and this is charrnn"
    )
    run.folder.save(run.checkpoint(), best=False)
    messages.clear()
    resume(run.folder, corpus, {}, "cpu", notify=messages)
    assert messages == [f"resuming {run.folder.path} at step 0"]


@pytest.mark.usefixtures("lacks_bfloat16")
@pytest.mark.parametrize("given", [{}, {"precision": "bfloat16"}])
def test_resuming_in_an_unavailable_precision_continues_in_another(
    corpus: Corpus, run: Run, given: dict[str, str]
) -> None:
    run.folder.save(replace(run.checkpoint(), precision="bfloat16"), best=False)
    messages = Messages()
    resumed = resume(run.folder, corpus, given, "cpu", notify=messages)
    assert messages[0].startswith("warning: bfloat16 is not available here: continuing in float32")
    assert resumed.runtime.precision == "float32"
    assert resumed.drive([]).step == CONFIG.steps


def test_finished_run_resumes_to_its_end_at_once(corpus: Corpus, run: Run) -> None:
    run.drive([])
    before = run.folder.last.read_bytes()
    recorder = Recorder()
    messages = Messages()
    resume(run.folder, corpus, {}, "cpu", notify=messages).drive([recorder])
    assert "this run has reached its end" in messages[-1]
    assert [type(event) for event in recorder.events] == [Finished]
    assert run.folder.last.read_bytes() == before


def test_lost_patience_is_reported_and_counted_again_in_another_unit(corpus: Corpus, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=400, patience=1, learning_rate=0.9)
    run = start(RunFolder(tmp_path), corpus, TINY, config, CPU, seed=3)
    assert run.drive([]).reason == "patience"
    messages = Messages()
    over = resume(run.folder, corpus, {"steps": 800}, "cpu", notify=messages).trainer
    assert over.budget.is_over(over.now)
    assert "this run has reached its end: raise --patience to continue" in messages
    timed = resume(run.folder, corpus, {"minutes": 0.02 + run.trainer.clock.elapsed_s / 60}, "cpu").trainer
    assert not timed.budget.is_over(timed.now)


@pytest.mark.parametrize("checkpoint_every", [7, 1000])
def test_stop_during_an_explosion_keeps_the_newest_good_checkpoint(
    corpus: Corpus, tmp_path: Path, checkpoint_every: int
) -> None:
    config = replace(CONFIG, steps=400, eval_every=1000, checkpoint_every=checkpoint_every)
    run = start(RunFolder(tmp_path), corpus, TINY, config, CPU, seed=3)

    class Ruin(Recorder):
        def report(self, event: Event) -> None:
            if event.step == 150 and isinstance(event, Stepped):
                with torch.no_grad():
                    run.trainer.bptt.model.head.weight.normal_(std=100)
            if event.step == 153:
                run.trainer.request_stop()

    run.drive([Ruin()])
    assert run.trainer.was_rolled_back
    assert Checkpoint.load(run.folder.last).snapshot.progress.step == (147 if checkpoint_every == 7 else 0)


def test_run_without_a_step_replaces_no_other(corpus: Corpus, run: Run) -> None:
    run.drive([])
    before = {path: path.read_bytes() for path in run.folder.path.iterdir()}
    other = start(run.folder, corpus, TINY, CONFIG, CPU, seed=4)
    other.trainer.request_stop()
    other.drive([])
    assert {path: path.read_bytes() for path in run.folder.path.iterdir()} == before


def test_another_corpus_is_refused(corpus: Corpus, run: Run) -> None:
    run.drive([])
    with pytest.raises(CharRNNError, match="is not the corpus that the run in"):
        resume(run.folder, replace(corpus, source_digest="0" * 64), {}, "cpu")


def test_budget_is_chosen_from_the_size_of_the_corpus(corpus: Corpus, tmp_path: Path) -> None:
    run = start(RunFolder(tmp_path), corpus, TINY, TrainingConfig(), CPU)
    assert run.trainer.config.epochs is not None
    description = "\n".join(described(run))
    assert "steps" in description
    assert "characters/s" in description


def test_dropout_is_chosen_unless_given(corpus: Corpus, tmp_path: Path) -> None:
    def dropout(epochs: int, given: float | None) -> float:
        config = TrainingConfig(epochs=epochs)
        run = start(RunFolder(tmp_path), corpus, replace(TINY, dropout=given), config, CPU, seed=1)
        assert run.trainer.bptt.model.config.dropout is not None
        return run.trainer.bptt.model.config.dropout

    assert dropout(1000, 0.0) == 0.0
    assert dropout(1000, 0.3) == 0.3
    assert 0 <= dropout(1, None) < dropout(1000, None) < 1


def test_preflight_is_three_lines_and_a_warning_of_a_bad_fit(corpus: Corpus, tmp_path: Path) -> None:
    def describe(hidden_size: int = 16) -> list[str]:
        return described(start(RunFolder(tmp_path), corpus, replace(TINY, hidden_size=hidden_size), CONFIG, CPU))

    assert [line.split(":")[0] for line in describe()] == ["model", "device", "budget"]
    [_, _, budget] = described(start(RunFolder(tmp_path), corpus, TINY, replace(CONFIG, steps=None, epochs=1153), CPU))
    assert budget.startswith("budget: 1,150 epochs, ")
    [_, _, budget] = described(start(RunFolder(tmp_path), corpus, TINY, replace(CONFIG, steps=None, minutes=1.0), CPU))
    assert budget.startswith("budget: 1 minute; ")
    assert describe(hidden_size=256)[3].startswith("warning: 276,624 parameters are far too many for 2,520 characters")
    assert "--hidden-size 64" in describe(hidden_size=256)[3]
    long = replace(corpus, ids=corpus.ids.repeat(100))
    epoch = replace(CONFIG, steps=None, epochs=1)
    few = described(start(RunFolder(tmp_path), long, replace(TINY, hidden_size=4), epoch, CPU))
    assert "far too few" in few[3]
    few_read = described(start(RunFolder(tmp_path), long, replace(TINY, hidden_size=4), CONFIG, CPU))
    assert len(few_read) == 3, "what is not read needs no parameters"


def test_width_is_chosen_from_the_budget_unless_a_shape_is_given(corpus: Corpus, tmp_path: Path) -> None:
    def width(epochs: float, shape: ModelOptions, source: Checkpoint | None = None) -> int:
        config = TrainingConfig(epochs=epochs)
        run = start(RunFolder(tmp_path), corpus, shape, config, CPU, seed=1, init_from=source)
        return run.trainer.bptt.model.config.hidden_size

    corpus = replace(corpus, ids=corpus.ids.repeat(10))
    assert width(1, OPEN) < width(1000, OPEN)
    assert width(1000, ModelOptions(hidden_size=24)) == 24
    small = start(RunFolder(tmp_path), corpus, TINY, CONFIG, CPU, seed=1).checkpoint()
    assert width(1000, OPEN, small) == TINY.hidden_size


def test_training_that_cannot_fit_is_refused_before_it_takes_the_memory(
    corpus: Corpus, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.drive([])
    monkeypatch.setattr(Runtime, "free_memory", lambda self: 10_000)
    with pytest.raises(CharRNNError, match=r"out of memory: .* lower --batch-size"):
        start(RunFolder(tmp_path), corpus, TINY, CONFIG, CPU)
    with pytest.raises(CharRNNError, match=r"out of memory"):
        resume(run.folder, corpus, {}, "cpu")


def test_text_on_the_device_leaves_less_memory_to_the_training(
    corpus: Corpus, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.drive([])
    free = 0

    def place(runtime: Runtime, tensor: Tensor) -> Tensor:
        nonlocal free
        free -= tensor.nbytes
        return tensor

    monkeypatch.setattr(Runtime, "place", place)
    monkeypatch.setattr(Runtime, "free_memory", lambda runtime: free)
    while lacking_memory(run.trainer.bptt.model.config, run.trainer.layout, CPU) is not None:
        free += 1000
    needed = free
    other = RunFolder(tmp_path / "other")
    for begin in (
        functools.partial(start, other, corpus, TINY, CONFIG, CPU),
        functools.partial(resume, run.folder, corpus, {}, "cpu"),
    ):
        free = needed + corpus.ids.nbytes
        begin()
        free = needed
        with pytest.raises(CharRNNError, match="out of memory"):
            begin()


@needs_cuda
def test_recorded_steps_train_the_weights_that_are_sampled_and_saved(corpus: Corpus, tmp_path: Path) -> None:
    run = start(RunFolder(tmp_path), corpus, TINY, replace(CONFIG, steps=60), open_runtime("cuda", "float32"), seed=3)
    weights = []
    for event in run.trainer.run():
        if isinstance(event, Evaluated):
            run.checkpoint().save(tmp_path / "x.safetensors")
            run._sample(event)
            weights.append(run.trainer.bptt.model.head.weight.detach().clone())
    assert len(weights) == 30
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))


def test_weights_can_come_from_another_run(corpus: Corpus, run: Run, tmp_path: Path) -> None:
    run.drive([])
    messages = Messages()
    best = Checkpoint.load(run.folder.best)
    started = start(RunFolder(tmp_path / "next"), corpus, OPEN, CONFIG, CPU, init_from=best, notify=messages)
    assert any(f"matched {corpus.tokenizer.size} of {corpus.tokenizer.size} symbols" in each for each in messages)
    assert not any("chose a layer" in message for message in messages), "the shape is that of the other model"
    for name, weight in started.trainer.bptt.model.state_dict().items():
        assert torch.equal(weight, best.weights[name])


def test_weights_of_another_run_are_trained_more_carefully(corpus: Corpus, run: Run, tmp_path: Path) -> None:
    run.drive([])
    best, messages = Checkpoint.load(run.folder.best), Messages()
    warm = start(RunFolder(tmp_path / "warm"), corpus, OPEN, CONFIG, CPU, seed=3, init_from=best, notify=messages)
    assert warm.trainer.learning_rate < run.trainer.learning_rate / 2
    assert any(f"chose a learning rate of {warm.trainer.learning_rate:.3g}" in message for message in messages)
    given = replace(CONFIG, learning_rate=0.01)
    assert start(RunFolder(tmp_path / "given"), corpus, OPEN, given, CPU, init_from=best).trainer.learning_rate == 0.01
    warm.drive([])
    longer = resume(warm.folder, corpus, {"steps": 30}, "cpu").trainer
    assert longer.learning_rate == warm.trainer.learning_rate
    assert longer.bptt.model.config == warm.trainer.bptt.model.config


def test_summary_is_json_with_the_promised_fields(run: Run) -> None:
    summary = json.loads(json.dumps(run.summary(run.drive([]))))
    assert list(summary) == [
        *("run", "checkpoint", "reason", "steps", "epochs", "chars", "elapsed_s", "best_val_loss", "val_chars"),
        *("bits_per_char", "val_bytes", "bits_per_byte", "perplexity", "best_val_loss_per_symbol", "chars_per_second"),
        *("device", "precision", "seed", "definition"),
    ]


@pytest.mark.parametrize(("end", "reason"), [("steps", "budget"), ("patience", "patience"), ("signal", "stopped")])
def test_summary_has_the_reason_of_the_end(corpus: Corpus, tmp_path: Path, end: str, reason: str) -> None:
    config = replace(CONFIG, steps=200, eval_every=2, patience=1, learning_rate=50.0) if end == "patience" else CONFIG
    run = start(RunFolder(tmp_path), corpus, TINY, config, CPU, seed=3)
    reporters = [Interrupt(run, 5, politely=True)] if end == "signal" else []
    assert run.summary(run.drive(reporters))["reason"] == reason


def test_times_are_those_of_training_whatever_copies_do(corpus: Corpus, tmp_path: Path) -> None:
    run = start(RunFolder(tmp_path), corpus, TINY, CONFIG, CPU, seed=3)
    begin = time.time() - 0.001
    run.open_log()
    run.drive([])
    times = [json.loads(line)["time"] for line in run.folder.metrics.read_text().splitlines()]
    assert times == sorted(times)
    written = Checkpoint.load(run.folder.last).written
    assert written is not None
    assert begin <= times[0] <= written <= times[-1] <= time.time() + 0.001
    os.utime(run.folder.last, (1, 1))
    assert run.folder.modified == written
    assert Checkpoint.load(run.folder.last).slim().written == written


def test_announced_width_is_that_of_the_option_it_names(corpus: Corpus, tmp_path: Path) -> None:
    messages = Messages()
    config = TrainingConfig(minutes=0.01)
    width = start(RunFolder(tmp_path), corpus, OPEN, config, CPU, notify=messages).trainer.bptt.model.config.hidden_size
    assert any(f"chose 1 layer of {width} units" in line and f"--hidden-size {width} " in line for line in messages)


def test_resumed_run_keeps_the_command_that_began_it(corpus: Corpus, tmp_path: Path) -> None:
    run = start(RunFolder(tmp_path), corpus, TINY, CONFIG, CPU, seed=3)
    run.command = ["charrnn", "train", "/a text.txt"]
    run.open_log()
    run.drive([])
    longer = resume(run.folder, corpus, {"steps": 25}, "cpu")
    longer.command = ["charrnn", "train", "/a text.txt", "--resume"]
    longer.open_log()
    summary = longer.summary(longer.drive([]))
    assert summary["definition"]["command"] == timeless_log_of(longer)[0]["definition"]["command"] == run.command


def test_definition_of_a_run_is_first_in_its_log_and_last_in_its_summary(corpus: Corpus, tmp_path: Path) -> None:
    source = start(RunFolder(tmp_path / "source"), corpus, TINY, CONFIG, CPU, seed=3)
    source.drive([])
    run = start(RunFolder(tmp_path / "run"), corpus, TINY, CONFIG, CPU, seed=4, init_from=source.checkpoint())
    run.open_log()
    summary = run.summary(run.drive([]))
    first, *others = timeless_log_of(run)
    assert first == {"definition": json.loads(json.dumps(summary["definition"]))}
    definition = first["definition"]
    assert definition["versions"].keys() == {"charrnn", "torch", "python"}
    assert definition["machine"]["name"]
    assert definition["corpus"]["source_digest"] == corpus.source_digest
    assert definition["preparation"] | {"drop_duplicates": False} == vars(corpus.config)
    assert definition["model"]["parameters"] == run.trainer.bptt.model.num_parameters
    assert definition["training"] == {**vars(run.trainer.config), "precision": "float32"}
    assert definition["training"]["learning_rate"] is not None, "options are as they were resolved"
    assert (definition["seed"], definition["init_from"]["seed"], definition["init_from"]["steps"]) == (4, 3, 20)
    assert all("step" in record for record in others)
    assert Checkpoint.load(run.folder.last).records == len(others), "all but the last"


def test_definition_of_a_resumed_run_has_its_new_options(corpus: Corpus, tmp_path: Path) -> None:
    source = start(RunFolder(tmp_path / "source"), corpus, TINY, CONFIG, CPU, seed=3)
    run = start(RunFolder(tmp_path / "run"), corpus, TINY, CONFIG, CPU, seed=4, init_from=source.checkpoint())
    run.open_log()
    run.drive([])
    before = timeless_log_of(run)
    longer = resume(run.folder, corpus, {"steps": 25}, "cpu")
    longer.open_log()
    assert longer.summary(longer.drive([]))["definition"]["training"]["steps"] == 25
    after = timeless_log_of(longer)
    training = before[0]["definition"]["training"] | {"steps": 25}
    assert after[0] == {"definition": before[0]["definition"] | {"training": training}}, "the origin is kept"
    assert after[1 : len(before) - 1] == before[1:-1]


def test_tiny_corpora_train_and_say_how(corpus: Corpus, tmp_path: Path) -> None:
    for size in (2, 10, 100, 400):
        tiny = replace(corpus, ids=corpus.ids[:size])
        run = start(RunFolder(tmp_path / str(size)), tiny, TINY, TrainingConfig(epochs=3), CPU)
        assert any("small" in line for line in described(run)), size
        assert run.drive([]).step == run.trainer.budget.steps
        assert Checkpoint.load(run.folder.best).snapshot.progress.step > 0


def test_idle_gpus_are_reported_once(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(RunFolder(tmp_path), corpus, TINY, CONFIG, CPU)
    assert not any("torchrun" in line for line in described(run))
    monkeypatch.setattr(probes, "count_idle", lambda device: 8)
    (line,) = (line for line in described(run) if "torchrun" in line)
    assert line.startswith("8 GPUs are idle: torchrun --standalone --nproc-per-node 8 -m charrnn train")
