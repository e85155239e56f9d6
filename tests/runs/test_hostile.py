"""Files of strangers, with a digest that is right: they are data, and at worst an error of one line."""

import struct
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.errors import CharRNNError
from charrnn.files import container
from charrnn.runs.checkpoint import Checkpoint, _is_valid_generator_state
from charrnn.runs.folder import RunFolder
from charrnn.runs.resume import resume
from charrnn.runs.run import Run
from charrnn.text.corpus import Corpus
from tests.forging import seal, unseal
from tests.support import marked_text, with_weights

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30, -(2**63)]),
    st.sampled_from([1, 2, 7, 0.5]),
    st.sampled_from([float("nan"), float("inf"), -1.5, 1e308]),
    st.sampled_from(["", "../../etc/passwd", "\x00", "F32", "lstm", "9" * 400, "\ud800"]),
    st.lists(st.integers(-1, 2**40), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def mutate(value: Any, data: st.DataObject) -> Any:
    """Change one place, somewhere in a tree of JSON: another value, a missing one, one too many."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 9)) > 0:
        key = data.draw(st.sampled_from(sorted(value)))
        match data.draw(st.integers(0, 8)):
            case 8:
                return {name + "x" * (name == key): part for name, part in value.items()}
            case 0:
                return {name: part for name, part in value.items() if name != key}
            case 1:
                return value | {data.draw(st.text(max_size=5)): data.draw(hostile)}
            case _:
                return value | {key: mutate(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        at = data.draw(st.integers(0, min(len(value), 5) - 1))
        return [*value[:at], mutate(value[at], data), *value[at + 1 :]]
    return data.draw(hostile)


many = settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])


def mutate_both(
    entries: dict[str, Any], header: dict[str, Any], data: st.DataObject
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change one to three places in a file's tensor entries and header."""
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.integers(0, 3)) == 0:
            entries = mutate(entries, data)
        else:
            header = mutate(header, data)
    return entries, header


def test_sealing_what_was_unsealed_gives_the_same_file(corpus: Corpus, tmp_path: Path) -> None:
    whole = corpus.path.read_bytes()
    assert seal(*unseal(whole)) == whole
    (tmp_path / "forged").write_bytes(seal(*unseal(whole)))
    assert Corpus.open(tmp_path / "forged").source_digest == corpus.source_digest


def test_checkpoint_that_was_sealed_again_is_loaded_and_used(trained_run: Run, corpus: Corpus, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.last.write_bytes(seal(*unseal(trained_run.folder.last.read_bytes())))
    use(folder, corpus)


def use(folder: RunFolder, corpus: Corpus) -> None:
    """Load a run's checkpoint, and train on from it by a step. Raises: CharRNNError."""
    Checkpoint.load(folder.last).build_model()
    next(resume(folder, corpus, {"steps": 10**6}, "cpu").trainer.run())


def test_forged_corpus_is_opened_or_refused(corpus: Corpus, tmp_path: Path) -> None:
    entries, header, payload = unseal(corpus.path.read_bytes())
    outcomes: Counter[str] = Counter()

    @many
    @given(st.data())
    def open_forged(data: st.DataObject) -> None:
        forge(tmp_path / "forged", *mutate_both(entries, header, data), payload)
        try:
            opened = Corpus.open(tmp_path / "forged")
        except CharRNNError:
            outcomes["refused"] += 1
        else:
            outcomes["opened"] += 1
            assert len(marked_text(opened)) == len(opened.ids)

    open_forged()
    assert outcomes["refused"] > 200
    assert outcomes["opened"] > 0


def test_forged_checkpoint_is_loaded_and_used_or_refused(trained_run: Run, corpus: Corpus, tmp_path: Path) -> None:
    entries, header, payload = unseal(trained_run.folder.last.read_bytes())
    folder, outcomes = RunFolder(tmp_path), Counter[str]()

    @many
    @given(st.data())
    def use_forged(data: st.DataObject) -> None:
        forge(folder.last, *mutate_both(entries, header, data), payload)
        try:
            use(folder, corpus)
        except CharRNNError:
            outcomes["refused"] += 1
        else:
            outcomes["used"] += 1

    use_forged()
    assert outcomes["refused"] > 200
    assert outcomes["used"] > 0


def forge(path: Path, entries: Any, header: Any, payload: bytes) -> None:
    if not isinstance(entries, dict) or not isinstance(header, dict):
        path.write_bytes(payload)
    else:
        path.write_bytes(seal(entries, header, payload))


@pytest.mark.parametrize("seed", [-1, 2**31, 10**30])
def test_seed_out_of_range_is_refused(trained_run: Run, tmp_path: Path, seed: int) -> None:
    entries, header, payload = unseal(trained_run.folder.last.read_bytes())
    forge(tmp_path / "forged", entries, header | {"seed": seed}, payload)
    with pytest.raises(CharRNNError, match="seed"):
        Checkpoint.load(tmp_path / "forged")


def test_header_takes_little_more_memory_than_the_file_has_bytes(tmp_path: Path) -> None:
    empty: list[Any] = [{}] * (container._MAX_HEADER // 3 - 100)
    forge(tmp_path / "forged", {"x": empty}, {"kind": "corpus", "format": 1}, b"")
    tracemalloc.start()
    try:
        with pytest.raises(CharRNNError, match="damaged or was altered"):
            Corpus.open(tmp_path / "forged")
        assert tracemalloc.get_traced_memory()[1] < (tmp_path / "forged").stat().st_size + 2**27
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("dtype", "size"), [("BOOL", 1), ("F8_E4M3", 1), ("U16", 2), ("C64", 8)])
def test_tensors_of_types_that_are_never_written_are_refused(tmp_path: Path, dtype: str, size: int) -> None:
    entry = {"x": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}
    forge(tmp_path / "forged", entry, {"kind": "thing", "format": 1}, bytes(size))
    with pytest.raises(CharRNNError, match="a type that is never written"):
        container.read(tmp_path / "forged", "thing")


@pytest.mark.parametrize(
    ("entry", "data", "problem"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, 4, "is at another place than its header states"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, 8, "is at another place than its header states"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, 8, "8 bytes of tensors instead of 4"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, 4, "impossible shape"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, 4, "impossible shape"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, 4, "impossible shape"),
        ({"dtype": "F32", "shape": [0, 2**31, 2**31], "data_offsets": [0, 0]}, 0, "larger than any memory"),
        ({"dtype": "F32", "shape": [1], "data_offsets": []}, 4, "is at another place than its header states"),
        ({"dtype": "F32", "shape": [1], "data_offsets": None}, 4, "is at another place than its header states"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, 4, "never written"),
        ({"dtype": "F32", "shape": [1]}, 4, "data_offsets"),
        ([], 0, "indices must be integers"),
        (None, 0, "not subscriptable"),
    ],
)
def test_tensors_that_lie_amiss_are_refused(tmp_path: Path, entry: Any, data: int, problem: str) -> None:
    forged = seal({"x": entry}, {"kind": "thing", "format": container.FORMAT}, bytes(data))
    (tmp_path / "forged").write_bytes(forged)
    with pytest.raises(CharRNNError, match=f"damaged or was altered.*{problem}"):
        container.read(tmp_path / "forged", "thing")


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    (tmp_path / "forged").write_bytes(seal({"x": entry, "y": entry}, {"kind": "thing", "format": 1}, bytes(4)))
    with pytest.raises(CharRNNError, match="y is at another place than its header states"):
        container.read(tmp_path / "forged", "thing")


def test_weights_of_another_type_are_refused_before_a_model_is_made(trained_run: Run, tmp_path: Path) -> None:
    checkpoint = trained_run.checkpoint()
    for dtype in (torch.float64, torch.uint8):
        weights = {name: weight.to(dtype) for name, weight in checkpoint.weights.items()}
        with_weights(checkpoint, weights).save(tmp_path / "forged")
        with pytest.raises(CharRNNError, match="type other than float32"):
            Checkpoint.load(tmp_path / "forged")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("model.head.weight", float("nan"), "NaN or infinite"),
        ("model.head.bias", float("-inf"), "NaN or infinite"),
        ("model.stack.layers.0.weight_hh_l0", 1e16, "more than 1e\\+15"),
        ("model.embedding.weight", -3e38, "more than 1e\\+15"),
        ("trainer.optimizer.0.exp_avg", float("inf"), "NaN or infinite"),
        ("trainer.optimizer.1.exp_avg_sq", -1.0, "must not be negative"),
        ("trainer.optimizer.1.step", -1.0, "must not be negative"),
        ("trainer.muon.0.step", -1.0, "must not be negative"),
        ("trainer.muon.0.momentum", float("nan"), "NaN or infinite"),
        ("trainer.state.0.1", float("nan"), "NaN or infinite"),
        ("trainer.train_loss", float("nan"), "NaN or infinite"),
    ],
)
def test_invalid_values_are_refused_by_name(
    trained_run: Run, tmp_path: Path, name: str, value: float, problem: str
) -> None:
    stored = container.read(trained_run.folder.last, "checkpoint")
    stored.tensors[name].view(-1)[-1] = value
    container.write(tmp_path / "forged", "checkpoint", stored.header, stored.tensors)
    with pytest.raises(CharRNNError, match=f"in {name}.*{problem}"):
        Checkpoint.load(tmp_path / "forged")


@pytest.mark.parametrize("name", ["trainer.offsets", "trainer.random.cpu"])
@pytest.mark.parametrize(("left", "position"), [(624, 624), (624, 600), (2, 624)])
def test_generator_that_draws_from_beyond_its_state_is_refused(
    trained_run: Run, tmp_path: Path, name: str, left: int, position: int
) -> None:
    stored = container.read(trained_run.folder.last, "checkpoint")
    struct.pack_into("=iiQ", stored.tensors[name].numpy().data, 8, left, 1, position)
    container.write(tmp_path / "forged", "checkpoint", stored.header, stored.tensors)
    with pytest.raises(CharRNNError, match=f"invalid state of a random generator in {name}"):
        Checkpoint.load(tmp_path / "forged")


@pytest.mark.parametrize("draws", [0, 1, 623, 624, 625, 1247, 1248, 2000])
def test_generator_state_is_valid_after_any_number_of_draws(draws: int) -> None:
    generator = torch.Generator().manual_seed(1)
    torch.randint(0, 7, (draws,), generator=generator)
    assert _is_valid_generator_state(generator.get_state())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"precision": "float99"}, "invalid seed or precision"),
        ({"counters": {"recoveries": 50}}, "50 recoveries: the maximum is 5"),
        ({"counters": {"step": 1.5}}, "counters.step is of the wrong type"),
        ({"torch": "2.13\n\x1b[31merror: all is lost"}, "invalid version"),
        ({"written": "now"}, "written is of the wrong type"),
        ({"training_config": {"minutes": 10**400, "steps": None}}, "minutes is of the wrong type"),
        ({"training_config": {"grad_clip": 10**400}}, "grad_clip is of the wrong type"),
    ],
)
def test_values_out_of_range_are_refused(
    trained_run: Run, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    entries, header, payload = unseal(trained_run.folder.last.read_bytes())
    for name, value in change.items():
        header[name] = header[name] | value if isinstance(value, dict) else value
    forge(tmp_path / "forged", entries, header, payload)
    with pytest.raises(CharRNNError, match=problem) as refused:
        Checkpoint.load(tmp_path / "forged")
    assert refused.value.exit_code == 1


def test_optimizer_of_another_type_is_refused(trained_run: Run, corpus: Corpus, tmp_path: Path) -> None:
    checkpoint = trained_run.checkpoint()
    tensors = dict(checkpoint.snapshot.tensors)
    folder = RunFolder(tmp_path)
    for name in ("0.exp_avg", "0.step"):
        key = f"trainer.optimizer.{name}"
        snapshot = replace(checkpoint.snapshot, tensors=tensors | {key: tensors[key].long()})
        folder.save(replace(checkpoint, snapshot=snapshot), best=False)
        with pytest.raises(CharRNNError, match=f"does not match this run: {name} has type torch.int64"):
            resume(folder, corpus, {}, "cpu")


@pytest.mark.parametrize("name", ["last.safetensors", "x.pkl", "x.pt", "x.txt"])
def test_pickles_are_not_opened_under_any_name(tmp_path: Path, name: str) -> None:
    """A pickle that would make a folder if it were ever loaded."""
    trap = tmp_path / "sprung"
    path = tmp_path / name
    path.write_bytes(b"cos\nmkdir\n(V" + str(trap).encode() + b"\ntR.")
    for kind in ("corpus", "checkpoint"):
        with pytest.raises(CharRNNError, match="not a charrnn file"):
            container.read(path, kind)
    assert not trap.exists()
