"""What events in a table of others cost that is read in place, beside the same events sent."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from engine.backends.base import Ask, Contains, Count, EventRecord
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.criteria.model import Aggregate, EventType
from engine.criteria.ranges import Interval
from engine.plan.model import EventMatch, EventSelection, Plan
from tests.bench import synthetic
from tests.bench.cluster_costs import Cost, costs_table, measured
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import ClickHouseServer, started
from tests.engine.backends.clickhouse.theirs import Theirs, their_table

MAPPED = f"{synthetic.ACCOUNT}/workspaces/theirs/inputs/table"
USERS = 20_000
EVENTS = 400_000
NAMES = 10
BATCH_EVENTS = 10_000
TIMES = 5
LAYOUTS = {"sorted by mark": "arrived", "sorted by name and user": "(what, customer)"}
"""Sorting keys of their table."""


def run(console: Console) -> list[Cost]:
    """Measures over one server, and prints."""
    with (
        tempfile.TemporaryDirectory(prefix="mapped-") as directory,
        started(Path(directory), 1, 1) as servers,
    ):
        costs = list(_costs(Path(directory), servers[0]))
    console.print(costs_table(costs, f"Events in a table of others: {EVENTS:,} of {USERS:,} users (ms)"))
    return costs


def _costs(directory: Path, servers: Sequence[ClickHouseServer]) -> Iterator[Cost]:
    settings = ClickHouseSettings(checkpoint_s=3_600.0, follow_s=3_600.0)
    shards = [[server.address for server in servers]]
    with databases_on(shards) as databases:
        for number, (layout, order) in enumerate(LAYOUTS.items()):
            location = location_of(databases.url(directory / str(number)).removeprefix("clickhouse:"))
            backend = ClickHouseBackend.open(location, settings=settings)
            with their_table(shards) as theirs:
                _fill(theirs, order)
                backend.map_events(MAPPED, theirs.table, 0.0)
                what = f"1,000 rows followed, {layout}"
                yield measured(what, servers, _followed(backend), EVENTS / 1_000)
                if not number:
                    yield measured("1,000 events sent", servers, _sent(backend), EVENTS / 1_000)
                    yield from _asked(backend, synthetic.INPUT, "sent", servers)
                yield from _asked(backend, MAPPED, layout, servers)
                backend.erase(synthetic.ACCOUNT, [_user(0)])
                yield from _asked(backend, MAPPED, f"{layout}, a user erased", servers)
            backend.close()


def _user(number: int) -> str:
    return f"user-{number:05}"


def _fill(theirs: Theirs, order: str) -> None:
    theirs.run("DROP TABLE rows SYNC")
    theirs.run(
        "CREATE TABLE rows (customer String, what LowCardinality(String), at Int64, arrived UInt64,"
        f" amounts Map(String, Float64)) ENGINE = MergeTree ORDER BY {order}"
    )
    theirs.run(
        f"INSERT INTO rows SELECT concat('user-', leftPad(toString(number * 7919 % {USERS}), 5, '0')),"
        f" concat('name-', toString(number % {NAMES})), {synthetic.START} + number, number + 1,"
        f" map('amount', number % 50000 / 100) FROM numbers({EVENTS})"
    )
    theirs.make_view("SELECT customer AS user, what AS name, at AS time, arrived AS mark, amounts AS numbers")


def _followed(backend: ClickHouseBackend) -> Iterator[None]:
    backend.follow()
    yield


def _sent(backend: ClickHouseBackend) -> Iterator[None]:
    for start in range(0, EVENTS, BATCH_EVENTS):
        backend.append(synthetic.ACCOUNT, [_event(number) for number in range(start, start + BATCH_EVENTS)])
        yield


def _event(number: int) -> EventRecord:
    return EventRecord(
        _user(number * 7_919 % USERS),
        synthetic.INPUT,
        f"name-{number % NAMES}",
        EventType.CUSTOM,
        synthetic.START + number,
        {"amount": number % 50_000 / 100},
    )


def _asked(
    backend: ClickHouseBackend, through: str, what: str, servers: Sequence[ClickHouseServer]
) -> Iterator[Cost]:
    some = tuple(map(_user, range(1, 101)))
    asked: Sequence[tuple[str, Aggregate, Ask[Any]]] = (
        ("a count of everyone", Aggregate.COUNT, Count()),
        ("a sum of everyone", Aggregate.SUM, Count()),
        ("flags of 1 user", Aggregate.COUNT, Contains(some[:1])),
        ("flags of 100 users", Aggregate.COUNT, Contains(some)),
    )
    for question, aggregate, ask in asked:
        yield measured(f"{question}, {what}", servers, _answers(backend, through, aggregate, ask), TIMES)


def _answers(backend: ClickHouseBackend, through: str, aggregate: Aggregate, ask: Ask[Any]) -> Iterator[None]:
    for turn in itertools.islice(itertools.count(1), TIMES):
        step = EventMatch(
            selection=EventSelection(inputs=(through,), name=f"name-{turn}"),
            aggregate=aggregate,
            of="amount" if aggregate is Aggregate.SUM else "",
            intervals=(Interval(low=float(turn)),),
        )
        backend.execute(Plan(account=synthetic.ACCOUNT, as_of=synthetic.NOW, steps=(step,), roots=(0,)), ask)
        yield
