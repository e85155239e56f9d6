"""Files written before the modules were put into folders: they open, train on and sample."""

import json
import shutil
from pathlib import Path

import pytest

from charrnn.runs.checkpoint import Checkpoint
from charrnn.text.corpus import Corpus
from tests.support import Command, marked_text, needs_fbgemm

BEFORE = Path(__file__).parent / "before"
SAMPLE = 'cywre"  aae asae  n l a odte  tm te  de ot nb  se rsoiee e i terea e are cs  o o'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_corpus_opens_as_it_was() -> None:
    corpus = Corpus.open(BEFORE / "fable.safetensors")
    assert marked_text(corpus).startswith("once upon a time there was a prince")
    assert (len(marked_text(corpus)), corpus.tokenizer.size, corpus.tokenizer.unk_id) == (6000, 34, 33)
    assert corpus.config.normalize == "none"
    assert Checkpoint.load(BEFORE / "run/last.safetensors").corpus.matches(corpus)


@needs_fbgemm
def test_checkpoint_samples_the_same_text(folder: Path, charrnn: Command) -> None:
    options = ["--seed", "3", "-n", str(len(SAMPLE)), "-t", "0.7", "--precision", "int8", "--json"]
    done = charrnn("sample", "run/last.safetensors", *options)
    assert json.loads(done.stdout)["text"] == SAMPLE


def test_run_of_an_older_version_continues(folder: Path, charrnn: Command) -> None:
    done = charrnn("train", "fable.safetensors", "--run", "run", "--resume", "--steps", "120", "--json")
    summary = json.loads(done.stdout)
    assert summary["best_val_loss"] == pytest.approx(2.93606407, rel=1e-5)
    assert (summary["steps"], summary["val_chars"]) == (120, 599)
    records = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    losses = [record["val_loss"] for record in records if record["step"] > 70 and "val_loss" in record]
    assert losses == pytest.approx([2.91762346, 2.90529972, 2.93606407], rel=1e-5)
    assert Checkpoint.load(folder / "run/last.safetensors").training_config.steps == 120
