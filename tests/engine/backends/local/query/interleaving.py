"""Lets writes happen exactly where a long read lets others go first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.turns import Read


@contextmanager
def giving_way(happen: Callable[[], None]) -> Iterator[None]:
    """Every pause gives way, and `happen` is called each time, by the reading thread without the lock."""
    enter = Read._enter
    is_nested = False

    def happen_and_enter(self: Read, *, patient: bool) -> None:
        nonlocal is_nested
        if patient and not is_nested:
            is_nested = True
            try:
                happen()
            finally:
                is_nested = False
        enter(self, patient=patient)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FairLock, "is_wanted", property(lambda _: not is_nested))
        patch.setattr(Read, "_enter", happen_and_enter)
        yield


def counted(kind: type, name: str, counts: list[int], patch: pytest.MonkeyPatch) -> None:
    """Counts the calls of a method in `counts[0]`."""
    method: Any = getattr(kind, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        counts[0] += 1
        return method(*args, **kwargs)

    patch.setattr(kind, name, call)
