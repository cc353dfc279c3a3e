"""Brings the tables of a server to the version of this build."""

from __future__ import annotations

from collections.abc import Collection

from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import (
    EVENTS,
    MIGRATIONS,
    PROMOTED,
    VALUES,
    Layout,
    Table,
    promoted_prefix,
    promotion,
    quoted,
)
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


def promote(server: Server, keys: Collection[str], layout: Layout | None = None) -> None:
    """Gives these event attributes columns of their own, and others no more. Rows from before keep being read
    from the maps until the server has written their columns, which it does in the background.
    """
    table = f"{EVENTS}{(layout or Layout()).on_cluster()}"
    own = f"database = currentDatabase() AND table = '{EVENTS}' AND startsWith(name, '{PROMOTED}')"
    found = {name for (name,) in server.query(f"SELECT name FROM system.columns WHERE {own}")}
    wanted = {key: [f"{promoted_prefix(key)}{value}" for value in VALUES] for key in keys}
    gone = sorted(found.difference(*wanted.values()))
    changes = f"database = currentDatabase() AND table = '{EVENTS}' AND NOT is_done"
    # Columns that are being written cannot be dropped. A later start drops them.
    if gone and not server.query(f"SELECT 1 FROM system.mutations WHERE {changes} LIMIT 1"):
        server.command(f"ALTER TABLE {table} {', '.join(f'DROP COLUMN IF EXISTS {name}' for name in gone)}")
    for key, names in wanted.items():
        if not found.issuperset(names):
            server.command(f"ALTER TABLE {table} {promotion(key)}")
            written = ", ".join(f"MATERIALIZE COLUMN {name}" for name in names)
            server.command(f"ALTER TABLE {table} {written} SETTINGS mutations_sync = 0")
