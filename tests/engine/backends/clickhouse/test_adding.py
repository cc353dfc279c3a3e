"""A shard is added to a store: whole partitions move, and every answer stays, whatever interrupts it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Members
from engine.backends.base.moving import Moved, MoveProgress
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.moving import adding
from engine.backends.clickhouse.server import Address, Server
from engine.backends.clickhouse.tables import EVENTS
from engine.errors import FailedPrecondition, StoreUnavailable
from engine.plan.model import EventMatch, EventSelection, Interval
from engine.values import PARTITION_COUNT, partition_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, WEB, event, plan_of, update
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.servers import reason_not_to_start, started
from tests.engine.backends.clickhouse.test_mapped import SHOP
from tests.engine.backends.clickhouse.test_store import EVERYONE, opened, users
from tests.engine.backends.clickhouse.theirs import their_table

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

USERS = 40
TWICE = plan_of(
    EventMatch(selection=EventSelection(inputs=(WEB,), name="buy"), intervals=(Interval(low=2.0),))
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Address]]:
    """Three servers, each a shard."""
    if reason := reason_not_to_start():
        pytest.skip(reason)
    with started(tmp_path_factory.mktemp("servers"), 3, 1) as made:
        yield [server.address for (server,) in made]


@pytest.fixture
def databases(servers: list[Address]) -> Iterator[Databases]:
    with databases_on([[server] for server in servers]) as made:
        yield made


@pytest.fixture
def urls(tmp_path: Path, databases: Databases, servers: list[Address]) -> list[str]:
    """The store over one, two and three shards."""
    whole = databases.url(tmp_path / "gateway")
    names = [server.name for server in servers]
    return [whole.replace(",".join(names), ",".join(names[:count])) for count in (1, 2, 3)]


@pytest.fixture
def filled(urls: list[str]) -> None:
    backend = opened(urls[0])
    for number in range(2):
        backend.append(
            ACCOUNT, [event(f"u{n}", event_id=f"{number}-{n}") for n in range(0, USERS, 1 + number)]
        )
    backend.append(ACCOUNT, [update(f"u{n}", plan="gold") for n in range(USERS)])
    backend.erase(ACCOUNT, ["u1"])
    backend.alias(ACCOUNT, "u3", "u5")
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.close()


def test_users_of_tables_of_others_move_too(urls: list[str], servers: list[Address]) -> None:
    with their_table([[server] for server in servers]) as theirs:
        backend = opened(urls[0])
        backend.map_events(SHOP, theirs.table, 0.0)
        names = [f"u{n}" for n in range(USERS)]
        theirs.insert([event(name, through=SHOP) for name in names])
        backend.follow()
        for number in range(0, USERS, 4):
            backend.alias(ACCOUNT, names[number], names[number + 1])
        backend.erase(ACCOUNT, [names[2]])
        backend.alias(ACCOUNT, names[3], names[2])
        expected = {*names[2::2], *names[1::4], *names[7::4]} - set(names[::4])
        rows = EventMatch(selection=EventSelection(inputs=(SHOP,)), intervals=(Interval(low=1.0),))
        for url in urls[1:]:
            backend.close()
            add(url)
            backend = opened(url)
            assert set(backend.execute(plan_of(rows), Members()).user_ids) == expected
            theirs.insert([event(names[0], through=SHOP), event(names[3], through=SHOP)])
            backend.follow()
            assert set(backend.execute(plan_of(rows), Members()).user_ids) == expected
        backend.close()


LEFT = {f"u{n}" for n in range(USERS)} - {"u1", "u3"}
BOUGHT_TWICE = {f"u{n}" for n in range(0, USERS, 2)} | {"u5"}


def add(url: str) -> Moved:
    return adding.add_shard(url.removeprefix("clickhouse:"), _ignored)


def _ignored(progress: MoveProgress) -> None:
    assert 0 < progress.pages <= progress.pages_total


def check(url: str, *more: str) -> None:
    """All answers, and that each row is on the shard of its partition and nowhere else."""
    backend = opened(url)
    try:
        assert users(backend) == LEFT | set(more)
        assert set(backend.execute(TWICE, Members()).user_ids) == BOUGHT_TWICE
        assert set(backend.stored_members(AUDIENCE, Members()).user_ids) == LEFT
        assert backend.append(ACCOUNT, [event("u7", event_id="0-7")]).duplicates == 1
        listed = backend.execute(EVERYONE, Members()).user_ids
        assert list(listed) == sorted(listed, key=lambda user: (partition_of(user), user.encode()))
        assert _misplaced(backend) == 0
    finally:
        backend.close()


def _misplaced(backend: ClickHouseBackend) -> int:
    return sum(
        int(rows[0][0])
        for shard in backend._cluster.shards
        for replica in shard.replicas
        for rows in [
            replica.server.query(
                f"SELECT count() FROM {EVENTS} WHERE p < {shard.partitions.start}"
                f" OR p >= {shard.partitions.stop}"
            )
        ]
    )


@pytest.mark.usefixtures("filled")
def test_shards_are_added_one_after_the_other(urls: list[str]) -> None:
    assert add(urls[1]).users == len(LEFT)
    check(urls[1])
    backend = opened(urls[1])
    backend.append(ACCOUNT, [update("later", plan="gold")])
    backend.close()
    add(urls[2])
    check(urls[2], "later")
    with pytest.raises(FailedPrecondition, match="has 3 shards, and the URL names 2"):
        opened(urls[1])


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("step", ["copying", "switching", "deleting"])
def test_adding_a_shard_goes_on_after_an_interruption(
    urls: list[str], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before the switch the store is served as it was, and takes writes; then with the new shard."""
    insert, command = Server.insert, Server.command
    left = iter(range(random.randrange(3)))

    def failing(self: Server, table: str, columns: Any, token: str) -> None:
        if next(left, None) is None:
            raise StoreUnavailable("it ends")
        insert(self, table, columns, token)

    def not_deleting(self: Server, statement: str) -> None:
        if statement.startswith("DELETE") and str(PARTITION_COUNT - 1) in statement:
            raise StoreUnavailable("it ends")
        command(self, statement)

    def ending(*given: object) -> None:
        raise StoreUnavailable("it ends")

    if step == "copying":
        monkeypatch.setattr(Server, "insert", failing)
    elif step == "switching":
        monkeypatch.setattr(adding, "write_owner", ending)
    else:
        monkeypatch.setattr(Server, "command", not_deleting)
    with pytest.raises(StoreUnavailable):
        add(urls[1])
    monkeypatch.undo()
    if step == "deleting":
        with pytest.raises(FailedPrecondition, match="has 2 shards"):
            opened(urls[0])
        check(urls[1])
        return
    backend = opened(urls[0])
    backend.append(ACCOUNT, [update("later", plan="gold")])
    backend.close()
    check(urls[0], "later")
    add(urls[1])
    check(urls[1], "later")


@pytest.mark.usefixtures("filled")
def test_another_number_of_shards_and_other_rows_are_refused(urls: list[str], tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="has 1 shards, and the URL names 3"):
        add(urls[2])
    other = urls[1].replace("/gateway", "/other").replace(urls[0].split("@")[1].split("?")[0] + ",", "")
    opened(other).close()
    with pytest.raises(FailedPrecondition, match="belongs to another store"):
        add(urls[1])
    check(urls[0])
