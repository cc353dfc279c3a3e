"""A plan says what data it reads: all other data leave its answers as they are."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import (
    Aggregate,
    Bucket,
    Compare,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    Identity,
    Last,
    Not,
    Sequence,
    Step,
    UserAttribute,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.plan.compile import Planner, compile_journey
from engine.plan.reads import EventsRead, Reads, reads_of
from engine.plan.tree import Account, JourneyTree, TreeMilestone
from engine.values import MICROS_PER_DAY
from tests.engine.plan.strategies import EVENTS, NOW, USERS, WORLDS, journeys
from tests.engine.plan.worlds import IOS, WEB, Happened, User, World, evaluate

ACCOUNT = Account("accounts/a")
START = Reads(inputs=frozenset({IOS, WEB}))
"""What every journey over these inputs reads: who belongs to them."""
PHONE, SITE = "accounts/a/workspaces/phone", "accounts/a/workspaces/site"


def reads_of_journey(journey: JourneyTree, *others: JourneyTree) -> Reads:
    planner = Planner(ACCOUNT, 0, lambda name: (others[0], "rest"))
    planner.milestones(journey, [milestone.id for milestone in journey.milestones])
    return reads_of(planner.steps.steps)


def reads_of_criterion(criterion: Criterion) -> Reads:
    milestone = TreeMilestone(id="m", criterion=criterion)
    return reads_of_journey(JourneyTree(name="j", inputs=(IOS, WEB), milestones=(milestone,)))


def is_read(reads: Reads, event: Happened) -> bool:
    """Whether the reads name the event."""
    return any(
        each.input == event.input
        and each.name in ("", event.name)
        and each.type in (None, event.type)
        and (not each.keys or not each.keys.isdisjoint(event.attributes))
        for each in reads.events
    )


@given(
    journeys(audiences=("accounts/a/audiences/other",)),
    journeys("other"),
    WORLDS,
    USERS,
    EVENTS,
    st.sampled_from(["event", "attribute", "identity", "consent"]),
)
def test_data_that_no_step_reads_move_nobody(
    journey: JourneyTree, other: JourneyTree, world: World, before: User, event: Happened, what: str
) -> None:
    """A user gets one more event, or another attribute, identity or consent, that the plan does not read."""
    reads = reads_of_journey(journey, other)
    after = before
    match what:
        case "event":
            belongs = event.input in reads.inputs and not before.seen([event.input])
            seen = event.input in reads.first_seen | reads.last_seen
            if not (is_read(reads, event) or belongs or seen):
                after = User(
                    (*before.events, event),
                    before.updates,
                    before.attributes,
                    before.identities,
                    before.consents,
                )
        case "attribute":
            kept = {
                workspace: {key: value for key, value in own.items() if (workspace, key) in reads.attributes}
                for workspace, own in before.attributes.items()
            }
            after = User(before.events, before.updates, kept, before.identities, before.consents)
        case "identity":
            kept_ids = {kind: each for kind, each in before.identities.items() if kind in reads.identities}
            after = User(before.events, before.updates, before.attributes, kept_ids, before.consents)
        case _:
            consents = {
                purpose: each for purpose, each in before.consents.items() if purpose in reads.consents
            }
            after = User(before.events, before.updates, before.attributes, before.identities, consents)
    plan = compile_journey(ACCOUNT, journey, NOW, lambda name: (other, "rest")).plan
    assert evaluate(plan, {**world, "u": before}) == evaluate(plan, {**world, "u": after})


def events(
    name: str, type: EventType | None = None, keys: tuple[str, ...] = (), inputs: tuple[str, ...] = (IOS, WEB)
) -> Reads:
    found = frozenset(EventsRead(each, name, type, frozenset(keys)) for each in inputs)
    return msgspec.structs.replace(START, events=found)


def has(key: str) -> WhereAttribute[str, Exists]:
    return WhereAttribute(key=key, test=Exists())


CASES: list[tuple[Criterion, Reads]] = [
    (Event(name="buy"), events("buy")),
    (Not(criterion=Event(name="buy", window=Last(duration=MICROS_PER_DAY))), events("buy")),
    (Event(name="buy", test=Equals(0.0)), events("buy")),
    (Event(), events("")),
    (Event(type=EventType.COMMERCE), events("", EventType.COMMERCE)),
    (Event(name="buy", inputs=(WEB,)), events("buy", inputs=(WEB,))),
    (Event(name="buy", where=has("k")), events("buy", keys=("k",))),
    (Event(name="buy", where=WhereAny(conditions=(has("k"), has("l")))), events("buy", keys=("k", "l"))),
    # An event without the attribute passes too.
    (Event(name="buy", where=WhereNot(condition=has("k"))), events("buy")),
    (
        Event(name="buy", where=WhereAll(conditions=(WhereNot(condition=has("k")), has("l")))),
        events("buy", keys=("k", "l")),
    ),
    (
        Event(
            name="buy", aggregate=Aggregate.SUM, of="price", where=has("k"), test=Compare("less_than", 9.0)
        ),
        events("buy", keys=("price",)),
    ),
    (Event(name="buy", aggregate=Aggregate.DISTINCT_DAYS), events("buy")),
    (
        Sequence(steps=(Step(name="view"), Step(name="buy", where=has("k")))),
        events("view") | events("buy", keys=("k",)),
    ),
    (
        UserAttribute(key="plan", test=Exists()),
        START | Reads(attributes=frozenset({(PHONE, "plan"), (SITE, "plan")})),
    ),
    (
        UserAttribute(key="$first_seen", test=WithinLast(duration=MICROS_PER_DAY)),
        START | Reads(first_seen=frozenset({IOS, WEB})),
    ),
    (
        UserAttribute(key="$last_seen", test=WithinLast(duration=MICROS_PER_DAY)),
        START | Reads(last_seen=frozenset({IOS, WEB})),
    ),
    (UserAttribute(key="$user_id", test=Equals("u")), START | Reads(users=True)),
    (Bucket(salt="s", from_percent=0.0, to_percent=50.0), START | Reads(users=True)),
    (Identity(type="email", test=Exists()), START | Reads(identities=frozenset({"email"}))),
    (
        Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
        START | Reads(consents=frozenset({("gdpr", "ads")})),
    ),
]


@pytest.mark.parametrize(("criterion", "reads"), CASES, ids=lambda each: type(each).__name__)
def test_each_criterion_reads_its_own_data(criterion: Criterion, reads: Reads) -> None:
    assert reads_of_criterion(criterion) == reads
