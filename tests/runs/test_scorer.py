"""Texts scored block by block and line by line."""

import math
from dataclasses import replace

import pytest
import torch

import charrnn
from charrnn import LanguageModel
from charrnn.config import PreparationConfig
from charrnn.machine.threads import num_threads
from charrnn.runs import scorer as scoring
from charrnn.runs.run import Run
from charrnn.text.tokenizers import CharTokenizer, WordTokenizer
from charrnn.text.words import EOS_MARK
from tests.support import TEXT


@pytest.fixture(scope="module")
def model(trained_run: Run) -> LanguageModel:
    return charrnn.load(trained_run.folder.best, device="cpu", precision="float32")


def test_held_out_text_scores_what_its_training_measured(model: LanguageModel, trained_run: Run) -> None:
    history = trained_run.trainer.history
    held_out = trained_run.corpus.tokenizer.decode(trained_run.trainer.bptt.text.val)
    scored = model.score(held_out)
    assert history.best_val_chars == len(scored.surprisals) == len(held_out) - 1
    assert scored.bits_per_char * 0.6931471805599453 == pytest.approx(history.best_val_loss, abs=1e-4)
    assert sum(scored.surprisals) / len(scored.surprisals) == pytest.approx(scored.bits_per_char, abs=1e-6)


def test_long_text_is_scored_in_segments_as_if_in_one(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.score(TEXT)
    monkeypatch.setattr(scoring, "_SEGMENT", 300)
    parts = list(model.scorer().score(TEXT[i : i + 70] for i in range(0, len(TEXT), 70)))
    assert len(parts) > 5
    assert "".join("".join(part.symbols) for part in parts) == TEXT[1:] == whole.text
    assert float(torch.cat([part.surprisals for part in parts]).mean()) == pytest.approx(whole.bits_per_char, abs=5e-3)


def test_surprisals_do_not_depend_on_what_follows(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TEXT * 3)[:1500]
    for size in (10, 64, 65, 700):
        assert model.score(text[:size]).surprisals == model.score(text).surprisals[: size - 1]
    monkeypatch.setattr(scoring, "_SEGMENT", 128)
    exact = [bits for part in model.scorer().score([text], exact=True) for bits in part.surprisals.tolist()]
    assert exact == pytest.approx(model.score(text).surprisals, abs=1e-5)


def test_long_texts_are_read_in_streams_unless_exact(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = model.score(TEXT).surprisals
    monkeypatch.setattr(scoring, "_MAX_EXACT", 100)
    assert model.score(TEXT).surprisals != expected
    assert model.score(TEXT).surprisals == pytest.approx(expected, abs=0.3)
    exact = [bits for part in model.scorer().score([TEXT], exact=True) for bits in part.surprisals.tolist()]
    assert exact == expected == pytest.approx(model.score(TEXT, window=2**20).surprisals, abs=1e-5)


def test_surprisals_are_the_same_with_one_thread_and_two(model: LanguageModel) -> None:
    found = []
    for count in (1, 2):
        with num_threads(count):
            found.append(model.score(TEXT).surprisals)
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("adapt", [False, True])
def test_progress_counts_each_symbol_once(model: LanguageModel, adapt: bool) -> None:
    counted: list[int] = []
    list(model.scorer(counted.append).score([TEXT[:1000]], adapt=adapt))
    assert sum(counted) == 999
    assert not adapt or len(counted) == 50, "the copy reports each chunk"


@pytest.mark.parametrize("segment", [7, 2**22])
def test_window_starts_with_a_zero_state(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    monkeypatch.setattr(scoring, "_SEGMENT", segment)
    text = TEXT[:50]
    windows = [text[i : i + 8] for i in range(0, 49, 7)]
    expected = [bits for window in windows for bits in model.score(window).surprisals]
    scored = model.score(text, window=7)
    assert scored.surprisals == pytest.approx(expected, abs=1e-5)
    assert scored.text == "".join(scored.symbols) == text[1:]


def test_line_is_scored_with_its_end_from_a_line_end(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_POOL_LINES", 3)
    lines = ["the cat sat on the mat.", "", "tac", "a hen", "gggggggggg"]
    scored = list(model.scorer().score_lines(lines))
    assert [line for line, _ in scored] == lines
    for line, each in scored:
        assert "".join(each.symbols) == f"{line}\n"
        assert each.surprisals.tolist() == pytest.approx(model.score(f"\n{line}\n").surprisals, abs=1e-5)
    bits = {line: each.bits_per_char or 0 for line, each in scored}
    assert bits["the cat sat on the mat."] < bits["tac"] < bits["gggggggggg"]


def test_line_of_a_model_without_line_ends_starts_with_its_first_symbol(model: LanguageModel) -> None:
    tokenizer = model.tokenizer
    other = tuple("#" if symbol == "\n" else symbol for symbol in tokenizer.symbols)
    scorer = replace(model.scorer(), tokenizer=CharTokenizer(other, tokenizer.counts))
    (_, cat), (_, short) = scorer.score_lines(["the cat", "t"])
    assert "".join(cat.symbols) == "he cat"
    assert cat.surprisals.tolist() == pytest.approx(model.score("the cat").surprisals, abs=1e-5)
    assert short.bits_per_char == 4.0  # log2 of 16 symbols
    assert scorer.num_unknown == 0


def test_characters_outside_the_vocabulary_are_counted_and_left_out(model: LanguageModel) -> None:
    scorer = model.scorer()
    (part,) = scorer.score(["the é", "cat", "Éé sat"])
    assert ("".join(part.symbols), scorer.num_unknown, scorer.unknown) == ("he cat sat", 3, {"é", "É"})
    assert part.surprisals.tolist() == pytest.approx(model.score("the cat sat").surprisals, abs=1e-5)


def test_unknown_symbols_cost_at_least_a_uniform_guess(model: LanguageModel) -> None:
    scorer = model.scorer()
    (_, line), (_, plain) = scorer.score_lines(["théé cat", "th cat"])
    uniform = math.log2(model.tokenizer.size)
    assert list(line.symbols) == list("théé cat\n")
    assert line.surprisals.tolist()[2:4] == [uniform] * 2
    assert line.surprisals.tolist()[:2] == plain.surprisals.tolist()[:2]
    assert float(line.surprisals.sum()) == pytest.approx(float(plain.surprisals.sum()) + 2 * uniform)
    assert (line.num_chars, line.num_unknown, plain.num_unknown) == (9, 2, 0)
    scored = {text: each.bits_per_char for text, each in scorer.score_lines(["the cat sat on the mat.", "", "éÉ", "é"])}
    assert min(scored, key=lambda text: scored[text]) == "the cat sat on the mat."


def test_unknown_symbol_represents_what_the_vocabulary_lacks(model: LanguageModel) -> None:
    tokenizer = model.tokenizer
    folded = CharTokenizer(tokenizer.symbols[:-1], tokenizer.counts)
    scorer = replace(model.scorer(), tokenizer=folded)
    (part,) = scorer.score(["a é a"])
    assert ("".join(part.symbols), scorer.num_unknown) == (" é a", 1)
    last = tokenizer.symbols[-1]
    assert part.surprisals.tolist() == pytest.approx(model.score(f"a {last} a").surprisals, abs=1e-5)


def test_unknown_words_have_their_own_length(model: LanguageModel) -> None:
    symbols = ("a", " cat", "\n")
    counts = (1,) * (model.tokenizer.size - 2) + (10, 1)
    more = tuple(f" {'b' * n}" for n in range(1, len(counts) - 4))
    config = PreparationConfig(unit="word", separator="\n\n")
    tokenizer = WordTokenizer((*symbols, *more), counts, config, unknown_chars=30)
    assert (tokenizer.size, tokenizer.unk_id) == (model.tokenizer.size, len(tokenizer.symbols))
    scorer = replace(model.scorer(), tokenizer=tokenizer)
    (part,) = scorer.score(["a cat overwhelmingly", f"{EOS_MARK}a", " x"])
    assert (part.num_chars, scorer.num_unknown) == (len("a cat overwhelmingly\n\na x") - 1, 2)
    lines = ["a overwhelmingly cat", "a x"]
    assert [each.num_chars for _, each in scorer.score_lines(lines)] == [len(line) + 2 for line in lines]
    (lost,) = scorer.score(["a cat\ufffd"])  # as a prepared text has it
    assert lost.num_chars == len(" cat") + 30 / 10
