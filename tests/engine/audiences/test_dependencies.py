"""New data make users dirty only in the journeys whose audiences read them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.backends.base import EventRecord, UserRecord
from engine.criteria.model import (
    AllOf,
    Audience,
    Bucket,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    Identity,
    Not,
    UserAttribute,
    WhereAttribute,
    WithinLast,
)
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_DAY, Value
from tests.conformance.as_columns import append_by_column
from tests.engine.site import ACCOUNT, APP, NOW, WEB, Site, did, event

JOURNEYS = 100
BY_COLUMN = pytest.mark.parametrize("by_column", [False, True], ids=["records", "columns"])


def add_journey(site: Site, number: int, *criteria: Criterion | None, inputs: tuple[str, ...] = ()) -> str:
    """A journey of one split, whose last milestone is connected."""
    journey = f"{ACCOUNT}/journeys/j{number}"
    site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name="", inputs=inputs))
    for at, criterion in enumerate(criteria):
        milestone = site.add(f"m{at}", criterion, journey=journey)
    site.connect(milestone, f"c{number}")
    return journey


def send(site: Site, by_column: bool, *records: EventRecord | UserRecord) -> None:
    if by_column:
        append_by_column(site.backend, ACCOUNT, records)
    else:
        site.backend.append(ACCOUNT, records)


def marks(site: Site) -> int:
    """How many times a user was marked as dirty in a journey."""
    return site.backend._state.memberships.dirty_marks  # type: ignore[attr-defined,no-any-return]


@BY_COLUMN
def test_audiences_that_do_not_read_an_event_have_no_dirty_users(site: Site, by_column: bool) -> None:
    """Of a hundred audiences none reads `visit` without attributes, and ten read `buy`."""
    users = [f"u{number}" for number in range(50)]
    send(site, by_column, *(event(user, "visit") for user in users))
    kinds: list[Callable[[int], Criterion]] = [
        lambda n: did("buy", days=n),
        lambda n: Not(criterion=did(f"open-{n}")),
        lambda n: UserAttribute(key=f"plan-{n}", test=Equals("gold")),
        lambda n: Identity(type="email", test=Exists()),
        lambda n: Event(name="visit", where=WhereAttribute(key=f"page-{n}", test=Exists())),
        lambda n: Event(name="visit", type=EventType.COMMERCE),
        lambda n: Event(name="visit", inputs=(APP,)),
        lambda n: Bucket(salt=str(n), from_percent=0.0, to_percent=50.0),
        lambda n: UserAttribute(key="$first_seen", test=Equals(NOW)),
        lambda n: Consent(regulation="gdpr", purpose=str(n), state=ConsentState.GIVEN),
    ]
    journeys = [
        add_journey(site, number, kinds[number % len(kinds)](number + 1), None) for number in range(JOURNEYS)
    ]
    site.engine.live.refresh_all()
    before = marks(site)
    # `$first_seen` is among the criteria: columns cannot tell that a first time stays the same.
    first_seen = len(users) * JOURNEYS // len(kinds) if by_column else 0
    send(site, by_column, *(event(user, "visit", time=NOW + 1) for user in users))
    assert marks(site) - before == first_seen
    assert sum(site.backend.pending(journey) for journey in journeys) == first_seen
    before = marks(site)
    send(site, by_column, *(event(user, "buy", time=NOW + 2) for user in users))
    assert marks(site) - before == first_seen + len(users) * JOURNEYS // len(kinds)
    site.engine.live.refresh_all()
    assert [site.backend.pending(journey) for journey in journeys] == [0] * JOURNEYS


GOLD: dict[str, Value] = {"plan": "gold"}
CASES: list[tuple[str, Criterion, EventRecord | UserRecord]] = [
    ("name", did("buy"), event("u", "buy")),
    ("not", Not(criterion=did("buy")), event("u", "buy")),
    ("late", did("buy"), event("u", "buy", time=NOW - 900 * MICROS_PER_DAY)),
    ("any name", Event(), event("u", "buy")),
    ("type", Event(type=EventType.CUSTOM), event("u", "buy")),
    ("input", Event(name="buy", inputs=(APP,)), event("u", "buy", input=APP)),
    (
        "attribute",
        Event(name="buy", where=WhereAttribute(key="sku", test=Exists())),
        event("u", "buy", attributes={"sku": 1.0}),
    ),
    ("user attribute", UserAttribute(key="plan", test=Exists()), UserRecord("u", WEB, NOW, dict(GOLD))),
    ("unset", UserAttribute(key="plan", test=Exists()), UserRecord("u", WEB, NOW, {"plan": None})),
    ("identity", Identity(type="email", test=Exists()), UserRecord("u", WEB, NOW, {}, {"email": "a@b"})),
    (
        "consent",
        Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
        UserRecord("u", WEB, NOW, {}, {}, {("gdpr", "ads"): ConsentState.GIVEN}),
    ),
    (
        "first seen",
        UserAttribute(key="$first_seen", test=WithinLast(duration=MICROS_PER_DAY)),
        event("u", "x", time=NOW - MICROS_PER_DAY),
    ),
    (
        "last seen",
        UserAttribute(key="$last_seen", test=WithinLast(duration=MICROS_PER_DAY)),
        event("u", "x", time=NOW + 1),
    ),
    ("new user", AllOf(), event("new", "x")),
    ("new user and not", Not(criterion=did("buy")), event("new", "x")),
    ("new user id", UserAttribute(key="$user_id", test=Equals("new")), event("new", "x")),
    ("bucket", Bucket(salt="s", from_percent=0.0, to_percent=100.0), event("new", "x")),
    ("new on another input", AllOf(), event("u", "x", input=APP)),
]


@BY_COLUMN
@pytest.mark.parametrize(
    ("criterion", "record"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_data_that_an_audience_reads_make_the_user_dirty(
    site: Site, criterion: Criterion, record: EventRecord | UserRecord, by_column: bool
) -> None:
    send(site, by_column, event("u", "z"), event("other", "z"))
    journey = add_journey(site, 0, criterion, None)
    site.engine.live.refresh_all()
    assert site.backend.pending(journey) == 0
    send(site, by_column, record)
    assert site.backend.pending(journey) == 1


@pytest.mark.parametrize("criterion", [did("buy"), Identity(type="email", test=Exists())])
def test_an_alias_makes_its_user_dirty_everywhere(site: Site, criterion: Criterion) -> None:
    site.send([("a", "buy"), ("b", "z")])
    journey = add_journey(site, 0, criterion, None)
    site.engine.live.refresh_all()
    site.backend.alias(ACCOUNT, "a", "b")
    assert site.backend.pending(journey) == 1


def test_a_journey_reads_what_the_audiences_it_names_read(site: Site) -> None:
    site.send([("u", "z")])
    named: Milestone = site.add("named", did("buy"))
    journey = add_journey(site, 0, Audience(name=named.audience), None)
    site.engine.live.refresh_all()
    site.send([("u", "y")])
    assert site.backend.pending(journey) == 0
    site.send([("u", "buy")])
    assert site.backend.pending(journey) == 1


def test_an_edit_changes_what_is_read(site: Site) -> None:
    site.send([("u", "z")])
    milestone = site.add("m", did("buy"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    record = Milestone(name=milestone.name, audience="", criteria=did("open"))
    site.engine.milestones.update_milestone(record, {"criteria"})
    site.engine.live.refresh_all()
    journey = milestone.name.partition("/milestones/")[0]
    site.send([("u", "buy")])
    assert site.backend.pending(journey) == 0
    site.send([("u", "open")])
    assert site.backend.pending(journey) == 1
    site.engine.live.refresh_all()
    assert site.stored(milestone) == {"u"}


def test_a_journey_that_is_not_calculated_any_more_reads_nothing(site: Site) -> None:
    site.send([("u", "z")])
    milestone = site.add("m", did("buy"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.engine.connections.deactivate(connection.name)
    site.engine.live.refresh_all()
    before = marks(site)
    site.send([("u", "buy")])
    assert marks(site) == before
