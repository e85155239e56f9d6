"""Truncated backpropagation through time as a stream of events, and evaluation.

The trainer knows neither files nor terminals: between two events its caller may save, report and sample.

Letters in shapes: N symbols, T time steps, B parallel streams, V vocabulary size.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.batches import IGNORE, Cursor, Layout, advance, chunk_at, draw_offset, evaluation_chunks
from charrnn.config import EVALUATIONS_A_RUN, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.model import CharRNN, State, detach, evaluating, keep_streams
from charrnn.runtime import Runtime

_CHARS_TO_TRAIN_WELL = 10_000_000
_LOSS_MEMORY = 0.98
_RESET_PROBABILITY = 0.05  # at 0.01 a model of 18 seconds still failed at 18 of 2,000 cold starts, at 0.05 at none


@dataclass(frozen=True)
class Event:
    """Where the run stands; `fraction` is the share of the budget spent, `elapsed_s` wall-clock seconds."""

    step: int
    epoch: float
    chars: int
    elapsed_s: float
    fraction: float


@dataclass(frozen=True)
class Progress(Event):
    """A step was taken. The loss, a running mean in nats per character, stays on the device until read."""

    train_loss: Tensor
    learning_rate: float
    chars_per_second: float


@dataclass(frozen=True)
class Evaluated(Event):
    """The validation loss in nats per character, or the running training loss if there is no such text."""

    val_loss: float
    validated: bool
    improved: bool

    @property
    def bits_per_char(self) -> float:
        """The loss in bits."""
        return self.val_loss / math.log(2)


@dataclass(frozen=True)
class Sampled(Event):
    """A text that the model wrote; made by the trainer's caller."""

    text: str


@dataclass(frozen=True)
class Finished(Event):
    """The end of the run. `reason`: "budget", "patience" or "stopped" (the caller asked for it)."""

    reason: str
    chars_per_second: float


def default_epochs(num_chars: int) -> int:
    """As many epochs as a model of the default size needs to be well trained on a corpus of this size."""
    return min(15, max(3, math.ceil(_CHARS_TO_TRAIN_WELL / num_chars)))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


@torch.no_grad()
def evaluate(
    model: CharRNN,
    indices: Tensor,
    runtime: Runtime,
    *,
    batch_size: int = 32,
    seq_length: int = 64,
    should_stop: Callable[[], bool] = lambda: False,
) -> float:
    """Mean loss in nats per character of predicting each of the N indices but the first, with carried state.

    Returns: the loss, or NaN if `should_stop` ended it early.
    """
    total, state = torch.zeros((), dtype=torch.float64), None
    with evaluating(model):
        for x, y in evaluation_chunks(indices, batch_size, seq_length):
            if should_stop():
                return math.nan
            with runtime.autocast():
                logits, state = model(runtime.place(x), state)
            targets = runtime.place(y).flatten()
            total += F.cross_entropy(logits.float().flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum").cpu()
    return float(total) / (len(indices) - 1)


class Trainer:
    """Trains a model on a sequence of indices by truncated BPTT over contiguous streams.

    Everything that the further course depends on is in `state_dict`. `train` and `val` are indices (N,);
    without validation text (fewer than two indices) the training loss decides what is best.
    """

    def __init__(self, model: CharRNN, config: TrainingConfig, train: Tensor, val: Tensor, runtime: Runtime) -> None:
        self.model = model.to(runtime.device)
        self.config = config
        self.runtime = runtime
        self.layout = Layout.fit(len(train), config.batch_size, config.seq_length)
        self.best_val_loss: float | None = None
        self.step = 0
        self.stop_requested = False
        self._train, self._val = runtime.place(train), runtime.place(val)
        self._optimizer = make_optimizer(model, config)
        self._scaler = runtime.gradient_scaler()
        self._offsets = torch.Generator().manual_seed(torch.initial_seed())
        self._cursor = Cursor(0, 0, draw_offset(self.layout, self._offsets))
        self._state: State | None = None
        self._train_loss = runtime.place(torch.zeros(()))
        self._evaluated_step = 0
        self._evaluated_fraction = 0.0
        self._stale_evaluations = 0
        self._paused_seconds = 0.0
        self._elapsed_before = 0.0  # seconds of the earlier parts of a resumed run
        self._started: float | None = None
        self._closing_seconds = 0.0  # what an evaluation costs at most, with all that its reader does

    @property
    def steps_per_epoch(self) -> int:
        """Chunks that an epoch is read in."""
        return self.layout.num_chunks

    @property
    def chars_per_step(self) -> int:
        """Characters that a step learns from: B x T."""
        return self.layout.batch_size * self.layout.seq_length

    @property
    def validates(self) -> bool:
        """Whether there is validation text; else the training loss decides what is best."""
        return len(self._val) >= 2

    @property
    def total_steps(self) -> int | None:
        """The budget in steps, or None where it is one of time."""
        if self.config.epochs is not None:
            return self.config.epochs * self.steps_per_epoch
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
        """The share of the budget that is spent, from 0 to 1; a budget of time keeps some for its close."""
        if self.total_steps is not None:
            return min(1.0, self.step / self.total_steps)
        if self.config.minutes is None:
            raise CharRNNError("the training needs a budget: epochs, steps or minutes")
        return min(1.0, (self.elapsed_s + self._closing_seconds) / (60 * self.config.minutes))

    @property
    def is_over(self) -> bool:
        """Whether the budget or the patience is spent."""
        return self.fraction == 1 or self._stale_evaluations >= (self.config.patience or math.inf)

    def request_stop(self) -> None:
        """End the run after the step, or in the evaluation, that is under way."""
        self.stop_requested = True

    def run(self) -> Iterator[Event]:
        """Train to the end of the budget; the run may be saved, reported and sampled between two events."""
        self._started = time.perf_counter()
        self.model.train()
        while not (self.stop_requested or self.is_over):
            if self._evaluation_is_due():
                yield from self._evaluate()
            else:
                yield self._take_step()
        if self._evaluated_step < self.step and not self.stop_requested:
            yield from self._evaluate()
        reason = "stopped" if self.stop_requested else "budget" if self.fraction == 1 else "patience"
        yield Finished(**self._where(), reason=reason, chars_per_second=self.chars_per_second)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done herein, between two events, does not count as training in `chars_per_second`."""
        self.runtime.synchronize()
        begin = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - begin

    def estimate_seconds_per_step(self, trials: int = 5) -> float:
        """Time a few steps without taking them: no weight, generator or counter changes."""
        states = self.runtime.random_state()
        self.model.train()
        seconds = []
        for _ in range(trials):
            begin = time.perf_counter()
            self._loss(*chunk_at(self._train, self.layout, self._cursor))[0].backward()
            self.runtime.synchronize()
            seconds.append(time.perf_counter() - begin)
        self._optimizer.zero_grad()
        self.runtime.set_random_state(states)
        return min(seconds)

    def _take_step(self) -> Progress:
        learning_rate = self._learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss, self._state = self._loss(*chunk_at(self._train, self.layout, self._cursor))
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        epoch, self._cursor = self._cursor.epoch, advance(self.layout, self._cursor, self._offsets)
        if self._cursor.epoch > epoch:
            self._state = None  # the streams begin anew, at other places of the text
        else:
            self._state = keep_streams(self._state, self._draw_streams_to_keep())
        self.step += 1
        weight = max(1 - _LOSS_MEMORY, 1 / self.step)  # a plain mean at first
        self._train_loss = self._train_loss.lerp(loss.detach(), weight)
        return Progress(
            **self._where(),
            train_loss=self._train_loss,
            learning_rate=learning_rate,
            chars_per_second=self.chars_per_second,
        )

    def _draw_streams_to_keep(self) -> Tensor:
        """(B,), bool: nearly all. A model that never began with an empty state can fail for good where it must."""
        return torch.rand(self.layout.batch_size, device=self.runtime.device) >= _RESET_PROBABILITY

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, State]:
        """Mean loss of a chunk x, y (T, B), and the detached state behind it."""
        with self.runtime.autocast():
            logits, state = self.model(x, self._state)
        return F.cross_entropy(logits.float().flatten(0, 1), y.flatten()), detach(state)

    def _learning_rate(self) -> float:
        """A linear rise over the first steps (of a short run: its first tenth), times a cosine to zero at its end."""
        fraction = self.fraction
        warmup = min(1.0, max((self.step + 1) / (self.config.warmup_steps + 1), 10 * fraction))
        return self.config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * fraction))

    def _evaluation_is_due(self) -> bool:
        if self._evaluated_step == self.step:
            return False
        if self.config.eval_every is not None:
            return self.step % self.config.eval_every == 0
        return int(self.fraction * EVALUATIONS_A_RUN) > int(self._evaluated_fraction * EVALUATIONS_A_RUN)

    def _evaluate(self) -> Iterator[Evaluated]:
        """One evaluation; nothing where a stop is asked for in its midst."""
        begin = time.perf_counter()
        with self.paused():
            loss = self._measure_loss()
        if self.stop_requested:
            return
        improved = self.best_val_loss is None or loss < self.best_val_loss
        self.best_val_loss = loss if improved else self.best_val_loss
        self._stale_evaluations = 0 if improved else self._stale_evaluations + 1
        self._evaluated_step, self._evaluated_fraction = self.step, self.fraction
        yield Evaluated(**self._where(), val_loss=loss, validated=self.validates, improved=improved)
        # The longest so far, so that a budget that was spent stays spent.
        self._closing_seconds = max(self._closing_seconds, time.perf_counter() - begin)
        self._evaluated_fraction = self.fraction  # of which the close now takes more

    def _measure_loss(self) -> float:
        """The loss on the validation text, or else the running training loss. Raises: CharRNNError."""
        if not self.validates:
            loss = float(self._train_loss)
        else:
            loss = evaluate(self.model, self._val, self.runtime, should_stop=lambda: self.stop_requested)
        if not math.isfinite(loss) and not self.stop_requested:
            raise CharRNNError(
                f"the loss is {loss} after {self.step} steps: lower --learning-rate, now "
                f"{self.config.learning_rate}, or --grad-clip, now {self.config.grad_clip}"
            )
        return loss

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
        for i, layer in enumerate(self._state or ()):
            tensors |= {f"state.{i}.{j}": tensor for j, tensor in enumerate(layer)}
        counters = {name: getattr(self, attribute) for name, attribute in _COUNTERS.items()}
        return tensors, counters | {
            "cursor": asdict(self._cursor),
            "elapsed_s": self.elapsed_s,
            "gradient_scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken; the model's weights are loaded by the caller.

        Raises: CharRNNError if the state is not one of such a trainer.
        """
        try:
            self._load_optimizer(_under("optimizer", tensors))
            self._state = self._as_state(_under("state", tensors))
            self._offsets.set_state(tensors["offsets"])
            self._train_loss = self.runtime.place(tensors["train_loss"].clone())
            self._cursor = Cursor(**counters["cursor"])
            if counters["gradient_scaler"]:  # empty after training in another precision than float16
                self._scaler.load_state_dict(counters["gradient_scaler"])
            self._elapsed_before = float(counters["elapsed_s"])
            for name, attribute in _COUNTERS.items():
                if not isinstance(counters[name], int | float | None):
                    raise TypeError(f"{name} is no number")
                setattr(self, attribute, counters[name])
            chunk_at(self._train, self.layout, self._cursor)
            self._evaluated_fraction = min(self._evaluated_fraction, self.fraction)  # of a budget that may have grown
            self.runtime.set_random_state(_under("random", tensors))
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CharRNNError(f"the checkpoint does not fit this training: {error}") from error

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        """Moments by parameter; names are "<number of the parameter>.<name of the moment>"."""
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            i, _, name = key.partition(".")
            if name != "step" and tensor.shape != parameters[int(i)].shape:
                raise ValueError(f"optimizer.{key} is of shape {tuple(tensor.shape)}")
            state.setdefault(int(i), {})[name] = tensor.clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _as_state(self, tensors: dict[str, Tensor]) -> State | None:
        """The carried state; names are "<layer>.<number of the tensor>"."""
        layers: dict[int, list[Tensor]] = {}
        for key in sorted(tensors, key=lambda key: [int(part) for part in key.split(".")]):
            layers.setdefault(int(key.partition(".")[0]), []).append(self.runtime.place(tensors[key].clone()))
        return tuple(tuple(layer) for layer in layers.values()) or None


_COUNTERS = {
    "step": "step",
    "best_val_loss": "best_val_loss",
    "evaluated_step": "_evaluated_step",
    "evaluated_fraction": "_evaluated_fraction",
    "stale_evaluations": "_stale_evaluations",
    "paused_seconds": "_paused_seconds",
    "closing_seconds": "_closing_seconds",
}
"""The plain values of a trainer's state: name in the file, attribute."""


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of one part of the state, without its prefix."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
