"""Removing events before an instant: removed, kept and later events."""

from __future__ import annotations

import pytest

from engine.backends.base import EventLookup, Role
from engine.criteria.model import Exists
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, InstantRange, Interval, SeenMatch
from engine.plan.model import TimeRange as Span
from engine.values import MICROS_PER_DAY
from tests.conformance.site import ACCOUNT, INPUTS, NOON, SHOP, WEB, Site, event, plan_of, update

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS, Role.CATALOG)

DAY = MICROS_PER_DAY


def bought(site: Site, at_least: float = 1.0) -> frozenset[str]:
    """Users who bought that often, at any time."""
    selection = EventSelection(inputs=(WEB,), name="buy")
    return site.members(plan_of(EventMatch(selection=selection, intervals=(Interval(low=at_least),))))[0]


@pytest.mark.parametrize("checkpoint", ["never", "before", "between", "after"])
def test_only_events_before_the_instant_are_removed(site: Site, checkpoint: str) -> None:
    site.send(
        event("ada", time=NOON - DAY - 1),
        event("ada", time=NOON - DAY),
        event("bob", time=NOON - DAY - 1),
        update("bob", time=NOON - 3 * DAY, plan="gold"),
        event("cleo", "view", time=NOON - 30 * DAY),
    )
    before = {user: site.backend.profile(ACCOUNT, user) for user in ("ada", "bob", "cleo")}
    if checkpoint in ("before", "between"):
        site.settle()
    # Whatever is kept of answers is forgotten.
    assert bought(site) == {"ada", "bob"}
    assert bought(site, 2.0) == {"ada"}
    revision = site.backend.remove_events(ACCOUNT, NOON - DAY)
    assert revision == site.backend.revision() == 2
    if checkpoint in ("between", "after"):
        site.settle()
    for _ in range(2):
        assert bought(site) == {"ada"}
        assert bought(site, 2.0) == frozenset()
        assert site.users() == {"ada", "bob", "cleo"}
        assert {user: site.backend.profile(ACCOUNT, user) for user in before} == before
        gold = AttributeMatch(workspaces=(SHOP,), key="plan", test=Exists())
        assert site.members(plan_of(gold))[0] == {"bob"}
        seen = InstantRange((Span(end=NOON - 29 * DAY),))
        long_ago = SeenMatch(inputs=tuple(sorted(INPUTS)), last=False, test=seen)
        assert site.members(plan_of(long_ago))[0] == {"cleo"}
        (facts,) = site.backend.event_names(ACCOUNT, limit=10)
        assert (facts.name, facts.events, facts.users, facts.first_time) == ("buy", 1, 1, NOON - DAY)
        buys, views = (EventLookup(inputs=INPUTS, name=name) for name in ("buy", "view"))
        assert [found.is_there for found in site.backend.look_up(ACCOUNT, (buys, views))] == [True, False]
        site.restart()


def test_later_arrivals_count_whatever_their_time(site: Site) -> None:
    site.send(event("ada", time=NOON - 9 * DAY, event_id="1"))
    site.backend.remove_events(ACCOUNT, NOON)
    late = site.send(
        event("ada", time=NOON - 9 * DAY, event_id="1"),
        event("bob", time=NOON - 9 * DAY, event_id="2"),
    )
    # An event that was removed has been seen all the same.
    assert (late.accepted, late.duplicates) == (1, 1)
    for _ in range(2):
        assert bought(site) == {"bob"}
        site.restart()


def test_removing_twice_writes_once(site: Site) -> None:
    site.send(event("ada", time=NOON - DAY), event("ada"))
    assert site.backend.remove_events(ACCOUNT, NOON - DAY) == 1
    assert site.backend.remove_events(ACCOUNT, NOON) == 2
    assert site.backend.remove_events(ACCOUNT, NOON) == 2
    assert site.backend.remove_events("accounts/never", NOON) == 2
    site.restart()
    assert site.backend.remove_events(ACCOUNT, NOON) == 2
    assert bought(site) == {"ada"}


def test_accounts_are_separate(site: Site) -> None:
    site.send(event("ada"))
    site.backend.append("accounts/other", [event("ada")])
    site.backend.remove_events("accounts/other", NOON + 1)
    assert bought(site) == {"ada"}
    assert site.backend.event_names("accounts/other", limit=10) == ()


def test_alias_moves_the_remaining_events(site: Site) -> None:
    site.send(event("ada", time=NOON - DAY), event("ada"), event("bob", time=NOON - DAY))
    site.backend.remove_events(ACCOUNT, NOON)
    site.backend.alias(ACCOUNT, "ada", "bob")
    assert bought(site) == {"bob"}
    assert bought(site, 2.0) == frozenset()
    site.backend.erase(ACCOUNT, ["bob"])
    assert site.users() == frozenset()
    assert site.backend.event_names(ACCOUNT, limit=10) == ()
