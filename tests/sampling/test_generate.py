"""Filters on hand-written distributions, frequencies, and where samples end."""

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.config import ModelConfig, PreparationConfig, SamplingConfig
from charrnn.errors import CharRNNError, OptionError
from charrnn.machine import runtime as runtime_module
from charrnn.machine.runtime import Runtime, open_runtime
from charrnn.model.network import CharRNN
from charrnn.runs.run import Run
from charrnn.sampling.constraints import Piece
from charrnn.sampling.copies import CopyIndex
from charrnn.sampling.filters import Filter, exclude, make_filters, min_p, top_k, top_p
from charrnn.sampling.generate import Sampler, choose
from charrnn.sampling.noise import gumbel
from charrnn.text.tokenizers import CharTokenizer
from tests.support import CPU, TEXT, marked_text, needs_cuda, needs_fbgemm

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
TOKENIZER = CharTokenizer(("a", "b", "c", "d"), (1, 1, 1, 1))


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
        (min_p(0.4), [0, 1]),
        (min_p(1.0), [0]),
        (exclude([0, 2], 4, CPU), [1, 3]),
    ],
)
def test_filter_keeps(keep: Filter, expected: list[int]) -> None:
    assert kept(keep) == expected


def draw(logits: Tensor, temperature: float, filters: list[Filter], n: int = 20_000) -> Tensor:
    noise = gumbel(torch.arange(n), torch.zeros(n, dtype=torch.int64), 1, 4)[0]
    return choose(logits.expand(n, -1), temperature, filters, noise)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("filters", [[], [top_k(3)], [top_p(0.7)], [min_p(0.25)], [exclude([0], 4, CPU)]])
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


def test_filters_that_keep_all_are_left_out() -> None:
    assert make_filters(SamplingConfig(top_p=1.0), TOKENIZER, CPU) == []


def test_temperature_zero_takes_the_most_likely() -> None:
    assert draw(P.log(), 0, [], n=100).unique().tolist() == [0]
    assert draw(P.log(), 0, [exclude([0], 4, CPU)], n=100).unique().tolist() == [1]


def test_lowest_temperatures_do_not_overflow() -> None:
    assert draw(P.log() + 30, 1e-39, [exclude([0], 4, CPU)], n=100).unique().tolist() == [1]


def test_unknown_symbol_and_banned_characters_never_pass() -> None:
    with_unknown = CharTokenizer(("a", "b", "c"), (1, 1, 1, 5))
    filters = make_filters(SamplingConfig(ban="ab"), with_unknown, CPU)
    assert draw(torch.zeros(1, 4), 1.0, filters, n=1000).unique().tolist() == [2]
    with pytest.raises(OptionError, match="--ban"):
        make_filters(SamplingConfig(ban="abcd"), TOKENIZER, CPU)


def pieces_of(
    run: Run,
    prompt: str = "",
    seed: int = 1,
    *,
    runtime: Runtime = CPU,
    corpus: CopyIndex | None = None,
    **options: object,
) -> list[Piece]:
    config = SamplingConfig(**options)  # type: ignore[arg-type]
    sampler = Sampler(run.trainer.bptt.model, run.corpus.tokenizer, config, runtime, corpus)
    return list(sampler.sample(prompt, seed=seed))


def text_of(run: Run, prompt: str = "", seed: int = 1, **options: Any) -> str:
    return "".join(piece.text for piece in pieces_of(run, prompt, seed, **options))


def texts_of(pieces: list[Piece]) -> list[str]:
    """The whole text of each sample, by its index."""
    texts: dict[int, str] = defaultdict(str)
    for piece in pieces:
        texts[piece.index] += piece.text
    return [texts[i] for i in sorted(texts)]


class Narrow(Runtime):
    """A machine that advances two streams at once."""

    max_streams = 2


class Ahead(Runtime):
    """A machine that is given the next steps before the last ones are looked at."""

    launches_ahead = 1


def summary(pieces: Iterable[Piece]) -> dict[int, tuple[str, str | None, float | None]]:
    """The text of each sample, the reason of its end and its likelihood."""
    pieces = list(pieces)
    ends = {piece.index: piece for piece in pieces if piece.finish_reason is not None}
    return {i: (text, ends[i].finish_reason, ends[i].bits_per_char) for i, text in enumerate(texts_of(pieces))}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"length": 5},
        {"temperature": 0.0},
        {"top_k": 3, "top_p": 0.8},
        {"min_p": 0.2, "ban": "c"},
        {"stop": ("at", "ran to")},
        {"lines": 2},
        {"avoid_copying": 14},
        {"avoid_copying": 12, "lines": 3, "length": 1000},
        {"num_samples": 1, "avoid_copying": 14, "stop": ("den",)},
        {"num_samples": 4, "temperature": 0.0, "avoid_copying": 9, "length": 20},
    ],
)
def test_steps_launched_ahead_write_the_same(
    trained_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(Runtime, "max_steps", lambda *_: 8)
    monkeypatch.setattr(Runtime, "max_streams", 3)
    config = SamplingConfig(**{"num_samples": 7, "length": 120, "temperature": 1.2, **options})
    model, tokenizer, index = trained_run.trainer.bptt.model, trained_run.corpus.tokenizer, own_corpus(trained_run)
    samplers = [Sampler(model, tokenizer, config, kind(CPU.device, CPU.dtype), index) for kind in (Runtime, Ahead)]
    for prompt in ("the ", "a hen"):
        expected, found = (summary(sampler.sample(prompt, seed=1)) for sampler in samplers)
        assert found == expected
        assert len(expected) == config.num_samples


@pytest.mark.parametrize(("machine", "order"), [(Runtime, "-+-+-+-+"), (Ahead, "--+-+-++")])
def test_next_steps_are_launched_before_the_last_are_looked_at(
    trained_run: Run, monkeypatch: pytest.MonkeyPatch, machine: type[Runtime], order: str
) -> None:
    monkeypatch.setattr(Runtime, "max_steps", lambda *_: 8)
    seen = ""

    class Watched(machine):  # type: ignore[misc, valid-type]
        def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
            nonlocal seen
            seen += "-"
            wait: Callable[[], Tensor] = super().fetch(tensor)

            def look() -> Tensor:
                nonlocal seen
                seen += "+"
                return wait()

            return look

    pieces = pieces_of(trained_run, runtime=Watched(CPU.device, CPU.dtype), length=32)
    assert [len(piece.text) for piece in pieces] == [8] * 4
    assert seen == order, "and no steps are launched that the length rules out"


def test_trained_model_writes_like_its_corpus(trained_run: Run) -> None:
    assert text_of(trained_run, "the cat sat on ", temperature=0, length=8) == "the mat."


def test_seed_decides_the_text(trained_run: Run) -> None:
    a, b, c = (text_of(trained_run, length=50, temperature=2.0, seed=seed) for seed in (1, 1, 2))
    assert a == b
    assert a != c


def test_samples_end_by_length_stop_and_lines(trained_run: Run) -> None:
    whole = pieces_of(trained_run, length=150)
    assert sum(len(piece.text) for piece in whole) == 150
    assert [piece.finish_reason for piece in whole] == [None] * (len(whole) - 1) + ["length"]
    stopped = pieces_of(trained_run, stop=("zzz", "sat on"), length=10_000)
    assert "".join(piece.text for piece in stopped).endswith("sat on")
    assert stopped[-1].finish_reason == "stop"
    lines = pieces_of(trained_run, lines=2, length=10_000)
    assert "".join(piece.text for piece in lines).count("\n") == 2
    assert (lines[-1].text[-1], lines[-1].finish_reason) == ("\n", "lines")


def test_lines_may_take_a_thousand_symbols_each() -> None:
    assert SamplingConfig().max_length == 1000
    assert SamplingConfig(lines=3).max_length == 3000
    assert SamplingConfig(lines=3, length=5).max_length == 5


def test_length_zero_samples_nothing(trained_run: Run) -> None:
    assert pieces_of(trained_run, length=0) == [Piece(0, finish_reason="length")]


def test_several_samples_differ_and_end_on_their_own(trained_run: Run) -> None:
    pieces = pieces_of(trained_run, num_samples=5, lines=1, temperature=1.5)
    texts = texts_of(pieces)
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in texts)
    assert len(set(texts)) > 1
    assert sorted(piece.index for piece in pieces if piece.finish_reason) == list(range(5))


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.int8, marks=needs_fbgemm)])
def test_sample_is_the_same_whatever_runs_beside_it(trained_run: Run, dtype: torch.dtype) -> None:
    wide, narrow = replace(CPU, dtype=dtype), Narrow(CPU.device, dtype)
    for ends in ({"length": 70}, {"lines": 1}, {"stop": ("at",), "length": 90}):
        options: dict[str, Any] = {**ends, "temperature": 1.5}
        together = texts_of(pieces_of(trained_run, runtime=wide, num_samples=7, **options))
        assert texts_of(pieces_of(trained_run, runtime=narrow, num_samples=7, **options)) == together
        assert texts_of(pieces_of(trained_run, runtime=wide, num_samples=1, **options)) == together[:1]
        assert len(set(together)) == 7


def test_more_samples_than_streams_come_as_they_finish(trained_run: Run) -> None:
    pieces = pieces_of(trained_run, runtime=Narrow(CPU.device, CPU.dtype), num_samples=50, lines=1)
    finished = [piece.index for piece in pieces if piece.finish_reason]
    assert sorted(finished) == list(range(50))
    last_of_first = max(place for place, piece in enumerate(pieces) if piece.index == finished[0])
    assert last_of_first < min(place for place, piece in enumerate(pieces) if piece.index == 49)


def test_sampler_serves_one_prompt_after_another(trained_run: Run) -> None:
    config = SamplingConfig(length=40)
    sampler = Sampler(trained_run.trainer.bptt.model, trained_run.corpus.tokenizer, config, CPU)
    texts = ["".join(piece.text for piece in sampler.sample(prompt, seed=1)) for prompt in ("the ", "a hen", "the ")]
    assert texts[0] == texts[2] != texts[1]
    assert texts == [text_of(trained_run, prompt, length=40) for prompt in ("the ", "a hen", "the ")]


def test_sampler_tells_of_a_second_prompt_before_the_first_is_done(trained_run: Run) -> None:
    sampler = Sampler(trained_run.trainer.bptt.model, trained_run.corpus.tokenizer, SamplingConfig(), CPU)
    first, second = sampler.sample("the ", seed=1), sampler.sample("a ", seed=1)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="one at a time"):
        list(first)


def test_sampler_may_be_made_in_one_mode_and_used_in_another(trained_run: Run) -> None:
    with torch.inference_mode():
        sampler = Sampler(trained_run.trainer.bptt.model, trained_run.corpus.tokenizer, SamplingConfig(length=100), CPU)
    assert "".join(piece.text for piece in sampler.sample(seed=1)) == text_of(trained_run, length=100)


def test_large_vocabularies_take_few_streams_at_once() -> None:
    V = 300_000
    tokenizer = CharTokenizer(tuple(map(chr, range(0x20000, 0x20000 + V))), (1,) * V)
    model = CharRNN(ModelConfig(vocab_size=V, hidden_size=4, embedding_size=4))
    config = SamplingConfig(num_samples=5, length=2)
    pieces = list(Sampler(model, tokenizer, config, CPU).sample(seed=1))
    assert sorted(piece.index for piece in pieces if piece.finish_reason) == list(range(5))


@needs_cuda
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2, "ban": "c"}, {"lines": 2}, {"avoid_copying": 14}]
)
def test_recorded_steps_on_cuda_write_what_the_cpu_writes(
    trained_run: Run, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(Runtime, "max_steps", lambda *_: 8)
    monkeypatch.setattr(Runtime, "max_streams", 3)
    monkeypatch.setattr(runtime_module, "_MIN_RECORDED_CALLS", 0)
    cuda = open_runtime("cuda", "float32")
    model, tokenizer, index = trained_run.trainer.bptt.model, trained_run.corpus.tokenizer, own_corpus(trained_run)
    config = SamplingConfig(num_samples=7, length=120, temperature=1.2, **options)
    samplers = [
        Sampler(copy.deepcopy(model).to(runtime.device), tokenizer, config, runtime, index) for runtime in (CPU, cuda)
    ]
    for prompt in ("the ", "a hen"):
        expected, found = (texts_of(list(sampler.sample(prompt, seed=1))) for sampler in samplers)
        assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 1, "one draw in a thousand may differ"


def test_stop_text_is_found_across_pieces(trained_run: Run) -> None:
    whole = text_of(trained_run, length=400)
    for end in range(40, 160):
        stop = whole[end - 25 : end]
        expected = whole[: whole.index(stop) + len(stop)]
        assert text_of(trained_run, stop=(stop, "never"), length=400) == expected


def test_copies_are_drawn_again(trained_run: Run) -> None:
    index, size = CopyIndex(TEXT), 12
    options: dict[str, Any] = {"length": 400, "temperature": 1.2}
    copying = texts_of(pieces_of(trained_run, num_samples=4, **options))
    assert min(len(index.longest_copy(text)) for text in copying) >= size
    guarded = texts_of(
        pieces_of(trained_run, num_samples=4, corpus=own_corpus(trained_run), avoid_copying=size, **options)
    )
    assert [len(text) for text in guarded] == [400] * 4
    assert max(len(index.longest_copy(text)) for text in guarded) < size
    alone = pieces_of(trained_run, corpus=own_corpus(trained_run), avoid_copying=size, **options)
    assert texts_of(alone) == guarded[:1]


def test_copies_without_end_are_an_error(trained_run: Run) -> None:
    with pytest.raises(CharRNNError, match=r"sample 0 gave up at 0 symbols: .* made a copy of 1 character of the corp"):
        pieces_of(trained_run, corpus=own_corpus(trained_run), avoid_copying=1)
    with pytest.raises(OptionError, match="--corpus"):
        pieces_of(trained_run, avoid_copying=4)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}, {"temperature": 0.0, "min_p": 1.0}])
def test_no_sample_is_given_up_while_another_symbol_is_left(trained_run: Run, options: dict[str, Any]) -> None:
    pieces = pieces_of(trained_run, corpus=own_corpus(trained_run), avoid_copying=5, length=30, **options)
    [text] = texts_of(pieces)
    assert (len(text), pieces[-1].finish_reason) == (30, "length")
    assert len(own_corpus(trained_run).longest_copy(text)) == 4
    bits = bits_of(trained_run, "\n", text)
    assert pieces[-1].bits_per_char == pytest.approx(mean(bits), abs=1e-3), "and they are the model's own"


def test_sample_that_is_given_up_ends_no_other() -> None:
    """Where the model writes empty documents alone, one of them differs from all others."""
    tokenizer = CharTokenizer(("a", "b"), (1, 1, 1), PreparationConfig(separator="\n"))
    model = CharRNN(ModelConfig(vocab_size=3, hidden_size=4, embedding_size=4))
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    config = SamplingConfig(num_samples=24, documents=1, unique=True)
    pieces: list[Piece] = []
    with pytest.raises(CharRNNError, match=r"sample 1 \(and 22 others\) gave up at 0 symbols: each of 100 attempts"):
        pieces.extend(Sampler(model, tokenizer, config, CPU).sample(seed=1))
    ends = {piece.index: piece.finish_reason for piece in pieces if piece.finish_reason is not None}
    assert ends == {0: "documents"} | dict.fromkeys(range(1, 24), "given_up")


def test_bits_per_char_without_copies_are_those_of_what_is_left(trained_run: Run) -> None:
    options: dict[str, Any] = {
        "temperature": 1.2,
        "corpus": own_corpus(trained_run),
        "avoid_copying": 12,
        "length": 150,
    }
    pieces = pieces_of(trained_run, "the", **options)
    assert pieces[-1].bits_per_char == pytest.approx(mean(bits_of(trained_run, "the", texts_of(pieces)[0])), abs=1e-3)


def own_corpus(run: Run) -> CopyIndex:
    return CopyIndex(marked_text(run.corpus))


def bits_of(run: Run, prompt: str, text: str) -> list[float]:
    """The bits of each character of a text behind a prompt, read as a sequence."""
    ids = run.corpus.tokenizer.encode(prompt + text).long()
    with torch.no_grad():
        log_p = run.trainer.bptt.model.eval()(ids[:-1, None])[0][:, 0].log_softmax(-1)
    bits: list[float] = (-log_p.gather(1, ids[1:, None])[len(prompt) - 1 :, 0] / math.log(2)).tolist()
    return bits


def test_bits_per_char_are_the_models_own_whatever_the_temperature(trained_run: Run) -> None:
    pieces = pieces_of(trained_run, "the", temperature=0.5, top_k=3, length=20)
    assert pieces[-1].bits_per_char == pytest.approx(mean(bits_of(trained_run, "the", texts_of(pieces)[0])), abs=1e-4)


@pytest.mark.parametrize("max_copy", [None, 6])
def test_pieces_carry_the_surprisal_of_each_symbol(trained_run: Run, max_copy: int | None) -> None:
    corpus = own_corpus(trained_run)
    pieces = pieces_of(trained_run, "the", temperature=1.3, length=60, avoid_copying=max_copy, corpus=corpus)
    bits = [nats / math.log(2) for piece in pieces for nats in piece.nats]
    assert bits == pytest.approx(bits_of(trained_run, "the", texts_of(pieces)[0]), abs=1e-3)


def test_prompt_outside_the_vocabulary_is_an_error_that_lists_it(trained_run: Run) -> None:
    with pytest.raises(CharRNNError, match="'X' 'é'"):
        pieces_of(trained_run, "the Xé")
