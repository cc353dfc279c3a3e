"""Criteria and journeys compiled and executed over small worlds: known edge cases, and the laws that hold for
every criterion.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    BetweenAgo,
    Bucket,
    Calendar,
    CalendarUnit,
    Compare,
    Criterion,
    Equals,
    Event,
    Exists,
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
    WhereAttribute,
)
from engine.errors import FailedPrecondition, NotFound
from engine.limits import AUDIENCE_LEVELS_EVALUATED_MAX
from engine.plan.compile import (
    compile_audiences,
    compile_criterion,
    compile_journey,
    compile_milestone,
)
from engine.plan.model import BucketMatch, Plan
from engine.plan.tree import (
    Account,
    AudienceCycle,
    JourneyTree,
    MilestoneKind,
    TreeMilestone,
    made_of,
)
from engine.values import MICROS_PER_DAY, bucket_of
from tests.engine.plan.strategies import NOW, WORLDS, criteria, journeys
from tests.engine.plan.worlds import ANDROID, INPUTS, IOS, WEB, Happened, User, World, evaluate

ACCOUNT = Account("accounts/a", "Europe/Berlin")
EVERYWHERE = JourneyTree(name="j", inputs=INPUTS)
PHONE = "accounts/a/workspaces/phone"
SITE = "accounts/a/workspaces/site"


def no_audience(name: str) -> tuple[JourneyTree, str]:
    raise NotFound(name)


def members(criterion: Criterion, world: World, journey: JourneyTree = EVERYWHERE) -> set[str]:
    plan = compile_criterion(ACCOUNT, journey, criterion, NOW, no_audience)
    raw = compile_criterion(ACCOUNT, journey, criterion, NOW, no_audience, passes=())
    assert evaluate(plan, world) == evaluate(raw, world)
    return evaluate(plan, world)[0]


def buys(*amounts: float | str | None, at: int = NOW) -> User:
    events = tuple(
        Happened(IOS, "buy", at + i, {} if amount is None else {"amount": amount})
        for i, amount in enumerate(amounts)
    )
    return User(events=(*events, Happened(IOS, "open", at)))


BUYERS: World = {
    "none": buys(),
    "one": buys(5.0),
    "two": buys(0.1, 0.2),
    "three": buys(1.0, 1.0, -2.0),
    "untyped": buys("12", None),
    "elsewhere": User(events=(Happened("accounts/a/workspaces/x/inputs/x", "buy", NOW),)),
}


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (None, {"one", "two", "three", "untyped"}),
        (Equals(0.0), {"none"}),
        (Compare("less_than", 2.0), {"none", "one"}),
        (Compare("less_or_equal", 2.0), {"none", "one", "two", "untyped"}),
        (Compare("greater_or_equal", 0.0), {"none", "one", "two", "three", "untyped"}),
        (Compare("less_than", 0.0), set()),
        (In((0.0, 3.0)), {"none", "three"}),
        (In(()), set()),
        (Equals(-0.0), {"none"}),
    ],
)
def test_counts_of_users_without_any_event_are_zero(test: NumberTest | None, expected: set[str]) -> None:
    assert members(Event(name="buy", test=test), BUYERS) == expected
    assert (
        members(Not(criterion=Event(name="buy", test=test)), BUYERS)
        == BUYERS.keys() - {"elsewhere"} - expected
    )


@pytest.mark.parametrize(
    ("aggregate", "test", "expected"),
    [
        (Aggregate.SUM, Equals(0.3), {"two"}),
        (Aggregate.SUM, Equals(0.0), {"none", "three", "untyped"}),
        (Aggregate.SUM, Compare("less_than", 1.0), {"none", "two", "three", "untyped"}),
        (Aggregate.SUM, None, {"one", "two"}),
        (Aggregate.AVERAGE, Equals(0.15), {"two"}),
        (Aggregate.AVERAGE, Compare("less_than", 100.0), {"one", "two", "three"}),
        (Aggregate.MIN, Compare("less_or_equal", 0.1), {"two", "three"}),
        (Aggregate.MAX, Equals(1.0), {"three"}),
        (Aggregate.FIRST, Equals(1.0), {"three"}),
        (Aggregate.LAST, Equals(-2.0), {"three"}),
        (Aggregate.LAST, Equals(0.0), set()),
        (Aggregate.DISTINCT, Equals(2.0), {"two", "three"}),
        (Aggregate.DISTINCT, Equals(1.0), {"one", "untyped"}),
        (Aggregate.DISTINCT, Compare("less_than", 1.0), {"none"}),
    ],
)
def test_aggregates(aggregate: Aggregate, test: NumberTest | None, expected: set[str]) -> None:
    assert members(Event(name="buy", aggregate=aggregate, of="amount", test=test), BUYERS) == expected


def test_days_follow_the_account_time_zone() -> None:
    day = Event(name="buy", aggregate=Aggregate.DISTINCT_DAYS, test=Equals(2.0))
    before_midnight = NOW // MICROS_PER_DAY * MICROS_PER_DAY - 3_600_000_000 - 1  # 22:59:59.999999 UTC
    world = {"across": buys(1.0, 1.0, at=before_midnight), "within": buys(1.0, 1.0, at=before_midnight - 5)}
    assert members(day, world) == {"across"}
    utc = compile_criterion(Account("accounts/a"), EVERYWHERE, day, NOW, no_audience)
    assert evaluate(utc, world) == [set()]


def test_calendar_window_uses_the_account_time_zone_by_default() -> None:
    yesterday = NOW // MICROS_PER_DAY * MICROS_PER_DAY - 1
    world = {"late": buys(1.0, at=yesterday)}  # 23:59:59.999999 UTC, already today in Berlin
    today = Event(name="buy", window=Calendar(unit=CalendarUnit.DAY))
    assert members(today, world) == {"late"}
    in_utc = Event(name="buy", window=Calendar(unit=CalendarUnit.DAY, time_zone="UTC"))
    assert members(in_utc, world) == set()


def test_only_events_within_the_retention_count() -> None:
    day = MICROS_PER_DAY
    account = Account("accounts/a", event_retention=30 * day)
    world = {
        "too old": buys(1.0, at=NOW - 30 * day - 1),
        "the oldest": buys(1.0, at=NOW - 30 * day),
        "yesterday": buys(1.0, at=NOW - day),
        "ahead": buys(1.0, at=NOW + day),
    }
    bought = (Step(name="buy"),)
    for window, old_enough in (
        (None, {"the oldest", "yesterday", "ahead"}),
        (Range(end=NOW), {"the oldest", "yesterday"}),
        (Range(start=NOW - 31 * day, end=NOW - 30 * day + 1), {"the oldest"}),
        (Range(start=NOW - 40 * day, end=NOW - 30 * day), set()),
        (Last(duration=31 * day), {"the oldest", "yesterday"}),
        (Last(duration=30 * day), {"yesterday"}),
        (BetweenAgo(from_=50 * day, to=30 * day), {"the oldest"}),
    ):
        criteria: dict[Criterion, set[str]] = {
            Event(name="buy", window=window): old_enough,
            Event(name="buy", window=window, test=Equals(0.0)): world.keys() - old_enough,
            Sequence(steps=bought, window=window): old_enough,
        }
        for criterion, expected in criteria.items():
            plan = compile_criterion(account, EVERYWHERE, criterion, NOW, no_audience)
            assert evaluate(plan, world) == [expected]


def test_all_parts_of_where_see_the_same_event() -> None:
    both = WhereAll(
        conditions=(WhereAttribute(key="a", test=Equals(1.0)), WhereAttribute(key="b", test=Equals(True)))
    )
    world = {
        "same": User(events=(Happened(IOS, "buy", 1, {"a": 1.0, "b": True}),)),
        "two": User(events=(Happened(IOS, "buy", 1, {"a": 1.0}), Happened(IOS, "buy", 2, {"b": True}))),
        "kinds": User(events=(Happened(IOS, "buy", 1, {"a": True, "b": 1.0}),)),
    }
    assert members(Event(name="buy", where=both), world) == {"same"}


def test_sequence_steps_are_strictly_later() -> None:
    def did(*events: tuple[str, int]) -> User:
        return User(events=tuple(Happened(IOS, name, time) for name, time in events))

    world = {
        "a b": did(("a", 1), ("b", 2)),
        "b a": did(("b", 1), ("a", 2)),
        "same time": did(("a", 1), ("b", 1)),
        "late": did(("a", 1), ("b", 9)),
        "a a b": did(("a", 1), ("a", 8), ("b", 9)),
        "a": did(("a", 1)),
    }
    steps = (Step(name="a"), Step(name="b"))
    assert members(Sequence(steps=steps), world) == {"a b", "late", "a a b"}
    assert members(Sequence(steps=steps, within=1), world) == {"a b", "a a b"}
    assert members(Sequence(steps=(Step(name="a"), Step(name="a"))), world) == {"a a b"}
    assert members(Not(criterion=Sequence(steps=steps)), world) == {"b a", "same time", "a"}


def test_attributes_follow_workspaces_and_users_follow_inputs() -> None:
    world = {
        "phone": User(updates={IOS: (1,)}, attributes={PHONE: {"plan": "gold"}}),
        "site": User(updates={IOS: (1,)}, attributes={SITE: {"plan": "gold"}}),
        "other input": User(updates={ANDROID: (1,)}, attributes={PHONE: {"plan": "gold"}}),
        "without": User(updates={IOS: (1,)}),
    }
    gold = UserAttribute(key="plan", test=Equals("gold"))
    ios = JourneyTree(name="j", inputs=(IOS,))
    assert members(gold, world, ios) == {"phone"}
    assert members(Not(criterion=gold), world, ios) == {"site", "without"}
    assert members(gold, world) == {"phone", "site", "other input"}
    assert members(UserAttribute(key="$last_seen", test=Equals(1)), world, ios) == {
        "phone",
        "site",
        "without",
    }
    assert members(UserAttribute(key="$first_seen", test=Exists()), world, ios) == {
        "phone",
        "site",
        "without",
    }


def test_empty_groups_and_three_negations() -> None:
    world = {"u": User(updates={IOS: (1,)})}
    assert members(AllOf(), world) == {"u"}
    assert members(AnyOf(), world) == set()
    assert members(Not(criterion=Not(criterion=Not(criterion=AnyOf()))), world) == {"u"}
    assert members(AllOf(), world, JourneyTree(name="j", inputs=())) == set()


@given(st.floats(0, 100), st.floats(0, 100))
def test_adjacent_buckets_partition_the_users(a: float, b: float) -> None:
    ends = sorted({0.0, a, b, 100.0})
    places = []
    for low, high in itertools.pairwise(ends):
        plan = compile_criterion(
            ACCOUNT,
            EVERYWHERE,
            Bucket(salt="s", from_percent=low, to_percent=high),
            NOW,
            no_audience,
            passes=(),
        )
        places += [(step.first, step.last) for step in plan.steps if isinstance(step, BucketMatch)]
    assert places[0][0] == 0
    assert places[-1][1] == 2**64 - 1
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(places))


def test_a_bucket_is_the_share_of_the_hash() -> None:
    world = {f"u{i}": User(updates={IOS: (1,)}) for i in range(50)}
    half = members(Bucket(salt="s", from_percent=25.0, to_percent=75.0), world)
    assert half == {name for name in world if 2**62 <= bucket_of("s", name) < 3 * 2**62}


@given(criteria(INPUTS), criteria(INPUTS), WORLDS)
def test_laws_of_the_language(a: Criterion, b: Criterion, world: World) -> None:
    everyone = members(AllOf(), world)
    in_a, in_b = members(a, world), members(b, world)
    assert members(Not(criterion=Not(criterion=a)), world) == in_a
    assert members(Not(criterion=a), world) == everyone - in_a
    assert members(AnyOf(criteria=(a, Not(criterion=a))), world) == everyone
    assert members(AllOf(criteria=(a, Not(criterion=a))), world) == set()
    neither = Not(criterion=AnyOf(criteria=(a, b)))
    assert members(neither, world) == members(AllOf(criteria=(Not(criterion=a), Not(criterion=b))), world)
    assert members(AllOf(criteria=(a, b)), world) == in_a & in_b


@given(journeys(), WORLDS)
def test_a_split_with_remaining_users_partitions_its_parent(journey: JourneyTree, world: World) -> None:
    compiled = compile_journey(ACCOUNT, journey, NOW, no_audience)
    sets = dict(zip(compiled.milestones, evaluate(compiled.plan, world), strict=True))
    split = [sets["m0"], sets["m1"], sets["rest"]]
    assert set().union(*split) == members(AllOf(), world, journey)
    assert sum(map(len, split)) == len(set().union(*split))
    parent = sets[journey.milestone("below0").parent or ""]
    assert sets["below0"] | sets["below1"] <= parent
    assert not sets["below0"] & sets["below1"]
    own = {each.id: members(each.criterion, world, journey) for each in journey.milestones if each.criterion}
    assert sets["m1"] == own["m1"] - own["m0"]
    assert sets["below1"] == (parent & own["below1"]) - own["below0"]


def contains(text: str, label: str = "") -> Event:
    return Event(name=text, label=label)


SPLIT = JourneyTree(
    name="accounts/a/journeys/j",
    inputs=(IOS,),
    milestones=(
        TreeMilestone(id="rest", position=0, kind=MilestoneKind.REMAINING_USERS),
        TreeMilestone(
            id="second",
            position=2,
            criterion=AllOf(
                label="both", criteria=(contains("b", "has b"), Not(criterion=contains("c", "has c")))
            ),
        ),
        TreeMilestone(id="first", position=1, criterion=contains("a", "has a")),
        TreeMilestone(id="below", parent="rest", criterion=contains("c")),
    ),
)


def world_of(*names: str) -> World:
    """Users named after the events they have."""
    return {name: User(events=tuple(Happened(IOS, event, 1) for event in [*name, "x"])) for name in names}


LETTERS = world_of("", "a", "b", "c", "ab", "bc", "abc")


def test_labelled_criterion_is_counted_alone_among_the_draw() -> None:
    compiled = compile_milestone(ACCOUNT, SPLIT, "second", NOW, no_audience)
    milestone, draw, *labels = evaluate(compiled.plan, LETTERS)
    assert milestone == {"b"}
    assert draw == {"", "b", "c", "bc"}
    assert [(each.path, each.label, each.root) for each in compiled.labels] == [
        ("criteria", "both", 2),
        ("criteria.all_of.criteria[0]", "has b", 3),
        ("criteria.all_of.criteria[1].not", "has c", 4),
    ]
    assert labels == [{"b"}, {"b", "bc"}, {"c", "bc"}]
    without = compile_milestone(ACCOUNT, SPLIT, "second", NOW, no_audience, with_labels=False)
    assert without.labels == ()
    assert evaluate(without.plan, LETTERS) == [milestone, draw]


def test_remaining_users_come_last_whatever_their_position() -> None:
    compiled = compile_journey(ACCOUNT, SPLIT, NOW, no_audience, milestones=["rest", "below"])
    assert compiled.milestones == ("rest", "below")
    assert evaluate(compiled.plan, LETTERS) == [{"", "c", "bc"}, {"c", "bc"}]


def test_a_draft_is_sized_as_if_it_were_saved() -> None:
    def sizes(draft: TreeMilestone) -> list[set[str]]:
        compiled = compile_milestone(ACCOUNT, SPLIT.with_draft(draft), draft.id, NOW, no_audience)
        return evaluate(compiled.plan, LETTERS)

    # New, between the two; new, last; and another criterion for an existing one.
    assert sizes(TreeMilestone(id="", position=2, criterion=contains("b"))) == [
        {"b", "bc"},
        {"", "b", "c", "bc"},
    ]
    assert sizes(TreeMilestone(id="", position=3, criterion=contains("c"))) == [{"c", "bc"}, {"", "c", "bc"}]
    assert sizes(TreeMilestone(id="first", position=1, criterion=contains("c"))) == [
        {"c", "bc", "abc"},
        set(LETTERS),
    ]
    # A draft changes what its later siblings draw.
    edited = SPLIT.with_draft(TreeMilestone(id="first", position=1, criterion=contains("b")))
    rest = compile_journey(ACCOUNT, edited, NOW, no_audience, milestones=["rest"]).plan
    assert evaluate(rest, LETTERS) == [{"", "a", "c"}]


def resolver_of(**audiences: tuple[JourneyTree, str]) -> Audiences:
    return Audiences(audiences)


class Audiences:
    def __init__(self, audiences: dict[str, tuple[JourneyTree, str]]) -> None:
        self._audiences = audiences

    def __call__(self, name: str) -> tuple[JourneyTree, str]:
        if name not in self._audiences:
            raise NotFound(name)
        return self._audiences[name]


def test_an_audience_is_drawn_in_its_own_journey() -> None:
    web = JourneyTree(
        name="web",
        inputs=(WEB,),
        milestones=(
            TreeMilestone(id="m", criterion=Not(criterion=contains("a"))),
            TreeMilestone(id="n", position=1, criterion=contains("a")),
        ),
    )
    world = {
        "ios": User(events=(Happened(IOS, "b", 1),)),
        "both": User(events=(Happened(IOS, "b", 1), Happened(WEB, "b", 1))),
        "a on ios": User(events=(Happened(IOS, "a", 1), Happened(WEB, "b", 1))),
        "web": User(events=(Happened(WEB, "b", 1),)),
    }
    resolver = resolver_of(m=(web, "m"))
    ios = JourneyTree(name="ios", inputs=(IOS,))
    named = compile_criterion(ACCOUNT, ios, Audience(name="m"), NOW, resolver)
    assert evaluate(named, world) == [{"both", "a on ios"}]
    not_named = compile_criterion(ACCOUNT, ios, Not(criterion=Audience(name="m")), NOW, resolver)
    assert evaluate(not_named, world) == [{"ios"}]
    assert evaluate(compile_audiences(ACCOUNT, ["m"], NOW, resolver), world) == [{"both", "a on ios", "web"}]


def chain(length: int) -> tuple[JourneyTree, Audiences]:
    """Milestones each of which is those of the next audience, the last of them users with an event "a"."""
    milestones = [
        TreeMilestone(id=f"m{i}", parent=None, position=-i, criterion=Audience(name=f"m{i + 1}"))
        for i in range(length)
    ]
    milestones.append(TreeMilestone(id=f"m{length}", position=-length, criterion=contains("a")))
    journeys = {
        each.id: (JourneyTree(name=each.id, inputs=(IOS,), milestones=(each,)), each.id)
        for each in milestones
    }
    return journeys["m0"][0], Audiences(journeys)


def test_audiences_in_audiences_over_as_many_levels_as_are_evaluated() -> None:
    journey, resolver = chain(AUDIENCE_LEVELS_EVALUATED_MAX)
    plan = compile_milestone(ACCOUNT, journey, "m0", NOW, resolver).plan
    assert evaluate(plan, LETTERS)[0] == {"a", "ab", "abc"}
    assert len(plan.steps) == 2


def test_deeper_audiences_are_refused_before_anything_is_compiled_of_them() -> None:
    """The lowest that is too deep is named, however many there are above it."""
    length = 3_000
    journey, resolver = chain(length)
    with pytest.raises(FailedPrecondition) as refused:
        compile_milestone(ACCOUNT, journey, "m0", NOW, resolver)
    assert refused.value.reason == "AUDIENCE_TOO_DEEP"
    milestone = f"m{length - AUDIENCE_LEVELS_EVALUATED_MAX - 1}"
    assert refused.value.metadata == {"milestone": milestone, "limit": str(AUDIENCE_LEVELS_EVALUATED_MAX)}


def test_parents_to_any_depth() -> None:
    milestones = tuple(
        TreeMilestone(id=f"m{i}", parent=f"m{i - 1}" if i else None, criterion=contains("a"))
        for i in range(2_000)
    )
    journey = JourneyTree(name="j", inputs=(IOS,), milestones=milestones)
    plan = compile_milestone(ACCOUNT, journey, "m1999", NOW, no_audience).plan
    assert evaluate(plan, LETTERS)[0] == {"a", "ab", "abc"}


def test_audience_cycle_is_refused() -> None:
    journey = SPLIT.with_draft(TreeMilestone(id="first", position=1, criterion=Audience(name="below")))
    with pytest.raises(AudienceCycle, match="depends on itself"):
        compile_milestone(ACCOUNT, journey, "first", NOW, resolver_of(below=(journey, "below")))
    # The first of the split does not depend on the second, which draws from what it leaves.
    journey = SPLIT.with_draft(TreeMilestone(id="second", position=2, criterion=Audience(name="first")))
    resolver = resolver_of(first=(journey, "first"), back=(BACK, "back"))
    order = [milestone.id for _, milestone in made_of(journey, ["below", "second"], resolver)]
    assert order == ["first", "second", "rest", "below"]
    # Through another journey and back.
    journey = SPLIT.with_draft(TreeMilestone(id="second", position=2, criterion=Audience(name="back")))
    with pytest.raises(AudienceCycle):
        made_of(journey, ["second"], resolver_of(second=(journey, "second"), back=(BACK, "back")))


BACK = JourneyTree(
    name="other", inputs=(IOS,), milestones=(TreeMilestone(id="back", criterion=Audience(name="second")),)
)


def test_plan_depends_only_on_the_question_and_the_instant() -> None:
    def plan(as_of: int, test: NumberTest) -> Plan:
        criterion = Event(name="buy", window=Last(duration=10), test=test)
        return compile_criterion(ACCOUNT, EVERYWHERE, criterion, as_of, no_audience)

    some = Compare("greater_than", 0.0)
    assert plan(NOW, some).digest() == plan(NOW, Compare("greater_or_equal", 1.0)).digest()
    assert plan(NOW, some).digest() != plan(NOW + 1, some).digest()


def test_milestones_of_one_plan_share_steps() -> None:
    heavy = Event(name="a", aggregate=Aggregate.SUM, of="x", window=Last(duration=5))
    journey = JourneyTree(
        name="j",
        inputs=(IOS,),
        milestones=tuple(
            TreeMilestone(id=str(i), position=i, criterion=AllOf(criteria=(heavy, contains(str(i)))))
            for i in range(5)
        ),
    )
    plan = compile_journey(ACCOUNT, journey, NOW, no_audience).plan
    tags = [step.__struct_config__.tag for step in plan.steps]
    assert tags.count("event") == 6
    assert members(UserAttribute(key="k", test=Text("contains", "x")), {}) == set()
