"""Forgetting accounts, workspaces and inputs without users: whatever gets the same name starts anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.backends.base import EventRecord, Role
from engine.criteria.model import Exists
from engine.errors import FailedPrecondition
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, Interval
from tests.conformance.site import ACCOUNT, APP, DESK, NOON, SHOP, WEB, Site, event, plan_of, update

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS, Role.CATALOG)

Moment = Callable[[Site], None]

MOMENTS: dict[str, Moment] = {
    "at once": lambda site: None,
    "after a flush": Site.settle,
    "after a restart": Site.restart,
}


def bought_through(site: Site, through: str) -> frozenset[str]:
    """Users who bought through an input."""
    selection = EventSelection(inputs=(through,), name="buy")
    return site.members(plan_of(EventMatch(selection=selection, intervals=(Interval(low=1.0),))))[0]


def users(site: Site) -> list[frozenset[str]]:
    """The users of the two inputs."""
    return [site.users(WEB), site.users(APP)]


def buyers(site: Site) -> list[frozenset[str]]:
    """Users who bought through each of them."""
    return [bought_through(site, WEB), bought_through(site, APP)]


def with_plan(site: Site) -> frozenset[str]:
    """Users with the attribute `plan` of the shop."""
    return site.members(plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Exists())))[0]


def once(through: str) -> EventRecord:
    """An event that counts once."""
    return event("ada", through=through, event_id="1", price=5.0)


@pytest.mark.parametrize("before", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("after", MOMENTS.values(), ids=MOMENTS)
def test_a_forgotten_input_starts_anew(site: Site, before: Moment, after: Moment) -> None:
    # 1. Data came through two inputs; the users of one of them are erased.
    site.send(once(WEB), update("ada", plan="gold"), event("bob", through=APP))
    site.backend.erase(ACCOUNT, ["ada"])
    assert site.send(once(WEB)).duplicates == 1
    before(site)
    # 2. It is forgotten, and its event ids with it.
    revision = site.backend.forget(ACCOUNT, WEB)
    assert revision == site.backend.revision() == 4
    after(site)
    assert users(site) == [frozenset(), {"bob"}]
    assert site.backend.event_names(ACCOUNT, input=WEB, limit=9) == ()
    assert site.send(once(WEB)).duplicates == 0
    # 3. What comes later is all there is, and the other input has kept what it had.
    for _ in range(2):
        assert users(site) == [{"ada"}, {"bob"}]
        assert buyers(site) == [{"ada"}, {"bob"}]
        (facts,) = site.backend.event_names(ACCOUNT, input=WEB, limit=9)
        assert (facts.events, facts.users) == (1, 1)
        (attribute,) = site.backend.event_attributes(ACCOUNT, "buy", input=WEB, limit=9)
        assert attribute.key == "price"
        assert with_plan(site) == frozenset()
        site.restart()


@pytest.mark.parametrize("after", MOMENTS.values(), ids=MOMENTS)
def test_a_forgotten_workspace_has_no_attributes(site: Site, after: Moment) -> None:
    site.send(update("ada", plan="gold"), event("bob", through=DESK))
    site.backend.erase(ACCOUNT, ["ada"])
    site.backend.forget(ACCOUNT, SHOP)
    after(site)
    assert site.backend.user_attributes(ACCOUNT, limit=9) == ()
    assert site.users() == {"bob"}
    site.send(update("cleo", tier="new"))
    assert [facts.key for facts in site.backend.user_attributes(ACCOUNT, limit=9)] == ["tier"]
    assert with_plan(site) == frozenset()


@pytest.mark.parametrize("before", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("after", MOMENTS.values(), ids=MOMENTS)
def test_a_forgotten_account_starts_anew(site: Site, before: Moment, after: Moment) -> None:
    # 1. An account with users, aliases, attributes, events and request ids; its users are erased.
    site.backend.append(ACCOUNT, [once(WEB), event("bob", "view")], request_id="r")
    site.send(update("ada", plan="gold"))
    site.backend.alias(ACCOUNT, "nobody", "someone")
    site.backend.erase(ACCOUNT, ["ada", "bob"])
    site.backend.append("accounts/other", [event("zoe", through="accounts/other/workspaces/w/inputs/i")])
    before(site)
    # 2. It is forgotten: as if it had never been.
    site.backend.forget(ACCOUNT, ACCOUNT)
    after(site)
    assert site.backend.event_names(ACCOUNT, limit=9) == ()
    assert site.backend.user_attributes(ACCOUNT, limit=9) == ()
    # 3. The same batch under the same request id is taken, and the alias is none any more.
    again = site.backend.append(ACCOUNT, [once(WEB), event("nobody")], request_id="r")
    assert (again.accepted, again.duplicates, again.repeated) == (2, 0, False)
    for _ in range(2):
        assert site.users() == {"ada", "nobody"}
        assert bought_through(site, WEB) == {"ada", "nobody"}
        assert [facts.name for facts in site.backend.event_names(ACCOUNT, limit=9)] == ["buy"]
        assert site.backend.profile(ACCOUNT, "someone") is None
        assert site.backend.stats().users == 3
        site.restart()


@pytest.mark.parametrize("name", [WEB, SHOP, ACCOUNT])
def test_a_name_with_users_is_not_forgotten(site: Site, name: str) -> None:
    site.send(once(WEB))
    site.backend.remove_events(ACCOUNT, NOON + 1)
    # Without events ada still belongs to the input.
    with pytest.raises(FailedPrecondition, match=r"users belong to it: 1$"):
        site.backend.forget(ACCOUNT, name)
    for _ in range(2):
        assert site.users() == {"ada"}
        site.restart()
    assert site.send(once(WEB)).duplicates == 1


def test_what_was_never_there_is_forgotten_without_a_write(site: Site) -> None:
    site.send(event("ada"))
    revision = site.backend.revision()
    assert site.backend.forget("accounts/never", "accounts/never") == revision
    assert site.backend.revision() == revision


def test_names_that_only_begin_alike_stay(site: Site) -> None:
    longer = f"{WEB}-2"
    site.send(event("ada", through=longer, event_id="1"))
    site.backend.forget(ACCOUNT, WEB)
    site.backend.forget(ACCOUNT, f"{SHOP}p")
    assert site.users(longer) == {"ada"}
    assert site.send(event("ada", through=longer, event_id="1")).duplicates == 1
