"""Events to lines, bars and logs."""

import dataclasses
import io
import json
import time
from pathlib import Path

import pytest
import torch

from charrnn.errors import CharRNNError
from charrnn.runs.reporting import RECORD_EVERY, MetricsLog, TensorBoard, Terminal
from charrnn.training.events import Evaluated, Finished, Recovered, Sampled, Stepped


def progress(step: int) -> Stepped:
    return Stepped(step, step / 10, step * 32, 1.5, 0.5, torch.tensor(2.0), 1e-3, 1000.0)


def evaluated(step: int = 7, val_chars: int | None = 99) -> Evaluated:
    return Evaluated(step, 0.7, 224, 1.5, 0.5, loss=1.3863, val_chars=val_chars, is_whole=True, improved=True)


RECOVERED = Recovered(100, 0.7, 3200, 1.5, 0.5, loss=float("nan"), learning_rate=4e-3)
SAMPLED = Sampled(7, 0.7, 224, 1.5, 0.5, "Once\nupon")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_log(path: Path, keep: int | None = 0) -> MetricsLog:
    log = MetricsLog(path, keep)
    log.start()
    return log


def test_log_holds_one_record_a_line_with_the_promised_fields(tmp_path: Path) -> None:
    log = open_log(tmp_path / "metrics.jsonl")
    for event in (progress(1), progress(RECORD_EVERY), evaluated(), SAMPLED):
        log.report(event)
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 3, "the training loss is recorded at regular steps only"
    for record in records:
        assert {"step", "epoch", "chars", "elapsed_s"} <= record.keys()
        assert abs(record["time"] - time.time()) < 60, "seconds since 1970"
    assert {"train_loss", "learning_rate", "chars_per_second"} <= records[0].keys()
    assert records[1]["bits_per_char"] == pytest.approx(2.0, abs=1e-3)
    assert records[2]["text"] == "Once\nupon"


def test_log_holds_nothing_that_a_terminal_obeys_or_that_ends_a_line(tmp_path: Path) -> None:
    text = "red \x9b31m\x7f\x85\u2028\u2029 café"
    log = open_log(tmp_path / "metrics.jsonl")
    log.report(Sampled(7, 0.7, 224, 1.5, 0.5, text))
    log.close()
    [line] = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert line.isprintable()
    assert "café" in line
    assert json.loads(line)["text"] == text


def test_recovery_is_reported_everywhere_and_in_valid_json(tmp_path: Path) -> None:
    log = open_log(tmp_path / "metrics.jsonl")
    log.report(RECOVERED)
    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (record["step"], record["recovered_from_loss"], record["learning_rate"]) == (100, None, 4e-3)
    for quiet in (False, True):
        stream = io.StringIO()
        Terminal(stream, quiet=quiet).report(RECOVERED)
        assert stream.getvalue().startswith("warning: the loss was nan: back to step 100")


def test_quiet_terminal_shows_warnings_only() -> None:
    quiet = Terminal(stream := Screen(), quiet=True)
    for event in (progress(1), evaluated(), SAMPLED, Finished(10, 1.0, 320, 2.0, 1.0, "budget", 1000.0)):
        quiet.report(event)
    quiet.close()
    assert stream.getvalue() == ""


def test_resumed_log_continues_at_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    # The last record was cut off within a character; U+2028 is no line's end in a log.
    records = ['{"step": 100}', '{"step": 200, "text": "a\u2028b"}', '{"step": 300}', '{"step": 310, "text": "é']
    path.write_bytes("\n".join(records).encode()[:-1])
    log = open_log(path, keep=2)
    log.report(progress(300))
    log.close()
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert [json.loads(line)["step"] for line in lines] == [100, 200, 300]
    assert log.num_records == 3
    open_log(path, keep=None).close()
    assert path.read_text(encoding="utf-8").count("\n") == 3


def test_log_of_an_older_version_keeps_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 100}\n{"step": 200}\n')
    log = MetricsLog(path, keep=1)
    log.define({"seed": 1})
    log.start()
    assert log.num_records == 1
    assert path.read_text() == '{"step": 100}\n'
    assert log.definition == {"seed": 1}


def test_log_of_a_new_run_replaces_another_when_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 100}\n')
    log = MetricsLog(path)
    log.report(evaluated(step=7))
    assert path.read_text() == '{"step": 100}\n'
    assert log.num_records == 1
    log.start()
    log.report(evaluated(step=8))
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [7, 8]


def test_folder_in_place_of_a_log_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CharRNNError, match="is a folder"):
        MetricsLog(tmp_path)


def test_plain_lines_show_evaluations_and_samples() -> None:
    stream = io.StringIO()
    lines = Terminal(stream)
    for event in (progress(1), evaluated(), SAMPLED, evaluated(val_chars=None)):
        lines.report(event)
    text = stream.getvalue()
    assert "validation loss 1.3863, 2.000 bits per character (best so far)" in text
    assert "  | Once\n  | upon\n" in text
    assert "training loss 1.3863" in text
    assert "\r" not in text


def test_best_loss_is_that_of_the_text_that_all_evaluations_read() -> None:
    more = dataclasses.replace(evaluated(8), loss=1.45, part_loss=1.38, val_chars=500, is_whole=False)
    Terminal(stream := io.StringIO()).report(more)
    assert "validation loss 1.4500 on 500 characters, " in stream.getvalue()
    assert "(best so far: 1.3800 on the part that each evaluation reads)" in stream.getvalue()


def test_broken_terminal_does_not_end_the_training() -> None:
    class Broken(io.StringIO):
        written = 0

        def write(self, text: str) -> int:
            self.written += 1
            raise BrokenPipeError

    stream = Broken()
    terminal = Terminal(stream)
    terminal.report(evaluated())
    terminal.report(SAMPLED)
    terminal.close()
    assert stream.written == 1, "it is given up after the first line"


def test_samples_are_wrapped_at_the_terminals_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.runs.reporting.width_of", lambda stream: 24)
    stream = Screen()
    bar = Terminal(stream)
    bar.report(dataclasses.replace(SAMPLED, text="the king and the queen of the castle\n\n" + 30 * "x"))
    bar.close()
    shown = [line for line in stream.getvalue().replace("\r", "\n").splitlines() if line.startswith("  |")]
    assert shown == ["  | the king and the", "  | queen of the castle", "  | ", "  | " + 20 * "x", "  | " + 10 * "x"]


def test_sample_of_white_space_alone_is_not_shown() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    terminal.report(dataclasses.replace(SAMPLED, text=" \n\n\n"))
    assert stream.getvalue() == ""
    terminal.report(SAMPLED)
    assert stream.getvalue() != ""


def test_bar_shows_loss_rate_and_end() -> None:
    stream = Screen()
    bar = Terminal(stream)
    bar.report(progress(1))
    bar.report(evaluated())
    bar.report(Finished(10, 1.0, 320, 2.0, 1.0, "budget", 1000.0))
    bar.close()
    assert "loss 2.000, 1,000 chars/s" in stream.getvalue()
    assert "100%" in stream.getvalue()


def test_tensorboard_reads_the_curves_and_the_sample(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    for event in (progress(1), progress(RECORD_EVERY), evaluated()):
        board.report(event)
    assert not list(tmp_path.iterdir()), "nothing before the run's first checkpoint"
    board.start()
    board.report(SAMPLED)
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    curves = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert curves["train_loss"] == [(RECORD_EVERY, 2.0)]
    assert curves["val_loss"] == [(7, pytest.approx(1.3863))]
    assert curves.keys() == {"train_loss", "val_loss", "bits_per_char", "learning_rate", "chars_per_second"}
    [sample] = events.Tensors("sample/text_summary")
    assert (sample.step, list(sample.tensor_proto.string_val)) == (7, [b"Once\nupon"])


def test_missing_tensorboard_is_an_error_that_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(CharRNNError, match=r"pip install tensorboard"):
        TensorBoard(tmp_path)


def test_deeply_nested_log_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + "[" * 100_000 + "\n")
    log = MetricsLog(tmp_path / "metrics.jsonl", keep=None)
    log.close()
    assert log.num_records == 1
