"""Filters on hand-written distributions, frequencies, and where samples end."""

import math

import pytest
import torch
from torch import Tensor

from charrnn.config import SamplingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.run import Run
from charrnn.sampling import Filter, Piece, choose, exclude, make_filters, min_p, sample, top_k, top_p
from charrnn.vocabulary import Vocabulary
from tests.conftest import CPU

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
VOCABULARY = Vocabulary(("a", "b", "c", "d"), (1, 1, 1, 1))


def kept(keep: Filter) -> list[int]:
    return (keep(P.log()) > -math.inf)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (top_k(1), [0]),
        (top_k(3), [0, 1, 2]),
        (top_k(100), [0, 1, 2, 3]),
        (top_p(0.4), [0]),
        (top_p(0.7), [0, 1]),
        (top_p(0.8), [0, 1, 2]),
        (top_p(1.0), [0, 1, 2, 3]),
        (min_p(0.4), [0, 1]),
        (min_p(1.0), [0]),
        (exclude([0, 2]), [1, 3]),
    ],
)
def test_filter_keeps(keep: Filter, expected: list[int]) -> None:
    assert kept(keep) == expected


def draw(logits: Tensor, temperature: float, filters: list[Filter], n: int = 20_000) -> Tensor:
    noise = torch.empty(n, 4).exponential_(generator=torch.Generator().manual_seed(0))
    return choose(logits.expand(n, -1), temperature, filters, noise)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("filters", [[], [top_k(3)], [top_p(0.7)], [min_p(0.25)], [exclude([0])]])
def test_frequencies_are_those_of_the_filtered_softmax(temperature: float, filters: list[Filter]) -> None:
    log_p = (P.log() / temperature).log_softmax(-1)
    for keep in filters:
        log_p = keep(log_p)
    expected = log_p.softmax(-1)[0] * 20_000
    observed = torch.bincount(draw(P.log(), temperature, filters), minlength=4)
    possible = expected > 0
    assert int(observed[~possible].sum()) == 0
    chi_square = float(((observed - expected)[possible] ** 2 / expected[possible]).sum())
    assert chi_square < 16.3  # the 99.9 % quantile at 3 degrees of freedom


def test_temperature_zero_takes_the_most_likely() -> None:
    assert draw(P.log(), 0, [], n=100).unique().tolist() == [0]
    assert draw(P.log(), 0, [exclude([0])], n=100).unique().tolist() == [1]


def test_lowest_temperatures_do_not_overflow() -> None:
    assert draw(P.log() + 30, 1e-39, [exclude([0])], n=100).unique().tolist() == [1]


def test_unknown_symbol_and_banned_characters_never_pass() -> None:
    with_unknown = Vocabulary(("a", "b", "c"), (1, 1, 1, 5))
    filters = make_filters(SamplingConfig(ban="ab"), with_unknown)
    assert draw(torch.zeros(1, 4), 1.0, filters, n=1000).unique().tolist() == [2]
    with pytest.raises(OptionError, match="--ban"):
        make_filters(SamplingConfig(ban="abcd"), VOCABULARY)


def pieces_of(run: Run, prompt: str = "", seed: int = 1, **options: object) -> list[Piece]:
    config = SamplingConfig(**options)  # type: ignore[arg-type]
    return list(sample(run.trainer.model, run.corpus.vocabulary, config, seed=seed, runtime=CPU, prompt=prompt))


def text_of(run: Run, prompt: str = "", seed: int = 1, **options: object) -> str:
    return "".join(piece.text for piece in pieces_of(run, prompt, seed, **options))


def test_trained_model_writes_like_its_corpus(trained_run: Run) -> None:
    assert text_of(trained_run, "the cat sat on ", temperature=0, length=8) == "the mat."


def test_seed_decides_the_text(trained_run: Run) -> None:
    a, b, c = (text_of(trained_run, length=50, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_samples_end_by_length_stop_and_lines(trained_run: Run) -> None:
    assert [piece.finish_reason for piece in pieces_of(trained_run, length=3)] == [None, None, "length"]
    stopped = pieces_of(trained_run, stop=("zzz", "sat on"), length=10_000)
    assert "".join(piece.text for piece in stopped).endswith("sat on")
    assert stopped[-1].finish_reason == "stop"
    lines = pieces_of(trained_run, lines=2, length=10_000)
    assert "".join(piece.text for piece in lines).count("\n") == 2
    assert (lines[-1].text, lines[-1].finish_reason) == ("\n", "lines")


def test_length_zero_samples_nothing(trained_run: Run) -> None:
    assert pieces_of(trained_run, length=0) == [Piece(0, "", "length")]


def test_several_samples_differ_and_end_on_their_own(trained_run: Run) -> None:
    pieces = pieces_of(trained_run, num_samples=5, lines=1, temperature=1.5)
    texts = ["".join(piece.text for piece in pieces if piece.index == i) for i in range(5)]
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in texts)
    assert len(set(texts)) > 1
    assert sorted(piece.index for piece in pieces if piece.finish_reason) == list(range(5))


def test_bits_per_char_are_the_models_own_whatever_the_temperature(trained_run: Run) -> None:
    prompt, model = "the", trained_run.trainer.model.eval()
    pieces = pieces_of(trained_run, prompt, temperature=0.5, top_k=3, length=20)
    text = "".join(piece.text for piece in pieces)
    indices = trained_run.corpus.vocabulary.encode(prompt + text).long()
    with torch.no_grad():
        log_p = model(indices[:-1, None])[0][:, 0].log_softmax(-1)
    nats = -log_p.gather(1, indices[1:, None])[len(prompt) - 1 :].mean()
    assert pieces[-1].bits_per_char == pytest.approx(float(nats) / math.log(2), abs=1e-4)


def test_prompt_outside_the_vocabulary_is_an_error_that_lists_it(trained_run: Run) -> None:
    with pytest.raises(CharRNNError, match="'X' 'é'"):
        pieces_of(trained_run, "the Xé")
