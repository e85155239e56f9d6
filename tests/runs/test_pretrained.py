"""The model `english` that comes with charrnn, and weights in 8 bits."""

import json
from pathlib import Path

import pytest
import torch

import charrnn
from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.model.quantisation import quantised
from charrnn.runs.checkpoint import KIND, Checkpoint
from charrnn.runs.folder import PRETRAINED, find_checkpoint
from charrnn.runs.preflight import recommend_english
from charrnn.runs.run import Run
from charrnn.text.sources import find_tales
from tests.support import Command, Messages, prepared

TALES = find_tales().read_text()


def test_rounded_checkpoint_is_small_and_samples_alike(trained_run: Run, tmp_path: Path) -> None:
    checkpoint = Checkpoint.load(trained_run.folder.best)
    checkpoint.quantised().save(tmp_path / "rounded.safetensors")
    checkpoint.slim().save(tmp_path / "slim.safetensors")
    loaded = Checkpoint.load(tmp_path / "rounded.safetensors")
    for name, weight in checkpoint.weights.items():
        torch.testing.assert_close(loaded.weights[name], weight, rtol=0, atol=float(weight.abs().max()) / 127)
    assert not loaded.can_be_resumed
    small, large = (container.read(tmp_path / f"{name}.safetensors", KIND) for name in ("rounded", "slim"))
    sizes = [sum(tensor.nbytes for tensor in each.tensors.values()) for each in (small, large)]
    assert sizes[0] < 0.4 * sizes[1]
    text = charrnn.load(tmp_path / "rounded.safetensors", device="cpu").sample("the ", length=60, temperature=0)
    assert text == charrnn.load(tmp_path / "slim.safetensors", device="cpu").sample("the ", length=60, temperature=0)


def test_integers_without_scales_are_a_damaged_checkpoint(trained_run: Run, tmp_path: Path) -> None:
    stored = container.read(trained_run.folder.best, KIND)
    tensors = {name: tensor for name, tensor in quantised(stored.tensors).items() if not name.startswith("scales.")}
    container.write(tmp_path / "bad.safetensors", KIND, stored.header, tensors)
    with pytest.raises(CharRNNError, match=r"bad\.safetensors has 8-bit integers in .* without a scale for each row"):
        Checkpoint.load(tmp_path / "bad.safetensors")


def test_english_is_found_by_name_unless_a_run_has_it(trained_run: Run, tmp_path: Path) -> None:
    assert find_checkpoint("english", tmp_path) == PRETRAINED
    (tmp_path / "english").mkdir()
    own = tmp_path / "english" / "best.safetensors"
    own.write_bytes(trained_run.folder.best.read_bytes())
    assert find_checkpoint("english", tmp_path) == own


def test_slim_copy_of_english_stays_small(tmp_path: Path) -> None:
    Checkpoint.load(PRETRAINED).slim().save(tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").stat().st_size <= PRETRAINED.stat().st_size
    assert Checkpoint.load(tmp_path / "copy.safetensors").weights.keys() == Checkpoint.load(PRETRAINED).weights.keys()
    stored, copied = (container.read(path, KIND).tensors for path in (PRETRAINED, tmp_path / "copy.safetensors"))
    assert all(torch.equal(tensor, copied[name]) for name, tensor in stored.items() if tensor.dtype == torch.int8)


def test_english_fits_into_the_wheel() -> None:
    assert PRETRAINED.stat().st_size < 2.6e6
    assert b"/" not in PRETRAINED.read_bytes()[:200]


def test_english_has_ascii_and_typographic_signs() -> None:
    symbols = set(Checkpoint.load(PRETRAINED).tokenizer.symbols)
    assert set(map(chr, range(32, 127))) | set("\n\u2018\u2019\u201c\u201d\u2014") <= symbols


def test_english_predicts_english_it_has_not_read() -> None:
    model = charrnn.load("english", device="cpu")
    assert model.score(TALES[5_000:15_000]).bits_per_char < 2.1
    assert model.score("Der König hatte eine Tochter, die war sehr schön und klug. " * 20).bits_per_char > 2.1
    assert len(set(model.sample(length=300, temperature=0.5, seed=1).split())) > 20


def test_model_card_states_texts_licence_loss_time_and_commit(installed: Command) -> None:
    table = installed("inspect", "english").stdout
    for name in ("texts", "held out", "licence", "loss", "training", "commit"):
        assert f"card {name} " in table
    card = json.loads(installed("inspect", "english", "--json").stdout)["card"]
    assert "Project Gutenberg" in card["texts"]


def test_training_from_english_is_named_in_the_run(installed: Command, tmp_path: Path) -> None:
    (tmp_path / "tales.txt").write_text(TALES[:20_000])
    done = installed("train", "tales.txt", "--init-from", "english", "--steps", "3", "--batch-size", "4", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["definition"]["init_from"]["corpus"] == "english"
    assert summary["best_val_loss"] < 1.5
    assert "starts from a model of English" not in done.stderr


@pytest.mark.parametrize(
    ("text", "options", "is_recommended"),
    [
        (TALES[:20_000], {}, True),
        (TALES[:20_000].lower(), {}, True),
        (TALES[:1_000], {}, False),
        (TALES[:20_000], {"unit": "word"}, False),
        (TALES[:20_000], {"separator": "\n\n"}, False),
        ("Der König hatte eine Tochter, und die war schön und auch klug; da kam ein armer Müller. " * 90, {}, False),
        ("def f(x):\n    return [y ** 2 for y in x if y % 3 == 1]\n\n\nclass A(B):\n    x: int = 5\n" * 90, {}, False),
        ("ACGTTGCAAC" * 900, {}, False),
        (("." * 60 + " 12\n") * 200, {}, False),
        (TALES[:3_500] + "Der König hatte eine Tochter, und die war schön. " * 900, {}, False),
        ("春风吹已闲行行剩相忆相见欲留人" * 500, {}, False),
    ],
)
def test_english_is_recommended_for_short_english_texts(
    text: str, options: dict[str, object], is_recommended: bool, tmp_path: Path
) -> None:
    messages, corpus = Messages(), prepared(text, tmp_path / "corpus.safetensors", **options)
    recommend_english(corpus, messages)
    assert bool(messages) == is_recommended
    assert all("starts from a model of English" in line for line in messages)
