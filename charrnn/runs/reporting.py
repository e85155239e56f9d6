"""Report events of a training run: progress bar or plain lines, `metrics.jsonl`, TensorBoard."""

import contextlib
import functools
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from charrnn.errors import CharRNNError, opt
from charrnn.files.atomic import Guard, no_guard, open_regular, write_atomically
from charrnn.terminal import escape_controls, format_seconds, json_line, width_of, wrap
from charrnn.training.events import Evaluated, Event, Finished, Progress, Recovered, Sampled

RECORD_EVERY = 100
"""Steps between two records of the training loss."""
_BAR_SECONDS = 0.2
_LINE_SECONDS = 30.0
_MARGIN = "  | "


class Reporter(ABC):
    """A consumer of a run's events. What it keeps in the run's folder waits for `begin`."""

    def begin(self) -> None:  # noqa: B027 (most keep nothing there)
        """Write to the folder from now on, with the run's first checkpoint. Raises: CharRNNError."""

    @abstractmethod
    def report(self, event: Event) -> None:
        """Report an event."""

    def close(self) -> None:  # noqa: B027 (most have nothing to clean up)
        """Clean up at the end of the run, for whatever reason it ends."""


class ProgressBar(Reporter):
    """A bar with the loss, characters per second and the time left; evaluations and samples scroll above it."""

    def __init__(self, stream: TextIO, fraction: float = 0.0) -> None:
        self._bar = tqdm(
            total=1.0,
            initial=fraction,
            file=stream,
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0,  # report() sets the pace
            miniters=0,
            bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )
        self._shown = 0.0

    def report(self, event: Event) -> None:
        """Update the bar, at most a few times per second, since reading the loss waits for the device."""
        match event:
            case Progress() if time.monotonic() - self._shown > _BAR_SECONDS:
                self._shown = time.monotonic()
                self._bar.set_postfix_str(
                    f"loss {float(event.train_loss):.3f}, {event.chars_per_second:,.0f} chars/s",
                    refresh=False,
                )
                self._bar.update(event.fraction - self._bar.n)
            case Finished(reason="budget"):
                self._bar.update(1.0 - self._bar.n)
            case Evaluated() | Sampled() | Recovered():
                self._bar.write(_describe(event, width_of(self._bar.fp)), file=self._bar.fp)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class PlainLines(Reporter):
    """A line per evaluation and sample, and now and then one between them, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown = time.monotonic()

    def report(self, event: Event) -> None:
        """Print the event if a line is due."""
        now = time.monotonic()
        if isinstance(event, (Evaluated, Sampled, Recovered)) or (
            isinstance(event, Progress) and now - self._shown > _LINE_SECONDS
        ):
            self._shown = now
            print(_describe(event), file=self._stream, flush=True)


class Warnings(Reporter):
    """Warnings only, for --quiet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def report(self, event: Event) -> None:
        """Print a recovery."""
        if isinstance(event, Recovered):
            with contextlib.suppress(OSError):
                print(_describe(event), file=self._stream, flush=True)


class MetricsLog(Reporter):
    """`metrics.jsonl`: one record per line, flushed at once.

    A resumed run drops the records after its checkpoint, so its log equals that of an uninterrupted run. A new run's
    log stays in memory until `begin`, since there is no run before the first checkpoint.
    """

    def __init__(
        self, path: Path, keep: int | None = 0, guard: Guard = no_guard, chars_per_symbol: float = 1.0
    ) -> None:
        """Keep `keep` records of an existing log, None for all. For `guard` see `write_atomically`.

        A loss per character times `chars_per_symbol` is recorded as the loss per symbol.
        """
        if path.is_dir():
            raise CharRNNError(
                f"{path} is a folder, where a run's log must be: move it, or name another {opt.run('DIR')}"
            )
        self._path, self._guard, self._chars_per_symbol = path, guard, chars_per_symbol
        self._waiting = _whole_records(path)[:keep] if keep != 0 and path.exists() else []
        self._file: TextIO | None = None
        self.num_records = len(self._waiting)
        self.definition: dict[str, Any] = {}
        """Everything that defines the run."""

    def define(self, definition: dict[str, Any]) -> None:
        """Set what defines the run as the first record, before `begin`.

        It replaces that of a log that is continued, except the origin of the weights and the command, which only a new
        run knows. A log that was written before there was such a record stays without.
        """
        first = json.loads(self._waiting[0]) if self._waiting else {"time": round(time.time(), 3)}
        if isinstance(before := first.get("definition"), dict):
            definition = definition | {name: before.get(name) for name in ("init_from", "command")}
        self.definition = definition
        line = json_line(first | {"definition": definition}, ascii_only=True) + "\n"  # UTF-8 may lack parts of a path
        if not self._waiting:
            self.num_records += 1
        if not self._waiting or "definition" in first:
            self._waiting[:1] = [line]

    def begin(self) -> None:
        """Write the waiting records in place of any old log; write later ones at once. Raises: CharRNNError."""
        write_atomically(self._path, [line.encode() for line in self._waiting], guard=self._guard)
        self._waiting = []
        try:
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise CharRNNError(f"{self._path} cannot be written: {error.strerror}") from error

    def report(self, event: Event) -> None:
        """Record evaluations, samples, and the training loss at regular steps."""
        if not isinstance(event, Progress) or event.step % RECORD_EVERY == 0:
            record = _as_record(event)
            per_symbol = {
                f"{name}_per_symbol": record[name] * self._chars_per_symbol
                for name in ("train_loss", "val_loss")
                if name in record
            }
            self._write(json_line(record | per_symbol) + "\n")
            self.num_records += 1

    def _write(self, line: str) -> None:
        if self._file is None:
            self._waiting.append(line)
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise CharRNNError(f"{self._path} cannot be written: {error.strerror}") from error

    def val_losses(self) -> list[float]:
        """The validation losses of the whole log, as far as it can be read."""
        with contextlib.suppress(CharRNNError):
            return [
                loss
                for loss in (json.loads(line).get("val_loss") for line in _whole_records(self._path))
                if isinstance(loss, int | float) and math.isfinite(loss)
            ]
        return []

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


class TensorBoard(Reporter):
    """Curves and samples for TensorBoard, in the run's folder."""

    def __init__(self, folder: Path) -> None:
        """Raises: CharRNNError if TensorBoard is not installed, or cannot write to a folder of this name."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise CharRNNError(f"{opt.tensorboard(True)} needs TensorBoard: pip install tensorboard") from None
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise CharRNNError(
                f"{opt.tensorboard(True)} cannot write to {folder}: name another {opt.run('DIR')}, in UTF-8"
            ) from error
        self._open = functools.partial(SummaryWriter, str(folder))
        self._writer: Any = None
        self._waiting: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Write the waiting records, and later ones at once."""
        self._writer = self._open()
        for record in self._waiting:
            self._write(record)
        self._waiting = []

    def report(self, event: Event) -> None:
        """Add the numbers of a record as curves, a sample as text."""
        if isinstance(event, Progress) and event.step % RECORD_EVERY:
            return
        if self._writer is None:
            self._waiting.append(_as_record(event))
        else:
            self._write(_as_record(event))

    def _write(self, record: dict[str, Any]) -> None:
        for name in ("train_loss", "val_loss", "bits_per_char", "learning_rate", "chars_per_second"):
            if name in record:
                self._writer.add_scalar(name, record[name], record["step"])
        if "text" in record:
            self._writer.add_text("sample", record["text"], record["step"])

    def close(self) -> None:
        """Write pending records."""
        if self._writer is not None:
            self._writer.close()


class Terminal(Reporter):
    """A bar on a terminal, plain lines elsewhere; a broken stream does not end the training."""

    def __init__(self, stream: TextIO = sys.stderr, fraction: float = 0.0) -> None:
        self._inner: Reporter | None = ProgressBar(stream, fraction) if stream.isatty() else PlainLines(stream)

    def report(self, event: Event) -> None:
        """Show an event, unless the stream is broken; a sample of white space alone is none."""
        if isinstance(event, Sampled) and not event.text.strip():
            return
        try:
            if self._inner is not None:
                self._inner.report(event)
        except OSError:
            self._inner = None

    def close(self) -> None:
        """Close the bar or the lines."""
        with contextlib.suppress(OSError):
            if self._inner is not None:
                self._inner.close()


def _as_record(event: Event) -> dict[str, Any]:
    """The record of an event for `metrics.jsonl`: losses in nats per character, durations in seconds."""
    record: dict[str, Any] = {
        "step": event.step,
        "epoch": round(event.epoch, 4),
        "chars": event.chars,
        "elapsed_s": round(event.elapsed_s, 3),
        "time": round(time.time(), 3),
    }
    match event:
        case Progress():
            record["train_loss"] = float(event.train_loss)
            record["learning_rate"] = event.learning_rate
            record["chars_per_second"] = round(event.chars_per_second)
        case Evaluated(val_chars=int()):
            record["val_loss"] = event.loss
            record["val_chars"] = event.val_chars
            record["bits_per_char"] = event.bits_per_char
        case Evaluated():
            record["train_loss"] = event.loss
        case Sampled():
            record["text"] = event.text
        case Recovered():
            record["recovered_from_loss"] = event.loss if math.isfinite(event.loss) else None
            record["learning_rate"] = event.learning_rate
        case Finished():
            record["finished"] = event.reason
            record["chars_per_second"] = round(event.chars_per_second)
    return record


def _describe(event: Event, width: int | None = None) -> str:
    """Describe an event for people; a sample is wrapped at a terminal's width."""
    where = f"step {event.step:,} epoch {event.epoch:.2f}"
    match event:
        case Evaluated():
            kind = "training" if event.val_chars is None else "validation"
            part = "" if event.part_loss is None else f": {event.part_loss:.4f} on the part that each evaluation reads"
            best = f" (best so far{part})" if event.improved else ""
            on = "" if event.is_whole else f" on {event.val_chars:,} characters"
            return f"{where}: {kind} loss {event.loss:.4f}{on}, {event.bits_per_char:.3f} bits per character{best}"
        case Progress():
            left = event.elapsed_s * (1 - event.fraction) / max(event.fraction, 1e-9)
            return (
                f"{where}: training loss {float(event.train_loss):.4f}, "
                f"{event.chars_per_second:,.0f} characters/s, {format_seconds(left)} left"
            )
        case Recovered():
            return (
                f"warning: the loss was {event.loss:.4g}: back to step {event.step:,}, with a learning rate of "
                f"at most {event.learning_rate:.3g} from there on"
            )
        case Sampled():
            shown = escape_controls(event.text)
            lines = shown.splitlines() if width is None else wrap(shown, max(width - len(_MARGIN), 1))
            return "\n".join(f"{_MARGIN}{line}" for line in lines)
    raise TypeError(f"{type(event).__name__} has no description")


def _whole_records(path: Path) -> list[str]:
    """The lines of a log, without partial ones of a killed run. Raises: CharRNNError if it cannot be read."""
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8", errors="replace")
    except OSError as error:
        raise CharRNNError(f"{path} cannot be read: {error.strerror}; remove it, or move it away") from error
    kept = []
    for line in text.split("\n"):
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(json.loads(line), dict):
                kept.append(line + "\n")
    return kept
