import html
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.config import PreparationConfig, TrainingConfig
from charrnn.errors import CharRNNError
from charrnn.report.page import render, require_extra, write_report
from charrnn.report.subject import Subject, open_subject
from charrnn.runs.folder import RunFolder
from charrnn.runs.reporting import Records
from charrnn.runs.run import Run
from charrnn.runs.start import start
from charrnn.terminal import readable
from charrnn.text.corpus import prepare
from charrnn.text.sources import find_sources
from tests.report.conftest import HOSTILE, Open, Opened, assert_policy_holds, with_vocabulary
from tests.support import CPU, TINY, Command, marked_text

TEXT = (
    """The Cat said: "I sat on the mat, and you?"
"On a log," said the DOG, and he ran to the den.

A hen (the old one) had 12 eggs. "Good night!" said she.
"""
    * 80
)


@pytest.fixture(scope="session")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a log, its corpus where `data_dir` has it."""
    home = tmp_path_factory.mktemp("secret-home")
    (home / "farm.txt").write_text(TEXT)
    corpus = prepare(find_sources([str(home / "farm.txt")]), PreparationConfig(), home / "data" / "farm.safetensors")
    config = TrainingConfig(steps=200, batch_size=8, seq_length=16, learning_rate=1e-2, eval_every=50, val_fraction=0.3)
    run = start(RunFolder(home / "runs" / "farm"), corpus, replace(TINY, hidden_size=32), config, CPU, seed=7)
    run.open_log()
    run.drive([])
    return run


@pytest.fixture(scope="session")
def subject(reported_run: Run) -> Subject:
    return open_subject(reported_run.folder.path, reported_run.corpus.path.parent, Path("nowhere"))


@pytest.fixture(scope="session")
def page(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    assert write_report([subject], path) == path.stat().st_size < 500_000
    return path


def expected(opened: Opened) -> list[tuple[str, float]]:
    """The symbols and percentages of the panel."""
    lines = opened.page.locator("#expected div").all()
    return [(line.locator("span").first.inner_text(), float(line.inner_text().split()[-2])) for line in lines]


def hostile(subject: Subject) -> Subject:
    """A run of a stranger, who wrote markup wherever there is text."""
    checkpoint = with_vocabulary(subject.checkpoint, HOSTILE + "ab \u2066")
    checkpoint = replace(checkpoint, corpus=replace(checkpoint.corpus, path=f"C:\\Users\\secret\\{HOSTILE}"))
    ids = torch.randint(checkpoint.tokenizer.size, (1000,), generator=torch.Generator().manual_seed(1))
    records: Records = [{"step": 1, "chars": 10, "train_loss": 1.0}, {"step": 2, "text": HOSTILE + "\ud800"}]
    return Subject(HOSTILE, checkpoint, checkpoint.build_model(), records, ids, ids, has_text=True)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_opens_and_fits_the_screen(page: Path, open_page: Open, width: int, color_scheme: str) -> None:
    opened = open_page(page, viewport={"width": width, "height": 800}, color_scheme=color_scheme)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert opened.page.locator("figure svg").count() == 4
    stroke = "(path) => getComputedStyle(path).stroke"
    line = opened.page.locator('figure svg path[stroke="var(--series-0)"]').first.evaluate(stroke)
    assert line == {"light": "rgb(31, 95, 139)", "dark": "rgb(140, 196, 234)"}[color_scheme]
    assert not opened.complaints
    assert not opened.foreign_requests


def test_page_shows_all_parts(page: Path, open_page: Open, subject: Subject) -> None:
    opened = open_page(page).page
    text = opened.inner_text("body")
    for heading in ("Loss", "Learning rate", "Speed", "It learns to write", "Four temperatures", "Predicted worst"):
        assert heading in text
    assert "charrnn train farm.safetensors --hidden-size 32" in text.replace("\n", " ")
    assert [each.text_content() for each in opened.locator("nav a").all()][-1] == "Its alphabet"
    assert opened.locator(".neuron").count() >= 6
    assert opened.locator(".map text").count() == subject.tokenizer.size
    assert all(opened.locator(each["href"]).count() == 1 for each in links(opened))


def commands_of(subject: Subject, definition: dict[str, Any]) -> list[str]:
    page = render([replace(subject, records=[{"definition": definition}, *subject.records[1:]])])
    found = re.findall("<code>(.*?)</code>", page)
    return [html.unescape(re.sub("<.*?>", "", each)).strip() for each in found]


def test_command_is_that_of_the_log_with_a_short_home(subject: Subject) -> None:
    words = ["charrnn", "train", f"{Path.home()}/texts/a.txt", "--separator", r"\n", "--init-from", "/runs/b; ls"]
    [command] = commands_of(subject, {"command": words})
    assert command == r"charrnn train ~/texts/a.txt --separator '\n' --init-from '/runs/b; ls'"
    expanded = shlex.split(command.replace("~", str(Path.home())))
    assert expanded == words


def test_command_from_an_untrusted_log_is_short_text(subject: Subject) -> None:
    [command] = commands_of(subject, {"command": ["charrnn", "train", "\u202e<b>", 3, {"a": 1}, *["x" * 9000] * 900]})
    assert command.startswith("charrnn train '[U+202E]<b>' 3 ")
    assert len(command) < 110_000


@pytest.mark.parametrize("words", [["rm", "-rf", "~"], "charrnn train", None])
def test_command_of_a_log_that_is_none_is_replaced_by_the_options(subject: Subject, words: object) -> None:
    [command] = commands_of(subject, {"command": words, "init_from": {"corpus": "old; ls"}})
    assert command.startswith("charrnn train farm.safetensors --hidden-size 32 ")
    assert "--init-from 'old; ls'" in command


def links(page: Any) -> list[dict[str, str]]:
    found: list[dict[str, str]] = page.eval_on_selector_all("nav a", "all => all.map((a) => ({href: a.hash}))")
    return found


def test_hover_shows_the_five_likeliest(page: Path, open_page: Open, subject: Subject) -> None:
    opened = open_page(page)
    token = opened.page.locator(".sheet [data-i]").nth(200)
    token.hover()
    shown = expected(opened)
    rows = json.loads(opened.page.locator("#predictions").text_content())
    symbol, bits, likeliest, right = rows[int(token.get_attribute("data-i"))]
    assert shown == [(name, percent) for name, percent in likeliest]
    assert opened.page.locator("#expected .came").count() == (right >= 0)
    assert len(shown) == 5
    assert [percent for _, percent in shown] == sorted((percent for _, percent in shown), reverse=True)
    assert opened.page.inner_text("#expected p").startswith(f"{symbol} came: {bits:.1f} bits")
    opened.page.locator("h1").hover()
    assert opened.page.locator("#expected").is_hidden()
    opened.page.locator(".sheet").first.focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.mouse.wheel(0, 50)  # the page moves under a pointer that rests
    opened.page.wait_for_timeout(300)
    assert opened.page.locator("#expected").is_visible()
    opened.page.keyboard.press("Escape")
    assert opened.page.locator("#expected").is_hidden()


def test_tap_shows_the_five_likeliest(page: Path, open_page: Open) -> None:
    opened = open_page(page, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    opened.page.locator(".sheet [data-i]").nth(30).tap()
    assert len(expected(opened)) == 5
    box = opened.page.locator("#expected").bounding_box()
    assert box["x"] == 0
    assert round(box["width"]) == 390
    assert round(box["y"] + box["height"]) == 800
    opened.page.locator("h1").tap()
    assert opened.page.locator("#expected").is_hidden()


def test_page_contains_nothing_about_the_machine(page: Path, reported_run: Run) -> None:
    text = page.read_text()
    for private in ("secret-home", str(Path.home()), str(Path(__file__).parent), str(reported_run.corpus.path.parent)):
        assert private not in text
    assert set(re.findall(r"[a-z]+://[^\s\"<]*", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_hostile_text_is_text(subject: Subject, tmp_path: Path, open_page: Open) -> None:
    write_report([hostile(subject)], tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text()
    assert source.count("<script") == source.count("</script") == 2
    assert not re.search("[\u202e\u2028\u2066\x00\x1b]", source)
    assert "secret" not in source
    opened = open_page(tmp_path / "page.html")
    assert opened.page.inner_text("h1").startswith("</script><img src=x onerror=")
    assert "[U+202E]" in opened.page.inner_text("h1")
    assert "[U+D800]" in opened.page.inner_text(".card .text >> nth=0")
    for i in range(0, 300, 25):
        opened.page.locator(".sheet [data-i]").nth(i).hover()
        assert len(expected(opened)) == 5
    assert opened.page.locator("img").count() == 0
    assert not opened.complaints
    assert not opened.foreign_requests


def test_policy_stops_what_is_smuggled_in(page: Path, open_page: Open) -> None:
    opened = open_page(page)
    assert_policy_holds(opened)


def test_runs_are_overlaid(subject: Subject, tmp_path: Path, open_page: Open) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    bare = replace(subject, train=none, held_out=none)
    write_report([bare, replace(bare, name="other")], tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    losses = opened.page.locator("figure svg").first
    assert all(losses.locator(f'path[stroke="var(--series-{i})"]').count() for i in (0, 1))
    assert opened.page.locator("article h2").all_text_contents() == ["farm", "other"]
    assert not opened.complaints


@pytest.mark.parametrize("options", [{"unit": "word"}, {"unit": "byte"}, {"separator": "\n\n"}], ids=str)
def test_words_bytes_and_documents(options: dict[str, Any], tmp_path: Path, open_page: Open) -> None:
    (tmp_path / "farm.txt").write_text(TEXT.replace("Cat", "Kätzchen"))
    corpus = prepare(
        find_sources([str(tmp_path / "farm.txt")]), PreparationConfig(**options), tmp_path / "data" / "farm.safetensors"
    )
    config = TrainingConfig(steps=20, batch_size=8, seq_length=16, learning_rate=1e-2, val_fraction=0.3)
    run = start(RunFolder(tmp_path / "runs" / "farm"), corpus, TINY, config, CPU, seed=7)
    run.open_log()
    run.drive([])
    subject = open_subject(tmp_path / "runs" / "farm", tmp_path, tmp_path)
    write_report([subject], tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    passage = re.sub("[\u2060↵]", "", opened.page.locator(".sheet").first.text_content())
    assert passage in readable(corpus.tokenizer.unmark(marked_text(corpus)))
    assert "Kätzchen" in passage
    opened.page.locator(".sheet [data-i]").nth(50).hover()
    assert len(expected(opened)) == 5
    text = opened.page.inner_text("body")
    assert ("Its words" in text) == ("vowels" not in opened.page.inner_text(".key")) == (options.get("unit") == "word")
    assert f"began a new {'document' if 'separator' in options else 'line'}" in text
    name, value = next(iter(options.items()))
    assert f"--{name} {value}".replace("\n\n", r"'\n\n'") in opened.page.inner_text("header").replace("\n", " ")
    assert not opened.complaints


# As for a user id that the system does not know, which Python asks for a home in vain.
HOMELESS = "import pwd, runpy; pwd.getpwuid = {}.__getitem__; runpy.run_module('charrnn', run_name='__main__')"


def test_user_without_a_home_gets_a_report_and_no_word_of_caches(reported_run: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOMELESS, "report", str(reported_run.folder.path), "--data-dir", str(tmp_path)]
    hidden = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert done.stderr.startswith("report.html: ")


def test_page_without_a_text_or_a_log(subject: Subject) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    bare = render([replace(subject, records=[], train=none, held_out=none, has_text=False)])
    assert "The text of this model is not at hand" in bare
    assert "no log of the training" in bare
    assert "Its alphabet" in bare
    short = render([replace(subject, held_out=none)])
    assert "No text was held out" in short
    assert "Longest copies" in short


def test_command_writes_a_page(reported_run: Run, tmp_path: Path, charrnn: Command) -> None:
    done = charrnn("report", reported_run.folder.path, "-o", "page.html", "--data-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": "page.html", "bytes": (tmp_path / "page.html").stat().st_size}
    assert "Predicted worst" in (tmp_path / "page.html").read_text()  # the corpus lies beside the runs


def test_corpus_can_be_named(reported_run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("the hen sat. " * 50 + "€")
    found = open_subject(reported_run.folder.best, tmp_path, tmp_path, str(tmp_path / "other.txt"))
    assert found.name == "farm"
    assert len(found.train) + len(found.held_out) == 13 * 50
    (tmp_path / "foreign.txt").write_text("€€€")
    with pytest.raises(CharRNNError, match="fewer than 2 symbols of the model's vocabulary"):
        open_subject(reported_run.folder.best, tmp_path, tmp_path, str(tmp_path / "foreign.txt"))


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CharRNNError, match=r"pip install 'charrnn\[report\]'"):
        require_extra()
