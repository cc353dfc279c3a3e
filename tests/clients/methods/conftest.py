"""A real service, and for each test a client with an account of its own: the synchronous one, then the
asyncio one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from milepost import Client
from tests.clients.bridge import async_client
from tests.harness import Serving, serving

Kind = Callable[..., AbstractContextManager[Client]]

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """What makes the client of a test. Each kind has a service of its own."""
    made: Kind = request.param
    return made


@pytest.fixture(scope="module")
def service(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    del kind
    directory = tmp_path_factory.mktemp("methods")
    settings = {"output_dir": directory / "outputs", "backup_dir": directory / "backups"}
    with serving(directory / "store", access_log="none", retry_budget_s=0.1, **settings) as made:
        yield made


@pytest.fixture
def client(kind: Kind, service: Serving) -> Iterator[Client]:
    with kind(service.address, account=f"acme-{next(_numbers)}") as made:
        made.ensure_account()
        yield made
