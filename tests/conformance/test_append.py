"""Writes are applied once, in order and durably, whatever is repeated or late."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backends.base import Appended, NameKind, Role, UserRecord
from engine.criteria.model import ConsentState, Exists
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, Interval
from engine.values import Micros, Value
from tests.conformance.site import (
    ACCOUNT,
    APP,
    DESK,
    NOON,
    SHOP,
    SUPPORT,
    WEB,
    Site,
    event,
    plan_of,
    sparing,
    update,
)
from tests.oracle.world import fresh_account
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS)

GDPR = ("gdpr", "ads")


def bought(site: Site, at_least: float) -> frozenset[str]:
    """Users who bought that often."""
    selection = EventSelection(inputs=(WEB,), name="buy")
    return site.members(plan_of(EventMatch(selection=selection, intervals=(Interval(low=at_least),))))[0]


def test_revisions_grow_by_the_batch(site: Site) -> None:
    revisions = [site.send(event("ada"), event("bob")).revision for _ in range(3)]
    assert revisions == sorted(set(revisions))
    assert site.backend.revision() == revisions[-1]


def test_an_empty_batch_changes_nothing(site: Site) -> None:
    first = site.send(event("ada"))
    assert site.send() == Appended(first.revision, 0, 0)


# --- duplicates ---------------------------------------------------------------------------------------------


def test_event_id_counts_once_per_input(site: Site) -> None:
    first = site.send(event("ada", event_id="1"), event("ada", event_id="1"), event("ada", event_id="2"))
    assert (first.accepted, first.duplicates) == (2, 1)
    again = site.send(event("ada", event_id="2"), event("ada", event_id="2", through=APP), event("ada"))
    assert (again.accepted, again.duplicates) == (2, 1)
    assert bought(site, 3) == {"ada"}
    assert bought(site, 4) == frozenset()


def test_accounts_have_separate_event_ids(site: Site) -> None:
    site.send(event("ada", event_id="1"))
    assert site.backend.append("accounts/other", [event("ada", event_id="1")]).duplicates == 0


@pytest.mark.parametrize("checkpoint", [False, True])
def test_event_ids_are_known_after_a_restart(site: Site, checkpoint: bool) -> None:
    site.send(*(event("ada", event_id=str(i)) for i in range(100)))
    if checkpoint:
        site.settle()
    site.restart()
    answer = site.send(*(event("ada", event_id=str(i)) for i in range(50, 150)))
    assert (answer.accepted, answer.duplicates) == (50, 50)
    assert bought(site, 150) == {"ada"}
    assert bought(site, 151) == frozenset()


def test_duplicates_alone_create_no_user(site: Site) -> None:
    site.send(event("ada", event_id="1"))
    site.send(event("bob", event_id="1"))
    assert site.users() == {"ada"}
    assert site.backend.profile(ACCOUNT, "bob") is None


@pytest.mark.parametrize("restart", [False, True])
def test_a_repeated_request_gets_the_first_answer(site: Site, restart: bool) -> None:
    first = site.send(event("ada", event_id="1"), event("ada", event_id="1"), request_id="r")
    assert first == Appended(first.revision, 1, 1)
    if restart:
        site.restart()
    again = site.send(event("bob"), request_id="r")
    assert again == Appended(first.revision, 1, 1, repeated=True)
    assert site.users() == {"ada"}
    assert not site.backend.append("accounts/other", [event("bob")], request_id="r").repeated


def test_concurrent_writers_all_succeed(site: Site) -> None:
    """Several may get one revision, but each gets later ones than before."""
    answers: dict[int, list[Appended]] = {}

    def write(worker: int) -> None:
        answers[worker] = [site.send(event(f"user-{worker}-{i}", event_id=f"{i}")) for i in range(20)]

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for own in answers.values():
        revisions = [answer.revision for answer in own]
        assert revisions == sorted(set(revisions))
    # The 20 event ids were each sent by all eight.
    assert sum(answer.accepted for own in answers.values() for answer in own) == 20
    assert len(site.users()) == 20


# --- attributes, identities, consents -----------------------------------------------------------------------


def test_the_latest_time_wins_whatever_the_order(site: Site) -> None:
    site.send(update("ada", time=NOON + 2, plan="late"), update("ada", time=NOON + 1, plan="early"))
    site.send(update("ada", time=NOON, plan="earliest"))
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.attributes == {SHOP: {"plan": (NOON + 2, "late")}}
    assert profile.seen == {WEB: (NOON, NOON + 2)}


def test_of_equal_times_the_later_arrival_wins(site: Site) -> None:
    site.send(update("ada", plan="first"), update("ada", plan="second"))
    site.send(update("ada", plan="third"))
    site.settle()
    site.send(update("ada", plan=4.0))
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.attributes == {SHOP: {"plan": (NOON, 4.0)}}


def test_an_unset_is_a_write(site: Site) -> None:
    site.send(update("ada", time=NOON + 1, plan=None))
    site.send(update("ada", time=NOON, plan="gold"))
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.attributes == {}
    assert site.members(plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Exists()))) == [set()]
    site.send(update("ada", time=NOON + 2, plan="back"))
    assert site.members(plan_of(AttributeMatch(workspaces=(SHOP,), key="plan", test=Exists()))) == [{"ada"}]


def test_workspaces_keep_their_own_attributes(site: Site) -> None:
    site.send(update("ada", plan="shop"), update("ada", through=DESK, plan="support"))
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.attributes == {SHOP: {"plan": (NOON, "shop")}, SUPPORT: {"plan": (NOON, "support")}}


def test_identities_and_consents_belong_to_the_account(site: Site) -> None:
    first = UserRecord("ada", WEB, NOON, {}, {"email": "a@x", "phone": "1"}, {GDPR: ConsentState.GIVEN})
    second = UserRecord("ada", DESK, NOON + 1, {}, {"email": None}, {GDPR: ConsentState.DENIED})
    site.send(first, second)
    site.restart()
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.identities == {"phone": (NOON, "1")}
    assert profile.consents == {GDPR: (NOON + 1, ConsentState.DENIED)}


def test_an_unknown_user_has_no_profile(site: Site) -> None:
    assert site.backend.profile(ACCOUNT, "ada") is None
    site.send(event("bob"))
    assert site.backend.profile(ACCOUNT, "ada") is None


writes = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from((None, "a", "b", 1.0, True, 1, (), ("a",), ("b", "a")))),
    min_size=1,
    max_size=12,
)


@settings(max_examples=examples(30))
@given(history=writes, checkpoint_after=st.integers(0, 12))
@sparing
def test_an_attribute_ends_as_its_last_write(
    shared_site: Site, history: list[tuple[Micros, Value | None]], checkpoint_after: int
) -> None:
    """Profile and index agree after any changes of kind."""
    account = fresh_account()
    through = f"{account}/workspaces/w/inputs/i"
    for at, (time, value) in enumerate(history):
        shared_site.backend.append(account, [UserRecord("ada", through, time, {"v": value})])
        if at == checkpoint_after:
            shared_site.settle()
    latest = max(time for time, _ in history)
    expected = [value for time, value in history if time == latest][-1]
    profile = shared_site.backend.profile(account, "ada")
    assert profile is not None
    kept = profile.attributes.get(f"{account}/workspaces/w", {}).get("v")
    assert kept == (None if expected is None else (latest, expected))
    assert kept is None or type(kept[1]) is type(expected)
    exists = AttributeMatch(workspaces=(f"{account}/workspaces/w",), key="v", test=Exists())
    found = shared_site.members(plan_of(exists, account=account))[0]
    assert found == ({"ada"} if expected not in (None, ()) else set())


# --- inputs and times ---------------------------------------------------------------------------------------


def test_a_user_belongs_to_the_inputs_it_came_through(site: Site) -> None:
    site.send(event("ada", time=NOON + 5), event("ada", through=DESK), update("bob", through=APP))
    site.send(update("ada", time=NOON - 5))
    assert [site.users(through) for through in (WEB, APP, DESK)] == [{"ada"}, {"bob"}, {"ada"}]
    assert site.backend.universe_size(ACCOUNT, [WEB, DESK]) == 1
    assert site.backend.universe_size(ACCOUNT, [WEB, APP, f"{SHOP}/inputs/never"]) == 2
    assert site.backend.universe_size(ACCOUNT, []) == 0
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.seen == {WEB: (NOON - 5, NOON + 5), DESK: (NOON, NOON)}


# --- names --------------------------------------------------------------------------------------------------


def test_names_of_data_are_known_and_counted(site: Site) -> None:
    def unknown(kind: NameKind, scope: str = "", account: str = ACCOUNT) -> set[str]:
        return set(site.backend.unknown_names(account, kind, scope, {"a", "b", "c"}))

    assert unknown(NameKind.EVENT) == {"a", "b", "c"}
    assert site.backend.name_count(ACCOUNT) == 0
    site.send(event("ada", "a", b=1.0), event("ada", "a", b="x"))
    site.send(update("ada", a=1.0, b=None))
    identities: dict[str, str | None] = {"c": "x"}
    site.send(UserRecord("ada", DESK, NOON, {"c": 1.0}, identities, {("a", "b"): ConsentState.GIVEN}))
    for _ in range(2):
        assert unknown(NameKind.EVENT) == {"b", "c"}
        assert unknown(NameKind.EVENT_ATTRIBUTE) == {"a", "c"}
        assert unknown(NameKind.USER_ATTRIBUTE, SHOP) == {"c"}
        assert unknown(NameKind.USER_ATTRIBUTE, SUPPORT) == {"a", "b"}
        assert unknown(NameKind.IDENTITY) == {"a", "b"}
        assert unknown(NameKind.CONSENT, "a") == {"a", "c"}
        assert unknown(NameKind.CONSENT, "b") == {"a", "b", "c"}
        assert unknown(NameKind.EVENT, account="accounts/other") == {"a", "b", "c"}
        assert site.backend.name_count(ACCOUNT) == 7
        assert site.backend.name_count("accounts/other") == 0
        site.restart()
