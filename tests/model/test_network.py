"""The network: shapes, state, gradients."""

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from charrnn.config import Cell, ModelConfig
from charrnn.model.network import (
    CharRNN,
    RecurrentStack,
    carry,
    clear,
    count_parameters,
    detach,
    evaluating,
    layer_weights,
    shared_dropout,
)

CELLS: list[Cell] = ["lstm", "gru", "rnn"]
T, B, V, H, L = 6, 3, 11, 8, 2


def build(cell: Cell = "lstm", embedding_size: int | None = 5, **options: float) -> CharRNN:
    torch.manual_seed(0)
    shape = {"hidden_size": H, "num_layers": L, "dropout": 0.0} | options
    return CharRNN(ModelConfig(vocab_size=V, cell=cell, embedding_size=embedding_size, **shape))  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [None, 5])
def test_shapes(cell: Cell, embedding_size: int | None) -> None:
    model = build(cell, embedding_size)
    logits, state = model(torch.randint(V, (T, B)))
    assert logits.shape == (T, B, V)
    assert len(state) == L
    for layer in state:
        assert [tensor.shape for tensor in layer] == [(1, B, H)] * (2 if cell == "lstm" else 1)


@pytest.mark.parametrize("cell", CELLS)
def test_carried_state_equals_one_long_sequence(cell: Cell) -> None:
    model, x = build(cell), torch.randint(V, (T, B))
    whole, _ = model(x)
    first, state = model(x[:2])
    second, _ = model(x[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def step_by_hand(cell: Cell, layer: nn.Module, x: torch.Tensor, state: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """One time step from the textbook's equations: x (B, I), state tensors (B, H); returns h and updates state."""
    weight_ih, weight_hh, bias_ih, bias_hh = layer_weights(layer)
    given = x @ weight_ih.T + bias_ih
    recurrent = state[0] @ weight_hh.T + bias_hh
    if cell == "rnn":
        return (given + recurrent).tanh()
    if cell == "gru":
        (r1, z1, n1), (r2, z2, n2) = given.chunk(3, 1), recurrent.chunk(3, 1)
        r, z = (r1 + r2).sigmoid(), (z1 + z2).sigmoid()
        return (1 - z) * (n1 + r * n2).tanh() + z * state[0]
    i, f, g, o = (given + recurrent).chunk(4, 1)
    state[1].copy_(f.sigmoid() * state[1] + i.sigmoid() * g.tanh())
    return o.sigmoid() * state[1].tanh()


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_cell_stepped_by_hand_equals_the_sequence(cell: Cell) -> None:
    stack, x = RecurrentStack(4, H, cell=cell), torch.randn(T, B, 4)
    layer = stack.layers[0]
    for bias in layer_weights(layer)[2:]:
        bias.normal_()
    whole, _ = stack(x)
    state = (torch.zeros(B, H), torch.zeros(B, H))
    for t in range(T):
        h = step_by_hand(cell, layer, x[t], state)
        state[0].copy_(h)
        torch.testing.assert_close(h, whole[t])


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_finite_differences(cell: Cell) -> None:
    stack = RecurrentStack(3, 4, num_layers=2, cell=cell).double()
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(stack.parameters())

    def loss(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        out, _ = stack(x)
        return F.cross_entropy(out.flatten(0, 1), torch.arange(6) % 4)

    assert torch.autograd.gradcheck(loss, (x, *parameters))


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_stops_where_the_state_is_carried_and_nowhere_else(cell: Cell) -> None:
    stack = RecurrentStack(3, 4, cell=cell).double()
    before = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    chunk = torch.randn(3, 1, 3, dtype=torch.float64, requires_grad=True)
    _, state = stack(before)
    carried = tuple(tuple(torch.zeros_like(tensor) for tensor in layer) for layer in state)
    carry(detach(state), carried, torch.tensor([True]))
    out, _ = stack(chunk, carried)
    out[-1].sum().backward()
    assert before.grad is None
    assert chunk.grad is not None
    assert (chunk.grad.abs().sum(dim=(1, 2)) > 0).all()
    # Within the chunk the gradient is exact: that of a run that begins with the carried state.
    constant = tuple(tuple(tensor.detach().clone() for tensor in layer) for layer in state)
    torch.testing.assert_close(carried, constant)
    assert torch.autograd.gradcheck(lambda x: stack(x, constant)[0], (chunk,))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [None, 64])
def test_untrained_loss_is_ln_v(cell: Cell, embedding_size: int | None) -> None:
    torch.manual_seed(0)
    model = CharRNN(ModelConfig(vocab_size=80, cell=cell, embedding_size=embedding_size))
    x = torch.randint(80, (65, 32))
    logits, _ = model(x[:-1])
    loss = F.cross_entropy(logits.flatten(0, 1), x[1:].flatten())
    assert loss.item() == pytest.approx(math.log(80), rel=0.02)


@pytest.mark.parametrize("cell", CELLS)
def test_dropped_recurrent_columns_are_the_same_for_all_streams(cell: Cell) -> None:
    model, x = build(cell, dropout=0.8), torch.randint(V, (T, 1)).expand(T, B)
    model.stack.dropout = 0.0  # the outputs' dropout, which each stream has of its own
    runs = [model(x)[0] for _ in range(8)]
    for logits in runs:
        torch.testing.assert_close(logits[:, 0], logits[:, 1])
        torch.testing.assert_close(logits[0], runs[0][0])  # an empty state has nothing to hide
    assert any(not torch.allclose(logits, runs[0]) for logits in runs)
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_state_is_reset_for_streams_that_are_not_kept(cell: Cell) -> None:
    model, x = build(cell), torch.randint(V, (T, B))
    _, state = model(x)
    carried = model.initial_state(B)
    carry(detach(state), carried, torch.tensor([True, False, True]))
    logits = model(x, carried)[0]
    kept, fresh = model(x, state)[0], model(x)[0]
    torch.testing.assert_close(logits[:, [0, 2]], kept[:, [0, 2]])
    torch.testing.assert_close(logits[:, 1], fresh[:, 1])
    clear(carried)
    torch.testing.assert_close(model(x, carried)[0], fresh)


def test_reset_clears_nan_too() -> None:
    model = build()
    carried = model.initial_state(1)
    carry(tuple(tuple(tensor + math.nan for tensor in layer) for layer in carried), carried, torch.tensor([False]))
    assert not any(tensor.any() for layer in carried for tensor in layer)


def test_forget_gate_biases_start_at_one() -> None:
    layer = RecurrentStack(3, H).layers[0]
    _, _, bias_ih, bias_hh = layer_weights(layer)
    bias = bias_ih + bias_hh
    assert bias.chunk(4)[1].tolist() == [1.0] * H
    assert bias.abs().sum().item() == H


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("embedding_size", [None, 5])
def test_parameters_are_counted_before_they_exist(cell: Cell, embedding_size: int | None) -> None:
    model = build(cell, embedding_size)
    assert count_parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())


def test_dropout_mask_is_shared_over_time_and_scaled() -> None:
    dropped = shared_dropout(torch.ones(T, 200, 200), 0.25)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)


def test_evaluating_restores_the_mode_even_after_an_error() -> None:
    model, modes = build(dropout=0.5), []
    with contextlib.suppress(ZeroDivisionError), evaluating(model):
        modes.append(model.training)
        raise ZeroDivisionError
    assert (modes, model.training) == ([False], True)


def test_stack_learns_a_cosine_from_a_sine_by_its_carried_state() -> None:
    torch.manual_seed(0)
    stack, head = RecurrentStack(1, 32, cell="rnn"), nn.Linear(32, 1)
    optimizer = torch.optim.Adam([*stack.parameters(), *head.parameters()], lr=0.01)
    state, losses = None, []
    for step in range(200):
        time = torch.linspace(step * math.pi, (step + 1) * math.pi, 11)[:-1].view(-1, 1, 1)
        outputs, state = stack(time.sin(), state)
        state = detach(state)
        loss = F.mse_loss(head(outputs), time.cos())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert max(losses[-20:]) < 0.01, "half a wave from an empty state would be ambiguous"
