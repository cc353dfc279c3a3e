"""What a cluster costs beside plans: rows that come in, a base, users that are asked for, members, and the
time until an answer is right again after a server was killed.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from engine.backends.base import Backend, Contains, Count, EventRecord, Members, UserRecord
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.rows import Batch, batch_of
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import EVENTS, MIGRATIONS, Layout
from engine.backends.clickhouse.view import View
from engine.backends.clickhouse.writer import Writer
from engine.criteria.model import EventType
from engine.errors import StoreUnavailable
from engine.plan.model import Plan, Universe
from engine.values import MICROS_PER_DAY, partition_of
from tests.bench import synthetic
from tests.bench.cluster import HOT, processor_ms, run_long
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import ClickHouseServer, fresh_cluster, started

BATCH_EVENTS = (1_000, 10_000, 100_000)
EVENTS_A_SIZE = 200_000
"""Events that come in by batches of each size."""
CALLERS = (1, 16)
CALLER_BATCH_EVENTS = (1, 100, 1_000)
BATCHES_A_SIZE = 64
"""Batches through a gateway, of all callers together."""
DIRTY_USERS = (1, 100, 10_000)
TIMES = 5
FAILOVER_USERS = 2_000
RETRY_S = 0.02
FAILOVER_S_MAX = 120.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Milliseconds of processor time of a server and of this process, and of the clock."""

    what: str
    server_ms: float
    own_ms: float
    clock_ms: float


def run(
    view: View, headline: Plan, servers: Sequence[ClickHouseServer], cluster: Cluster, console: Console
) -> list[Cost]:
    """Measures over one server with the world of the table, and prints. The plan is asked of some users."""
    costs = [
        *_ingest(servers),
        *_callers(servers),
        *_asked_users(view, headline, servers, cluster),
        _members(view, servers, cluster),
        _base(view, servers, cluster),
    ]
    console.print(costs_table(costs, "Other work over one server (ms)"))
    for variant in _variants(servers, cluster):
        console.print(variant)
    return costs


def measured(what: str, servers: Sequence[ClickHouseServer], work: Iterator[None], times: float = 1) -> Cost:
    """The cost of work, divided by a number."""
    own, clock = time.process_time(), time.perf_counter()
    server_ms, _ = processor_ms(servers, lambda: [None for _ in work])
    return Cost(
        what=what,
        server_ms=server_ms / times,
        own_ms=(time.process_time() - own) * 1_000 / times,
        clock_ms=(time.perf_counter() - clock) * 1_000 / times,
    )


def _ingest(servers: Sequence[ClickHouseServer]) -> Iterator[Cost]:
    """Events into new tables, per thousand."""
    for size in BATCH_EVENTS:
        with fresh_cluster([[server.address] for server in servers]) as cluster:
            writer = Writer(cluster)
            batches = [_batch(number, size) for number in range(1, EVENTS_A_SIZE // size + 1)]
            what = f"1,000 events, {size:,} a batch"
            yield measured(what, servers, map(writer.add, batches), EVENTS_A_SIZE // 1_000)
            writer.close()


def _callers(servers: Sequence[ClickHouseServer]) -> Iterator[Cost]:
    """Events through a gateway, per thousand, by callers that send a batch each and wait."""
    with (
        tempfile.TemporaryDirectory() as directory,
        databases_on([[server.address] for server in servers]) as databases,
    ):
        backend = databases.open(Path(directory) / "gateway")
        numbers = itertools.count(1)
        for size, callers in itertools.product(CALLER_BATCH_EVENTS, CALLERS):
            batches = max(callers, min(BATCHES_A_SIZE, EVENTS_A_SIZE // size))
            sent = [
                [_records(next(numbers), size) for _ in range(batches // callers)] for _ in range(callers)
            ]
            events = size * sum(map(len, sent))
            what = f"1,000 events, {size:,} a batch, {callers} callers"
            yield measured(what, servers, _sending(backend, sent), events / 1_000)
        backend.close()


def _sending(backend: Backend, sent: Sequence[Sequence[Sequence[EventRecord]]]) -> Iterator[None]:
    def call(batches: Sequence[Sequence[EventRecord]]) -> None:
        for batch in batches:
            backend.append(synthetic.ACCOUNT, batch)

    threads = [threading.Thread(target=call, args=(batches,)) for batches in sent]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield


def _batch(number: int, size: int) -> Batch:
    records = _records(number, size)
    return batch_of(synthetic.ACCOUNT, records, revision=number, first_seq=number * size)


def _records(number: int, size: int) -> list[EventRecord]:
    return [
        EventRecord(
            f"u{(number * 7_919 + event * 104_729) % 1_000_003}",
            synthetic.INPUT,
            synthetic.NAMES[event % len(synthetic.NAMES)],
            EventType.CUSTOM,
            synthetic.START + number * 1_000_000 + event,
            {"amount": event % 50_000 / 100, "category": synthetic.CATEGORIES[event % 20]},
        )
        for event in range(size)
    ]


def _asked_users(
    view: View, plan: Plan, servers: Sequence[ClickHouseServer], cluster: Cluster
) -> Iterator[Cost]:
    """Flags of some users: what a refresh asks of those with new data."""
    plans = Plans(cluster)

    def asked(users: int) -> Iterator[None]:
        for turn in range(TIMES):
            ids = tuple(synthetic.user_id(turn * 13 + 7 * user) for user in range(users))
            assert len(plans.execute(view, plan, Contains(ids)).flags) == users
            yield

    for users in DIRTY_USERS:
        yield measured(f"flags of {users:,} users", servers, asked(users), TIMES)


def _members(view: View, servers: Sequence[ClickHouseServer], cluster: Cluster) -> Cost:
    """All members of an audience that is everyone: what activating it reads."""
    plan = Plan(
        account=synthetic.ACCOUNT,
        as_of=synthetic.NOW,
        steps=(Universe(inputs=(synthetic.INPUT,)),),
        roots=(0,),
    )
    found: list[int] = []

    def listed() -> Iterator[None]:
        found.append(len(Plans(cluster).execute(view, plan, Members()).user_ids))
        yield

    cost = measured("", servers, listed())
    return Cost(
        what=f"all {found[0]:,} members of an audience",
        server_ms=cost.server_ms,
        own_ms=cost.own_ms,
        clock_ms=cost.clock_ms,
    )


def _base(view: View, servers: Sequence[ClickHouseServer], cluster: Cluster) -> Cost:
    assert view.base is not None

    def built() -> Iterator[None]:
        bases.build(cluster, [view], {view.account: HOT})
        yield

    cost = measured("building a base", servers, built())
    bases.drop(cluster, [view.base.name])
    return cost


# --- other tables -------------------------------------------------------------------------------------------

VARIANTS: dict[str, tuple[str, str, int]] = {
    "as it is: Delta and ZSTD(1), 8,192 rows a granule": ("", "", 8_192),
    "LZ4 for ZSTD(1)": ("ZSTD(1)", "LZ4", 8_192),
    "ZSTD(3) for ZSTD(1)": ("ZSTD(1)", "ZSTD(3)", 8_192),
    "LZ4 for user alone": ("user String CODEC(ZSTD(1))", "user String CODEC(LZ4)", 8_192),
    "without Delta": ("Delta, ZSTD(1)", "ZSTD(1)", 8_192),
    "1,024 rows a granule": ("", "", 1_024),
    "32,768 rows a granule": ("", "", 32_768),
}
"""Tables of events with other codecs (what is replaced, and by what) and rows a granule."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Bytes of a row of a table of events, and milliseconds of processor time of a server to count the events
    of a dense name by user, and to find those of one user.
    """

    what: str
    row_bytes: float
    by_user_ms: float
    one_user_ms: float


def _variants(servers: Sequence[ClickHouseServer], cluster: Cluster) -> Iterator[Variant]:
    (replica,) = cluster.replicas()
    server = replica.server
    ((events, *_), *_) = MIGRATIONS
    for what, (old, new, granule) in VARIANTS.items():
        columns = events.columns.replace(old, new) if old else events.columns
        table = msgspec.structs.replace(events, name="variant", columns=columns)
        server.command(f"{table.statement(Layout())}, index_granularity = {granule}")
        run_long(server, f"INSERT INTO {table.name} SELECT * FROM {EVENTS}")
        run_long(server, f"OPTIMIZE TABLE {table.name} FINAL")
        rows = (
            f"FROM {table.name} WHERE account = '{synthetic.ACCOUNT}' AND name = '{synthetic.DENSE_NAMES[0]}'"
        )
        since = synthetic.END - 30 * MICROS_PER_DAY
        by_user = f"SELECT user {rows} AND time >= {since} AND rev <= 2 GROUP BY user HAVING count() >= 3"
        user = synthetic.user_id(7)
        one = f"SELECT time {rows} AND p = {partition_of(user)} AND user = '{user}'"
        ((size,),) = server.query(
            "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts"
            f" WHERE active AND database = currentDatabase() AND table = '{table.name}'"
        )
        yield Variant(
            what=what,
            row_bytes=round(size, 1),
            by_user_ms=_median_ms(servers, server, f"SELECT count() FROM ({by_user})"),
            one_user_ms=_median_ms(servers, server, f"SELECT count() FROM ({one})"),
        )
        server.command(f"DROP TABLE {table.name} SYNC")


def _median_ms(servers: Sequence[ClickHouseServer], server: Server, statement: str) -> float:
    asked = f"{statement} SETTINGS use_query_condition_cache = 0"
    times = [processor_ms(servers, lambda: server.query(asked))[0] for _ in range(2 * TIMES)]
    return round(statistics.median(times), 1)


# --- killed servers -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Failover:
    """Seconds from a fault to the end of the next right answer. `refused` counts answers that were
    UNAVAILABLE until then.
    """

    fault: str
    seconds: float
    refused: int


def failovers(directory: Path, console: Console) -> list[Failover]:
    """Kills and stalls servers of two shards of two replicas, and asks until the answer is right."""
    with ExitStack() as stack:
        servers = stack.enter_context(started(directory, 2, 2))
        addresses = [[server.address for server in shard] for shard in servers]
        cluster = stack.enter_context(fresh_cluster(addresses))
        writer = Writer(cluster)
        stack.callback(writer.close)
        records = [UserRecord(f"u{user}", synthetic.INPUT, 1, {"n": 1.0}) for user in range(FAILOVER_USERS)]
        writer.add(batch_of(synthetic.ACCOUNT, records, revision=1, first_seq=0))
        (first, second), _ = servers
        _until_right(cluster, "", time.monotonic())
        found = [_after("a replica was killed", first.kill, cluster)]
        first.start()
        _wait_until_read(cluster)
        found.append(_after("a replica stopped answering", first.stall, cluster))
        first.go_on()
        _wait_until_read(cluster)

        def both() -> None:
            first.kill()
            second.kill()

        both()
        found.append(_after("both replicas of a shard were killed, and one started", second.start, cluster))
        first.start()
    for each in found:
        console.print(f"{each.seconds:.2f} s and {each.refused} refused answers after {each.fault}")
    return found


def _wait_until_read(cluster: Cluster) -> None:
    """Lets replicas that failed be read first again."""
    while any(replica.is_resting for replica in cluster.replicas()):
        time.sleep(RETRY_S)


def _after(fault: str, cause: Callable[[], None], cluster: Cluster) -> Failover:
    began = time.monotonic()
    cause()
    return _until_right(cluster, fault, began)


def _until_right(cluster: Cluster, fault: str, began: float) -> Failover:
    plan = Plan(account=synthetic.ACCOUNT, as_of=0, steps=(Universe(inputs=(synthetic.INPUT,)),), roots=(0,))
    view = View(account=synthetic.ACCOUNT, revision=1)
    refused = 0
    while time.monotonic() - began < FAILOVER_S_MAX:
        try:
            size = Plans(cluster).execute(view, plan, Count()).sizes[0]
        except StoreUnavailable:
            refused += 1
            time.sleep(RETRY_S)
            continue
        assert size == FAILOVER_USERS, f"{size} users after {fault}"
        return Failover(fault=fault, seconds=time.monotonic() - began, refused=refused)
    raise AssertionError(f"no answer within {FAILOVER_S_MAX:g} s after {fault}")


def costs_table(costs: Sequence[Cost], title: str) -> Table:
    """Costs as a table."""
    table = Table(box=box.SIMPLE, title=title)
    table.add_column("work")
    for heading in ("CPU of the server", "CPU of this process", "by the clock"):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(cost.what, *(f"{each:.1f}" for each in (cost.server_ms, cost.own_ms, cost.clock_ms)))
    return table
