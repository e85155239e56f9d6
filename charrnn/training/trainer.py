"""Truncated backpropagation through time as a stream of events.

The trainer knows neither files nor terminals: between two events its caller may save, report and sample. How a loss
is measured on held-out text is `evaluation.py`'s business.

Letters in shapes: N symbols, T time steps, B parallel streams, V vocabulary size.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import EVALUATIONS_A_RUN, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.machine.runtime import Runtime
from charrnn.model.network import CharRNN, State, carry, clear
from charrnn.model.scoring import Measured, Part, evaluate, max_streams
from charrnn.training.events import Evaluated, Event, Finished, Progress, Recovered
from charrnn.training.heuristics import default_learning_rate
from charrnn.training.streams import Cursor, Layout, advance, chunk_at, draw_offset

_LOSS_MEMORY = 0.98
_WATCH_EVERY = 100  # steps between two looks at the loss, which wait for the device
_MANY_CHARS = 500  # in a step: its own loss tells something of the model, not only of these characters
_MOST_RECOVERIES = 5
_COOL_DOWN = 0.1  # of the run so far: how long the learning rate takes to fall where patience ends it early
_EVALUATION_SHARE = 0.04  # of a run, at most, for all evaluations but the last
_FINAL_SHARE = 0.05  # of a run, at most, for the figure that it ends with
_MIN_EVALUATIONS = 4  # that are spaced over a budget
_EVALUATION_COST = 0.25  # of reading a character to evaluate, measured in characters of training
_RESET_PROBABILITY = 0.05  # at 0.01 a model of 18 seconds still failed at 18 of 2,000 cold starts, at 0.05 at none


def make_optimizer(model: nn.Module, config: TrainingConfig, runtime: Runtime) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, and a learning rate that lies on the device."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=runtime.place(torch.zeros(())),  # set before each step
        weight_decay=config.weight_decay,
        fused=True,
        capturable=runtime.captures,
    )


def lay_out(num_symbols: int, config: TrainingConfig, runtime: Runtime) -> Layout:
    """The streams that N symbols are trained in. Raises: CharRNNError for fewer than two symbols."""
    return Layout.fit(num_symbols, config.batch_size or runtime.training_streams, config.seq_length)


@dataclass(frozen=True)
class _Moment:
    """Copies of all that a trainer needs in order to go back."""

    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    counters: dict[str, Any]


class Trainer:
    """Trains a model on a sequence of indices by truncated BPTT over contiguous streams.

    Everything that the further course depends on is in `state_dict`. `train` and `val` are indices (N,);
    without validation text (fewer than two indices) the training loss decides what is best. `check` is called before
    they are read, and raises where they must not be.
    """

    def __init__(
        self,
        model: CharRNN,
        config: TrainingConfig,
        train: Tensor,
        val: Tensor,
        runtime: Runtime,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model.to(runtime.device)
        self.config = config
        self.runtime = runtime
        self.layout = lay_out(len(train), config, runtime)
        self.best_val_loss: float | None = None
        self.best_val_chars: int | None = None  # that it was measured on
        self.step = 0
        self.stop_requested = False
        self.saving_seconds = 0.0  # which the caller takes for a checkpoint while the training goes on
        self._train, self._val = runtime.place(train), runtime.place(val)
        self._check = check if self._train is train else lambda: None  # a copy is nobody else's
        self._optimizer = make_optimizer(model, config, runtime)
        self._scaler = runtime.gradient_scaler()
        self._offsets = torch.Generator().manual_seed(torch.initial_seed())
        self._cursor = Cursor(0, 0, draw_offset(self.layout, self._offsets))
        # What a step reads and writes stays where it is, so that a device can record and replay the step.
        T, B = self.layout.seq_length, self.layout.batch_size
        self._x, self._y = (torch.zeros(T, B, dtype=torch.int64, device=runtime.device) for _ in range(2))
        self._state = model.initial_state(B)
        self._loss = runtime.place(torch.zeros(()))
        self._update: Callable[[], None]
        self._train_loss = runtime.place(torch.zeros(()))
        self._lowest_loss = math.log(model.config.vocab_size)
        self._recoveries = 0
        self._sound: list[_Moment] = []  # at most two, the older one first
        self._went_back = False  # to the newest of them
        self._evaluated_step = 0
        self._evaluated_fraction = 0.0
        self._part: Part | None = None  # of the validation text, which each evaluation reads
        self._final_part: Part | None = None  # which the run's last figure rests on
        self._best_part_loss: float | None = None
        self._stale_evaluations = 0
        self._patience_lost_at: float | None = None  # in steps or seconds, as the budget
        self._paused_seconds = 0.0
        self._elapsed_before = 0.0  # seconds of the earlier parts of a resumed run
        self._started: float | None = None
        self._seconds_per_step: float | None = None  # as estimated
        self._evaluation_seconds = 0.0  # that one takes, with all that its reader does
        self._reading_seconds = 0.0  # that its reader takes of these
        self._closing_seconds = 0.0  # that the last one is expected to take

    @property
    def steps_per_epoch(self) -> int:
        """Chunks that an epoch is read in."""
        return self.layout.num_chunks

    @property
    def chars_per_step(self) -> int:
        """Characters that a step learns from: B x T."""
        return self.layout.batch_size * self.layout.seq_length

    @property
    def learning_rate(self) -> float:
        """The peak that the run begins with: the configured one, or what suits its shapes."""
        return self.config.learning_rate or default_learning_rate(self.model.config, self.chars_per_step)

    @property
    def validates(self) -> bool:
        """Whether there is validation text; else the training loss decides what is best."""
        return len(self._val) >= 2

    @property
    def num_predictions(self) -> int:
        """Characters of the validation text that a loss can be measured on."""
        return max(len(self._val) - 1, 0)

    @property
    def total_steps(self) -> int | None:
        """The budget in steps, or None where it is one of time."""
        if self.config.epochs is not None:
            return max(1, round(self.config.epochs * self.steps_per_epoch))
        return self.config.steps

    @property
    def chars_per_second(self) -> float:
        """Characters per second of the training steps alone."""
        seconds = self.elapsed_s - self._paused_seconds
        return self.step * self.chars_per_step / seconds if seconds > 0 else 0.0

    @property
    def elapsed_s(self) -> float:
        """Wall-clock seconds since the first step, those of the earlier parts of a resumed run included."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._elapsed_before + running

    @property
    def fraction(self) -> float:
        """The share of the budget that is spent, from 0 to 1."""
        return min(1.0, self._spent / self._budget)

    @property
    def _budget(self) -> float:
        """Steps, or seconds where the budget is one of time, without those that the last evaluation will take."""
        if self.total_steps is not None:
            return self.total_steps
        if self.config.minutes is None:
            raise CharRNNError("the training needs a budget: epochs, steps or minutes")
        seconds = 60 * self.config.minutes
        return max(seconds - self._closing_seconds, 0.1 * seconds)

    @property
    def _spent(self) -> float:
        """Steps taken, or seconds elapsed."""
        return self.step if self.total_steps is not None else self.elapsed_s

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent, or the patience and the cool-down that follows it."""
        return self.fraction >= self._end

    @property
    def _end(self) -> float:
        """The fraction at which the run ends: early where patience was lost, yet late enough to cool down."""
        return min(1.0, (1 + _COOL_DOWN) * self._cool_down_from)

    @property
    def _cool_down_from(self) -> float:
        """The fraction at which patience was lost, or 1."""
        return 1.0 if self._patience_lost_at is None else min(1.0, self._patience_lost_at / self._budget)

    def request_stop(self) -> None:
        """End the run after the step, or in the evaluation, that is under way."""
        self.stop_requested = True

    def run(self) -> Iterator[Event]:
        """Train to the end of the budget; the run may be saved, reported and sampled between two events.

        Raises: CharRNNError if the loss stays absurd at ever lower learning rates.
        """
        self._begin_evaluations()
        self._started = time.perf_counter()
        self._update = self.runtime.capture(self._update_weights)
        self._remember()
        self.model.train()
        while not self.stop_requested:
            if self.evaluation_is_due:
                yield from self._evaluate()
            elif self.is_over:
                break
            else:
                progress = self._take_step()
                yield progress if self._is_sound() else self._recover(self._loss_to_judge())
        if self.stop_requested and not self.is_sane:
            yield self._recover(self._loss_to_judge())
        reason = "stopped" if self.stop_requested else "budget" if self.fraction == 1 else "patience"
        yield Finished(**self._where(), reason=reason, chars_per_second=self.chars_per_second)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done herein, between two events, does not count as training in `chars_per_second`."""
        self.runtime.synchronize()
        begin = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - begin

    def estimate_epochs(self, seconds_per_step: float) -> float:
        """Passes over the text that the whole budget will allow."""
        steps = self.total_steps or self._budget / seconds_per_step
        return steps / self.steps_per_epoch

    def estimate_seconds_per_step(self) -> float:
        """Time a few steps, once, without taking them: no weight, generator or counter changes."""
        if self._seconds_per_step is None:
            self._seconds_per_step = self._time_steps()
        return self._seconds_per_step

    def _time_steps(self) -> float:
        def attempt() -> None:
            self._optimizer.zero_grad()
            self._compute_loss()[0].backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)

        states, attempt_as_run = self.runtime.random_state(), self.runtime.capture(attempt)
        self.model.train()
        seconds = []
        for _ in range(10 if self.runtime.captures else 5):  # recording takes some
            begin = time.perf_counter()
            self._read_chunk()
            attempt_as_run()
            self.runtime.synchronize()
            seconds.append(time.perf_counter() - begin)
        self._optimizer.zero_grad()
        self.runtime.set_random_state(states)
        return statistics.median(seconds[-4:])

    def _take_step(self) -> Progress:
        learning_rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"].fill_(learning_rate)
        self._read_chunk()
        self._update()
        epoch, self._cursor = self._cursor.epoch, advance(self.layout, self._cursor, self._offsets)
        if self._cursor.epoch > epoch:
            clear(self._state)  # the streams begin anew, at other places of the text
        self.step += 1
        weight = max(1 - _LOSS_MEMORY, 1 / self.step)  # a plain mean at first
        self._train_loss = self._train_loss.lerp(self._loss, weight)
        return Progress(
            **self._where(),
            train_loss=self._train_loss,
            learning_rate=learning_rate,
            chars_per_second=self.chars_per_second,
        )

    def _read_chunk(self) -> None:
        self._check()
        x, y = chunk_at(self._train, self.layout, self._cursor)
        self._x.copy_(x)
        self._y.copy_(y)

    def _update_weights(self) -> None:
        """The part of a step that a device can record: from the chunk that was read to weights, state and loss."""
        self._optimizer.zero_grad()
        loss, state = self._compute_loss()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        if not self._scaler.is_enabled():  # else the scaler sets it
            self._optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined] # skips the step
        self._scaler.step(self._optimizer)
        self._scaler.update()
        carry(state, self._state, self._draw_streams_to_keep())
        self._loss.copy_(loss.detach())

    def _compute_loss(self) -> tuple[Tensor, State]:
        """Mean loss of the chunk that was read, and the state behind it."""
        with self.runtime.autocast():
            logits, state = self.model(self._x, self._state)
        return F.cross_entropy(logits.float().flatten(0, 1), self._y.flatten()), state

    def _draw_streams_to_keep(self) -> Tensor:
        """(B,), bool: nearly all. A model that never began with an empty state can fail for good where it must."""
        return torch.rand(self.layout.batch_size, device=self.runtime.device) >= _RESET_PROBABILITY

    def _learning_rate(self) -> float:
        """A linear rise over the first steps (of a short run: its first tenth), times a cosine to zero at its end.

        Where patience was lost, a straight line leads to zero earlier.
        """
        fraction, end, cool_from = self.fraction, self._end, self._cool_down_from
        warmup = min(1.0, max((self.step + 1) / (self.config.warmup_steps + 1), 10 * fraction))
        cool_down = 1.0 if cool_from >= end else min(1.0, (end - fraction) / (end - cool_from))
        return self._peak_learning_rate * warmup * cool_down * 0.5 * (1 + math.cos(math.pi * fraction))

    @property
    def _peak_learning_rate(self) -> float:
        """The peak now: divided by 2 in the first recovery, by 4 more in the second, and so on."""
        return float(self.learning_rate / 2 ** (self._recoveries * (self._recoveries + 1) // 2))

    @property
    def evaluation_is_due(self) -> bool:
        """True if the next event will be an evaluation, unless a stop is asked for."""
        if self._evaluated_step == self.step:
            return False
        if self.is_over:
            return True
        if self.config.eval_every is not None:
            return self.step % self.config.eval_every == 0
        count, before = self._evaluations_a_run(), self._evaluated_fraction
        is_apart = self.fraction - before > 0.5 / count  # the count falls as the cost becomes known
        return is_apart and int(self.fraction * count) > int(before * count)

    def _evaluations_a_run(self) -> int:
        """As many as are spaced over a budget, fewer where they would take too much of it."""
        if self.total_steps is not None:
            total, cost = float(self.total_steps * self.chars_per_step), _EVALUATION_COST * self._chars_in(self._part)
        else:
            total, cost = self._budget, self._evaluation_seconds
        return max(_MIN_EVALUATIONS, min(EVALUATIONS_A_RUN, int(_EVALUATION_SHARE * total / max(cost, 1e-9))))

    def _begin_evaluations(self) -> None:
        """Choose what each evaluation reads, the same from then on, and keep time for the last one."""
        seconds_per_char = 0.0
        if self.total_steps is None and self.validates:
            seconds_per_char = _EVALUATION_COST * self.estimate_seconds_per_step() / self.chars_per_step
        if self._part is None:
            self._part = self._afford(_EVALUATION_SHARE / _MIN_EVALUATIONS, seconds_per_char)
            self._evaluation_seconds = self._chars_in(self._part) * seconds_per_char
            self._reserve_time(seconds_per_char)
        else:
            self._final_part = self._afford(_FINAL_SHARE, seconds_per_char)

    def _afford(self, share: float, seconds_per_char: float) -> Part:
        """The largest part of the validation text that can be read in a share of the run."""
        if self.total_steps is not None:
            max_chars = share * self.total_steps * self.chars_per_step / _EVALUATION_COST
        else:
            max_chars = share * 60 * (self.config.minutes or 0) / max(seconds_per_char, 1e-12)
        return Part.fit(len(self._val), self.model.config.vocab_size, max_chars)

    def _chars_in(self, part: Part | None) -> int:
        return 0 if part is None else part.count(len(self._val))

    def _reserve_time(self, seconds_per_char: float) -> None:
        """Reserve for the last evaluation what another one takes, and what a figure that rests on more takes."""
        self._final_part = self._afford(_FINAL_SHARE, seconds_per_char)
        more = 0 if self._final_part == self._part else self._chars_in(self._final_part)
        seconds = self._evaluation_seconds + more * seconds_per_char
        # At the end no shorter than before, so that a budget that was spent stays spent.
        self._closing_seconds = max(self._closing_seconds, seconds) if self.is_over else seconds

    def _evaluate(self) -> Iterator[Evaluated | Recovered]:
        """One evaluation; nothing where a stop is asked for in its midst."""
        begin = time.perf_counter()
        with self.paused():
            measured = self._measure_loss(self._part)
        seconds_per_char = (time.perf_counter() - begin) / max(self._chars_in(self._part), 1)
        if self.stop_requested:
            return
        if not math.isfinite(measured.loss):
            yield self._recover(measured.loss)
            return
        part_loss, improved = measured.loss, self._best_part_loss is None or measured.loss < self._best_part_loss
        if improved and self.is_over and self._final_part != self._part:
            with self.paused():
                more = self._measure_loss(self._final_part, until=self._final_evaluation_end)
            if self.stop_requested:
                return
            if more.num_predictions > measured.num_predictions:  # there was time for it
                measured = more
        if improved:
            self._best_part_loss = part_loss
            self.best_val_loss, self.best_val_chars = measured.loss, measured.num_predictions
        if self._patience_lost_at is None:
            self._stale_evaluations = 0 if improved else self._stale_evaluations + 1
            if self.has_lost_patience:
                self._patience_lost_at = self._spent
        self._evaluated_step, self._evaluated_fraction = self.step, self.fraction
        told = time.perf_counter()
        yield Evaluated(
            **self._where(),
            loss=measured.loss,
            val_chars=measured.num_predictions if self.validates else None,
            is_whole=measured.num_predictions == self.num_predictions,
            improved=improved,
        )
        self._reading_seconds = time.perf_counter() - told + self.saving_seconds
        self._evaluation_seconds = time.perf_counter() - begin + self.saving_seconds
        self._reserve_time(seconds_per_char)
        self._evaluated_fraction = self.fraction  # of a budget from which the close now takes another part

    @property
    def has_lost_patience(self) -> bool:
        """True after so many evaluations without progress as the patience allows."""
        return self.config.patience is not None and self._stale_evaluations >= self.config.patience

    @property
    def _final_evaluation_end(self) -> float:
        """Seconds of the run after which only its last sample and checkpoint have time left."""
        return math.inf if self.config.minutes is None else 60 * self.config.minutes - self._reading_seconds

    def _measure_loss(self, part: Part | None, until: float = math.inf) -> Measured:
        """The loss on the validation text, or else the running training loss."""
        if not self.validates:
            return Measured(float(self._train_loss), 0)
        return evaluate(
            self.model,
            self._val,
            self.runtime,
            part,
            should_stop=self._should_stop,
            is_time_up=lambda: self.elapsed_s > until,
        )

    def _should_stop(self) -> bool:
        self._check()
        return self.stop_requested

    def _where(self) -> dict[str, Any]:
        """The fields that all events share."""
        return {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "chars": self.step * self.chars_per_step,
            "elapsed_s": self.elapsed_s,
            "fraction": self.fraction,
        }

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the further course depends on, but for the model's weights: tensors, and JSON values.

        The tensors are those in use: write them before the next step is taken.
        """
        tensors = {"train_loss": self._train_loss, "offsets": self._offsets.get_state()}
        tensors |= {f"random.{kind}": state for kind, state in self.runtime.random_state().items()}
        for i, values in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
        tensors |= self._carried_state()
        counters = {name: getattr(self, attribute) for name, (attribute, _) in _COUNTERS.items()}
        return tensors, counters | {
            "cursor": asdict(self._cursor),
            "part": None if self._part is None else asdict(self._part),
            "elapsed_s": self.elapsed_s,
            "gradient_scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken; the model's weights are loaded by the caller.

        Raises: CharRNNError if the state is not one of such a trainer.
        """
        counters = _upgrade(counters)
        try:
            self._load_optimizer(_under("optimizer", tensors))
            for name, buffer in self._carried_state().items():
                buffer.copy_(_require_like(buffer, name, tensors))
            self._offsets.set_state(tensors["offsets"])
            self._train_loss = self.runtime.place(_require_like(self._train_loss, "train_loss", tensors).clone())
            self._cursor = Cursor(**{name: _require_number(i, int) for name, i in counters["cursor"].items()})
            self._part = (
                None if counters["part"] is None else _load_part(counters["part"], self.model.config.vocab_size)
            )
            if scale := {name: _require_number(i, most=2**127) for name, i in counters["gradient_scaler"].items()}:
                self._scaler.load_state_dict(scale)  # empty after training in another precision than float16
            self._elapsed_before = float(_require_number(counters["elapsed_s"]))
            for name, (attribute, kind) in _COUNTERS.items():
                value, most = counters[name], _MOST.get(name, 2**53)
                is_unset = value is None and name in _UNSET
                setattr(self, attribute, None if is_unset else _require_number(value, kind, most))
            chunk_at(self._train, self.layout, self._cursor)
            if not self.has_lost_patience:  # which may have grown
                self._patience_lost_at = None
            self._evaluated_fraction = min(self._evaluated_fraction, self.fraction)  # of a budget that may have grown
            self.runtime.set_random_state(_under("random", tensors))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CharRNNError(f"the checkpoint does not fit this training: {error}") from error
        self._update = self.runtime.capture(self._update_weights)  # a recorded step knows the old tensors

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Moments by parameter, of all or (before the first step) of none.

        Names are "<number of the parameter>.<name of the moment>". Raises: ValueError.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        likes = {
            f"{i}.{name}": self._loss if name == "step" else parameter
            for i, parameter in enumerate(parameters)
            for name in ("step", "exp_avg", "exp_avg_sq")
        }
        if tensors and tensors.keys() != likes.keys():
            raise ValueError("it has no optimizer of these parameters")
        state: dict[int, dict[str, Tensor]] = {}
        for key in tensors:
            i, _, name = key.partition(".")
            state.setdefault(int(i), {})[name] = _require_like(likes[key], key, tensors).clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _carried_state(self) -> dict[str, Tensor]:
        """The tensors of the state by name, "state.<layer>.<number of the tensor>"."""
        return {f"state.{i}.{j}": tensor for i, layer in enumerate(self._state) for j, tensor in enumerate(layer)}

    def _is_sound(self) -> bool:
        """Whether the loss is sane, as far as is known: now and then, and before all saving, it is looked at.

        A sound moment is kept.
        """
        is_time = self.step % _WATCH_EVERY == 0 or self.step % self.config.checkpoint_every == 0
        if not (is_time or self.evaluation_is_due):
            return True
        if not self.is_sane:
            return False
        self._lowest_loss = min(self._lowest_loss, float(self._train_loss))
        self._remember()
        return True

    @property
    def is_sane(self) -> bool:
        """True if the loss is a number, and not far beyond that of guessing; to look at it waits for the device."""
        return self._loss_to_judge() < self._highest_sane_loss()  # which NaN is not

    def _loss_to_judge(self) -> float:
        """The running mean, or the last step's loss where that is worse and rests on many characters."""
        mean, last = float(self._train_loss), float(self._loss)
        return last if self.chars_per_step >= _MANY_CHARS and not last < mean else mean

    def _highest_sane_loss(self) -> float:
        """Beyond that of guessing: just so before anything is learned, far where a new kind of text may surprise.

        Of two symbols even a new model may be wrong by more than a share of a bit, so there is a least margin, in nats.
        """
        guessing = math.log(self.model.config.vocab_size)
        return guessing + (max(4, guessing) if self._lowest_loss < guessing else max(1, guessing / 4))

    def _remember(self) -> None:
        """Keep this moment as sound, and one that is some time before it."""
        steps = [moment.counters["step"] for moment in self._sound]
        if len(steps) == 2:  # which one goes? at once, to free its memory
            del self._sound[0 if steps[1] - steps[0] >= _WATCH_EVERY else 1]
        tensors, counters = self.state_dict()
        self._sound.append(_Moment(_clone(self.model.state_dict()), _clone(tensors), counters))
        self._went_back = False

    def _recover(self, loss: float) -> Recovered:
        """Go back to the last sound moment, and on from there with a lower learning rate.

        From one that only seemed sound, since its last update had not shown yet in any loss, no rate leads on: where
        it was gone back to before, it is the one before it. Raises: CharRNNError if that was tried often enough.
        """
        if self._recoveries == _MOST_RECOVERIES:
            raise CharRNNError(
                f"the loss is {loss:.4g} after {self.step} steps, and {_MOST_RECOVERIES} attempts with ever lower "
                f"learning rates ended no better: lower --learning-rate, now {self.learning_rate:.3g}, or "
                f"--grad-clip, now {self.config.grad_clip}"
            )
        kept = {
            "elapsed_s": self._elapsed_before,
            "paused_seconds": self._paused_seconds,
            "evaluation_seconds": self._evaluation_seconds,
            "closing_seconds": self._closing_seconds,
            "best_part_loss": self._best_part_loss,
            "best_val_loss": self.best_val_loss,
            "best_val_chars": self.best_val_chars,
            "recoveries": self._recoveries + 1,
        }
        if self._went_back and len(self._sound) > 1:
            self._sound.pop()
        self._went_back = True
        sound = self._sound[-1]
        self.model.load_state_dict(sound.weights)
        self.load_state_dict(sound.tensors, sound.counters | kept)
        return Recovered(**self._where(), loss=loss, learning_rate=self._peak_learning_rate)


_COUNTERS: Mapping[str, tuple[str, type]] = {
    "step": ("step", int),
    "best_part_loss": ("_best_part_loss", float),
    "best_val_loss": ("best_val_loss", float),
    "best_val_chars": ("best_val_chars", int),
    "evaluated_step": ("_evaluated_step", int),
    "evaluated_fraction": ("_evaluated_fraction", float),
    "stale_evaluations": ("_stale_evaluations", int),
    "patience_lost_at": ("_patience_lost_at", float),
    "paused_seconds": ("_paused_seconds", float),
    "evaluation_seconds": ("_evaluation_seconds", float),
    "closing_seconds": ("_closing_seconds", float),
    "lowest_loss": ("_lowest_loss", float),
    "recoveries": ("_recoveries", int),
}
"""The plain values of a trainer's state: name in the file, attribute and kind of number."""
_MOST = {"recoveries": _MOST_RECOVERIES}
_UNSET = {"best_part_loss", "best_val_loss", "best_val_chars", "patience_lost_at"}
"""Those that may be None."""


def _upgrade(counters: dict[str, Any]) -> dict[str, Any]:
    """The counters of a checkpoint from before evaluations read a part: they read the whole."""
    if "part" in counters:
        return counters
    seconds, best = counters.get("closing_seconds"), counters.get("best_val_loss")
    missing = {"part": asdict(Part()), "best_part_loss": best, "best_val_chars": None, "evaluation_seconds": seconds}
    return {**counters, **missing}


def _load_part(values: Mapping[str, Any], vocab_size: int) -> Part:
    """Raises: KeyError, TypeError, ValueError."""
    batch_size, num_chunks = values["batch_size"], values["num_chunks"]
    return Part(
        min(max(1, _require_number(batch_size, int)), max_streams(vocab_size)),
        None if num_chunks is None else max(1, _require_number(num_chunks, int)),
    )


def _require_like(like: Tensor, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of a name, of the type and shape that another one has. Raises: KeyError, ValueError."""
    tensor = tensors[name]
    if tensor.dtype != like.dtype or tensor.shape != like.shape:
        raise ValueError(f"{name} is of {tensor.dtype} and shape {tuple(tensor.shape)}")
    return tensor


def _require_number(value: object, kind: type = float, most: int = 2**53) -> Any:
    """A number from a file as it is: whole where kind is int, from 0 to `most`. Raises: TypeError, ValueError."""
    if not isinstance(value, int if kind is int else int | float):
        raise TypeError(f"{value!r} is no {'whole ' * (kind is int)}number")
    if not 0 <= value <= most:
        raise ValueError(f"{value} is out of range")
    return value


def _clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part of the state, without its prefix."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
