"""Explanations of membership down to the leaf, and plan descriptions."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from engine.criteria.conditions import WhereAny
from engine.criteria.describe import describe_criterion
from engine.criteria.model import (
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
    Near,
    Not,
    OlderThan,
    Range,
    Semver,
    Sequence,
    Step,
    Text,
    UserAttribute,
    Where,
    WhereAll,
    WhereAttribute,
    WhereNot,
)
from engine.criteria.words import duration_in_words, instant_in_words
from engine.plan.compile import compile_criterion
from engine.plan.explain import (
    Explanation,
    MilestoneExplanation,
    compile_explanation,
    describe_plan,
    describe_step,
    explain,
)
from engine.plan.model import (
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Interval,
    NumberRange,
    SeenMatch,
    SequenceMatch,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.model import Step as PlanStep
from engine.plan.tree import Account, JourneyTree, MilestoneKind, TreeMilestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR
from tests.engine.plan.strategies import NOW
from tests.engine.plan.worlds import IOS, Happened, User, evaluate

ACCOUNT = Account("accounts/a")


def has(name: str) -> Event:
    return Event(name=name)


JOURNEY = JourneyTree(
    name="j",
    inputs=(IOS,),
    milestones=(
        TreeMilestone(id="vip", criterion=has("v")),
        TreeMilestone(id="rest", position=1, kind=MilestoneKind.REMAINING_USERS),
        TreeMilestone(
            id="below",
            parent="rest",
            criterion=AllOf(
                label="why", criteria=(AnyOf(criteria=(has("a"), has("b"))), Not(criterion=has("c")))
            ),
        ),
    ),
)


def no_audience(name: str) -> tuple[JourneyTree, str]:
    raise AssertionError(name)


def explained(events: str) -> tuple[MilestoneExplanation, ...]:
    user = User(events=tuple(Happened(IOS, name, 1) for name in events))
    compiled = compile_explanation(ACCOUNT, JOURNEY, "below", NOW, no_audience)
    flags = ["u" in users for users in evaluate(compiled.plan, {"u": user})]
    return explain(compiled, flags)


def nodes(explanation: Explanation) -> Iterator[Explanation]:
    yield explanation
    for child in explanation.children:
        yield from nodes(child)


def decisive(events: str) -> list[tuple[str, bool]]:
    criterion = explained(events)[-1].criterion
    assert criterion is not None
    return [(node.path, node.verdict) for node in nodes(criterion) if node.decisive]


ROOT = "criteria"
ANY = "criteria.all_of.criteria[0]"
A, B = f"{ANY}.any_of.criteria[0]", f"{ANY}.any_of.criteria[1]"
NOT = "criteria.all_of.criteria[1]"
C = f"{NOT}.not"


def test_a_criterion_is_decisive_when_its_parent_would_change_with_it() -> None:
    # all_of(any_of(a, b), not(c)), below the users without v.
    assert decisive("a") == [(ROOT, True), (ANY, True), (A, True), (NOT, True), (C, False)]
    assert decisive("ab") == [(ROOT, True), (ANY, True), (NOT, True), (C, False)]
    assert decisive("ac") == [(ROOT, False), (A, True), (NOT, False), (C, True)]
    assert decisive("x") == [(ROOT, False), (ANY, False), (A, False), (B, False), (C, False)]
    # Two children are false, so neither alone would make all_of true.
    assert decisive("c") == [(ROOT, False), (A, False), (B, False), (C, True)]


def test_a_whole_criterion_is_not_decisive_for_users_whom_the_milestone_does_not_get() -> None:
    vip = compile_explanation(ACCOUNT, JOURNEY, "vip", NOW, no_audience)
    assert [m.criterion and m.criterion.decisive for m in explain(vip, [True, False, False])] == [True]
    assert [m.criterion and m.criterion.decisive for m in explain(vip, [False, False, False])] == [False]
    below = explained("va")[-1].criterion
    assert below is not None
    assert (below.verdict, below.decisive) == (True, False)


def test_path_from_the_start_shows_where_a_user_was_taken() -> None:
    rest, below = explained("va")
    assert (rest.id, rest.member, rest.taken_by, rest.criterion) == ("rest", False, "vip", None)
    assert (below.id, below.member, below.taken_by) == ("below", False, "")
    assert below.criterion is not None
    assert below.criterion.verdict
    assert below.criterion.label == "why"
    assert below.criterion.description == "all of 2"
    assert [each.member for each in explained("a")] == [True, True]


def test_every_criterion_has_a_description() -> None:
    day = MICROS_PER_DAY
    where: Where = WhereAll(
        conditions=(
            WhereAttribute(key="price", test=Between(1.0, 2.5)),
            WhereNot(condition=WhereAttribute(key="sku", test=Text("starts_with", 'x"', ignore_case=True))),
        )
    )
    cases: list[tuple[Criterion, str]] = [
        (AllOf(), "everyone"),
        (AnyOf(), "no one"),
        (Not(criterion=AllOf()), "not"),
        (UserAttribute(key="plan", test=Equals("gold")), 'user attribute "plan" = "gold"'),
        (
            UserAttribute(key="n", test=In((1.0, True, "a", 0, ("x",), 2.5, 3.0))),
            'user attribute "n" in [1, true, "a", 1970-01-01T00:00:00Z, ["x"], and 2 more]',
        ),
        (
            UserAttribute(key="v", test=Semver("less_than", "1.2.3")),
            'user attribute "v" is a version < 1.2.3',
        ),
        (
            UserAttribute(key="t", test=OlderThan(36 * MICROS_PER_HOUR)),
            'user attribute "t" 36 hours ago or longer',
        ),
        (Identity(type="email", test=Text("glob", "*@x")), 'identity "email" glob "*@x"'),
        (UserAttribute(key="at", test=Near(1.5, -2.0, 300.0)), 'user attribute "at" within 300 m of 1.5,-2'),
        (Event(name="buy"), 'count of event "buy" > 0'),
        (
            Event(
                type=EventType.COMMERCE,
                where=where,
                window=Last(duration=day),
                test=Compare("less_than", 3.0),
            ),
            'count of any event of type COMMERCE where ("price" between 1 and 2.5 and not "sku" '
            'starts with "x\\"" ignoring case) in the last 1 day < 3',
        ),
        (
            Event(
                name="buy",
                aggregate=Aggregate.SUM,
                of="amount",
                window=BetweenAgo(from_=2 * day, to=1_500_000),
            ),
            'sum of "amount" over event "buy" between 2 days and 1.5 s ago > 0',
        ),
        (
            Event(name="buy", window=Range(start=0), inputs=(IOS,)),
            f'count of event "buy" through {IOS} from 1970-01-01T00:00:00Z > 0',
        ),
        (
            Event(name="buy", window=Calendar(unit=CalendarUnit.WEEK, count=2, offset=1, time_zone="UTC")),
            'count of event "buy" in 2 calendar week(s), 1 before this one in UTC > 0',
        ),
        (
            Sequence(steps=(Step(name="a"), Step(name="b")), within=day),
            'event "a", then event "b", all within 1 day',
        ),
        (Audience(name="accounts/a/audiences/x"), "in audience accounts/a/audiences/x"),
        (
            Consent(regulation="gdpr", purpose="ads", state=ConsentState.DENIED),
            'consent under "gdpr" for "ads" is denied',
        ),
        (Bucket(salt="s", from_percent=0.0, to_percent=12.5), 'bucket of salt "s" from 0 % to below 12.5 %'),
    ]
    assert [describe_criterion(criterion) for criterion, _ in cases] == [words for _, words in cases]


def test_instants_and_durations_in_words() -> None:
    assert instant_in_words(1_709_210_096_000_001) == "2024-02-29T12:34:56.000001Z"
    assert instant_in_words(-(10**18)) == "the beginning of time"
    assert instant_in_words(10**18) == "the end of time"
    assert duration_in_words(90_000_000) == "90 s"
    assert duration_in_words(0) == "0 s"


def test_a_plan_in_words() -> None:
    criterion = AllOf(
        criteria=(
            UserAttribute(key="plan", test=Equals("gold")),
            Event(name="buy", window=Range(start=0, end=1_000_000), test=Compare("greater_or_equal", 3.0)),
        )
    )
    plan = compile_criterion(ACCOUNT, JOURNEY, criterion, NOW, no_audience)
    assert [msgspec.structs.astuple(step) for step in describe_plan(plan)] == [
        (0, "attribute", 'attribute "plan" = "gold" in accounts/a/workspaces/phone', ()),
        (
            1,
            "event",
            'count >= 3 over event "buy" from 1970-01-01T00:00:00Z to before 1970-01-01T00:00:01Z '
            f"through {IOS}",
            (),
        ),
        (2, "intersect", "in every one of #0, #1", (0, 1)),
    ]


def test_every_step_has_a_description() -> None:
    events = EventSelection(
        inputs=(IOS,),
        type=EventType.SESSION,
        where=WhereAny(
            conditions=(
                WhereAll(conditions=()),
                WhereNot(
                    condition=WhereAttribute(
                        key="k", test=NumberRange((Interval(high=2.0, high_included=False),))
                    )
                ),
            )
        ),
    )
    words: dict[PlanStep, str] = {
        Universe(inputs=(IOS,)): f"users of {IOS}",
        Empty(): "no one",
        Union(operands=(0, 1)): "in any of #0, #1",
        Difference(minuend=0, subtrahend=1): "in #0 and not in #1",
        SeenMatch(inputs=(IOS,), last=True, test=InstantRange((TimeRange(start=0),))): (
            f"last seen from 1970-01-01T00:00:00Z through {IOS}"
        ),
        IdentityMatch(type="email", test=Exists()): 'identity "email" exists',
        UserIdMatch(test=Exists()): "user id exists",
        ConsentMatch(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN): (
            'consent under "gdpr" for "ads" is given'
        ),
        SequenceMatch(steps=(events, EventSelection(inputs=())), within=5): (
            f'any event of type SESSION where (anything or not "k" < 2) through {IOS}, '
            "then any event through nothing, the last within 5 µs of the first"
        ),
        BucketMatch(salt="s", first=0, last=2**63 - 1): '50.0000% of the users by salt "s"',
    }
    assert {step: describe_step(step) for step in words} == words
