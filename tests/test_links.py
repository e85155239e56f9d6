"""Links of all Markdown pages: files and headings exist, and no path of a machine is on a page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")])
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_MACHINE = re.compile(r"(?<![\w.~])/(?:tmp|home|root|work|Users|mnt)/|[A-Z]:\\Users")
_INDEX = ROOT / "docs" / "README.md"


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page.

    A heading in lower case without markup and punctuation, with hyphens for spaces, and a number if it is repeated.
    """
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.+?) *$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        repeated = [f"{anchor}-{number}" for number in range(1, 100)]
        anchors.add(next(each for each in [anchor, *repeated] if each not in anchors))
    return anchors


def links_of(page: Path) -> list[str]:
    """The link targets within the repository; code has none."""
    text = re.sub(r"`[^`\n]+`", "code", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in _LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def test_headings_have_the_anchors_that_github_gives_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# `train`: a run\n## A [link](x.md), **bold**\n```\n# code\n```\n### Again\n### Again\n## snake_case?\n"
    )
    assert anchors_of(page) == {"train-a-run", "a-link-bold", "again", "again-1", "snake_case"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in links_of(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        found = path.is_relative_to(ROOT) and path.exists()
        if not found or (anchor and (path.suffix != ".md" or anchor not in anchors_of(path))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_shows_no_path_of_a_machine(page: Path) -> None:
    assert _MACHINE.findall(page.read_text(encoding="utf-8")) == []


def test_index_leads_to_every_page_of_the_documentation() -> None:
    linked = {(_INDEX.parent / target.partition("#")[0]).resolve() for target in links_of(_INDEX)}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path != _INDEX}
    assert pages <= linked, pages - linked
