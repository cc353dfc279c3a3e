"""Tables are made once, and after an interruption the rest of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.backends.clickhouse import migrations, tables
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.migrations import VERSIONS, migrate, promote
from engine.backends.clickhouse.server import Address, Server
from engine.backends.clickhouse.tables import (
    BASES,
    COLUMNS,
    EVENTS,
    MIGRATIONS,
    PROFILES,
    VALUES,
    Layout,
    Table,
    promoted_prefix,
    promotion,
)
from engine.errors import FailedPrecondition, StoreUnavailable
from tests.engine.backends.clickhouse.servers import fresh_cluster


@pytest.fixture
def server(shards: list[list[Address]]) -> Iterator[Server]:
    """A server with all tables."""
    with fresh_cluster(shards[:1]) as cluster:
        yield next(iter(_servers(cluster)))


def _servers(cluster: Cluster) -> Iterator[Server]:
    return (replica.server for replica in cluster.replicas())


def columns_of(server: Server) -> dict[str, set[str]]:
    """The columns of each table, as the server has them."""
    found: dict[str, set[str]] = {}
    statement = "SELECT table, name FROM system.columns WHERE database = currentDatabase()"
    for table, column in server.query(statement):
        found.setdefault(table, set()).add(column)
    return found


def test_the_tables_have_the_columns_that_rows_are_inserted_into(server: Server) -> None:
    found = columns_of(server)
    assert found.keys() == {VERSIONS, PROFILES, BASES, *COLUMNS}
    for table, columns in COLUMNS.items():
        assert found[table] == set(columns)


def test_running_again_changes_nothing(server: Server) -> None:
    assert migrate(server) == migrate(server) == len(MIGRATIONS)
    versions = server.query(f"SELECT version FROM {VERSIONS} ORDER BY version")
    assert versions == [(number,) for number in range(1, len(MIGRATIONS) + 1)]


def test_an_interrupted_migration_goes_on_where_it_was(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second table of a migration fails. The version stays, and the next run makes what is missing."""
    good, bad = Table("one", "x UInt8", "x"), Table("two", "x NoSuchType", "x")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*tables.MIGRATIONS, (good, bad)))
    with pytest.raises(Exception, match="NoSuchType"):
        migrate(server)
    assert server.query(f"SELECT max(version) FROM {VERSIONS}") == [(len(tables.MIGRATIONS),)]
    mended = (good, Table("two", "x UInt8", "x"))
    monkeypatch.setattr(migrations, "MIGRATIONS", (*tables.MIGRATIONS, mended))
    assert migrate(server) == len(tables.MIGRATIONS) + 1
    assert {"one", "two"} <= columns_of(server).keys()


def test_tables_of_a_newer_build_are_left_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", ())
    with pytest.raises(FailedPrecondition, match="have version 3; this build knows 0: use the build"):
        migrate(server)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    nobody = Server(Address(host="127.0.0.1", port=1, password="secret"), "db")
    with pytest.raises(StoreUnavailable, match=r"^the server 127\.0\.0\.1:1 does not answer$"):
        migrate(nobody)


def statements(layout: Layout) -> list[str]:
    """What makes the tables of all versions."""
    return [table.statement(layout) for version in MIGRATIONS for table in version]


def test_tables_that_replicate_are_statements_that_a_server_can_read(server: Server) -> None:
    """A server of the tests has no Keeper: it reads the statements, and cannot run them."""
    layout = Layout(cluster="it's mine", keeper_path="/milepost/tables")
    for statement in statements(layout):
        assert " ON CLUSTER `it's mine` (" in statement
        assert "ReplicatedMergeTree('/milepost/tables/{shard}/" in statement
        server.command(f"EXPLAIN AST {statement}")
        with pytest.raises(Exception, match="Syntax error"):
            server.command(f"EXPLAIN AST {statement.replace('ENGINE =', 'ENGINE')} =")


def test_plain_tables_name_no_cluster() -> None:
    for statement in statements(Layout()):
        assert "Replicated" not in statement
        assert "ON CLUSTER" not in statement


def test_attributes_get_columns_once_and_lose_them_when_they_are_not_named(server: Server) -> None:
    keys = ("price", "it's `quoted` \0 here")
    own = {key: {f"{promoted_prefix(key)}{value}" for value in VALUES} for key in keys}
    plain = set(COLUMNS[EVENTS])
    for _ in range(2):
        promote(server, keys)
        assert columns_of(server)[EVENTS] == plain.union(*own.values())
    promote(server, keys[1:])
    assert columns_of(server)[EVENTS] == plain | own[keys[1]]
    promote(server, ())
    assert columns_of(server)[EVENTS] == plain


def test_columns_of_attributes_are_not_dropped_while_they_are_written(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(server, ("price",))
    query = server.query
    monkeypatch.setattr(server, "query", lambda text: [(1,)] if "mutations" in text else query(text))
    promote(server, ())
    assert f"{promoted_prefix('price')}number" in columns_of(server)[EVENTS]


def test_columns_of_attributes_on_a_cluster_are_a_statement_that_a_server_can_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the tests has no Keeper."""
    ran: list[str] = []
    monkeypatch.setattr(server, "command", ran.append)
    promote(server, ("price",), Layout(cluster="it's mine", keeper_path="/milepost/tables"))
    monkeypatch.undo()
    assert ran[0] == f"ALTER TABLE {EVENTS} ON CLUSTER `it's mine` {promotion('price')}"
    assert len(ran) == 2
    for statement in ran:
        assert " ON CLUSTER `it's mine` " in statement
        server.command(f"EXPLAIN AST {statement}")
