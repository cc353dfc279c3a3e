"""Brings the tables of a server to the version of this build."""

from __future__ import annotations

from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import MIGRATIONS, Layout, Table, quoted
from engine.errors import FailedPrecondition

VERSIONS = "schema_versions"


def migrate(server: Server, layout: Layout | None = None) -> int:
    """Makes the database and the tables that are missing, and returns their version. Running it again, also
    after it was interrupted, is safe. Raises FailedPrecondition when a newer build made the tables.
    """
    layout = layout or Layout()
    database = f"{quoted(server.database)}{layout.on_cluster()}"
    server.make_database(f"CREATE DATABASE IF NOT EXISTS {database} ENGINE = Atomic")
    server.command(Table(VERSIONS, "version UInt32", "version").statement(layout))
    ((version,),) = server.query(f"SELECT max(version) FROM {VERSIONS}")
    if version > len(MIGRATIONS):
        raise FailedPrecondition(
            f"the tables in {server.database!r} have version {version}; this build knows {len(MIGRATIONS)}:"
            " use the build that made them, or a newer one"
        )
    for number, tables in enumerate(MIGRATIONS[version:], version + 1):
        for table in tables:
            server.command(table.statement(layout))
        server.command(f"INSERT INTO {VERSIONS} VALUES ({number})")
    return len(MIGRATIONS)
