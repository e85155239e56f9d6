"""Files from strangers, made by a fuzzer that is guided by the code they reach: each is opened or refused in one line.

Run by hand, from the project's root, after `pip install atheris`:

    python -m tests.benchmarks.fuzz corpus|checkpoint|text [--minutes 30] [--inputs DIR] [--findings DIR] [--seed N]

A forged corpus or checkpoint always has the digest that it must have: what is fuzzed is its header, the entries of
its tensors, and their data. DIR keeps what reached new code, for the next time. The first finding, that is any error
but a CharRNNError, ends it with a traceback and a file `crash-...` that reproduces it.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["charrnn"]):
    from charrnn.api import LanguageModel
    from charrnn.config import ModelConfig, ModelOptions, PreparationConfig, TrainingConfig
    from charrnn.errors import CharRNNError
    from charrnn.machine.runtime import open_runtime
    from charrnn.model.network import CharRNN
    from charrnn.runs.checkpoint import Checkpoint
    from charrnn.runs.folder import RunFolder
    from charrnn.runs.resume import resume
    from charrnn.runs.start import start
    from charrnn.runs.transfer import transfer
    from charrnn.text.cleaning import CleanText
    from charrnn.text.corpus import Corpus, prepare
    from charrnn.text.sources import BLOCK_BYTES, Source

from tests.forging import NO_DIGEST, seal_head, unseal

TEXT = "abba\n" * 5


def split(whole: bytes) -> bytes:
    """A file as the fuzzer sees it: header, entries of the tensors, data, with zero bytes between them."""
    entries, header, data = unseal(whole)
    return b"\0".join([json.dumps(header).encode(), json.dumps(entries).encode(), data])


def join(fuzzed: bytes) -> bytes:
    """The file of what the fuzzer made, with the digest that it must have."""
    header, entries, data = (*fuzzed.split(b"\0", 2), b"", b"")[:3]
    text = json.dumps('{"digest":"' + NO_DIGEST + '",' + header.decode("latin-1").lstrip("{"))
    return seal_head(b'{"__metadata__":{"charrnn":' + text.encode() + b"}," + entries.lstrip(b"{"), data)


def mutate(fuzzed: bytes, max_size: int, seed: int) -> bytes:
    """One section of a forged file changed: JSON that can be read somewhere in its tree, all else by the byte."""
    draw = random.Random(seed)
    sections = [*fuzzed.split(b"\0", 2), b"", b""][:3]
    at = draw.choices(range(3), weights=[6, 3, 1])[0]
    try:
        if at == 2 or draw.random() < 0.2:
            raise ValueError
        for _ in range(draw.randint(1, 3)):
            sections[at] = json.dumps(change(json.loads(sections[at]), draw)).encode()
    except (ValueError, RecursionError):
        sections[at] = bytes(atheris.Mutate(sections[at], max(1, max_size - len(fuzzed) + len(sections[at]))))
    return b"\0".join(sections)[:max_size]


def change(tree: Any, draw: random.Random) -> Any:
    """One place of a tree of JSON changed: another value, one less, one more, or one from elsewhere."""
    if isinstance(tree, dict) and tree and draw.random() < 0.95:
        key = draw.choice(list(tree))
        match draw.randrange(10):
            case 0:
                return {name: part for name, part in tree.items() if name != key}
            case 1:
                renamed = draw.choice([key + draw.choice(WORDS), key[:-1], key.replace(".0.", ".1.")])
                return {renamed if name == key else name: part for name, part in tree.items()}
            case 2:
                return tree | {key: tree[draw.choice(list(tree))]}
        return tree | {key: change(tree[key], draw)}
    if isinstance(tree, list) and tree and draw.random() < 0.8:
        at = draw.randrange(len(tree))
        return [*tree[:at], *([change(tree[at], draw)] * draw.choice([0, 1, 1, 1, 2])), *tree[at + 1 :]]
    if isinstance(tree, int) and draw.random() < 0.5:
        return draw.choice([tree + 1, tree - 1, -tree, tree * 2, tree << draw.randrange(64), float(tree % 2**40)])
    return draw.choice(VALUES)


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    255,
    2**31,
    2**63 - 1,
    2**63,
    10**30,
    0.5,
    -1.5,
    1e308,
    math.nan,
    math.inf,
]
VALUES += ["", "a", "\n", "\x00", "\ud800", "../../x", "F64", "BF16", "I64", "gru", "float16", "float64", "utf-16"]
VALUES += [[], [0], [1, 2], [2**40, 0], [[]], {}, {"a": 1}, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}]
WORDS = ["", ".", "0", ".0", "x", "exp_avg", "model.", "trainer.", "\x00"]


def make_target(kind: str, folder: Path) -> tuple[bytes, Callable[[bytes], None]]:
    """An input to begin with, and what is done with each."""
    corpus = prepare([Source("tiny", None, TEXT.encode())], PreparationConfig(), folder / "tiny.safetensors")
    forged = RunFolder(folder / "run")
    tiny: dict[str, Any] = {"hidden_size": 2, "num_layers": 1, "embedding_size": 1, "dropout": 0.1}
    shape = ModelConfig(vocab_size=corpus.tokenizer.size, **tiny)

    def open_corpus(fuzzed: bytes) -> None:
        forged.last.write_bytes(join(fuzzed))
        opened = Corpus.open(forged.last)
        assert sum(map(len, opened.marked_blocks())) == len(opened.ids)

    def load_checkpoint(fuzzed: bytes) -> None:
        forged.last.write_bytes(join(fuzzed))
        checkpoint = Checkpoint.load(forged.last)
        model = LanguageModel(checkpoint, forged.last, open_runtime("cpu", "float32"), folder)
        for word in checkpoint.tokenizer.symbols[:1]:
            model.sample(word, seed=1, length=2)
        with contextlib.suppress(CharRNNError):
            transfer(checkpoint, CharRNN(shape), corpus.tokenizer)
        for _ in itertools.islice(resume(forged, corpus, {"steps": 4}, "cpu").trainer.run(), 5):
            pass

    def read_text(fuzzed: bytes) -> None:
        """Two bytes choose the options, the rest is the text."""
        bits, encoding = (*fuzzed[:2], 0, 0)[:2]
        names = ["utf-8", "utf-16", "cp1252", "gb18030", "shift_jis", "utf-7", "latin-1"]
        config = PreparationConfig(
            encoding=names[encoding % len(names)],
            ascii=bool(bits & 1),
            lowercase=bool(bits & 2),
            keep_boilerplate=bool(bits & 4),
            min_count=1 + (bits >> 3 & 1),
            max_vocab=5 if bits & 16 else None,
        )
        suffix = ("", ".gz", ".bz2", ".xz")[bits >> 5 & 3]
        source = folder / f"text{suffix}"
        source.write_bytes(fuzzed[2:])
        sources = [Source("fuzzed", source)]
        prepared = prepare(sources, config, folder / "fuzzed.safetensors", overwrite=True)
        assert len(fuzzed) < BLOCK_BYTES
        text = "".join(CleanText(sources, config))
        if prepared.tokenizer.unk_id is None:
            assert "".join(Corpus.open(prepared.path).marked_blocks()) == text

    if kind == "corpus":
        forged.path.mkdir()
        return split(corpus.path.read_bytes()), open_corpus
    if kind == "text":
        book = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\nCafé\r\nau lait\n*** END OF THE PROJECT GUTENBERG EBOOK"
        return b"\0\0" + book.encode(), read_text
    config = TrainingConfig(steps=1, batch_size=1, seq_length=2)
    start(forged, corpus, ModelOptions(**tiny), config, open_runtime("cpu", "float32"), seed=1).drive([])
    return split(forged.last.read_bytes()), load_checkpoint


def main() -> None:
    """Let the fuzzer loose on one kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["corpus", "checkpoint", "text"])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--inputs", type=Path, default=None)
    parser.add_argument("--findings", type=Path, default=Path.cwd())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, target = make_target(arguments.kind, folder)
        inputs: Path = arguments.inputs or folder / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        (inputs / "first").write_bytes(first)

        def one(fuzzed: bytes) -> None:
            with contextlib.suppress(CharRNNError):
                target(fuzzed)

        limits = [f"-max_total_time={round(60 * arguments.minutes)}", "-rss_limit_mb=8000", "-timeout=300"]
        limits += [
            "-max_len=32768",
            f"-artifact_prefix={arguments.findings}/",
            f"-seed={arguments.seed}",
            "-verbosity=1",
        ]
        atheris.Setup(
            [sys.argv[0], *limits, str(inputs)], one, custom_mutator=None if arguments.kind == "text" else mutate
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
