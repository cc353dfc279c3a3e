"""One server for all tests of a module; each test has an account of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.clients.importing.command import Target
from tests.harness import Serving, serving

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that other tests of the module use as well."""
    with serving(tmp_path_factory.mktemp("store"), log_level="error") as running:
        yield running


@pytest.fixture
def target(shared_service: Serving) -> Target:
    """An account that no other test knows."""
    return Target(shared_service.address, f"account{next(_numbers)}")
