"""Edge cases of criteria, with the expected users written by hand.

Every case is asked of the oracle and of the engine.
"""

from __future__ import annotations

import pytest

from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    USER_ID,
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Between,
    BetweenAgo,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    CompareOp,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    Identity,
    In,
    Last,
    Not,
    NumberTest,
    Range,
    Sequence,
    Step,
    Text,
    UserAttribute,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.criteria.operators import ValueTest
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MIN_MICROS, Value
from tests.oracle.engine_side import EngineSide
from tests.oracle.palette import instant
from tests.oracle.scene import ANDROID, ASKED, IOS, NOON, WEB, Scene, with_journeys
from tests.oracle.world import Journey, Milestone
from tests.spec.conftest import Ask

DAY = MICROS_PER_DAY
HOUR = MICROS_PER_HOUR
BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
SAO_PAULO = "America/Sao_Paulo"

BOUGHT = Event(name="buy")
PLAN_IS_GOLD = UserAttribute(key="plan", test=Equals("gold"))


def plan_is(value: Value) -> UserAttribute:
    return UserAttribute(key="plan", test=Equals(value))


def count(op: CompareOp, number: float) -> Event:
    return Event(name="buy", test=Compare(op, number))


def steps(*names: str) -> tuple[Step, ...]:
    return tuple(Step(name=name) for name in names)


# --- complements --------------------------------------------------------------------------------------------


def test_not_equals_holds_for_users_without_the_attribute(ask: Ask) -> None:
    scene = (
        Scene().update("ann", {"plan": "gold"}).update("bob", {"plan": "free"}).update("cat", {"age": 7.0})
    )
    scene.event("dan")
    assert ask(scene, Not(criterion=PLAN_IS_GOLD)) == {"bob", "cat", "dan"}


def test_users_without_any_event_have_a_count_of_zero(ask: Ask) -> None:
    scene = Scene().event("ann").event("ann").event("bob").event("cat", "open").update("dan")
    assert ask(scene, Event(name="buy", test=Equals(0.0))) == {"cat", "dan"}
    assert ask(scene, Not(criterion=BOUGHT)) == {"cat", "dan"}
    assert ask(scene, count("less_than", 2.0)) == {"bob", "cat", "dan"}
    assert ask(scene, count("less_or_equal", 0.0)) == {"cat", "dan"}
    assert ask(scene, count("greater_or_equal", 0.0)) == {"ann", "bob", "cat", "dan"}
    assert ask(scene, Event(name="buy", test=Between(-1.0, 1.0))) == {"bob", "cat", "dan"}
    assert ask(scene, Event(name="buy", test=In((0.0, 2.0)))) == {"ann", "cat", "dan"}
    assert ask(scene, count("less_than", 0.0)) == set()


@pytest.mark.parametrize(
    "aggregate", [Aggregate.COUNT, Aggregate.SUM, Aggregate.DISTINCT, Aggregate.DISTINCT_DAYS]
)
def test_these_aggregates_are_zero_without_events(ask: Ask, aggregate: Aggregate) -> None:
    of = "" if aggregate in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS) else "x"
    scene = Scene().event("ann", attributes={"x": 5.0}).event("bob", "open", attributes={"x": 5.0})
    assert ask(scene, Event(name="buy", aggregate=aggregate, of=of, test=Equals(0.0))) == {"bob"}


@pytest.mark.parametrize(
    "aggregate", [Aggregate.AVERAGE, Aggregate.MIN, Aggregate.MAX, Aggregate.FIRST, Aggregate.LAST]
)
def test_these_aggregates_are_undefined_without_events(ask: Ask, aggregate: Aggregate) -> None:
    scene = Scene().event("ann", attributes={"x": -5.0}).event("bob", attributes={"x": "-5"}).update("cat")
    below = Event(name="buy", aggregate=aggregate, of="x", test=Compare("less_or_equal", 0.0))
    above = Event(name="buy", aggregate=aggregate, of="x", test=Compare("greater_or_equal", 0.0))
    assert ask(scene, below) == {"ann"}
    assert ask(scene, AnyOf(criteria=(below, above))) == {"ann"}
    assert ask(scene, Not(criterion=AnyOf(criteria=(below, above)))) == {"bob", "cat"}


def test_a_purely_negative_audience(ask: Ask) -> None:
    scene = Scene().event("ann").update("bob", {"plan": "gold"}).update("cat").event("dan", "open", input=WEB)
    nothing_done = AllOf(criteria=(Not(criterion=BOUGHT), Not(criterion=PLAN_IS_GOLD)))
    assert ask(scene, nothing_done) == {"cat", "dan"}
    assert ask(scene, nothing_done, inputs=(IOS,)) == {"cat"}
    assert ask(scene, nothing_done, inputs=(ANDROID,)) == set()


def test_negated_groups_three_deep(ask: Ask) -> None:
    scene = Scene().update("ann", {"a": 1.0, "b": 1.0}).update("bob", {"a": 1.0}).update("cat", {"b": 1.0})
    scene.update("dan", {"c": 1.0}).update("eve", {"a": 1.0, "c": 1.0}).update("fay")
    a, b, c = (UserAttribute(key=key, test=Exists()) for key in "abc")
    # not(c or not(a and not(b))) is: not c, and a, and not b.
    innermost = Not(criterion=AllOf(criteria=(a, Not(criterion=b))))
    assert ask(scene, Not(criterion=AnyOf(criteria=(c, innermost)))) == {"bob"}
    assert ask(scene, Not(criterion=Not(criterion=Not(criterion=a)))) == {"cat", "dan", "fay"}


def test_empty_groups(ask: Ask) -> None:
    scene = Scene().event("ann").update("bob", input=WEB)
    everyone, no_one = frozenset({"ann", "bob"}), frozenset[str]()
    assert ask(scene, AllOf()) == everyone
    assert ask(scene, AnyOf()) == no_one
    assert ask(scene, Not(criterion=AllOf())) == no_one
    assert ask(scene, Not(criterion=AnyOf())) == everyone
    assert ask(scene, AllOf(criteria=(AllOf(), Not(criterion=AnyOf())))) == everyone
    assert ask(scene, AnyOf(criteria=(AnyOf(), AnyOf()))) == no_one
    assert ask(scene, Event(name="buy", where=WhereAll())) == {"ann"}
    assert ask(scene, Event(name="buy", where=WhereAny())) == no_one


# --- windows ------------------------------------------------------------------------------------------------


def test_window_ends_without_a_new_event(ask: Ask) -> None:
    scene = Scene().event("ann", at=NOON).event("bob", at=NOON + 5 * DAY).update("cat", at=NOON)
    active = Event(name="buy", window=Last(duration=30 * DAY))
    assert ask(scene, active, at=NOON + 30 * DAY - 1) == {"ann", "bob"}
    assert ask(scene, active, at=NOON + 30 * DAY) == {"bob"}
    assert ask(scene, Not(criterion=active), at=NOON + 30 * DAY) == {"ann", "cat"}
    assert ask(scene, active, at=NOON + 35 * DAY) == set()


def test_both_ends_of_last(ask: Ask) -> None:
    scene = Scene()
    for user_id, offset in {"too old": -DAY, "oldest": -DAY + 1, "newest": 0, "to come": 1}.items():
        scene.event(user_id, at=NOON + offset)
    assert ask(scene, Event(window=Last(duration=DAY))) == {"oldest", "newest"}


def test_both_ends_of_between_ago(ask: Ask) -> None:
    scene = Scene()
    for user_id, offset in {"a": -7 * DAY, "b": -7 * DAY + 1, "c": -DAY, "d": -DAY + 1}.items():
        scene.event(user_id, at=NOON + offset)
    assert ask(scene, Event(window=BetweenAgo(from_=7 * DAY, to=DAY))) == {"b", "c"}


def test_both_ends_of_range(ask: Ask) -> None:
    scene = Scene()
    for user_id, offset in {"a": -1, "b": 0, "c": DAY - 1, "d": DAY}.items():
        scene.event(user_id, at=NOON + offset)
    assert ask(scene, Event(window=Range(start=NOON, end=NOON + DAY))) == {"b", "c"}
    assert ask(scene, Event(window=Range(start=NOON + 1))) == {"c", "d"}
    assert ask(scene, Event(window=Range(end=NOON))) == {"a"}


def test_both_ends_of_within_last_and_older_than_on_an_attribute(ask: Ask) -> None:
    scene = Scene()
    for user_id, offset in {"a": -DAY, "b": -DAY + 1, "c": 0, "d": 1}.items():
        scene.update(user_id, {"joined": NOON + offset})
    recent = UserAttribute(key="joined", test=WithinLast(DAY))
    assert ask(scene, recent) == {"b", "c"}


@pytest.mark.parametrize(
    ("unit", "now", "zone", "first", "last"),
    [
        # The leap day, seen from a city where March has begun.
        (CalendarUnit.MONTH, "2024-02-29T23:30Z", BERLIN, "2024-02-29T23:00Z", "2024-03-31T22:00Z"),
        (CalendarUnit.MONTH, "2024-02-29T23:30Z", "UTC", "2024-02-01T00:00Z", "2024-03-01T00:00Z"),
        # New year's eve in New York, when it is 2025 elsewhere.
        (CalendarUnit.YEAR, "2025-01-01T04:59:59Z", NEW_YORK, "2024-01-01T05:00Z", "2025-01-01T05:00Z"),
        (CalendarUnit.QUARTER, "2024-12-31T23:59:59.9Z", "UTC", "2024-10-01T00:00Z", "2025-01-01T00:00Z"),
        # The first ISO week of 2025 begins in 2024.
        (CalendarUnit.WEEK, "2025-01-01T12:00Z", "UTC", "2024-12-30T00:00Z", "2025-01-06T00:00Z"),
        (CalendarUnit.HOUR, "2025-06-18T12:00Z", "Asia/Kolkata", "2025-06-18T11:30Z", "2025-06-18T12:30Z"),
        # Days on which clocks change: 23 hours and 25 hours, in two zones.
        (CalendarUnit.DAY, "2025-03-30T10:00Z", BERLIN, "2025-03-29T23:00Z", "2025-03-30T22:00Z"),
        (CalendarUnit.DAY, "2025-10-26T10:00Z", BERLIN, "2025-10-25T22:00Z", "2025-10-26T23:00Z"),
        (CalendarUnit.DAY, "2025-03-09T12:00Z", NEW_YORK, "2025-03-09T05:00Z", "2025-03-10T04:00Z"),
        (CalendarUnit.DAY, "2025-11-02T12:00Z", NEW_YORK, "2025-11-02T04:00Z", "2025-11-03T05:00Z"),
        # A day that begins at one o'clock, because its midnight was skipped.
        (CalendarUnit.DAY, "2018-11-04T12:00Z", SAO_PAULO, "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
    ],
)  # fmt: skip
def test_calendar_units_begin_and_end(
    ask: Ask, unit: CalendarUnit, now: str, zone: str, first: str, last: str
) -> None:
    scene = Scene(now=instant(now), time_zone=zone)
    scene.event("before", at=instant(first) - 1).event("first", at=instant(first))
    scene.event("last", at=instant(last) - 1).event("after", at=instant(last))
    assert ask(scene, Event(window=Calendar(unit=unit))) == {"first", "last"}
    assert ask(scene, Event(window=Calendar(unit=unit, time_zone=zone))) == {"first", "last"}


def test_yesterday_and_the_previous_two_weeks(ask: Ask) -> None:
    # A Wednesday; the Monday of its week is the 16th.
    scene = Scene(now=instant("2025-06-18T00:00:00Z"))
    for user_id in (
        "06-01T23:59:59.999999",
        "06-02T00:00",
        "06-15T23:59:59.999999",
        "06-16T00:00",
        "06-17T00:00",
    ):
        scene.event(user_id, at=instant(f"2025-{user_id}Z"))
    scene.event("today", at=instant("2025-06-18T00:00:00Z"))
    yesterday = Calendar(unit=CalendarUnit.DAY, offset=1)
    two_weeks = Calendar(unit=CalendarUnit.WEEK, offset=1, count=2)
    this_month = Calendar(unit=CalendarUnit.MONTH)
    assert ask(scene, Event(window=yesterday)) == {"06-17T00:00"}
    assert ask(scene, Event(window=two_weeks)) == {"06-02T00:00", "06-15T23:59:59.999999"}
    assert ask(scene, Not(criterion=Event(window=this_month))) == set()


def test_distinct_days_are_those_of_the_account(ask: Ask) -> None:
    # 23 hours apart over the clock change, within one day; two seconds apart, over midnight.
    for zone, expected in {
        "Europe/Berlin": {"over midnight"},
        "UTC": {"long day", "over midnight in UTC"},
    }.items():
        scene = Scene(now=instant("2025-03-31T12:00:00Z"), time_zone=zone)
        scene.event("long day", at=instant("2025-03-29T23:00:00Z"))
        scene.event("long day", at=instant("2025-03-30T21:59:59Z"))
        scene.event("over midnight", at=instant("2025-03-30T21:59:59Z"))
        scene.event("over midnight", at=instant("2025-03-30T22:00:01Z"))
        scene.event("over midnight in UTC", at=instant("2025-03-30T23:59:59Z"))
        scene.event("over midnight in UTC", at=instant("2025-03-31T00:00:01Z"))
        two_days = Event(aggregate=Aggregate.DISTINCT_DAYS, test=Equals(2.0))
        assert ask(scene, two_days) == expected, zone


def test_as_of_moves_windows_only(ask: Ask) -> None:
    scene = Scene().event("ann").update("bob", {"plan": "gold"}, at=NOON)
    for at in (NOON - 400 * DAY, NOON, NOON + 400 * DAY):
        assert ask(scene, BOUGHT, at=at) == {"ann"}
        assert ask(scene, PLAN_IS_GOLD, at=at) == {"bob"}
        assert ask(scene, AllOf(), at=at) == {"ann", "bob"}
    assert ask(scene, Event(name="buy", window=Last(duration=DAY)), at=NOON - 1) == set()


# --- order of arrival ---------------------------------------------------------------------------------------


def test_events_count_at_their_own_time_whenever_they_arrive(ask: Ask) -> None:
    scene = Scene().event("ann", "b", at=NOON - HOUR).event("ann", "a", at=NOON - 2 * HOUR)
    scene.event("bob", "a", at=NOON - HOUR).event("bob", "b", at=NOON - 2 * HOUR)
    scene.event("cat", "a", at=NOON - 90 * DAY)
    assert ask(scene, Sequence(steps=steps("a", "b"))) == {"ann"}
    assert ask(scene, Event(name="a", window=Last(duration=DAY))) == {"ann", "bob"}


def test_the_same_event_twice(ask: Ask) -> None:
    twice = count("greater_or_equal", 2.0)
    scene = (
        Scene().event("ann", event_id="1").event("ann", event_id="1").event("ann", event_id="1", at=NOON - 1)
    )
    scene.event("bob", event_id="1", input=WEB).event("bob", event_id="2", input=WEB)
    scene.event("cat").event("cat")
    scene.event("dan", event_id="1", input=ANDROID).event("dan", event_id="1", input=WEB)
    assert ask(scene, twice) == {"bob", "cat"}
    assert ask(scene, BOUGHT) == {"ann", "bob", "cat", "dan"}


def test_duplicate_creates_no_user(ask: Ask) -> None:
    scene = Scene().event("ann", event_id="1").event("bob", event_id="1")
    assert ask(scene, AllOf()) == {"ann"}


def test_a_replay_of_older_writes_changes_nothing(ask: Ask) -> None:
    scene = Scene()
    for value, at in (("A", 1), ("B", 2), ("A", 1)):
        scene.update("ann", {"plan": value}, at=NOON + at)
    for value, at in (("A", 1), ("B", 2), ("A", 3)):
        scene.update("bob", {"plan": value}, at=NOON + at)
    assert ask(scene, plan_is("B")) == {"ann"}
    assert ask(scene, plan_is("A")) == {"bob"}


def test_last_arrival_wins_among_equal_times(ask: Ask) -> None:
    scene = Scene().update("ann", {"plan": "A"}).update("ann", {"plan": "B"}).update("ann", {"plan": "A"})
    assert ask(scene, plan_is("A")) == {"ann"}
    assert ask(scene, plan_is("B")) == set()


def test_unset_is_a_write_with_its_time(ask: Ask) -> None:
    scene = Scene()
    scene.update("unset later", {"plan": "A"}, at=NOON).update("unset later", {"plan": None}, at=NOON + 1)
    scene.update("unset earlier", {"plan": "A"}, at=NOON).update("unset earlier", {"plan": None}, at=NOON - 1)
    scene.update("set too late", {"plan": None}, at=NOON).update("set too late", {"plan": "A"}, at=NOON - 1)
    scene.update("set again", {"plan": None}, at=NOON).update("set again", {"plan": "A"}, at=NOON)
    assert ask(scene, plan_is("A")) == {"unset earlier", "set again"}
    assert ask(scene, Not(criterion=UserAttribute(key="plan", test=Exists()))) == {
        "unset later",
        "set too late",
    }


def test_first_and_last_of_equal_times_follow_arrival_order(ask: Ask) -> None:
    scene = Scene()
    for number in (3.0, 1.0, 2.0):
        scene.event("ann", attributes={"x": number})
    scene.event("ann", attributes={"x": "not a number"}).event("ann")
    for number, at in ((7.0, 5), (8.0, 0), (9.0, 0), (7.5, 5)):
        scene.event("bob", attributes={"x": number}, at=NOON + at)

    def value(aggregate: Aggregate, number: float) -> Event:
        return Event(name="buy", aggregate=aggregate, of="x", test=Equals(number))

    assert ask(scene, value(Aggregate.FIRST, 3.0)) == {"ann"}
    assert ask(scene, value(Aggregate.LAST, 2.0)) == {"ann"}
    assert ask(scene, value(Aggregate.FIRST, 8.0)) == {"bob"}
    assert ask(scene, value(Aggregate.LAST, 7.5)) == {"bob"}


# --- values -------------------------------------------------------------------------------------------------


def test_true_one_and_string_one_are_distinct(ask: Ask) -> None:
    scene = Scene()
    values: dict[str, Value] = {"bool": True, "number": 1.0, "string": "1", "list": ("1",), "time": 1}
    for user_id, value in values.items():
        scene.update(user_id, {"plan": value}).event(user_id, attributes={"x": value})
    expected = {"bool": {"bool"}, "number": {"number"}, "string": {"string", "list"}, "time": {"time"}}
    for name, users in expected.items():
        wanted = values[name]
        assert ask(scene, plan_is(wanted)) == users
        assert ask(scene, UserAttribute(key="plan", test=In((wanted, "none")))) == users
        assert ask(scene, Event(where=WhereAttribute(key="x", test=Equals(wanted)))) == users
    assert ask(scene, plan_is(("1",))) == {"list"}
    assert ask(scene, UserAttribute(key="plan", test=Between(0.0, 2.0))) == {"number"}
    assert ask(scene, UserAttribute(key="plan", test=Between(0, 2))) == {"time"}


def test_values_of_several_kinds_are_counted_apart(ask: Ask) -> None:
    scene = Scene()
    for value in (True, 1.0, "1", ("1",), 1, True, 1.0):
        scene.event("ann", attributes={"x": value})
    scene.event("bob", attributes={"x": 0.0}).event("bob", attributes={"x": -0.0})
    scene.event("bob", attributes={"x": ()})
    distinct = Event(aggregate=Aggregate.DISTINCT, of="x", test=Equals(5.0))
    assert ask(scene, distinct) == {"ann"}
    assert ask(scene, Event(aggregate=Aggregate.DISTINCT, of="x", test=Equals(2.0))) == {"bob"}


def test_string_of_digits_is_not_a_number(ask: Ask) -> None:
    scene = Scene().update("nine", {"n": "9"}).update("ten", {"n": "10"})
    scene.update("number", {"n": 10.0}).update("twelve", {"n": "12"}).update("number twelve", {"n": 12.0})
    assert ask(scene, UserAttribute(key="n", test=Compare("greater_than", 9.0))) == {
        "number",
        "number twelve",
    }
    assert ask(scene, UserAttribute(key="n", test=Equals("12"))) == {"twelve"}
    assert ask(scene, UserAttribute(key="n", test=Equals(12.0))) == {"number twelve"}


def test_an_attribute_that_changes_kind(ask: Ask) -> None:
    scene = Scene().update("ann", {"plan": "12"}, at=NOON - 2).update("ann", {"plan": 12.0}, at=NOON - 1)
    scene.update("bob", {"plan": 12.0}, at=NOON - 2).update("bob", {"plan": ("12",)}, at=NOON - 1)
    assert ask(scene, plan_is("12")) == {"bob"}
    assert ask(scene, plan_is(12.0)) == {"ann"}


def test_sums_and_averages_add_decimals_exactly(ask: Ask) -> None:
    scene = Scene()
    for user_id, numbers in {
        "ann": (0.1, 0.2),
        "bob": (0.30000000000000004,),
        "cat": (0.1,) * 3,
        "dan": (1e308, 1e308),
        "eve": (1e308, 0.3, -1e308),
        "fay": (5e-324,),
    }.items():
        for number in numbers:
            scene.event(user_id, attributes={"x": number})

    def total(test: NumberTest) -> Event:
        return Event(aggregate=Aggregate.SUM, of="x", test=test)

    largest = 1.7976931348623157e308
    assert ask(scene, total(Equals(0.3))) == {"ann", "cat", "eve"}
    assert ask(scene, total(Compare("greater_than", 0.3))) == {"bob", "dan"}
    assert ask(scene, total(Compare("greater_than", largest))) == {"dan"}
    assert ask(scene, total(Compare("less_than", 1e-300))) == {"fay"}
    assert ask(scene, total(Equals(5e-324))) == {"fay"}
    average = Event(aggregate=Aggregate.AVERAGE, of="x", test=Equals(0.15))
    assert ask(scene, average) == {"ann"}
    third = Event(aggregate=Aggregate.AVERAGE, of="x", test=Between(0.1, 0.1))
    assert ask(scene, third) == {"cat", "eve"}


def test_average_without_a_finite_decimal(ask: Ask) -> None:
    scene = Scene()
    for number in (1.0, 0.0, 0.0):
        scene.event("ann", attributes={"x": number})
    third = 1 / 3
    for test, expected in (
        (Equals(third), set()),
        (Compare("greater_than", third), {"ann"}),
        (Compare("less_or_equal", 0.3333333333333334), {"ann"}),
    ):
        assert ask(scene, Event(aggregate=Aggregate.AVERAGE, of="x", test=test)) == expected


def test_zero_has_no_sign(ask: Ask) -> None:
    scene = Scene().update("ann", {"n": -0.0}).update("bob", {"n": 0.0})
    scene.event("ann", attributes={"x": -0.0}).event("bob", attributes={"x": 0.0})
    for zero in (0.0, -0.0):
        assert ask(scene, UserAttribute(key="n", test=Equals(zero))) == {"ann", "bob"}
        assert ask(scene, UserAttribute(key="n", test=Compare("less_than", zero))) == set()
        assert ask(scene, Event(where=WhereAttribute(key="x", test=Equals(zero)))) == {"ann", "bob"}
        assert ask(scene, Event(aggregate=Aggregate.MIN, of="x", test=Equals(zero))) == {"ann", "bob"}


def test_numbers_at_the_ends_of_the_doubles(ask: Ask) -> None:
    smallest, largest = 5e-324, 1.7976931348623157e308
    scene = Scene()
    for user_id, number in {
        "tiny": smallest,
        "huge": largest,
        "minus": -largest,
        "whole": 2.0**53 + 2,
    }.items():
        scene.update(user_id, {"n": number}).event(user_id, attributes={"x": number})
    assert ask(scene, UserAttribute(key="n", test=Compare("greater_than", 0.0))) == {"tiny", "huge", "whole"}
    assert ask(scene, UserAttribute(key="n", test=Between(-largest, smallest))) == {"tiny", "minus"}
    assert ask(scene, UserAttribute(key="n", test=Equals(2.0**53))) == set()
    assert ask(scene, Event(aggregate=Aggregate.MAX, of="x", test=Compare("greater_or_equal", largest))) == {
        "huge"
    }
    assert ask(scene, Event(aggregate=Aggregate.MAX, of="x", test=Equals(2.0**53 + 2))) == {"whole"}


def test_lists_pass_when_an_element_does(ask: Ask) -> None:
    scene = Scene().update("none", {"tags": ()}).update("one", {"tags": ("red",)})
    scene.update("two", {"tags": ("blue", "dark red")}).update("string", {"tags": "red"}).update("missing")

    def tags(test: Exists | Equals | Text) -> Criterion:
        return UserAttribute(key="tags", test=test)

    assert ask(scene, tags(Exists())) == {"one", "two", "string"}
    assert ask(scene, tags(Equals("red"))) == {"one", "string"}
    assert ask(scene, tags(Text("ends_with", "red"))) == {"one", "two", "string"}
    assert ask(scene, Not(criterion=tags(Text("contains", "e")))) == {"none", "missing"}


def test_case_folds_as_unicode_says(ask: Ask) -> None:
    scene = (
        Scene()
        .update("a", {"plan": "STRASSE"})
        .update("b", {"plan": "straße"})
        .update("c", {"plan": "ΣΊΣΥΦΟΣ"})
    )
    folded = UserAttribute(key="plan", test=Equals("Straße", ignore_case=True))
    assert ask(scene, folded) == {"a", "b"}
    assert ask(scene, plan_is("Straße")) == set()
    assert ask(scene, UserAttribute(key="plan", test=Text("ends_with", "σ", ignore_case=True))) == {"c"}
    assert ask(scene, UserAttribute(key="plan", test=In(("STRASSE", "x"), ignore_case=True))) == {"a", "b"}


NAMES = (
    "buy",
    "Buy",
    "BUY",
    "buy.item",
    "buy item",
    'b"uy',
    "b'uy",
    "nul\0name",
    "nul",
    "🎉",
    "🎉🎉",
    "buy ",
    "ü",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_match_exactly(ask: Ask, name: str) -> None:
    scene = Scene()
    for other in NAMES:
        scene.event(other, other, attributes={other: "v"}, event_id=other).update(other, {other: "v"})
        scene.update(other, identities={other: "v"}, consents={(other, "p"): ConsentState.GIVEN})
    has = Equals("v")
    assert ask(scene, Event(name=name)) == {name}
    assert ask(scene, UserAttribute(key=name, test=has)) == {name}
    assert ask(scene, Event(where=WhereAttribute(key=name, test=has))) == {name}
    assert ask(scene, Event(aggregate=Aggregate.DISTINCT, of=name)) == {name}
    assert ask(scene, Identity(type=name, test=has)) == {name}
    assert ask(scene, Consent(regulation=name, purpose="p", state=ConsentState.GIVEN)) == {name}


def test_similar_names_do_not_collide(ask: Ask) -> None:
    scene = Scene().update("ann", consents={("a", "bc"): ConsentState.GIVEN})
    scene.update("bob", consents={("ab", "c"): ConsentState.GIVEN})
    scene.update("cat", consents={("a\0b", "c"): ConsentState.GIVEN})
    scene.update("dan", consents={("a", "b\0c"): ConsentState.GIVEN})
    for user_id, (regulation, purpose) in {
        "ann": ("a", "bc"),
        "bob": ("ab", "c"),
        "cat": ("a\0b", "c"),
    }.items():
        assert ask(scene, Consent(regulation=regulation, purpose=purpose, state=ConsentState.GIVEN)) == {
            user_id
        }


def test_regex_with_catastrophic_backtracking(engine_side: EngineSide) -> None:
    # Not asked of the oracle: it would not answer within anyone's lifetime.
    scene = Scene().update("ann", {"plan": "a" * 4_000 + "!"}).update("bob", {"plan": "a" * 4_000})
    scene.event("ann", attributes={"x": "a" * 4_000 + "!"}).event("bob", attributes={"x": "a" * 4_000})
    test = Text("matches", "^(a+)+$")
    assert engine_side.all_members(scene.asking(UserAttribute(key="plan", test=test)))[ASKED] == {"bob"}
    where = WhereAttribute(key="x", test=test)
    assert engine_side.all_members(scene.asking(Event(where=where)))[ASKED] == {"bob"}


# --- conditions on events -----------------------------------------------------------------------------------


def test_all_conditions_apply_to_one_event(ask: Ask) -> None:
    scene = Scene().event("ann", attributes={"color": "red", "size": 1.0})
    scene.event("ann", attributes={"color": "blue", "size": 9.0})
    scene.event("bob", attributes={"color": "red", "size": 9.0})
    red = WhereAttribute(key="color", test=Equals("red"))
    large = WhereAttribute(key="size", test=Compare("greater_than", 5.0))
    assert ask(scene, Event(where=WhereAll(conditions=(red, large)))) == {"bob"}
    assert ask(scene, AllOf(criteria=(Event(where=red), Event(where=large)))) == {"ann", "bob"}


def test_not_in_a_condition_holds_for_events_without_the_attribute(ask: Ask) -> None:
    scene = (
        Scene().event("ann", attributes={"color": "red"}).event("bob").event("cat", attributes={"color": 1.0})
    )
    not_red = WhereNot(condition=WhereAttribute(key="color", test=Equals("red")))
    assert ask(scene, Event(where=not_red)) == {"bob", "cat"}
    assert ask(scene, Event(where=WhereNot(condition=not_red))) == {"ann"}


def test_types_and_inputs_select_events(ask: Ask) -> None:
    scene = (
        Scene().event("ann", type=EventType.COMMERCE).event("bob", input=WEB).event("cat", "open", input=WEB)
    )
    assert ask(scene, Event(type=EventType.COMMERCE)) == {"ann"}
    assert ask(scene, Event(name="buy", type=EventType.SESSION)) == set()
    assert ask(scene, Event(inputs=(scene.input(WEB),))) == {"bob", "cat"}
    assert ask(scene, Event(name="buy", inputs=(scene.input(WEB),))) == {"bob"}
    assert ask(scene, Event(), inputs=(WEB,)) == {"bob", "cat"}


# --- sequences ----------------------------------------------------------------------------------------------


def test_steps_at_one_instant_are_not_in_sequence(ask: Ask) -> None:
    scene = Scene().event("ann", "a").event("ann", "b")
    scene.event("bob", "a").event("bob", "b", at=NOON + 1)
    scene.event("cat", "a").event("cat", "b").event("cat", "a", at=NOON - 1)
    assert ask(scene, Sequence(steps=steps("a", "b"))) == {"bob", "cat"}


def test_a_repeated_step_needs_a_second_event(ask: Ask) -> None:
    scene = Scene().event("once", "a").event("together", "a").event("together", "a")
    scene.event("twice", "a").event("twice", "a", at=NOON - 1)
    for at in (-3, -2, -1):
        scene.event("three times", "a", at=NOON + at)
    assert ask(scene, Sequence(steps=steps("a", "a"))) == {"twice", "three times"}
    assert ask(scene, Sequence(steps=steps("a", "a", "a"))) == {"three times"}
    assert ask(scene, Sequence(steps=steps("a"))) == {"once", "together", "twice", "three times"}
    assert ask(scene, Sequence(steps=(Step(), Step()))) == {"twice", "three times"}


def test_sequence_that_returns_to_its_first_step(ask: Ask) -> None:
    scene = Scene()
    for user_id, names in {"ann": "aba", "bob": "aab", "cat": "baa", "dan": "abba", "eve": "ab"}.items():
        for position, name in enumerate(names):
            scene.event(user_id, name, at=NOON + position)
    assert ask(scene, Sequence(steps=steps("a", "b", "a"))) == {"ann", "dan"}


def test_within_counts_from_the_first_step_to_the_last(ask: Ask) -> None:
    scene = Scene().event("exact", "a").event("exact", "b", at=NOON + HOUR)
    scene.event("late", "a").event("late", "b", at=NOON + HOUR + 1)
    # The first a is too early for the b; the second is not.
    scene.event("later start", "a", at=NOON - DAY).event("later start", "a").event(
        "later start", "b", at=NOON + 1
    )
    # Every a, b pair fits and so does every b, c pair, but no a, b, c.
    scene.event("stretched", "a").event("stretched", "b", at=NOON + HOUR).event(
        "stretched", "c", at=NOON + 2 * HOUR
    )
    assert ask(scene, Sequence(steps=steps("a", "b"), within=HOUR)) == {"exact", "later start", "stretched"}
    assert ask(scene, Sequence(steps=steps("a", "b", "c"), within=HOUR)) == set()
    assert ask(scene, Sequence(steps=steps("a", "b", "c"), within=2 * HOUR)) == {"stretched"}


def test_whole_sequence_lies_inside_its_window(ask: Ask) -> None:
    scene = Scene().event("inside", "a", at=NOON - DAY + 1).event("inside", "b")
    scene.event("starts before", "a", at=NOON - DAY).event("starts before", "b")
    scene.event("ends after", "a").event("ends after", "b", at=NOON + 1)
    assert ask(scene, Sequence(steps=steps("a", "b"), window=Last(duration=DAY))) == {"inside"}


# --- who users are ------------------------------------------------------------------------------------------


def test_aliases_equal_sending_under_one_id(ask: Ask) -> None:
    scene = Scene().event("phone", "a", at=NOON - 2).update("phone", {"plan": "gold"}, at=NOON - 5)
    scene.event("mail", "b", at=NOON - 1).update("mail", {"plan": "free"}, at=NOON - 9)
    scene.update("other", {"plan": "gold"})
    scene.alias("phone", "mail").alias("mail", "person").event("phone").event("mail", at=NOON - 3)
    assert ask(scene, AllOf()) == {"person", "other"}
    assert ask(scene, Event(name="buy", test=Equals(2.0))) == {"person"}
    assert ask(scene, Sequence(steps=steps("a", "b", "buy"))) == {"person"}
    assert ask(scene, PLAN_IS_GOLD) == {"person", "other"}


def test_an_unset_of_one_alias_holds_for_the_other(ask: Ask) -> None:
    scene = Scene().update("a", {"plan": None}, at=NOON).update("b", {"plan": "gold"}, at=NOON - 1)
    scene.update("c", {"plan": None}, at=NOON - 2).update("d", {"plan": "gold"}, at=NOON - 1)
    scene.alias("a", "b").alias("c", "d")
    assert ask(scene, PLAN_IS_GOLD) == {"d"}


def test_of_equal_times_arrival_decides_across_aliases(ask: Ask) -> None:
    scene = Scene().update("b", {"plan": "free"}).update("a", {"plan": "gold"}).alias("a", "b")
    scene.update("c", {"plan": "gold"}).update("d", {"plan": "free"}).alias("c", "d")
    scene.event("f", attributes={"x": 2.0}).event("e", attributes={"x": 1.0}).alias("e", "f")
    assert ask(scene, PLAN_IS_GOLD) == {"b"}
    assert ask(scene, Event(aggregate=Aggregate.FIRST, of="x", test=Equals(2.0))) == {"f"}
    assert ask(scene, Event(aggregate=Aggregate.LAST, of="x", test=Equals(1.0))) == {"f"}


def test_erased_users_are_in_no_set_or_complement(ask: Ask) -> None:
    scene = (
        Scene().event("ann").update("bob", {"plan": "gold"}).update("cat").erase("ann", "cat", "never seen")
    )
    assert ask(scene, AllOf()) == {"bob"}
    assert ask(scene, Not(criterion=PLAN_IS_GOLD)) == set()
    assert ask(scene, Not(criterion=BOUGHT)) == {"bob"}
    assert ask(scene, Event(name="buy", test=Equals(0.0))) == {"bob"}


def test_id_can_be_reused_after_erasure(ask: Ask) -> None:
    scene = Scene().event("ann", at=NOON - DAY).update("ann", {"plan": "gold"}).event("ann", event_id="1")
    scene.erase("ann").event("ann", "open").event("ann", event_id="1")
    assert ask(scene, AllOf()) == {"ann"}
    assert ask(scene, BOUGHT) == set()
    assert ask(scene, PLAN_IS_GOLD) == set()
    assert ask(scene, UserAttribute(key=FIRST_SEEN, test=Equals(NOON))) == {"ann"}


def test_erasing_an_alias_erases_the_person_and_frees_the_ids(ask: Ask) -> None:
    scene = Scene().event("phone").event("mail").alias("phone", "mail").erase("phone").event("phone", "open")
    assert ask(scene, AllOf()) == {"phone"}
    assert ask(scene, BOUGHT) == set()


def test_users_belong_to_the_inputs_they_came_through(ask: Ask) -> None:
    scene = (
        Scene()
        .event("ann", input=IOS)
        .update("bob", input=WEB)
        .event("cat", input=IOS)
        .event("cat", input=WEB)
    )
    assert ask(scene, AllOf(), inputs=(IOS,)) == {"ann", "cat"}
    assert ask(scene, AllOf(), inputs=(WEB,)) == {"bob", "cat"}
    assert ask(scene, Not(criterion=BOUGHT), inputs=(WEB,)) == {"bob"}
    assert ask(scene, AllOf(), inputs=(ANDROID,)) == set()


def test_attributes_belong_to_workspaces(ask: Ask) -> None:
    scene = (
        Scene().update("ann", {"plan": "gold"}, input=IOS).event("ann", input=ANDROID).event("ann", input=WEB)
    )
    scene.update("bob", {"plan": "gold"}, input=WEB).update("bob", {"plan": "free"}, input=IOS)
    assert ask(scene, PLAN_IS_GOLD) == {"ann", "bob"}
    assert ask(scene, PLAN_IS_GOLD, inputs=(ANDROID,)) == {"ann"}
    assert ask(scene, PLAN_IS_GOLD, inputs=(WEB,)) == {"bob"}
    assert ask(scene, plan_is("free")) == {"bob"}
    assert ask(scene, Not(criterion=PLAN_IS_GOLD), inputs=(IOS,)) == {"bob"}


def test_first_and_last_seen_are_over_the_inputs(ask: Ask) -> None:
    scene = Scene().event("ann", at=NOON - 2 * DAY, input=WEB).update("ann", at=NOON - DAY)
    scene.event("ann", at=NOON - DAY + 5)

    def seen(key: str, at: int) -> UserAttribute:
        return UserAttribute(key=key, test=Equals(at))

    assert ask(scene, seen(FIRST_SEEN, NOON - 2 * DAY)) == {"ann"}
    assert ask(scene, seen(FIRST_SEEN, NOON - DAY), inputs=(IOS,)) == {"ann"}
    assert ask(scene, seen(LAST_SEEN, NOON - DAY + 5)) == {"ann"}
    assert ask(scene, seen(LAST_SEEN, NOON - 2 * DAY), inputs=(WEB,)) == {"ann"}
    assert ask(scene, UserAttribute(key=LAST_SEEN, test=WithinLast(DAY - 5))) == set()
    assert ask(scene, UserAttribute(key=LAST_SEEN, test=WithinLast(DAY - 4))) == {"ann"}


def test_the_latest_consent_and_identity_count(ask: Ask) -> None:
    gdpr = ("gdpr", "marketing")
    scene = Scene()
    scene.update("ann", consents={gdpr: ConsentState.GIVEN}, identities={"email": "ann@example.org"}, at=NOON)
    scene.update("ann", consents={gdpr: ConsentState.DENIED}, identities={"email": None}, at=NOON - 1)
    scene.update("bob", consents={gdpr: ConsentState.GIVEN}, identities={"email": "bob@example.org"}, at=NOON)
    scene.update("bob", consents={gdpr: ConsentState.DENIED}, identities={"email": None}, at=NOON + 1)
    scene.event("cat")

    def consent(state: ConsentState) -> Consent:
        return Consent(regulation="gdpr", purpose="marketing", state=state)

    assert ask(scene, consent(ConsentState.GIVEN)) == {"ann"}
    assert ask(scene, consent(ConsentState.DENIED)) == {"bob"}
    assert ask(scene, Not(criterion=consent(ConsentState.DENIED))) == {"ann", "cat"}
    assert ask(scene, Identity(type="email", test=Exists())) == {"ann"}
    assert ask(scene, Identity(type="email", test=Text("ends_with", "@EXAMPLE.org", ignore_case=True))) == {
        "ann"
    }


def test_buckets_can_be_computed_externally(ask: Ask) -> None:
    # As shares of 2^64, XXH3-64 of "hold-out", a zero byte and the id are 0.5543…, 0.5832…, 0.1592…, 0.1300….
    scene = Scene()
    for number in range(2, 6):
        scene.event(f"user-{number}")

    def bucket(low: float, high: float) -> Bucket:
        return Bucket(salt="hold-out", from_percent=low, to_percent=high)

    assert ask(scene, bucket(0.0, 50.0)) == {"user-4", "user-5"}
    assert ask(scene, bucket(50.0, 100.0)) == {"user-2", "user-3"}
    assert ask(scene, bucket(0.0, 100.0)) == {"user-2", "user-3", "user-4", "user-5"}
    assert ask(scene, bucket(13.0, 15.9)) == {"user-5"}
    assert ask(scene, bucket(15.9, 55.44)) == {"user-2", "user-4"}


def test_events_at_the_earliest_instant(ask: Ask) -> None:
    scene = (
        Scene(time_zone="America/New_York")
        .event("ann", at=TIME_MIN_MICROS)
        .event("bob", at=TIME_MIN_MICROS + DAY)
    )
    assert ask(scene, Event(window=Range(end=TIME_MIN_MICROS + 1))) == {"ann"}
    assert ask(scene, Event(window=Last(duration=DAY))) == set()
    assert ask(scene, Event()) == {"ann", "bob"}


# --- audiences in audiences ---------------------------------------------------------------------------------


def test_an_audience_in_an_audience_follows_edits(ask: Ask) -> None:
    scene = Scene().update("ann", {"plan": "gold"}).update("bob", {"plan": "free"}).event("bob").event("ann")
    scene.event("cat", input=WEB).update("cat", {"plan": "gold"}, input=WEB)

    def journeys(inner: Criterion) -> tuple[Journey, Journey]:
        first = Journey(id="first", milestones=(Milestone(id="inner", criteria=inner),))
        named = Audience(name=f"{scene.account}/audiences/inner")
        outer = Milestone(id="outer", criteria=AllOf(criteria=(named, BOUGHT)))
        rest = Milestone(id="rest", criteria=None)
        app_only = (scene.input(IOS),)
        return first, Journey(id="second", inputs=app_only, milestones=(outer, rest))

    world = scene.world(*journeys(PLAN_IS_GOLD))
    assert ask.members(world) == {"inner": {"ann", "cat"}, "outer": {"ann"}, "rest": {"bob"}}
    edited = with_journeys(world, *journeys(Not(criterion=PLAN_IS_GOLD)))
    assert ask.members(edited) == {"inner": {"bob"}, "outer": {"bob"}, "rest": {"ann"}}


def test_complement_of_an_audience_is_taken_within_the_naming_journey(ask: Ask) -> None:
    scene = Scene().event("ann", input=IOS).event("bob", input=WEB).event("cat", input=WEB)
    scene.update("bob", {"plan": "gold"}, input=WEB)
    named = Audience(name=f"{scene.account}/audiences/gold")
    web = Journey(
        id="web", inputs=(scene.input(WEB),), milestones=(Milestone(id="gold", criteria=PLAN_IS_GOLD),)
    )
    ios = Journey(
        id="ios",
        inputs=(scene.input(IOS),),
        milestones=(Milestone(id="not gold", criteria=Not(criterion=named)),),
    )
    everywhere = Journey(id="all", milestones=(Milestone(id="others", criteria=Not(criterion=named)),))
    assert ask.members(scene.world(web, ios, everywhere)) == {
        "gold": {"bob"},
        "not gold": {"ann"},
        "others": {"ann", "cat"},
    }


def test_siblings_draw_from_left_to_right(ask: Ask) -> None:
    scene = Scene().update("ann", {"plan": "gold"}).event("ann").update("bob", {"plan": "gold"})
    scene.event("cat").update("dan")
    split = (
        Milestone(id="gold", criteria=PLAN_IS_GOLD, children=(Milestone(id="gold buyers", criteria=BOUGHT),)),
        Milestone(id="buyers", criteria=BOUGHT),
        Milestone(id="rest", criteria=None, children=(Milestone(id="all of the rest", criteria=AllOf()),)),
    )
    assert ask.members(scene.world(Journey(id="j", milestones=split))) == {
        "gold": {"ann", "bob"},
        "gold buyers": {"ann"},
        "buyers": {"cat"},
        "rest": {"dan"},
        "all of the rest": {"dan"},
    }


def test_user_id_takes_string_tests_and_lists(ask: Ask) -> None:
    scene = Scene()
    for user_id in ("ann", "Ann", "bob", "b*b", "7", "née"):
        scene.event(user_id)
    scene.alias("phone", "ann").event("phone").erase("bob")

    def named(test: ValueTest) -> frozenset[str]:
        return ask(scene, UserAttribute(key=USER_ID, test=test))

    assert named(Equals("ann")) == {"ann"}
    assert named(Equals("ann", ignore_case=True)) == {"ann", "Ann"}
    assert named(In(("ann", "7", "née", "never", "bob"))) == {"ann", "7", "née"}
    # An alias is no id of its own, and a list of it finds nobody.
    assert named(In(("phone",))) == set()
    assert named(Text("contains", "n")) == {"ann", "Ann", "née"}
    assert named(Text("starts_with", "b")) == {"b*b"}
    assert named(Text("matches", "[0-9]+")) == {"7"}
    assert named(Exists()) == {"ann", "Ann", "b*b", "7", "née"}
    listed = UserAttribute(key=USER_ID, test=In(("ann", "7")))
    assert ask(scene, Not(criterion=listed)) == {"Ann", "b*b", "née"}
    assert ask(scene, AllOf(criteria=(listed, UserAttribute(key=USER_ID, test=Text("contains", "n"))))) == {
        "ann"
    }


def test_erased_user_id_that_returns_is_found_again(ask: Ask) -> None:
    scene = Scene().event("ann").erase("ann").event("ann")
    assert ask(scene, UserAttribute(key=USER_ID, test=Equals("ann"))) == {"ann"}
