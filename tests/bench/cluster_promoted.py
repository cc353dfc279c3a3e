"""What columns of their own save for event attributes, beside the maps of all attributes of a kind.

Both tables have the same rows, and answers are compared.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.query.compiler import compile_plan
from engine.backends.clickhouse.query.literals import text
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import EVENTS, MIGRATIONS, Layout, promotion
from engine.backends.clickhouse.view import View
from engine.criteria.conditions import WhereAttribute
from engine.criteria.model import Aggregate, Equals
from engine.criteria.operators import NumberRange
from engine.criteria.ranges import Interval, TimeRange
from engine.plan.model import EventMatch, EventSelection, Plan, RowFilter
from engine.values import MICROS_PER_DAY
from tests.bench import synthetic
from tests.bench.cluster import TABLE_WIDTH, processor_ms, run_long
from tests.engine.backends.clickhouse.servers import ClickHouseServer, fresh_cluster, started

PROMOTED = "events_with_columns"
"""The table with columns."""
KEYS = ("category", "amount")
NAMES = 10
EVENTS_A_USER = 20
WIDTHS = (2, 12)
"""Attributes of an event, half of them strings and half of them numbers."""
TURNS = 7
"""The first is not counted."""
_DAYS = 90


@dataclass(frozen=True, kw_only=True)
class Saved:
    """One form over events of some width: milliseconds of processor time of the server and bytes that it
    read, by the maps and by columns.
    """

    form: str
    width: int
    users: int
    map_ms: float
    column_ms: float
    map_bytes: int
    column_bytes: int


def run(events: int, console: Console) -> list[Saved]:
    """Measures over one server, and prints. Raises AssertionError when answers differ."""
    if not console.is_terminal:
        console.width = max(console.width, TABLE_WIDTH)
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="promoted-") as directory,
        started(Path(directory), 1, 1) as servers,
    ):
        for width in WIDTHS:
            with fresh_cluster([[server.address for server in servers[0]]]) as cluster:
                (replica,) = cluster.replicas()
                sizes = _fill(replica.server, events, width)
                console.print(f"{width} attributes: {sizes[0]:.1f} bytes a row, {sizes[1]:.1f} with columns")
                found += list(_measured(cluster, servers[0], width))
    console.print(_table(found, events))
    return found


# --- tables -------------------------------------------------------------------------------------------------


def _fill(server: Server, events: int, width: int) -> tuple[float, float]:
    """Fills the events, and a table like it with columns. Returns the bytes of a row of each."""
    ((table, *_), *_) = MIGRATIONS
    server.command(msgspec.structs.replace(table, name=PROMOTED).statement(Layout()))
    for key in KEYS:
        server.command(f"ALTER TABLE {PROMOTED} {promotion(key)}")
    more = range(1, width // 2)
    strings = [
        "'category'",
        f"concat('category ', substring('abcdefghijklmnopqrst', cityHash64(number) % {20} + 1, 1))",
        *(
            piece
            for each in more
            for piece in (f"'text{each}'", f"toString(cityHash64(number, {each}) % 1000)")
        ),
    ]
    numbers = [
        "'amount'",
        "toFloat64(cityHash64(number, 'n') % 50000) / 100",
        *(
            piece
            for each in more
            for piece in (f"'number{each}'", f"toFloat64(cityHash64({each}, number) % 1000)")
        ),
    ]
    step = _DAYS * MICROS_PER_DAY // events
    rows = (
        f"SELECT {text(synthetic.ACCOUNT)}, concat('name-', toString(number % {NAMES})),"
        " toUInt16(bitShiftRight(xxh3(user), 54)) AS p,"
        f" concat('u', toString(cityHash64(number, 'u') % {events // EVENTS_A_USER})) AS user,"
        f" {synthetic.START} + number * {step}, {text(synthetic.INPUT)}, 1, number, 1,"
        f" map({', '.join(strings)}), map({', '.join(numbers)}), map(), map(), map() FROM numbers({events})"
    )
    run_long(server, f"INSERT INTO {EVENTS} {rows}")
    run_long(server, f"INSERT INTO {PROMOTED} SELECT * FROM {EVENTS}")
    for name in (EVENTS, PROMOTED):
        run_long(server, f"OPTIMIZE TABLE {name} FINAL")
    ((size, wider_size),) = server.query(
        f"SELECT sumIf(bytes_on_disk, table = '{EVENTS}') / {events},"
        f" sumIf(bytes_on_disk, table = '{PROMOTED}') / {events} FROM system.parts"
        " WHERE active AND database = currentDatabase()"
    )
    return size, wider_size


# --- questions ----------------------------------------------------------------------------------------------


def _forms() -> dict[str, EventMatch]:
    """Over one name of ten, in 30 days unless the form says otherwise."""
    equals: RowFilter = WhereAttribute(key="category", test=Equals("category c"))
    least: RowFilter = WhereAttribute(key="amount", test=NumberRange(intervals=(Interval(low=400.0),)))
    month = TimeRange(start=synthetic.END - 30 * MICROS_PER_DAY, end=synthetic.END)
    one = Interval(low=1.0)

    def match(
        where: RowFilter | None, time: TimeRange, aggregate: Aggregate = Aggregate.COUNT, low: float = 1.0
    ) -> EventMatch:
        return EventMatch(
            selection=EventSelection(inputs=(synthetic.INPUT,), name="name-3", time=time, where=where),
            aggregate=aggregate,
            of="" if aggregate is Aggregate.COUNT else "amount",
            intervals=(msgspec.structs.replace(one, low=low),),
        )

    ever = TimeRange()
    return {
        "count, no where": match(None, month),
        "count, where string equals": match(equals, month),
        "count, where string equals, all time": match(equals, ever),
        "count, where number at least": match(least, month),
        "count, where number at least, all time": match(least, ever),
        "sum >= 300": match(None, month, Aggregate.SUM, 300.0),
        "sum >= 300, where string equals": match(equals, month, Aggregate.SUM, 300.0),
    }


def _measured(cluster: Cluster, servers: Sequence[ClickHouseServer], width: int) -> Iterator[Saved]:
    (replica,) = cluster.replicas()
    for form, step in _forms().items():
        plan = Plan(account=synthetic.ACCOUNT, as_of=synthetic.NOW, steps=(step,), roots=(0,))
        view = View(account=synthetic.ACCOUNT, revision=1, event_spans=())
        by_map, by_column = (_statement(cluster, plan, view, promoted) for promoted in ((), KEYS))
        statements = (by_map, by_column.replace(f"FROM {EVENTS} ", f"FROM {PROMOTED} "))
        times: tuple[list[float], list[float]] = ([], [])
        users: set[int] = set()
        for _ in range(TURNS):
            for statement, own in zip(statements, times, strict=True):
                ask = functools.partial(replica.server.query, statement)
                milliseconds, rows = processor_ms(servers, ask)
                own.append(milliseconds)
                users.add(rows[0][0])
        assert len(users) == 1, f"{form}: {users}"
        map_ms, column_ms = (statistics.median(own[1:]) for own in times)
        yield Saved(
            form=form,
            width=width,
            users=users.pop(),
            map_ms=map_ms,
            column_ms=column_ms,
            map_bytes=_read_bytes(replica.server, statements[0]),
            column_bytes=_read_bytes(replica.server, statements[1]),
        )


def _statement(cluster: Cluster, plan: Plan, view: View, promoted: Sequence[str]) -> str:
    by_user = compile_plan(plan, view, cluster.folding(), promoted=promoted).by_user((0,))
    return f"SELECT countIf(s0) FROM ({by_user}) SETTINGS use_query_condition_cache = 0"


def _read_bytes(server: Server, statement: str) -> int:
    return int(server._connected().query(statement).summary["read_bytes"])


def _table(found: Sequence[Saved], events: int) -> Table:
    table = Table(box=box.SIMPLE, title=f"Attributes in maps and in columns, {events:,} events")
    table.add_column("form")
    for heading in ("attributes", "users", "CPU, maps", "CPU, columns", "ratio", "MB, maps", "MB, columns"):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.form,
            f"{each.width}",
            f"{each.users:,}",
            f"{each.map_ms:.0f}",
            f"{each.column_ms:.0f}",
            f"{each.map_ms / each.column_ms:.2f}",
            f"{each.map_bytes / 1e6:.1f}",
            f"{each.column_bytes / 1e6:.1f}",
        )
    return table
