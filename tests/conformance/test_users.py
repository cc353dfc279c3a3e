"""Aliases and erasure: as if the data had been sent as the other user, or never sent."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import EventRecord, Profile, Record, Role
from engine.errors import FailedPrecondition, LimitExceeded
from engine.limits import USER_ALIASES_MAX
from engine.plan.model import Plan
from tests.conformance.drawing import USER_IDS, plans, worlds
from tests.conformance.site import ACCOUNT, NOON, SHOP, WEB, Site, event, sparing, update
from tests.oracle.world import Alias, Batch, Erase, Operation, World, fresh_account
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS)

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

worlds_with_plans = worlds().flatmap(lambda world: st.tuples(st.just(world), plans(world.account)))


def rewritten(world: World, account: str, owner: dict[str, str | None]) -> list[Operation]:
    """The same batches in another account, users renamed or (None) left out, without event ids."""
    batches = []
    for batch in world.operations:
        assert isinstance(batch, Batch)
        kept: list[Record] = []
        for record in batch.records:
            user_id = owner.get(record.user_id, record.user_id)
            if user_id is not None:
                through = record.input.replace(world.account, account)
                kept.append(msgspec.structs.replace(record, user_id=user_id, input=through))
        batches.append(Batch(tuple(kept)))
    return list(batches)


def moved(plan: Plan, account: str) -> Plan:
    """The same plan about another account."""
    encoded = msgspec.json.encode(plan)
    return msgspec.json.decode(_renamed(encoded, plan.account, account), type=Plan)


def _renamed(encoded: bytes, account: str, other: str) -> bytes:
    for end in (b"/", b'"'):
        encoded = encoded.replace(account.encode() + end, other.encode() + end)
    return encoded


def assert_same_users(site: Site, one: Plan, other: Plan, user_ids: Iterable[str] = USER_IDS) -> None:
    """Two accounts give the same answers and the same profiles."""
    assert site.members(one) == site.members(other)
    assert site.sizes(one) == site.sizes(other)
    for user_id in user_ids:
        first, second = (site.backend.profile(account, user_id) for account in (one.account, other.account))
        assert _told(first, one.account) == _told(second, other.account)


def _told(profile: Profile | None, account: str) -> str:
    """A profile as text that distinguishes kinds and omits the account."""
    if profile is None:
        return ""
    attributes = {workspace: sorted(kept.items()) for workspace, kept in profile.attributes.items()}
    parts = (profile.seen, attributes, profile.identities, profile.consents)
    return repr((profile.user_id, *(sorted(part.items()) for part in parts))).replace(f"{account}/", "")


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans, at=st.integers(0, 4), checkpoint=st.booleans())
@sparing
def test_alias_equals_sending_as_the_other_user(
    shared_site: Site, drawn: tuple[World, Plan], at: int, checkpoint: bool
) -> None:
    world, plan = drawn
    aliased, direct = fresh_account(), fresh_account()
    world = _without_event_ids(world)
    before = rewritten(world, aliased, {})
    shared_site.happen(aliased, [*before[:at], Alias("ada", "bob"), *before[at:]])
    if checkpoint:
        shared_site.settle()
    shared_site.happen(direct, rewritten(world, direct, {"ada": "bob"}))
    others = [user_id for user_id in USER_IDS if user_id != "ada"]
    assert_same_users(shared_site, moved(plan, aliased), moved(plan, direct), others)


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(drawn=worlds_with_plans, gone=st.sets(st.sampled_from(USER_IDS), min_size=1, max_size=4))
@sparing
def test_erasure_equals_never_sending(shared_site: Site, drawn: tuple[World, Plan], gone: set[str]) -> None:
    world, plan = drawn
    erased, never = fresh_account(), fresh_account()
    world = _without_event_ids(world)
    shared_site.happen(erased, [*rewritten(world, erased, {}), Erase(tuple(gone))])
    shared_site.happen(never, rewritten(world, never, dict.fromkeys(gone)))
    assert_same_users(shared_site, moved(plan, erased), moved(plan, never))


def _without_event_ids(world: World) -> World:
    def plain(record: Record) -> Record:
        return msgspec.structs.replace(record, event_id="") if isinstance(record, EventRecord) else record

    batches = [Batch(tuple(map(plain, b.records))) for b in world.operations if isinstance(b, Batch)]
    return msgspec.structs.replace(world, operations=tuple(batches))


# --- aliases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_later_data_of_an_alias_goes_to_its_user(site: Site, restart: bool) -> None:
    site.send(event("cookie", time=NOON))
    site.backend.alias(ACCOUNT, "cookie", "ada")
    if restart:
        site.restart()
    site.send(event("cookie", time=NOON + 9), update("cookie", plan="gold"))
    assert site.users() == {"ada"}
    profile = site.backend.profile(ACCOUNT, "cookie")
    assert profile is not None
    assert profile.user_id == "ada"
    assert profile.seen == {WEB: (NOON, NOON + 9)}
    assert profile.attributes == {SHOP: {"plan": (NOON, "gold")}}


def test_alias_alone_creates_no_user(site: Site) -> None:
    site.send(event("bob"))
    site.backend.alias(ACCOUNT, "cookie", "ada")
    assert site.users() == {"bob"}
    assert site.backend.profile(ACCOUNT, "ada") is None
    site.send(event("cookie"))
    assert site.users() == {"bob", "ada"}


def test_alias_chains_resolve_to_their_end(site: Site) -> None:
    site.send(event("a"), event("b"), event("c"))
    site.backend.alias(ACCOUNT, "a", "b")
    site.backend.alias(ACCOUNT, "b", "c")
    assert site.users() == {"c"}
    site.restart()
    site.send(event("a", time=NOON + 1))
    assert site.users() == {"c"}
    site.backend.alias(ACCOUNT, "d", "a")
    site.send(event("d", time=NOON + 2))
    profile = site.backend.profile(ACCOUNT, "d")
    assert profile is not None
    assert (profile.user_id, profile.seen) == ("c", {WEB: (NOON, NOON + 2)})


@pytest.mark.parametrize(("from_", "to"), [("a", "a"), ("b", "a"), ("c", "a"), ("c", "b"), ("c", "c")])
def test_cycles_are_refused(site: Site, from_: str, to: str) -> None:
    site.send(event("a"), event("b"), event("c"))
    site.backend.alias(ACCOUNT, "a", "b")
    site.backend.alias(ACCOUNT, "b", "c")
    with pytest.raises(FailedPrecondition) as raised:
        site.backend.alias(ACCOUNT, from_, to)
    assert raised.value.reason == "ALIAS_CYCLE"
    site.restart()
    assert site.users() == {"c"}


def test_a_user_has_a_limited_number_of_aliases(site: Site) -> None:
    for number in range(USER_ALIASES_MAX):
        site.backend.alias(ACCOUNT, f"cookie-{number}", "ada")
    site.restart()
    site.send(event("ada"), event("other"))
    for _ in range(2):
        with pytest.raises(LimitExceeded) as refused:
            site.backend.alias(ACCOUNT, "third", "ada")
        assert refused.value.metadata == {"limit": "1000", "count": "1001"}
        # An alias that there is, under any name of the user, and aliases of other users.
        site.backend.alias(ACCOUNT, "cookie-1", "ada")
        site.backend.alias(ACCOUNT, "device", "other")
    with pytest.raises(LimitExceeded):
        site.backend.alias(ACCOUNT, "ada", "other")
    assert site.users() == {"ada", "other"}


def test_repeated_alias_is_a_noop_and_a_different_one_is_refused(site: Site) -> None:
    site.send(event("a"), event("b"), event("x"))
    site.backend.alias(ACCOUNT, "a", "b")
    site.backend.alias(ACCOUNT, "a", "b")
    site.backend.alias(ACCOUNT, "b", "c")
    site.backend.alias(ACCOUNT, "a", "b")
    site.backend.alias(ACCOUNT, "a", "c")
    with pytest.raises(FailedPrecondition) as raised:
        site.backend.alias(ACCOUNT, "a", "x")
    assert raised.value.reason == "ALREADY_ALIASED"
    assert site.users() == {"c", "x"}


# --- erasure ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_erased_id_can_be_reused(site: Site, restart: bool) -> None:
    site.send(event("ada"), update("ada", plan="gold"), event("bob"))
    answer = site.backend.erase(ACCOUNT, ["ada", "nobody"])
    assert answer.accepted == 1
    if restart:
        site.restart()
    assert site.users() == {"bob"}
    site.send(event("ada", time=NOON + 7))
    assert site.users() == {"ada", "bob"}
    profile = site.backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert (profile.attributes, profile.seen) == ({}, {WEB: (NOON + 7, NOON + 7)})


def test_erasing_an_alias_erases_its_user_and_frees_the_ids(site: Site) -> None:
    site.send(event("cookie"), event("ada"))
    site.backend.alias(ACCOUNT, "cookie", "ada")
    assert site.backend.erase(ACCOUNT, ["cookie"]).accepted == 1
    assert site.users() == frozenset()
    site.send(event("cookie"), event("ada"))
    assert site.users() == {"cookie", "ada"}


def test_erased_users_count_nowhere(site: Site) -> None:
    site.send(*(event(f"user-{i}") for i in range(50)))
    site.backend.erase(ACCOUNT, [f"user-{i}" for i in range(0, 50, 2)])
    assert len(site.users()) == 25
    assert site.backend.universe_size(ACCOUNT, [WEB]) == 25
    assert site.backend.stats().users == 25
    site.settle()
    assert site.backend.stats().events == 25


def test_other_accounts_keep_their_users(site: Site) -> None:
    site.send(event("ada"))
    site.backend.append("accounts/other", [event("ada")])
    site.backend.erase(ACCOUNT, ["ada"])
    assert site.backend.profile("accounts/other", "ada") is not None
