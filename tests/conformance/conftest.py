"""The backends that the suite runs against, each opened in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends.base import Backend
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from tests.conformance.as_columns import ColumnsBackend
from tests.conformance.site import Site

Opener = Callable[[Path], Backend]


def open_local(directory: Path) -> Backend:
    """The embedded backend, checkpointing only when asked to."""
    return LocalBackend.open(directory, settings=LocalSettings(checkpoint_seconds=3_600.0))


def open_by_column(directory: Path) -> Backend:
    """The same, taking events by column."""
    return ColumnsBackend.open(directory, settings=LocalSettings(checkpoint_seconds=3_600.0))


BACKENDS: dict[str, Opener] = {"local": open_local, "local, by column": open_by_column}


@pytest.fixture(params=BACKENDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty store of each backend."""
    opened = Site(BACKENDS[request.param], tmp_path / "store")
    yield opened
    opened.backend.close()


@pytest.fixture(params=BACKENDS, scope="session")
def shared_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One store for many small worlds, each in an account of its own."""
    opened = Site(BACKENDS[request.param], tmp_path_factory.mktemp("conformance"))
    yield opened
    opened.backend.close()
