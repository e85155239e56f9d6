"""Runs on words, bytes and documents resume, measure, share weights and refuse damage as those on characters do."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.api import LanguageModel
from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.inspection import inspect, list_runs
from charrnn.runs.resume import resume
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.runs.transfer import transfer
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from charrnn.text.words import EOS_MARK
from tests.support import CPU, TEXT, TINY, StopAt, described, log_of, marked_text

UNITS: dict[str, dict[str, Any]] = {
    "words": {"unit": "word", "max_vocab": 12},
    "bytes": {"unit": "byte"},
    "documents": {"separator": "\n"},
    "documents of words": {"unit": "word", "separator": "\n"},
}
STEPS = TrainingConfig(steps=24, batch_size=4, seq_length=8, eval_every=8, checkpoint_every=8)


@pytest.fixture(params=UNITS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return UNITS[request.param]


def corpus_of(folder: Path, text: str = TEXT, **options: Any) -> Corpus:
    (folder / "text.txt").write_text(text, encoding="utf-8")
    sources = find_sources([str(folder / "text.txt")])
    return prepare(sources, PreparationConfig(**options), folder / "corpus.safetensors", overwrite=True)


def trained(folder: Path, corpus: Corpus, config: TrainingConfig = STEPS) -> Run:
    run = start(RunFolder(folder), corpus, TINY, config, CPU, seed=1)
    run.open_log()
    run.drive([])
    return run


def test_stopped_run_ends_as_if_it_had_not_been(tmp_path: Path, options: dict[str, Any]) -> None:
    corpus = corpus_of(tmp_path, **options)
    whole = trained(tmp_path / "whole", corpus)
    broken = start(RunFolder(tmp_path / "broken"), corpus, TINY, STEPS, CPU, seed=1)
    broken.open_log()
    broken.drive([StopAt(broken, 13)])
    resumed = resume(RunFolder(tmp_path / "broken"), corpus, {}, "cpu")
    assert resumed.trainer.progress.step == 13
    resumed.open_log()
    resumed.drive([])
    ours, theirs = (Checkpoint.load(run.folder.last).snapshot for run in (resumed, whole))
    assert (ours.cursor, ours.progress) == (theirs.cursor, theirs.progress)
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in ours.tensors.items())


def test_inspection_counts_characters_whatever_a_symbol_is(tmp_path: Path, options: dict[str, Any]) -> None:
    corpus = corpus_of(tmp_path, TEXT + "é\n", **options)
    facts = inspect(str(corpus.path), tmp_path)
    assert facts["characters"] == len(TEXT) + 2
    assert facts["symbols"] == (None if corpus.config.unit == "char" else len(corpus.ids))
    assert facts["documents"] == (corpus.tokenizer.num_documents or None)
    assert all(facts["vocabulary"]["rarest"].values()), "no bytes that never occur"


def test_preflight_counts_words_and_gives_the_rate_in_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charrnn.runs.preflight.seconds_per_step", lambda bptt: 1.0)
    run = start(RunFolder(tmp_path), corpus_of(tmp_path, unit="word"), TINY, STEPS, CPU, seed=1)
    text = run.trainer.bptt.text
    model, _, budget = described(run)[:3]
    assert f"corpus: {len(text.train):,} words to train" in model
    assert f"at about {32 * text.chars_per_symbol:,.0f} characters/s" in budget


def test_losses_are_per_character_and_those_of_score(tmp_path: Path, options: dict[str, Any]) -> None:
    corpus = corpus_of(tmp_path, **options)
    run = trained(tmp_path / "run", corpus, replace(STEPS, steps=64))
    held_out = run.trainer.bptt.text.val
    num_chars = corpus.tokenizer.count_chars(held_out[1:])
    scorer = LanguageModel(Checkpoint.load(run.folder.best), tmp_path, CPU).scorer()
    parts = list(scorer.score(["".join(corpus.tokenizer.decode_marked(held_out))]))
    bits = sum(float(part.surprisals.double().sum()) for part in parts) / sum(part.num_chars for part in parts)
    assert run.trainer.history.best_val_loss == pytest.approx(bits * math.log(2), abs=1e-4)
    assert run.trainer.history.best_val_chars == round(num_chars)
    evaluated = [record for record in log_of(run) if "val_loss" in record]
    ratio = num_chars / (len(held_out) - 1)
    assert all(record["chars"] == round(record["step"] * 32 * ratio) for record in evaluated)
    assert evaluated[-1]["val_loss"] < math.log(corpus.tokenizer.size) / ratio


def test_no_document_is_cut_by_the_split(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, separator="\n")
    run = start(RunFolder(tmp_path / "run"), corpus, TINY, STEPS, CPU, seed=1)
    text = run.trainer.bptt.text
    train, val = ("".join(corpus.tokenizer.decode_marked(ids)) for ids in (text.train, text.val))
    assert train[-1] == val[0] == val[-1] == EOS_MARK
    assert train[:-1] + val == marked_text(corpus)
    assert 0.05 < len(val) / len(corpus.ids) < 0.15


def test_weights_are_matched_by_word_eos_and_unknown_symbol(tmp_path: Path) -> None:
    source = trained(tmp_path / "source", corpus_of(tmp_path, unit="word", separator="\n", max_vocab=9))
    corpus = corpus_of(tmp_path, "the cat sat\nthe cow sat on\n" * 40, unit="word", separator="\n", min_count=50)
    checkpoint = Checkpoint.load(source.folder.last)
    run = start(RunFolder(tmp_path / "new"), corpus, TINY, STEPS, CPU, seed=1, init_from=checkpoint)
    weight = run.trainer.bptt.model.head.weight
    for ours, theirs in (
        (corpus.tokenizer.eos_id, checkpoint.tokenizer.eos_id),
        (corpus.tokenizer.unk_id, checkpoint.tokenizer.unk_id),
        (corpus.tokenizer.symbols.index(" sat"), checkpoint.tokenizer.symbols.index(" sat")),
    ):
        assert torch.equal(weight[ours], checkpoint.weights["head.weight"][theirs])
    with pytest.raises(
        CharRNNError, match=r"a model of words, but the corpus consists of characters: prepare .* --unit word"
    ):
        transfer(checkpoint, run.trainer.bptt.model, corpus_of(tmp_path).tokenizer)


def test_damage_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    run = trained(tmp_path / "run", corpus_of(tmp_path, **options))
    for path in (run.folder.last, tmp_path / "corpus.safetensors"):
        data = bytearray(path.read_bytes())
        for place in (len(data) // 3, len(data) - 2):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(CharRNNError, match="damaged or was altered"):
                (Checkpoint.load if path == run.folder.last else Corpus.open)(path)


def test_runs_lists_the_units(tmp_path: Path, options: dict[str, Any]) -> None:
    trained(tmp_path / "runs" / "mine", corpus_of(tmp_path, **options))
    (listed,) = list_runs(tmp_path / "runs")
    assert listed["unit"] == options.get("unit", "char")
