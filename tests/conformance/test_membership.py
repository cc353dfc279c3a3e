"""Stored membership: changes are numbered differences between plan results, and survive restarts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import (
    MEMBER,
    NOT_MEMBER,
    UNDECIDED,
    Ahead,
    Backend,
    Change,
    Members,
    Role,
    ScopeRefresh,
)
from engine.criteria.model import Equals
from engine.errors import CursorExpired, NotFound
from engine.plan.model import (
    AttributeMatch,
    Difference,
    EventMatch,
    EventSelection,
    Interval,
    Plan,
    TimeRange,
    Universe,
)
from engine.plan.reads import EventsRead, Reads
from engine.values import MICROS_PER_HOUR, Micros
from tests.conformance.drawing import plans, worlds
from tests.conformance.site import (
    ACCOUNT,
    AUDIENCE,
    JOURNEY,
    NOON,
    SHOP,
    WEB,
    Site,
    event,
    plan_of,
    sparing,
    update,
)
from tests.oracle.history import histories
from tests.oracle.plans import root_sets
from tests.oracle.world import Alias, Erase, Operation, World
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.MEMBERSHIP)

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
OTHER = f"{ACCOUNT}/audiences/second"
COPY = f"{ACCOUNT}/connections/leaving"
PAGE_CHANGES = 4

GOLD = plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold")))


def all_changes(backend: Backend, audience: str, after: int = 0) -> list[Change]:
    """Every stored change above a cursor, in pages, numbered without gaps."""
    changes: list[Change] = []
    while True:
        page = backend.changes(audience, after, PAGE_CHANGES)
        changes += page.changes
        if page.caught_up:
            first = changes[0].sequence if changes else 0
            assert [change.sequence for change in changes] == list(range(first, first + len(changes)))
            return changes
        assert len(page.changes) == PAGE_CHANGES
        after = page.changes[-1].sequence


def replayed(changes: Sequence[Change]) -> frozenset[str]:
    """Members after all changes; entering twice or exiting from outside is an error."""
    members: set[str] = set()
    for change in changes:
        assert (change.user_id in members) != change.entered, change
        (members.add if change.entered else members.remove)(change.user_id)
    return frozenset(members)


def told(changes: Sequence[Change]) -> list[tuple[int, str, bool, Micros]]:
    return [(c.sequence, c.user_id, c.entered, c.as_of) for c in changes]


def at(plan: Plan, as_of: Micros) -> Plan:
    return Plan(account=plan.account, as_of=as_of, steps=plan.steps, roots=plan.roots)


def stored(backend: Backend, audience: str) -> frozenset[str]:
    return frozenset(backend.stored_members(audience, Members()).user_ids)


def known(backend: Backend, user_ids: Sequence[str], audience: str = AUDIENCE) -> list[bool | None]:
    """What is published about users, asked one by one and together."""
    published = backend.published(ACCOUNT)
    alone = [published.contains(audience, user_id) for user_id in user_ids]
    together = published.contains_many([audience], user_ids)[:, 0].tolist()
    assert together == [UNDECIDED if each is None else int(each) for each in alone]
    return alone


# --- refresh ------------------------------------------------------------------------------------------------


def test_the_first_refresh_enters_every_member(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="gold"), update("cleo"))
    revision = site.backend.revision()
    (membership,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert (membership.size, membership.as_of, membership.revision) == (2, NOON, revision)
    assert (membership.first_sequence, membership.last_sequence) == (1, 2)
    assert (membership.entered_total, membership.exited_total) == (2, 0)
    assert membership == site.backend.membership(AUDIENCE)
    changes = all_changes(site.backend, AUDIENCE)
    assert {c.user_id for c in changes} == {"ada", "bob"}
    assert all(c.entered and c.as_of == NOON for c in changes)


def test_a_membership_that_was_dropped_is_another_calculation(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    (first,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    (again,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], at(GOLD, NOON + 5))
    assert again.calculation == first.calculation != 0
    site.backend.drop_membership(AUDIENCE)
    (anew,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert anew.last_sequence == first.last_sequence
    assert anew.calculation not in (0, first.calculation)


def test_a_refresh_records_only_differences(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="gold"), update("cleo"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.send(update("ada", time=NOON + 1, plan="tin"), update("cleo", plan="gold"), update("bob", age=1.0))
    assert site.backend.pending(JOURNEY) == 3
    (membership,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], at(GOLD, NOON + 5))
    assert site.backend.pending(JOURNEY) == 0
    assert (membership.size, membership.entered_total, membership.exited_total) == (2, 3, 1)
    assert set(told(all_changes(site.backend, AUDIENCE, after=2))) <= {
        (sequence, user_id, entered, NOON + 5)
        for sequence in (3, 4)
        for user_id, entered in (("cleo", True), ("ada", False))
    }
    assert replayed(all_changes(site.backend, AUDIENCE)) == {"bob", "cleo"}


def test_a_refresh_without_changes_moves_the_progress_mark(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], at(GOLD, NOON + 60))
    page = site.backend.changes(AUDIENCE, 1, 10)
    assert (page.changes, page.caught_up, page.as_of) == ((), True, NOON + 60)


def test_refresh_evaluates_users_moved_by_time(site: Site) -> None:
    """A window slides past bob's event: only users with data in the difference are evaluated."""
    day = 24 * MICROS_PER_HOUR
    site.send(event("ada", time=NOON), event("bob", time=NOON - day + 5))

    def within(start: Micros, end: Micros) -> Plan:
        selection = EventSelection(inputs=(WEB,), name="buy", time=TimeRange(start, end))
        match = EventMatch(selection=selection, intervals=(Interval(low=1.0),))
        return plan_of(match, as_of=end - 1)

    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], within(NOON - day + 1, NOON + 1))
    assert stored(site.backend, AUDIENCE) == {"ada", "bob"}
    later = within(NOON - day + 11, NOON + 11)
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], later)
    assert stored(site.backend, AUDIENCE) == {"ada", "bob"}
    sliver = within(NOON - day + 1, NOON - day + 11)
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], later, moved_by_time=sliver)
    assert stored(site.backend, AUDIENCE) == {"ada"}


def test_a_round_refreshes_several_scopes_and_leaves_out_one_that_fails(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="tin"))
    plans = {JOURNEY: GOLD, f"{JOURNEY}-2": plan_of(Universe(inputs=(WEB,)))}
    asked = [
        ScopeRefresh(account=ACCOUNT, scope=scope, audiences=[f"{ACCOUNT}/audiences/{at}"], plan=plan)
        for at, (scope, plan) in enumerate(plans.items())
    ]
    sizes = [found[0].size for found in site.backend.refresh_scopes(NOON, asked) if isinstance(found, tuple)]
    assert sizes == [1, 2]
    assert site.backend.instant() == NOON
    # Scopes in which nothing happens reach the instant too.
    assert site.backend.refresh_scopes(NOON + 9, [], [JOURNEY]) == []
    published = site.backend.published(ACCOUNT)
    reached = [published.reached(f"{ACCOUNT}/audiences/{at}") for at in range(2)]
    assert reached == [NOON + 9, NOON]
    assert published.reached("nothing") == 0


def test_only_data_that_a_scope_reads_make_users_dirty(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="tin"))
    reads = Reads(attributes=frozenset({(SHOP, "plan")}), events=frozenset({EventsRead(WEB, "buy")}))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD, reads=reads)
    site.send(update("ada", age=1.0), event("bob", "visit"))
    assert site.backend.pending(JOURNEY) == 0
    assert known(site.backend, ["ada", "bob"]) == [True, False]
    site.send(event("bob", "buy"), update("ada", time=NOON + 1, plan="tin"))
    assert site.backend.pending(JOURNEY) == 2
    assert known(site.backend, ["ada", "bob"]) == [None, None]


def test_within_a_horizon_time_moves_only_its_users(site: Site) -> None:
    """1. The far horizon has all whose event the plan finds, the near one some of them. 2. A refresh looks at
    these, and at new data. 3. A refresh of everyone forgets the horizons.
    """
    site.send(*(event(user, time=NOON - at) for at, user in enumerate(("ada", "bob", "cleo"))))

    def since(start: Micros, end: Micros | None = None) -> Plan:
        selection = EventSelection(inputs=(WEB,), name="buy", time=TimeRange(start, end))
        return plan_of(EventMatch(selection=selection, intervals=(Interval(low=1.0),)), as_of=NOON)

    backend = site.backend
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], since(NOON - 9))
    assert backend.expected(JOURNEY) is None
    backend.look_ahead(ACCOUNT, JOURNEY, 0, since(NOON - 1), NOON, NOON + 60)
    assert backend.expected(JOURNEY) == 2
    backend.look_ahead(ACCOUNT, JOURNEY, 1, since(NOON - 9), NOON, NOON + 30)
    assert backend.expected(JOURNEY) == 2
    nothing = at(since(NOON + 1), NOON + 20)
    asked = ScopeRefresh(
        account=ACCOUNT,
        scope=JOURNEY,
        audiences=[AUDIENCE],
        plan=nothing,
        moved_by_time=lambda: since(NOON - 9),
        moved_since=NOON,
        ahead=Ahead(2, lambda _: False, lambda: (None, None)),
    )
    backend.refresh_scopes(NOON + 20, [asked])
    # Time was to move ada and bob only: cleo was not looked at.
    assert stored(backend, AUDIENCE) == {"cleo"}
    assert backend.expected(JOURNEY) == 2
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], nothing, whole=True)
    assert stored(backend, AUDIENCE) == frozenset()
    assert backend.expected(JOURNEY) is None


def test_an_audience_stored_for_the_first_time_is_calculated_over_everyone(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    everyone = Universe(inputs=(WEB,))
    both = Plan(account=ACCOUNT, as_of=NOON, steps=(*GOLD.steps, everyone), roots=(0, 1))
    sizes = [m.size for m in site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)]
    assert sizes == [1, 1]
    assert site.backend.changes(AUDIENCE, 1, 10).changes == ()


def test_whole_refresh_evaluates_everyone(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="tin"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    tin = plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("tin")))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], tin, whole=True)
    assert stored(site.backend, AUDIENCE) == {"bob"}
    assert replayed(all_changes(site.backend, AUDIENCE)) == {"bob"}


def test_an_account_without_data_has_an_empty_membership(site: Site) -> None:
    (membership,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert membership.size == 0
    assert site.backend.changes(AUDIENCE, 0, 10).caught_up
    assert known(site.backend, ["ada"]) == [False]
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert stored(site.backend, AUDIENCE) == {"ada"}


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(
    drawn=worlds(batches_max=5).flatmap(lambda w: st.tuples(st.just(w), plans(w.account))),
    restart=st.booleans(),
    strange=st.lists(
        st.sampled_from((Alias("ada", "bob"), Erase(("cleo", "dan")), Erase(("bob",)))),
        max_size=2,
        unique_by=repr,
    ),
)
@sparing
def test_changes_add_up_to_the_plan(
    shared_site: Site, drawn: tuple[World, Plan], restart: bool, strange: list[Operation]
) -> None:
    """After every batch the stored members equal the plan's, and the changes lead to them."""
    world, plan = drawn
    audiences = [f"{world.account}/audiences/{i}" for i in range(len(plan.roots))]
    operations = [*world.operations[:3], *strange, *world.operations[3:]]
    for end in range(len(operations) + 1):
        shared_site.happen(world.account, operations[end - 1 : end] if end else ())
        if restart and end == 2:
            shared_site.restart()
        memberships = shared_site.backend.refresh(
            world.account, f"{world.account}/journeys/j", audiences, at(plan, NOON + end)
        )
        seen = World(
            account=world.account,
            inputs=world.inputs,
            time_zone="UTC",
            as_of=NOON,
            operations=tuple(operations[:end]),
            journeys=(),
        )
        expected = root_sets(plan, histories(seen))
        for audience, users, membership in zip(audiences, expected, memberships, strict=True):
            assert stored(shared_site.backend, audience) == users
            changes = all_changes(shared_site.backend, audience)
            assert replayed(changes) == users
            assert membership.size == len(users)
            assert membership.entered_total == sum(c.entered for c in changes)
            assert membership.exited_total == sum(not c.entered for c in changes)


# --- reading it ---------------------------------------------------------------------------------------------


def test_dirty_users_have_no_stored_answer(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["ada", "bob", "nobody"]) == [True, False, False]
    site.send(event("bob"))
    assert known(site.backend, ["ada", "bob"]) == [True, None]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["ada", "bob"]) == [True, False]


def test_a_published_state_keeps_its_answers(site: Site) -> None:
    """New data make users undecided in the current state alone; a refresh leaves earlier ones."""
    site.send(update("ada", plan="gold"), update("bob"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD, definitions=["first"])
    before = site.backend.published(ACCOUNT)
    site.send(update("bob", plan="gold"), update("ada", time=NOON + 1, plan="tin"))
    assert [before.contains(AUDIENCE, user) for user in ("ada", "bob")] == [None, None]
    (membership,) = site.backend.refresh(
        ACCOUNT, JOURNEY, [AUDIENCE], at(GOLD, NOON + 5), definitions=["second"]
    )
    assert [before.contains(AUDIENCE, user) for user in ("ada", "bob")] == [None, None]
    assert known(site.backend, ["ada", "bob"]) == [False, True]
    after = site.backend.published(ACCOUNT)
    site.send(update("cleo", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["ada", "bob", "cleo"]) == [False, True, True]
    assert [after.contains(AUDIENCE, user) for user in ("ada", "bob")] == [False, True]
    # It was taken before the write, which it need not show.
    assert after.contains(AUDIENCE, "cleo") in (None, False)
    assert (before.find(AUDIENCE), after.find(AUDIENCE)) != (None, None)
    assert [found.definition for each in (before, after) if (found := each.find(AUDIENCE))] == [
        "first",
        "second",
    ]
    assert [found.membership for found in [after.find(AUDIENCE)] if found] == [membership]


def test_audiences_of_one_state_are_of_one_refresh(site: Site) -> None:
    """A user in one of two exclusive audiences is never in both, whatever was refreshed meanwhile."""
    others = Plan(account=ACCOUNT, as_of=NOON, steps=(*GOLD.steps, Universe(inputs=(WEB,))), roots=(0,))
    split = Plan(
        account=ACCOUNT,
        as_of=NOON,
        steps=(*others.steps, Difference(minuend=1, subtrahend=0)),
        roots=(0, 2),
    )
    site.send(update("ada", plan="gold"), update("bob"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], split)
    state = site.backend.published(ACCOUNT)
    site.send(update("ada", time=NOON + 1, plan="tin"), update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], split)
    site.send(event("cleo"))
    for published, expected in (
        (state, [[UNDECIDED, UNDECIDED], [UNDECIDED, UNDECIDED]]),
        (site.backend.published(ACCOUNT), [[NOT_MEMBER, MEMBER], [MEMBER, NOT_MEMBER]]),
    ):
        assert published.contains_many([AUDIENCE, OTHER], ["ada", "bob"]).tolist() == expected
    assert published.contains_many([OTHER, AUDIENCE, OTHER], ["cleo", "nobody"]).tolist() == [
        [UNDECIDED] * 3,
        [NOT_MEMBER] * 3,
    ]
    assert published.contains_many([], ["ada"]).shape == (1, 0)
    assert published.contains_many([OTHER], []).shape == (0, 1)


def test_an_audience_that_its_scope_left_behind_is_undecided(site: Site) -> None:
    """Its users may have been dirty when the scope was refreshed without it."""
    both = Plan(account=ACCOUNT, as_of=NOON, steps=GOLD.steps, roots=(0, 0))
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)
    site.send(update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["ada", "bob"]) == [True, True]
    assert known(site.backend, ["ada", "bob"], OTHER) == [None, None]
    site.restart()
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["ada", "bob"], OTHER) == [None, None]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)
    assert known(site.backend, ["ada", "bob"], OTHER) == [True, True]
    site.send(update("cleo", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.send(update("dan"))
    site.backend.erase(ACCOUNT, ["ada"])
    site.backend.trim_changes(OTHER, 1)
    assert known(site.backend, ["bob", "cleo"], OTHER) == [None, None]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)
    assert known(site.backend, ["bob", "cleo", "dan"], OTHER) == [True, True, False]


def test_ids_that_come_to_mean_others_are_not_answered_from_earlier_states(site: Site) -> None:
    site.send(update("cookie", plan="gold"), update("ada"), update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    before = site.backend.published(ACCOUNT)
    site.backend.alias(ACCOUNT, "cookie", "ada")
    assert before.contains(AUDIENCE, "cookie") in (None, True)
    assert known(site.backend, ["cookie", "ada", "bob"]) == [None, None, True]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["cookie", "ada", "bob"]) == [True, True, True]
    before = site.backend.published(ACCOUNT)
    site.backend.erase(ACCOUNT, ["ada", "bob"])
    assert before.contains(AUDIENCE, "bob") in (None, True)
    assert known(site.backend, ["cookie", "ada", "bob"]) == [False, False, False]
    site.send(event("bob"), event("cookie"))
    assert known(site.backend, ["cookie", "ada", "bob"]) == [None, False, None]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert known(site.backend, ["cookie", "ada", "bob"]) == [False, False, False]


def test_an_alias_of_nobody_is_answered(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.alias(ACCOUNT, "later", "ada")
    site.backend.alias(ACCOUNT, "nobody", "none")
    assert known(site.backend, ["later", "ada", "nobody", "none"]) == [True, True, False, False]


def test_after_a_restart_everyone_is_dirty_and_nothing_is_lost(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob"))
    (before,) = site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    changes = all_changes(site.backend, AUDIENCE)
    site.restart()
    assert site.backend.membership(AUDIENCE) == before
    assert all_changes(site.backend, AUDIENCE) == changes
    assert stored(site.backend, AUDIENCE) == {"ada"}
    assert site.backend.pending(JOURNEY) == 2
    assert known(site.backend, ["ada", "bob"]) == [None, None]
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert site.backend.pending(JOURNEY) == 0
    assert all_changes(site.backend, AUDIENCE) == changes


def test_stored_members_come_in_the_order_of_execute(site: Site) -> None:
    site.send(*(update(f"user-{i}", plan="gold") for i in range(30)))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    first = site.backend.stored_members(AUDIENCE, Members(limit=11))
    rest = site.backend.stored_members(AUDIENCE, Members(after=first.next_after, limit=100))
    assert rest.next_after == ""
    assert (*first.user_ids, *rest.user_ids) == site.backend.execute(GOLD, Members()).user_ids


def test_unknown_membership_is_not_found(site: Site) -> None:
    assert site.backend.membership(AUDIENCE) is None
    assert site.backend.pending(JOURNEY) == 0
    with pytest.raises(NotFound):
        site.backend.changes(AUDIENCE, 0, 1)
    with pytest.raises(NotFound):
        site.backend.stored_members(AUDIENCE, Members())
    with pytest.raises(NotFound):
        site.backend.published(ACCOUNT).contains(AUDIENCE, "ada")
    with pytest.raises(NotFound):
        site.backend.published(ACCOUNT).contains_many([AUDIENCE], ["ada"])
    with pytest.raises(NotFound):
        site.backend.exit_all(AUDIENCE, NOON)
    site.backend.drop_membership(AUDIENCE)


# --- cursors ------------------------------------------------------------------------------------------------


def test_a_cursor_before_the_oldest_change_has_expired(site: Site) -> None:
    site.send(*(update(f"user-{i}", plan="gold") for i in range(10)))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.trim_changes(AUDIENCE, 4)
    with pytest.raises(CursorExpired) as raised:
        site.backend.changes(AUDIENCE, 3, 10)
    assert raised.value.metadata["oldest_cursor"] == "4"
    assert [c.sequence for c in site.backend.changes(AUDIENCE, 4, 3).changes] == [5, 6, 7]
    site.restart()
    membership = site.backend.membership(AUDIENCE)
    assert membership is not None
    assert (membership.first_sequence, membership.last_sequence) == (5, 10)


def test_latest_cursor_works_when_all_changes_are_trimmed(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.trim_changes(AUDIENCE, 100)
    membership = site.backend.membership(AUDIENCE)
    assert membership is not None
    assert (membership.first_sequence, membership.last_sequence) == (2, 1)
    assert site.backend.changes(AUDIENCE, 1, 10).changes == ()
    site.send(update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert told(site.backend.changes(AUDIENCE, 1, 10).changes) == [(2, "bob", True, NOON)]


def test_erased_members_exit_by_id_until_their_changes_are_trimmed(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.erase(ACCOUNT, ["ada"])
    membership = site.backend.membership(AUDIENCE)
    assert membership is not None
    assert (membership.size, membership.exited_total) == (1, 1)
    assert stored(site.backend, AUDIENCE) == {"bob"}
    site.restart()
    assert told(site.backend.changes(AUDIENCE, 2, 10).changes) == [(3, "ada", False, NOON)]
    assert replayed(all_changes(site.backend, AUDIENCE)) == {"bob"}
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.trim_changes(AUDIENCE, 3)
    assert told(site.backend.changes(AUDIENCE, 3, 10).changes) == [(4, "ada", True, NOON)]


def test_alias_exits_and_its_user_is_evaluated(site: Site) -> None:
    site.send(update("cookie", plan="gold"), event("ada"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.alias(ACCOUNT, "cookie", "ada")
    assert site.backend.pending(JOURNEY) == 1
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert told(all_changes(site.backend, AUDIENCE)) == [
        (1, "cookie", True, NOON),
        (2, "cookie", False, NOON),
        (3, "ada", True, NOON),
    ]


# --- ends ---------------------------------------------------------------------------------------------------


def test_all_members_exit_before_an_audience_is_dropped(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    membership = site.backend.exit_all(AUDIENCE, NOON + 3)
    assert (membership.size, membership.exited_total, membership.as_of) == (0, 2, NOON + 3)
    exits = site.backend.changes(AUDIENCE, 2, 10).changes
    assert {(c.user_id, c.entered, c.as_of) for c in exits} == {
        ("ada", False, NOON + 3),
        ("bob", False, NOON + 3),
    }


def test_a_copy_stays_as_it_is_but_for_erased_users(site: Site) -> None:
    site.send(update("ada", plan="gold"), update("bob", plan="gold"), update("cyd", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.send(update("cyd", plan="silver", time=NOON + 1), update("dan", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    with pytest.raises(NotFound):
        site.backend.copy_membership(OTHER, COPY, 0)
    site.backend.copy_membership(AUDIENCE, COPY, 4)
    original, kept = site.backend.membership(AUDIENCE), site.backend.membership(COPY)
    assert original is not None
    assert kept == msgspec.structs.replace(original, first_sequence=5)
    # 1. What happens to the original, or to its audience, does not reach the copy.
    site.send(update("eve", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.drop_membership(AUDIENCE)
    site.backend.drop_scope(JOURNEY)
    assert site.backend.membership(AUDIENCE) is None
    # 2. It outlives restarts, no check asks it, and erased users leave it by their id.
    site.restart()
    assert stored(site.backend, COPY) == {"ada", "bob", "dan"}
    assert site.backend.published(ACCOUNT).find(COPY) is None
    last = site.backend.changes(COPY, 4, 10).changes
    assert {(c.user_id, c.entered) for c in last} <= {("cyd", False), ("dan", True)}
    site.backend.erase(ACCOUNT, ["ada", "cyd"])
    left = site.backend.exit_all(COPY, NOON + 5)
    assert left.size == 0
    found = site.backend.changes(COPY, 5, 10).changes
    assert {(c.user_id, c.entered) for c in found} == {("ada", False), ("bob", False), ("dan", False)}
    # 3. Another copy replaces it.
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.copy_membership(AUDIENCE, COPY, 0)
    assert stored(site.backend, COPY) == stored(site.backend, AUDIENCE)
    site.backend.drop_membership(COPY)
    assert site.backend.membership(COPY) is None


def test_sequence_restarts_after_a_drop(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    both = Plan(account=ACCOUNT, as_of=NOON, steps=GOLD.steps, roots=(0, 0))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)
    site.backend.drop_membership(AUDIENCE)
    assert site.backend.membership(AUDIENCE) is None
    assert stored(site.backend, OTHER) == {"ada"}
    site.restart()
    assert site.backend.membership(AUDIENCE) is None
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHER], both)
    assert told(all_changes(site.backend, AUDIENCE)) == [(1, "ada", True, NOON)]
    assert told(all_changes(site.backend, OTHER)) == [(1, "ada", True, NOON)]


def test_a_scope_is_tracked_while_a_membership_is_stored_in_it(site: Site) -> None:
    site.send(update("ada", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.backend.drop_scope(JOURNEY)
    site.send(event("ada"))
    assert site.backend.pending(JOURNEY) == 1
    site.backend.drop_membership(AUDIENCE)
    site.backend.drop_scope(JOURNEY)
    assert site.backend.pending(JOURNEY) == 0


# --- listening ----------------------------------------------------------------------------------------------


def test_a_change_calls_those_who_listen_to_its_audience(site: Site) -> None:
    """It can be read when they are called; changes of other audiences, and refreshes without one, are not."""
    seen: list[int | None] = []

    def look() -> None:
        published = site.backend.published(ACCOUNT).find(AUDIENCE)
        seen.append(None if published is None else published.membership.last_sequence)

    stop = site.backend.listen(AUDIENCE, look)
    site.backend.listen("accounts/a/audiences/other", lambda: seen.append(-1))
    # 1. It is stored for the first time, without members.
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert seen == [0]
    # 2. Nothing changes, then two users enter.
    site.send(update("cyd", plan="silver"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    site.send(update("ada", plan="gold"), update("bob", plan="gold"))
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert seen == [0, 2]
    # 3. One is erased, all others exit, and it is dropped.
    site.backend.erase(ACCOUNT, ["ada"])
    assert site.backend.membership(AUDIENCE) is not None
    site.backend.exit_all(AUDIENCE, NOON)
    site.backend.drop_membership(AUDIENCE)
    assert seen[2:] in ([3, 4, None], [4, 4, None])
    stop()
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    assert len(seen) == 5
