"""Facts about large files."""

import os
from pathlib import Path

import pytest

from charrnn.files import memo


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memo, "MIN_BYTES", 3)
    path = tmp_path / "large"
    path.write_text("abc")
    return path


def test_fact_is_remembered_as_long_as_the_file_stays(path: Path) -> None:
    identity = memo.identify("topic", [path])
    assert memo.recall(identity) is None
    memo.remember(identity, "abc-1")
    assert memo.recall(memo.identify("topic", [path])) == "abc-1"
    assert memo.recall(memo.identify("other", [path])) is None
    status = path.stat()
    path.write_text("abd")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert memo.recall(memo.identify("topic", [path])) is None, "the time of the last change of status tells"


def test_small_missing_and_other_files_have_no_identity(path: Path) -> None:
    assert memo.identify("topic", [path, path.with_name("none")]) is None
    assert memo.identify("topic", [path.parent]) is None
    path.write_text("ab")
    assert memo.identify("topic", [path]) is None
    assert memo.recall(None) is None
    memo.remember(None, "abc")
    assert not (path.parent / "cache").exists()


def test_what_is_no_fact_is_ignored(path: Path) -> None:
    identity = memo.identify("topic", [path])
    assert identity is not None
    memo.remember(identity, "abc")
    for content in (b"", b"\xff", b"ab c", b"a" * 1000):
        (path.parent / "cache/charrnn/read" / identity).write_bytes(content)
        assert memo.recall(identity) is None


def test_where_nothing_can_be_written_nothing_is_remembered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    memo.remember(memo.identify("topic", [path]), "abc")
    assert memo.recall(memo.identify("topic", [path])) is None


def test_oldest_facts_are_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "_MAX_FACTS", 3)
    for number in range(5):
        memo.remember(memo.identify(str(number), [path]), "abc")
    assert [memo.recall(memo.identify(str(n), [path])) for n in range(5)] == [None, None, "abc", "abc", "abc"]
