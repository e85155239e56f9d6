"""The Python API, as its users import it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import charrnn
from charrnn import CharRNNError, LanguageModel
from charrnn.cli.app import app
from charrnn.files import container
from charrnn.runs.run import Run
from tests.conftest import TEXT


@pytest.fixture(scope="module")
def model(trained_run: Run) -> LanguageModel:
    return charrnn.load(trained_run.folder.path, device="cpu", data_dir=trained_run.corpus.path.parent)


def test_same_seed_gives_the_same_text_by_every_way(model: LanguageModel) -> None:
    text = model.sample("the ", seed=3, length=150, temperature=1.5)
    assert len(text) == 150
    assert "".join(model.stream("the ", seed=3, length=150, temperature=1.5)) == text
    many = model.sample_many(5, "the ", seed=3, length=150, temperature=1.5)
    assert many[0] == text
    assert len(set(many)) == 5


def test_each_call_without_a_seed_gives_another_text(model: LanguageModel) -> None:
    assert model.sample(length=50, temperature=2) != model.sample(length=50, temperature=2)


def test_stop_may_be_one_text_or_several(model: LanguageModel) -> None:
    assert model.sample(seed=1, stop="at", length=10**6) == model.sample(seed=1, stop=("at",), length=10**6)


def test_stream_comes_in_pieces(model: LanguageModel) -> None:
    stream = model.stream(length=10**9)
    assert 0 < len(next(stream)) < 1000


def test_prompts_are_normalised_as_the_corpus_was(model: LanguageModel) -> None:
    assert model.sample("the cat\r\n", seed=1, length=20) == model.sample("the cat\n", seed=1, length=20)
    with pytest.raises(CharRNNError, match="outside the vocabulary"):
        model.sample("The")


def test_what_is_banned_or_stops_is_normalised_too(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "normalise", str.lower)
    assert model.sample(seed=1, stop="AT", length=500) == model.sample(seed=1, stop="at", length=500)
    assert "t" not in model.sample(seed=1, ban="T", length=200)


def test_copies_are_of_the_models_corpus_or_of_another(model: LanguageModel, trained_run: Run, tmp_path: Path) -> None:
    text = model.sample(seed=1, length=200, temperature=1.2, avoid_copying=12)
    assert model.index_corpus().longest_copy(text) < 12
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("cat", "dog"))
    assert "the dog sat on the mat" in model.index_corpus(str(other))
    assert "the cat sat" not in model.index_corpus(str(other))
    prepared = str(trained_run.corpus.path)
    assert "the cat sat" in model.index_corpus(prepared)


def test_corpus_that_is_gone_or_has_changed_is_an_error(trained_run: Run, tmp_path: Path) -> None:
    model = charrnn.load(trained_run.folder.path, data_dir=tmp_path)
    renamed = tmp_path / "renamed.safetensors"
    original = container.read(trained_run.corpus.path, "corpus")

    def store(**changes: object) -> None:
        container.write(renamed, "corpus", original.header | changes, original.tensors)

    store()
    assert "the cat sat" in model.index_corpus()
    for change in ({"text_digest": "another"}, {"config": original.header["config"] | {"lowercase": True}}):
        store(**change)
        with pytest.raises(CharRNNError, match=r"the model's corpus is not in .*: name it"):
            model.sample(length=5, avoid_copying=3)
    store()
    (tmp_path / "damaged.safetensors").write_bytes(renamed.read_bytes()[:-1])
    renamed.unlink()
    with pytest.raises(CharRNNError, match="the model's corpus is not in"):
        model.sample(length=5, avoid_copying=3)


def test_names_in_a_checkpoint_are_no_paths(trained_run: Run, tmp_path: Path) -> None:
    corpus = trained_run.corpus.path.rename(trained_run.corpus.path.with_suffix(".aside"))
    try:
        model = charrnn.load(trained_run.folder.path)
        identity = replace(model.checkpoint.corpus, path=str(corpus))
        trusting = replace(model.checkpoint, corpus=identity)
        with pytest.raises(CharRNNError, match="the model's corpus is not in"):
            LanguageModel(trusting, model.path, model.runtime, tmp_path).index_corpus()
    finally:
        corpus.rename(trained_run.corpus.path)


def test_corpus_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    train = ["train", "tiny.txt", "--steps", "2", "--hidden-size", "8", "-q"]
    assert CliRunner().invoke(app, train).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    elsewhere = charrnn.load(tmp_path / "checkpoints" / "tiny")
    assert "the cat sat" in elsewhere.index_corpus()


def test_unknown_options_and_missing_runs_are_told(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="warmth"):
        model.sample(warmth=1)
    with pytest.raises(TypeError, match="num_samples"):
        model.sample(num_samples=5)
    with pytest.raises(CharRNNError, match="no trained model"):
        charrnn.load(tmp_path)
    with pytest.raises(AttributeError, match="lode"):
        charrnn.lode  # noqa: B018


def test_score_tells_the_surprisal_of_each_character(model: LanguageModel) -> None:
    scored = model.score("the cat sat\r\non")
    assert scored.text == "he cat sat\non"
    assert len(scored.surprisals) == len(scored.text)
    assert scored.bits_per_char == pytest.approx(sum(scored.surprisals) / len(scored.surprisals))
    assert model.score("the cat sat", window=3).bits_per_char > model.score("the cat sat").bits_per_char
    assert scored.adapted_bits_per_char is None
    adapting = model.score("the cat sat\r\non", adapt=True)
    assert adapting.adapted_bits_per_char == pytest.approx(scored.bits_per_char, abs=1e-4), "one chunk teaches nothing"
    for nothing in ("", "t", "t☃"):
        with pytest.raises(CharRNNError, match="nothing can be scored"):
            model.score(nothing)
    with pytest.raises(CharRNNError, match="--window is 0"):
        model.score("the cat", window=0)


def test_model_is_loaded_by_the_name_of_its_run(trained_run: Run) -> None:
    named = charrnn.load(trained_run.folder.path.name, checkpoint_dir=trained_run.folder.path.parent)
    assert named.path == trained_run.folder.best


def test_import_is_lazy() -> None:
    code = "import sys, charrnn; assert 'torch' not in sys.modules; charrnn.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
