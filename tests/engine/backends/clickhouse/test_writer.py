"""Rows are stored once, on every replica, whatever is repeated and whatever fails."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.backends.base import Count, EventRecord, UserRecord
from engine.backends.clickhouse import writer as writer_module
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.rows import Batch, batch_of
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import COLUMNS
from engine.backends.clickhouse.view import View
from engine.backends.clickhouse.writer import Entry, Move, Writer
from engine.criteria.model import Aggregate, EventType
from engine.errors import DeadlineExceeded, StoreUnavailable
from engine.plan.model import EventMatch, EventSelection, Interval, Plan, Universe
from tests.engine.backends.clickhouse.servers import (
    ClickHouseServer,
    fresh_cluster,
    reason_without_cluster,
    started,
)

ACCOUNT = "accounts/writer"
INPUT = f"{ACCOUNT}/workspaces/w/inputs/i"
USERS = 60

Content = dict[str, list[Any]]


def batch(revision: int, users: int = USERS) -> Batch:
    """One event and one update of each user."""
    records = [
        record
        for user in range(users)
        for record in (
            EventRecord(f"u{user}", INPUT, "buy", EventType.CUSTOM, revision, {"price": 1.5, "in": True}),
            UserRecord(f"u{user}", INPUT, revision, {"tier": f"t{revision}", "gone": None}),
        )
    ]
    return batch_of(ACCOUNT, records, revision=revision, first_seq=revision * 1_000)


def content(server: Server) -> Content:
    """All rows of a server, by table."""
    return {
        table: sorted(map(repr, server.query(f"SELECT {', '.join(columns)} FROM {table}")))
        for table, columns in COLUMNS.items()
    }


def bought(times: int) -> Plan:
    """Users, and those with at least this many purchases."""
    steps = (
        Universe(inputs=(INPUT,)),
        EventMatch(
            selection=EventSelection(inputs=(INPUT,), name="buy"),
            aggregate=Aggregate.COUNT,
            intervals=(Interval(low=float(times)),),
        ),
    )
    return Plan(account=ACCOUNT, as_of=0, steps=steps, roots=(0, 1))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[ClickHouseServer]]]:
    """Two shards of two replicas, which are killed and started again."""
    if reason := reason_without_cluster():
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("cluster"), 2, 2) as servers:
        yield servers


@pytest.fixture
def cluster(shards: list[list[ClickHouseServer]]) -> Iterator[Cluster]:
    with fresh_cluster([[server.address for server in shard] for shard in shards]) as made:
        yield made


@pytest.fixture
def writer(cluster: Cluster) -> Iterator[Writer]:
    made = Writer(cluster)
    yield made
    made.close()


def sizes(cluster: Cluster, plan: Plan, revision: int, **of_view: Any) -> tuple[int, ...]:
    view = View(account=ACCOUNT, revision=revision, event_spans=(0,), **of_view)
    return Plans(cluster).execute(view, plan, Count()).sizes


def replicas_agree(cluster: Cluster) -> Content:
    """The rows of all shards; asserts that the replicas of each have the same."""
    both: Content = {table: [] for table in COLUMNS}
    for shard in cluster.shards:
        first, *others = [content(replica.server) for replica in shard.replicas]
        assert all(other == first for other in others)
        for table, rows in first.items():
            both[table] += rows
    return both


def test_a_batch_that_is_added_again_is_stored_once(cluster: Cluster, writer: Writer) -> None:
    """Also when other batches came between, and when a part of it had not been stored."""
    for revision in (1, 2, 1, 3, 2, 3):
        writer.add(batch(revision))
    stored = replicas_agree(cluster)
    assert {table: len(rows) for table, rows in stored.items()} == {
        "events": 3 * USERS,
        "facts": 6 * USERS,
        "seen": 3 * USERS,
        "ids": 0,
    }
    assert sizes(cluster, bought(3), 3) == (USERS, USERS)


def test_rows_of_later_revisions_do_not_count(cluster: Cluster, writer: Writer) -> None:
    for revision in (1, 2):
        writer.add(batch(revision))
    assert sizes(cluster, bought(2), 1) == (USERS, 0)
    assert sizes(cluster, bought(2), 2) == (USERS, USERS)
    assert sizes(cluster, bought(1), 0) == (0, 0)


def test_a_replica_that_failed_is_not_read_until_it_has_caught_up(
    shards: list[list[ClickHouseServer]], cluster: Cluster, writer: Writer
) -> None:
    """1. One replica of a shard is killed, and batches go on. 2. It is back, and lacks them: it is not read,
    so that killing the other one makes the shard unavailable, and no number smaller. 3. It catches up, and is
    read.
    """
    log = [batch(revision) for revision in (1, 2, 3)]
    writer.add(log[0])
    lost, other = shards[0]
    lost.kill()
    for each in log[1:]:
        writer.add(each)
    assert writer.behind == {lost.address.name: 1}
    assert sizes(cluster, bought(3), 3) == (USERS, USERS)

    lost.start()
    other.kill()
    with pytest.raises(
        StoreUnavailable, match=r"^partitions 0 to 511 cannot be read: .*lacks the latest writes"
    ):
        sizes(cluster, bought(3), 3)
    other.start()

    assert writer.catch_up(lambda since: log[since:]) == {}
    replicas_agree(cluster)
    other.kill()
    assert sizes(cluster, bought(3), 3) == (USERS, USERS)
    other.start()


def test_a_shard_without_replicas_is_an_error_and_its_batch_is_added_again(
    shards: list[list[ClickHouseServer]], cluster: Cluster, writer: Writer
) -> None:
    writer.add(batch(1))
    for server in shards[1]:
        server.kill()
    with pytest.raises(StoreUnavailable, match=r"^partitions 512 to 1023 cannot be written: "):
        writer.add(batch(2))
    with pytest.raises(StoreUnavailable, match=r"^partitions 512 to 1023 cannot be read: "):
        sizes(cluster, bought(1), 1)
    for server in shards[1]:
        server.start()
    assert sizes(cluster, bought(2), 1) == (USERS, 0)
    writer.add(batch(2))
    assert writer.behind == {}
    replicas_agree(cluster)
    assert sizes(cluster, bought(2), 2) == (USERS, USERS)


def test_a_replica_that_stalls_ends_no_answer_at_its_deadline_alone(
    shards: list[list[ClickHouseServer]], cluster: Cluster, writer: Writer
) -> None:
    """A server that is stopped keeps its connections. The caller gets DeadlineExceeded, not a part."""
    writer.add(batch(1))
    cluster.folding()
    view = View(account=ACCOUNT, revision=1, event_spans=(0,))
    for server in shards[0]:
        server.stall()
    try:
        with pytest.raises(DeadlineExceeded):
            Plans(cluster).execute(view, bought(1), Count(), deadline=time.monotonic() + 1)
    finally:
        for server in shards[0]:
            server.go_on()
    assert sizes(cluster, bought(1), 1) == (USERS, USERS)


@pytest.mark.parametrize("rows_at_once", [7, 50_000])
def test_moving_a_user_keeps_all_that_counts_of_it(
    cluster: Cluster, writer: Writer, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    """1. All users move to one, in either shard. 2. Each move is made twice, as after a crash. 3. Nothing
    counts before its revision, and everything once after.
    """
    monkeypatch.setattr(writer_module, "MOVED_ROWS_AT_ONCE", rows_at_once)
    users, revision = 12, 3
    for number in (1, 2, 3):
        writer.add(batch(number, users))
    cuts: dict[str, int] = {}
    for user in range(1, users):
        view = View(account=ACCOUNT, revision=revision, cuts=dict(cuts), event_spans=(0,))
        for _ in range(2):
            writer.add(Move(revision=revision + 1, source=f"u{user}", target="u0", view=view))
        assert sizes(cluster, bought(3 * user + 1), revision, cuts=cuts) == (users + 1 - user, 0)
        cuts[f"u{user}"] = revision
        revision += 1
    assert sizes(cluster, bought(3 * users), revision, cuts=cuts) == (1, 1)
    assert sizes(cluster, bought(3 * users + 1), revision, cuts=cuts) == (1, 0)
    replicas_agree(cluster)

    assert writer.sweep(View(account=ACCOUNT, revision=revision, cuts=cuts))
    assert sizes(cluster, bought(3 * users), revision) == (1, 1)
    swept = replicas_agree(cluster)
    assert len(swept["events"]) == 3 * users


def test_nothing_is_swept_while_a_replica_is_behind(cluster: Cluster, writer: Writer) -> None:
    """It would bring the rows back when it catches up."""
    writer.add(batch(1))
    before = replicas_agree(cluster)
    replica = cluster.shards[0].replicas[0]
    behind = Writer(cluster, revision=1, behind={replica.server.address.name: 0})
    view = View(account=ACCOUNT, revision=1, cuts={f"u{user}": 1 for user in range(USERS)})
    assert not behind.sweep(view)
    assert replicas_agree(cluster) == before
    assert behind.catch_up(lambda since: [batch(1)][since:]) == {}
    assert behind.sweep(view)
    assert replicas_agree(cluster) == {table: [] for table in COLUMNS}
    behind.close()


def test_batches_go_on_while_a_replica_catches_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is added after some inserts of the replica that catches up; in the end it has them all."""
    log: list[Entry] = [batch(revision) for revision in (1, 2, 3, 4)]
    first = Writer(cluster)
    for entry in log:
        first.add(entry)
    first.close()
    replica = cluster.shards[0].replicas[0]
    added = Writer(cluster, revision=4, behind={replica.server.address.name: 0})
    source = random.Random(7)
    insert = replica.server.insert

    def insert_and_add(table: str, columns: Any, token: str) -> None:
        insert(table, columns, token)
        if replica.is_behind and not added._lock.locked() and source.random() < 0.3:
            log.append(batch(len(log) + 1))
            added.add(log[-1])

    monkeypatch.setattr(replica.server, "insert", insert_and_add)
    assert added.catch_up(lambda since: log[since:]) == {}
    assert len(log) > 4, "no batch came meanwhile"
    replicas_agree(cluster)
    assert sizes(cluster, bought(len(log)), len(log)) == (USERS, USERS)
    added.close()


@pytest.mark.parametrize("is_stalled", [False, True])
def test_a_replica_catches_up_with_moves(
    shards: list[list[ClickHouseServer]],
    cluster: Cluster,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    is_stalled: bool,
) -> None:
    """A replica is gone, or silent, while users move, in pages. It gets their rows from another replica."""
    monkeypatch.setattr(writer_module, "MOVED_ROWS_AT_ONCE", 2)
    log: list[Entry] = [batch(revision, 8) for revision in (1, 2, 3)]
    for entry in log:
        writer.add(entry)
    lost = shards[0][0]
    lost.stall() if is_stalled else lost.kill()
    cuts: dict[str, int] = {}
    for user in range(7, 0, -1):
        view = View(account=ACCOUNT, revision=len(log), cuts=dict(cuts), event_spans=(0,))
        cuts[f"u{user}"] = len(log)
        move = Move(revision=len(log) + 1, source=f"u{user}", target=f"u{user // 2}", view=view)
        log.append(move)
        writer.add(move)
    assert writer.behind
    assert sizes(cluster, bought(3 * 8), len(log), cuts=cuts) == (1, 1)
    lost.go_on() if is_stalled else lost.start()
    assert writer.catch_up(lambda since: log[since:]) == {}
    replicas_agree(cluster)


def test_a_silent_replica_is_given_up_and_another_one_answers(
    shards: list[list[ClickHouseServer]], cluster: Cluster, writer: Writer
) -> None:
    """Reads and writes do not wait for a server that is stopped. An insert that it had begun to receive comes
    late, and is not stored twice.
    """
    log: list[Entry] = [batch(1), batch(2), batch(3)]
    writer.add(log[0])
    assert sizes(cluster, bought(1), 1) == (USERS, USERS)
    silent = shards[0][0]
    silent.stall()
    try:
        assert sizes(cluster, bought(1), 1) == (USERS, USERS)
        for entry in log[1:]:
            writer.add(entry)
        assert writer.behind == {silent.address.name: 1}
        assert sizes(cluster, bought(3), 3) == (USERS, USERS)
    finally:
        silent.go_on()
    assert writer.catch_up(lambda since: log[since:]) == {}
    replicas_agree(cluster)
