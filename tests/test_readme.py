"""The README, and facts that are in several files."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from charrnn.version import __version__
from docs.cli import PAGE, with_commands

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = "prepare train sample score runs inspect report export".split()


def test_readme_is_short_and_names_every_command() -> None:
    assert len(TEXT.encode()) <= 9000, "move it to a page of docs/"
    assert re.findall(r"^\| \[`(\w+)`\]", TEXT, re.MULTILINE) == COMMANDS


def test_reference_of_the_command_line_is_current() -> None:
    reference = PAGE.read_text(encoding="utf-8")
    assert with_commands(reference) == reference, "run: python -m docs.cli"
    assert re.findall(r"^## (\w+)$", reference, re.MULTILINE)[1:] == COMMANDS


def test_ci_takes_the_test_command_from_here() -> None:
    commands = re.findall(r"<!-- command -->\n```bash\n(.*?)\n```", TEXT)
    assert len(commands) == 2
    assert commands[1].endswith("&& .venv/bin/python -m pytest -n 2")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "readme 2" in ci
    assert "pytest" not in ci


def test_file_map_names_every_module() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = re.findall(r"^ *(\w+\.py) ", contributing, re.MULTILINE)
    modules = [path.name for path in (ROOT / "charrnn").rglob("*.py") if path.parent.name != "cli"]
    assert sorted(names) == sorted(name for name in modules if not name.startswith("__"))


def test_citation_names_this_version_and_the_holders_of_the_licence() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    [holders] = re.findall(r"Copyright \(c\) \d+ (.+)", (ROOT / "LICENSE").read_text())
    assert f"\n  - name: {holders}\n" in citation
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["authors"] == [{"name": holders}]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_loop_over_shapes_and_seeds_trains_each_once(tmp_path: Path) -> None:
    """The loop of a guide, with a program that only notes how it was called."""
    guide = (ROOT / "docs" / "guides" / "compare-runs.md").read_text(encoding="utf-8")
    [loop] = re.findall(r"```bash\n(charrnn prepare.*?)```", guide, re.DOTALL)
    program = tmp_path / "charrnn"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    subprocess.run(["bash", "-euc", loop], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    first, *trained, last = (tmp_path / "calls").read_text().splitlines()
    assert (first, last) == ("prepare fairy-tales.txt --ascii", "runs --sort loss")
    assert len({re.search(r"--run (\S+)", call)[1] for call in trained}) == 12  # type: ignore[index]
    devices = [re.search(r"cuda:(\d)", call)[1] for call in trained]  # type: ignore[index]
    assert [sorted(devices[i : i + 4]) for i in (0, 4, 8)] == [["0", "1", "2", "3"]] * 3, "four at a time"


def test_sample_corpus_is_large_plain_and_free_of_repeats() -> None:
    tales = (ROOT / "data" / "tales.txt").read_text(encoding="utf-8")
    assert len(tales) >= 100_000
    assert tales.isascii()
    paragraphs = [p for p in Path(ROOT / "data" / "tales.txt").read_text().split("\n\n") if len(p) > 100]
    assert len(set(paragraphs)) == len(paragraphs)
