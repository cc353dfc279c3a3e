"""Tables of others, read in place: what counts at a revision, whom it refreshes, and what is refused."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.backends.base import Ask, Contains, Count, EventNameFacts, EventRecord, Members
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway import follower
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.moving.mapping import map_events, recount_events, unmap_events
from engine.backends.clickhouse.query import mapped as query
from engine.backends.clickhouse.server import Address, Server
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.criteria.model import Aggregate, Equals, EventType
from engine.criteria.ranges import Interval
from engine.errors import FailedPrecondition, InvalidInput, NotFound, StoreUnavailable
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, Plan, Universe
from engine.values import MICROS_PER_HOUR, partition_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB, event, plan_of, update
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import ClickHouseServer, reason_not_to_start, started
from tests.engine.backends.clickhouse.theirs import VIEW, Theirs, their_table

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

SHOP = f"{ACCOUNT}/workspaces/s/inputs/shop"
BOTH = (SHOP, WEB)
EVERYONE = plan_of(Universe(inputs=BOTH))


def bought(least: float, *, aggregate: Aggregate = Aggregate.COUNT, of: str = "") -> Plan:
    """Users by an aggregate over their purchases."""
    return plan_of(
        EventMatch(
            selection=EventSelection(inputs=BOTH, name="buy"),
            aggregate=aggregate,
            of=of,
            intervals=(Interval(low=least),),
        )
    )


def buy(user_id: str, price: float | None = None) -> EventRecord:
    """A purchase as a row."""
    bare = event(user_id, through=SHOP)
    return bare if price is None else msgspec.structs.replace(bare, attributes={"price": price})


@pytest.fixture
def theirs(shards: list[list[Address]]) -> Iterator[Theirs]:
    with their_table(shards) as made:
        yield made


def opened(url: str) -> ClickHouseBackend:
    """The store at a URL. It checkpoints and follows only on request."""
    settings = ClickHouseSettings(checkpoint_s=3_600.0, maintenance_s=0.1, follow_s=3_600.0)
    return ClickHouseBackend.open(location_of(url.removeprefix("clickhouse:")), settings=settings)


@pytest.fixture
def backend(url: str, theirs: Theirs) -> Iterator[ClickHouseBackend]:
    """A store with the table as events of an input."""
    made = opened(url)
    made.map_events(SHOP, theirs.table, 0.0)
    yield made
    made.close()


def users(backend: ClickHouseBackend, plan: Plan = EVERYONE) -> set[str]:
    found = set(backend.execute(plan, Members()).user_ids)
    assert backend.execute(plan, Count()).sizes == (len(found),)
    return found


# --- what counts --------------------------------------------------------------------------------------------


def test_rows_are_events_once_they_are_followed(backend: ClickHouseBackend, theirs: Theirs) -> None:
    backend.append(ACCOUNT, [event("ada"), update("eve", through=SHOP, plan="gold")])
    theirs.insert([buy("ada", price=2.0), buy("bob", price=3.5)])
    before = backend.revision()
    assert users(backend) == {"ada", "eve"}
    backend.follow()
    assert backend.revision() == before + 1
    assert users(backend) == {"ada", "bob", "eve"}
    assert users(backend, bought(2.0)) == {"ada"}
    assert users(backend, bought(3.5, aggregate=Aggregate.SUM, of="price")) == {"bob"}
    assert backend.stats().events == 3
    profile = backend.profile(ACCOUNT, "bob")
    assert profile is not None
    assert profile.seen == {SHOP: (NOON, NOON)}
    assert backend.event_names(ACCOUNT, input=SHOP, limit=9) == (
        EventNameFacts(
            name="buy", input=SHOP, type=EventType.CUSTOM, events=2, users=2, first_time=NOON, last_time=NOON
        ),
    )
    backend.follow()
    assert backend.revision() == before + 1, "nothing is new"


def test_events_cannot_be_sent_through_the_input(backend: ClickHouseBackend, theirs: Theirs) -> None:
    with pytest.raises(InvalidInput, match=r"shop are those of a table that is read in place"):
        backend.append(ACCOUNT, [event("ada"), buy("ada")])
    assert users(backend) == set()
    backend.append(ACCOUNT, [update("ada", through=SHOP, plan="gold")])
    assert users(backend) == {"ada"}


def test_wrong_rows_are_left_out(backend: ClickHouseBackend, theirs: Theirs) -> None:
    theirs.insert(
        [buy(""), buy("x" * 257), event("ada", "", through=SHOP), event("ada", "n" * 257, through=SHOP)]
    )
    theirs.run(
        "INSERT INTO rows (customer, what, at, kind, arrived) VALUES ('bob', 'buy', 1, 'NO_TYPE', 900)"
    )
    theirs.run(
        "INSERT INTO rows (customer, what, at, kind, arrived) VALUES ('\\xFF', 'buy', 1, 'CUSTOM', 901)"
    )
    theirs.insert(
        [buy("ada", price=math.nan), buy("bob", price=1.0), buy("x" * 256, price=math.inf)], mark=902
    )
    backend.follow()
    assert users(backend) == {"ada", "bob", "x" * 256}
    assert users(backend, bought(1.0)) == {"ada", "bob", "x" * 256}
    assert users(backend, bought(-1.0, aggregate=Aggregate.MAX, of="price")) == {"bob"}
    assert backend.stats().events == 3


def test_of_rows_at_one_instant_the_mark_decides_and_then_the_number(
    backend: ClickHouseBackend, theirs: Theirs
) -> None:
    """An event that was sent comes before them, whenever it came."""
    theirs.insert([buy("ada", price=1.0), buy("ada", price=5.0), buy("bob", price=9.0)])
    theirs.insert(
        [buy("ada", price=2.0), buy("ada", price=4.0), buy("ada", price=3.0)], mark=theirs.next_mark()
    )
    backend.follow()
    backend.append(ACCOUNT, [event("ada", price=7.0), event("bob", price=8.0)])
    for least, last, first in ((4.0, {"ada", "bob"}, {"ada", "bob"}), (4.5, {"bob"}, {"ada", "bob"})):
        assert users(backend, bought(least, aggregate=Aggregate.LAST, of="price")) == last
        assert users(backend, bought(least, aggregate=Aggregate.FIRST, of="price")) == first
    assert users(backend, bought(8.5, aggregate=Aggregate.FIRST, of="price")) == set()


def test_marks_and_times_may_be_instants(url: str, theirs: Theirs) -> None:
    theirs.run(
        "ALTER TABLE rows ADD COLUMN moment DateTime64(3, 'UTC'), ADD COLUMN came DateTime64(6, 'UTC')"
    )
    theirs.make_view(
        "SELECT customer AS user, what AS name, moment AS time, came AS mark,"
        " mapApply((k, v) -> (k, fromUnixTimestamp64Micro(v)), moments) AS times"
    )
    columns = "customer, what, moment, came, moments"
    backend = opened(url)
    try:
        backend.map_events(SHOP, theirs.table, 0.0)
        for second, user in enumerate(("ada", "bob", "cyd")):
            theirs.run(
                f"INSERT INTO rows ({columns}) VALUES ('{user}', 'buy', toDateTime64({second}, 3, 'UTC'),"
                f" fromUnixTimestamp64Micro(toInt64({second + 1})), map('due', {second}))"
            )
            backend.follow()
        profile = backend.profile(ACCOUNT, "cyd")
        assert profile is not None
        assert profile.seen == {SHOP: (2_000_000, 2_000_000)}
        assert users(backend, bought(1.0)) == {"ada", "bob", "cyd"}
        [facts] = backend.event_attributes(ACCOUNT, "buy", limit=9)
        assert (facts.key, facts.first_time, facts.last_time) == ("due", 0, 2_000_000)
    finally:
        backend.close()


def test_a_mark_counts_once_it_has_settled(url: str, theirs: Theirs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(follower, "monotonic", lambda: now)
    backend = opened(url)
    try:
        backend.map_events(SHOP, theirs.table, 5.0)
        theirs.insert([buy("ada")])
        backend.follow()
        # 1. A later mark is known later; a row with an earlier one comes late, and in time.
        now = 103.0
        theirs.insert([buy("cyd")], mark=9)
        theirs.insert([buy("bob")], mark=1)
        backend.follow()
        assert users(backend) == set()
        # 2. Each counts five seconds after it became known.
        now = 105.0
        backend.follow()
        assert users(backend) == {"ada", "bob"}
        now = 108.0
        backend.follow()
        assert users(backend) == {"ada", "bob", "cyd"}
    finally:
        backend.close()


def test_an_insert_with_one_mark_counts_in_pieces(
    backend: ClickHouseBackend, theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each revision has whole partitions of users, in order, and an erasure amid them what counted then."""
    monkeypatch.setattr(follower, "ROWS_AT_ONCE", 4)
    names = sorted((f"u{n}" for n in range(20)), key=lambda name: (partition_of(name), name))
    theirs.insert([buy(name) for name in names for _ in range(2)], mark=5)
    looks = backend._follower._pieces(ACCOUNT, backend._table_of(ACCOUNT, SHOP))
    for count in range(2, 12, 2):
        next(looks)
        assert users(backend, bought(2.0)) == set(names[:count])
        assert users(backend) == set(names[:count])
    backend.erase(ACCOUNT, [names[0], names[19]])
    del looks
    backend.follow()
    assert users(backend, bought(2.0)) == set(names[1:])
    theirs.insert([buy(names[0])], mark=6)
    backend.follow()
    assert users(backend, bought(1.0)) == set(names)
    assert users(backend, bought(2.0)) == set(names[1:])


# --- aliases, erasures, removals ----------------------------------------------------------------------------


def test_aliases_and_erasures_reach_rows(backend: ClickHouseBackend, theirs: Theirs, url: str) -> None:
    theirs.insert([buy("anon"), buy("ada"), buy("bob"), buy("cyd")])
    backend.follow()
    # 1. Rows before an alias and after it are those of the user; chains work, and aliases before any row.
    backend.alias(ACCOUNT, "anon", "phone")
    backend.alias(ACCOUNT, "phone", "ada")
    backend.alias(ACCOUNT, "later", "bob")
    assert users(backend) == {"ada", "bob", "cyd"}
    theirs.insert([buy("anon"), buy("phone"), buy("later")])
    backend.follow()
    assert users(backend) == {"ada", "bob", "cyd"}
    assert users(backend, bought(4.0)) == {"ada"}
    assert users(backend, bought(2.0)) == {"ada", "bob"}
    assert backend.execute(bought(4.0), Contains(("anon", "ada", "bob"))).flags == (
        (True,),
        (True,),
        (False,),
    )
    # 2. An erasure takes the rows of all ids. Afterwards they are ids of their own, and later rows count.
    backend.erase(ACCOUNT, ["anon"])
    assert users(backend) == {"bob", "cyd"}
    theirs.insert([buy("anon"), buy("ada")])
    backend.follow()
    assert users(backend) == {"ada", "anon", "bob", "cyd"}
    assert users(backend, bought(2.0)) == {"bob"}
    # 3. So does one of an id that has no data but aliases.
    backend.alias(ACCOUNT, "x", "y")
    backend.erase(ACCOUNT, ["y"])
    theirs.insert([buy("x")])
    backend.follow()
    assert users(backend) == {"ada", "anon", "bob", "cyd", "x"}
    # 4. All of it is in the log, and in the index.
    expected = users(backend, bought(1.0))
    backend._checkpoint = lambda: 0  # type: ignore[method-assign]
    backend.close()
    for _ in range(2):
        backend = opened(url)
        assert users(backend) == users(backend, bought(1.0)) == expected
        assert users(backend, bought(2.0)) == {"bob"}
        backend.close()


def test_aliases_that_were_there_before_reach_rows(url: str, theirs: Theirs) -> None:
    backend = opened(url)
    try:
        backend.append(ACCOUNT, [event("ada")])
        backend.alias(ACCOUNT, "anon", "ada")
        backend.checkpoint()
        backend.alias(ACCOUNT, "phone", "ada")
        backend.map_events(SHOP, theirs.table, 0.0)
        theirs.insert([buy("anon"), buy("phone")])
        backend.follow()
        assert users(backend) == users(backend, bought(3.0)) == {"ada"}
    finally:
        backend.close()


def test_removed_rows_do_not_count(backend: ClickHouseBackend, theirs: Theirs) -> None:
    old = NOON - MICROS_PER_HOUR
    theirs.insert([event("ada", through=SHOP, time=old), buy("ada"), event("bob", through=SHOP, time=old)])
    backend.follow()
    assert backend.remove_events(ACCOUNT, NOON) == backend.revision()
    assert users(backend, bought(1.0)) == {"ada"}
    assert users(backend, bought(2.0)) == set()
    assert users(backend) == {"ada", "bob"}
    assert backend.remove_events(ACCOUNT, NOON) == backend.revision(), "none are left"
    # Rows that are followed later are not among those that were removed.
    theirs.insert([event("bob", through=SHOP, time=old)])
    backend.follow()
    assert users(backend, bought(1.0)) == {"ada", "bob"}


def test_members_enter_and_exit_by_rows(backend: ClickHouseBackend, theirs: Theirs) -> None:
    def refreshed() -> tuple[int, set[str]]:
        [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], once)
        return membership.size, set(backend.stored_members(AUDIENCE, Members()).user_ids)

    once = plan_of(
        EventMatch(
            selection=EventSelection(inputs=BOTH, name="buy"), intervals=(Interval(low=1.0, high=1.0),)
        )
    )
    theirs.insert([buy("ada"), buy("bob"), event("cyd", "view", through=SHOP)])
    backend.follow()
    assert refreshed() == (2, {"ada", "bob"})
    theirs.insert([buy("ada"), buy("cyd")])
    assert refreshed() == (2, {"ada", "bob"})
    backend.follow()
    assert backend.published(ACCOUNT).contains(AUDIENCE, "ada") is None, "it may have changed"
    assert backend.published(ACCOUNT).contains(AUDIENCE, "bob") is True
    assert refreshed() == (2, {"bob", "cyd"})
    backend.alias(ACCOUNT, "cyd", "bob")
    assert refreshed() == (0, set())
    backend.erase(ACCOUNT, ["bob"])
    theirs.insert([buy("cyd")])
    backend.follow()
    assert refreshed() == (1, {"cyd"})
    backend.unmap_events(SHOP)
    assert refreshed() == (0, set())
    assert users(backend) == {"ada", "cyd"}


# --- tables that cannot be read -----------------------------------------------------------------------------


def test_a_table_without_its_rows_is_unavailable_and_nothing_else(
    backend: ClickHouseBackend, theirs: Theirs
) -> None:
    gold = plan_of(AttributeMatch(workspaces=(WEB.partition("/inputs")[0],), key="plan", test=Equals("gold")))
    web = plan_of(
        EventMatch(selection=EventSelection(inputs=(WEB,), name="buy"), intervals=(Interval(low=1.0),))
    )
    backend.append(ACCOUNT, [event("ada"), update("ada", plan="gold")])
    theirs.insert([buy("ada"), buy("bob"), buy("cyd")])
    backend.follow()
    assert users(backend, bought(1.0)) == {"ada", "bob", "cyd"}
    questions: tuple[Ask[Any], ...] = (Count(), Members(), Contains(("ada",)))
    for break_it, mend in (
        ("DELETE FROM rows WHERE customer = 'bob'", ""),
        ("DROP VIEW events", VIEW),
        ("CREATE OR REPLACE VIEW events AS SELECT customer AS user FROM rows", VIEW),
    ):
        theirs.run(break_it)
        for question in questions:
            with pytest.raises(StoreUnavailable):
                backend.execute(bought(1.0), question)
        with pytest.raises(StoreUnavailable):
            backend.event_names(ACCOUNT, limit=9)
        assert users(backend, gold) == users(backend, web) == {"ada"}
        assert users(backend) == {"ada", "bob", "cyd"}
        assert [each.name for each in backend.event_names(ACCOUNT, input=WEB, limit=9)] == ["buy"]
        if mend:
            theirs.make_view(mend)
        else:
            theirs.insert([buy("bob")], mark=2)
        assert users(backend, bought(1.0)) == {"ada", "bob", "cyd"}


def test_rows_that_came_late_are_refused_until_they_are_counted(
    backend: ClickHouseBackend, theirs: Theirs, url: str
) -> None:
    theirs.insert([buy("ada"), buy("bob")])
    backend.follow()
    [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], bought(1.0))
    assert membership.size == 2
    theirs.insert([buy("zoe"), buy("ada")], mark=1)
    backend.follow()
    with pytest.raises(StoreUnavailable, match=r"has 4 rows of .* where 2 were followed"):
        users(backend, bought(1.0))
    assert users(backend) == {"ada", "bob"}
    backend.close()
    recount_events(url.removeprefix("clickhouse:"), SHOP)
    backend = opened(url)
    try:
        assert users(backend) == users(backend, bought(1.0)) == {"ada", "bob", "zoe"}
        [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], bought(1.0))
        assert membership.size == 3
        # Rows that are gone are taken as gone in the same way.
        theirs.run("DELETE FROM rows WHERE customer = 'bob'")
        backend.recount_events(SHOP)
        assert users(backend, bought(1.0)) == {"ada", "zoe"}
        [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], bought(1.0))
        assert membership.size == 2
        assert backend.stats().events == 3
    finally:
        backend.close()


def test_a_server_is_asked_for_its_rows_before_the_first_statement(
    backend: ClickHouseBackend, theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement takes its rows before it counts them, so a count that is right may come too late."""
    theirs.insert([buy("ada"), buy("bob")])
    backend.follow()
    theirs.run("DELETE FROM rows WHERE customer = 'bob'")
    monkeypatch.setattr(query, "complete", lambda mapped: "1")
    with pytest.raises(StoreUnavailable, match=r"has 1 rows of .* where 2 were followed"):
        users(backend, bought(1.0))
    theirs.insert([buy("bob")], mark=2)
    assert users(backend, bought(1.0)) == {"ada", "bob"}


def test_a_server_whose_rows_are_late_is_not_read(tmp_path: Path) -> None:
    if reason := reason_not_to_start():
        pytest.skip(reason)
    with (
        started(tmp_path / "servers", 1, 2) as servers,
        databases_on([[each.address for each in shard] for shard in servers]) as databases,
        their_table([[each.address for each in shard] for shard in servers]) as theirs,
    ):
        first, second = theirs.servers
        backend = opened(databases.url(tmp_path / "gateway"))
        try:
            backend.map_events(SHOP, theirs.table, 0.0)
            theirs.insert([buy("ada")])
            backend.follow()
            # 1. While the servers differ nothing more counts, and what counts is answered.
            theirs.insert([buy("bob")], mark=2, servers=[first])
            with pytest.raises(StoreUnavailable, match="different numbers of new rows"):
                backend.follow()
            assert users(backend, bought(1.0)) == {"ada"}
            theirs.insert([buy("bob")], mark=2, servers=[second])
            backend.follow()
            assert users(backend, bought(1.0)) == {"ada", "bob"}
            # 2. One that lacks rows is not read, however often it is asked first.
            theirs.run("DELETE FROM rows WHERE customer = 'ada'", [first])
            for _ in range(4):
                assert users(backend, bought(1.0)) == {"ada", "bob"}
            theirs.run("DELETE FROM rows WHERE customer = 'bob'", [second])
            with pytest.raises(StoreUnavailable):
                users(backend, bought(1.0))
            # 3. A server that comes back without rows that were followed meanwhile is not read either.
            theirs.insert([buy("ada")], mark=1, servers=[first])
            assert users(backend, bought(1.0)) == {"ada", "bob"}
            servers[0][1].kill()
            theirs.insert([buy("cyd")], mark=3, servers=[first])
            backend.follow()
            servers[0][1].start()
            assert users(backend, bought(1.0)) == {"ada", "bob", "cyd"}
        finally:
            backend.close()


class ServerWith(ClickHouseServer):
    """A server with options."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self._options = options

    def command(self, port: int) -> Sequence[str]:
        return [*super().command(port), *self._options]


@pytest.fixture
def native(tmp_path: Path) -> Iterator[tuple[ClickHouseServer, int, Path]]:
    """A server that others can read through its native port, that port, and a file that names it as a
    cluster `there`.
    """
    if reason := reason_not_to_start():
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = f"<host>127.0.0.1</host><port>{port}</port>"
    clusters = tmp_path / "clusters.xml"
    clusters.write_text(
        f"<clickhouse><remote_servers><there><shard><replica>{place}</replica></shard></there>"
        "</remote_servers></clickhouse>"
    )
    with ServerWith(tmp_path / "there", f"--tcp_port={port}") as server:
        yield server, port, clusters


@pytest.mark.parametrize("is_distributed", [False, True])
def test_a_view_may_read_another_server(
    tmp_path: Path, native: tuple[ClickHouseServer, int, Path], is_distributed: bool
) -> None:
    """By the function `remote`, and by a table with the engine `Distributed`."""
    there, port, clusters = native
    with (
        ServerWith(tmp_path / "here", f"--config-file={clusters}") as here,
        databases_on([[here.address]]) as databases,
        their_table([[there.address]]) as theirs,
    ):
        theirs.run("SYSTEM START LISTEN TCP")
        reader = Server(here.address, theirs.database)
        reader.make_database(f"CREATE DATABASE {theirs.database}")
        rows = f"remote('127.0.0.1:{port}', {theirs.database}.rows)"
        if is_distributed:
            engine = f"Distributed(there, {theirs.database}, rows)"
            reader.command(f"CREATE TABLE all_rows ENGINE = {engine}")
            rows = f"{theirs.database}.all_rows"
        reader.command(f"CREATE VIEW events AS {VIEW} FROM {rows}")
        reader.close()
        backend = opened(databases.url(tmp_path / "gateway"))
        try:
            # 1. What counts is what counts of rows that are here.
            backend.map_events(SHOP, theirs.table, 0.0)
            theirs.insert([buy("ada", price=2.0), buy("bob"), buy("ada", price=1.5)])
            backend.follow()
            assert users(backend) == {"ada", "bob"}
            assert users(backend, bought(2.0)) == {"ada"}
            assert users(backend, bought(3.5, aggregate=Aggregate.SUM, of="price")) == {"ada"}
            backend.alias(ACCOUNT, "bob", "ada")
            backend.erase(ACCOUNT, ["ada"])
            theirs.insert([buy("cyd")])
            backend.follow()
            assert users(backend) == users(backend, bought(1.0)) == {"cyd"}
            # 2. Rows that are gone there, and a server that is gone, are noticed here.
            theirs.run("DELETE FROM rows WHERE customer = 'cyd'")
            with pytest.raises(StoreUnavailable, match="where 4 were followed"):
                users(backend, bought(1.0))
            there.kill()
            with pytest.raises(StoreUnavailable):
                users(backend, bought(1.0))
            assert users(backend) == {"cyd"}
        finally:
            backend.close()


# --- mapping ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "reason"),
    [
        ("SELECT customer AS user, what AS name, at AS time", "has no column 'mark'"),
        (
            "SELECT toUInt64(1) AS user, what AS name, at AS time, arrived AS mark",
            "the column 'user' is UInt64; expected String",
        ),
        (
            "SELECT customer AS user, what AS name, toNullable(at) AS time, arrived AS mark",
            r"the column 'time' is Nullable\(Int64\)",
        ),
        (
            "SELECT customer AS user, what AS name, at AS time, arrived AS mark, map('a', 1) AS numbers",
            r"the column 'numbers' is Map\(String, UInt8\); expected Map\(String, Float64\)",
        ),
    ],
)
def test_a_table_in_another_form_is_refused(url: str, theirs: Theirs, select: str, reason: str) -> None:
    backend = opened(url)
    try:
        theirs.make_view(select)
        with pytest.raises(InvalidInput, match=reason):
            backend.map_events(SHOP, theirs.table, 0.0)
        with pytest.raises(StoreUnavailable):
            backend.map_events(SHOP, "nowhere.events", 0.0)
        for wrong in ("events", ".events", "nowhere."):
            with pytest.raises(InvalidInput, match=r"expected DATABASE\.NAME"):
                backend.map_events(SHOP, wrong, 0.0)
        with pytest.raises(FailedPrecondition, match="are not those of a table"):
            backend.unmap_events(SHOP)
    finally:
        backend.close()


def test_a_table_is_mapped_and_unmapped_while_no_service_runs(url: str, theirs: Theirs) -> None:
    location = url.removeprefix("clickhouse:")
    with pytest.raises(NotFound):
        map_events(location, SHOP, f"input/{SHOP}", theirs.table, 0.0)
    backend = opened(url)
    backend.documents.commit({f"input/{SHOP}": b"x"})
    backend.close()
    map_events(location, SHOP, f"input/{SHOP}", theirs.table, 0.0)
    with pytest.raises(FailedPrecondition, match="already"):
        map_events(location, SHOP, f"input/{SHOP}", theirs.table, 0.0)
    theirs.insert([buy("ada")])
    backend = opened(url)
    backend.follow()
    assert users(backend, bought(1.0)) == {"ada"}
    backend.close()
    unmap_events(location, SHOP)
    backend = opened(url)
    assert users(backend, bought(1.0)) == set()
    backend.alias(ACCOUNT, "anon", "ada")
    backend.erase(ACCOUNT, ["ada"])
    backend.close()
    # Mapped again it goes on where it was: also what was erased meanwhile stays so.
    theirs.insert([buy("anon"), buy("bob")])
    map_events(location, SHOP, f"input/{SHOP}", theirs.table, 0.0)
    backend = opened(url)
    assert users(backend, bought(1.0)) == set()
    backend.follow()
    assert users(backend, bought(1.0)) == users(backend) == {"anon", "bob"}
    assert backend.stats().events == 3
    backend.close()


def test_an_input_that_is_forgotten_has_no_table_any_more(backend: ClickHouseBackend, theirs: Theirs) -> None:
    theirs.insert([buy("ada")])
    backend.follow()
    backend.erase(ACCOUNT, ["ada"])
    backend.forget(ACCOUNT, SHOP)
    theirs.insert([buy("bob")])
    backend.follow()
    assert users(backend) == set()
    with pytest.raises(FailedPrecondition, match="are not those of a table"):
        backend.unmap_events(SHOP)
