"""The largest plans and questions are statements that a server takes."""

from __future__ import annotations

import pytest

from engine.backends.base import Contains, Count, EventRecord, Members, UserRecord
from engine.backends.clickhouse import plans, server
from engine.backends.clickhouse.query.compiler import WORD_BITS
from engine.backends.clickhouse.server import Address, Server
from engine.criteria.model import Aggregate, EventType, In
from engine.errors import LimitExceeded
from engine.limits import AUDIENCE_LEVELS_MAX
from engine.plan.model import (
    AttributeMatch,
    Difference,
    EventMatch,
    EventSelection,
    Intersection,
    Interval,
    Plan,
    SequenceMatch,
    Step,
    Union,
    Universe,
)
from engine.plan.passes import ALL_PASSES, Pass, optimise
from engine.values import MICROS_PER_DAY
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.engine.deep_audiences import BUY, SEEN, are_buyers, plan_of_deepest
from tests.oracle.world import Batch

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

ACCOUNT = "accounts/limits"
DEEP = "accounts/deep"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
INPUT = f"{WORKSPACE}/inputs/i"
USERS = 20
OPERANDS = 10_000
STEPS = 500


@pytest.fixture(scope="module", autouse=True)
def users(gateway: Gateway) -> None:
    """User n has the attribute "n", and n events."""
    records = [UserRecord(f"u{user}", INPUT, 1, {"n": f"Value {user}"}) for user in range(USERS)]
    events = [
        EventRecord(f"u{user}", INPUT, "buy", EventType.CUSTOM, at, {"price": 1.0})
        for user in range(USERS)
        for at in range(user)
    ]
    gateway.happen(ACCOUNT, Batch((*records, *events)))


def plan_of(*steps: Step, roots: tuple[int, ...] | None = None) -> Plan:
    """A plan with the last step as its root."""
    return Plan(account=ACCOUNT, as_of=0, steps=steps, roots=roots or (len(steps) - 1,))


@pytest.mark.parametrize("ignore_case", [False, True])
def test_a_test_with_all_operands_it_may_have(gateway: Gateway, ignore_case: bool) -> None:
    values = tuple(f"Value {number}" for number in range(10, OPERANDS + 10))
    test = In(values, ignore_case)
    plan = plan_of(AttributeMatch(workspaces=(WORKSPACE,), key="n", test=test))
    assert gateway.sizes(plan) == [USERS - 10]


def test_a_plan_with_hundreds_of_predicates(gateway: Gateway) -> None:
    """Their bits fill several words, and each step is a root."""
    at_least = tuple(
        EventMatch(
            selection=EventSelection(inputs=(INPUT,), name="buy"),
            aggregate=Aggregate.SUM,
            of="price",
            intervals=(Interval(low=float(least)),),
        )
        for least in range(1, 2 * WORD_BITS)
    )
    plan = plan_of(*at_least, roots=tuple(range(len(at_least))))
    assert gateway.sizes(plan) == [max(0, USERS - least) for least in range(1, 2 * WORD_BITS)]


@pytest.mark.parametrize("patterns", [USERS - 2, USERS])
def test_a_plan_whose_users_have_more_patterns_of_bits_than_are_read(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, patterns: int
) -> None:
    """The servers count by the steps then. The users but one have a pattern each."""
    monkeypatch.setattr(plans, "PATTERNS_MAX", patterns)
    test_a_plan_with_hundreds_of_predicates(gateway)


def test_a_plan_of_steps_that_each_need_the_one_before(gateway: Gateway) -> None:
    often = EventMatch(
        selection=EventSelection(inputs=(INPUT,), name="buy"),
        aggregate=Aggregate.COUNT,
        intervals=(Interval(low=10.0),),
    )
    steps: list[Step] = [Universe(inputs=(INPUT,)), often]
    while len(steps) < STEPS:
        last = len(steps) - 1
        steps += [
            Difference(minuend=0, subtrahend=last),
            Union(operands=(last, last + 1)),
            Intersection(operands=(last + 2, last)),
        ]
    assert gateway.sizes(plan_of(*steps)) == [USERS - 10]


def test_a_sequence_of_many_steps(gateway: Gateway) -> None:
    selection = EventSelection(inputs=(INPUT,), name="buy")
    for within, fewest in ((None, 12), (11, 12), (10, USERS)):
        plan = plan_of(SequenceMatch(steps=(selection,) * 12, within=within))
        assert gateway.sizes(plan) == [USERS - fewest]


def test_a_question_about_more_users_than_one_statement_takes(gateway: Gateway) -> None:
    plan = plan_of(Universe(inputs=(INPUT,)))
    asked = tuple(f"u{user}" for user in range(25_000))
    flags = gateway.plans.execute(gateway.view(ACCOUNT), plan, Contains(asked)).flags
    assert [user for user, each in zip(asked, flags, strict=True) if each[0]] == list(asked[:USERS])


@pytest.mark.parametrize("partitions", [(), (0,), tuple(range(512))])
def test_some_partitions(gateway: Gateway, partitions: tuple[int, ...]) -> None:
    plan, view = plan_of(Universe(inputs=(INPUT,))), gateway.view(ACCOUNT)
    counts = gateway.plans.execute(view, plan, Count(), partitions=partitions)
    page = gateway.plans.execute(view, plan, Members(), partitions=partitions)
    assert counts.sizes == (len(page.user_ids),)
    assert counts.fraction == len(partitions) / 1_024


def test_a_statement_returns_so_much_at_most(
    shards: list[list[Address]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SETTINGS", {**server.SETTINGS, "max_result_bytes": 1 << 20})
    asked = Server(shards[0][0], "default")
    try:
        assert len(asked.query("SELECT repeat('x', 1000 + number % 2) FROM numbers(900)")) == 900
        with pytest.raises(LimitExceeded, match="MiB"):
            asked.query("SELECT repeat('x', 1000 + number % 2) FROM numbers(100000)")
    finally:
        asked.close()


@pytest.mark.parametrize("passes", [(), ALL_PASSES], ids=["as it is", "optimised"])
def test_audiences_over_as_many_levels_as_are_allowed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, passes: tuple[Pass, ...]
) -> None:
    """Counted by the bits and by the steps, listed and asked about one by one."""
    as_of = 40 * MICROS_PER_DAY
    records = [EventRecord(f"deep{n}", INPUT, SEEN, EventType.CUSTOM, as_of, {}) for n in range(5)]
    records += [EventRecord(f"deep{n}", INPUT, BUY, EventType.CUSTOM, as_of - 1, {}) for n in range(2)]
    gateway.happen(DEEP, Batch(tuple(records)))
    raw = plan_of_deepest(AUDIENCE_LEVELS_MAX, DEEP, INPUT, as_of)
    plan, view = optimise(raw, passes), gateway.view(DEEP)
    members = [f"deep{n}" for n in (range(2) if are_buyers(AUDIENCE_LEVELS_MAX) else range(2, 5))]
    assert gateway.sizes(plan) == [len(members)]
    monkeypatch.setattr(plans, "PATTERNS_MAX", 0)
    assert gateway.sizes(plan) == [len(members)]
    page = gateway.plans.execute(view, plan, Members())
    assert sorted(page.user_ids) == members
    asked = tuple(f"deep{n}" for n in range(5))
    flags = gateway.plans.execute(view, plan, Contains(asked)).flags
    assert [user for user, each in zip(asked, flags, strict=True) if each[0]] == members
