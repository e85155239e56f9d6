"""The Python API, as its users import it."""

import inspect
import math
import pydoc
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import charrnn
from charrnn import CharRNNError, LanguageModel
from charrnn.cli.app import app
from charrnn.config import Cell, ModelOptions, PreparationConfig, SamplingConfig, TrainingConfig
from charrnn.files import container
from charrnn.keywords import SamplingOptions
from charrnn.model.network import evaluating
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from charrnn.text.tokenizers import UNKNOWN_CHAR, CharTokenizer
from tests.support import CPU, TEXT


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


def test_banned_characters_may_be_one_text_or_several(model: LanguageModel) -> None:
    text = model.sample(seed=1, ban=["e", "th"], length=200)
    assert text == model.sample(seed=1, ban="eth", length=200)
    assert not set("eth") & set(text)


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
    assert len(model.index_corpus().longest_copy(text)) < 12
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("cat", "dog"))
    assert "the dog sat on the mat" in model.index_corpus(str(other)).text
    assert "the cat sat" not in model.index_corpus(str(other)).text
    prepared = str(trained_run.corpus.path)
    assert "the cat sat" in model.index_corpus(prepared).text


def test_corpus_that_is_gone_or_has_changed_is_an_error(trained_run: Run, tmp_path: Path) -> None:
    model = charrnn.load(trained_run.folder.path, data_dir=tmp_path)
    model.checkpoint = replace(model.checkpoint, corpus=replace(model.checkpoint.corpus, path="gone"))
    renamed = tmp_path / "renamed.safetensors"
    original = container.read(trained_run.corpus.path, "corpus")

    def store(**changes: object) -> None:
        container.write(renamed, "corpus", original.header | changes, original.tensors)

    store()
    assert "the cat sat" in model.index_corpus().text
    for change in ({"text_digest": "another"}, {"config": original.header["config"] | {"lowercase": True}}):
        store(**change)
        with pytest.raises(CharRNNError, match=r"the model's corpus was not found at gone or in .*: use corpus"):
            model.sample(length=5, avoid_copying=3)
    store()
    (tmp_path / "damaged.safetensors").write_bytes(renamed.read_bytes()[:-1])
    renamed.unlink()
    with pytest.raises(CharRNNError, match="the model's corpus was not found at"):
        model.sample(length=5, avoid_copying=3)


def test_corpus_outside_the_data_folder_is_found_at_its_recorded_path(trained_run: Run, tmp_path: Path) -> None:
    model = charrnn.load(trained_run.folder.path, data_dir=tmp_path)
    aside = trained_run.corpus.path.rename(trained_run.corpus.path.with_suffix(".aside"))
    try:
        for path, is_found in ((aside, True), ("/dev/zero", False), (model.path, False), (tmp_path, False)):
            checkpoint = replace(model.checkpoint, corpus=replace(model.checkpoint.corpus, path=str(path)))
            found = checkpoint.corpus.find(tmp_path / "a" / "b" / "best.safetensors", tmp_path)
            assert (found is not None) == is_found, path
    finally:
        aside.rename(trained_run.corpus.path)


def test_folders_are_those_of_the_environment(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_CHECKPOINT_DIR", str(trained_run.folder.path.parent))
    assert charrnn.load(trained_run.folder.path.name).path == trained_run.folder.best


def test_corpus_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    train = ["train", "tiny.txt", "--steps", "2", "--hidden-size", "8", "-q"]
    assert CliRunner().invoke(app, train).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    elsewhere = charrnn.load(tmp_path / "checkpoints" / "tiny")
    assert "the cat sat" in elsewhere.index_corpus().text


def test_unknown_options_and_missing_runs_are_errors(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"sample\(\) got an unexpected keyword argument 'warmth'"):
        model.sample(warmth=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="num_samples"):
        model.sample(num_samples=5)  # type: ignore[call-arg]
    with pytest.raises(CharRNNError, match="no trained model"):
        charrnn.load(tmp_path)
    with pytest.raises(AttributeError, match="lode"):
        charrnn.lode  # noqa: B018


def test_none_is_the_default_of_each_option(model: LanguageModel) -> None:
    unset = dict.fromkeys(SamplingOptions.__annotations__, None) | {"length": 30}
    assert model.sample(seed=1, **unset) == model.sample(seed=1, length=30)  # type: ignore[arg-type]
    assert model.sample(seed=1, stop=[], length=30) == model.sample(seed=1, length=30)


def test_signatures_and_help_list_each_option(model: LanguageModel) -> None:
    """That mypy finds misspelt keywords is shown by the ignored errors above: unused ones are errors too."""
    options = {each.name: each for each in fields(SamplingConfig) if each.name != "num_samples"}
    assert set(SamplingOptions.__annotations__) == set(options)
    for method in (model.sample, model.stream, model.sample_many):
        parameters = inspect.signature(method).parameters
        assert {name: parameters[name].default for name in options} == {n: each.default for n, each in options.items()}
        assert all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        for name in options:
            assert re.search(rf"^ *{name}: [A-Z]", pydoc.plain(pydoc.render_doc(method)), re.MULTILINE)
    assert not re.search(r"--[a-z]", pydoc.plain(pydoc.render_doc(LanguageModel)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, r"^temperature is -1: it must be from 0 to 1,000$"),
        ({"ban": TEXT}, r"^ban leaves no symbol to sample: ban fewer$"),
        ({"avoid_copying": 1, "length": 5}, r"^sample 0 gave up at .*; raise avoid_copying or temperature$"),
    ],
)
def test_errors_name_keywords(model: LanguageModel, options: Any, message: str) -> None:
    with pytest.raises(CharRNNError, match=message):
        model.sample(**options)


def test_errors_of_loading_and_scoring_name_keywords(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match=r"^precision 'odd' is unknown"):
        charrnn.load(model.path, precision="odd")
    with pytest.raises(CharRNNError, match=r"^window is 0: it must be"):
        model.score("the cat", window=0)
    elsewhere = charrnn.load(model.path, data_dir=tmp_path)
    elsewhere.checkpoint = replace(elsewhere.checkpoint, corpus=replace(elsewhere.checkpoint.corpus, path="gone"))
    with pytest.raises(CharRNNError, match=r": use corpus=FILE$"):
        elsewhere.sample(avoid_copying=3)


def test_next_gives_the_probability_of_each_symbol(model: LanguageModel) -> None:
    probabilities = model.next("the cat sat\r\non the ")
    assert sum(probabilities.values()) == pytest.approx(1)
    assert list(probabilities.values()) == sorted(probabilities.values(), reverse=True)
    assert set(probabilities) == set(model.tokenizer.symbols)
    assert {"m", "l"} == set(list(probabilities)[:2]), "the mat and the log"
    for text, following in (("the cat sat", " "), ("\nthe dog", " "), ("", "t")):
        scored = model.score((text or "\n") + following)
        assert -math.log2(model.next(text)[following]) == pytest.approx(scored.surprisals[-1], abs=1e-4)
    with pytest.raises(CharRNNError, match="outside the vocabulary"):
        model.next("XYZ")


def test_next_counts_the_unknown_symbol(model: LanguageModel) -> None:
    symbols, counts = model.tokenizer.symbols, model.tokenizer.counts
    for kept in (symbols[:-1], (*symbols[:-2], UNKNOWN_CHAR)):  # one of which holds the unknown symbol's sign
        folding = replace(model.checkpoint, tokenizer=CharTokenizer(kept, counts))
        probabilities = LanguageModel(folding, model.path, model.runtime).next(symbols[0])
        assert sum(probabilities.values()) == pytest.approx(1)
        assert set(probabilities) == {*kept, UNKNOWN_CHAR}


@pytest.mark.parametrize(("cell", "num_layers"), [("lstm", 2), ("gru", 1), ("rnn", 2)])
def test_states_are_those_of_the_module(corpus: Corpus, tmp_path: Path, cell: Cell, num_layers: int) -> None:
    options = ModelOptions(cell=cell, num_layers=num_layers, hidden_size=8)
    run = start(RunFolder(tmp_path), corpus, options, TrainingConfig(steps=1), CPU, seed=1)
    model = LanguageModel(run.checkpoint(), tmp_path, CPU)
    states = model.states("the cat")
    assert states.symbols == tuple("the cat")
    assert states.h.shape == (num_layers, 7, 8)
    x = model.tokenizer.encode("the cat").long()[:, None]
    with evaluating(model.module):
        logits, after = model.module(x)
    torch.testing.assert_close(model.module.head(states.h[-1]), logits[:, 0])  # which autograd may go through
    torch.testing.assert_close(states.h[:, -1], torch.cat([layer[0][0] for layer in after]))
    if cell == "lstm":
        assert states.c is not None
        torch.testing.assert_close(states.c[:, -1], torch.cat([layer[1][0] for layer in after]))
        assert states.c.shape == states.h.shape
    else:
        assert states.c is None
    assert model.states("").h.shape == (num_layers, 0, 8)


def test_symbols_may_be_words_and_texts_documents(text_file: Path, tmp_path: Path) -> None:
    config = PreparationConfig(unit="word", separator="\n")
    corpus = prepare(find_sources([str(text_file)]), config, tmp_path / "words.safetensors")
    run = start(RunFolder(tmp_path), corpus, ModelOptions(hidden_size=8), TrainingConfig(steps=1), CPU, seed=1)
    model = LanguageModel(run.checkpoint(), tmp_path, CPU)
    assert model.states("the cat\na hen").symbols == ("", "the", " cat", "", "a", " hen")
    probabilities = model.next("the cat")
    assert {" sat", " dog", ""} <= set(probabilities)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert model.next("cat") == model.next(" cat") != probabilities  # a prompt's first word is known with its space
    assert model.next() != probabilities
    assert model.score("the cat\na hen").symbols == [" cat", "\n", "a", " hen"]


def test_representations_are_informative_and_short(model: LanguageModel) -> None:
    steps, loss = model.checkpoint.snapshot.progress.step, model.checkpoint.snapshot.history.best_val_loss
    shape = f"1 x 32 LSTM, {model.module.num_parameters:,} parameters, {model.tokenizer.size} symbols"
    learned = f"trained for {steps} steps, best validation loss {loss:.4f}"
    assert repr(model) == f"<LanguageModel {model.path}: {shape}, {learned}, {model.runtime.precision} on cpu>"
    assert f"<li>{model.tokenizer.size} symbols</li>" in model._repr_html_()
    assert len(repr(model.score(TEXT))) < 200


def test_the_tokenizer_keeps_its_name_of_version_0_1(model: LanguageModel) -> None:
    assert model.vocabulary is model.tokenizer


def test_the_package_lists_what_it_offers() -> None:
    assert dir(charrnn) == sorted(charrnn.__all__)
    assert all(hasattr(charrnn, name) for name in dir(charrnn))


def test_score_returns_the_surprisal_of_each_character(model: LanguageModel) -> None:
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
    with pytest.raises(CharRNNError, match="window is 0"):
        model.score("the cat", window=0)


def test_model_is_loaded_by_the_name_of_its_run(trained_run: Run) -> None:
    named = charrnn.load(trained_run.folder.path.name, checkpoint_dir=trained_run.folder.path.parent)
    assert named.path == trained_run.folder.best


def test_import_is_lazy() -> None:
    code = "import sys, charrnn; assert 'torch' not in sys.modules; charrnn.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
