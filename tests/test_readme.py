"""What the README promises."""

import re
from pathlib import Path

from tests.option_tables import README, with_current_tables

TEXT = README.read_text(encoding="utf-8")
ROOT = README.parent


def test_option_tables_are_current() -> None:
    assert with_current_tables(TEXT) == TEXT, "run: python -m tests.option_tables"
    commands = set(re.findall(r"<!-- options: (\w+) -->", TEXT))
    assert commands == set("prepare train sample score runs inspect report export bench".split())


def test_ci_takes_the_test_command_from_here() -> None:
    commands = re.findall(r"<!-- command -->\n```bash\n(.*?)\n```", TEXT)
    assert len(commands) == 2
    assert commands[1].endswith("&& .venv/bin/python -m pytest")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "readme 2" in ci
    assert "pytest" not in ci


def test_file_map_names_every_module() -> None:
    names = re.findall(r"^ *(\w+\.py) ", TEXT, re.MULTILINE)
    modules = [path.name for path in (ROOT / "charrnn").rglob("*.py") if path.parent.name != "cli"]
    assert sorted(names) == sorted(name for name in modules if not name.startswith("__"))


def test_sample_corpus_is_large_plain_and_free_of_repeats() -> None:
    tales = (ROOT / "data" / "tales.txt").read_text(encoding="utf-8")
    assert len(tales) >= 100_000
    assert tales.isascii()
    paragraphs = [p for p in Path(ROOT / "data" / "tales.txt").read_text().split("\n\n") if len(p) > 100]
    assert len(set(paragraphs)) == len(paragraphs)
