"""What the pages under `docs/` promise."""

import ast
import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.model.network import CharRNN, carry, detach
from charrnn.training.bptt import TruncatedBPTT
from charrnn.training.optimizer import make_optimizers
from charrnn.training.streams import Cursor, TrainingText, advance, chunk_at, draw_offset
from docs import pictures
from tests.support import CPU

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "concepts" / "how-it-works.md"
TEXT = PAGE.read_text(encoding="utf-8")
NOTEBOOK_FILE = ROOT / "docs" / "charrnn.ipynb"
NOTEBOOK = json.loads(NOTEBOOK_FILE.read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"!?\[([^]]*)\]\(([^)#]+)[^)]*\)")


def defined_names(path: Path) -> set[str]:
    """The functions, classes and methods ("Class.method") of a file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("name", "target"), LINK.findall(TEXT))
def test_page_names_what_exists(name: str, target: str) -> None:
    path = (PAGE.parent / target).resolve()
    assert path.is_file()
    assert path.is_relative_to(ROOT)
    if name.startswith("`"):
        module = ".".join(path.relative_to(ROOT / "charrnn").with_suffix("").parts)
        assert name.strip("`") in {f"{module}.{defined}" for defined in defined_names(path)}


def test_page_names_code_only_with_its_file() -> None:
    outside = re.sub(r"```.*?```", "", LINK.sub("", TEXT), flags=re.DOTALL)
    assert all(code.startswith(("--", "charrnn ", "training.bptt")) for code in re.findall(r"`([^`]+)`", outside))


def test_step_on_the_page_is_the_step_that_is_taken() -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    config = TrainingConfig(batch_size=4, seq_length=8, learning_rate=1e-2, steps=20, optimizer="adamw")
    text = TrainingText.split(torch.arange(300) % 7, config)
    torch.manual_seed(1)
    model = CharRNN(ModelConfig(vocab_size=7, hidden_size=16, embedding_size=8))
    other = copy.deepcopy(model)
    bptt = TruncatedBPTT(other, config, text, CPU)
    generator = torch.Generator().manual_seed(torch.initial_seed())
    optimizer = make_optimizers(model, config, CPU)["optimizer"]
    for group in optimizer.param_groups:
        group["lr"].fill_(1e-2)
    names: dict[str, Any] = {each.__name__: each for each in (chunk_at, advance, carry, detach)}
    names |= {"F": F, "nn": nn, "model": model, "optimizer": optimizer, "generator": generator}
    names |= {"text": text.train, "layout": text.layout, "cursor": Cursor(0, 0, draw_offset(text.layout, generator))}
    names["state"] = model.initial_state(4)
    for _ in range(text.layout.num_chunks - 1):
        bptt.step(1e-2)
        names["keep"] = torch.rand(4, generator=generator) >= 0.05
        exec(code, names)
    torch.testing.assert_close(model.state_dict(), other.state_dict())
    torch.testing.assert_close(names["loss"].detach(), bptt.loss)


def test_pictures_and_page_are_current() -> None:
    number = re.compile(r"-?\d+(?:\.\d+)?")
    drawn = pictures.draw()
    assert drawn.pop("tales.html") == pictures.PAGE.read_text(encoding="utf-8"), "run python -m docs.pictures"
    assert sorted(drawn) == sorted(path.name for path in (ROOT / "docs").glob("*.svg"))
    for name, svg in drawn.items():
        stored = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert number.sub("0", svg) == number.sub("0", stored), f"{name}: run python -m docs.pictures"
        numbers, others = ([float(each) for each in number.findall(text)] for text in (svg, stored))
        assert numbers == pytest.approx(others, abs=0.2), f"{name}: run python -m docs.pictures"


def test_pictures_are_shown_and_described() -> None:
    shown = re.findall(r"!\[([^]]*)\]\((?:docs/|\.\./)?(\w+\.svg)\)", README + TEXT)
    assert sorted(name for _, name in shown) == sorted(path.name for path in (ROOT / "docs").glob("*.svg"))
    assert all(len(description) > 50 for description, _ in shown)


def test_source_distribution_has_what_the_readme_links_to() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["sdist"][
        "include"
    ]
    for _, target in LINK.findall(README):
        if "://" not in target:
            assert (ROOT / target).is_file()
            assert any(f"/{target}".startswith(each) for each in included), f"{target} is not in the sdist"


def test_notebook_was_executed_in_order_without_errors() -> None:
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run python -m docs.notebook"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    for cell in cells:
        is_shown = re.search(r"\bprint\(|;$|\Amodel = |^\w+$", "".join(cell["source"]).splitlines()[-1])
        assert bool(cell["outputs"]) == bool(is_shown), "".join(cell["source"])


def test_notebook_is_small_and_names_no_path_of_a_machine() -> None:
    text = NOTEBOOK_FILE.read_text(encoding="utf-8")
    assert len(text) < 400_000
    outputs = json.dumps([cell.get("outputs") for cell in NOTEBOOK["cells"]])
    assert not re.search(r"/(?:tmp|home|root|work|usr|Users|content|site-packages)/|[A-Z]:\\\\", outputs)
    assert all(len("".join(cell["source"]).splitlines()) <= 18 for cell in NOTEBOOK["cells"])


def test_notebook_links_to_what_exists() -> None:
    text = "\n".join("".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown")
    links = [target for _, target in LINK.findall(text) if "://" not in target]
    assert len(links) > 3
    assert all((NOTEBOOK_FILE.parent / target).is_file() for target in links)
