"""Pages in a real browser: the system's Chromium, driven by Playwright."""

import copy
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.config import ModelConfig, PreparationConfig, TrainingConfig, Unit
from charrnn.model.network import CharRNN
from charrnn.model.quantisation import quantise_rows
from charrnn.runs.checkpoint import Checkpoint
from charrnn.runs.folder import RunFolder
from charrnn.runs.start import start
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from charrnn.text.tokenizers import TOKENIZERS
from tests.support import CPU, TINY, with_weights

HOSTILE = "</script><img src=x onerror=\"alert('hacked')\">${}`\\\u202e\u2028\x00\x1b\n&"
TALE = (
    "the knight knows the knot.\nthe king's knave knew nothing.\n\n'tis a well-known tale: don't say fine néant.\n\n"
    * 20
)


class Opened:
    """A page from a file, and all that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_context(**context).new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self._own = (path.as_uri(), "blob:")

    @property
    def foreign_requests(self) -> list[str]:
        """The requests beyond the file itself and the worker that it makes of its own text."""
        return [url for url in self.requests if not url.startswith(self._own)]


Open = Callable[..., Opened]


def assert_policy_holds(opened: Opened) -> None:
    """Smuggle markup and a script in: the browser refuses to run or to fetch any of it."""
    opened.page.evaluate(
        """() => {
            const element = document.createElement("div");
            element.innerHTML = '<img src="https://example.com/x.png" onerror="window.hacked = true">';
            document.body.append(element);
            const script = document.createElement("script");
            script.textContent = "window.hacked = true";
            document.body.append(script);
        }"""
    )
    opened.page.wait_for_timeout(100)
    assert opened.page.evaluate("() => window.hacked") is None
    for refused in ("Loading the image", "Executing inline event handler", "Executing inline script"):
        assert any(complaint.startswith(refused) for complaint in opened.complaints), opened.complaints


def trained(corpus: Corpus, folder: Path, **shape: Any) -> Checkpoint:
    config = TrainingConfig(steps=50, batch_size=8, seq_length=16, learning_rate=1e-2)
    run = start(RunFolder(folder), corpus, replace(TINY, dropout=0.0, **shape), config, CPU, seed=1)
    run.drive([])
    return run.checkpoint()


def of_tale(folder: Path, text: str = TALE, *, shape: Mapping[str, Any] = {}, **options: Any) -> Checkpoint:
    """A model of a tale that is prepared with these options."""
    folder.mkdir(exist_ok=True)
    (folder / "tale.txt").write_text(text)
    sources = find_sources([str(folder / "tale.txt")])
    corpus = prepare(sources, PreparationConfig(**options), folder / "tale.safetensors")
    return trained(corpus, folder / "run", **shape)


def with_vocabulary(checkpoint: Checkpoint, symbols: Iterable[str], unit: Unit = "char") -> Checkpoint:
    """An untrained model over other symbols."""
    symbols, preparation = tuple(dict.fromkeys(symbols)), replace(checkpoint.corpus.config, unit=unit)
    tokenizer = TOKENIZERS[unit](symbols, (1,) * len(symbols), preparation)
    config = ModelConfig(vocab_size=tokenizer.size, hidden_size=16, embedding_size=8)
    torch.manual_seed(1)
    weights = CharRNN(config).state_dict()
    corpus = replace(checkpoint.corpus, config=preparation)
    return replace(with_weights(checkpoint, weights), model_config=config, tokenizer=tokenizer, corpus=corpus)


@torch.no_grad()
def rounded(model: CharRNN) -> CharRNN:
    """The model with the weights that its page has; biases stay as they are."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            integers, scales = quantise_rows(parameter)
            parameter.copy_(integers * scales[:, None])
    return model


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright, of charrnn[test]")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("needs Chromium on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Open an HTML file: `open_page(path, viewport={...})`."""
    opened: list[Opened] = []

    def open_file(path: Path, **context: Any) -> Opened:
        opened.append(Opened(browser, path, **context))
        return opened[-1]

    yield open_file
    for each in opened:
        each.page.context.close()
