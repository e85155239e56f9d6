"""`sample --interactive --keep-state`, and conversations in Python."""

import random
from pathlib import Path

import pytest

import charrnn
from charrnn import LanguageModel
from charrnn.runs.run import Run
from tests.support import TEXT, Command, untrained

NAMES = ("Anna", "Bert", "Carl", "Dora", "Emil", "Frida")
LINES = "I am Carl.\nWho am I?\nI am Frida.\nWho am I?\n"


def test_kept_state_remembers_a_name(tmp_path: Path, charrnn: Command) -> None:
    draw = random.Random(1)
    drawn = (draw.choice(NAMES) for _ in range(3000))
    (tmp_path / "talk.txt").write_text("".join(f"I am {name}. Hi {name}!\nWho am I? {name}.\n" for name in drawn))
    small = ["--hidden-size", "64", "--steps", "500", "--seq-length", "64", "--seed", "1", "--device", "cpu"]
    assert charrnn("train", "talk.txt", *small, "--quiet").returncode == 0
    words = ["sample", "talk", "-i", "--lines", "1", "-t", "0", "--seed", "1", "--device", "cpu"]
    kept = charrnn(*words, "--keep-state", input=LINES).stdout.splitlines()
    assert kept == ["I am Carl. Hi Carl!", "Who am I? Carl.", "I am Frida. Hi Frida!", "Who am I? Frida."]
    alone = charrnn(*words, input=LINES).stdout.splitlines()
    assert alone[1] == alone[3] != kept[3]


@pytest.mark.parametrize("options", [["--num-samples", "2", "-i"], ["-t", "0.5,1", "-i"], []])
def test_keep_state_is_for_one_interactive_sample(charrnn: Command, trained_run: Run, options: list[str]) -> None:
    done = charrnn("sample", trained_run.folder.best, "--keep-state", *options)
    assert done.returncode == 2
    assert "--keep-state needs --interactive, one sample and one temperature" in done.stderr


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("options", [{}, {"unit": "byte"}, {"unit": "word"}, {"separator": "\n"}])
def test_conversation_is_one_text(tmp_path: Path, options: dict[str, str], precision: str) -> None:
    run = untrained(TEXT, tmp_path, **options)
    run.checkpoint().save(tmp_path / "model.safetensors")
    model: LanguageModel = charrnn.load(tmp_path / "model.safetensors", device="cpu", precision=precision)
    talk = model.conversation(temperature=0, length=9, seed=1)
    text = ""
    for said in ("the cat sat ", "on ", "", "the mat. "):
        reply = talk.reply(said)
        if options.get("unit") != "word":  # whose last word may go on
            assert reply == model.sample(text + said, temperature=0, length=9)
        text += said + reply
    assert model.conversation(temperature=0, length=0).reply("the cat") == ""
