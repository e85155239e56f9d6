import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.api import LanguageModel
from charrnn.config import Cell, NormalForm
from charrnn.errors import CharRNNError, OutputExistsError
from charrnn.model.network import CharRNN
from charrnn.model.quantisation import quantise_rows
from charrnn.model.scoring import evaluate
from charrnn.report.export import export, render
from charrnn.runs.run import Run
from charrnn.terminal import readable
from charrnn.text.corpus import Corpus
from charrnn.text.tokenizers import CharTokenizer, Tokenizer
from charrnn.text.words import split_words
from tests.report.conftest import (
    HOSTILE,
    TALE,
    Open,
    Opened,
    assert_policy_holds,
    of_tale,
    rounded,
    trained,
    with_vocabulary,
)
from tests.support import CPU, Command, with_weights

READ_LOGITS = """(ids) => {
    const model = new CharRNN(JSON.parse(document.getElementById("model").textContent).model);
    const state = model.initial_state();
    return ids.map((index) => Array.from(model.step(index, state)));
}"""
WORDLIKE = st.text("ab'- .\n\t9_é\u0301漢ก\u200dÀ\ufffd\U0001f600\ufeff\x1c²ⅷ\u2019")


def write(opened: Opened, prompt: str, *, temperature: float, length: int, button: str = "write") -> str:
    """Let the page write; returns its continuation of the prompt."""
    page = opened.page
    page.fill("#prompt", prompt)
    page.fill("#temperature", str(temperature))
    page.fill("#length", str(length))
    page.click(f"#{button}:enabled")
    page.locator("#go_on:enabled").wait_for()
    return "".join(page.locator("#text span").all_text_contents())


def likeliest(model: CharRNN, tokenizer: Tokenizer, prompt: str, length: int) -> str:
    written = []
    with torch.no_grad():
        logits, state = model(tokenizer.encode(prompt).long()[:, None])
        for _ in range(length):
            written.append(int(logits[-1, 0].argmax()))
            logits, state = model(torch.tensor([[written[-1]]]), state)
    return tokenizer.decode(written)


def test_rows_are_rounded_to_half_a_step() -> None:
    weight = torch.tensor([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0], [1e15, -1e15, 1.0]])
    integers, scales = quantise_rows(weight)
    assert integers.tolist() == [[127, -50, 0], [0, 0, 0], [127, -127, 0]]
    assert torch.all((integers * scales[:, None] - weight).abs() <= scales[:, None] / 2)


def test_rounding_costs_little(trained_run: Run) -> None:
    model, text = trained_run.trainer.bptt.model, trained_run.corpus.ids[-600:]
    exact, coarse = evaluate(model, text, CPU).loss, evaluate(rounded(model), text, CPU).loss
    assert 0 < abs(coarse - exact) < 0.005


def test_page_contains_nothing_about_the_machine(trained_run: Run) -> None:
    page = render(trained_run.checkpoint())
    data = json.loads(re.findall(r'<script type="application/json" id="model">(.*)</script>', page)[0])
    assert data.keys() == {"title", "description", "vocabulary", "model"}
    assert set(data["vocabulary"]) == set(
        "unit size symbols unknown eos eos_text separator start excluded normalize lowercase".split()
    )
    for private in (trained_run.checkpoint().corpus.path, str(Path.home()), str(Path(__file__).parent)):
        assert private not in page
    assert "://" not in page


def test_page_holds_hostile_text_as_data(trained_run: Run) -> None:
    page = render(with_vocabulary(trained_run.checkpoint(), HOSTILE), title=HOSTILE)
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page


def test_export_replaces_only_its_own_pages(trained_run: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for text in ("my text", "<!DOCTYPE html>", "x" * 2000 + '<meta name="generator" content="charrnn">'):
        path.write_text(text)
        with pytest.raises(OutputExistsError, match="--overwrite"):
            export(trained_run.checkpoint(), path)
        assert path.read_text() == text
    assert export(trained_run.checkpoint(), path, overwrite=True) == path.stat().st_size > 1000
    assert export(trained_run.checkpoint(), path, title="new") == path.stat().st_size
    assert '"title": "new"' in path.read_text()
    with pytest.raises(CharRNNError, match="is a folder"):
        export(trained_run.checkpoint(), tmp_path)


@pytest.mark.parametrize("command", ["export", "report"])
def test_page_replaces_a_file_only_with_overwrite(
    trained_run: Run, tmp_path: Path, charrnn: Command, command: str
) -> None:
    words = [command, trained_run.folder.path]
    (tmp_path / "text.txt").write_text("my text")
    refused = charrnn(*words, "-o", "text.txt")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: text.txt exists: name another file, or replace it with --overwrite\n"
    assert (tmp_path / "text.txt").read_text() == "my text"
    assert charrnn(*words, "-o", "text.txt", "--overwrite").returncode == 0
    assert charrnn(*words, "-o", "text.txt").returncode == 0, "it is a page now"
    printed = charrnn(*words, "-o", "-")
    assert printed.stdout == (tmp_path / "text.txt").read_text()
    assert printed.stderr == ""
    assert not (tmp_path / "-").exists()
    assert charrnn(*words, "-o", "-", "--json").stdout == printed.stdout, "the page alone"


def test_command_writes_a_page(trained_run: Run, tmp_path: Path, charrnn: Command) -> None:
    done = charrnn("export", trained_run.folder.path, "-o", "page.html", "--title", "Cats & hens", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"page": "page.html", "bytes": (tmp_path / "page.html").stat().st_size}
    assert "Cats & hens" in (tmp_path / "page.html").read_text()
    missing = charrnn("export", "nowhere", "-o", "page.html")
    assert missing.returncode == 1
    assert "no trained model is called nowhere" in missing.stderr


@pytest.mark.parametrize("embedding_size", [8, None])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_page_computes_as_pytorch_does(
    corpus: Corpus, tmp_path: Path, open_page: Open, cell: Cell, num_layers: int, embedding_size: int | None
) -> None:
    checkpoint = trained(
        corpus, tmp_path / "run", cell=cell, num_layers=num_layers, embedding_size=embedding_size, hidden_size=30
    )
    export(checkpoint, tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    model, tokenizer, text = rounded(checkpoint.build_model()), checkpoint.tokenizer, "the hen sat on a log.\nthe"
    with torch.no_grad():
        expected, _ = model(tokenizer.encode(text).long()[:, None])
    logits = torch.tensor(opened.page.evaluate(READ_LOGITS, tokenizer.encode(text).tolist()))
    torch.testing.assert_close(logits, expected[:, 0], atol=1e-3, rtol=0)
    assert write(opened, "the ", temperature=0, length=500) == likeliest(model, tokenizer, "the ", 500)
    assert not opened.complaints
    assert not opened.foreign_requests


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        ({"unit": "word"}, ["", "the kn", "the king'", "a well-", "the", "nothing.\n"]),
        ({"unit": "word", "max_vocab": 9, "separator": "\n\n"}, ["the zebra", "the  zebra ki", "'ti"]),
        ({"unit": "word", "separator": "\n\n"}, ["", "the kn", "nothing.\n\n", "nothing.\n\nth"]),
        ({"unit": "byte"}, ["", "the kn", "né", "漢"]),
        ({"unit": "byte", "separator": "é"}, ["", "the kn", "né", "néa"]),
        ({"documents": True, "normalize": "nfkc"}, ["", "the ﬁ", "ne\u0301"]),
    ],
)
def test_page_writes_as_the_command_does(
    tmp_path: Path, open_page: Open, options: dict[str, Any], prompts: list[str]
) -> None:
    checkpoint = of_tale(tmp_path, **options)
    export(checkpoint, tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    checkpoint = with_weights(checkpoint, rounded(checkpoint.build_model()).state_dict())
    model = LanguageModel(checkpoint, tmp_path, CPU)
    ids = checkpoint.tokenizer.encode(model.normalise(TALE[: len(TALE) // 20]))
    with torch.no_grad():
        expected, _ = model.module(ids.long()[:, None])
    logits = torch.tensor(opened.page.evaluate(READ_LOGITS, ids.tolist()))
    torch.testing.assert_close(logits, expected[:, 0], atol=1e-3, rtol=0)
    for prompt in prompts:
        for temperature in (0, 0.8):
            sampled = model.sample(prompt, temperature=temperature, length=300, seed=1)
            whole = sampled.removesuffix("\ufffd")  # of a character cut in two
            assert write(opened, prompt, temperature=temperature, length=300) == whole, prompt
        tokenizer = checkpoint.tokenizer
        echo = readable(tokenizer.unmark(tokenizer.mark(model.normalise(prompt))))
        assert opened.page.locator("#text b").text_content() == echo
    assert not opened.complaints


def test_page_splits_words_as_the_corpus_was(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html").page

    @given(st.text(st.characters(exclude_categories=["Cn", "Cs"])) | WORDLIKE)  # Chromium knows newer characters
    def splits_alike(text: str) -> None:
        assert page.evaluate("(text) => SPLIT.word(text)", text) == split_words(text)

    splits_alike()
    every = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) not in ("Cn", "Co", "Cs")]
    text = "".join(f"a{char} {char}b'{char}1" for char in every)
    assert page.evaluate("(text) => SPLIT.word(text).join('|')", text) == "|".join(split_words(text))


def test_unknown_words_are_reported_and_never_generated(tmp_path: Path, open_page: Open) -> None:
    for max_vocab, begun, note in (
        (9, "the zebra ki", "Read as rare words, unknown to the model: zebra"),
        (None, "the ki", "Left out, unknown to the model: zebra"),
    ):
        checkpoint = of_tale(tmp_path / str(max_vocab), unit="word", max_vocab=max_vocab)
        export(checkpoint, tmp_path / "page.html")
        opened = open_page(tmp_path / "page.html")
        written = write(opened, "the zebra ki", temperature=3, length=400)
        assert opened.page.locator("#notes").text_content() == note
        assert opened.page.locator("#text b").text_content() == begun
        words = "|".join(map(re.escape, checkpoint.tokenizer.symbols))
        assert re.fullmatch(f"(?:{words}){{400}}", f" ki{written}")
        assert "400 words," in opened.page.locator("#status").text_content()
        assert not opened.complaints


def test_bytes_become_characters_as_they_come(tmp_path: Path, open_page: Open) -> None:
    text = "né à côté, été\n" * 100
    export(of_tale(tmp_path, text, unit="byte"), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    whole = write(opened, "né", temperature=1, length=600)
    assert "é" in whole
    assert set(whole) - {"\ufffd"} <= set(text)  # no byte that the corpus lacks
    for length in range(300, 304):  # one of them ends within a character
        half = write(opened, "né", temperature=1, length=length)
        assert whole.startswith(half)
        assert write(opened, "né", temperature=1, length=600 - length, button="go_on") == whole


def test_seed_determines_the_text_and_go_on_continues_it(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    whole = write(opened, "a hen", temperature=1.5, length=200)
    assert len(whole) == 200
    half = write(opened, "a hen", temperature=1.5, length=100)
    assert half == whole[:100]
    assert write(opened, "a hen", temperature=1.5, length=100, button="go_on") == whole
    opened.page.fill("#seed", "2")
    assert write(opened, "a hen", temperature=1.5, length=200) != whole
    assert opened.page.locator("#text b").text_content() == "a hen"


def test_writing_can_be_stopped(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html")
    page = open_page(tmp_path / "page.html").page
    page.evaluate('() => document.getElementById("length").removeAttribute("max")')
    page.fill("#length", "1000000000")
    page.click("#write:enabled")
    page.locator("#text span").first.wait_for()
    page.click("#stop")
    page.locator("#go_on:enabled").wait_for()
    stopped = page.locator("#text").text_content()
    page.wait_for_timeout(200)
    assert page.locator("#text").text_content() == stopped


def test_symbols_are_coloured_by_surprisal(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    write(opened, "", temperature=2, length=300)
    background = "(element) => getComputedStyle(element).backgroundColor"
    surprising = opened.page.locator('#text [data-bits="5"]').first
    assert surprising.evaluate(background) == "rgba(0, 0, 0, 0)"
    opened.page.check("#colours")
    assert surprising.evaluate(background) != "rgba(0, 0, 0, 0)"


def test_hostile_symbols_run_nothing(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    export(with_vocabulary(trained_run.checkpoint(), HOSTILE), tmp_path / "page.html", title=HOSTILE)
    opened = open_page(tmp_path / "page.html")
    prompt = HOSTILE.replace("\x00", "")  # which no keyboard types
    written = write(opened, prompt + "€<", temperature=3, length=2000)
    page = opened.page
    assert len(re.sub(r"\[U\+[0-9A-F]{4}\]", "x", written)) == 2000
    assert {"<", "[U+202E]", "[U+0000]", "[U+001B]"} <= set(re.findall(r"\[U\+....\]|<", written))
    assert page.locator("#text b").text_content().startswith("</script><img src=x onerror=")
    assert page.locator("#notes").text_content() == "Left out, unknown to the model: €"
    assert page.locator("#title").text_content().startswith("</script><img src=x")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert not opened.complaints
    assert not opened.foreign_requests


def test_hostile_words_run_nothing(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    words = [
        "<img src=x onerror=alert(1)>",
        "</script><script>alert(1)</script>",
        " \u202e",
        "__proto__",
        "$&",
        "\u2028",
    ]
    export(with_vocabulary(trained_run.checkpoint(), words, "word"), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    written = write(opened, "__proto__ constructor <img src=x onerror=alert(1)> $", temperature=3, length=500)
    assert all(word.replace("\u202e", "[U+202E]").replace("\u2028", "[U+2028]") in written for word in words)
    left_out = "Left out, unknown to the model: __ proto constructor < img src = x onerror ( alert 1 ) > $"
    assert set(opened.page.locator("#notes").text_content().split()) <= set(left_out.split())
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("script").count() == 2
    assert not opened.complaints
    assert not opened.foreign_requests


def test_unknown_symbol_is_never_generated(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    checkpoint = with_vocabulary(trained_run.checkpoint(), "abc")
    tokenizer = CharTokenizer(checkpoint.tokenizer.symbols[:2], checkpoint.tokenizer.counts)
    export(replace(checkpoint, tokenizer=tokenizer), tmp_path / "page.html")
    assert set(write(open_page(tmp_path / "page.html"), "a", temperature=3, length=300)) == {"a", "b"}


def test_prompt_is_folded_as_the_corpus_was(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    checkpoint = trained_run.checkpoint()
    config = replace(checkpoint.corpus.config, lowercase=True)
    export(replace(checkpoint, corpus=replace(checkpoint.corpus, config=config)), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    write(opened, "The CAT", temperature=1, length=1)
    assert opened.page.locator("#text b").text_content() == "the cat"


@pytest.mark.parametrize(("form", "folded"), [("nfc", "né ﬁ"), ("nfkc", "né fi"), ("none", "ne\u0301 ﬁ")])
def test_prompt_is_brought_to_the_normal_form_of_the_corpus(
    trained_run: Run, tmp_path: Path, open_page: Open, form: NormalForm, folded: str
) -> None:
    checkpoint = with_vocabulary(trained_run.checkpoint(), "né ﬁfie\u0301")
    config = replace(checkpoint.corpus.config, normalize=form)
    export(replace(checkpoint, corpus=replace(checkpoint.corpus, config=config)), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    write(opened, "ne\u0301 ﬁ", temperature=1, length=1)
    assert opened.page.locator("#text b").text_content() == folded


def test_policy_stops_what_is_smuggled_in(trained_run: Run, tmp_path: Path, open_page: Open) -> None:
    """The second wall: were there markup after all, the browser would refuse to run it or to fetch."""
    export(trained_run.checkpoint(), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    assert_policy_holds(opened)


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen(trained_run: Run, tmp_path: Path, open_page: Open, width: int, color_scheme: str) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html", title="x" * 200)
    opened = open_page(tmp_path / "page.html", viewport={"width": width, "height": 800}, color_scheme=color_scheme)
    write(opened, "the cat", temperature=1, length=300)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width
    paper, ink = (
        opened.page.evaluate(f"() => getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (paper, ink)]
    assert brightness == sorted(brightness, reverse=color_scheme == "light")
