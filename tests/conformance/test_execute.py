"""Plans give the answers of brute force, in every form of asking."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import Contains, Count, Members, Outlook, Role
from engine.criteria.model import Equals, In, Text
from engine.deadline import Deadline
from engine.errors import DeadlineExceeded, InvalidInput, RevisionNotReached
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    Difference,
    EventMatch,
    EventSelection,
    Intersection,
    Interval,
    NumberRange,
    Plan,
    Step,
    TimeRange,
    Universe,
    UserIdMatch,
)
from engine.values import MICROS_PER_DAY, PARTITION_COUNT, partition_of
from tests.conformance.drawing import USER_IDS, plans, predicates, worlds
from tests.conformance.site import (
    ACCOUNT,
    APP,
    NOON,
    SHOP,
    WEB,
    Site,
    event,
    listed,
    plan_of,
    sparing,
    update,
)
from tests.oracle.history import histories
from tests.oracle.plans import root_sets
from tests.oracle.world import World
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS)

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

worlds_with_plans = worlds().flatmap(lambda world: st.tuples(st.just(world), plans(world.account)))
EVERYONE = Universe(inputs=(WEB,))


@settings(max_examples=examples(30), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans, checkpointed=st.booleans())
@sparing
def test_every_step_equals_brute_force(
    shared_site: Site, drawn: tuple[World, Plan], checkpointed: bool
) -> None:
    world, plan = drawn
    shared_site.happen(world.account, world.operations)
    if checkpointed:
        shared_site.settle()
    expected = root_sets(plan, histories(world))
    assert shared_site.members(plan) == expected
    assert shared_site.sizes(plan) == tuple(map(len, expected))
    assert shared_site.holding(plan, USER_IDS) == expected


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(
    drawn=worlds().flatmap(
        lambda world: st.tuples(
            st.just(world),
            plans(world.account),
            st.lists(
                st.dictionaries(st.integers(0, 12), predicates(world.account), max_size=2),
                min_size=1,
                max_size=3,
            ),
        )
    )
)
@sparing
def test_plans_that_share_steps_and_roots_are_answered_apart(
    shared_site: Site, drawn: tuple[World, Plan, list[dict[int, Step]]]
) -> None:
    """A backend may keep what it made of a plan for the next one with the same `roots`, as plans of one
    template have them: what differs must count, also after names have come.
    """
    world, plan, replacements = drawn
    variants = [plan]
    for replaced in replacements:
        steps = [replaced.get(at, step) for at, step in enumerate(plan.steps)]
        variants.append(Plan(account=plan.account, as_of=plan.as_of, steps=tuple(steps), roots=plan.roots))
    for end in range(len(world.operations) + 1):
        shared_site.happen(world.account, world.operations[end - 1 : end] if end else ())
        seen = histories(msgspec.structs.replace(world, operations=world.operations[:end]))
        for variant in variants:
            assert shared_site.holding(variant, USER_IDS) == root_sets(variant, seen)


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans, chosen=st.sets(st.sampled_from([partition_of(u) for u in USER_IDS])))
@sparing
def test_partitions_restrict_every_answer(
    shared_site: Site, drawn: tuple[World, Plan], chosen: set[int]
) -> None:
    world, plan = drawn
    shared_site.happen(world.account, world.operations)
    whole = root_sets(plan, histories(world))
    expected = [frozenset(u for u in users if partition_of(u) in chosen) for users in whole]
    partitions = sorted(chosen)
    counts = shared_site.backend.execute(plan, Count(), partitions=partitions)
    assert counts.sizes == tuple(map(len, expected))
    assert counts.fraction == len(chosen) / PARTITION_COUNT
    flags = shared_site.backend.execute(plan, Contains(USER_IDS), partitions=partitions).flags
    for at, users in enumerate(expected):
        assert {u for u, flag in zip(USER_IDS, flags, strict=True) if flag[at]} == users
    page = shared_site.backend.execute(plan, Members(), partitions=partitions)
    assert frozenset(page.user_ids) == expected[0]


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans)
@sparing
def test_answers_asked_again_follow_new_data(shared_site: Site, drawn: tuple[World, Plan]) -> None:
    """A write invalidates cached answers that read the changed data."""
    world, plan = drawn
    for end in range(len(world.operations) + 1):
        shared_site.happen(world.account, world.operations[end - 1 : end] if end else ())
        seen = World(
            account=world.account,
            inputs=world.inputs,
            time_zone="UTC",
            as_of=world.as_of,
            operations=world.operations[:end],
            journeys=(),
        )
        assert shared_site.members(plan) == root_sets(plan, histories(seen))


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans)
@sparing
def test_trace_reports_the_size_of_every_step(shared_site: Site, drawn: tuple[World, Plan]) -> None:
    world, plan = drawn
    shared_site.happen(world.account, world.operations)
    every_step = Plan(
        account=plan.account, as_of=plan.as_of, steps=plan.steps, roots=tuple(range(len(plan.steps)))
    )
    sizes = [len(users) for users in root_sets(every_step, histories(world))]
    trace = shared_site.backend.trace(plan)
    assert [step.users for step in trace.steps] == sizes
    assert {step.source for step in trace.steps} <= {"index", "column", "scan", "set", "stored", "cached"}


def test_an_account_without_data_has_no_users(site: Site) -> None:
    plan = plan_of(EVERYONE, account="accounts/nobody")
    assert site.sizes(plan) == (0,)
    assert site.backend.execute(plan, Members()).user_ids == ()
    assert site.backend.execute(plan, Contains(("ada", "bob"))).flags == ((False,), (False,))
    assert [step.users for step in site.backend.trace(plan).steps] == [0]
    assert site.backend.universe_size("accounts/nobody", [WEB]) == 0


def test_accounts_are_isolated(site: Site) -> None:
    site.send(event("ada"))
    site.backend.append("accounts/other", [event("bob")])
    assert site.users() == {"ada"}
    assert site.members(plan_of(EVERYONE, account="accounts/other")) == [{"bob"}]


def test_kinds_do_not_mix(site: Site) -> None:
    site.send(update("number", v=1.0), update("bool", v=True), update("time", v=1), update("text", v="1"))

    def with_value(value: float | bool | int | str) -> frozenset[str]:
        match = AttributeMatch(workspaces=(SHOP,), key="v", test=Equals(value))
        return site.members(plan_of(match))[0]

    assert [with_value(value) for value in (1.0, True, 1, "1")] == [{"number"}, {"bool"}, {"time"}, {"text"}]


def test_a_plan_asked_before_its_names_were_seen_knows_them_afterwards(site: Site) -> None:
    plan = plan_of(AttributeMatch(workspaces=(SHOP,), key="tier", test=Equals("gold")))
    site.send(update("ada", color="red"))
    assert site.sizes(plan) == (0,)
    site.send(update("ada", tier="gold"))
    assert site.sizes(plan) == (1,)


# --- members ------------------------------------------------------------------------------------------------


def test_members_come_in_one_stable_order(site: Site) -> None:
    user_ids = [f"user-{i}" for i in range(100)]
    site.send(*(event(user_id) for user_id in user_ids))
    plan = plan_of(EVERYONE)
    once = listed(site.backend, plan)
    assert sorted(once) == sorted(user_ids)
    site.restart()
    assert listed(site.backend, plan) == once
    assert list(site.backend.execute(plan, Members()).user_ids) == once


def test_page_ending_with_the_last_member_has_no_next_page(site: Site) -> None:
    site.send(event("ada"), event("bob"))
    plan = plan_of(EVERYONE)
    assert site.backend.execute(plan, Members(limit=2)).next_after == ""
    first = site.backend.execute(plan, Members(limit=1))
    second = site.backend.execute(plan, Members(after=first.next_after, limit=1))
    assert {*first.user_ids, *second.user_ids} == {"ada", "bob"}
    assert second.next_after == ""


def test_changes_between_pages_do_not_move_other_members(site: Site) -> None:
    site.send(*(event(f"user-{i}") for i in range(20)))
    plan = plan_of(EVERYONE)
    order = listed(site.backend, plan)
    first = site.backend.execute(plan, Members(limit=5))
    site.backend.erase(ACCOUNT, [order[2], order[4], order[7]])
    rest = site.backend.execute(plan, Members(after=first.next_after)).user_ids
    assert list(rest) == [order[5], order[6], *order[8:]]


@pytest.mark.parametrize("after", ["user-3", "zz00000000", "0", "00000000000"])
def test_a_foreign_page_position_is_refused(site: Site, after: str) -> None:
    site.send(event("ada"))
    with pytest.raises(InvalidInput):
        site.backend.execute(plan_of(EVERYONE), Members(after=after))


# --- partitions ---------------------------------------------------------------------------------------------


def test_samples_are_nested_and_end_with_everything(site: Site) -> None:
    order = site.backend.sample_partitions(PARTITION_COUNT)
    assert sorted(order) == list(range(PARTITION_COUNT))
    for count in (1, 2, 7, 256, 300, 1_023):
        assert site.backend.sample_partitions(count) == order[:count]


@pytest.mark.parametrize("count", [0, -1, PARTITION_COUNT + 1])
def test_sample_has_at_least_one_partition(site: Site, count: int) -> None:
    with pytest.raises(InvalidInput):
        site.backend.sample_partitions(count)


def test_disjoint_partitions_add_up_to_the_whole(site: Site) -> None:
    site.send(*(event(f"user-{i}") for i in range(3_000)))
    site.send(*(update(f"user-{i}", tier="gold") for i in range(0, 3_000, 3)))
    gold = AttributeMatch(workspaces=(SHOP,), key="tier", test=Equals("gold"))
    plan = plan_of(EVERYONE, gold, Difference(minuend=0, subtrahend=1))
    order = site.backend.sample_partitions(PARTITION_COUNT)
    pieces = [order[start : start + 100] for start in range(0, PARTITION_COUNT, 100)]
    counted = [site.backend.execute(plan, Count(), partitions=piece).sizes[0] for piece in pieces]
    by_hash = [
        sum(partition_of(f"user-{i}") in piece for i in range(3_000) if i % 3) for piece in map(set, pieces)
    ]
    assert counted == by_hash
    assert sum(counted) == site.sizes(plan)[0] == 2_000


def test_sample_counts_are_split_into_halves(site: Site) -> None:
    site.send(*(event(f"user-{i}") for i in range(3_000)))
    site.send(*(update(f"user-{i}", tier="gold") for i in range(0, 3_000, 3)))
    gold = AttributeMatch(workspaces=(SHOP,), key="tier", test=Equals("gold"))
    plan = Plan(account=ACCOUNT, as_of=NOON, steps=(gold, EVERYONE), roots=(0, 1))
    for partitions in (64, 128, 512):
        chosen = site.backend.sample_partitions(partitions)
        counts = site.backend.execute(plan, Count(), partitions=chosen)
        assert counts.blocks
        for at in (0, 1):
            assert sum(block.sizes[at] for block in counts.blocks) <= counts.sizes[at]
        for block in counts.blocks:
            assert all(0 < half < block.sizes[1] for half in block.halves[1])
            for gold_half, half in zip(*block.halves, strict=True):
                # Chance lets a third of the users deviate; six standard deviations are out of its reach.
                assert gold_half == pytest.approx(half / 3, abs=6 * (half * 2 / 9) ** 0.5)
    assert site.backend.execute(plan, Count()).blocks == ()


def test_erased_users_are_in_no_partition(site: Site) -> None:
    site.send(*(event(f"user-{i}") for i in range(400)))
    everybody = plan_of(BucketMatch(salt="s", first=0, last=(1 << 64) - 1))
    half = site.backend.sample_partitions(512)
    before = site.backend.execute(everybody, Members(), partitions=half).user_ids
    assert len(before) == sum(partition_of(f"user-{i}") in half for i in range(400))
    site.backend.erase(ACCOUNT, before[:50])
    assert site.backend.execute(everybody, Count(), partitions=half).sizes == (len(before) - 50,)
    assert site.backend.execute(everybody, Members(), partitions=half).user_ids == before[50:]


def test_a_partition_outside_the_range_is_refused(site: Site) -> None:
    site.send(event("ada"))
    with pytest.raises(InvalidInput):
        site.backend.execute(plan_of(EVERYONE), Count(), partitions=[PARTITION_COUNT])


# --- outlook ------------------------------------------------------------------------------------------------


def test_outlook_depends_only_on_the_question_and_the_account(site: Site) -> None:
    site.send(*(event(f"user-{i}", time=NOON - i * MICROS_PER_DAY // 50) for i in range(3_000)))
    site.send(*(update(f"user-{i}", tier="gold", points=float(i)) for i in range(0, 3_000, 3)))
    gold = AttributeMatch(workspaces=(SHOP,), key="tier", test=Text("starts_with", "g"))
    rich = AttributeMatch(workspaces=(SHOP,), key="points", test=NumberRange((Interval(low=5.0),)))

    def seen(days: int, until: int = 0) -> EventMatch:
        end = NOON + until * MICROS_PER_DAY
        span = TimeRange(end - days * MICROS_PER_DAY, end)
        return EventMatch(selection=EventSelection(inputs=(WEB,), time=span), intervals=(Interval(low=1.0),))

    def work(*steps: Step) -> float:
        outlook = site.backend.outlook(plan_of(*steps), [WEB])
        assert outlook.users == 3_000
        return outlook.work

    whole = work(EVERYONE, gold, rich, seen(20))
    assert whole > max(work(EVERYONE, gold), work(EVERYONE, rich), work(EVERYONE, seen(20))) > 0
    assert work(seen(40)) > work(seen(20)) == work(seen(20, until=1_000))
    site.members(plan_of(gold, rich, seen(20)))
    site.backend.append("accounts/other", [event(f"user-{i}") for i in range(100)])
    changes: tuple[Callable[[], None], ...] = (lambda: None, site.settle, site.restart)
    for change in changes:
        change()
        assert work(seen(20), rich, EVERYONE, gold) == whole
    site.send(*(event(f"user-{i}", time=NOON) for i in range(2_000)))
    assert work(EVERYONE, gold, rich, seen(20)) > whole
    assert site.backend.outlook(plan_of(EVERYONE), [WEB, APP]).users == 3_000
    nobody = Plan(account="accounts/nobody", as_of=NOON, steps=(EVERYONE,), roots=(0,))
    assert site.backend.outlook(nobody, [WEB]) == Outlook(0, 0.0)


# --- revisions and deadlines --------------------------------------------------------------------------------


def test_a_read_sees_the_revision_it_asks_for(site: Site) -> None:
    first = site.send(event("ada")).revision
    second = site.send(event("bob")).revision
    assert second > first
    counts = site.backend.execute(plan_of(EVERYONE), Count(), min_revision=second)
    assert counts.sizes == (2,)
    assert counts.revision == site.backend.revision() == second


def test_unreached_revision_raises(site: Site) -> None:
    revision = site.send(event("ada")).revision
    with pytest.raises(RevisionNotReached) as raised:
        site.backend.execute(
            plan_of(EVERYONE), Count(), min_revision=revision + 1, deadline=time.monotonic() + 0.01
        )
    assert raised.value.metadata["revision"] == str(revision)


def test_a_wait_for_a_revision_ends_when_the_caller_gives_up(site: Site) -> None:
    revision = site.send(event("ada")).revision
    given_up = Deadline(time.monotonic() + 3_600, lambda: True)
    for ask in (
        lambda: site.backend.execute(
            plan_of(EVERYONE), Count(), min_revision=revision + 1, deadline=given_up
        ),
        lambda: site.backend.trace(plan_of(EVERYONE), min_revision=revision + 1, deadline=given_up),
        lambda: site.backend.outlook(plan_of(EVERYONE), (), min_revision=revision + 1, deadline=given_up),
    ):
        with pytest.raises(DeadlineExceeded):
            ask()


def test_expired_deadline_raises(site: Site) -> None:
    site.send(event("ada"))
    plan = plan_of(EVERYONE, Universe(inputs=()), Intersection(operands=(0, 1)))
    with pytest.raises(DeadlineExceeded):
        site.backend.execute(plan, Count(), deadline=time.monotonic() - 1.0)


def test_plan_that_was_asked_before_finds_users_that_came_since(site: Site) -> None:
    """A backend may keep what it resolved of a plan, but not which users it found."""
    plan = plan_of(UserIdMatch(test=In(("ada", "bob"))))
    site.send(event("cleo"))
    assert site.members(plan)[0] == frozenset()
    site.send(event("ada"))
    assert site.members(plan)[0] == {"ada"}
    site.backend.erase(ACCOUNT, ["ada"])
    site.send(event("bob"))
    assert site.members(plan)[0] == {"bob"}
    site.send(event("ada"))
    assert site.members(plan)[0] == {"ada", "bob"}
