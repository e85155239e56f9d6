"""Truncated backpropagation through time (BPTT) along contiguous streams of a text.

B streams are read in parallel. Each step reads the next chunk of every stream, T symbols x, predicts the symbols y that
follow each of them, and updates the weights. The state after a chunk is the initial state of the next one, so the
network can use text from before the chunk. But the state is detached: gradients flow back through the T symbols of one
chunk (`--seq-length`), otherwise each step would cost more than the one before. A larger T learns longer dependencies,
in fewer and more expensive updates.

    values     ────▶ a b c d ──state──▶ e f g h ──state──▶ i j k l      x of one stream, T = 4
    gradients        ◀───────  detach   ◀───────  detach   ◀───────

Each step resets a random 5 % of the states to zeros, because sampling starts from zeros. A new epoch resets all.
In a run of several processes (`machine/distributed.py`) each reads a part of the streams; gradients are averaged.
`trainer.py` sets the learning rate and decides when to evaluate and to stop, `streams.py` lays out the streams.

Letters in shapes: T time steps, B parallel streams of this process, V vocabulary size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from charrnn.config import TrainingConfig
from charrnn.errors import CharRNNError, CorpusChangedError
from charrnn.machine.runtime import Runtime, random_state, set_random_state
from charrnn.model.network import CharRNN, carry, clear, detach
from charrnn.training.optimizer import load_moments, make_optimizers, moments
from charrnn.training.snapshot import require_like, select
from charrnn.training.streams import Cursor, TrainingText, advance, chunk_at, draw_offset

_LOSS_DECAY = 0.98  # of the running mean, per step
_RESET_PROBABILITY = 0.05  # with 0.01, 18 of 2,000 samples of a model trained for 18 s failed; with 0.05 none did


class TruncatedBPTT:
    """A model with its optimizers and its carried state; `step` is one update.

    `loss` is the loss of the last step, `mean_loss` its running mean: in nats per symbol, on the device.
    """

    def __init__(self, model: CharRNN, config: TrainingConfig, text: TrainingText, runtime: Runtime) -> None:
        self.model = model.to(runtime.device)
        self.layout = text.layout
        self._streams = runtime.ranks.part(self.layout.batch_size)
        T, B = self.layout.seq_length, self._streams.stop - self._streams.start
        self.loss, self.mean_loss = (runtime.place(torch.zeros(())) for _ in range(2))
        self.text = text.placed(runtime)
        self.runtime = runtime
        self._grad_clip = config.grad_clip
        self._optimizers = make_optimizers(model, config, runtime)
        self._scaler = runtime.gradient_scaler()
        self._generator = torch.Generator().manual_seed(torch.initial_seed())  # equal in all processes
        self.cursor = Cursor(0, 0, draw_offset(self.layout, self._generator))
        # Buffers at fixed addresses, so that a device can record and replay the step.
        self._chunk = torch.zeros(T + 1, B, dtype=torch.int64, device=runtime.device)
        self._keep_mask = torch.ones(B, dtype=torch.bool, device=runtime.device)
        self._state = model.initial_state(B)
        self._update = runtime.capture(self._update_weights)
        self._pace = runtime.pace()  # lets the host queue only a few steps
        self.seconds_per_step: float | None = None  # measured by `timing.py`

    def reset(self) -> None:
        """Clear the gradients and renew the scaler, with the same scale, after an interrupted update."""
        self.model.zero_grad()
        state, self._scaler = self.scaler_state(), self.runtime.gradient_scaler()
        self._scaler.load_state_dict(state)

    def step(self, learning_rate: float) -> None:
        """Read the next chunk, update the weights, advance. Raises: CorpusChangedError."""
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"].fill_(learning_rate * group["lr_scale"])
        before = self._generator.get_state()
        try:
            with self.text.checking_file():
                chunk = chunk_at(self.text.train, self.layout, self.cursor)[:, self._streams]
                self._chunk.copy_(self.runtime.send(chunk))
                self._keep_mask.copy_(self.runtime.send(self._draw_keep_mask()))
                self._update()
        except CorpusChangedError:
            self._generator.set_state(before)  # the step can be repeated once the corpus is restored
            raise
        step = self.cursor.epoch * self.layout.num_chunks + self.cursor.chunk + 1
        weight = max(1 - _LOSS_DECAY, 1 / step)  # a plain mean over the first steps
        self.mean_loss = self.mean_loss.lerp(self.loss, weight)
        epoch, self.cursor = self.cursor.epoch, advance(self.layout, self.cursor, self._generator)
        if self.cursor.epoch > epoch:
            clear(self._state)  # the next epoch starts at another offset
        self._pace()

    def _update_weights(self) -> None:
        """Forward, loss, backward, clip, update, carry; other lines are for processes, float16 and recorded steps."""
        self.model.zero_grad()
        x, y = self._chunk[:-1], self._chunk[1:]  # (T, B)
        with self.runtime.autocast():
            logits, state = self.model(x, self._state)  # (T, B, V)
        loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
        self._scaler.scale(loss).backward()
        loss = self.runtime.ranks.average(self.model.parameters(), loss.detach())
        for optimizer in self._optimizers.values():
            self._scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip)
        is_finite, fuses = norm.isfinite(), self.runtime.fuses_adamw
        for optimizer in self._optimizers.values():
            if fuses:
                # A fused AdamW skips the update on the device; an enabled scaler overwrites `found_inf`.
                optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
            if fuses or is_finite:
                self._scaler.step(optimizer)
        self._scaler.update()
        carry(detach(state), self._state, self._keep_mask)  # into self._state; zeros where the mask is False
        self.loss.copy_(loss)

    def _draw_keep_mask(self) -> Tensor:
        """A mask of this process's streams (B,): False if the state is reset."""
        return (torch.rand(self.layout.batch_size, generator=self._generator) >= _RESET_PROBABILITY)[self._streams]

    def scaler_state(self) -> dict[str, float]:
        """State of the gradient scaler for float16; empty in other precisions."""
        return dict(self._scaler.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that the next step depends on, without a copy. All processes must call it together."""
        tensors = {f"model.{name}": weight for name, weight in self.model.state_dict().items()}
        tensors |= {"trainer.train_loss": self.mean_loss, "trainer.offsets": self._generator.get_state()}
        tensors |= {f"trainer.random.{name}": state for name, state in random_state(self.runtime).items()}
        for kind, optimizer in self._optimizers.items():
            tensors |= {f"trainer.{kind}.{name}": moment for name, moment in moments(optimizer).items()}
        gather = self.runtime.ranks.gather
        return tensors | {name: gather(tensor, dim=1) for name, tensor in self._carried_state().items()}

    def load(self, tensors: Mapping[str, Tensor], cursor: Cursor, gradient_scaler: Mapping[str, float]) -> None:
        """Restore the values of `tensors`, `cursor` and `scaler_state`. Raises: CharRNNError if they do not match."""
        try:
            self._load(tensors, cursor, gradient_scaler)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CharRNNError(f"the checkpoint does not match this run: {error}") from error
        self._update = self.runtime.capture(self._update_weights)  # a recorded step refers to the old tensors

    def _load(self, tensors: Mapping[str, Tensor], cursor: Cursor, gradient_scaler: Mapping[str, float]) -> None:
        self.layout.require(cursor)
        self.model.load_state_dict(select("model.", tensors))
        for kind, optimizer in self._optimizers.items():
            load_moments(optimizer, select(f"trainer.{kind}.", tensors))
        for name, buffer in self._carried_state().items():
            like = buffer.new_empty(1, self.layout.batch_size, buffer.shape[2], device="meta")
            buffer.copy_(require_like(like, name, tensors)[:, self._streams])
        self._generator.set_state(tensors["trainer.offsets"])
        self.mean_loss = self.runtime.place(require_like(self.mean_loss, "trainer.train_loss", tensors).clone())
        self.cursor = cursor
        self.loss.copy_(self.mean_loss)  # the loss of the last step is not stored
        if gradient_scaler:  # empty if the run used another precision than float16
            self._scaler.load_state_dict(dict(gradient_scaler))
        set_random_state(self.runtime, select("trainer.random.", tensors))

    def _carried_state(self) -> dict[str, Tensor]:
        """The tensors of the carried state by name: "trainer.state.<layer>.<tensor>"."""
        layers = enumerate(self._state)
        return {f"trainer.state.{i}.{j}": tensor for i, layer in layers for j, tensor in enumerate(layer)}
