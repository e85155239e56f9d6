"""Truncated BPTT as a stream of events."""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharRNNError, CorpusChangedError
from charrnn.machine.runtime import Runtime, open_runtime, seed_everything
from charrnn.model.network import CharRNN
from charrnn.training.budget import Budget
from charrnn.training.evaluation import EVALUATION_COST, EVALUATION_FRACTION, FINAL_FRACTION, Evaluations
from charrnn.training.events import Evaluated, Event, Finished, Recovered, Stepped
from charrnn.training.heuristics import default_learning_rate
from charrnn.training.optimizer import make_optimizers
from charrnn.training.recovery import MAX_RECOVERIES
from charrnn.training.snapshot import History
from charrnn.training.streams import Cursor, Layout, TrainingText
from charrnn.training.timing import Clock, seconds_per_step
from charrnn.training.trainer import Trainer
from tests.support import CPU, needs_bfloat16, needs_cuda

PERIODIC = torch.arange(600, dtype=torch.uint8) % 7
VAL = PERIODIC[:10]
CONFIG = TrainingConfig(steps=30, batch_size=4, seq_length=8, warmup_steps=5, learning_rate=1e-2)
MODEL = ModelConfig(vocab_size=7, hidden_size=16, embedding_size=8, dropout=0.2)


def make_trainer(
    config: TrainingConfig = CONFIG,
    train: Tensor = PERIODIC,
    val: Tensor = VAL,
    *,
    model: ModelConfig = MODEL,
    seed: int = 1,
    runtime: Runtime = CPU,
) -> Trainer:
    seed_everything(seed)
    layout = Layout.fit(len(train), config.batch_size or 32, config.seq_length or 32)
    return Trainer(CharRNN(model), config, TrainingText(train, val, layout), runtime)


def carried_state(trainer: Trainer) -> list[Tensor]:
    return [tensor for name, tensor in trainer.snapshot().tensors.items() if name.startswith("trainer.state.")]


def progress(events: list[Event]) -> list[Stepped]:
    return [event for event in events if isinstance(event, Stepped)]


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
    assert events[-1].step == 2 * trainer.layout.num_chunks == 2 * ((599 - 7) // 32)
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
    assert [type(event) for event in events] == [Stepped, Stepped, Stepped, Finished]
    assert trainer.history.best_val_loss is None


def test_evaluation_that_a_stop_cut_short_is_made_up_for_on_resuming() -> None:
    config = replace(CONFIG, eval_every=3)
    stopped = make_trainer(config)
    for event in stopped.run():
        if event.step == 3:
            stopped.request_stop()
    resumed = make_trainer(config)
    resumed.load(stopped.snapshot())
    first = next(resumed.run())
    assert isinstance(first, Evaluated)
    assert first.step == 3


def test_run_that_lost_patience_stays_over() -> None:
    noise = torch.randint(7, (60,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = replace(CONFIG, steps=1000, eval_every=5, patience=1)
    over = make_trainer(config, val=noise)
    end = list(over.run())[-1]
    again = make_trainer(config, val=noise)
    again.load(over.snapshot())
    events = list(again.run())
    assert len(events) == 1
    assert events[0].step == end.step


def test_state_is_carried_within_an_epoch_and_reset_for_the_next() -> None:
    trainer = make_trainer(replace(CONFIG, steps=None, epochs=2))
    carried = []
    for event in trainer.run():
        if isinstance(event, Stepped):
            carried.append(any(tensor.any() for tensor in carried_state(trainer)))
    epoch = [True] * (trainer.layout.num_chunks - 1) + [False]  # within it, at its border
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
    before = {name: weight.clone() for name, weight in trainer.bptt.model.state_dict().items()}
    carried_state(trainer)[0].fill_(math.nan)
    next(run)
    for name, weight in trainer.bptt.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_exploding_loss_restores_the_last_good_state_with_a_lower_rate() -> None:
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
        two, text = replace(MODEL, vocab_size=2, dropout=0.5), torch.tensor([0, 1], dtype=torch.uint8)
        events = make_trainer(config, text, VAL[:0], model=two, seed=seed).run()
        assert not any(isinstance(event, Recovered) for event in events)


def test_loss_that_is_no_number_leads_back_and_on() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=200))
    events: list[Event] = []
    for event in trainer.run():
        events.append(event)
        if isinstance(event, Stepped) and event.step == 250 and not trainer.history.recoveries:
            with torch.no_grad():
                trainer.bptt.model.head.weight.fill_(math.nan)
    recovered = [event for event in events if isinstance(event, Recovered)]
    assert [event.step for event in recovered] == [100], "the loss was sane 100 steps after it"
    assert math.isnan(recovered[0].loss)
    assert events[-1].step == 400
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    assert all(math.isfinite(event.loss) for event in evaluated)


def test_snapshot_is_the_last_good_one_only_after_a_normal_loss() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400))
    ruined: list[int] = []

    def ruin(*arguments: object) -> None:
        """What one bad update does, of which the loss that led to it knows nothing yet."""
        if trainer.progress.step == 199 and not ruined:
            ruined.append(trainer.progress.step)
            with torch.no_grad():
                trainer.bptt.model.head.weight.normal_(std=100)

    trainer.bptt._optimizers["optimizer"].register_step_post_hook(ruin)
    events = list(trainer.run())
    assert [event.step for event in events if isinstance(event, Recovered)] == [100]
    assert events[-1].step == 400


def test_snapshots_one_step_apart_do_not_replace_a_good_one() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400, checkpoint_every=1))
    ruined: list[int] = []
    for event in trainer.run():
        if event.step == 150 and not ruined:
            ruined.append(event.step)
            with torch.no_grad():
                trainer.bptt.model.head.weight.normal_(std=12)
    assert ruined
    assert event.step == 400
    assert float(trainer.bptt.mean_loss) < math.log(7)


@pytest.mark.parametrize("recoveries", [0, MAX_RECOVERIES])
def test_stop_after_an_explosion_restores_the_last_good_snapshot(recoveries: int) -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400))
    trainer.history.recoveries = recoveries
    for event in trainer.run():
        if event.step == 220:
            with torch.no_grad():
                trainer.bptt.model.head.weight.normal_(std=100)
        if event.step == 260:
            trainer.request_stop()
    assert isinstance(event, Finished)
    assert (event.step, event.reason) == (100, "stopped")
    assert (trainer.was_rolled_back, trainer.history.recoveries) == (True, recoveries)
    snapshot = trainer.snapshot().copy()
    whole, resumed = make_trainer(trainer.config), make_trainer(trainer.config)
    list(whole.run())
    resumed.load(snapshot)
    list(resumed.run())
    if recoveries == 0:
        for name, weight in whole.bptt.model.state_dict().items():
            assert torch.equal(weight, resumed.bptt.model.state_dict()[name]), "as if it had not been stopped"


def test_exploded_validation_loss_is_not_the_best_one() -> None:
    trainer = make_trainer(replace(CONFIG, steps=150, eval_every=150, learning_rate=1e-3))
    ruined: list[int] = []

    def ruin(*arguments: object) -> None:
        """One bad update, behind the last loss that is looked at before the evaluation."""
        if trainer.progress.step == 149 and not ruined:
            ruined.append(trainer.progress.step)
            with torch.no_grad():
                trainer.bptt.model.head.weight.mul_(1e6)

    trainer.bptt._optimizers["optimizer"].register_step_post_hook(ruin)
    events = list(trainer.run())
    assert [type(event) for event in events if not isinstance(event, Stepped)] == [Recovered, Evaluated, Finished]
    assert trainer.history.best_val_loss is not None
    assert trainer.history.best_val_loss < 100


def test_stop_while_a_recovery_is_reported_does_not_recover_again() -> None:
    trainer = make_trainer(replace(CONFIG, steps=400, eval_every=400, batch_size=32, seq_length=16))
    recovered: list[Event] = []
    for event in trainer.run():
        if event.step == 220 and not recovered:
            with torch.no_grad():
                trainer.bptt.model.head.weight.fill_(math.nan)
        if isinstance(event, Recovered):
            recovered.append(event)
            trainer.request_stop()
    assert len(recovered) == 1
    assert (event.step, trainer.recovery.loss_is_normal(trainer.progress)) == (recovered[0].step, True)


def test_loss_that_stays_no_number_is_an_error_with_a_remedy() -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.bptt.model.head.weight.fill_(math.nan)
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
    trainer = make_trainer(replace(CONFIG, steps=300, eval_every=210))
    for event in trainer.run():
        if isinstance(event, Evaluated) and event.step == 210 and not trainer.history.recoveries:
            best = trainer.history.best_val_loss
            with torch.no_grad():
                trainer.bptt.model.head.weight.fill_(math.nan)
        if isinstance(event, Recovered):
            assert event.step == 100
            assert trainer.history.best_val_loss == best


def test_explosion_in_the_last_steps_is_seen() -> None:
    trainer = make_trainer(replace(CONFIG, steps=150))
    kinds = []
    for event in trainer.run():
        kinds.append(type(event))
        if event.step == 149 and Recovered not in kinds:
            with torch.no_grad():
                trainer.bptt.model.head.weight.fill_(math.inf)
    assert Recovered in kinds
    assert math.isfinite(trainer.history.best_val_loss or math.nan)


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
        again.load(over.snapshot())
        assert again.budget.is_over(again.now) == is_over, changes


def test_resumed_run_equals_uninterrupted_run() -> None:
    whole = make_trainer()
    losses = [float(event.train_loss) for event in progress(list(whole.run()))]

    first = make_trainer()
    for event in itertools.islice(first.run(), 17):
        last_step = event.step
    snapshot = first.snapshot().copy()

    second = make_trainer(seed=99)
    second.load(snapshot)
    assert second.progress.step == last_step
    rest = [float(event.train_loss) for event in progress(list(second.run()))]
    assert rest == losses[last_step:]
    for name, weight in whole.bptt.model.state_dict().items():
        assert torch.equal(weight, second.bptt.model.state_dict()[name])
    assert second.history.best_val_loss == whole.history.best_val_loss


@pytest.mark.parametrize("cursor", [Cursor(0, 10**9, 0), Cursor(0, 0, 10**9)])
def test_cursor_beyond_the_streams_is_refused(cursor: Cursor) -> None:
    trainer = make_trainer()
    next(trainer.run())
    with pytest.raises(CharRNNError, match=r"does not match this run: chunk .* is beyond the streams"):
        make_trainer().load(replace(trainer.snapshot(), cursor=cursor))


def test_tensors_that_do_not_fit_are_refused() -> None:
    trainer = make_trainer()
    next(trainer.run())
    snapshot = trainer.snapshot()
    for name in ("trainer.train_loss", "trainer.state.0.0", "trainer.optimizer.0.exp_avg"):
        tensor = snapshot.tensors[name]
        for other in (tensor.double(), tensor.expand(2, *tensor.shape)):
            with pytest.raises(CharRNNError, match=f"does not match this run: {name.split('.')[-3:][-1]}|has type"):
                make_trainer().load(replace(snapshot, tensors={**snapshot.tensors, name: other}))
    for name in snapshot.tensors:
        without = {other: tensor for other, tensor in snapshot.tensors.items() if other != name}
        with pytest.raises(CharRNNError, match="does not match this run"):
            make_trainer().load(replace(snapshot, tensors=without))


class BrokenOff:
    """An update that is broken off once in its midst, as a failed recording is."""

    def __init__(self, update: Callable[[], None], reset: Callable[[], None], at_call: int) -> None:
        self.update, self.reset, self.calls_left = update, reset, at_call

    def __call__(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(nn.utils, "clip_grad_norm_", self.fail)
                with pytest.raises(RuntimeError, match="not permitted"):
                    self.update()
            self.reset()
        self.update()

    def fail(self, *arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_update_that_was_broken_off_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runtime, "gradient_scaler", lambda self: torch.amp.GradScaler("cpu", init_scale=8.0))
    expected = [float(event.train_loss) for event in progress(list(make_trainer().run()))]
    trainer = make_trainer()
    trainer.bptt._update = BrokenOff(trainer.bptt._update, trainer.bptt.reset, at_call=7)
    found = [float(event.train_loss) for event in progress(list(trainer.run()))]
    assert found[:6] == expected[:6]
    assert found[-1] == pytest.approx(expected[-1], abs=0.3), "the masks of dropout are other ones"


def test_estimating_the_time_changes_nothing() -> None:
    plain = [float(event.train_loss) for event in progress(list(make_trainer().run()))]
    timed = make_trainer()
    assert seconds_per_step(timed.bptt) > 0
    assert [float(event.train_loss) for event in progress(list(timed.run()))] == plain


def test_weight_decay_is_on_matrices_only() -> None:
    matrices, vectors = make_optimizers(CharRNN(MODEL), CONFIG, CPU)["optimizer"].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}


def test_learning_rate_is_the_one_given_or_suits_the_shapes() -> None:
    assert make_trainer().learning_rate == CONFIG.learning_rate
    assert make_trainer(replace(CONFIG, learning_rate=None)).learning_rate == default_learning_rate(
        MODEL, CONFIG.optimizer, 32
    )


def evaluations(steps: int, val: Tensor) -> list[Evaluated]:
    trainer = make_trainer(replace(CONFIG, steps=steps), val=val)
    return [event for event in trainer.run() if isinstance(event, Evaluated)]


def test_runs_evaluate_ten_times_or_fewer_if_it_costs_too_much() -> None:
    assert len(evaluations(100, VAL)) == 10
    assert 4 <= len(evaluations(100, PERIODIC[:200])) < 10
    assert len(evaluations(100, PERIODIC.repeat(50))) == 4


def test_evaluations_read_one_bounded_part_and_the_last_one_more() -> None:
    val, steps = PERIODIC.repeat(50), 900
    *between, last = evaluations(steps, val)
    (chars,) = {event.val_chars for event in between}
    assert chars is not None
    assert last.val_chars is not None
    assert 0 < chars < last.val_chars < len(val) - 1
    cost = EVALUATION_COST * (chars * len(between) + last.val_chars)
    assert cost < (EVALUATION_FRACTION + FINAL_FRACTION) * steps * 32


def test_figure_at_the_end_is_over_the_whole_text_where_that_costs_little() -> None:
    *_, last = evaluations(100, VAL)
    assert last.val_chars == len(VAL) - 1


def test_evaluation_during_which_the_time_ends_is_the_final_one() -> None:
    trainer, history = make_trainer(replace(CONFIG, steps=1000), val=PERIODIC.repeat(50)), History()
    trainer.evaluations.start(history)
    answers = iter([False, True])
    assert history.part is not None
    is_over = itertools.chain(answers, itertools.repeat(True)).__next__
    assert not is_over(), "before it the run is not over"
    result = trainer.evaluations.measure(history, Clock(), lambda: False, is_over)
    assert result is not None
    assert result.score.num_predictions > history.part.count(len(PERIODIC) * 50)


def test_trial_with_a_changed_corpus_does_not_change_the_state() -> None:
    trainer = make_trainer()
    before, reads = trainer.snapshot().copy(), iter([True, True])

    def check() -> None:
        if not next(reads, False):
            raise CorpusChangedError("truncated")

    trainer.bptt.text = replace(trainer.bptt.text, check=check)
    with pytest.raises(CorpusChangedError):
        seconds_per_step(trainer.bptt)
    after = trainer.snapshot()
    assert (after.cursor, after.tensors.keys()) == (before.cursor, before.tensors.keys())
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


def test_last_evaluation_without_time_for_more_keeps_what_it_has_measured() -> None:
    trainer, history = make_trainer(replace(CONFIG, steps=1000), val=PERIODIC.repeat(50)), History()
    evaluations = Evaluations(trainer.bptt, trainer.config, Budget(steps=1000, seconds=60.0))
    evaluations.start(history)

    def num_chars(elapsed_s: float) -> int:
        result = evaluations.measure(history, Clock(elapsed_s), lambda: False, lambda: True)
        assert result is not None
        return result.score.num_predictions

    assert history.part is not None
    assert num_chars(60.1) <= history.part.count(len(PERIODIC) * 50) < num_chars(0.0)


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
    trainer = make_trainer(replace(CONFIG, steps=60), seed=0, runtime=open_runtime(device, precision))
    losses = [float(event.train_loss) for event in progress(list(trainer.run()))]
    assert losses[-1] < 0.9 * losses[0]
