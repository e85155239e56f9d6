"""What a report computes, piece by piece."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn.config import Cell, ModelConfig
from charrnn.model.network import CharRNN
from charrnn.model.scoring import text_losses
from charrnn.report.embeddings import draw_map, project, push_apart
from charrnn.report.features import FEATURES
from charrnn.report.neurons import correlate, match
from charrnn.report.passage import Prediction, find_typical, find_worst, make_sheet
from charrnn.report.reading import Reading, calibrate, read
from charrnn.report.records import curve, samples
from charrnn.report.visible import name_all
from charrnn.runs.reporting import read_records
from charrnn.runs.run import Run
from charrnn.text.tokenizers import CharTokenizer
from tests.support import CPU


def reading(texts: list[str], bits: list[float]) -> Reading:
    N = len(texts)
    return Reading(
        texts, torch.zeros(N), torch.tensor(bits), torch.zeros(N, 1).long(), torch.ones(N, 1), torch.zeros(N, 1)
    )


def marked(feature: str, text: str) -> str:
    """The characters at which a feature is not 0."""
    return "".join(char for char, value in zip(text, FEATURES[feature](text), strict=True) if value)


@pytest.mark.parametrize(
    ("feature", "text", "found"),
    [
        ("inside quotation marks", 'He: "Go!" "On" she', '"Go!""On"'),
        ("inside quotation marks", "“Yes” «no» plain", "“Yes”«no»"),
        ("inside quotation marks", 'left "open\n\nnext', '"open'),
        ("inside brackets", "a (b c) [d] e", "(b c)[d]"),
        ("in a capitalised word", "The CAT it's Émile", "TheÉmile"),
        ("in a word in capitals", "The CAT I", "CAT"),
        ("in a number", "12 eggs", "12"),
        ("in the first line of a paragraph", "one\ntwo\n\nthree\nfour", "onethree"),
        ("right after a vowel", "Odd one", "Ooe"),
    ],
)
def test_feature_marks_the_symbols_of_its_name(feature: str, text: str, found: str) -> None:
    assert marked(feature, text) == found


def test_distances_are_reset_at_each_mark() -> None:
    assert FEATURES["how far along the line"]("ab\nc").tolist() == [1, 2, 0, 1]
    assert FEATURES["how far along the word"]("it is").tolist() == [1, 2, 0, 1, 2]
    assert FEATURES["how far along the sentence"]("a. b").tolist() == [1, 0, 1, 2]


def test_features_have_a_value_per_character() -> None:
    for measure in FEATURES.values():
        assert measure("To be,\nor (not)").shape == (15,)
        assert measure("").shape == (0,)


def test_correlation_is_that_of_numpy() -> None:
    x, y = torch.randn(50, 2), torch.randn(50, 3)
    expected = np.corrcoef(x.T, y.T)[:2, 2:]
    torch.testing.assert_close(correlate(x, y), torch.tensor(expected, dtype=torch.float32))
    assert correlate(torch.ones(50, 1), y).tolist() == [[0, 0, 0]]


def test_planted_units_are_found_and_measured_on_the_other_half() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randint(2, (400, 2), generator=generator).float()
    states = torch.randn(400, 6, generator=generator)
    states[:, 4] = features[:, 0]
    states[:200, 2] = -features[:200, 1]  # on the first half only
    units, correlations = match(features, states)
    assert units == [4, 2]
    assert correlations[0] > 0.99
    assert correlations[1].abs() < 0.2


def test_features_are_matched_with_different_units() -> None:
    feature = torch.randint(2, (400, 1), generator=torch.Generator().manual_seed(1)).float()
    states = torch.cat([feature, torch.rand(400, 1, generator=torch.Generator().manual_seed(2))], 1)
    assert sorted(match(feature.repeat(1, 2), states)[0]) == [0, 1]


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_reading_agrees_with_scoring(cell: Cell) -> None:
    tokenizer = CharTokenizer(tuple("abcdefg"), (1,) * 7)
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(vocab_size=7, hidden_size=8, embedding_size=4, num_layers=2, cell=cell)).eval()
    ids = torch.randint(7, (400,))
    found = read(model, ids, lambda part: list(tokenizer.decode(part)))
    assert found is not None
    assert "".join(found.texts) == tokenizer.decode(found.ids)
    torch.testing.assert_close(found.ids, ids[64:])
    expected = text_losses(model, ids, CPU)[63:] / math.log(2)
    torch.testing.assert_close(found.bits[:200], expected[:200], atol=1e-3, rtol=0)
    assert found.states.shape == (336, 16)
    _, state = model(ids[:, None])
    last = torch.cat([layer[-1].tanh() if cell == "lstm" else layer[0] for layer in state], -1)[0, 0]
    torch.testing.assert_close(found.states[-1], last.detach(), atol=1e-5, rtol=0)
    assert found.likeliest.shape == found.probabilities.shape == (336, 5)


def test_nothing_is_read_of_too_short_a_text() -> None:
    model = CharRNN(ModelConfig(vocab_size=2, hidden_size=4, embedding_size=4))
    assert read(model, torch.zeros(3, dtype=torch.int64), lambda part: [""] * len(part)) is None


def test_calibration_of_a_known_case() -> None:
    likeliest = torch.zeros(100, 1, dtype=torch.int64)
    truth = torch.tensor([0] * 60 + [1] * 40)
    probabilities = torch.full((100, 1), 0.75)
    made = Reading(["a"] * 100, truth, torch.zeros(100), likeliest, probabilities, torch.zeros(100, 1))
    found = calibrate(made)
    assert found.bins == [(0.75, 0.6, 100)]
    assert found.error == pytest.approx(0.15)
    assert found.accuracy == pytest.approx(0.6)


def test_worst_passages_are_distant_and_start_with_words() -> None:
    texts = list("abc " * 1000)
    bits = [1.0] * 4000
    bits[1001:1080] = [9.0] * 79
    bits[3002:3050] = [8.0] * 48
    found = list(find_worst(reading(texts, bits)))
    assert found[0][0] % 4 == 0
    assert found[0][0] <= 1001 < 1080 <= found[0][1] + 4
    assert any(begin <= 3002 < end for begin, end in found[:2])
    assert all(abs(a[0] - b[0]) >= 700 for a in found for b in found if a != b)


def test_worst_passages_of_words_are_never_empty() -> None:
    texts = (["The"] + [" hens"] * 30 + ["\n"]) * 100
    bits = torch.rand(len(texts), generator=torch.Generator().manual_seed(1)).tolist()
    found = list(find_worst(reading(texts, bits)))
    assert len(found) == 6
    assert all(10 <= end - begin <= 40 for begin, end in found)
    assert all(texts[begin].startswith(" ") or texts[begin - 1] == "\n" for begin, _ in found if begin)


def test_typical_passage_starts_with_a_line() -> None:
    texts = list(("a" * 99 + "\n") * 50)
    bits = [0.0] * 1000 + [2.0] * 1000 + [1.0] * 1000 + [2.0] * 1000 + [0.0] * 1000
    begin, end = find_typical(reading(texts, bits))
    assert (begin, end) == (2000, 2720)


def test_symbols_of_several_characters_have_a_place() -> None:
    made = reading(["To be", " ", "\n", "or not"] * 100, [1.0] * 400)
    begin, end = find_typical(made)
    assert sum(len(text) for text in made.texts[begin:end]) == pytest.approx(720, rel=0.05)
    predictions: list[Prediction] = []
    sheet = make_sheet(made, ["to␣be"], 0, 2, predictions)
    assert sheet.tokens == [(0, 1, "To be"), (1, 1, " ")]
    assert predictions[1] == ["␣", 1.0, [["to␣be", 100.0]], 0]


def test_projection_keeps_the_plane_of_the_points() -> None:
    plane = torch.tensor([[0.0, 0], [4, 0], [4, 3], [0, 3]])
    points, share = project(torch.cat([plane, torch.zeros(4, 3)], 1) + 7)
    assert share == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(plane, plane).double())


def test_labels_are_pushed_apart() -> None:
    crowded = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.5
    spread = push_apart(crowded, torch.ones(60))
    assert torch.nn.functional.pdist(spread).min() > 0.03
    assert spread.min() >= 0
    assert spread.max() <= 1


def test_words_are_pushed_apart_by_their_lengths() -> None:
    words = push_apart(torch.tensor([[0.5, 0.5], [0.51, 0.5], [0.0, 0.5]]), torch.tensor([5, 5, 5]))
    assert words[1, 0] - words[0, 0] > 0.1
    assert words[2, 0] == pytest.approx(0.04)


def test_map_has_the_symbols_of_any_model(trained_run: Run) -> None:
    checkpoint = trained_run.checkpoint()
    found = draw_map(checkpoint.build_model(), checkpoint.tokenizer, name_all(checkpoint.tokenizer))
    assert found is not None
    assert {text for text, _, _, _ in found.places} >= {"a", "↵", "␣"}
    one_hot = CharRNN(ModelConfig(vocab_size=checkpoint.tokenizer.size, hidden_size=4, embedding_size=None))
    assert draw_map(one_hot, checkpoint.tokenizer, name_all(checkpoint.tokenizer)) is not None
    assert draw_map(one_hot, CharTokenizer(("a", "b"), (1, 1)), ["a", "b"]) is None


def test_strange_records_are_left_out(tmp_path: Path) -> None:
    good = {"step": 1, "chars": 10, "val_loss": 2.0, "bits_per_char": 1.0}
    strange: list[object] = [
        {"step": 2, "chars": "many", "val_loss": 1},
        {"step": 2, "chars": True, "val_loss": 1},
        {"step": 2, "chars": 20, "val_loss": float("nan")},
        {"step": 2, "chars": 20, "val_loss": 10**400},
        {"step": [], "text": "x"},
        {"step": 3, "text": ["x"]},
        [1, 2],
        "text",
    ]
    lines = [json.dumps(each) for each in (good, *strange)] + ["{", "9" * 5000, "[" * 100_000]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\n")
    records = read_records(tmp_path / "metrics.jsonl")
    assert curve(records, "val_loss").values == [2.0]
    assert samples(records) == []
    assert read_records(tmp_path / "missing") == []


def test_long_runs_are_thinned() -> None:
    records = [{"step": i, "chars": i, "train_loss": float(i), "text": "x" * 9999} for i in range(10_000)]
    found = curve(records, "train_loss", 2.0)
    assert len(found.values) == 400
    assert (found.values[0], found.values[-1]) == (0.0, 19_998.0)
    assert len(samples(records)) == 12
    assert len(samples(records)[0]["text"]) == 600
