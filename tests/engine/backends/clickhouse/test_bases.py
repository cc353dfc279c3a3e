"""A base answers as the rows do. Where it is missing, a statement fails and does not find fewer users."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from engine.backends.base import Count, Members, UserRecord
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.rows import batch_of
from engine.backends.clickhouse.server import Address
from engine.backends.clickhouse.tables import HOT_MAX, PROFILES
from engine.backends.clickhouse.view import Base, View
from engine.backends.clickhouse.writer import Writer
from engine.criteria.model import Equals, Exists
from engine.criteria.operators import ResolvedTest
from engine.errors import StoreUnavailable
from engine.plan.model import (
    AttributeMatch,
    InstantRange,
    Intersection,
    Plan,
    SeenMatch,
    TimeRange,
    Universe,
)
from engine.values import Value
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.engine.backends.clickhouse.servers import fresh_cluster
from tests.oracle.world import Batch, Erase

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

ACCOUNT = "accounts/bases"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
INPUT = f"{WORKSPACE}/inputs/i"
USERS = 50


@pytest.fixture
def cluster(shards: list[list[Address]]) -> Iterator[Cluster]:
    with fresh_cluster(shards) as made:
        yield made


@pytest.fixture
def gateway(cluster: Cluster) -> Iterator[Gateway]:
    """User n has the attribute "tier" n % 5, and the input."""
    made = Gateway(cluster)
    made.happen(ACCOUNT, tiers({f"u{user}": f"t{user % 5}" for user in range(USERS)}))
    yield made
    made.close()


def tiers(of_users: dict[str, Value | None], time: int = 1) -> Batch:
    return Batch(tuple(UserRecord(user, INPUT, time, {"tier": tier}) for user, tier in of_users.items()))


def in_tier(*values: str) -> Plan:
    """Users of the input in each tier, and those with any."""
    tests: list[ResolvedTest] = [*(Equals(value) for value in values), Exists()]
    matches = [AttributeMatch(workspaces=(WORKSPACE,), key="tier", test=test) for test in tests]
    both = [Intersection(operands=(0, place + 1)) for place in range(len(matches))]
    roots = tuple(range(1 + len(matches), 1 + 2 * len(matches)))
    return Plan(account=ACCOUNT, as_of=0, steps=(Universe(inputs=(INPUT,)), *matches, *both), roots=roots)


PLAN = in_tier("t0", "t1")


def base_of(gateway: Gateway) -> Base:
    base = gateway.view(ACCOUNT).base
    assert base is not None
    return base


@pytest.mark.parametrize("seed", range(4))
def test_later_writes_win_over_the_base_unless_their_time_is_earlier(gateway: Gateway, seed: int) -> None:
    """With the attribute in a map, and in a column of its own."""
    gateway.build_base(ACCOUNT, random.Random(seed))
    assert gateway.sizes(PLAN) == [10, 10, 50]
    gateway.happen(ACCOUNT, tiers({"u0": "t1", "u5": None, "new": "t1"}, time=2))
    gateway.happen(ACCOUNT, tiers({"u10": "t1"}, time=0))
    assert gateway.sizes(PLAN) == [8, 12, 50]


def test_a_user_that_is_cut_is_in_the_base_no_more_even_once_the_cut_is_swept(gateway: Gateway) -> None:
    gateway.build_base(ACCOUNT, random.Random(0))
    gateway.happen(ACCOUNT, Erase(("u0", "u1")))
    assert gateway.sizes(PLAN) == [9, 9, 48]
    gateway.happen(ACCOUNT, tiers({"u1": "t0"}))
    assert gateway.sizes(PLAN) == [10, 9, 49]
    assert gateway.sweep(ACCOUNT)
    assert gateway.sizes(PLAN) == [10, 9, 49]
    gateway.build_base(ACCOUNT, random.Random(0))
    assert gateway.sizes(PLAN) == [10, 9, 49]


def seen(start: int | None, end: int | None, *, last: bool) -> SeenMatch:
    ranges = (TimeRange(start=start, end=end),)
    return SeenMatch(inputs=(INPUT,), last=last, test=InstantRange(ranges=ranges))


def test_users_that_came_after_the_base_were_first_seen_then(gateway: Gateway) -> None:
    """Times are on both sides of 1970, whose number is the one of a column without a value."""
    gateway.happen(ACCOUNT, Batch((UserRecord("old", INPUT, -7),)))
    gateway.build_base(ACCOUNT, random.Random(0))
    gateway.happen(
        ACCOUNT,
        Batch((UserRecord("new", INPUT, 5), UserRecord("newer", INPUT, -3), UserRecord("u0", INPUT, 9))),
    )
    steps = (
        *(seen(5, None, last=False), seen(None, 1, last=False), seen(1, 5, last=False)),
        *(seen(5, None, last=True), seen(None, 0, last=True), seen(-1, 1, last=True)),
    )
    plan = Plan(account=ACCOUNT, as_of=0, steps=steps, roots=tuple(range(len(steps))))
    assert gateway.sizes(plan) == [1, 2, 50, 2, 2, 0]
    assert gateway.found(plan)[0] == {"new"}
    assert gateway.found(plan)[1] == gateway.found(plan)[4] == {"old", "newer"}
    assert gateway.found(plan)[3] == {"new", "u0"}


def test_members_are_in_order_from_base_and_rows(gateway: Gateway) -> None:
    gateway.build_base(ACCOUNT, random.Random(0))
    gateway.happen(ACCOUNT, tiers({f"u{user}": "t1" for user in range(0, USERS, 10)}, time=2))
    plan = in_tier("t1")
    view = gateway.view(ACCOUNT)
    whole = gateway.plans.execute(view, plan, Members()).user_ids
    without = gateway.plans.execute(msgspec.structs.replace(view, base=None), plan, Members()).user_ids
    assert whole == without
    assert len(whole) == 15
    assert tuple(gateway.members(plan)) == whole


def test_a_plan_over_a_base_that_a_server_does_not_have_fails(gateway: Gateway) -> None:
    view = gateway.view(ACCOUNT)
    view = msgspec.structs.replace(view, base=Base(name="gone", revision=view.revision))
    with pytest.raises(StoreUnavailable, match="refuses statements with its error 395"):
        gateway.plans.execute(view, PLAN, Count())


def test_a_base_that_was_not_completed_is_not_used_and_dropped(
    gateway: Gateway, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server fails after some of the inserts."""
    gateway.build_base(ACCOUNT, random.Random(0))
    before = base_of(gateway)
    replica = next(cluster.replicas())
    command, left = replica.server.command, iter(range(5))

    def failing(statement: str) -> None:
        if next(left, None) is None:
            raise StoreUnavailable("it fails")
        command(statement)

    monkeypatch.setattr(replica.server, "command", failing)
    with pytest.raises(StoreUnavailable, match="it fails"):
        bases.build(cluster, [gateway.view(ACCOUNT)])
    monkeypatch.undo()
    names = f"SELECT DISTINCT base FROM {PROFILES}"
    assert len(replica.server.query(names)) == 2
    bases.drop(cluster, [before.name])
    assert replica.server.query(names) == [(before.name,)]
    assert gateway.sizes(PLAN) == [10, 10, 50]


def test_a_replica_that_is_behind_builds_no_base(gateway: Gateway, cluster: Cluster) -> None:
    view = gateway.view(ACCOUNT)
    next(cluster.replicas()).is_behind = True
    with pytest.raises(StoreUnavailable, match="lacks the latest writes"):
        bases.build(cluster, [view])


def test_more_hot_facts_than_there_are_columns_stay_in_the_maps(cluster: Cluster) -> None:
    keys = [f"key{number}" for number in range(HOT_MAX + 2)]
    values: dict[str, Value | None] = {key: f"value of {key}" for key in keys}
    writer = Writer(cluster)
    writer.add(batch_of(ACCOUNT, [UserRecord("ann", INPUT, 1, values)], revision=1, first_seq=0))
    writer.close()
    view = View(account=ACCOUNT, revision=1)
    built = bases.build(cluster, [view], {ACCOUNT: [(WORKSPACE, key) for key in keys]})
    assert len(built[ACCOUNT].hot) == HOT_MAX
    steps = tuple(
        AttributeMatch(workspaces=(WORKSPACE,), key=key, test=Equals(f"value of {key}")) for key in keys
    )
    plan = Plan(account=ACCOUNT, as_of=0, steps=steps, roots=tuple(range(len(steps))))
    view = msgspec.structs.replace(view, base=built[ACCOUNT])
    assert Plans(cluster).execute(view, plan, Count()).sizes == (1,) * len(keys)
