"""One store for the module; every example has its own account."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends.local.events import EventTables
from engine.backends.local.storage.store import Store

GROUPS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(Path(tmp_path_factory.mktemp("store")), groups=GROUPS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def new_account() -> Callable[[], int]:
    numbers = itertools.count(1)
    return lambda: next(numbers)


@pytest.fixture
def tables(store: Store, new_account: Callable[[], int]) -> EventTables:
    return EventTables(store, new_account(), GROUPS)
