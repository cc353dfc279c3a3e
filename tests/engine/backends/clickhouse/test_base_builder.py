"""A store in a cluster builds bases by itself, and answers the same with, without and amid them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import msgspec
import pytest

from engine.backends.base import Count, Members
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway import base_builder
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.backends.clickhouse.tables import BASES, PROFILES
from engine.backends.clickhouse.view import Base
from engine.criteria.model import Equals
from engine.errors import StoreUnavailable
from engine.plan.model import AttributeMatch, Plan, Universe
from tests.conformance.site import ACCOUNT, NOON, SHOP, WEB, plan_of, update
from tests.engine.backends.clickhouse.test_store import users
from tests.harness import eventually

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

USERS = 30
GOLD = plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold")))
NEVER = 1 << 60


def opened(url: str, writes_min: int = NEVER) -> ClickHouseBackend:
    """The store; by default it builds only on request."""
    settings = ClickHouseSettings(checkpoint_s=3_600.0, maintenance_s=0.05, base_writes_min=writes_min)
    return ClickHouseBackend.open(location_of(url.removeprefix("clickhouse:")), settings=settings)


@pytest.fixture
def backend(url: str) -> Iterator[ClickHouseBackend]:
    made = opened(url)
    made.append(ACCOUNT, [update(f"u{n}", plan="gold" if n % 3 == 0 else "none") for n in range(USERS)])
    yield made
    made.close()


def base_of(backend: ClickHouseBackend) -> Base | None:
    return backend._cluster_state.rows.of(ACCOUNT).base


def build(backend: ClickHouseBackend) -> Base:
    return backend._bases.build(ACCOUNT, threading.Event())


def golden(backend: ClickHouseBackend) -> int:
    return backend.execute(GOLD, Count()).sizes[0]


def stored(backend: ClickHouseBackend) -> set[str]:
    """The bases that the servers have something of."""
    found: set[str] = set()
    for table, column in ((BASES, "name"), (PROFILES, "base")):
        for rows in backend._cluster.read(f"SELECT DISTINCT {column} FROM {table}"):
            found |= {name for (name,) in rows}
    return found


# --- when ---------------------------------------------------------------------------------------------------


def test_a_base_is_built_after_enough_writes_and_for_enough_of_the_users(url: str) -> None:
    """1. Too few writes. 2. Enough, of an account without one. 3. Enough, but for too many users. 4. Half of
    them are written again.
    """
    backend = opened(url, writes_min=10)
    try:
        backend.append(ACCOUNT, [update(f"u{n}") for n in range(9)])
        assert backend._bases.due() is None
        backend.append(ACCOUNT, [update(f"u{n}") for n in range(9, 60)])
        eventually(lambda: base_of(backend), within_s=30)
        backend.append(ACCOUNT, [update(f"u{n}") for n in range(29)])
        assert backend._bases.due() is None
        backend.append(ACCOUNT, [update("u0")])
        assert backend._bases.due() == ACCOUNT
    finally:
        backend.close()


def test_none_is_built_while_a_server_lacks_writes(backend: ClickHouseBackend) -> None:
    backend._bases._writes_min = 1
    assert backend._bases.due() == ACCOUNT
    next(backend._cluster.replicas()).is_behind = True
    assert backend._bases.due() is None


def test_facts_that_are_asked_about_get_columns(backend: ClickHouseBackend) -> None:
    backend.append(ACCOUNT, [update("u0", other="x")])
    assert build(backend).hot == ()
    golden(backend)
    assert build(backend).hot == ((SHOP, "plan"),)
    assert golden(backend) == 10


# --- answers ------------------------------------------------------------------------------------------------


def test_answers_go_on_over_later_writes_erasures_and_moves(backend: ClickHouseBackend) -> None:
    build(backend)
    assert golden(backend) == 10
    backend.append(
        ACCOUNT, [update("u1", time=NOON + 1, plan="gold"), update("u0", time=NOON + 1, plan=None)]
    )
    backend.erase(ACCOUNT, ["u3"])
    backend.alias(ACCOUNT, "u6", "u2")
    # Of equal times the later arrival wins: what u2 wrote itself came before the values of u6.
    before = set(backend.execute(GOLD, Members()).user_ids)
    assert before - {"u2"} == {"u1", *(f"u{n}" for n in range(9, USERS, 3))}
    assert before == _without_base(backend, GOLD)
    build(backend)
    assert set(backend.execute(GOLD, Members()).user_ids) == before


def test_a_user_erased_before_while_and_after_a_base_is_built_stays_erased(
    backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once its cut has been swept and forgotten."""
    backend.erase(ACCOUNT, ["u0"])
    built = bases.build

    def erasing(*given: object, **named: object) -> object:
        made = built(*given, **named)  # type: ignore[arg-type]
        backend.erase(ACCOUNT, ["u3"])
        backend.checkpoint()
        return made

    monkeypatch.setattr(bases, "build", erasing)
    build(backend)
    monkeypatch.undo()
    backend.erase(ACCOUNT, ["u6"])
    assert golden(backend) == 7
    backend.checkpoint()
    eventually(lambda: not backend._cluster_state.rows.of(ACCOUNT).cuts, within_s=30)
    assert golden(backend) == 7
    assert users(backend) == {f"u{n}" for n in range(USERS)} - {"u0", "u3", "u6"}
    backend.append(ACCOUNT, [update("u3", plan="gold")])
    assert golden(backend) == 8


def test_random_writes_amid_builds_count_as_without_bases(backend: ClickHouseBackend) -> None:
    seed = random.randrange(2**32)
    source = random.Random(seed)
    plan = plan_of(
        Universe(inputs=(WEB,)), AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold"))
    )
    for number in range(40):
        user = f"u{source.randrange(USERS)}"
        match source.randrange(10):
            case 0:
                build(backend)
            case 1:
                backend.erase(ACCOUNT, [user])
            case 2:
                backend.checkpoint()
            case _:
                value = source.choice(("gold", "none", None))
                backend.append(ACCOUNT, [update(user, time=NOON + source.randrange(number + 1), plan=value)])
        found = set(backend.execute(plan, Members()).user_ids)
        rows = backend._cluster_state.rows
        base = rows.of(ACCOUNT).base
        without = _without_base(backend, plan)
        assert found == without, f"seed {seed}, step {number}, base {base}"


def _without_base(backend: ClickHouseBackend, plan: Plan) -> set[str]:
    with backend._cluster_state.viewing(ACCOUNT) as view:
        bare = msgspec.structs.replace(view, base=None)
        return set(backend._plans.execute(bare, plan, Members()).user_ids)


# --- failures -----------------------------------------------------------------------------------------------


def test_the_base_in_use_is_dropped_only_when_no_question_reads_it(backend: ClickHouseBackend) -> None:
    first = build(backend)
    done = threading.Event()
    with backend._cluster_state.viewing(ACCOUNT) as view:

        def build_again() -> None:
            build(backend)
            done.set()

        building = threading.Thread(target=build_again)
        building.start()
        eventually(lambda: base_of(backend) != first)
        assert view.base == first
        assert first.name in stored(backend)
        assert backend._plans.execute(view, GOLD, Count()).sizes == (10,)
        assert not done.is_set()
    building.join()
    second = base_of(backend)
    assert second is not None
    assert stored(backend) == {second.name}


@pytest.mark.parametrize("fails_at", ["insert", "checkpoint", "drop"])
def test_a_process_that_ends_while_a_base_is_built_goes_on_with_the_one_before(
    url: str, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """1. One base is in use. 2. The process ends while the next one is filled, before the switch is stored,
    or before the old one is dropped. 3. The next process answers, and a build leaves one base.
    """
    backend = opened(url)
    backend.append(ACCOUNT, [update(f"u{n}", plan="gold") for n in range(USERS)])
    first = build(backend)
    backend.append(ACCOUNT, [update("new", plan="gold")])
    # No write is left that a checkpoint would be due for.
    backend.checkpoint()
    command, left = Server.command, iter(range(3))

    def failing(self: Server, statement: str) -> None:
        if f"INTO {PROFILES}" in statement and next(left, None) is None:
            raise StoreUnavailable("it ends")
        command(self, statement)

    def ending(*given: object) -> None:
        raise StoreUnavailable("it ends")

    if fails_at == "insert":
        monkeypatch.setattr(base_builder, "USERS_AT_ONCE", 3)
        monkeypatch.setattr(Server, "command", failing)
    elif fails_at == "checkpoint":
        monkeypatch.setattr(backend._bases, "_checkpoint", ending)
    else:
        monkeypatch.setattr(bases, "drop", ending)
    with pytest.raises(StoreUnavailable, match="it ends"):
        build(backend)
    monkeypatch.undo()
    assert golden(backend) == USERS + 1
    monkeypatch.setattr(ClickHouseBackend, "_checkpoint", lambda self: 0)
    backend.close()
    monkeypatch.undo()
    backend = opened(url)
    try:
        assert (base_of(backend) == first) is (fails_at != "drop")
        assert golden(backend) == USERS + 1
        last = build(backend)
        assert stored(backend) == {last.name}
        assert golden(backend) == USERS + 1
    finally:
        backend.close()


def test_a_store_goes_on_without_a_base_that_its_servers_have_lost(url: str) -> None:
    backend = opened(url)
    backend.append(ACCOUNT, [update(f"u{n}", plan="gold") for n in range(USERS)])
    build(backend)
    bases.drop(backend._cluster, [])
    with pytest.raises(StoreUnavailable):
        golden(backend)
    backend.close()
    backend = opened(url)
    try:
        eventually(lambda: base_of(backend) is None)
        assert golden(backend) == USERS
    finally:
        backend.close()


def test_a_close_does_not_wait_for_a_base(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    backend = opened(url, writes_min=1)
    command = Server.command

    def slowly(self: Server, statement: str) -> None:
        if f"INTO {PROFILES}" in statement:
            begun.set()
            threading.Event().wait(1.0)
        command(self, statement)

    monkeypatch.setattr(Server, "command", slowly)
    backend.append(ACCOUNT, [update(f"u{n}", plan="gold") for n in range(USERS)])
    assert begun.wait(30)
    backend.close()
