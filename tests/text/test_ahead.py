"""Iterators in threads of their own."""

import threading
from collections.abc import Iterator

import pytest

from charrnn.text.ahead import ahead


def test_items_come_in_order_and_then_the_exception() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise ValueError("the end")

    found: list[int] = []
    with pytest.raises(ValueError, match="the end"), ahead(items()) as made:
        found.extend(made)
    assert found == list(range(100))


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_consumer_that_stops_early_ends_nested_threads_and_closes_the_items(taken: int) -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield threading.get_ident()
        finally:
            closed.set()

    def nested() -> Iterator[int]:
        with ahead(endless()) as made:
            yield from made

    before = threading.active_count()
    with ahead(nested()) as made:
        others = [next(made) for _ in range(taken)]
    assert threading.get_ident() not in others
    assert closed.is_set()
    assert threading.active_count() == before


def test_items_are_made_in_turn_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with ahead(range(5)) as made:
        assert list(made) == list(range(5))
