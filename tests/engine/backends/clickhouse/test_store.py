"""A store in a cluster while servers of it fail, and what it refuses to open."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from engine.backends.base import Count, Members
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.server import Address
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.backends.local.backend import LocalBackend
from engine.errors import FailedPrecondition, InvalidInput, StoreUnavailable
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB, event, plan_of, update
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.servers import (
    ClickHouseServer,
    reason_not_to_start,
    reason_without_cluster,
    started,
)
from tests.harness import eventually

EVERYONE = plan_of(Universe(inputs=(WEB,)))


def opened(url: str) -> ClickHouseBackend:
    """The store at a URL. It checkpoints only on request, and looks after its servers often."""
    settings = ClickHouseSettings(checkpoint_s=3_600.0, maintenance_s=0.1)
    return ClickHouseBackend.open(location_of(url.removeprefix("clickhouse:")), settings=settings)


def users(backend: ClickHouseBackend) -> set[str]:
    return set(backend.execute(EVERYONE, Members()).user_ids)


# --- failing servers ----------------------------------------------------------------------------------------


def test_a_start_sends_no_statement_to_a_silent_server(tmp_path: Path, databases: Databases) -> None:
    """Each would be waited for until it is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = databases.url(tmp_path / "gateway")
        ((one, *_), *_) = location_of(url.removeprefix("clickhouse:")).shards
        backend = opened(url.replace(one.name, f"{one.name}+127.0.0.1:{silent.getsockname()[1]}"))
        try:
            backend.append(ACCOUNT, [event("ada")])
            assert users(backend) == {"ada"}
        finally:
            backend.close()
        silent.settimeout(0)
        requests = []
        with suppress(BlockingIOError):
            while True:
                connection, _ = silent.accept()
                with connection:
                    requests.append(connection.recv(1 << 10).partition(b" HTTP")[0])
        assert set(requests) <= {b"GET /ping", b""}, requests
        assert b"GET /ping" in requests


@pytest.mark.skipif(bool(reason_without_cluster()), reason=reason_without_cluster())
def test_a_start_goes_on_with_a_replica_that_lacked_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica that has them is away. Both lack some then, and the log has entries to apply."""
    with started(tmp_path / "servers", 1, 2) as servers, databases_on(addresses(servers)) as databases:
        first, second = servers[0]
        url = databases.url(tmp_path / "gateway")
        backend = opened(url)
        backend.append(ACCOUNT, [event("ada")])
        backend.checkpoint()
        first.kill()
        backend.append(ACCOUNT, [event("bob")])
        monkeypatch.setattr(backend, "_checkpoint", lambda: 0)
        backend.close()
        second.kill()
        first.start()
        backend = opened(url)
        try:
            assert users(backend) == {"ada", "bob"}
            backend.append(ACCOUNT, [event("cyd")])
            assert users(backend) == {"ada", "bob", "cyd"}
            second.start()
            eventually(lambda: backend._rows.behind == {}, within_s=60)
            first.kill()
            assert users(backend) == {"ada", "bob", "cyd"}
        finally:
            backend.close()


@pytest.mark.skipif(bool(reason_without_cluster()), reason=reason_without_cluster())
def test_a_replica_may_be_away_and_a_shard_may_not(tmp_path: Path) -> None:
    with started(tmp_path / "servers", 1, 2) as servers, databases_on(addresses(servers)) as databases:
        first, second = servers[0]
        url = databases.url(tmp_path / "gateway")
        backend = opened(url)
        try:
            backend.append(ACCOUNT, [event("ada")])
            backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
            # 1. One is killed: writes and answers go on, also over a restart of the gateway.
            first.kill()
            backend.append(ACCOUNT, [event("bob")])
            backend.alias(ACCOUNT, "ada", "zoe")
            assert users(backend) == {"bob", "zoe"}
            backend.close()
            backend = opened(url)
            backend.append(ACCOUNT, [event("cyd")])
            assert users(backend) == {"bob", "cyd", "zoe"}
            # 2. It comes back and is given what it lacks; then it answers alone.
            first.start()
            eventually(lambda: backend._rows.behind == {}, within_s=60)
            second.kill()
            assert users(backend) == {"bob", "cyd", "zoe"}
            [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
            assert membership.size == 3
            # 3. Without both nothing is answered or taken, but what is stored here is.
            first.kill()
            with pytest.raises(StoreUnavailable):
                backend.execute(EVERYONE, Count())
            with pytest.raises(StoreUnavailable):
                backend.append(ACCOUNT, [event("dan", event_id="1")], request_id="r")
            with pytest.raises(StoreUnavailable):
                backend.append(ACCOUNT, [event("never")])
            assert backend.write_fault() is not None
            assert backend.published(ACCOUNT).contains(AUDIENCE, "bob") is True
            # 4. A write that was logged is applied once a server is back, and its repetition is known.
            first.start()
            eventually(lambda: backend.write_fault() is None, within_s=60)
            again = backend.append(ACCOUNT, [event("dan", event_id="1")], request_id="r")
            assert (again.accepted, again.repeated) == (1, True)
            second.start()
            eventually(lambda: backend._rows.behind == {}, within_s=60)
            first.kill()
            assert users(backend) == {"bob", "cyd", "dan", "zoe"}
        finally:
            backend.close()


def addresses(servers: list[list[ClickHouseServer]]) -> list[list[Address]]:
    return [[server.address for server in shard] for shard in servers]


# --- one server ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Stores on one server."""
    if reason := reason_not_to_start():
        pytest.skip(reason)
    with (
        started(tmp_path_factory.mktemp("servers"), 1, 1) as servers,
        databases_on(addresses(servers)) as made,
    ):
        yield made


def test_rows_of_erased_users_and_removed_events_are_swept(tmp_path: Path, databases: Databases) -> None:
    backend = opened(databases.url(tmp_path / "gateway"))
    try:
        backend.append(ACCOUNT, [event("ada", time=NOON - 9), event("bob"), update("bob", plan="gold")])
        backend.erase(ACCOUNT, ["bob"])
        backend.remove_events(ACCOUNT, NOON - 5)
        assert users(backend) == {"ada"}
        eventually(lambda: rows(backend, "facts") == 0 and rows(backend, "seen") == 1, within_s=30)
        backend.checkpoint()
        eventually(lambda: rows(backend, "events") == 0, within_s=30)
        assert backend.stats().events == 0
        assert users(backend) == {"ada"}
    finally:
        backend.close()


def rows(backend: ClickHouseBackend, table: str) -> int:
    """The rows stored in a table."""
    return sum(int(found[0][0]) for found in backend._cluster.read(f"SELECT count() FROM {table}"))


def test_a_gateway_older_than_its_cluster_is_refused(tmp_path: Path, databases: Databases) -> None:
    url, directory = databases.url(tmp_path / "gateway"), tmp_path / "gateway"
    backend = opened(url)
    backend.append(ACCOUNT, [event("ada")])
    backend.close()
    shutil.copytree(directory, tmp_path / "copy")
    backend = opened(url)
    backend.append(ACCOUNT, [event("bob")])
    backend.close()
    for part in ("index", "log"):
        for file in (tmp_path / "copy" / part).iterdir():
            (directory / part / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FailedPrecondition, match="older copy"):
        opened(url)


def test_servers_of_another_store_are_refused(tmp_path: Path, databases: Databases) -> None:
    url = databases.url(tmp_path / "gateway")
    opened(url).close()
    other = url.replace("/gateway", "/other")
    with pytest.raises(FailedPrecondition, match="belongs to another store"):
        opened(other)


def test_a_server_without_the_rows_is_refused(tmp_path: Path, databases: Databases) -> None:
    url = databases.url(tmp_path / "gateway")
    backend = opened(url)
    backend.append(ACCOUNT, [event("ada")])
    backend.close()
    with pytest.raises(FailedPrecondition, match="has no rows of this store"):
        opened(f"{url}_emptied")


def test_another_number_of_shards_is_refused(tmp_path: Path, databases: Databases) -> None:
    url = databases.url(tmp_path / "gateway")
    opened(url).close()
    with pytest.raises(FailedPrecondition, match="has 1 shards, and the URL names 2"):
        opened(url.replace("?", ",127.0.0.1:1?"))


def test_the_directories_of_gateways_and_stores_are_told_apart(tmp_path: Path, databases: Databases) -> None:
    opened(databases.url(tmp_path / "gateway")).close()
    with pytest.raises(FailedPrecondition, match="in a cluster"):
        LocalBackend.open(tmp_path / "gateway")
    local = LocalBackend.open(tmp_path / "local")
    local.append(ACCOUNT, [event("ada")])
    local.close()
    with pytest.raises(FailedPrecondition, match="embedded store"):
        opened(databases.url(tmp_path / "local"))


# --- URLs ---------------------------------------------------------------------------------------------------


def test_a_location_names_shards_replicas_and_the_directory() -> None:
    found = location_of("//gate:p%40ss@one:1+two:2,three?gateway=/var/gate&database=shop&secure=1")
    assert found.names == ["one:1", "two:2", "three:8443"]
    assert [len(shard) for shard in found.shards] == [2, 1]
    assert (found.gateway, found.database) == (Path("/var/gate"), "shop")
    assert {(each.user, each.password, each.is_secure) for shard in found.shards for each in shard} == {
        ("gate", "p@ss", True)
    }
    plain = location_of("//one?gateway=here")
    assert plain.names == ["one:8123"]
    assert msgspec.structs.replace(plain.shards[0][0], port=1).user == "default"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "one:1",
        "//one:1",
        "//one:1?gateway=",
        "//one:x?gateway=here",
        "//one:70000?gateway=here",
        "//one:1,?gateway=here",
        "//one:1+one:1?gateway=here",
        "//one:1/shop?gateway=here",
        "//one:1?gateway=here&shards=2",
        "//one:1?gateway=here&secure=yes",
        "//one:1?gateway=here&database=",
    ],
)
def test_a_malformed_location_is_refused(location: str) -> None:
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        location_of(location)
