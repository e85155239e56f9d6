import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from charrnn.api import LanguageModel
from charrnn.report.export import export, export_module, render_module
from charrnn.runs.run import Run
from charrnn.sampling.noise import stream_key
from tests.report.conftest import HOSTILE, TALE, of_tale, rounded, with_vocabulary
from tests.support import CPU, Command, with_weights

LOGITS = """(model, ids) => {
    const state = model.network.initial_state();
    return ids.map((index) => Array.from(model.network.step(index, state)));
}"""
TEXTS = "(model, requests) => requests.map((options) => model.sample(options))"
STREAMS = """(model, requests) => Promise.all(requests.map(async (options) => {
    let text = "";
    for await (const piece of model.stream(options)) text += piece;
    return text;
}))"""
NEXT = "(model, texts) => texts.map((text) => Array.from(model.next(text)))"
ERRORS = """(model, requests) => requests.map((options) => {
    try { return model.sample(options); } catch (error) { return `${error.name}: ${error.message}`; }
})"""
ROOT = Path(__file__).parent.parent.parent

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node on the PATH")


def in_node(module: Path, *questions: tuple[str, Any]) -> list[Any]:
    """What functions of a module's model and a value return in Node."""
    asked = [f"await ({function})(model, {json.dumps(value)})" for function, value in questions]
    program = f"""import {{ load }} from {json.dumps(module.as_uri())};
        const model = await load();
        console.log(JSON.stringify([{", ".join(asked)}]));"""
    command = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    answers: list[Any] = json.loads(done.stdout)
    return answers


def in_chromium(browser: Any, module: Path, function: str, value: Any) -> Any:
    """The same in Chromium, on a page without anything."""
    page = browser.new_page()
    program = f"""async ([source, value]) => {{
        const {{ load }} = await import(URL.createObjectURL(new Blob([source], {{ type: "text/javascript" }})));
        return ({function})(load(), value);
    }}"""
    answer = page.evaluate(program, [module.read_text(), value])
    page.close()
    return answer


def exported(folder: Path, **options: Any) -> tuple[LanguageModel, Path]:
    """A model of a tale with the weights of its module, and the module."""
    checkpoint = of_tale(folder, **options)
    export_module(checkpoint, folder / "model.mjs")
    checkpoint = with_weights(checkpoint, rounded(checkpoint.build_model()).state_dict())
    return LanguageModel(checkpoint, folder, CPU), folder / "model.mjs"


@pytest.fixture
def module(trained_run: Run, tmp_path: Path) -> Path:
    export_module(trained_run.checkpoint(), tmp_path / "model.mjs")
    return tmp_path / "model.mjs"


@needs_node
@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({"shape": {"cell": "lstm", "num_layers": 2}}, "the kn"),
        ({"shape": {"cell": "gru", "embedding_size": None}}, "the kn"),
        ({"shape": {"cell": "rnn"}, "lowercase": True}, "The Kn"),
        ({"unit": "byte", "separator": "\n\n"}, "né"),
        ({"shape": {"cell": "gru"}, "unit": "word"}, "the kn"),
        ({"unit": "word", "max_vocab": 9, "separator": "\n\n"}, "the zebra's king.\n \n\nth"),
        ({"documents": True, "normalize": "nfkc"}, "the ﬁ"),
    ],
)
def test_module_writes_as_python_in_node_and_chromium(
    tmp_path: Path, browser: Any, options: dict[str, Any], prompt: str
) -> None:
    model, module = exported(tmp_path, **options)
    ids = model.tokenizer.encode(model.normalise(TALE[: len(TALE) // 20]))
    with torch.no_grad():
        expected, _ = model.module(ids.long()[:, None])
    requests: list[dict[str, Any]] = [
        {"prompt": prompt, "temperature": 0, "length": 500, "seed": 1},
        {"prompt": prompt, "temperature": 0.8, "length": 500, "seed": 1},
        {"length": 500, "seed": 2**40},
    ]
    answers = in_node(module, (LOGITS, ids.tolist()), (TEXTS, requests), (STREAMS, requests))
    torch.testing.assert_close(torch.tensor(answers[0]), expected[:, 0], atol=1e-3, rtol=0)
    sampled = [model.sample(**request) for request in requests]
    assert answers[1] == answers[2] == sampled
    assert in_chromium(browser, module, TEXTS, requests) == sampled


@needs_node
@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, ["", "the kn"]),
        ({"unit": "byte", "separator": "\n\n"}, ["", "n\n\né", "\n\nthe"]),
        ({"unit": "word", "max_vocab": 9}, ["", "the zebra", "'tis"]),
        ({"min_count": 30}, ["", "the zebra"]),
    ],
)
def test_next_has_the_probabilities_of_python(tmp_path: Path, options: dict[str, Any], texts: list[str]) -> None:
    model, module = exported(tmp_path, **options)
    [answers] = in_node(module, (NEXT, texts))
    for text, answer in zip(texts, answers, strict=True):
        assert dict(answer) == pytest.approx(model.next(text), abs=1e-5)
        assert [p for _, p in answer] == sorted((p for _, p in answer), reverse=True)


@needs_node
def test_random_numbers_are_those_of_python(module: Path) -> None:
    seeds = [0, 1, 12345, 2**31 - 1, 2**53 - 1]
    program = module.read_text().replace("export function load", "export { stream_key };\nexport function load")
    module.write_text(program)
    keys = """async (model, [path, seeds]) => {
        const { stream_key } = await import(path);
        return seeds.map((seed) => `${stream_key(seed)}`);
    }"""
    [answers] = in_node(module, (keys, [module.as_uri(), seeds]))
    assert [int(key) for key in answers] == [stream_key(seed, 0, 0) % 2**64 for seed in seeds]


@needs_node
def test_mistakes_raise_errors_that_state_the_limits(module: Path) -> None:
    requests: list[Any] = [
        {"temperature": -1},
        {"length": 1.5},
        {"seed": -1},
        {"prompt": 5},
        {"temprature": 1},
        "the cat",
        {"prompt": "the €"},
    ]
    [answers] = in_node(module, (ERRORS, requests))
    options = "is not an option: the options are { prompt, length, temperature, seed }"
    assert answers == [
        "RangeError: temperature is -1: it must be a number from 0 to 1000",
        "RangeError: length is 1.5: it must be an integer of at least 0",
        "RangeError: seed is -1: it must be an integer of at least 0",
        "RangeError: prompt is 5: it must be a string",
        f"RangeError: temprature {options}",
        f"RangeError: 0 {options}",
        answers[-1],
    ]
    assert answers[-1].startswith("Error: characters outside the vocabulary of")
    assert answers[-1].endswith(' symbols: "€"; leave them out')


@needs_node
def test_stream_lets_other_events_have_their_turn(module: Path) -> None:
    turns = """async (model, options) => {
        let turns = 0;
        const timer = setInterval(() => turns++, 1);
        for await (const piece of model.stream(options));
        clearInterval(timer);
        return turns;
    }"""
    [answer] = in_node(module, (turns, {"length": 20_000}))
    assert answer > 2


@needs_node
def test_module_writes_hostile_symbols_as_text(trained_run: Run, tmp_path: Path) -> None:
    checkpoint = with_vocabulary(trained_run.checkpoint(), HOSTILE)
    module = render_module(checkpoint)
    assert "</script" not in module
    assert "<!--" not in module
    (tmp_path / "model.mjs").write_text(module)
    [[text]] = in_node(tmp_path / "model.mjs", (TEXTS, [{"temperature": 3, "length": 3000}]))
    assert set(text) == set(HOSTILE)


def test_command_writes_a_module(trained_run: Run, tmp_path: Path, charrnn: Command) -> None:
    words = ["export", trained_run.folder.path, "--module"]
    (tmp_path / "model.js").write_text("my program")
    refused = charrnn(*words, "-o", "model.js")
    assert (refused.returncode, (tmp_path / "model.js").read_text()) == (1, "my program")
    assert charrnn(*words, "-o", "model.js", "--overwrite").returncode == 0
    done = charrnn(*words, "-o", "model.js", "--json")
    assert json.loads(done.stdout) == {"page": "model.js", "bytes": (tmp_path / "model.js").stat().st_size}
    assert charrnn(*words, "-o", "-").stdout == (tmp_path / "model.js").read_text()
    assert (tmp_path / "model.js").read_text().startswith("// charrnn module: ")
    titled = charrnn(*words, "-o", "model.js", "--title", "Cats")
    assert (titled.returncode, titled.stdout) == (2, "")
    assert titled.stderr == "error: --title is for a page, and --module writes no page: use one of them\n"


@needs_node
def test_examples_of_the_guide_run(tmp_path: Path, browser: Any) -> None:
    guide = (ROOT / "docs" / "guides" / "javascript.md").read_text(encoding="utf-8")
    [page] = re.findall(r"```html\n(.*?)```", guide, re.DOTALL)
    [program] = re.findall(r"```js\n(import .*?)```", guide, re.DOTALL)
    tales = (ROOT / "data" / "tales.txt").read_text(encoding="utf-8")[:20_000] + "Once upon a time"
    export_module(of_tale(tmp_path, tales), tmp_path / "model.js")
    (tmp_path / "index.html").write_text(page)
    (tmp_path / "write.mjs").write_text(program)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", tmp_path / "write.mjs"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r'.{200}\n(".+" 0\.\d\d\d\n){3}', done.stdout, re.DOTALL)
    opened = browser.new_page()
    opened.route("http://server/*", lambda route: route.fulfill(path=tmp_path / Path(route.request.url).name))
    opened.goto("http://server/index.html")
    opened.click("#write")
    opened.locator("#write:enabled").wait_for()
    assert len(opened.locator("#text").text_content()) == len("Once upon a time") + 1000
    opened.close()


def test_module_and_page_share_their_program(trained_run: Run, tmp_path: Path) -> None:
    export(trained_run.checkpoint(), tmp_path / "page.html")
    page, module = (tmp_path / "page.html").read_text(), render_module(trained_run.checkpoint())
    begin, end = module.index('"use strict"'), module.index("// The vocabulary, and the weights")
    assert module[begin:end].rstrip() in page
