r"""What the golden files pin, and how it is recorded; `python -m tests.golden.update` records it again.

Record again only after a change of behaviour that is meant, and read the difference before committing it. The models
and the run are never trained again: they represent the files that users have. They were trained by the code of
version 0.1.0 with `--device cpu --precision float32 --batch-size 8 --seq-length 16 --learning-rate 1e-2 --dropout 0`:

    names:  names.txt --separator '\n' --hidden-size 24 --embedding-size 12 --steps 500 --seed 1
    bytes:  tale.txt --unit byte --hidden-size 16 --embedding-size 8 --steps 900 --seed 2
    words:  tale.txt --unit word --separator '\n%\n' --max-vocab 45 --hidden-size 20 --embedding-size 12 --steps 400
            --seed 3
    gru:    tale.txt --cell gru --num-layers 2 --embedding-size 0 --hidden-size 20 --lowercase --min-count 12
            --steps 700 --seed 4
    rnn:    tale.txt --cell rnn --separator '\n%\n' --ascii --optimizer adamw --hidden-size 24 --embedding-size 12
            --steps 700 --seed 5
    run:    names.txt --hidden-size 8 --embedding-size 4 --min-count 20 --eval-every 20 --sample-every 20 --steps 40
            --seed 6
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from typer.testing import CliRunner

from charrnn.cli.app import app

HERE = Path(__file__).parent
MODELS = ("names", "bytes", "words", "gru", "rnn")
DOCUMENTS = ("names", "words", "rnn")
"""Models of texts that were prepared as documents."""
PRECISIONS = ("int8", "float32")

TEXT = (
    "Caf\u00e9 and cafe\u0301: na\u00efve \u2014 \u201cZo\u00eb\u2019s\u201d \ufb01ne \u00bd, \u2116 7.\r\n"
    "\r\n \t\r\n"
    "A hen's egg\u2026 well-known, doesn't it?\r\n"
    "\U0001f642\U0001f469\u200d\U0001f680 \u2603 \u03a3\u03bf\u03c6\u03cc\u03c2 \u6771\u4eac \u00c5\u212b \u00df\r\n"
    "%\r\n"
    "The hen ran.\tThe egg ran --- to 1234 caf\u00e9s.\r\n"
    "%\n%\n"
    "the END, the end\n\n\nTHE END"
)
"""Characters beyond ASCII, a combining accent, ligatures, CRLF, blank lines, separators and symbols seen once."""

EBOOK = (
    "The Project Gutenberg eBook of Hens\n\n*** START OF THE PROJECT GUTENBERG EBOOK HENS ***\n\n"
    "A hen ran.\nThe end.\n\n*** END OF THE PROJECT GUTENBERG EBOOK HENS ***\nLicence\n"
)

CORPORA: dict[str, tuple[str, bytes]] = {
    name: (options, TEXT.encode())
    for name, options in {
        "char": "",
        "byte": "--unit byte",
        "word": "--unit word",
        "ascii": "--ascii",
        "lowercase": "--lowercase",
        "ascii lowercase word": "--ascii --lowercase --unit word",
        "min-count": "--min-count 2",
        "max-vocab": "--max-vocab 10",
        "word max-vocab": "--unit word --max-vocab 10",
        "nfkc": "--normalize nfkc",
        "none": "--normalize none",
        "lines": r"--separator '\n'",
        "paragraphs": r"--separator '\n\n'",
        "separator": r"--separator '\n%\n'",
        "separator keep-order": r"--separator '\n%\n' --keep-order",
        "separator shuffle-seed": r"--separator '\n' --shuffle-seed 3",
        "byte separator": r"--unit byte --separator '%'",
        "word separator": r"--unit word --separator '\n' --min-count 2",
    }.items()
} | {
    "utf-16": ("", b"\xff\xfe" + TEXT.encode("utf-16-le")),
    "byte-order mark": ("", b"\xef\xbb\xbf" + TEXT.encode()),
    "cp1252": ("--encoding cp1252", "Na\u00efve \u2014 \u201ccaf\u00e9\u201d\n".encode("cp1252")),
    "bytes of no encoding": ("--unit byte", bytes(range(1, 256)) + b"\xe2\x82"),
    "boilerplate": ("", EBOOK.encode()),
    "keep-boilerplate": ("--keep-boilerplate", EBOOK.encode()),
}
"""Options of `prepare -`, and the text on stdin."""

FOLDER = {"a.txt": "A hen.\n", "b.txt": TEXT, "c.txt": "The end", "d.txt": "", "notes.md": "not read"}
FOLDERS = {
    "documents": "--documents",
    "word documents": "--documents --unit word",
    "byte documents": "--documents --unit byte",
    "joined": "",
    "lines of files": r"--separator '\n'",
}
"""Options of `prepare FOLDER`."""

BEGIN = {"names": "Mar", "bytes": "The caf\u00e9", "words": "The mil", "gru": "The Miller", "rnn": "The caf\u00e9"}
"""A prompt for each model: "mil" begins a word, and "é" is transliterated for one model."""
SAMPLES = {
    "plain": "-n 100 -t 0.8",
    "stop that cannot come": "--stop \u6771 -n 50",
    "temperatures": "-n 40 -t 0,0.3,1.2",
    "lines": "--lines 3 -t 0.8",
    "stop": r"--stop '\n' --stop ll -t 0.8 -n 200",
    "top-k": "--top-k 3 -n 60",
    "top-p": "--top-p 0.7 -n 60",
    "min-p": "--min-p 0.2 -n 60",
    "ban": r"--ban e --ban '\n' -n 60 -t 0.8",
    "num-samples": r"--num-samples 3 --separator '\n--\n' -n 30 -t 0.8",
    "json": "--num-samples 3 --lines 1 --json -t 0.8 --corpus CORPUS",
    "json temperatures": "--num-samples 2 -t 0.5,1 -n 20 --json",
    "avoid-copying": "--avoid-copying 9 --corpus CORPUS -n 80 -t 0.8",
    "avoid-copying json": "--avoid-copying 6 --corpus CORPUS -n 40 --num-samples 2 --json",
    "prompt": "-p BEGIN -n 30 -t 0.8",
    "prompt lines": "-p BEGIN --lines 1 --num-samples 2 -t 0.8 --json",
    "no-echo": "-p BEGIN -n 30 --no-echo -t 0.8",
    "skip-unknown": "-p '\u6771BEGIN' -n 30 --skip-unknown -t 0.8",
    "unknown": "-p '\u6771BEGIN' -n 30",
    "nothing": "-p BEGIN -n 0",
    "another seed": "-n 60 -t 0.8 --seed 12345",
}
"""Options of `sample` for each model; CORPUS and BEGIN are replaced."""
SAMPLES_OF_DOCUMENTS = {
    "documents": "--documents 3 -t 0.5",
    "documents prompt": "--documents 2 -p BEGIN -t 0.8 -n 150",
    "documents json": "--documents 2 -p BEGIN --num-samples 2 -t 0.8 -n 150 --json --corpus CORPUS",
    "unique": "--unique --documents 3 --num-samples 3 -t 0.5 -n 200 --json",
    "new": "--new --corpus CORPUS --documents 2 -t 0.5",
    "stop at a separator": r"--stop SEPARATOR --num-samples 2 -t 0.8 --json",
    "ban a separator": r"--ban SEPARATOR -n 60 -t 0.8",
}
SAMPLES_OF_MODELS: dict[str, dict[str, str]] = {
    "names": {
        "own corpus": "--json --new --avoid-copying 8 --documents 4 -t 0.6 --num-samples 2",
        "prompt with a separator": "-p 'Anna\nBe' -n 30 -t 0.8",
        "more samples than streams": "--num-samples 300 --documents 1 -n 8 -t 0.8",
    },
    "bytes": {
        "half of a character": "-p 'The caf\udcc3' -n 30 -t 0.3",
        "lead byte": "-p '\udce2\udc80' -n 30 -t 0.8 --json",
        "ban a character": "--ban '\u00e9\u2014' -n 150 -t 0.8",
        "noise": "-n 80 -t 3",
        "noise json": "-n 40 -t 3 --json",
    },
    "words": {
        "begun words": "-p 'The old ki' --num-samples 3 -n 3 -t 0.8 --json",
        "one letter": "-p 'The d' --num-samples 3 -n 2",
        "inner apostrophe": '-p "The dog doesn\'" -n 5',
        "space": "-p 'The ' -n 5",
        "rare word": "-p 'The zebra saw' -n 8",
        "unspaced": "-p 'miller' -n 5",
        "ban a letter": "--ban k -n 30",
    },
    "gru": {"unknown is never sampled": "-n 200 -t 2"},
    "rnn": {"prompt with a separator": "-p 'The end.\n%\nA' -n 30 -t 0.8"},
}
INTERACTIVE = "BEGIN\n\u6771\nThe\n"
"""Lines on stdin of `sample --interactive`: the second is an error for most models."""

SCORED = "The caf\u00e9 owner saw Zo\u00eb\u2019s fox \u2603!\n\nMarina\n"
SCORED += "My sister sang \u2014 twice.\n%\nThe miller \u6771\n"
"""A text with symbols that some models lack."""
SCORES = {
    "total": "--json",
    "window": "--window 7 --json",
    "per-char": "--per-char",
    "per-char json": "--per-char --json",
    "per-line": "--per-line",
    "per-line json": "--per-line --json",
}
TRAININGS = {
    "documents": r"names.txt --separator '\n' --hidden-size 8 --steps 6 --eval-every 3 --run one",
    "words": "tale.txt --unit word --max-vocab 30 --cell gru --num-layers 2 --hidden-size 8 --optimizer adamw "
    "--steps 4 --batch-size 2 --seq-length 8 --val-fraction 0 --run two",
    "keyed": "names.txt --lowercase --hidden-size 8 --embedding-size 0 --steps 4 --run three",
    "init-from": "tale.txt --init-from rnn --steps 4 --run four",
    "resumed": "names.txt --resume --steps 60 --run run",
}
TRAINING = "--seed 6 --device cpu --precision float32 --json --sample-every 2"
"""Options of `train`. The corpus of names is prepared as documents already, and that of tales in the second case."""


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: its exit code, and its stdout, with surrogates for bytes that are not UTF-8."""

    exit_code: int
    stdout: str

    @property
    def records(self) -> list[Any]:
        """The JSON objects on stdout."""
        return [json.loads(line) for line in self.stdout.split("\n") if line]

    @property
    def rows(self) -> list[list[Any]]:
        """The lines on stdout as a number of bits and a text."""
        return [[float(line.split("\t")[0]), *line.split("\t")[1:]] for line in self.stdout.split("\n") if line]


def invoke(folder: Path, *words: str, stdin: bytes = b"") -> Outcome:
    """Run a command in a folder, in this process, whose handlers of signals are restored."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    unset = {name: None for name in os.environ if name.startswith("CHARRNN_")}
    try:
        with contextlib.chdir(folder):
            done = CliRunner(env=unset).invoke(app, words, input=stdin, catch_exceptions=False)
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    return Outcome(done.exit_code, done.stdout_bytes.decode("utf-8", "surrogateescape"))


def lay_out(folder: Path) -> None:
    """Put the models and texts into a folder as a user has them, and the corpus of one model."""
    for name in MODELS:
        (folder / "checkpoints" / name).mkdir(parents=True)
        shutil.copy(HERE / "models" / f"{name}.safetensors", folder / "checkpoints" / name / "best.safetensors")
    shutil.copytree(HERE / "run", folder / "run")
    for text in (HERE / "texts").iterdir():
        shutil.copy(text, folder)
    (folder / "scored.txt").write_text(SCORED, encoding="utf-8")
    assert invoke(folder, "prepare", "names.txt", "--separator", r"\n").exit_code == 0


def record_corpus(folder: Path, options: str, text: bytes) -> dict[str, Any]:
    """The file that `prepare` makes of a text on stdin: its header and digests of its ids and of all its bytes."""
    output = folder / "stdin.safetensors"
    output.unlink(missing_ok=True)
    words = ["prepare", "-", "-o", output.name, "--json", *shlex.split(options)]
    summary = invoke(folder, *words, stdin=text).records
    return {**_content(output), "summary": summary, "file": hashlib.sha256(output.read_bytes()).hexdigest()}


def record_folder(folder: Path, options: str) -> dict[str, Any]:
    """The same of a folder of files, whose path is in the header, and so not pinned."""
    texts, output = folder / "texts", folder / "texts.safetensors"
    texts.mkdir(exist_ok=True)
    for name, text in FOLDER.items():
        (texts / name).write_bytes(text.encode())
    output.unlink(missing_ok=True)
    summary = invoke(folder, "prepare", "texts", "-o", output.name, "--json", *shlex.split(options)).records
    return {**_content(output), "summary": summary}


def _content(path: Path) -> dict[str, Any]:
    """The header of a corpus but for its path and digest, and its ids in short."""
    with safe_open(path, framework="numpy") as stored:
        assert list(stored.keys()) == ["indices"]
        header, ids = json.loads(stored.metadata()["charrnn"]), stored.get_tensor("indices")
    header = {key: value for key, value in header.items() if key not in ("sources", "digest")}
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    return {"header": header, "dtype": str(ids.dtype), "num_indices": len(ids), "indices": digest}


def record_samples(folder: Path, model: str, precision: str) -> dict[str, Any]:
    """What `sample` writes for each list of options."""
    lists = SAMPLES | (SAMPLES_OF_DOCUMENTS if model in DOCUMENTS else {}) | SAMPLES_OF_MODELS[model]
    command = ["sample", model, "--device", "cpu", "--precision", precision, "--seed", "1"]
    places = {
        "BEGIN": BEGIN[model],
        "CORPUS": "names.txt" if model == "names" else "tale.txt",
        "SEPARATOR": r"\n" if model == "names" else r"\n%\n",
    }
    found: dict[str, Any] = {}
    for name, options in lists.items():
        words = shlex.split(options)
        for place, value in places.items():
            words = [word.replace(place, value) for word in words]
        done = invoke(folder, *command, *words)
        stdout = done.records if "--json" in words else done.stdout
        found[name] = {"exit_code": done.exit_code, "stdout": stdout}
    talk = INTERACTIVE.replace("BEGIN", BEGIN[model]).encode()
    done = invoke(folder, *command, "--interactive", "-n", "20", "-t", "0.8", stdin=talk)
    return found | {"interactive": {"exit_code": done.exit_code, "stdout": done.stdout}}


def record_scores(folder: Path, model: str) -> dict[str, Any]:
    """What `score` writes for each list of options."""
    found: dict[str, Any] = {}
    for name, options in SCORES.items():
        words = ["score", model, "scored.txt", "--device", "cpu", "--precision", "float32", *options.split()]
        done = invoke(folder, *words)
        stdout = done.records if "--json" in options else done.rows
        found[name] = {"exit_code": done.exit_code, "stdout": stdout}
    return found


def record_facts(folder: Path) -> dict[str, Any]:
    """The JSON of `inspect` for all models, a run and a corpus, and that of `runs` but for times."""
    facts = invoke(folder, "inspect", *MODELS, "run/last.safetensors", "data/names.safetensors", "--json").records
    for name in ("sources", "bytes"):  # the path of the text is in the file
        facts[-1].pop(name)
    runs = {
        sort: [
            {key: value for key, value in record.items() if key != "modified"}
            for record in invoke(folder, "runs", "--sort", sort, "--json").records
        ]
        for sort in ("time", "loss")
    }
    return {"inspect": facts, "runs": runs}


def record_training(folder: Path, run: str) -> dict[str, Any]:
    """The names of what `train` reports and logs, and the options that it chose: no result of floating-point sums."""
    done = invoke(folder, "train", *shlex.split(TRAININGS[run]), *TRAINING.split())
    summary = done.records[-1]
    name = Path(summary["run"]).name
    log = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    definition = {key: value for key, value in summary["definition"].items() if key not in ("machine", "command")}
    corpus = definition["corpus"]
    corpus |= {"path": Path(corpus["path"]).name, "sources": [Path(source).name for source in corpus["sources"]]}
    return {
        "exit_code": done.exit_code,
        "summary": sorted(summary),
        "counts": {key: summary[key] for key in ("steps", "epochs", "chars", "val_chars", "seed", "reason")},
        "definition": {key: value for key, value in definition.items() if key != "versions"},
        "definition keys": {key: sorted(value) for key, value in summary["definition"].items() if type(value) is dict},
        "log": [sorted(record) for record in log],
        "files": sorted(path.name for path in (folder / name).iterdir()),
        "data": sorted(path.name for path in (folder / "data").iterdir()),
    }


def record_alone(run: str) -> dict[str, Any]:
    """The same in a folder of its own, so that trainings may be run in any order."""
    with tempfile.TemporaryDirectory() as name:
        lay_out(Path(name))
        return record_training(Path(name), run)


def main() -> None:
    """Record all golden files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder)
        corpora = {name: record_corpus(folder, *case) for name, case in CORPORA.items()}
        save("corpora", corpora | {name: record_folder(folder, options) for name, options in FOLDERS.items()})
        for precision in PRECISIONS:
            save(precision, {model: record_samples(folder, model, precision) for model in MODELS})
        save("scores", {model: record_scores(folder, model) for model in MODELS})
        save("facts", record_facts(folder))
    save("training", {run: record_alone(run) for run in TRAININGS})


def save(name: str, values: Mapping[str, dict[str, Any] | list[Any]]) -> None:
    """Write a golden file, with a line for each value of each value."""
    parts = []
    for key, value in values.items():
        pairs = [f"{json.dumps(each)}: {json.dumps(value[each])}" for each in value] if isinstance(value, dict) else ""
        lines = pairs or [json.dumps(each) for each in value]
        begin, end = "{}" if pairs else "[]"
        parts.append(f"{json.dumps(key)}: {begin}\n  " + ",\n  ".join(lines) + f"\n {end}")
    (HERE / f"{name}.json").write_text("{\n " + ",\n ".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
