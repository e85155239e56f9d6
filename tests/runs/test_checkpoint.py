"""Checkpoints and run folders."""

import contextlib
import errno
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.files.lock import NAME
from charrnn.model.network import CharRNN
from charrnn.runs.checkpoint import Checkpoint, Header
from charrnn.runs.folder import RunFolder, find_checkpoint
from charrnn.runs.reporting import MetricsLog
from charrnn.runs.run import Run
from charrnn.runs.transfer import transfer
from charrnn.text.tokenizers import CharTokenizer
from tests.support import with_weights


def test_loading_gives_back_everything(trained_run: Run, tmp_path: Path) -> None:
    saved = trained_run.checkpoint()
    saved.save(tmp_path / "c.safetensors")
    loaded = Checkpoint.load(tmp_path / "c.safetensors")
    for name in ("model_config", "training_config", "tokenizer", "corpus", "seed", "precision"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert (loaded.snapshot.progress, loaded.snapshot.cursor) == (saved.snapshot.progress, saved.snapshot.cursor)
    assert loaded.snapshot.history == saved.snapshot.history
    assert loaded.snapshot.tensors.keys() == saved.snapshot.tensors.keys()
    x = torch.tensor([[0], [1], [2]])
    torch.testing.assert_close(loaded.build_model().eval()(x)[0], trained_run.trainer.bptt.model.eval()(x)[0])


def test_checkpoint_holds_all_that_resuming_needs(trained_run: Run) -> None:
    tensors = trained_run.checkpoint().snapshot.tensors
    names = {"random.cpu", "offsets", "state.0.0", "state.0.1", "optimizer.0.exp_avg"}
    assert {f"trainer.{name}" for name in names} <= tensors.keys()


def test_weights_that_do_not_fit_their_config_are_refused(trained_run: Run, tmp_path: Path) -> None:
    checkpoint = trained_run.checkpoint()
    # A huge model is refused before memory is taken for it.
    huge = replace(checkpoint, model_config=replace(checkpoint.model_config, hidden_size=2**16, num_layers=64))
    huge.save(tmp_path / "c.safetensors")
    with pytest.raises(CharRNNError, match="do not match"):
        Checkpoint.load(tmp_path / "c.safetensors")


def test_weights_of_other_names_are_refused(trained_run: Run) -> None:
    weights = {name.upper(): tensor for name, tensor in trained_run.checkpoint().weights.items()}
    with pytest.raises(CharRNNError, match="do not match"):
        with_weights(trained_run.checkpoint(), weights).build_model()


def test_header_without_its_parts_is_refused(tmp_path: Path) -> None:
    container.write(tmp_path / "c.safetensors", "checkpoint", {"seed": 1}, {})
    with pytest.raises(CharRNNError, match="lacks or has unknown fields"):
        Checkpoint.load(tmp_path / "c.safetensors")


def test_newest_checkpoint_falls_back_to_the_one_before(trained_run: Run, tmp_path: Path) -> None:
    folder, checkpoint = RunFolder(tmp_path), trained_run.checkpoint()
    folder.save(replace(checkpoint, seed=1), best=False)
    folder.save(replace(checkpoint, seed=2), best=False)
    assert folder.load_newest()[0].seed == 2
    folder.last.write_bytes(folder.last.read_bytes()[:-1])
    loaded, warnings = folder.load_newest()
    assert (loaded.seed, len(warnings)) == (1, 1)
    folder.last.unlink()
    assert folder.load_newest()[0].seed == 1
    folder.last_but_one.write_bytes(b"")
    replace(checkpoint, seed=3).save(folder.best)
    assert folder.load_newest()[0].seed == 3
    folder.best.unlink()
    with pytest.raises(CharRNNError, match="no valid checkpoint"):
        folder.load_newest()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(trained_run: Run, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for seed in (1, 2):
        folder.save(replace(trained_run.checkpoint(), seed=seed), best=False)
    folder.last.unlink()
    os.mkfifo(folder.last)
    loaded, damaged = folder.load_newest()
    assert loaded.seed == 1
    assert "a pipe or a device" in damaged[folder.last]


@pytest.mark.parametrize("best", [True, False])
def test_first_checkpoint_of_a_run_takes_the_place_of_another_run(trained_run: Run, tmp_path: Path, best: bool) -> None:
    folder = RunFolder(tmp_path)
    for seed in (1, 2):
        folder.save(replace(trained_run.checkpoint(), seed=seed), best=True)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "last-damaged.safetensors").touch()
    folder.save_first(replace(trained_run.checkpoint(), seed=3), best=best)
    kept = {"notes.txt", "last.safetensors", "best.safetensors"} - (set() if best else {"best.safetensors"})
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert Checkpoint.load(folder.last).seed == 3
    assert not best or folder.best.samefile(folder.last)


def test_other_run_stays_where_the_first_checkpoint_cannot_be_written(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    for seed in (1, 2):
        folder.save(replace(trained_run.checkpoint(), seed=seed), best=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CharRNNError, match="No space left"):
        folder.save_first(trained_run.checkpoint(), best=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_checkpoint_is_found_by_file_folder_name_or_age(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "new")):
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        run.last.write_text("x")
        os.utime(run.last, (age, age))
    (tmp_path / "empty").mkdir()
    new = RunFolder(tmp_path / "new")
    assert find_checkpoint(new.last, tmp_path) == new.last
    assert find_checkpoint(tmp_path / "old", tmp_path) == RunFolder(tmp_path / "old").last
    assert find_checkpoint(Path("old"), tmp_path) == RunFolder(tmp_path / "old").last
    assert find_checkpoint(None, tmp_path) == new.last
    new.best.write_text("x")
    assert find_checkpoint(None, tmp_path) == new.best
    for nothing in (tmp_path / "empty", None):
        with pytest.raises(CharRNNError, match="no trained model"):
            find_checkpoint(nothing, tmp_path / "empty")
    with pytest.raises(CharRNNError, match="no trained model is called"):
        find_checkpoint(Path("older"), tmp_path)


def with_embedding(checkpoint: Checkpoint, embedding_size: int | None) -> Checkpoint:
    config = replace(checkpoint.model_config, embedding_size=embedding_size)
    return with_weights(replace(checkpoint, model_config=config), CharRNN(config).state_dict())


def test_checkpoint_is_found_by_the_name_of_its_run(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(trained_run.folder.path, tmp_path / "runs" / name)
    assert find_checkpoint("a", Path("runs")) == Path("runs/a/best.safetensors")
    with pytest.raises(CharRNNError, match=r"no trained model is called c: .* runs in runs: [ab], [ab]$"):
        find_checkpoint("c", Path("runs"))
    Path("a").write_text("a text of the same name")
    assert find_checkpoint("a", Path("runs")) == Path("runs/a/best.safetensors")
    Path("b").mkdir()
    assert find_checkpoint("b", Path("runs")) == Path("runs/b/best.safetensors")
    shutil.copytree(trained_run.folder.path, "b", dirs_exist_ok=True)
    assert find_checkpoint("b", Path("runs")) == Path("b/best.safetensors")


def test_header_is_read_without_the_tensors(trained_run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "altered.safetensors"
    copy.write_bytes(trained_run.folder.last.read_bytes()[:-1] + b"?")
    header = Header.read(copy)
    assert (header.model_config, header.counters.step) == (trained_run.checkpoint().model_config, 400)
    with pytest.raises(CharRNNError, match="digest"):
        Checkpoint.load(copy)


@pytest.mark.parametrize("embedding_size", [8, None])
def test_weights_transfer_symbol_by_symbol(trained_run: Run, embedding_size: int | None) -> None:
    checkpoint = with_embedding(trained_run.checkpoint(), embedding_size)
    tokenizer = CharTokenizer(("e", "h", "t", "Ω"), (1, 1, 1, 1))
    model = CharRNN(replace(checkpoint.model_config, vocab_size=4))
    assert transfer(checkpoint, model, tokenizer) == 3
    weights = model.state_dict()
    old = checkpoint.tokenizer.symbols.index("h")
    for name in ("head.weight", "head.bias"):
        assert torch.equal(weights[name][1], checkpoint.weights[name][old])
    recurrent = "stack.layers.0.weight_hh_l0"
    assert torch.equal(weights[recurrent], checkpoint.weights[recurrent])
    if embedding_size is None:
        table = "stack.layers.0.weight_ih_l0"
        assert torch.equal(weights[table][:, 1], checkpoint.weights[table][:, old])
    else:
        assert torch.equal(weights["embedding.weight"][1], checkpoint.weights["embedding.weight"][old])


@pytest.mark.parametrize(
    ("embedding_size", "name", "dimension"),
    [(8, "embedding.weight", 0), (8, "head.weight", 0), (None, "stack.layers.0.weight_ih_l0", 1)],
)
def test_rows_of_new_symbols_lie_among_the_known_ones(
    trained_run: Run, embedding_size: int | None, name: str, dimension: int
) -> None:
    checkpoint = with_embedding(trained_run.checkpoint(), embedding_size)
    checkpoint = with_weights(checkpoint, {each: 3 * weight + 5 for each, weight in checkpoint.weights.items()})
    tokenizer = CharTokenizer(tuple(map(chr, range(0x4E00, 0x4E00 + 400))), (1,) * 400)
    model = CharRNN(replace(checkpoint.model_config, vocab_size=400))
    assert transfer(checkpoint, model, tokenizer) == 0
    new, old = (weights[name].movedim(dimension, 0) for weights in (model.state_dict(), checkpoint.weights))
    assert torch.allclose(new.mean(0), old.mean(0), atol=0.3 * float(old.std()))
    assert 0.8 < float(new.std(0).mean() / old.std(0, correction=0).mean()) < 1.2, "or they could not be told apart"


def test_new_symbols_are_expected_as_often_as_they_occur(trained_run: Run) -> None:
    source = trained_run.checkpoint()
    known = torch.tensor(source.tokenizer.counts) / sum(source.tokenizer.counts)
    source = with_weights(source, source.weights | {"head.bias": known.log() + 2})
    tokenizer = CharTokenizer(("e", "Ω", "Ψ", "Φ"), (50, 40, 10, 0))
    model = CharRNN(replace(source.model_config, vocab_size=4))
    transfer(source, model, tokenizer)
    e, *new = model.head.bias.tolist()
    assert e == pytest.approx(float(source.weights["head.bias"][source.tokenizer.symbols.index("e")]))
    assert new == pytest.approx([2 + math.log(count / 101) for count in (40, 10, 1)], abs=1e-5)


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("at_fsync", [0, 1, 2, 3])
def test_save_never_touches_a_folder_that_became_anothers(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: bool, at_fsync: int
) -> None:
    """The folder goes, and another trainer's comes, before a save or at one of its calls of fsync."""
    theirs, fsync, calls = RunFolder(tmp_path / "run"), os.fsync, 0

    def replace_folder() -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        shutil.rmtree(theirs.path)
        for seed in (1, 2):
            theirs.save(replace(trained_run.checkpoint(), seed=seed), best=seed == 1)
        (theirs.path / NAME).touch()

    def sync_and_replace(descriptor: int) -> None:
        nonlocal calls
        fsync(descriptor)
        calls += 1
        if calls == at_fsync:
            replace_folder()

    with contextlib.suppress(CharRNNError), theirs.locked() as folder:
        folder.save(replace(trained_run.checkpoint(), seed=7), best=True)
        if at_fsync == 0:
            replace_folder()
        monkeypatch.setattr(os, "fsync", sync_and_replace)
        folder.save(replace(trained_run.checkpoint(), seed=8), best=best)
    if not theirs.last.exists() or Checkpoint.load(theirs.last).seed == 8:
        assert at_fsync > calls, "nobody took the folder"
        return
    seeds = {path.name: Checkpoint.load(path).seed for path in (theirs.last, theirs.last_but_one, theirs.best)}
    assert seeds == {"last.safetensors": 2, "last-1.safetensors": 1, "best.safetensors": 1}
    assert len(list(theirs.path.iterdir())) == 4


def test_save_does_not_recreate_a_removed_folder(trained_run: Run, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").locked() as folder:
        shutil.rmtree(folder.path)
        with pytest.raises(CharRNNError, match="no longer this process's"):
            folder.save(trained_run.checkpoint(), best=True)
        with pytest.raises(CharRNNError, match="no longer this process's"):
            folder.save_first(trained_run.checkpoint(), best=True)
        with pytest.raises(CharRNNError, match="no longer this process's"):
            MetricsLog(folder.metrics, guard=folder.guard).start()
    assert list(tmp_path.iterdir()) == []
