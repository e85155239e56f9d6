"""Behaviour that no refactoring may change: corpora, samples, scores, JSON, of files written by version 0.1.0.

What is pinned, and how to record it again, is in `update.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import update
from tests.support import needs_fbgemm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    update.lay_out(folder)
    return folder


def golden(name: str) -> Any:
    return json.loads((update.HERE / f"{name}.json").read_text())


@pytest.mark.parametrize("name", update.CORPORA)
def test_corpora_of_texts_are_the_same_to_the_byte(folder: Path, name: str) -> None:
    assert update.record_corpus(folder, *update.CORPORA[name]) == golden("corpora")[name]


@pytest.mark.parametrize("name", update.FOLDERS)
def test_corpora_of_folders_are_the_same(folder: Path, name: str) -> None:
    assert update.record_folder(folder, update.FOLDERS[name]) == golden("corpora")[name]


@pytest.mark.parametrize("model", update.MODELS)
@pytest.mark.parametrize("precision", [pytest.param("int8", marks=needs_fbgemm), "float32"])
def test_seeds_give_the_same_samples(folder: Path, precision: str, model: str) -> None:
    expected = golden(precision)[model]
    found = json.loads(json.dumps(update.record_samples(folder, model, precision)))
    for name, sample in expected.items():
        assert nearly(found[name]) == nearly(sample), name


@pytest.mark.parametrize("model", update.MODELS)
def test_texts_have_the_same_scores(folder: Path, model: str) -> None:
    found, expected = update.record_scores(folder, model), golden("scores")[model]
    for name, score in expected.items():
        assert nearly(found[name]) == nearly(score), name


def test_facts_about_files_are_the_same(folder: Path) -> None:
    assert json.loads(json.dumps(update.record_facts(folder))) == golden("facts")


@pytest.mark.parametrize("run", update.TRAININGS)
def test_trainings_report_and_log_the_same_facts(tmp_path: Path, run: str) -> None:
    update.lay_out(tmp_path)
    assert json.loads(json.dumps(update.record_training(tmp_path, run))) == golden("training")[run]


def nearly(values: Any) -> Any:
    """Values whose numbers compare with a tolerance: sums of other CPUs differ in their last bits."""
    if isinstance(values, float):
        return pytest.approx(values, rel=1e-3, abs=1e-4)
    if isinstance(values, dict):
        return {key: nearly(value) for key, value in values.items()}
    return [nearly(value) for value in values] if isinstance(values, list) else values
