"""Commands that a page shows with their output: each console block after the mark `<!-- run -->` is run.

The blocks of a page are one session in an empty folder. stderr is shown with stdout, as on a terminal. A number with a
decimal point, a time, a speed or a size in bytes may differ from machine to machine; a line `...` is any lines.
"""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import TEXT, Forked, prepared

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- run -->\n```console\n(.*?)```", re.DOTALL)
PAGES = {
    path: _BLOCK.findall(path.read_text(encoding="utf-8"))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "<!-- run -->" in path.read_text(encoding="utf-8")
}


class Shell:
    """A folder in which commands run: charrnn in forked processes, which start quickly, all else in bash."""

    def __init__(self, folder: Path, forked: Callable[..., Forked]) -> None:
        self._folder, self._forked, self._status = folder, forked, 0

    def run(self, command: str) -> str:
        """What a command prints."""
        first, pipe, rest = command.partition(" | ")
        if not first.startswith("charrnn "):
            return self._bash(command)
        output = self._folder / ".output"
        output.unlink(missing_ok=True)
        streams = {} if pipe else {"stdout": output, "stderr": output}
        environment = {"CHARRNN_DEVICE": "cpu"}  # a GPU has other defaults
        done = self._forked(*shlex.split(first)[1:], environment=environment, **streams).wait()
        self._status = done.returncode
        return done.stderr + self._bash(rest, done.stdout) if pipe else output.read_text()

    def _bash(self, command: str, input: str | None = None) -> str:
        script = f"(exit {self._status}); {command}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._folder, input=input, capture_output=True, text=True, timeout=60
        )
        self._status = done.returncode
        return done.stdout + done.stderr


def normalised(line: str) -> str:
    """A line without the numbers that depend on the machine, and with single spaces."""
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "TIME", line)
    line = re.sub(r"[\d,.]+ (KB|MB|GB|characters/s)\b", r"SIZE \1", line)
    line = re.sub(r"\b\d+\.\d+(e-?\d+)?\b", "X", line)
    return " ".join(line.split())


def agrees(shown: list[str], printed: list[str]) -> bool:
    """True if the lines are equal once they are normalised; `...` is any number of lines."""
    parts = [r"(?:.*\n)*?" if line.strip() == "..." else re.escape(normalised(line)) + "\n" for line in shown]
    return re.fullmatch("".join(parts), "".join(f"{normalised(line)}\n" for line in printed)) is not None


def test_lines_agree_up_to_numbers_of_the_machine() -> None:
    assert agrees(["loss 1.25, 3 steps", "...", "end"], ["loss 1.31, 3 steps", "x", "y", "end"])
    assert not agrees(["loss 1.25, 3 steps"], ["loss 1.25, 4 steps"])
    assert not agrees(["loss 1.25"], ["loss 1.25", "more"])


def test_there_are_examples() -> None:
    assert sum(map(len, PAGES.values())) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_print_what_the_page_shows(page: Path, tmp_path: Path, forked: Callable[..., Forked]) -> None:
    shell = Shell(tmp_path, forked)
    for block in PAGES[page]:
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            printed = shell.run(command)
            assert agrees(shown.splitlines(), printed.splitlines()), f"$ {command}\n{printed}"


def test_corpus_is_read_without_charrnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "reference" / "files-and-metrics.md").read_text(encoding="utf-8")
    [(code, printed)] = re.findall(r"```python\n(.*?)```\n\nprints `(.*?)`", page, re.DOTALL)
    (tmp_path / "data").mkdir()
    prepared(TEXT, tmp_path / "data" / "pets.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == f"{printed}\n"
