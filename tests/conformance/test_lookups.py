"""Lookups, compared with brute force over everything that happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.backends.base import (
    AttributeLookup,
    ConsentLookup,
    EventLookup,
    EventRecord,
    Found,
    FoundText,
    IdentityLookup,
    Lookup,
    Role,
    TextLookup,
    UserLookup,
    UserRecord,
)
from engine.backends.base.lookups import NAMES_LISTED_MAX
from engine.criteria.model import ConsentState, EventType
from engine.values import MICROS_PER_DAY, Kind, Value, kind_of
from tests.conformance.drawing import EVENT_NAMES, EVENT_TYPES, KEYS, PURPOSES, STRINGS, input_names
from tests.conformance.site import (
    ACCOUNT,
    APP,
    DESK,
    INPUTS,
    NOON,
    SHOP,
    SUPPORT,
    WEB,
    Site,
    event,
    update,
)
from tests.conformance.test_catalog import CATALOGS_OVER_NETWORK, allowed, operations
from tests.oracle.history import Aliases, History, histories
from tests.oracle.world import Operation, World, fresh_account
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.CATALOG)

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
ENOUGH = (frozenset[Kind](), frozenset({Kind.NUMBER}), frozenset({Kind.STRING, Kind.LIST}))


# --- brute force --------------------------------------------------------------------------------------------


def values_by_hand(users: Sequence[History], lookup: TextLookup | ConsentLookup) -> list[Value]:
    """The values that the lookup's events or users have."""
    through = frozenset(lookup.inputs)
    ours = [user for user in users if user.inputs & through]
    match lookup:
        case EventLookup():
            events = [record for user in users for record in user.events if _selected(record, lookup)]
            return [event.attributes[lookup.key] for event in events if lookup.key in event.attributes]
        case AttributeLookup():
            found = [user.attributes.get((w, lookup.key)) for user in ours for w in lookup.workspaces]
        case IdentityLookup():
            found = [user.identities.get(lookup.type) for user in ours]
        case ConsentLookup():
            found = [user.consents.get((lookup.regulation, lookup.purpose)) for user in ours]
    return [value for value in found if value is not None]


def _selected(record: EventRecord, lookup: EventLookup) -> bool:
    return (
        record.input in lookup.inputs
        and lookup.name in ("", record.name)
        and lookup.type in (None, record.type)
    )


def names_by_hand(users: Sequence[History], lookup: TextLookup) -> set[str]:
    """The names that have data, instead of the lookup's."""
    match lookup:
        case EventLookup(key=""):
            others = replace(lookup, name="")
            return {record.name for user in users for record in user.events if _selected(record, others)}
        case EventLookup():
            events = [record for user in users for record in user.events if _selected(record, lookup)]
            return {key for event in events for key in event.attributes}
        case AttributeLookup():
            places = {place for user in users for place in user.attributes}
            return {key for workspace, key in places if workspace in lookup.workspaces}
        case IdentityLookup():
            return {type_ for user in users for type_ in user.identities}


def is_there_by_hand(users: Sequence[History], lookup: Lookup) -> bool:
    match lookup:
        case UserLookup():
            sides = (frozenset(lookup.inputs), frozenset(lookup.others))
            return any(all(user.inputs & side for side in sides) for user in users)
        case EventLookup(key=""):
            return any(_selected(record, lookup) for user in users for record in user.events)
        case _:
            return bool(values_by_hand(users, lookup))


def texts_of(values: Iterable[Value]) -> set[str]:
    """The strings, alone or in lists."""
    return {
        text
        for value in values
        for text in ([value] if isinstance(value, str) else value if isinstance(value, tuple) else [])
    }


def every_lookup(account: str) -> list[Lookup]:
    """Lookups of all kinds, some of which find nothing."""
    known = input_names(account)
    sets = [(), known[:1], known[1:], known, (f"{account}/workspaces/s/inputs/none",)]
    workspaces = [f"{account}/workspaces/{name}" for name in ("s", "t")]
    lookups: list[Lookup] = []
    for inputs in sets:
        lookups += [
            EventLookup(inputs=inputs, name=name, type=type_, key=key, enough=enough)
            for name in ("", EVENT_NAMES[0], "never")
            for type_ in (None, EVENT_TYPES[1])
            for key in ("", *KEYS)
            for enough in (ENOUGH if key else ENOUGH[:1])
        ]
        lookups += [
            AttributeLookup(inputs=inputs, workspaces=tuple(some), key=key, enough=enough)
            for size in (1, 2)
            for some in combinations(workspaces, size)
            for key in KEYS
            for enough in ENOUGH
        ]
        lookups += [IdentityLookup(inputs=inputs, type=type_) for type_ in ("email", "never")]
        lookups += [
            ConsentLookup(inputs=inputs, regulation=regulation, purpose=purpose)
            for regulation, purpose in (*PURPOSES, ("gdpr", "never"))
        ]
        lookups += [UserLookup(inputs=inputs, others=others) for others in sets]
    return lookups


def assert_lookups(site: Site, account: str, users: Sequence[History], text: str) -> None:
    """Every lookup equals brute force."""
    lookups = every_lookup(account)
    for lookup, found in zip(lookups, site.backend.look_up(account, lookups), strict=True):
        assert found.is_there == is_there_by_hand(users, lookup), lookup
        if not isinstance(lookup, EventLookup | AttributeLookup):
            continue
        kinds = {kind_of(value) for value in values_by_hand(users, lookup)}
        assert found.kinds <= kinds, lookup
        assert found.kinds == kinds or not found.kinds.isdisjoint(lookup.enough), lookup
    for lookup in lookups:
        if (
            isinstance(lookup, EventLookup | AttributeLookup | IdentityLookup)
            and lookup.inputs == input_names(account)
            and not getattr(lookup, "enough", ())
        ):
            names = site.backend.names_beside(account, lookup)
            assert names_by_hand(users, lookup) <= set(names), lookup
            assert len(set(names)) == len(names) <= NAMES_LISTED_MAX, lookup
        if isinstance(lookup, IdentityLookup) or (
            isinstance(lookup, EventLookup | AttributeLookup) and lookup.key and not lookup.enough
        ):
            expected = text in texts_of(values_by_hand(users, lookup))
            found_text = site.backend.find_text(account, lookup, text.__eq__)
            assert found_text.fits is expected, (lookup, text)
            assert expected or found_text.is_complete, lookup


@settings(max_examples=examples(20), suppress_health_check=HEALTH)
@given(data=st.data(), text=st.sampled_from(STRINGS))
def test_lookups_equal_brute_force(shared_site: Site, data: st.DataObject, text: str) -> None:
    account = fresh_account()
    drawn = data.draw(operations(account))
    if not shared_site.wants("lookups", CATALOGS_OVER_NETWORK):
        return
    aliases = Aliases()
    happened: list[Operation] = []
    for operation, then in drawn:
        if not allowed(operation, aliases):
            continue
        shared_site.happen(account, [operation])
        happened.append(operation)
        if then == "look":
            shared_site.backend.look_up(account, every_lookup(account))
        elif then == "checkpoint":
            shared_site.settle()
        elif then == "restart":
            shared_site.restart()
    world = World(
        account=account,
        inputs=input_names(account),
        time_zone="UTC",
        as_of=NOON,
        operations=tuple(happened),
        journeys=(),
    )
    assert_lookups(shared_site, account, list(histories(world).values()), text)


# --- single cases -------------------------------------------------------------------------------------------

AGE = AttributeLookup(inputs=(WEB,), workspaces=(SHOP,), key="age")
PRICE = EventLookup(inputs=(WEB,), name="buy", key="price")


def found(site: Site, *lookups: Lookup) -> list[Found]:
    return list(site.backend.look_up(ACCOUNT, lookups))


def seen(*kinds: Kind) -> Found:
    return Found(is_there=bool(kinds), kinds=frozenset(kinds))


def test_an_account_without_data_has_nothing(site: Site) -> None:
    lookups = (EventLookup(inputs=INPUTS), AGE, UserLookup(inputs=INPUTS, others=INPUTS))
    assert found(site, *lookups) == [seen(), seen(), seen()]
    assert site.backend.find_text(ACCOUNT, AGE, bool) == FoundText(fits=False, is_complete=True)
    assert found(site) == []
    assert site.backend.names_beside(ACCOUNT, AGE) == ()


def test_a_list_of_names_is_bounded(site: Site) -> None:
    names = [f"event {index}" for index in range(NAMES_LISTED_MAX + 10)]
    site.send(*[EventRecord("ada", WEB, name, EventType.CUSTOM, NOON, {}) for name in names])
    beside = site.backend.names_beside(ACCOUNT, EventLookup(inputs=(WEB,), name="event"))
    assert len(beside) == NAMES_LISTED_MAX
    assert set(beside) < set(names)


def test_values_of_other_users_of_the_workspace_do_not_count(site: Site) -> None:
    site.send(update("ada", age="41"), update("bob", through=APP, age=7.0, city="Rome"))
    other = AttributeLookup(inputs=(WEB,), workspaces=(SHOP,), key="city")
    for _ in range(2):
        assert found(site, AGE, other) == [seen(Kind.STRING), seen()]
        assert site.backend.find_text(ACCOUNT, other, bool).fits is False
        site.restart()
    # bob comes through web too; his values are the same, wherever they came through.
    site.send(event("bob"))
    assert found(site, AGE, other) == [seen(Kind.STRING, Kind.NUMBER), seen(Kind.STRING)]
    assert site.backend.find_text(ACCOUNT, other, bool).fits is True


def test_all_workspaces_asked_for_count(site: Site) -> None:
    site.send(update("ada", age="41"), update("ada", through=DESK, age=()))
    both = AttributeLookup(inputs=(WEB,), workspaces=(SHOP, SUPPORT), key="age")
    assert found(site, AGE, both) == [seen(Kind.STRING), seen(Kind.STRING, Kind.LIST)]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_erased_and_removed_data_do_not_count(site: Site, checkpoint: bool) -> None:
    site.send(
        event("ada", price=1.0, page="a"),
        event("bob", price="1", time=NOON - MICROS_PER_DAY),
        event("bob", price=True),
        UserRecord("ada", WEB, NOON, {"age": 41.0}, {"email": "a@x"}, {("gdpr", "ads"): ConsentState.GIVEN}),
        update("bob", age="7"),
    )
    if checkpoint:
        site.settle()
    email = IdentityLookup(inputs=(WEB,), type="email")
    consent = ConsentLookup(inputs=(WEB,), regulation="gdpr", purpose="ads")
    page = EventLookup(inputs=(WEB,), name="buy", key="page")
    assert all(each.is_there for each in found(site, PRICE, AGE, email, consent, page))
    site.backend.erase(ACCOUNT, ["ada"])
    for _ in range(2):
        assert found(site, PRICE, AGE, email, consent, page) == [
            seen(Kind.STRING, Kind.BOOL),
            seen(Kind.STRING),
            *[seen()] * 3,
        ]
        site.restart()
    site.backend.remove_events(ACCOUNT, NOON)
    for _ in range(2):
        assert found(site, PRICE) == [seen(Kind.BOOL)]
        assert site.backend.find_text(ACCOUNT, PRICE, bool).fits is False
        site.restart()
    site.backend.remove_events(ACCOUNT, NOON + 1)
    assert found(site, PRICE, EventLookup(inputs=INPUTS)) == [seen(), seen()]


def test_events_by_name_type_and_input(site: Site) -> None:
    site.send(event("ada"), EventRecord("ada", APP, "view", EventType.COMMERCE, NOON, {"price": 1.0}))
    cases = {
        EventLookup(inputs=(WEB,)): True,
        EventLookup(inputs=(DESK,)): False,
        EventLookup(inputs=(APP,), name="buy"): False,
        EventLookup(inputs=(DESK, WEB), name="buy"): True,
        EventLookup(inputs=INPUTS, name="buy", type=EventType.COMMERCE): False,
        EventLookup(inputs=INPUTS, type=EventType.COMMERCE): True,
        EventLookup(inputs=INPUTS, key="price"): True,
        EventLookup(inputs=(WEB,), key="price"): False,
    }
    assert [each.is_there for each in found(site, *cases)] == list(cases.values())


@pytest.mark.parametrize("checkpoint", [False, True])
def test_only_some_of_many_strings_are_looked_at(site: Site, checkpoint: bool) -> None:
    count = 2_000
    site.send(*(update(f"user-{n}", age=f"{n:04}") for n in range(count)))
    site.send(*(event(f"user-{n}", price=f"{n:04}") for n in range(count)))
    if checkpoint:
        site.settle()
    for lookup in (AGE, PRICE):
        asked: set[str] = set()

        def note(text: str, asked: set[str] = asked) -> bool:
            asked.add(text)
            return False

        assert site.backend.find_text(ACCOUNT, lookup, note) == FoundText(fits=False, is_complete=False)
        assert len(asked) == 1_000
        assert site.backend.find_text(ACCOUNT, lookup, str.isdigit).fits
