"""What may happen between taking the state that is counted and counting it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from engine.backends.local.backend import LocalBackend
from engine.errors import DeadlineExceeded, StoreUnavailable

WAIT_S = 60


def before_counting(monkeypatch: pytest.MonkeyPatch, counts: type, happens: Callable[[], object]) -> None:
    """Runs a function after the state was taken and before `counts` counts it, once."""
    original: Callable[..., Any] = vars(counts)["top"]

    def top(*arguments: Any) -> Any:
        monkeypatch.setattr(counts, "top", original)
        happens()
        return original(*arguments)

    monkeypatch.setattr(counts, "top", top)


def expect_that_closing_stops_a_count(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, counts: type, counted: Callable[[], object]
) -> None:
    """Closes the store while `counted` counts. The count is refused, and closing waits for it."""
    closer, closing = threading.Thread(target=backend.close), threading.Event()
    close = backend._closing.set

    def tell() -> None:
        close()
        closing.set()

    def happens() -> None:
        closer.start()
        assert closing.wait(WAIT_S)

    monkeypatch.setattr(backend._closing, "set", tell)
    before_counting(monkeypatch, counts, happens)
    with pytest.raises(StoreUnavailable):
        counted()
    closer.join(WAIT_S)
    assert not closer.is_alive()


def expect_that_others_wait(
    monkeypatch: pytest.MonkeyPatch,
    counts: type,
    counted: Callable[..., object],
    meanwhile: Callable[[], object] = lambda: None,
) -> object:
    """Counts, while another count is refused at its deadline. Returns what was counted."""
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            counted(deadline=0.0)
        except DeadlineExceeded as error:
            refused.append(error)

    def happens() -> None:
        other = threading.Thread(target=ask)
        other.start()
        other.join(WAIT_S)
        meanwhile()

    before_counting(monkeypatch, counts, happens)
    found = counted()
    assert len(refused) == 1
    return found
