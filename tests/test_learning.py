"""`charrnn.train` and `charrnn.prepare`, as their users call them."""

import inspect
import json
import pydoc
import re
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import charrnn
from charrnn import CharRNNError, LanguageModel
from charrnn.config import ModelOptions, PreparationConfig, TrainingConfig, options_of
from charrnn.files import container
from charrnn.keywords import PreparationOptions, TrainingOptions
from tests.support import TEXT, Command

TINY: dict[str, Any] = {"hidden_size": 8, "batch_size": 4, "seq_length": 16, "seed": 1, "device": "cpu", "quiet": True}


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.txt"
    path.write_text(TEXT)
    return path


def losses(model: LanguageModel) -> list[float]:
    return [record["val_loss"] for record in model.history if "val_loss" in record]


def test_path_list_and_text_itself_give_the_same_model(text: Path) -> None:
    from_path = charrnn.train(text, steps=20, **TINY)
    expected = from_path.sample(length=50, seed=1)
    half = TEXT[: len(TEXT) // 2]
    Path("a.txt").write_text(half)
    Path("b.txt").write_text(TEXT[len(half) :])
    for other in (
        charrnn.train("tiny.txt", steps=20, **TINY),
        charrnn.train([Path("a.txt"), "b.txt"], steps=20, **TINY),
        charrnn.train(text=TEXT, steps=20, **TINY),
        charrnn.train(charrnn.prepare(text, quiet=True), steps=20, **TINY),
    ):
        assert other.sample(length=50, seed=1) == expected
        assert losses(other) == losses(from_path)


def test_run_equals_that_of_the_command_line(text: Path, installed: Command) -> None:
    model = charrnn.train(text, run="checkpoints/python", steps=20, **TINY)
    options = "--hidden-size 8 --batch-size 4 --seq-length 16 --seed 1 --device cpu --steps 20 --quiet"
    assert installed("train", text, "--run", "checkpoints/shell", *options.split()).returncode == 0
    assert charrnn.load("checkpoints/shell").sample(length=50, seed=1) == model.sample(length=50, seed=1)
    assert sorted(path.name for path in Path("checkpoints/python").iterdir() if path.name != ".lock") == [
        "best.safetensors",
        "last-1.safetensors",
        "last.safetensors",
        "metrics.jsonl",
    ]


def test_without_a_run_nothing_stays_on_disk(text: Path) -> None:
    model = charrnn.train(text, steps=5, **TINY)
    folder = model.path.parent.parent
    assert model.path.exists()
    assert list(text.parent.iterdir()) == [text]
    del model
    assert not folder.exists()
    with pytest.raises(CharRNNError):
        charrnn.train(text, steps=5, **TINY | {"batch_size": 10**6, "hidden_size": 2**16})


def test_saved_model_outlives_its_folder(text: Path) -> None:
    model = charrnn.train(text, steps=5, **TINY)
    model.save("kept.safetensors")
    expected = model.sample(length=50, seed=1)
    del model
    assert charrnn.load("kept.safetensors").sample(length=50, seed=1) == expected


def test_resumed_run_equals_an_uninterrupted_one(text: Path) -> None:
    whole = charrnn.train(text, run="whole", epochs=4, **TINY)

    def stop(record: dict[str, Any]) -> None:
        if "val_loss" in record and record["epoch"] < 1:
            signal.raise_signal(signal.SIGINT)

    stopped = charrnn.train(text, run="parts", epochs=4, on_event=stop, **TINY)
    assert len(losses(stopped)) == 1
    resumed = charrnn.train(run="parts", epochs=4, resume=True, device="cpu", quiet=True)
    assert losses(resumed) == losses(whole)


def test_ctrl_c_returns_the_model_as_trained_so_far(text: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    records: list[dict[str, Any]] = []

    def stop(record: dict[str, Any]) -> None:
        records.append(record)
        if len(records) == 1:
            signal.raise_signal(signal.SIGINT)

    model = charrnn.train(text, steps=10**6, eval_every=50, on_event=stop, **TINY)
    assert records[-1]["finished"] == "stopped"
    assert 0 < records[-1]["step"] <= 101
    assert len(model.sample(length=20)) == 20
    assert signal.getsignal(signal.SIGINT) == before


def test_second_ctrl_c_raises_keyboard_interrupt(text: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        charrnn.train(text, steps=10**6, eval_every=50, on_event=stop, **TINY)


def test_error_of_a_callback_ends_the_training(text: Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        charrnn.train(text, steps=10**6, eval_every=50, on_event=fail, **TINY)


def test_training_works_in_another_thread(text: Path) -> None:
    models: list[LanguageModel] = []
    thread = threading.Thread(target=lambda: models.append(charrnn.train(text, steps=5, **TINY)))
    thread.start()
    thread.join(60)
    assert len(models[0].sample(length=20)) == 20


def test_history_and_events_are_the_records_of_the_log(text: Path) -> None:
    events: list[dict[str, Any]] = []
    model = charrnn.train(text, run="run", steps=250, on_event=events.append, **TINY)
    log = [json.loads(line) for line in Path("run", "metrics.jsonl").read_text().splitlines()]
    assert model.history == log[1:]
    assert [(event["step"], event.keys() & {"train_loss", "val_loss", "text"}) for event in events] == [
        (record["step"], record.keys() & {"train_loss", "val_loss", "text"}) for record in log[1:]
    ]
    assert {"train_loss", "val_loss", "text", "finished"} <= {name for event in events for name in event}


def test_plot_draws_the_losses_of_the_history(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    model = charrnn.train(text, steps=250, **TINY)
    training, validation = model.plot().lines
    assert np.asarray(validation.get_ydata()).tolist() == losses(model)
    assert np.asarray(training.get_xdata()).tolist() == [r["chars"] for r in model.history if "train_loss" in r]
    model.save("alone.safetensors")
    assert charrnn.load("alone.safetensors").plot().lines[:] == []


def test_surprisals_are_those_of_the_score(text: Path) -> None:
    model = charrnn.train(text, steps=20, **TINY)
    surprisals, score = model.surprisal("the cat"), model.score("the cat")
    assert [symbol for symbol, _ in surprisals] == list("he cat")
    assert [bits for _, bits in surprisals] == score.surprisals


def test_html_of_symbols_shows_them_as_text() -> None:
    shown = charrnn.Surprisals([("<b>", 9.0), ("&", 0.5)])._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    assert "&amp;" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": TEXT, "corpus": "tiny.txt"}, "set either a path or text="),
        ({"corpus": []}, "the list of paths is empty"),
        ({"corpus": "missing.txt"}, "missing.txt does not exist"),
        ({"text": TEXT, "steps": 5, "minutes": 1}, "^steps and minutes exclude each other: set one budget$"),
        ({"text": TEXT, "dropout": 2}, "^dropout is 2: it must be at least 0 and below 1$"),
        ({"text": TEXT, "resume": True}, "^resume needs the folder of a run"),
        ({"text": ""}, "empty"),
        ({"text": TEXT, "init_from": "nothing"}, "no trained model is called nothing"),
        ({"text": TEXT, "device": "tpu"}, "device"),
        ({"text": TEXT, "seed": 2**31}, "^seed is 2147483648: it must be a whole number from 0"),
        ({"text": TEXT, "seed": "5"}, "^seed is '5'"),
        ({"text": TEXT, "lowercase": 1}, "^lowercase is 1: it must be True or False$"),
        ({"text": TEXT, "separator": 5}, "^separator is 5: it must be a string$"),
        ({"text": TEXT, "size": "huge"}, "^size is 'huge': it must be one of small, medium, large$"),
        ({"text": TEXT, "encoding": "cp1252"}, "^encoding is 'cp1252': it is for files"),
        ({"text": "a\ud800b" * 100}, "^text= is not a string of Unicode characters"),
        ({"text": 5}, "^text= is not a string"),
    ],
)
def test_wrong_arguments_are_errors(options: dict[str, Any], message: str, text: Path) -> None:
    with pytest.raises(CharRNNError, match=message):
        charrnn.train(**{"quiet": True, **options})
    assert list(text.parent.iterdir()) == [text]
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument 'minuets'"):
        charrnn.train(text, minuets=3)  # type: ignore[call-arg]


def test_several_processes_are_sent_to_torchrun(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(CharRNNError, match="torchrun"):
        charrnn.train(text, steps=5, **TINY)


def test_zero_embedding_size_is_one_hot_and_none_the_default(text: Path) -> None:
    one_hot = charrnn.train(text, steps=2, embedding_size=0, **TINY)
    assert one_hot.module.embedding is None
    unset = dict.fromkeys(TrainingOptions.__annotations__, None) | {"steps": 2}
    default = charrnn.train(text, **TINY | unset)
    assert default.module.embedding is not None


def test_keywords_are_the_options_of_the_command_line() -> None:
    preparation = options_of(PreparationConfig)
    assert set(PreparationOptions.__annotations__) == set(preparation)
    options = preparation | options_of(ModelOptions) | options_of(TrainingConfig)
    assert set(TrainingOptions.__annotations__) == set(options)
    for function, names in ((charrnn.prepare, set(preparation)), (charrnn.train, set(options))):
        assert names < set(inspect.signature(function).parameters)
        page = pydoc.plain(pydoc.render_doc(function))
        assert all(re.search(rf"^ *{name}: [A-Z]", page, re.MULTILINE) for name in names)
        assert not re.search(r"--[a-z]", page)


def test_prepared_corpus_has_ids_and_a_vocabulary(text: Path) -> None:
    corpus = charrnn.prepare(text, lowercase=True, quiet=True)
    assert corpus.path == Path("data/tiny.safetensors")
    assert corpus.tokenizer.decode(corpus.ids) == TEXT.lower()
    assert charrnn.prepare(text, lowercase=True, quiet=True).path == corpus.path
    with pytest.raises(CharRNNError, match="made with other options"):
        charrnn.prepare(text, quiet=True)
    assert charrnn.prepare(text, overwrite=True, quiet=True).config == PreparationConfig()
    validation = charrnn.prepare(text=TEXT, validate=text, output="both.safetensors", quiet=True)
    assert validation.validation_start == len(TEXT)
    assert container.is_stored(Path("both.safetensors"))


def test_printed_lines_name_keywords(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    charrnn.train(text, steps=5, hidden_size=8, seed=1, device="cpu")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"^done: 5 steps", printed.err, re.MULTILINE)
    assert "--" not in printed.err
