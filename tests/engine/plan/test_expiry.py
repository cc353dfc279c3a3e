"""Users enter and leave as time passes, with no new data: expiry finds every one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import (
    AllOf,
    Audience,
    BetweenAgo,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    ConsentState,
    Criterion,
    Equals,
    Event,
    Exists,
    Last,
    Not,
    OlderThan,
    Range,
    Sequence,
    Step,
    UserAttribute,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.plan.compile import compile_journey
from engine.plan.expiry import UnexpectedChange, expired, expiry_plan
from engine.plan.model import (
    SOME_EVENT,
    AttributeMatch,
    ConsentMatch,
    EventMatch,
    EventSelection,
    Interval,
)
from engine.plan.tree import Account, JourneyTree, MilestoneKind, TreeMilestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR
from tests.engine.plan.strategies import HOURS, NOW, WORLDS, journeys
from tests.engine.plan.worlds import INPUTS, IOS, WEB, Happened, User, World, evaluate

ACCOUNT = Account("accounts/a", "Europe/Berlin")
RETENTIONS = st.sampled_from([0, MICROS_PER_HOUR, 30 * MICROS_PER_HOUR])
"""None, and two that end among the events of the worlds."""


SOME_BUY = EventMatch(selection=EventSelection(inputs=(IOS,), name="buy"), intervals=SOME_EVENT)


def no_audience(name: str) -> tuple[JourneyTree, str]:
    raise AssertionError(name)


def journey_of(criterion: Criterion, name: str = "j") -> JourneyTree:
    return JourneyTree(name=name, inputs=(IOS, WEB), milestones=(TreeMilestone(id="m", criterion=criterion),))


@given(
    journeys(audiences=("accounts/a/audiences/other",)),
    journeys("other"),
    WORLDS,
    st.builds(lambda hours, by: hours + by, HOURS, st.sampled_from([0, 1, 2])),
    RETENTIONS,
)
def test_expiry_covers_every_user_whose_membership_changes(
    journey: JourneyTree, other: JourneyTree, world: World, passed: int, retention: int
) -> None:
    account = Account("accounts/a", "Europe/Berlin", retention)

    def resolver(_: str) -> tuple[JourneyTree, str]:
        return other, "rest"

    # Also between the two: a user may come and go.
    before, *others = (
        evaluate(compile_journey(account, journey, as_of, resolver).plan, world)
        for as_of in (NOW - passed, NOW - passed // 2, NOW - passed // 3, NOW - 1, NOW)
        if as_of >= NOW - passed
    )
    moved = set().union(*(one ^ two for other in others for one, two in zip(before, other, strict=True)))
    plan = expiry_plan(account, journey, NOW - passed, NOW, resolver)
    found = evaluate(plan, world)[0] if plan is not None else set()
    assert moved <= found


def found(
    criterion: Criterion, before: int, after: int, world: World, account: Account = ACCOUNT
) -> set[str] | None:
    plan = expiry_plan(account, journey_of(criterion), before, after, no_audience)
    return None if plan is None else evaluate(plan, world)[0]


def bought(time: int) -> User:
    return User(events=(Happened(IOS, "buy", time),))


def test_only_events_that_a_window_leaves_or_reaches_count() -> None:
    day = MICROS_PER_DAY
    before, after = 100 * day, 101 * day
    world = {
        "left": bought(before - 30 * day + 1),
        "out before": bought(before - 30 * day),
        "still in, the first": bought(after - 30 * day + 1),
        "left, the last": bought(after - 30 * day),
        "still in": bought(before),
        "came in": bought(before + 1),
        "came in, the last": bought(after),
        "not yet": bought(after + 1),
        "another event": User(events=(Happened(IOS, "view", after),)),
    }
    moved = {"left", "left, the last", "came in", "came in, the last"}
    assert found(Event(name="buy", window=Last(duration=30 * day)), before, after, world) == moved
    assert (
        found(Not(criterion=Event(name="buy", window=Last(duration=30 * day))), before, after, world) == moved
    )
    steps = (Step(name="buy"), Step(name="view"))
    in_order = Sequence(steps=steps, window=Last(duration=30 * day))
    assert found(in_order, before, after, world) == moved | {"another event"}
    ago = BetweenAgo(from_=31 * day, to=day)
    assert found(Event(name="buy", window=ago), after, after + day, world) == {
        "left",
        "left, the last",
        "came in",
        "came in, the last",
    }


@pytest.mark.parametrize(
    "criterion",
    [
        Event(name="buy"),
        Event(name="buy", test=Compare("less_than", 3.0)),
        Event(name="buy", window=Range(start=0)),
        Event(name="buy", window=Last(duration=MICROS_PER_DAY * 40)),
        Sequence(steps=(Step(name="buy"), Step(name="view"))),
    ],
)
def test_events_that_leave_the_retention_expire(criterion: Criterion) -> None:
    day = MICROS_PER_DAY
    before, after = 100 * day, 101 * day
    account = Account("accounts/a", event_retention=30 * day)
    world = {
        "gone before": bought(before - 30 * day - 1),
        "goes, the first": bought(before - 30 * day),
        "goes, the last": bought(after - 30 * day - 1),
        "stays, the first": bought(after - 30 * day),
    }
    moved = {"goes, the first", "goes, the last"}
    assert found(criterion, before, after, world, account) == moved
    keeps_all = found(criterion, before, after, world)
    assert keeps_all is None or not keeps_all & moved


def test_relative_tests_on_attributes_and_first_or_last_seen() -> None:
    hour = MICROS_PER_HOUR
    before, after = 100 * hour, 101 * hour
    workspace = "accounts/a/workspaces/phone"
    world = {
        "renewed": User(attributes={workspace: {"until": before - 3 * hour + 1}}),
        "older": User(attributes={workspace: {"until": before - 3 * hour}}),
        "number": User(attributes={workspace: {"until": float(before - 3 * hour + 1)}}),
        "seen": User(updates={IOS: (before - 3 * hour + 1,)}),
        "seen later too": User(updates={IOS: (before - 3 * hour + 1,), WEB: (before,)}),
    }
    assert found(UserAttribute(key="until", test=OlderThan(3 * hour)), before, after, world) == {"renewed"}
    assert found(UserAttribute(key="until", test=WithinLast(3 * hour)), before, after, world) == {"renewed"}
    assert found(UserAttribute(key="$last_seen", test=WithinLast(3 * hour)), before, after, world) == {"seen"}
    assert found(UserAttribute(key="$first_seen", test=OlderThan(3 * hour)), before, after, world) == {
        "seen",
        "seen later too",
    }


def test_a_relative_test_inside_where() -> None:
    before, after = 1_000, 1_010
    world = {
        "crosses": User(events=(Happened(IOS, "buy", 5, {"due": 905}),)),
        "stays": User(events=(Happened(IOS, "buy", 5, {"due": 950}),)),
        "without": User(events=(Happened(IOS, "buy", 5),)),
    }
    condition = WhereNot(condition=WhereAttribute(key="due", test=OlderThan(100)))
    assert found(Event(name="buy", where=condition), before, after, world) == {"crosses"}


@pytest.mark.parametrize(
    "criterion",
    [
        AllOf(),
        Event(name="buy"),
        Event(name="buy", window=Range(start=1, end=5), test=Compare("less_than", 3.0)),
        UserAttribute(key="k", test=Compare("less_than", 5)),
        UserAttribute(key="$first_seen", test=Exists()),
        Bucket(salt="s", from_percent=0.0, to_percent=50.0),
    ],
)
def test_no_expiry_plan_without_time_dependence(criterion: Criterion) -> None:
    assert expiry_plan(ACCOUNT, journey_of(criterion), 1, 10**15, no_audience) is None


def test_a_calendar_window_expires_only_at_the_end_of_its_unit() -> None:
    criterion = Event(name="buy", window=Calendar(unit=CalendarUnit.DAY))
    midnight = NOW // MICROS_PER_DAY * MICROS_PER_DAY - MICROS_PER_HOUR  # 23:00 UTC is midnight in Berlin
    journey = journey_of(criterion)
    assert expiry_plan(ACCOUNT, journey, midnight, midnight + MICROS_PER_HOUR, no_audience) is None
    assert expiry_plan(ACCOUNT, journey, midnight - 1, midnight, no_audience) is not None


def test_audiences_named_in_criteria_expire_too() -> None:
    other = journey_of(Event(name="buy", window=Last(duration=10)), "other")
    journey = JourneyTree(
        name="j",
        inputs=INPUTS,
        milestones=(
            TreeMilestone(id="m", criterion=Not(criterion=Audience(name="x"))),
            TreeMilestone(id="r", position=1, kind=MilestoneKind.REMAINING_USERS),
        ),
    )
    plan = expiry_plan(ACCOUNT, journey, 100, 101, lambda _: (other, "m"))
    assert plan is not None
    assert evaluate(plan, {"in": bought(101), "out": bought(91), "still": bought(95)}) == [{"in", "out"}]


def test_unexpected_change_of_a_step_raises() -> None:
    given = ConsentMatch(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN)
    denied = ConsentMatch(regulation="gdpr", purpose="ads", state=ConsentState.DENIED)
    with pytest.raises(UnexpectedChange, match="ConsentMatch"):
        expired(given, denied)
    few = EventMatch(selection=EventSelection(inputs=(IOS,)), intervals=(Interval(low=2.0),))
    with pytest.raises(UnexpectedChange, match="EventMatch"):
        list(expired(SOME_BUY, few))
    with pytest.raises(UnexpectedChange, match="EventMatch"):
        list(expired(given, few))


def test_a_test_whose_form_depends_on_time_finds_everyone_with_a_value() -> None:
    before = AttributeMatch(workspaces=("w",), key="k", test=Equals("a"))
    after = AttributeMatch(workspaces=("w",), key="k", test=Equals("b"))
    assert list(expired(before, after)) == [AttributeMatch(workspaces=("w",), key="k", test=Exists())]
