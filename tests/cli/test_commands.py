"""The installed command, as a user types it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.run import Run
from charrnn.text.corpus import Corpus
from tests.support import TEXT, Command, Forked, marked_text, needs_fbgemm

Start = Callable[..., Forked]
SMALL = ["--hidden-size", "16", "--embedding-size", "8", "--batch-size", "8", "--seq-length", "16"]


def test_a_text_becomes_a_model_that_writes(tmp_path: Path, installed: Command, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    trained = installed("train", "tiny.txt", "--steps", "120", "--seed", "1", "--json", *SMALL)
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert (summary["steps"], summary["seed"], summary["run"]) == (120, 1, "checkpoints/tiny")
    assert (tmp_path / "data" / "tiny.safetensors").exists()
    assert "now run: charrnn sample checkpoints/tiny --temperature 0.5" in trained.stderr
    assert "\r" not in trained.stderr, "no progress bar where stderr is no terminal"

    sampled = installed("sample", "--temperature", "0.5", "--prompt", "the ", "-n", "60", "--seed", "2")
    assert sampled.returncode == 0
    assert sampled.stderr == "run tiny: the newest in checkpoints\n"
    assert sampled.stdout.startswith("the ")
    assert len(sampled.stdout.rstrip("\n")) >= 60

    records = charrnn("sample", "--json", "--num-samples", "3", "--lines", "1", "--seed", "2").stdout.splitlines()
    assert sorted(json.loads(record)["index"] for record in records) == [0, 1, 2]
    keys = {"text", "seed", "index", "temperature", "finish_reason", "bits_per_char", "longest_copy"}
    assert set(json.loads(records[0])) == keys


def test_training_ends_with_the_curve_of_all_its_evaluations(
    tmp_path: Path, charrnn: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    words = ["train", "tiny.txt", "--seed", "1", "--eval-every", "30", *SMALL]
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    assert "validation loss █" not in charrnn(*words, "--steps", "30").stderr, "one evaluation is no curve"
    done = charrnn(*words, "--resume", "--steps", "120")
    log = (tmp_path / "checkpoints/tiny/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in log if "val_loss" in line]
    assert len(losses) == 4
    printed = rf"^validation loss █[▁-▇]{{2}}▁ from {losses[0]:.4f} to {losses[-1]:.4f}$"
    assert re.search(printed, done.stderr, re.MULTILINE), done.stderr
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert re.search(
        r"^validation loss #\S{3}_ from ", charrnn(*words, "--resume", "--steps", "150").stderr, re.MULTILINE
    )
    assert "validation loss #" not in charrnn(*words, "--resume", "--steps", "160", "--json").stderr


def test_training_without_a_text_learns_from_the_tales_that_come_along(tmp_path: Path, charrnn: Command) -> None:
    done = charrnn("train", "--steps", "1", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("training on the tales that come with charrnn; `charrnn train book.txt` trains")
    assert (tmp_path / "checkpoints" / "tales" / "last.safetensors").exists()
    tales = Path(__file__).parents[2] / "data" / "tales.txt"
    assert marked_text(Corpus.open(tmp_path / "data" / "tales.safetensors")) == tales.read_text()


def test_huge_learning_rate_ends_in_a_model_and_a_warning(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    absurd = ["--learning-rate", "100", "--grad-clip", "100"]
    done = charrnn("train", "tiny.txt", "--steps", "300", "--seed", "1", "--quiet", *absurd, *SMALL)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("warning: the loss was") for line in done.stderr.splitlines())
    assert "back to step 0, with a learning rate of at most 50 from there on" in done.stderr
    logged = [json.loads(line) for line in (tmp_path / "checkpoints/tiny/metrics.jsonl").read_text().splitlines()]
    assert any("recovered_from_loss" in record for record in logged)


def test_prepare_reads_stdin_and_reports(charrnn: Command) -> None:
    done = charrnn(
        "prepare",
        "-",
        "--json",
        input="héllo world\n",
    )
    summary = {"corpus": "data/stdin.safetensors", "characters": 12, "unit": "char", "symbols": 12, "vocabulary": 9}
    assert json.loads(done.stdout) == summary
    again = charrnn("prepare", "-", input="héllo world\n")
    assert "up to date" in again.stderr


@pytest.mark.parametrize("words", [["prepare"], ["train", "--steps", "1", *SMALL]])
def test_large_cuts_are_reported_even_where_all_else_is_quiet(
    tmp_path: Path, charrnn: Command, words: list[str]
) -> None:
    header = "This file should be named x.txt\n" * 300 + "Title: X\n"
    book = f"*** START OF THE PROJECT GUTENBERG EBOOK X ***\n{TEXT}\n*** END OF THE PROJECT GUTENBERG EBOOK X ***\n"
    licence = "Updated editions will replace the previous one.\n" * 400 + "to hear about new eBooks.\n"
    (tmp_path / "two.txt").write_text(2 * (header + book + licence))
    command, *options = words
    done = charrnn(command, "two.txt", "-q", *options)
    assert done.stderr.startswith("warning: cut Project Gutenberg's 2 headers and 2 licences (")
    assert done.returncode == 0


def test_transliteration_is_done_to_prompts_too(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "t.txt").write_text("Blåbær og grød\n" * 50)
    assert charrnn("prepare", "t.txt", "--ascii", "--lowercase").returncode == 0
    assert charrnn("train", "t.txt", "--steps", "2", "-q", *SMALL).stderr == ""
    done = charrnn("sample", "--prompt", "GRØD", "-n", "0")
    assert done.stdout == "grod\n"


def test_prompt_file_and_no_echo(tmp_path: Path, charrnn: Command, trained_run: Run) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"the cat\r\nsat")
    run = trained_run.folder.path
    echoed = charrnn("sample", run, "--prompt-file", "prompt.txt", "-n", "5", "-t", "0")
    assert echoed.stdout.startswith("the cat\nsat")
    plain = charrnn("sample", run, "--prompt-file", "-", "--no-echo", "-n", "5", "-t", "0", input="the cat\nsat")
    assert echoed.stdout == "the cat\nsat" + plain.stdout


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_final_line_end_of_a_prompt_file_is_dropped(charrnn: Command, trained_run: Run, end: str) -> None:
    words = ["sample", trained_run.folder.path, "-n", "0"]
    assert charrnn(*words, "--prompt-file", "-", input=f"the cat{end}{end}").stdout == "the cat\n"
    assert charrnn(*words, "--prompt", "the cat\n\n").stdout == "the cat\n\n"


def test_skipped_characters_of_a_prompt_are_reported(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "5", "--seed", "1"]
    refused = charrnn(*words, "--prompt", "the Qcat!")
    assert refused.stderr.endswith("'!' 'Q'; --skip-unknown leaves them out\n")
    done = charrnn(*words, "--prompt", "the Qcat!", "--skip-unknown")
    assert done.stdout == charrnn(*words, "--prompt", "the cat").stdout
    assert done.stderr == "not in the vocabulary, left out of the prompt: '!' 'Q'\n"
    lines = charrnn(*words, "--interactive", "--skip-unknown", input="the cat\nthe Qcat!\n")
    assert lines.returncode == 0
    assert lines.stdout.startswith(done.stdout)


def test_sample_that_is_given_up_is_reported_and_the_next_temperature_tried(
    charrnn: Command, trained_run: Run, text_file: Path
) -> None:
    words = ["sample", trained_run.folder.path, "--corpus", text_file, "--avoid-copying", "1", "-n", "20"]
    done = charrnn(*words, "--temperature", "0.5,3", "--seed", "1", "--json")
    assert done.returncode == 1
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["finish_reason"] for record in records] == ["given_up"] * 2
    assert done.stderr.count("error: sample 0 gave up at 0 symbols") == 2


def test_documents_that_are_given_up_are_not_written(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "names.txt").write_text("Anna\nBert\n" * 40)
    words = ["train", "names.txt", "--separator", r"\n", "--steps", "300", "--hidden-size", "24", "-q", "--seed", "1"]
    assert charrnn(*words).returncode == 0
    words = ["sample", "names", "--prompt", "Ann", "--documents", "1", "--unique", "--seed", "1", "-t", "0"]
    many = charrnn(*words, "--num-samples", "9", "--separator", r"\n")
    assert (many.returncode, many.stdout) == (1, "Anna\n")
    assert (many.stderr.count("\n"), "sample 1 (and 7 others) gave up at 0 symbols" in many.stderr) == (1, True)
    records = [json.loads(line) for line in charrnn(*words, "--num-samples", "2", "--json").stdout.splitlines()]
    assert [(record["text"], record["documents"]) for record in records] == [("Anna\n", ["Anna"]), ("", [])]
    one = charrnn(*words[:4], "--documents", "5", *words[6:])
    assert (one.returncode, one.stdout) == (1, "Anna\n")


def test_resumed_run_names_its_own_text(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "own.txt").write_text(TEXT)
    assert charrnn("train", "own.txt", "--run", "runs/a", "--steps", "2", "-q", *SMALL).returncode == 0
    done = charrnn("train", "--resume", "--run", "runs/a", "--steps", "3")
    assert (done.returncode, "resuming runs/a at step 2" in done.stderr, "tales" in done.stderr) == (0, True, False)


def test_escapes_are_understood_in_stops_and_bans(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "300", "--seed", "1", "--no-echo"]
    assert charrnn(*words, "--stop", r"\n").stdout == charrnn(*words, "--lines", "1").stdout
    line = charrnn(*words, "--ban", r"\n").stdout
    assert ("\n" in line.removesuffix("\n"), "n" in line) == (False, True)
    for more in (["--stop", r"\d"], ["--stop", r"\n", "--ban", r"\n"], ["--lines", "2", "--ban", r"\n"]):
        refused = charrnn(*words, *more)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert "no sample can end after" in refused.stderr


def test_banned_characters_that_the_model_lacks_are_reported(charrnn: Command, trained_run: Run) -> None:
    words = ["sample", trained_run.folder.path, "-n", "9", "--seed", "1"]
    banned = charrnn(*words, "--ban", "éa", "--ban", r"\q")
    assert banned.stderr == "banned, but not in the vocabulary: '\\\\' 'q' 'é'\n"
    assert charrnn(*words, "--ban", "é", "-q").stderr == charrnn(*words, "--ban", "a").stderr == ""


def test_interactive_ends_at_a_wrong_option(charrnn: Command, trained_run: Run) -> None:
    done = charrnn("sample", trained_run.folder.path, "-i", "--stop", "ZZ", input="the cat\nthe dog\n")
    assert (done.returncode, done.stderr.count("error: ")) == (2, 1)


def test_length_zero_echoes_the_prompt(charrnn: Command, trained_run: Run) -> None:
    done = charrnn("sample", trained_run.folder.path, "--prompt", "the cat", "--length", "0", "--num-samples", "2")
    assert done.stdout == "the cat\n\nthe cat\n"


def test_interactive_continues_each_line_of_stdin(charrnn: Command, trained_run: Run) -> None:
    run, options = trained_run.folder.path, ["-n", "20", "--seed", "4"]
    done = charrnn("sample", run, "--interactive", *options, input="the cat\r\nXYZ\n\nthe dog")
    assert done.returncode == 1
    assert done.stderr.startswith("error: characters outside the vocabulary")
    assert done.stderr.count("\n") == 1
    first = charrnn("sample", run, "--prompt", "the cat", *options).stdout
    assert done.stdout.startswith(first + charrnn("sample", run, "-n", "20", "--seed", "6").stdout)
    assert done.stdout.splitlines()[-1] != ""
    assert "the dog" in done.stdout


def test_many_lines_come_as_they_finish(charrnn: Command, trained_run: Run) -> None:
    run, options = trained_run.folder.path, ["--lines", "1", "--seed", "1", "-t", "1.5", "--separator", r"\n"]
    many = charrnn("sample", run, "--num-samples", "600", *options).stdout.splitlines()
    assert len(many) == 600
    few = charrnn("sample", run, "--num-samples", "3", *options).stdout.splitlines()
    assert len(few) == 3
    assert set(few) <= set(many)


def test_samples_are_printed_in_the_order_of_their_numbers(charrnn: Command, trained_run: Run) -> None:
    options = ["--num-samples", "40", "--stop", "at", "--seed", "1"]
    records = charrnn("sample", trained_run.folder.path, "--json", *options).stdout.splitlines()
    texts = [json.loads(record)["text"] for record in records]
    assert [json.loads(record)["index"] for record in records] == list(range(40))
    assert len({len(text) for text in texts}) > 5, "they end at different steps"
    printed = charrnn("sample", trained_run.folder.path, *options).stdout
    assert printed == "\n\n".join(texts) + "\n"


def test_copies_are_reported_and_avoided(tmp_path: Path, charrnn: Command, trained_run: Run) -> None:
    run, options = trained_run.folder.path, ["--json", "-n", "150", "--seed", "1", "-t", "1.2"]
    moved = trained_run.corpus.path.rename(trained_run.corpus.path.with_suffix(".moved"))
    assert json.loads(charrnn("sample", run, *options).stdout)["longest_copy"] is None
    moved.rename(trained_run.corpus.path)
    options += ["--data-dir", str(trained_run.corpus.path.parent)]
    copied = json.loads(charrnn("sample", run, *options).stdout)
    assert copied["longest_copy"] >= 12
    fresh = json.loads(charrnn("sample", run, *options, "--avoid-copying", "12").stdout)
    assert len(fresh["text"]) == 150
    assert fresh["longest_copy"] < 12
    (tmp_path / "digits.txt").write_text("0123456789")
    elsewhere = json.loads(charrnn("sample", run, *options, "--corpus", "digits.txt").stdout)
    assert elsewhere == copied | {"longest_copy": 0}


def test_json_holds_no_control_characters(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "evil.txt").write_text("a\x9b31m\x7f" * 200)
    assert charrnn("train", "evil.txt", "--steps", "3", "-q", *SMALL).returncode == 0
    line = charrnn("sample", "--json", "-p", "\x9b31m\x7f", "-n", "0").stdout
    assert "\x9b" not in line
    assert "\x7f" not in line
    assert json.loads(line)["text"] == "\x9b31m\x7f"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_text_is_read_from_a_pipe_as_a_whole(tmp_path: Path) -> None:
    executable = Path(sys.executable).with_name("charrnn")
    (tmp_path / "tiny.txt").write_text(TEXT)
    command = f"'{executable}' prepare <(cat tiny.txt) -o piped.safetensors --json"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout)["characters"] == len(TEXT)


def test_closed_pipe_is_quiet(trained_run: Run) -> None:
    executable = Path(sys.executable).with_name("charrnn")
    command = f"'{executable}' sample '{trained_run.folder.path}' -n 20000 --seed 1 | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def assert_has_no_room(stderr: str) -> None:
    """A command ended with one error, that its output could not be written."""
    assert stderr.splitlines()[-1].startswith("error: ")
    assert stderr.endswith("No space left on device\n")
    assert "Traceback" not in stderr


@needs_full
@pytest.mark.parametrize("arguments", ["sample RUN -n 9", "sample RUN --json", "prepare tiny.txt --json", "--help"])
def test_output_that_cannot_be_written_is_an_error(
    tmp_path: Path, forked: Start, trained_run: Run, arguments: str
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    words = [str(trained_run.folder.path) if word == "RUN" else word for word in arguments.split()]
    done = forked(*words, stdout="/dev/full").wait()
    assert done.returncode == 1
    assert_has_no_room(done.stderr)


@needs_full
def test_output_that_cannot_be_written_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    executable = Path(sys.executable).with_name("charrnn")
    command = f"'{executable}' prepare tiny.txt --json > /dev/full"
    done = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert_has_no_room(done.stderr)


@pytest.fixture
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A pipe to write to by its path, and a descriptor to read from; no limit to a file's size holds for it."""
    path = tmp_path_factory.mktemp("pipe") / "pipe"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, descriptor
    os.close(descriptor)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits to a file's size")
@pytest.mark.parametrize("limit", [0, 2000])
@pytest.mark.parametrize("corpus_name", ["tiny.txt", "corpus.safetensors"])
def test_full_disk_is_an_error_and_leaves_no_file(
    tmp_path: Path, forked: Start, pipe: tuple[Path, int], corpus: Corpus, corpus_name: str, limit: int
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    (tmp_path / "corpus.safetensors").write_bytes(corpus.path.read_bytes())
    before = contents(tmp_path)
    path, descriptor = pipe
    done = forked("train", corpus_name, "--steps", "200", "-q", *SMALL, stderr=path, file_limit=limit).wait()
    assert done.returncode == 1
    stderr = os.read(descriptor, 10_000).decode()
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert "File too large" in stderr
    assert contents(tmp_path) == before, "no lock, no log, no folder"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits to a file's size")
def test_failed_checkpoint_ends_training_and_leaves_the_one_before(
    tmp_path: Path, charrnn: Command, forked: Start, pipe: tuple[Path, int]
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    assert charrnn("train", "tiny.txt", "--steps", "5", *SMALL).returncode == 0
    run = tmp_path / "checkpoints" / "tiny"
    before = contents(run)
    assert len(before["last.safetensors"]) > 8 * 1024
    path, descriptor = pipe
    words = "train tiny.txt --resume --steps 1000000 --checkpoint-every 5".split()
    assert forked(*words, stderr=path, file_limit=8 * 1024).wait().returncode == 1
    last = os.read(descriptor, 100_000).decode().splitlines()[-1]
    assert last == "error: checkpoints/tiny/last.safetensors cannot be written: File too large; nothing was changed"
    after = contents(run)
    assert after | {"metrics.jsonl": b""} == before | {"metrics.jsonl": b""}


def test_streams_that_are_closed_harm_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    executable = Path(sys.executable).with_name("charrnn")
    train, closed = " ".join([f"'{executable}' train tiny.txt --steps 3", *SMALL]), "<&- >&- 2>&-"
    assert subprocess.run(f"{train} {closed}", shell=True, cwd=tmp_path, capture_output=True).returncode == 0
    assert Checkpoint.load(tmp_path / "checkpoints" / "tiny" / "last.safetensors").snapshot.progress.step == 3
    sample = f"'{executable}' sample -n 5 {closed}"
    assert subprocess.run(sample, shell=True, cwd=tmp_path, capture_output=True).returncode == 0


def test_signal_saves_and_the_run_continues(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    executable = Path(sys.executable).with_name("charrnn")
    process = subprocess.Popen(
        [executable, "train", "tiny.txt", "--minutes", "5", "--eval-every", "20", *SMALL],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "validation loss" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 143
    assert "stopped and saved" in rest
    step = Checkpoint.load(tmp_path / "checkpoints" / "tiny" / "last.safetensors").snapshot.progress.step
    resumed = charrnn("train", "tiny.txt", "--resume", "--steps", str(step + 5))
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming checkpoints/tiny at step {step:,}" in resumed.stderr


def test_second_trainer_is_refused_and_a_killed_one_is_forgotten(
    tmp_path: Path, charrnn: Command, forked: Start
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    first = forked("train", "tiny.txt", "--minutes", "5", "--eval-every", "20", *SMALL)
    first.wait_for("validation loss")
    run = tmp_path / "checkpoints" / "tiny"
    for option in ("--overwrite", "--resume"):
        second = charrnn("train", "tiny.txt", "--steps", "1", option, *SMALL)
        assert second.returncode == 1
        assert f"checkpoints/tiny is in use by process {first.process.pid}" in second.stderr
    first.process.kill()
    assert first.wait().returncode == -signal.SIGKILL
    (run / ".charrnn-tmp-00000000").write_text("half a checkpoint")
    step = Checkpoint.load(run / "last.safetensors").snapshot.progress.step
    third = charrnn("train", "tiny.txt", "--steps", str(step + 5), "--resume")
    assert third.returncode == 0, third.stderr
    left = {path.name for path in run.iterdir()}
    assert left == {"last.safetensors", "last-1.safetensors", "best.safetensors", "metrics.jsonl"}


@pytest.mark.skipif(sys.platform == "win32", reason="removes a folder whose files are open")
def test_trainer_whose_run_was_removed_ends_and_leaves_the_next_one_alone(tmp_path: Path, forked: Start) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    first = forked("train", "tiny.txt", "--minutes", "0.5", "--eval-every", "20", *SMALL)
    first.wait_for("validation loss")
    run = RunFolder(tmp_path / "checkpoints" / "tiny")
    shutil.rmtree(run.path)
    with run.locked():
        done = first.wait()
        assert done.returncode == 1
        assert {path.name for path in run.path.iterdir()} == {".lock"}
    assert done.stderr.splitlines()[-1].startswith("error: checkpoints/tiny is no longer this process's")
    assert done.stderr.count("error:") == 1
    assert not run.path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
@pytest.mark.parametrize("raw", [False, True])
def test_control_characters_are_visible_on_a_terminal(
    tmp_path: Path, charrnn: Command, forked: Start, raw: bool
) -> None:
    import pty

    (tmp_path / "evil.txt").write_text("\x1b[31mred\x9b" * 200)
    assert charrnn("train", "evil.txt", "--steps", "3", "-q", *SMALL).returncode == 0
    ours, theirs = pty.openpty()
    words = ["sample", "-p", "\x1b[31m", "-n", "0", *(["--raw"] if raw else [])]
    assert forked(*words, stdout=os.ttyname(theirs)).wait().returncode == 0
    os.close(theirs)
    shown = os.read(ours, 1000)
    os.close(ours)
    assert shown.strip() == (b"\x1b[31m" if raw else b"\\x1b[31m")
    assert charrnn("sample", "-p", "\x1b[31m", "-n", "0").stdout == "\x1b[31m\n"


def catches_signals(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has handlers of its own, as the kernel tells; Python itself has none for SIGUSR1."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(mask >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_signal_while_reading_exits_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    executable = Path(sys.executable).with_name("charrnn")
    process = subprocess.Popen([executable, "prepare", "-"], cwd=tmp_path, stdin=subprocess.PIPE)
    while not catches_signals(process):
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 138
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [2, 10, 100, 400])
def test_small_corpora_train_and_say_so(tmp_path: Path, charrnn: Command, size: int) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT[:size])
    trained = charrnn("train", "tiny.txt", "--steps", "3", "--hidden-size", "16")
    assert trained.returncode == 0, trained.stderr
    assert "the corpus is small" in trained.stderr
    assert f"warning: {size} characters are too few to train on: use a longer text" in trained.stderr
    assert ("1 stream of chunks of 1 character instead" in trained.stderr) == (size == 2)
    if size < 20:
        assert "too short to hold out a validation text" in trained.stderr
        assert "lowest training loss" in trained.stderr
    assert (tmp_path / "checkpoints" / "tiny" / "best.safetensors").exists()


def test_only_white_space_is_a_warning_and_not_shown_as_a_sample(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "blank.txt").write_text(" \n\n" * 500)
    done = charrnn("train", "blank.txt", "--steps", "3", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "warning: the text is only white space: there is nothing to learn" in done.stderr
    assert "  |" not in done.stderr


def test_budget_too_small_for_a_step_recommends_no_sample(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    done = charrnn("train", "tiny.txt", "--minutes", "1e-9", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("done, before the first step: there is nothing to sample yet")
    again = charrnn("train", "tiny.txt", "--steps", "2", "--resume")
    assert "now run: charrnn sample" in again.stderr


def test_printed_learning_rate_can_be_reused(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    first = charrnn("train", "tiny.txt", "--steps", "2", "--hidden-size", "600", "--batch-size", "3")
    printed = re.search(r"learning rate (\S+),", first.stderr)
    assert printed is not None
    assert len(printed[1]) >= 6, "one that has more digits"
    again = charrnn("train", "tiny.txt", "--steps", "3", "--resume", "--learning-rate", printed[1])
    assert again.returncode == 0, again.stderr


def test_failed_start_leaves_no_curves(tmp_path: Path, charrnn: Command, forked: Start) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tiny.txt").write_text(TEXT)
    done = forked("train", "tiny.txt", "--steps", "3", "--tensorboard", *SMALL, file_limit=8 * 1024).wait()
    assert done.returncode == 1
    assert not (tmp_path / "checkpoints").exists()
    done = charrnn("train", "tiny.txt", "--steps", "3", "--tensorboard", *SMALL)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "checkpoints" / "tiny").glob("events.*"))) == 1


def test_same_seed_trains_the_same_model_to_the_bit(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    for run in ("a", "b"):
        command = ["train", "tiny.txt", "--steps", "9", "--seed", "5", "--run", run, "--deterministic", *SMALL]
        assert charrnn(*command).returncode == 0
    a, b = (Checkpoint.load(tmp_path / run / "last.safetensors").weights for run in ("a", "b"))
    assert all(weight.equal(b[name]) for name, weight in a.items())


def test_resume_starts_a_run_that_is_not_there_yet(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    command = ["train", "tiny.txt", "--resume", "--steps", "3", "--run", "runs/a", *SMALL]
    assert charrnn(*command).returncode == 0
    again = charrnn(*command, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["steps"] == 3


def test_folders_and_the_device_can_be_set_in_the_environment(tmp_path: Path, forked: Start) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    environment = {"CHARRNN_DATA_DIR": "d", "CHARRNN_CHECKPOINT_DIR": "c", "CHARRNN_DEVICE": "cpu"}
    words = ["train", "tiny.txt", "--steps", "1", "-q", *SMALL]
    assert forked(*words, environment=environment).wait().returncode == 0
    assert (tmp_path / "d" / "tiny.safetensors").exists()
    assert (tmp_path / "c" / "tiny" / "best.safetensors").exists()
    done = forked(*words, environment={"CHARRNN_DEVICE": "tpu"}).wait()
    assert "device 'tpu' is unknown" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
def test_paths_that_are_not_utf_8_work(tmp_path: Path, charrnn: Command) -> None:
    text, run = os.fsdecode(b"t\xe9.txt"), os.fsdecode(b"r\xe9")
    (tmp_path / text).write_text(TEXT)
    done = charrnn("train", text, "--steps", "2", "--run", run, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == run
    done = charrnn("train", text, "--steps", "4", "--run", run, "--resume")
    assert done.returncode == 0, done.stderr
    done = charrnn("sample", run, "-n", "9", "--avoid-copying", "9", "--json")
    assert done.returncode == 0, done.stderr
    done = charrnn("train", text, "--steps", "4", "--run", os.fsdecode(b"s\xe9"), "--tensorboard", *SMALL)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --tensorboard cannot write to")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / os.fsdecode(b"s\xe9")).exists()


def test_module_and_version(charrnn: Command) -> None:
    done = subprocess.run([sys.executable, "-m", "charrnn", "--version"], capture_output=True, text=True)
    assert done.stdout == charrnn("--version").stdout
    assert done.stdout.startswith("charrnn ")


@needs_fbgemm
def test_text_is_the_same_on_cpus_with_more_and_with_fewer_instructions(
    installed: Command, charrnn: Command, trained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sample", trained_run.folder.path, "--seed", "3", "-n", "3000", "--prompt", "the cat sat"]
    expected = charrnn(*words)
    assert expected.returncode == 0, expected.stderr
    caps = {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in caps.items():
        monkeypatch.setenv(name, value)
    assert installed(*words).stdout == expected.stdout


def test_other_output_encodings_lose_nothing_in_json_and_warn_of_text(
    tmp_path: Path, charrnn: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o.txt").write_text("ёжик\n" * 200, encoding="utf-8")
    assert charrnn("train", "o.txt", "--steps", "3", "-q", *SMALL).returncode == 0
    words = ["sample", "o", "-p", "ёж", "-n", "5", "--seed", "1"]
    text = charrnn(*words).stdout
    assert text.startswith("ёж")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    record = charrnn(*words, "--json")
    assert json.loads(record.stdout)["text"] == text.removesuffix("\n")
    assert record.stderr == ""
    done = charrnn(*words)
    assert done.stdout.startswith("??")
    assert done.stderr.count("warning: 4 symbols of the model will be shown as ?") == 1


@needs_full
def test_notice_that_has_no_room_costs_no_text(tmp_path: Path, trained_run: Run) -> None:
    command = [sys.executable, "-m", "charrnn", "sample", str(trained_run.folder.path), "-n", "20"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.returncode == 0
    assert len(done.stdout) >= 20


@pytest.mark.parametrize("size", ["", "1", "2", "abc"])
def test_world_without_a_rank_is_not_of_torchrun(
    tmp_path: Path, charrnn: Command, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    monkeypatch.setenv("WORLD_SIZE", size)
    done = charrnn("train", "tiny.txt", "--steps", "2", *SMALL)
    assert done.returncode == 0, done.stderr


def test_resumed_run_reports_that_it_ignores_init_from(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    assert charrnn("train", "tiny.txt", "--steps", "2", "-q", *SMALL).returncode == 0
    weights = "checkpoints/tiny/best.safetensors"
    done = charrnn("train", "tiny.txt", "--steps", "3", "--resume", "--init-from", weights, *SMALL)
    assert "--init-from is for new runs and is ignored" in done.stderr
    started = charrnn("train", "tiny.txt", "--steps", "3", "--resume", "--init-from", weights, "--run", "new", *SMALL)
    assert "starting from other weights" in started.stderr


def test_command_of_a_run_is_recorded_with_absolute_paths(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    assert charrnn("train", "tiny.txt", "--steps", "2", "-q", *SMALL).returncode == 0
    words = ["train", "tiny.txt", "--steps", "2", "--init-from", "tiny", "-o", "runs/a", "--data-dir=d", "--seed=1"]
    assert charrnn(*words).returncode == 0
    log = (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()
    command = json.loads(log[0])["definition"]["command"]
    source = str(tmp_path / "checkpoints/tiny/best.safetensors")
    paths = ["--init-from", source, "-o", str(tmp_path / "runs/a"), f"--data-dir={tmp_path / 'd'}"]
    assert command == ["charrnn", "train", str(tmp_path / "tiny.txt"), "--steps", "2", *paths, "--seed=1"]
    (tmp_path / "rnn").write_text(TEXT)
    assert charrnn("train", "rnn", "--cell", "rnn", "--run", "rnn.d", "--steps", "2", "-q", *SMALL).returncode == 0
    recorded = json.loads((tmp_path / "rnn.d/metrics.jsonl").read_text().splitlines()[0])["definition"]["command"]
    assert recorded[2:7] == [str(tmp_path / "rnn"), "--cell", "rnn", "--run", str(tmp_path / "rnn.d")]
    (tmp_path / "elsewhere").mkdir()
    again = subprocess.run(
        [sys.executable, "-m", *command, "--overwrite"], cwd=tmp_path / "elsewhere", capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert not list((tmp_path / "elsewhere").iterdir())
    for before, now in zip(log[1:], (tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()[1:], strict=True):
        assert json.loads(before).get("val_loss") == json.loads(now).get("val_loss")


def test_training_reports_the_start_that_its_minutes_exclude(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    done = charrnn("train", "tiny.txt", "--minutes", "1s", *SMALL)
    assert re.search(r"^started in \d+ s, which --minutes does not include$", done.stderr, re.MULTILINE)
    assert "--minutes" not in charrnn("train", "tiny.txt", "--steps", "2", "--overwrite", *SMALL).stderr


def test_weights_come_from_a_file_a_folder_or_the_name_of_a_run(tmp_path: Path, charrnn: Command) -> None:
    (tmp_path / "tiny.txt").write_text(TEXT)
    assert charrnn("train", "tiny.txt", "--steps", "2", "-q", *SMALL).returncode == 0
    size = SMALL[SMALL.index("--hidden-size") + 1]
    for i, source in enumerate(("checkpoints/tiny/last.safetensors", "checkpoints/tiny", "tiny")):
        done = charrnn("train", "tiny.txt", "--steps", "2", "--init-from", source, "--run", f"new-{i}")
        assert done.returncode == 0, done.stderr
        assert "starting from other weights" in done.stderr
        assert f"model: 1 x {size} LSTM" in done.stderr, "the shape is that of the other model"
    again = charrnn("train", "tiny.txt", "--steps", "2", "--init-from", "tiny", "--overwrite")
    assert again.returncode == 0, "a run may start again from its own weights"
    assert charrnn("sample", "tiny", "-n", "5").returncode == 0
