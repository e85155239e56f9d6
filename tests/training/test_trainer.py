"""Truncated BPTT as a stream of events."""

import itertools
import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.machine.runtime import open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.training.events import Evaluated, Event, Finished, Progress, Recovered
from charrnn.training.heuristics import default_learning_rate
from charrnn.training.trainer import _EVALUATION_COST, _EVALUATION_SHARE, _FINAL_SHARE, Trainer, make_optimizer
from tests.conftest import CPU, needs_bfloat16

PERIODIC = torch.arange(600, dtype=torch.uint8) % 7
VAL = PERIODIC[:10]
CONFIG = TrainingConfig(steps=30, batch_size=4, seq_length=8, warmup_steps=5, learning_rate=1e-2)
MODEL = ModelConfig(vocab_size=7, hidden_size=16, embedding_size=8, dropout=0.2)


def make_trainer(config: TrainingConfig = CONFIG, train: Tensor = PERIODIC, val: Tensor = VAL) -> Trainer:
    seed_everything(1)
    return Trainer(CharRNN(MODEL), config, train, val, CPU)


def carried_state(trainer: Trainer) -> list[Tensor]:
    return [tensor for name, tensor in trainer.state_dict()[0].items() if name.startswith("state.")]


def progress(events: list[Event]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def test_run_is_a_stream_of_steps_evaluations_and_an_end() -> None:
    events = list(make_trainer().run())
    steps = progress(events)
    assert [event.step for event in steps] == list(range(1, 31))
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert [event.step for event in evaluated] == list(range(3, 31, 3))
    assert evaluated[-1].loss < evaluated[0].loss
    assert isinstance(events[-1], Finished)
    assert (events[-1].reason, events[-1].fraction) == ("budget", 1.0)
    assert events[-1].chars == 30 * 4 * 8


def test_epochs_are_counted_in_chunks_of_the_streams() -> None:
    trainer = make_trainer(replace(CONFIG, steps=None, epochs=2))
    events = list(trainer.run())
    assert events[-1].step == 2 * trainer.steps_per_epoch == 2 * ((599 - 7) // 32)
    assert events[-1].epoch == 2.0


def test_minutes_end_on_time_with_an_evaluation() -> None:
    events = list(make_trainer(replace(CONFIG, steps=None, minutes=0.02)).run())
    assert 1.0 < events[-1].elapsed_s < 3.0
    assert any(isinstance(event, Evaluated) and event.step == events[-1].step for event in events)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = [event.learning_rate for event in progress(list(make_trainer().run()))]
    peak = rates.index(max(rates))
    assert 3 <= peak <= 6
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01 * max(rates)


def test_patience_ends_a_run_that_makes_no_progress() -> None:
    noise = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = replace(CONFIG, steps=1000, eval_every=5, patience=2)
    events = list(make_trainer(config, val=noise).run())
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "patience"
    evaluated = [event.improved for event in events if isinstance(event, Evaluated)]
    lost = next(i for i in range(len(evaluated)) if evaluated[i : i + 2] == [False, False])
    assert len(evaluated) == lost + 3  # the last one is made where the learning rate is down


def test_learning_rate_falls_to_zero_where_patience_ends_a_run() -> None:
    noise = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = replace(CONFIG, steps=5000, eval_every=50, patience=1)
    steps = progress(list(make_trainer(config, val=noise).run()))
    rates = [event.learning_rate for event in steps]
    assert steps[-1].step < 1000
    assert rates[-1] < 0.25 * max(rates)
    falling = [rate for rate in rates if rate < 0.9 * max(rates)][-len(rates) // 20 :]
    assert falling == sorted(falling, reverse=True)


def test_stop_ends_after_the_step_and_in_an_evaluation() -> None:
    trainer = make_trainer(replace(CONFIG, eval_every=3))
    events: list[Event] = []
    for event in trainer.run():
        events.append(event)
        if event.step == 3:
            trainer.request_stop()
    assert [type(event) for event in events] == [Progress, Progress, Progress, Finished]
    assert trainer.best_val_loss is None


def test_evaluation_that_a_stop_cut_short_is_made_up_for_on_resuming() -> None:
    config = replace(CONFIG, eval_every=3)
    stopped = make_trainer(config)
    for event in stopped.run():
        if event.step == 3:
            stopped.request_stop()
    resumed = make_trainer(config)
    resumed.model.load_state_dict(stopped.model.state_dict())
    resumed.load_state_dict(*stopped.state_dict())
    first = next(resumed.run())
    assert isinstance(first, Evaluated)
    assert first.step == 3


def test_run_that_lost_patience_stays_over() -> None:
    noise = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = replace(CONFIG, steps=1000, eval_every=5, patience=1)
    over = make_trainer(config, val=noise)
    end = list(over.run())[-1]
    again = make_trainer(config, val=noise)
    again.load_state_dict(*over.state_dict())
    events = list(again.run())
    assert len(events) == 1
    assert events[0].step == end.step


def test_state_is_carried_within_an_epoch_and_begins_anew_with_the_next() -> None:
    trainer = make_trainer(replace(CONFIG, steps=None, epochs=2))
    carried = []
    for event in trainer.run():
        if isinstance(event, Progress):
            carried.append(any(tensor.any() for tensor in carried_state(trainer)))
    epoch = [True] * (trainer.steps_per_epoch - 1) + [False]  # within it, at its border
    assert carried == epoch * 2


def test_without_validation_text_the_training_loss_decides() -> None:
    events = list(make_trainer(val=PERIODIC[:0]).run())
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated
    assert all(event.val_chars is None for event in evaluated)


def test_step_whose_gradient_is_no_number_is_not_taken() -> None:
    trainer = make_trainer()
    run = trainer.run()
    next(run)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    carried_state(trainer)[0].fill_(math.nan)
    next(run)
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_exploding_loss_leads_back_to_a_sound_state_with_a_lower_rate() -> None:
    trainer = make_trainer(replace(CONFIG, steps=1500, learning_rate=100.0, grad_clip=100.0))
    events = list(trainer.run())
    recovered = [event for event in events if isinstance(event, Recovered)]
    assert recovered
    assert all(event.step % 100 == 0 for event in recovered)
    rates = [event.learning_rate for event in recovered]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 100
    assert events[-1].step == 1500
    assert float(progress(events)[-1].train_loss) < 1.01 * math.log(7)


def test_first_losses_of_two_symbols_are_no_explosion() -> None:
    config = replace(CONFIG, steps=3, batch_size=1, seq_length=1, learning_rate=1e-3)
    for seed in range(40):
        seed_everything(seed)
        model = CharRNN(replace(MODEL, vocab_size=2, dropout=0.5))
        events = Trainer(model, config, torch.tensor([0, 1], dtype=torch.uint8), VAL[:0], CPU).run()
        assert not any(isinstance(event, Recovered) for event in events)


def test_loss_that_is_no_number_leads_back_and_on() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=200))
    events: list[Event] = []
    for event in trainer.run():
        events.append(event)
        if isinstance(event, Progress) and event.step == 150 and not trainer.state_dict()[1]["recoveries"]:
            with torch.no_grad():
                trainer.model.head.weight.fill_(math.nan)
    recovered = [event for event in events if isinstance(event, Recovered)]
    assert [event.step for event in recovered] == [100]
    assert math.isnan(recovered[0].loss)
    assert events[-1].step == 400
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert all(math.isfinite(event.loss) for event in evaluated)


def test_moment_that_only_seemed_sound_is_left_for_the_one_before_it() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400))
    ruined: list[int] = []

    def ruin(*arguments: object) -> None:
        """What one bad update does, of which the loss that led to it knows nothing yet."""
        if trainer.step == 199 and not ruined:
            ruined.append(trainer.step)
            with torch.no_grad():
                trainer.model.head.weight.normal_(std=100)

    trainer._optimizer.register_step_post_hook(ruin)
    events = list(trainer.run())
    assert [event.step for event in events if isinstance(event, Recovered)] == [200, 100]
    assert events[-1].step == 400


def test_moments_one_step_apart_do_not_drive_out_a_sound_one() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400, checkpoint_every=1))
    ruined: list[int] = []
    for event in trainer.run():
        if event.step == 150 and not ruined:
            ruined.append(event.step)
            with torch.no_grad():
                trainer.model.head.weight.normal_(std=12)
    assert ruined
    assert event.step == 400
    assert float(trainer.state_dict()[0]["train_loss"]) < math.log(7)


def test_stop_does_not_leave_an_exploded_model() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400))
    recovered: list[Event] = []
    for event in trainer.run():
        if event.step == 120 and not recovered:
            with torch.no_grad():
                trainer.model.head.weight.normal_(std=100)
        if event.step == 160:
            trainer.request_stop()
        recovered += [event] if isinstance(event, Recovered) else []
    assert [event.step for event in recovered] == [100]
    assert isinstance(event, Finished)
    assert (event.step, event.reason) == (100, "stopped")


def test_loss_that_stays_no_number_is_an_error_with_a_remedy() -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.head.weight.fill_(math.nan)
    with pytest.raises(CharRNNError, match="lower --learning-rate"):
        list(trainer.run())


def test_going_back_does_not_touch_the_clock() -> None:
    trainer = make_trainer(replace(CONFIG, steps=None, minutes=0.03, learning_rate=100.0, grad_clip=100.0))
    begin, recoveries = time.perf_counter(), 0
    for event in trainer.run():
        recoveries += isinstance(event, Recovered)
        assert event.elapsed_s == pytest.approx(time.perf_counter() - begin, abs=0.2)
    assert recoveries
    assert 1.0 < event.elapsed_s < 3.0


def test_going_back_keeps_the_best_loss_so_far() -> None:
    trainer = make_trainer(replace(CONFIG, steps=160, eval_every=110))
    for event in trainer.run():
        if isinstance(event, Evaluated) and event.step == 110 and not trainer.state_dict()[1]["recoveries"]:
            best = trainer.best_val_loss
            with torch.no_grad():
                trainer.model.head.weight.fill_(math.nan)
        if isinstance(event, Recovered):
            assert event.step == 110
            assert trainer.best_val_loss == best


def test_explosion_in_the_last_steps_is_seen() -> None:
    trainer = make_trainer(replace(CONFIG, steps=150))
    kinds = []
    for event in trainer.run():
        kinds.append(type(event))
        if event.step == 149 and Recovered not in kinds:
            with torch.no_grad():
                trainer.model.head.weight.fill_(math.inf)
    assert Recovered in kinds
    assert math.isfinite(trainer.best_val_loss or math.nan)


def test_more_patience_revives_a_run_and_a_larger_budget_does_not() -> None:
    noise = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = replace(CONFIG, steps=1000, eval_every=5, patience=1)
    over = make_trainer(config, val=noise)
    list(over.run())
    for changes, is_over in (
        ({}, True),
        ({"steps": 5000}, True),
        ({"patience": 9}, False),
        ({"patience": None}, False),
    ):
        again = make_trainer(replace(config, **changes), val=noise)
        again.load_state_dict(*over.state_dict())
        assert again.is_over == is_over, changes


def test_resumed_run_equals_uninterrupted_run() -> None:
    whole = make_trainer()
    losses = [float(event.train_loss) for event in progress(list(whole.run()))]

    first = make_trainer()
    for event in itertools.islice(first.run(), 17):
        last_step = event.step
    tensors, counters = first.state_dict()
    weights = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    torch.manual_seed(99)
    second = Trainer(CharRNN(MODEL), CONFIG, PERIODIC, VAL, CPU)
    second.model.load_state_dict(weights)
    second.load_state_dict(tensors, counters)
    assert second.step == last_step
    rest = [float(event.train_loss) for event in progress(list(second.run()))]
    assert rest == losses[last_step:]
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
    assert second.best_val_loss == whole.best_val_loss


def test_state_that_does_not_fit_is_refused() -> None:
    trainer = make_trainer()
    next(trainer.run())
    tensors, counters = trainer.state_dict()
    changes: list[dict[str, Any]] = [
        {"cursor": {"epoch": 0, "chunk": 10**9, "offset": 0}},
        {"cursor": {}},
        {"cursor": []},
        {"cursor": {"epoch": "x", "chunk": 0, "offset": 0}},
        {"elapsed_s": "x"},
        {"elapsed_s": math.nan},
        {"paused_seconds": None},
        {"step": 1.5},
        {"step": 10**400},
        {"recoveries": -1},
        {"recoveries": 50},
        {"gradient_scaler": {"scale": None}},
    ]
    for change in changes:
        with pytest.raises(CharRNNError, match="does not fit"):
            make_trainer().load_state_dict(tensors, counters | change)
    with pytest.raises(CharRNNError, match="does not fit"):
        make_trainer().load_state_dict(tensors | {"optimizer.0.exp_avg": torch.zeros(2)}, counters)
    for name in ("train_loss", "state.0.0"):
        for other in (tensors[name].double(), tensors[name].expand(2, *tensors[name].shape)):
            with pytest.raises(CharRNNError, match=f"does not fit this training: {name} is of"):
                make_trainer().load_state_dict(tensors | {name: other}, counters)


def test_estimating_the_time_changes_nothing() -> None:
    plain = [float(event.train_loss) for event in progress(list(make_trainer().run()))]
    timed = make_trainer()
    assert timed.estimate_seconds_per_step() > 0
    assert [float(event.train_loss) for event in progress(list(timed.run()))] == plain


def test_weight_decay_is_on_matrices_only() -> None:
    matrices, vectors = make_optimizer(CharRNN(MODEL), CONFIG, CPU).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}


def test_learning_rate_is_the_one_given_or_suits_the_shapes() -> None:
    assert make_trainer().learning_rate == CONFIG.learning_rate
    assert make_trainer(replace(CONFIG, learning_rate=None)).learning_rate == default_learning_rate(MODEL, 32)


def evaluations(steps: int, val: Tensor) -> list[Evaluated]:
    trainer = make_trainer(replace(CONFIG, steps=steps), val=val)
    return [event for event in trainer.run() if isinstance(event, Evaluated)]


def test_runs_evaluate_ten_times_and_less_often_where_it_would_cost_too_much() -> None:
    assert len(evaluations(100, VAL)) == 10
    assert 4 <= len(evaluations(100, PERIODIC[:200])) < 10
    assert len(evaluations(100, PERIODIC.repeat(50))) == 4


def test_evaluations_read_the_same_bounded_part_of_a_long_text_and_the_last_one_more() -> None:
    val, steps = PERIODIC.repeat(50), 1000
    *between, last = evaluations(steps, val)
    (chars,) = {event.val_chars for event in between}
    assert chars is not None
    assert last.val_chars is not None
    assert 0 < chars < last.val_chars < len(val) - 1
    cost = _EVALUATION_COST * (chars * len(between) + last.val_chars)
    assert cost < (_EVALUATION_SHARE + _FINAL_SHARE) * steps * 32


def test_figure_at_the_end_is_over_the_whole_text_where_that_costs_little() -> None:
    *_, last = evaluations(100, VAL)
    assert last.val_chars == len(VAL) - 1


def test_last_evaluation_without_time_for_more_keeps_what_it_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_final_evaluation_end", 0.0)
    *between, last = evaluations(1000, PERIODIC.repeat(50))
    assert last.val_chars == between[0].val_chars


def test_state_from_before_evaluations_read_a_part_is_still_read() -> None:
    trainer = make_trainer()
    *_, last = trainer.run()
    tensors, counters = trainer.state_dict()
    for name in ("part", "best_part_loss", "best_val_chars", "evaluation_seconds"):
        del counters[name]
    resumed = make_trainer(replace(CONFIG, steps=60))
    resumed.load_state_dict(tensors, counters)
    assert resumed.best_val_loss == trainer.best_val_loss
    *_, last = resumed.run()
    assert last.step == 60


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "float32"),
        pytest.param("cpu", "bfloat16", marks=needs_bfloat16),
        pytest.param("cuda", "float32", marks=needs_cuda),
        pytest.param("cuda", "float16", marks=needs_cuda),
    ],
)
def test_loss_falls_on_every_device_in_every_precision(device: str, precision: str) -> None:
    seed_everything(0)
    runtime = open_runtime(device, precision)
    trainer = Trainer(CharRNN(MODEL), replace(CONFIG, steps=60), PERIODIC, VAL, runtime)
    losses = [float(event.train_loss) for event in progress(list(trainer.run()))]
    assert losses[-1] < 0.9 * losses[0]
