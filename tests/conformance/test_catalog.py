"""The catalog, compared with brute force over everything that happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import AttributeFacts, EventNameFacts, EventRecord, Role, UserRecord, ValueCount
from engine.criteria.model import EventType
from engine.errors import DeadlineExceeded
from engine.values import Kind, Micros, Value, kind_of
from tests.conformance.drawing import (
    EVENT_NAMES,
    KEYS,
    LONG,
    STRINGS,
    USER_IDS,
    input_names,
    instants,
    records,
)
from tests.conformance.site import ACCOUNT, APP, DESK, NOON, SHOP, SUPPORT, WEB, Site, event, update
from tests.oracle.history import Aliases, History, histories
from tests.oracle.world import Alias, Batch, Erase, Expire, Operation, World, fresh_account
from tests.short_forms import examples

pytestmark = pytest.mark.needs(Role.WRITING, Role.PLANS, Role.CATALOG)

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
PREFIXES = ("", "b", "p", "12", "go", "Gold", LONG, LONG + "!", "x" * 400)
ALL = 1_000
PAGE = 2
CATALOGS_OVER_NETWORK = 2
"""Examples for a backend over the network: each asks hundreds of questions."""

T = TypeVar("T")

event_names = st.sampled_from((*EVENT_NAMES, "", "no such"))
prefixes = st.sampled_from(PREFIXES)
user_ids = st.sampled_from(USER_IDS[:6])


# --- brute force---------------------------------------------------------------------------------------------


def _events(users: Sequence[History], input: str) -> list[tuple[str, EventRecord]]:
    return [(user.user_id, record) for user in users for record in user.events if input in ("", record.input)]


def names_by_hand(users: Sequence[History], input: str, prefix: str) -> list[EventNameFacts]:
    found: dict[tuple[str, str, int], list[tuple[str, EventRecord]]] = {}
    for user_id, record in _events(users, input):
        if record.name.startswith(prefix):
            place = (record.name, record.input, int(record.type))
            found.setdefault(place, []).append((user_id, record))
    return [
        EventNameFacts(
            name=name,
            input=through,
            type=EventType(type_),
            events=len(rows),
            users=len({user_id for user_id, _ in rows}),
            first_time=min(record.time for _, record in rows),
            last_time=max(record.time for _, record in rows),
        )
        for (name, through, type_), rows in sorted(found.items())
    ]


def event_attributes_by_hand(
    users: Sequence[History], name: str, input: str, prefix: str
) -> list[AttributeFacts]:
    carried: dict[str, list[tuple[Micros, Kind]]] = {}
    for _, record in _events(users, input):
        for key, value in record.attributes.items():
            if record.name == name and key.startswith(prefix):
                carried.setdefault(key, []).append((record.time, kind_of(value)))
    return [
        AttributeFacts(
            key=key,
            event_name=name,
            kinds=tuple(sorted({kind for _, kind in found})),
            first_time=min(time for time, _ in found),
            last_time=max(time for time, _ in found),
        )
        for key, found in sorted(carried.items())
    ]


def user_attributes_by_hand(users: Sequence[History], workspace: str, prefix: str) -> list[AttributeFacts]:
    held: dict[tuple[str, str], list[tuple[Micros, Kind]]] = {}
    for user in users:
        for (through, key), value in user.attributes.items():
            if value is not None and key.startswith(prefix) and workspace in ("", through):
                time = user.attribute_times[through, key]
                held.setdefault((key, through), []).append((time, kind_of(value)))
    return [
        AttributeFacts(
            key=key,
            workspace=through,
            kinds=tuple(sorted({kind for _, kind in found})),
            users=len(found),
            first_time=min(time for time, _ in found),
            last_time=max(time for time, _ in found),
        )
        for (key, through), found in sorted(held.items())
    ]


def values_by_hand(users: Sequence[History], workspace: str, key: str, prefix: str) -> list[ValueCount]:
    values = [user.attributes.get((workspace, key)) for user in users]
    return [ValueCount(value, users=count) for value, count in _counted(values, prefix)]


def event_values_by_hand(
    users: Sequence[History], name: str, key: str, input: str, prefix: str
) -> list[ValueCount]:
    values = [event.attributes.get(key) for _, event in _events(users, input) if event.name == name]
    return [ValueCount(value, events=count) for value, count in _counted(values, prefix)]


def _counted(values: Sequence[Value | None], prefix: str) -> list[tuple[Any, int]]:
    """Values and elements of lists with the number of those that have them, in the order of the catalog."""
    counts: Counter[tuple[Kind, Any]] = Counter()
    for value in values:
        if type(value) is tuple:
            counts.update((Kind.STRING, element) for element in set(value))
        elif value is not None:
            # Adding 0.0 makes 0.0 of -0.0, which is the same number.
            counts[kind_of(value), value + 0.0 if type(value) is float else value] += 1
    ordered = sorted((-number, kind, value) for (kind, value), number in counts.items())
    return [
        (value, -negative)
        for negative, kind, value in ordered
        if not prefix or (kind is Kind.STRING and value.startswith(prefix))
    ]


# --- reading ------------------------------------------------------------------------------------------------


def paged(ask: Callable[..., tuple[T, ...]], place: Callable[[T], Any]) -> list[T]:
    """Everything in pages of two, equal to one large page."""
    found: list[T] = []
    while page := ask(after=place(found[-1]) if found else None, limit=PAGE):
        assert len(page) <= PAGE
        found += page
    assert tuple(found) == ask(limit=ALL)
    return found


def _typed(counts: Sequence[ValueCount]) -> list[tuple[Kind, str, int, int]]:
    # 1 equals True in Python, and 0.0 differs from -0.0 only in writing.
    return [(kind_of(count.value), repr(count.value), count.users, count.events) for count in counts]


def assert_catalog(site: Site, world: World, prefix: str, event_name: str) -> None:
    """The whole catalog, with and without filters, equals brute force."""
    backend, account = site.backend, world.account
    users = list(histories(world).values())
    for input in ("", *world.inputs, f"{account}/workspaces/s/inputs/none"):
        ask_names = partial(backend.event_names, account, input=input, prefix=prefix)
        assert paged(ask_names, EventNameFacts.place) == names_by_hand(users, input, prefix)
        ask_events = partial(backend.event_attributes, account, event_name, input=input, prefix=prefix)
        by_hand = event_attributes_by_hand(users, event_name, input, prefix)
        assert paged(ask_events, lambda found: found.key) == by_hand
        for key in KEYS:
            ask_values = partial(
                backend.event_attribute_values, account, event_name, key, input=input, prefix=prefix
            )
            expected = event_values_by_hand(users, event_name, key, input, prefix)
            assert _typed(paged(ask_values, lambda found: found)) == _typed(expected)
    for workspace in ("", f"{account}/workspaces/s", f"{account}/workspaces/t"):
        ask_users = partial(backend.user_attributes, account, workspace=workspace, prefix=prefix)
        by_hand = user_attributes_by_hand(users, workspace, prefix)
        assert paged(ask_users, lambda found: (found.key, found.workspace)) == by_hand
        for key in KEYS:
            ask_values = partial(backend.attribute_values, account, workspace, key, prefix=prefix)
            expected = values_by_hand(users, workspace, key, prefix)
            assert _typed(paged(ask_values, lambda found: found)) == _typed(expected)


def operations(account: str) -> st.SearchStrategy[list[tuple[Operation, str]]]:
    """Operations, each with what to do then."""
    batches = st.lists(records(account), min_size=1, max_size=10).map(lambda rows: Batch(tuple(rows)))
    drawn = st.one_of(
        batches,
        batches,
        st.builds(Alias, user_ids, user_ids),
        st.lists(user_ids, min_size=1, max_size=2).map(lambda gone: Erase(tuple(gone))),
        st.builds(Expire, instants),
    )
    return st.lists(
        st.tuples(drawn, st.sampled_from(["go on", "look", "look", "checkpoint", "restart"])),
        min_size=1,
        max_size=8,
    )


def allowed(operation: Operation, aliases: Aliases) -> bool:
    """Whether a backend accepts the operation; tracks aliases."""
    if isinstance(operation, Erase):
        aliases.forget(operation.user_ids)
    if not isinstance(operation, Alias):
        return True
    source, target = operation.from_user_id, operation.to_user_id
    if aliases.now_called(source) != source or aliases.closes_cycle(source, target):
        return False
    aliases.link(source, target)
    return True


@settings(max_examples=examples(30), suppress_health_check=HEALTH)
@given(data=st.data(), prefix=prefixes, event_name=event_names)
def test_catalog_equals_brute_force(
    shared_site: Site, data: st.DataObject, prefix: str, event_name: str
) -> None:
    account = fresh_account()
    drawn = data.draw(operations(account))
    if not shared_site.wants("catalog", CATALOGS_OVER_NETWORK):
        return
    aliases = Aliases()
    happened: list[Operation] = []

    def world() -> World:
        return World(
            account=account,
            inputs=input_names(account),
            time_zone="UTC",
            as_of=NOON,
            operations=tuple(happened),
            journeys=(),
        )

    for operation, then in drawn:
        if not allowed(operation, aliases):
            continue
        shared_site.happen(account, [operation])
        happened.append(operation)
        if then == "look":
            assert_catalog(shared_site, world(), "", event_name)
        elif then == "checkpoint":
            shared_site.settle()
        elif then == "restart":
            shared_site.restart()
    assert_catalog(shared_site, world(), prefix, event_name)


# --- single cases -----------------------------------------------------------------------------------------


def test_an_account_without_data_has_an_empty_catalog(site: Site) -> None:
    backend = site.backend
    assert backend.event_names(ACCOUNT, limit=ALL) == ()
    assert backend.user_attributes(ACCOUNT, limit=ALL) == ()
    assert backend.event_attributes(ACCOUNT, "buy", limit=ALL) == ()
    assert backend.attribute_values(ACCOUNT, SHOP, "plan", limit=ALL) == ()
    assert backend.event_attribute_values(ACCOUNT, "buy", "price", limit=ALL) == ()


def test_an_event_name_by_input_and_type(site: Site) -> None:
    site.send(
        event("ada", time=NOON),
        event("ada", time=NOON + 5),
        event("bob", time=NOON - 5),
        event("bob", through=APP),
        EventRecord("cleo", APP, "buy", EventType.COMMERCE, NOON + 1, {}),
        event("cleo", "view", through=DESK),
    )
    found = site.backend.event_names(ACCOUNT, prefix="b", limit=ALL)
    assert [
        (facts.input, facts.type, facts.events, facts.users, facts.first_time, facts.last_time)
        for facts in found
        if facts.name == "buy"
    ] == [
        (APP, EventType.CUSTOM, 1, 1, NOON, NOON),
        (APP, EventType.COMMERCE, 1, 1, NOON + 1, NOON + 1),
        (WEB, EventType.CUSTOM, 3, 2, NOON - 5, NOON + 5),
    ]
    assert len(found) == 3


def test_names_sent_only_by_an_erased_user_disappear(site: Site) -> None:
    site.send(
        event("ada", "once", time=NOON - 9, secret="x"),
        event("ada", time=NOON - 9, secret="x", price=1.0),
        event("bob", price="12"),
        update("ada", time=NOON - 9, nick="a", plan="gold"),
        update("bob", plan="gold"),
    )
    site.settle()
    site.backend.erase(ACCOUNT, ["ada"])
    for _ in range(2):
        [names] = site.backend.event_names(ACCOUNT, limit=ALL)
        assert (names.name, names.events, names.users) == ("buy", 1, 1)
        assert (names.first_time, names.last_time) == (NOON, NOON)
        [price] = site.backend.event_attributes(ACCOUNT, "buy", limit=ALL)
        assert (price.key, price.kinds) == ("price", (Kind.STRING,))
        assert site.backend.event_attributes(ACCOUNT, "once", limit=ALL) == ()
        assert (price.first_time, price.last_time) == (NOON, NOON)
        [plan] = site.backend.user_attributes(ACCOUNT, limit=ALL)
        assert (plan.key, plan.workspace, plan.users) == ("plan", SHOP, 1)
        assert (plan.first_time, plan.last_time) == (NOON, NOON)
        assert site.backend.attribute_values(ACCOUNT, SHOP, "nick", limit=ALL) == ()
        assert event_values(site, "secret") == []
        assert event_values(site, "price") == [("12", 1)]
        site.restart()


def test_merged_users_are_counted_once(site: Site) -> None:
    site.send(
        event("cookie"), event("ada"), event("bob"), update("cookie", plan="a"), update("ada", plan="b")
    )
    assert site.backend.event_names(ACCOUNT, limit=ALL)[0].users == 3
    site.backend.alias(ACCOUNT, "cookie", "ada")
    [buy] = site.backend.event_names(ACCOUNT, limit=ALL)
    assert (buy.events, buy.users) == (3, 2)
    assert site.backend.attribute_values(ACCOUNT, SHOP, "plan", limit=ALL) == (ValueCount("b", 1),)


def event_values(site: Site, key: str, *, input: str = "", prefix: str = "") -> list[tuple[Value, int]]:
    found = site.backend.event_attribute_values(ACCOUNT, "buy", key, input=input, prefix=prefix, limit=ALL)
    assert [count.users for count in found] == [0] * len(found)
    return [(count.value, count.events) for count in found]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_values_of_events(site: Site, checkpoint: bool) -> None:
    # 1. Counted by events, not by users; a list once for each of its different elements.
    day = 86_400_000_000
    site.send(
        *(event("ada", time=NOON + second, tag="a") for second in range(3)),
        event("bob", tag=("a", "a", "b")),
        event("bob", through=APP, tag="b", time=NOON - day),
        event("bob", tag=1.0),
        event("bob", tag=-0.0),
        event("cleo", tag=0.0),
        event("cleo", tag=True),
        event("cleo", tag=NOON),
        event("cleo", tag=()),
        event("cleo", "view", tag="a"),
        EventRecord("dan", WEB, "buy", EventType.COMMERCE, NOON, {"tag": "a"}),
        event("dan", "buy", tag="long " * 60, event_id="1"),
        event("dan", "buy", tag="long " * 60, event_id="1"),
    )
    if checkpoint:
        site.settle()
    long = "long " * 60
    values: list[tuple[Value, int]] = [
        ("a", 5),
        ("b", 2),
        (0.0, 2),
        (long, 1),
        (1.0, 1),
        (True, 1),
        (NOON, 1),
    ]
    for _ in range(2):
        assert event_values(site, "tag") == values
        assert event_values(site, "tag", prefix="l") == [(long, 1)]
        assert event_values(site, "tag", input=APP) == [("b", 1)]
        assert event_values(site, "tag", input=DESK) == event_values(site, "other") == []
        site.restart()
    # 2. Events that were removed count no more; those of an alias count as before.
    site.backend.alias(ACCOUNT, "ada", "eve")
    assert event_values(site, "tag") == values
    site.backend.remove_events(ACCOUNT, NOON)
    assert event_values(site, "tag")[:2] == [("a", 5), (0.0, 2)]
    site.backend.erase(ACCOUNT, ["eve", "cleo"])
    for _ in range(2):
        assert event_values(site, "tag") == [("a", 2), ("b", 1), (long, 1), (0.0, 1), (1.0, 1)]
        if checkpoint:
            site.restart()


def times_of(found: AttributeFacts) -> tuple[str, Micros, Micros]:
    return found.key, found.first_time - NOON, found.last_time - NOON


def test_first_and_last_time_of_an_event_attribute(site: Site) -> None:
    site.send(
        event("ada", time=NOON - 7),
        event("ada", time=NOON, price=1.0),
        event("bob", time=NOON + 5, price="1", size=4.0),
        event("bob", time=NOON + 9, through=APP, price=2.0),
        event("bob", "view", time=NOON + 20, price=1.0),
    )
    for _ in range(2):
        found = site.backend.event_attributes(ACCOUNT, "buy", limit=ALL)
        assert [times_of(each) for each in found] == [("price", 0, 9), ("size", 5, 5)]
        found = site.backend.event_attributes(ACCOUNT, "buy", input=WEB, limit=ALL)
        assert [times_of(each) for each in found] == [("price", 0, 5), ("size", 5, 5)]
        site.restart()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_first_and_last_time_of_a_user_attribute(site: Site, checkpoint: bool) -> None:
    def plan(*records: UserRecord) -> tuple[Micros, Micros]:
        site.send(*records)
        if checkpoint:
            site.restart()
        [found] = site.backend.user_attributes(ACCOUNT, limit=ALL)
        return times_of(found)[1:]

    assert plan(update("ada", time=NOON, plan="a"), update("bob", time=NOON + 3, plan="b")) == (0, 3)
    # An earlier write does not hold, whenever it arrives, and the same value again is a write.
    assert plan(update("bob", time=NOON - 5, plan="c"), update("cleo", time=NOON + 1, plan=1.0)) == (0, 3)
    assert plan(update("ada", time=NOON + 2, plan="a")) == (1, 3)
    # An unset gives no one the attribute, however late it is.
    assert plan(update("bob", time=NOON + 8, plan=None)) == (1, 2)
    site.backend.alias(ACCOUNT, "cleo", "ada")
    assert plan() == (2, 2)
    site.backend.erase(ACCOUNT, ["ada"])
    assert plan(update("bob", time=NOON + 9, plan=())) == (9, 9)


def test_attribute_kind_can_change_per_user(site: Site) -> None:
    def age() -> AttributeFacts:
        [found] = site.backend.user_attributes(ACCOUNT, workspace=SHOP, limit=ALL)
        return found

    site.send(update("ada", age="41"), update("bob", age="7"), update("eve", through=DESK, age=True))
    assert (age().kinds, age().users) == ((Kind.STRING,), 2)
    site.send(update("ada", time=NOON + 1, age=41.0))
    assert (age().kinds, age().users) == ((Kind.STRING, Kind.NUMBER), 2)
    site.send(update("bob", time=NOON + 1, age=None))
    assert (age().kinds, age().users) == ((Kind.NUMBER,), 1)
    [desk] = site.backend.user_attributes(ACCOUNT, workspace=SUPPORT, limit=ALL)
    assert (desk.kinds, desk.users) == ((Kind.BOOL,), 1)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_values_most_frequent_first_then_by_kind_and_value(site: Site, checkpoint: bool) -> None:
    values: list[Value] = ["b", "a", ("a", "a", "c"), (), True, 2.0, 2.0, -0.0, 0.0, NOON, NOON + 1]
    site.send(*(update(f"user-{at}", plan=value) for at, value in enumerate(values)))
    if checkpoint:
        site.settle()
    expected: list[tuple[Value, int]] = [
        ("a", 2),
        (0.0, 2),
        (2.0, 2),
        ("b", 1),
        ("c", 1),
        (True, 1),
        (NOON, 1),
        (NOON + 1, 1),
    ]
    found = paged(partial(site.backend.attribute_values, ACCOUNT, SHOP, "plan"), lambda count: count)
    assert _typed(found) == _typed([ValueCount(value, users) for value, users in expected])


def test_values_that_start_alike_among_many(site: Site) -> None:
    numbers = range(3_000)
    site.send(*(update(f"user-{n}", plan=f"{n % 1_500:04}") for n in numbers))
    site.settle()
    site.send(*(update(f"user-{n}", time=NOON + 1, plan=f"014{n}") for n in range(3)))
    found = site.backend.attribute_values(ACCOUNT, SHOP, "plan", prefix="014", limit=5)
    assert found == tuple(ValueCount(f"014{n}", 3 if n < 3 else 2) for n in range(5))


@pytest.mark.parametrize("before", [4.0, NOON, "gold", True, ("a", "b")])
@pytest.mark.parametrize("after", [5.0, NOON + 1, "silver", False, ("b",), None])
def test_overwritten_value_no_longer_counts(site: Site, before: Value, after: Value | None) -> None:
    site.send(update("ada", plan=before), update("bob", plan="other"))
    site.settle()
    site.send(update("ada", time=NOON + 1, plan=after))
    found = site.backend.attribute_values(ACCOUNT, SHOP, "plan", limit=ALL)
    now: tuple[Value, ...] = after if type(after) is tuple else () if after is None else (after,)
    assert sorted(_typed(found)) == sorted(_typed([ValueCount(value, 1) for value in ("other", *now)]))


@pytest.mark.parametrize("text", [text for text in STRINGS if text != "12"])
def test_any_string_is_found_by_its_full_text(site: Site, text: str) -> None:
    site.send(update("ada", plan=text), update("bob", plan="another"))
    site.restart()
    found = site.backend.attribute_values(ACCOUNT, SHOP, "plan", prefix=text, limit=ALL)
    assert ValueCount(text, 1) in found
    assert all(str(count.value).startswith(text) for count in found)


def test_expired_deadline_raises_instead_of_returning_an_empty_page(site: Site) -> None:
    site.send(event("ada", price=1.0), update("ada", plan="gold"))
    backend = site.backend
    with pytest.raises(DeadlineExceeded):
        backend.event_names(ACCOUNT, limit=ALL, deadline=0.0)
    with pytest.raises(DeadlineExceeded):
        backend.user_attributes(ACCOUNT, limit=ALL, deadline=0.0)
    with pytest.raises(DeadlineExceeded):
        backend.event_attributes(ACCOUNT, "buy", limit=ALL, deadline=0.0)
    with pytest.raises(DeadlineExceeded):
        backend.attribute_values(ACCOUNT, SHOP, "plan", limit=ALL, deadline=0.0)
    with pytest.raises(DeadlineExceeded):
        backend.event_attribute_values(ACCOUNT, "buy", "price", limit=ALL, deadline=0.0)


def test_user_updates_do_not_count_as_events(site: Site) -> None:
    site.send(UserRecord("ada", WEB, NOON, {"plan": "gold"}))
    assert site.backend.event_names(ACCOUNT, limit=ALL) == ()
