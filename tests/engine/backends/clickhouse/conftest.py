"""One server for all tests, and a cluster of four."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.server import Address
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.engine.backends.clickhouse.servers import (
    fresh_cluster,
    own_servers,
    reason_to_leave_out,
    reason_to_skip,
    started,
)


@pytest.fixture(scope="session")
def in_whole_runs_only() -> None:
    """Leaves what takes long to `make test-cluster`. Tests of each feature with a service run in both."""
    if reason := reason_to_leave_out():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Address]]]:
    """One's own servers, or one new server."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    if own := own_servers():
        yield own
        return
    with started(tmp_path_factory.mktemp("clickhouse"), 1, 1) as servers:
        yield [[server.address for server in shard] for shard in servers]


@pytest.fixture(scope="module")
def databases(shards: list[list[Address]]) -> Iterator[Databases]:
    """Databases for the stores of a file."""
    with databases_on(shards) as made:
        yield made


@pytest.fixture
def url(tmp_path: Path, databases: Databases) -> str:
    """Where a store can be opened."""
    return databases.url(tmp_path / "gateway")


@pytest.fixture(scope="module")
def cluster(shards: list[list[Address]]) -> Iterator[Cluster]:
    """A cluster without rows, for the tests of a file."""
    with fresh_cluster(shards) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[Gateway]:
    """A writer of accounts over the cluster."""
    made = Gateway(cluster)
    yield made
    made.close()
