"""The architecture: who may import whom, and what is never imported."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "charrnn"
BASE = {"config", "errors", "terminal", "version"}
MACHINE = {"machine", "files", *BASE}
ALLOWED = {
    **dict.fromkeys(BASE, BASE),
    "machine": {"machine", *BASE},
    "files": {"files", *BASE},
    "text": {"text", *MACHINE},
    "model": {"model", *MACHINE},
    "training": {"training", "model", "machine", *BASE},
    "sampling": {"sampling", "model", "text", *MACHINE},
    "runs": {"runs", "training", "sampling", "model", "text", *MACHINE},
    "report": {"report", "runs", "training", "sampling", "model", "text", *MACHINE},
    "keywords": BASE,
    "api": {"keywords", "runs", "sampling", "model", "text", *MACHINE},
    "learning": {"api", "keywords", "runs", "text", *MACHINE},
    "__init__": {"api", "learning", *BASE},
    "cli": {"cli", "api", "report", "runs", "training", "sampling", "model", "text", *MACHINE},
    "__main__": {"cli"},
}
"""The folders, and the files beside them, that each may import from."""

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


def imported_modules(name: str) -> set[str]:
    """Modules of the package that one of them imports; the longest prefix that is one, else the package itself."""
    found = set()
    for imported in imported_names(MODULES[name]):
        root, *parts = imported.split(".")
        if root == "charrnn":
            prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            found.add(next((prefix for prefix in prefixes if prefix in MODULES), "__init__"))
    return found


def test_every_folder_is_in_the_plan() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_plan(name: str) -> None:
    allowed = ALLOWED[name.split(".")[0]]
    for module in imported_modules(name):
        assert module.split(".")[0] in allowed, f"{name} imports {module}"


def test_no_import_leads_back() -> None:
    imports = {name: imported_modules(name) for name in MODULES}
    while leaves := {name for name, others in imports.items() if not others & imports.keys()}:
        imports = {name: others for name, others in imports.items() if name not in leaves}
    assert not imports, f"a circle among {sorted(imports)}"


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_pickle_or_click(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imported_names(MODULES[name])}
    assert not roots & {"pickle", "cloudpickle", "dill", "shelve", "marshal", "click"}
    assert "torch.load" not in MODULES[name].read_text()


def test_tests_mirror_the_folders() -> None:
    tests = Path(__file__).parent
    for path in tests.glob("*/test_*.py"):
        assert path.parent.name == "golden" or (PACKAGE / path.parent.name).is_dir(), path


def test_help_imports_no_torch() -> None:
    for arguments in (["--help"], ["train", "--help"]):
        command = [sys.executable, "-X", "importtime", "-m", "charrnn", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "charrnn.cli.app" in done.stderr
        assert not re.search(r"\| +torch\b", done.stderr)
