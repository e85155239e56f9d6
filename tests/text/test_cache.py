"""Prepared files as a cache keyed by text and options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charrnn.config import PreparationConfig
from charrnn.errors import CharRNNError, OutputExistsError
from charrnn.files import container
from charrnn.text.cache import TextArgument, default_output
from charrnn.text.corpus import Corpus, prepare
from charrnn.text.sources import find_sources
from tests.support import marked_text


def opened(text: Path, data: Path, *required: str, **options: Any) -> Corpus:
    return TextArgument(str(text), data).open(PreparationConfig(**options), required or tuple(options))


def text_in(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "tale.txt").write_text(content)
    return folder / "tale.txt"


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("x/tales.txt", "tales"),
        ("a.b.TXT.gz", "a.b"),
        ("a.csv", "a.csv"),
        ("a.jsonl.xz", "a.jsonl"),
        ("tweets.2024", "tweets.2024"),
        ("-", "stdin"),
        ("folder/", "folder"),
        ("x/names.safetensors", "names"),
        (".txt", "text"),
        ("...txt", "text"),
        ("..a.txt", "..a"),
    ],
)
def test_only_known_suffixes_are_cut_from_names(source: str, stem: str) -> None:
    assert default_output(source, Path("data")) == Path(f"data/{stem}.safetensors")


def test_names_of_folders_keep_their_suffixes(tmp_path: Path) -> None:
    for name in ("v1.1", "v1.txt"):
        (tmp_path / name).mkdir()
        assert default_output(str(tmp_path / name), Path("data")).name == f"{name}.safetensors"


def test_raw_text_is_prepared_once(tmp_path: Path) -> None:
    text = text_in(tmp_path / "a", "Abc")
    made = opened(text, tmp_path, lowercase=True)
    before = made.path.stat()
    for again in (opened(text, tmp_path, lowercase=True), opened(text, tmp_path), opened(made.path, tmp_path)):
        assert again == made
    assert "made from this text with lowercase=True" in opened(text, tmp_path).notes[0]
    assert made.path == tmp_path / "tale.safetensors"
    assert made.path.stat() == before


def test_option_values_in_notes_stay_on_one_line(tmp_path: Path) -> None:
    text = text_in(tmp_path / "a", "Anna\nBert\n")
    opened(text, tmp_path, separator="\n")
    assert opened(text, tmp_path).notes[0].endswith(r"with separator='\n'")


@pytest.mark.parametrize("options", [{"separator": "\n"}, {"unit": "word"}, {"normalize": "none"}])
def test_other_options_are_prepared_beside_and_found_again(tmp_path: Path, options: dict[str, Any]) -> None:
    text = text_in(tmp_path / "a", "Anna and Bert\nCarl\n")
    plain = opened(text, tmp_path)
    keyed = opened(text, tmp_path, **options)
    assert keyed.path != plain.path
    assert keyed.config == PreparationConfig(**options)
    assert "with other options" in keyed.notes[0]
    again = opened(text, tmp_path, **options)
    assert (again, "using" in again.notes[0]) == (keyed, True)
    assert opened(text, tmp_path) == plain


def test_texts_of_one_name_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    texts = [text_in(tmp_path / str(n), f"text {n}") for n in range(3)]
    for _ in range(2):
        assert [marked_text(opened(text, tmp_path)) for text in texts] == ["text 0", "text 1", "text 2"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_changed_text_leaves_the_old_corpus_as_it_is(tmp_path: Path) -> None:
    text = text_in(tmp_path / "a", "abc")
    old = opened(text, tmp_path)
    text.write_text("abcD")
    assert marked_text(opened(text, tmp_path)) == "abcD"
    assert marked_text(Corpus.open(old.path)) == "abc"


def test_damaged_prepared_files_are_not_used(tmp_path: Path) -> None:
    text = text_in(tmp_path / "a", "abc" * 99)
    for _ in range(2):
        path = opened(text, tmp_path).path
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"\xff")
    assert marked_text(opened(text, tmp_path)) == "abc" * 99
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_prepared_file_with_other_options_is_refused_by_name(tmp_path: Path) -> None:
    made = opened(text_in(tmp_path / "a", "abc"), tmp_path)
    with pytest.raises(CharRNNError, match="was prepared with ascii=False, not ascii=True: name the raw text"):
        opened(made.path, tmp_path, ascii=True)


def test_prepared_file_is_known_without_its_suffix_and_is_no_text(tmp_path: Path) -> None:
    made = opened(text_in(tmp_path / "a", "abc"), tmp_path)
    bare = made.path.rename(tmp_path / "corpus")
    assert marked_text(opened(bare, tmp_path)) == "abc"
    with pytest.raises(CharRNNError, match="not a text"):
        prepare(find_sources([str(bare)]), PreparationConfig(), tmp_path / "x.safetensors")


Steal = Callable[..., None]


@pytest.fixture
def steal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steal:
    """Let another process write its own corpus to the same path, before or after this one does."""
    write = container.write

    def arrange(content: str, *, before: bool, **options: Any) -> None:
        rival = text_in(tmp_path / "rival", content)

        def write_both(path: Path, *arguments: Any, **more: Any) -> None:
            monkeypatch.setattr(container, "write", write)
            sources, config = find_sources([str(rival)]), PreparationConfig(**options)
            if before:
                prepare(sources, config, path, overwrite=True)
            write(path, *arguments, **more)
            if not before:
                prepare(sources, config, path, overwrite=True)

        monkeypatch.setattr(container, "write", write_both)

    return arrange


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("options", [{"lowercase": True}, {}])
def test_corpus_is_of_the_own_text_whoever_else_writes(
    tmp_path: Path, steal: Steal, before: bool, options: dict[str, Any]
) -> None:
    own = "Abc" if options else "own text"
    text = text_in(tmp_path / "a", own)
    steal("Abc", before=before, **options)
    corpus = opened(text, tmp_path, "lowercase")
    assert (marked_text(corpus), corpus.config) == (own, PreparationConfig())


def test_file_replaced_while_it_was_prepared_is_an_error(tmp_path: Path, steal: Steal) -> None:
    text = text_in(tmp_path / "a", "abc")
    steal("other text", before=False)
    with pytest.raises(OutputExistsError, match="replaced by another process"):
        prepare(find_sources([str(text)]), PreparationConfig(), tmp_path / "tale.safetensors")
