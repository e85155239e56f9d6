"""The architecture: imports run downward only, and some modules are never imported."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "charrnn"
LAYERS = [
    ["errors"],
    ["config", "files"],
    ["lock", "text", "vocabulary", "storage", "batches", "runtime", "events", "defaults", "noise"],
    ["corpus", "model", "novelty"],
    ["evaluation", "checkpoint", "stepper"],
    ["training"],
    ["sampling", "reporting", "saving"],
    ["run", "benchmark", "api"],
    ["__init__"],
    ["cli.__init__", "cli.options", "cli.signals"],
    ["cli.prepare", "cli.train", "cli.sample", "cli.bench"],
    ["cli.app"],
    ["__main__"],
]
"""From the bottom up; a module imports from the layers below its own."""

MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_names(path: Path) -> set[str]:
    """Dotted names of everything a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_its_layer() -> None:
    assert sorted(MODULES) == sorted(name for layer in LAYERS for name in layer)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downward(name: str) -> None:
    own = next(i for i, layer in enumerate(LAYERS) if name in layer)
    below = {module for layer in LAYERS[:own] for module in layer}
    for imported in imported_names(MODULES[name]):
        parts = imported.split(".")
        if parts[0] != "charrnn":
            continue
        # The longest prefix that is a module: "charrnn.cli.train.train" is cli.train, "charrnn" the package.
        module = next(
            (".".join(parts[1:n]) for n in range(len(parts), 1, -1) if ".".join(parts[1:n]) in MODULES),
            "__init__",
        )
        assert module in below or module == "__init__", f"{name} imports {imported}"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_pickle_or_click(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imported_names(MODULES[name])}
    assert not roots & {"pickle", "cloudpickle", "dill", "shelve", "marshal", "click"}
    assert "torch.load" not in MODULES[name].read_text()


def test_help_imports_no_torch() -> None:
    for arguments in (["--help"], ["train", "--help"]):
        command = [sys.executable, "-X", "importtime", "-m", "charrnn", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "charrnn.cli.app" in done.stderr
        assert not re.search(r"\| +torch\b", done.stderr)
