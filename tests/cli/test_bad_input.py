"""Every bad input is one line on stderr and an exit code, and nothing on disk has changed."""

import hashlib
import os
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from charrnn.cli.app import app
from charrnn.files import container
from charrnn.runs.run import Run
from charrnn.text.corpus import Corpus
from tests.support import Command, prepared

CASES = [
    # arguments, exit code, what the line says
    ("prepare missing.txt", 1, "does not exist"),
    ("prepare folder", 1, "without *.txt"),
    ("prepare empty.txt", 1, "is empty"),
    ("prepare one.txt", 1, "one character long"),
    ("prepare same.txt", 1, "repeats one character"),
    ("prepare latin1.txt", 1, "not utf-8 at byte 4: try --encoding cp1252"),
    ("prepare broken.txt.gz", 1, "cannot be read"),
    ("prepare nul.txt", 1, "NUL bytes, at byte 1: --encoding utf-16-le reads it; --force keeps them"),
    ("prepare page.txt", 1, "is an HTML page: save it as text"),
    ("prepare good.txt --normalize nfd", 2, "nfd"),
    ("prepare good.txt --encoding klingon", 1, "encoding 'klingon' is unknown"),
    ("prepare good.txt --encoding undefined", 1, "is unknown"),
    ("prepare corpus.safetensors -o x", 1, "not a text"),
    ("prepare good.txt -o folder --overwrite", 1, "folder is a folder"),
    ("prepare good.txt --min-count 10000", 1, "lower --min-count"),
    ("prepare good.txt --min-count 0", 2, "--min-count is 0"),
    ("prepare good.txt --max-vocab 1", 2, "--max-vocab is 1"),
    ("prepare good.txt -o good.txt/x.safetensors", 1, "cannot be written"),
    ("prepare good.txt -o corpus.safetensors", 1, "another text: --overwrite"),
    ("prepare good.txt -o checkpoint.safetensors", 1, "is a checkpoint, not a corpus"),
    ("train missing.txt", 1, "does not exist"),
    ("train goood.txt", 1, "goood.txt does not exist: did you mean good.txt?"),
    ("prepare folder/../goood.txt", 1, "did you mean folder/../good.txt?"),
    ("train https://example.org/good.txt", 1, "is an address: download it first"),
    ("train good.txt --run run", 1, "run holds a run on another text or an older version, "),
    ("train run", 1, "run is a run, not a text: `charrnn train "),
    ("train run --checkpoint-dir folder", 1, "tiny.safetensors --run run --resume` continues it"),
    ("train --init-from run --checkpoint-dir . run", 1, "run is a run, not a text"),
    ("train good.txt --tensorboard --run good.txt/run", 1, "good.txt"),
    ("train corpus.safetensors --ascii", 1, "was prepared with ascii=False, not ascii=True: name the raw"),
    (
        "train corpus.safetensors --max-vocab 9",
        1,
        "corpus.safetensors was prepared with max_vocab=None, not max_vocab=9: name the",
    ),
    (
        "train corpus.safetensors --minutes",
        2,
        "option '--minutes' requires an argument; charrnn train -h prints",
    ),
    ("train page.txt", 1, "is an HTML page"),
    ("train empty.txt", 1, "is empty"),
    ("train checkpoint.safetensors", 1, "is a checkpoint, not a corpus: `charrnn train "),
    ("train newer.safetensors", 1, "another version of charrnn"),
    ("train truncated.safetensors", 1, "damaged"),
    ("train corpus.safetensors --device tpu", 2, "device 'tpu' is unknown"),
    ("train corpus.safetensors --device cuda:99", 1, "device cuda:99 is not available"),
    ("train corpus.safetensors --run run", 1, "run holds a run; --resume continues it; --run DIR starts another, "),
    ("train corpus.safetensors --steps 5 --run run --resume --hidden-size 8", 1, "error: --hidden-size is 8, but"),
    ("train corpus.safetensors --run run --resume --size small", 1, "--size is small, so that --hidden-size is 256"),
    ("train corpus.safetensors --steps 5 --run good.txt", 1, "good.txt is a file"),
    ("train good.txt --device tpu", 2, "device 'tpu' is unknown"),
    ("train good.txt --init-from missing.safetensors", 1, "no trained model is called missing.safetensors"),
    (
        "train good.txt --init-from folder",
        1,
        "folder holds no trained model",
    ),
    ("train corpus.safetensors --run run --resume --lowercase", 1, "--lowercase is True, but the run in run has False"),
    ("train corpus.safetensors --run run --init-from run", 1, "--run DIR starts another"),
    ("train corpus.safetensors --steps 5 --epochs 5", 2, "exclude each other"),
    ("train corpus.safetensors --run ''", 2, "--run is empty: it must be the name of a folder"),
    ("train corpus.safetensors --checkpoint-dir ''", 2, "--checkpoint-dir is empty: it must be the name of a folder"),
    ("prepare tale.txt --data-dir ''", 2, "--data-dir is empty"),
    ("train corpus.safetensors --steps ''", 2, "--steps is empty: it must be"),
    ("train corpus.safetensors --dropout 1", 2, "--dropout is 1: it must be"),
    ("train corpus.safetensors --cell transformer", 2, "transformer"),
    ("train corpus.safetensors --resume --overwrite", 2, "exclude each other"),
    ("train corpus.safetensors --init-from corpus.safetensors --steps 1", 1, "is a corpus, not a checkpoint"),
    ("train good.txt --init-from run --hidden-size 8", 1, "has 32: leave the option out, or start without --init-from"),
    ("train good.txt --init-from checkpoint.safetensors --cell gru", 1, "--cell is gru, but the model in checkpoint"),
    ("train good.txt --init-from run --embedding-size 0", 1, "--embedding-size is 0, but the model in run"),
    ("train good.txt --init-from run --size small", 1, "--hidden-size is 256, but the model in run"),
    ("train other.safetensors --steps 5 --run run --resume", 1, "another text"),
    ("train corpus.safetensors --steps 5 --hidden-size 65536", 1, "lower --batch-size, --seq-length, --hidden-size"),
    ("train corpus.safetensors --precision int3", 2, "precision 'int3' is unknown"),
    ("train corpus.safetensors --steps 5 --device cpu --precision float16", 1, "is not available on this cpu: choose"),
    ("train corpus.safetensors --epochs 0", 2, "--epochs is 0: it must be above 0"),
    ("train corpus.safetensors --minutes 1e300", 2, "--minutes is 1e300: it must be"),
    ("sample newer-checkpoint.safetensors", 1, "another version of charrnn"),
    ("sample", 1, "no trained model"),
    ("sample missing.safetensors", 1, "no trained model is called missing.safetensors"),
    ("sample folder", 1, "no trained model"),
    ("sample good.txt", 1, "not a charrnn file"),
    ("sample corpus.safetensors", 1, "is a corpus, not a checkpoint"),
    ("sample checkpoint.safetensors --prompt XYZ", 1, "'X' 'Y' 'Z'"),
    ("sample checkpoint.safetensors --prompt-file missing.txt", 1, "cannot be read"),
    ("sample checkpoint.safetensors --prompt a --prompt-file good.txt", 2, "exclude each other"),
    ("sample checkpoint.safetensors --temperature -1", 2, "--temperature is -1:"),
    ("sample checkpoint.safetensors --temperature 1e300", 2, "it must be from 0 to 1,000"),
    ("sample checkpoint.safetensors -t 0.5,2000", 2, "--temperature is 2,000: it must be from 0 to 1,000"),
    (
        "sample checkpoint.safetensors -t 0.5,hot",
        2,
        "--temperature is 0.5,hot: it must be from 0 to 1,000, or several",
    ),
    ("sample checkpoint.safetensors -t nan", 2, "--temperature is nan"),
    ("sample checkpoint.safetensors --show-surprisal --json", 2, "leave --json and --output out"),
    ("sample checkpoint.safetensors --output folder", 1, "folder is a folder: name a file in it"),
    ("sample checkpoint.safetensors --length many", 2, "--length"),
    ("sample checkpoint.safetensors --top-p 0", 2, "--top-p is 0:"),
    ("sample checkpoint.safetensors --interactive --prompt a", 2, "leave --prompt and --prompt-file out"),
    ("sample checkpoint.safetensors --corpus good.txt", 2, "--corpus is for --avoid-copying, --new and --json"),
    ("sample checkpoint.safetensors --avoid-copying 5 --corpus - --interactive", 2, "stdin can only be read once"),
    ("sample checkpoint.safetensors --avoid-copying 5 --corpus empty.txt", 1, "is empty"),
    ("sample checkpoint.safetensors --avoid-copying 0", 2, "--avoid-copying is 0"),
    ("sample checkpoint.safetensors --avoid-copying 5 --corpus missing.txt", 1, "does not exist"),
    ("sample checkpoint.safetensors --precision float16 --device cpu", 1, "choose float32"),
    ("train corpus.safetensors --precision int8", 2, "precision 'int8' is unknown"),
    ("runs --sort size", 2, "size"),
    ("score good.txt", 1, "no trained model"),
    ("score checkpoint.safetensors missing.txt", 1, "does not exist"),
    ("score checkpoint.safetensors empty.txt", 1, "nothing can be scored"),
    ("score checkpoint.safetensors latin1.txt", 1, "try --encoding"),
    ("score corpus.safetensors good.txt", 1, "is a corpus, not a checkpoint"),
    ("score checkpoint.safetensors good.txt --window 0", 2, "--window is 0"),
    ("score checkpoint.safetensors good.txt --per-char --adapt", 2, "--adapt scores the whole text"),
    ("score checkpoint.safetensors good.txt --per-line --window 5", 2, "--per-line excludes"),
    ("inspect", 2, "PATH"),
    ("inspect good.txt", 1, "not a charrnn file"),
    ("inspect missing", 1, "no trained model is called missing"),
    ("inspect truncated.safetensors", 1, "damaged"),
    ("inspect corpus.safetensors --slim slim.safetensors", 1, "is a corpus, not a checkpoint"),
    ("inspect run run --slim slim.safetensors", 2, "--slim is for one checkpoint"),
    ("levitate", 2, "levitate"),
]
if hasattr(os, "mkfifo"):
    CASES += [
        ("prepare pipes", 1, "it is a pipe or a device"),
        ("prepare good.txt -o pipe.safetensors", 1, "it is a pipe or a device"),
        ("prepare /dev/zero", 1, "is a device"),
        ("train pipe.safetensors", 1, "it is a pipe or a device"),
        ("train corpus.safetensors --init-from pipe.safetensors", 1, "it is a pipe or a device"),
        ("train corpus.safetensors --resume --run piped --steps 900 -q", 1, "metrics.jsonl cannot be read"),
        ("sample pipe.safetensors", 1, "it is a pipe or a device"),
        ("sample pipes", 1, "it is a pipe or a device"),
        ("sample checkpoint.safetensors --avoid-copying 5 --corpus pipes", 1, "it is a pipe or a device"),
    ]


@pytest.fixture
def folder(tmp_path: Path, corpus: Corpus, trained_run: Run) -> Path:
    for name, content in (
        ("good.txt", b"Once upon a time.\n" * 9),
        ("empty.txt", b""),
        ("one.txt", b"a"),
        ("same.txt", b"aaaa"),
        ("latin1.txt", b"caf \xe9 au lait"),
        ("nul.txt", "Once upon a time.\n".encode("utf-16-le")),
        ("page.txt", b"<!DOCTYPE html>\n<p>Once upon a time."),
        ("broken.txt.gz", b"\x1f\x8b\x08\x00nonsense"),
        ("corpus.safetensors", corpus.path.read_bytes()),
        ("checkpoint.safetensors", trained_run.folder.last.read_bytes()),
        ("truncated.safetensors", corpus.path.read_bytes()[:-1]),
    ):
        (tmp_path / name).write_bytes(content)
    prepared("Another text altogether.", tmp_path / "other.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes(trained_run.folder.last.read_bytes())
    (tmp_path / "piped").mkdir()
    (tmp_path / "piped" / "last.safetensors").write_bytes(trained_run.folder.last.read_bytes())
    if hasattr(os, "mkfifo"):
        (tmp_path / "pipes").mkdir()
        for name in ("pipe.safetensors", "pipes/best.safetensors", "pipes/text.txt", "piped/metrics.jsonl"):
            os.mkfifo(tmp_path / name)
    current, container.FORMAT = container.FORMAT, container.FORMAT + 1
    container.write(tmp_path / "newer.safetensors", "corpus", {}, {})
    container.write(tmp_path / "newer-checkpoint.safetensors", "checkpoint", {}, {})
    container.FORMAT = current
    return tmp_path


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(("arguments", "code", "message"), CASES, ids=[case[0] for case in CASES])
def test_bad_input_is_one_line_and_changes_nothing(
    folder: Path, charrnn: Command, arguments: str, code: int, message: str
) -> None:
    before = snapshot(folder)
    done = charrnn(*shlex.split(arguments))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert snapshot(folder) == before


def test_text_without_a_name_is_not_the_whole_folder(folder: Path, charrnn: Command) -> None:
    for command in ("train", "prepare"):
        done = charrnn(command, "")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: a text's name is empty: name a text file")
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_lack_of_memory_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch, message: str, masked: bool) -> None:
    def fail(*arguments: object, **options: object) -> None:
        try:
            raise RuntimeError(message)
        except RuntimeError:
            if masked:
                raise RuntimeError("the clean-up failed")  # noqa: B904 (so that the first one is only its context)
            raise

    monkeypatch.setattr("charrnn.text.cache.default_output", fail)
    done = CliRunner().invoke(app, ["prepare", __file__])
    assert done.exit_code == 1
    assert done.output == "error: out of memory: lower --batch-size, --seq-length, --hidden-size or --num-samples\n"
