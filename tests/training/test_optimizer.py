"""Muon and AdamW: which parameters each updates, and how."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.model.network import CharRNN
from charrnn.training.optimizer import Muon, load_moments, make_optimizers, moments, orthogonalise
from tests.support import CPU

MODEL = ModelConfig(vocab_size=7, hidden_size=8, embedding_size=4, num_layers=2)
CONFIG = TrainingConfig(steps=1, weight_decay=0.0, optimizer="muon")


def muon_of(
    weight: torch.Tensor, num_gates: int = 1, weight_decay: float = 0.0, rate: float = 0.1, period: int = 1
) -> Muon:
    lr = torch.tensor(rate)
    return Muon([weight], num_gates, lr=lr, weight_decay=weight_decay, dtype=torch.float32, period=period)


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 8, 5), (1, 5, 8)])
def test_orthogonalised_blocks_move_all_directions_alike(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    blocks = torch.randn(shape) * torch.tensor([1.0, 1e-3, 1e3, 1.0])[: shape[0], None, None]
    before, after = (torch.linalg.svdvals(each) for each in (blocks, orthogonalise(blocks)))
    is_large = before > 0.1 * before.amax(dim=1, keepdim=True)
    after /= max(1.0, shape[1] / shape[2]) ** 0.5
    assert float(after.max()) < 2
    assert float(after[is_large].min()) > 0.15


def test_orthogonalised_matrix_keeps_its_singular_vectors() -> None:
    torch.manual_seed(1)
    left, _, right = torch.linalg.svd(torch.randn(6, 6))
    matrix = left @ torch.diag(torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])) @ right
    rotated = left.T @ orthogonalise(matrix[None])[0] @ right.T
    torch.testing.assert_close(rotated, torch.diag(rotated.diagonal()), atol=1e-5, rtol=0)


def test_zero_gradient_changes_nothing() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    weight.grad = torch.zeros(4, 4)
    muon_of(weight).step()
    assert bool((weight == 1).all())


def test_gates_are_updated_each_by_itself() -> None:
    torch.manual_seed(1)
    gradient, both = torch.randn(8, 4), torch.zeros(8, 4, requires_grad=True)
    both.grad = gradient.clone()
    muon_of(both, num_gates=2).step()
    for half in (slice(0, 4), slice(4, 8)):
        alone = torch.zeros(4, 4, requires_grad=True)
        alone.grad = gradient[half] * 100
        muon_of(alone).step()
        torch.testing.assert_close(both[half], alone, atol=1e-5, rtol=1e-4)


def test_weight_decay_follows_the_rate() -> None:
    weight = torch.ones(4, 4, requires_grad=True)
    weight.grad = torch.zeros(4, 4)
    muon_of(weight, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 1 - 0.1 * 0.5))


def test_weights_are_updated_once_a_period_by_a_multiple_of_the_rate() -> None:
    torch.manual_seed(1)
    rare, often = (torch.zeros(4, 4, requires_grad=True) for _ in range(2))
    gradient = torch.randn(4, 4)
    muons = muon_of(rare, period=3), muon_of(often, rate=0.3)
    for step in range(1, 7):
        rare.grad, often.grad = gradient.clone(), gradient.clone()
        before = rare.detach().clone()
        muons[0].step()
        muons[1].step()
        assert torch.equal(rare, before) == (step % 3 != 0)
    torch.testing.assert_close(3 * rare, often)  # of a constant gradient all updates are alike


@pytest.mark.parametrize("symbols", [(1, 25, 4), (16, 32, 4), (32, 32, 2), (64, 32, 1), (128, 64, 1)])
def test_muon_on_a_cpu_is_rare_where_steps_are_small(symbols: tuple[int, int, int]) -> None:
    B, T, period = symbols
    config = replace(CONFIG, batch_size=B, seq_length=T)
    assert make_optimizers(CharRNN(MODEL), config, CPU)["muon"]._period == period  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_step_that_is_not_finite_is_not_taken(value: float) -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 4, requires_grad=True)
    muon = muon_of(weight, weight_decay=0.5)
    weight.grad = torch.randn(4, 4)
    muon.step()
    before, momentum = weight.detach().clone(), muon.state[weight]["momentum"].clone()
    weight.grad[0, 0] = value
    muon.found_inf = torch.tensor(1.0)
    muon.step()
    torch.testing.assert_close(weight.detach(), before, rtol=0, atol=0)
    torch.testing.assert_close(muon.state[weight]["momentum"], momentum, rtol=0, atol=0)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("embedding_size", [4, None])
def test_muon_takes_recurrent_matrices_but_no_embedding(cell: Any, embedding_size: int | None) -> None:
    model = CharRNN(replace(MODEL, cell=cell, embedding_size=embedding_size))
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizers = make_optimizers(model, CONFIG, CPU)
    taken = {
        kind: [names[p] for group in optimizer.param_groups for p in group["params"]]
        for kind, optimizer in optimizers.items()
    }
    matrices = [f"stack.layers.{i}.weight_{kind}_l0" for i in (0, 1) for kind in ("ih", "hh")]
    assert taken["muon"] == matrices[embedding_size is None :]
    assert sorted(taken["muon"] + taken["optimizer"]) == sorted(names.values())


def test_adamw_alone_takes_everything() -> None:
    model = CharRNN(MODEL)
    optimizers = make_optimizers(model, replace(CONFIG, optimizer="adamw"), CPU)
    assert list(optimizers) == ["optimizer"]
    assert sum(len(group["params"]) for group in optimizers["optimizer"].param_groups) == len(list(model.parameters()))


def test_state_is_restored_and_checked() -> None:
    def model_after_a_step() -> tuple[CharRNN, dict[str, torch.optim.Optimizer]]:
        torch.manual_seed(1)
        model = CharRNN(MODEL)
        optimizers = make_optimizers(model, CONFIG, CPU)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers.values():
            optimizer.step()
        return model, optimizers

    _, optimizers = model_after_a_step()
    others = make_optimizers(CharRNN(MODEL), CONFIG, CPU)
    for kind, optimizer in optimizers.items():
        assert not moments(others[kind])
        load_moments(others[kind], moments(optimizer))
        for name, moment in moments(optimizer).items():
            torch.testing.assert_close(moments(others[kind])[name], moment, rtol=0, atol=0)
    with pytest.raises(ValueError, match="no optimizer state for these parameters"):
        load_moments(others["muon"], moments(optimizers["optimizer"]))


def test_state_is_restored_to_the_device_of_the_weights() -> None:
    muon = Muon(
        [torch.zeros(4, 4, device="meta")], 1, lr=torch.zeros((), device="meta"), weight_decay=0.0, dtype=CPU.dtype
    )
    load_moments(muon, {"0.momentum": torch.zeros(4, 4), "0.step": torch.ones(())})
    assert {moment.device.type for moment in moments(muon).values()} == {"meta"}
