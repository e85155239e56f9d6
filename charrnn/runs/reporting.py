"""Report events of a training run: progress bar or plain lines, `metrics.jsonl`, TensorBoard."""

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from charrnn.errors import CharRNNError, opt
from charrnn.files.atomic import Guard, no_guard, open_regular, write_atomically
from charrnn.terminal import escape_controls, format_seconds, json_line, width_of, wrap
from charrnn.training.events import Evaluated, Event, Finished, Recovered, Sampled, Stepped

RECORD_EVERY = 100
"""Steps between two records of the training loss."""
Records = list[dict[str, Any]]
_MAX_BYTES = 2**27  # max bytes of a log to read
_BAR_SECONDS = 0.2
_LINE_SECONDS = 30.0
_MARGIN = "  | "


class Reporter:
    """Report the events of a run."""

    def start(self) -> None:
        """Start to write to the run's folder, once its first checkpoint exists. Raises: CharRNNError."""

    def report(self, event: Event) -> None:
        """Report an event."""

    def close(self) -> None:
        """Clean up at the end of the run, also after an error."""


class Terminal(Reporter):
    """A progress bar with evaluations and samples above it on a terminal, else plain lines; only warnings if `quiet`.

    Training continues if the stream is broken.
    """

    def __init__(
        self, stream: TextIO, fraction: float = 0.0, *, quiet: bool = False, is_notebook: bool = False
    ) -> None:
        self._stream, self._is_quiet, self._is_broken = stream, quiet, False
        # Without ipywidgets a notebook shows each state of the bar as another line.
        has_bar = not quiet and (stream.isatty() or (is_notebook and find_spec("ipywidgets") is not None))
        self._bar = _progress_bar(stream, fraction) if has_bar else None
        self._is_wrapping = has_bar or is_notebook
        self._shown_at = time.monotonic() if self._bar is None else 0.0

    def report(self, event: Event) -> None:
        """Show an event if it is due; samples of only white space are not shown."""
        is_blank = isinstance(event, Sampled) and not event.text.strip()
        if self._is_broken or is_blank or (self._is_quiet and not isinstance(event, Recovered)):
            return
        try:
            self._show(event)
        except OSError:
            self._is_broken = not self._is_quiet  # warnings are rare, so each is tried

    def _show(self, event: Event) -> None:
        seconds = time.monotonic() - self._shown_at
        match event:
            case Evaluated() | Sampled() | Recovered():
                self._print(event)
            case Stepped() if self._bar is None and seconds > _LINE_SECONDS:
                self._print(event)
            case Stepped() if self._bar is not None and seconds > _BAR_SECONDS:
                self._shown_at = time.monotonic()
                # Reading the loss waits for the device, so it is read only when it is shown.
                postfix = f"loss {float(event.train_loss):.3f}, {event.chars_per_second:,.0f} chars/s"
                self._bar.set_postfix_str(postfix, refresh=False)
                self._bar.update(event.fraction - self._bar.n)
            case Finished(reason="budget") if self._bar is not None:
                self._bar.update(1.0 - self._bar.n)

    def _print(self, event: Event) -> None:
        text = _describe(event, width_of(self._stream) if self._is_wrapping else None)
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._shown_at = time.monotonic()
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Close the bar, which stays visible."""
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.close()


class MetricsLog(Reporter):
    """`metrics.jsonl`: one record per line, flushed at once; kept in memory until `start`.

    A resumed run drops the records after its checkpoint, so that its log equals that of an uninterrupted run.
    """

    def __init__(
        self, path: Path, keep: int | None = 0, guard: Guard = no_guard, chars_per_symbol: float = 1.0
    ) -> None:
        """Keep the first `keep` records of an existing log, None for all. Raises: CharRNNError."""
        if path.is_dir():
            raise CharRNNError(
                f"{path} is a folder, but must be the log of the run: move it, or use another {opt.run('DIR')}"
            )
        self._path, self._guard, self._chars_per_symbol = path, guard, chars_per_symbol
        self._pending = _complete_records(path)[:keep] if keep != 0 and path.exists() else []
        self._file: TextIO | None = None
        self.num_records = len(self._pending)
        self.definition: dict[str, Any] = {}

    def define(self, definition: dict[str, Any]) -> None:
        """Set the first record, before `start`. A continued log keeps the origin of the weights and the command.

        A log of an older version has no such record, and none is added.
        """
        first = json.loads(self._pending[0]) if self._pending else {"time": round(time.time(), 3)}
        if isinstance(before := first.get("definition"), dict):
            definition = definition | {name: before.get(name) for name in ("init_from", "command")}
        self.definition = definition
        line = json_line(first | {"definition": definition}, ascii_only=True) + "\n"  # a path may not be valid UTF-8
        if not self._pending or "definition" in first:
            self._pending[:1] = [line]
        self.num_records = len(self._pending)

    def start(self) -> None:
        """Replace any old log by the pending records; write later records at once. Raises: CharRNNError."""
        write_atomically(self._path, [line.encode() for line in self._pending], guard=self._guard)
        self._pending = []
        try:
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise CharRNNError(f"{self._path} cannot be written: {error.strerror}") from error

    def report(self, event: Event) -> None:
        """Write evaluations, samples, and the training loss at regular steps."""
        if not _is_recorded(event):
            return
        record = _as_record(event)
        for name in record.keys() & {"train_loss", "val_loss"}:
            record[f"{name}_per_symbol"] = record[name] * self._chars_per_symbol
        line = json_line(record) + "\n"
        self.num_records += 1
        if self._file is None:
            self._pending.append(line)
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise CharRNNError(f"{self._path} cannot be written: {error.strerror}") from error

    def val_losses(self) -> list[float]:
        """All validation losses in the log; empty if it cannot be read."""
        with contextlib.suppress(CharRNNError):
            losses = [json.loads(line).get("val_loss") for line in _complete_records(self._path)]
            return [loss for loss in losses if isinstance(loss, int | float) and math.isfinite(loss)]
        return []

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()


class Callback(Reporter):
    """Call a function with each record of `metrics.jsonl`."""

    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self._function = function

    def report(self, event: Event) -> None:
        """Call the function; for the training loss at regular steps."""
        if _is_recorded(event):
            self._function(_as_record(event))


class TensorBoard(Reporter):
    """Curves and samples for TensorBoard, in the run's folder."""

    def __init__(self, folder: Path) -> None:
        """Raises: CharRNNError if TensorBoard is not installed, or if the name of the folder is not UTF-8."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise CharRNNError(f"{opt.tensorboard(True)} needs TensorBoard: pip install tensorboard") from None
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            raise CharRNNError(
                f"{opt.tensorboard(True)} cannot write to {folder}: use another {opt.run('DIR')}, in UTF-8"
            ) from error
        self._open: Callable[[], Any] = functools.partial(SummaryWriter, str(folder))
        self._writer: Any = None
        self._pending: list[dict[str, Any]] = []

    def start(self) -> None:
        """Write the pending records, and later records at once."""
        self._writer = self._open()
        self._write()

    def report(self, event: Event) -> None:
        """Add the numbers of a record as curves, a sample as text."""
        if _is_recorded(event):
            self._pending.append(_as_record(event))
            self._write()

    def _write(self) -> None:
        while self._writer is not None and self._pending:
            record = self._pending.pop(0)
            for name in ("train_loss", "val_loss", "bits_per_char", "learning_rate", "chars_per_second"):
                if name in record:
                    self._writer.add_scalar(name, record[name], record["step"])
            if "text" in record:
                self._writer.add_text("sample", record["text"], record["step"])

    def close(self) -> None:
        """Write pending records."""
        if self._writer is not None:
            self._writer.close()


def read_records(path: Path, max_bytes: int = _MAX_BYTES) -> Records:
    """The records of a log that may be damaged; empty if it cannot be read."""
    records: Records = []
    with contextlib.suppress(OSError), open_regular(path) as stream:
        for line in stream.read(max_bytes).decode("utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(record := json.loads(line), dict):
                    records.append(record)
    return records


def definition_of(records: Records) -> dict[str, Any]:
    """The definition of the run in a log that may be damaged; empty if it does not exist."""
    definition = records[0].get("definition") if records else None
    return definition if isinstance(definition, dict) else {}


def _progress_bar(stream: TextIO, fraction: float) -> "tqdm[Any]":
    from tqdm.auto import tqdm  # imported late: it prints a warning in a notebook without ipywidgets

    return tqdm(
        total=1.0,
        initial=fraction,
        file=stream,
        dynamic_ncols=True,
        smoothing=0.05,
        mininterval=0,  # `Terminal` limits the updates
        miniters=0,
        bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
    )


def _is_recorded(event: Event) -> bool:
    """True at regular steps, and for all events other than steps."""
    return not isinstance(event, Stepped) or event.step % RECORD_EVERY == 0


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
        case Stepped():
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
    """Describe an event for people; a sample is wrapped to `width` columns."""
    position = f"step {event.step:,} epoch {event.epoch:.2f}"
    match event:
        case Evaluated():
            kind = "training" if event.val_chars is None else "validation"
            part = "" if event.part_loss is None else f": {event.part_loss:.4f} on the part that each evaluation reads"
            best = f" (best so far{part})" if event.improved else ""
            on = "" if event.is_whole else f" on {event.val_chars:,} characters"
            return f"{position}: {kind} loss {event.loss:.4f}{on}, {event.bits_per_char:.3f} bits per character{best}"
        case Stepped():
            left = event.elapsed_s * (1 - event.fraction) / max(event.fraction, 1e-9)
            return (
                f"{position}: training loss {float(event.train_loss):.4f}, "
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


def _complete_records(path: Path) -> list[str]:
    """The lines of a log, without incomplete lines of a killed run. Raises: CharRNNError if it cannot be read."""
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
