"""Invalid criteria: all faults with path and reason."""

from __future__ import annotations

import math

import pytest

from engine.criteria.faults import NOT_POSITIVE
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
    Exists,
    Identity,
    In,
    Last,
    Near,
    Not,
    NumberTest,
    OlderThan,
    Range,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
    WithinLast,
)
from engine.criteria.operators.text import TextOp
from engine.criteria.validation import AudienceReference, Context, validate
from engine.errors import Violation
from engine.limits import Limits
from engine.values import TIME_MAX_MICROS

IOS = "accounts/a/workspaces/w/inputs/ios"
WEB = "accounts/a/workspaces/w/inputs/web"
NOBODYS = "accounts/a/workspaces/w/inputs/none"

REFERENCES = {"found": AudienceReference.FOUND, "cycle": AudienceReference.CYCLE}


def check(criterion: Criterion, *, limits: Limits | None = None) -> tuple[Violation, ...]:
    context = Context(
        inputs=frozenset({IOS, WEB}),
        journey_inputs=frozenset({IOS}),
        audience=lambda name: REFERENCES.get(name, AudienceReference.UNKNOWN),
        limits=limits or Limits(),
    )
    return validate(criterion, context)


def faults(criterion: Criterion, *, limits: Limits | None = None) -> list[tuple[str, str]]:
    return [(v.field.removeprefix("criteria."), v.description) for v in check(criterion, limits=limits)]


# What else is wrong with operands is in the fixture files of the operators.
ATTRIBUTE_TESTS: list[tuple[ValueTest, str, str]] = [
    (Equals(math.nan), "equals", "must be a finite number"),
    (Equals("x" * 4_097), "equals", "is longer than 4096 bytes"),
    (Equals("é" * 2_049), "equals", "is longer than 4096 bytes"),
    (Equals(("x",) * 1_001), "equals", "has more than 1000 items"),
    (Equals(("x" * 513,)), "equals", "has an item longer than 512 bytes"),
    (In(tuple(map(float, range(10_001)))), "in", "has 10001 values; at most 10000 are allowed"),
    (Compare("less_than", True), "less_than", "must be a number or a time"),
    (Text("contains", "x" * 4_097), "contains", "is longer than 4096 bytes"),
]


@pytest.mark.parametrize(("test", "field", "reason"), ATTRIBUTE_TESTS)
def test_faulty_operand_is_refused_in_any_node(test: ValueTest, field: str, reason: str) -> None:
    assert faults(UserAttribute(key="k", test=test)) == [(f"user_attribute.test.{field}", reason)]
    where = WhereNot(condition=WhereAttribute(key="k", test=test))
    assert faults(Event(where=where)) == [(f"event.where.not.attribute.test.{field}", reason)]


@pytest.mark.parametrize(
    "test",
    [
        Exists(),
        Equals(()),
        In(()),
        In((1.0, "a", True, 5, ("x",))),
        In(tuple(map(float, range(10_000)))),
        Between(1.0, 1.0),
        Between(5, 6),
        Equals("x" * 4_096),
        OlderThan(0),
        Text("contains", ""),
        Text("glob", "[("),
        Near(-90.0, 180.0, 0.0),
    ],
)
def test_a_sound_test_on_a_value(test: ValueTest) -> None:
    assert faults(UserAttribute(key="k", test=test)) == []


WINDOWS: list[tuple[Window, str, str]] = [
    (Last(duration=0), "last", NOT_POSITIVE),
    (Last(duration=-5), "last", NOT_POSITIVE),
    (BetweenAgo(from_=5, to=5), "between_ago", "is empty: from must be longer ago than to"),
    (BetweenAgo(from_=5, to=-1), "between_ago.to", "must not be negative"),
    (BetweenAgo(from_=0, to=0), "between_ago.from", NOT_POSITIVE),
    (Range(start=7, end=7), "range", "is empty: start must be before end"),
    (Range(start=TIME_MAX_MICROS + 1), "range.start", "must lie in the years 1 to 9999"),
    (Calendar(unit=CalendarUnit.DAY, count=0), "calendar.count", "must lie between 1 and 100000"),
    (Calendar(unit=CalendarUnit.DAY, offset=-1), "calendar.offset", "must lie between 0 and 100000"),
    *(
        (
            Calendar(unit=CalendarUnit.DAY, time_zone=name),
            "calendar.time_zone",
            f"{name!r} is not a time zone of the IANA database",
        )
        for name in ("Mars/Olympus", "America", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 300)
    ),
]


@pytest.mark.parametrize(("window", "field", "reason"), WINDOWS)
def test_a_faulty_window(window: Window, field: str, reason: str) -> None:
    assert faults(Event(window=window)) == [(f"event.window.{field}", reason)]
    sequence = Sequence(steps=(Step(),), window=window)
    assert faults(sequence) == [(f"sequence.window.{field}", reason)]


@pytest.mark.parametrize(
    "window",
    [
        Last(duration=1),
        BetweenAgo(from_=1, to=0),
        Range(),
        Range(start=5),
        Range(start=5, end=6),
        Calendar(unit=CalendarUnit.WEEK, count=2, offset=1, time_zone="America/New_York"),
    ],
)
def test_a_sound_window(window: Window) -> None:
    assert faults(Event(window=window)) == []


AGGREGATES: list[tuple[Event, str, str]] = [
    (Event(aggregate=Aggregate.SUM), "event.of", "is required: SUM reads an attribute"),
    (Event(aggregate=Aggregate.DISTINCT), "event.of", "is required: DISTINCT reads an attribute"),
    (Event(of="amount"), "event.of", "must be empty: COUNT reads no attribute"),
    (
        Event(aggregate=Aggregate.DISTINCT_DAYS, of="amount"),
        "event.of",
        "must be empty: DISTINCT_DAYS reads no attribute",
    ),
    (Event(test=Compare("greater_than", math.inf)), "event.test.greater_than", "must be a finite number"),
    (
        Event(test=Compare("greater_than", 5)),
        "event.test.greater_than",
        "does not fit: it tests times, but the values are numbers",
    ),
    (
        Event(test=Equals("3")),
        "event.test.equals",
        "does not fit: it tests strings or lists, but the values are numbers",
    ),
    (Event(test=In((1.0, "3"))), "event.test.in.values[1]", "must be a number, because the aggregate is one"),
    (Event(test=Between(3.0, 2.0)), "event.test.between", "is empty: low is greater than high"),
    (Event(inputs=(IOS, NOBODYS)), "event.inputs[1]", f"input {NOBODYS!r} does not exist"),
    (Event(inputs=(WEB,)), "event.inputs[0]", f"input {WEB!r} is not one of the journey's inputs"),
    (Event(name="n" * 257), "event.name", "is longer than 256 bytes"),
    (Event(where=WhereAttribute(key="", test=Exists())), "event.where.attribute.key", "must not be empty"),
]


@pytest.mark.parametrize(("event", "field", "reason"), AGGREGATES)
def test_a_faulty_event(event: Event, field: str, reason: str) -> None:
    assert faults(event) == [(field, reason)]


def test_impossible_test_does_not_fit() -> None:
    text: NumberTest | Text = Text("contains", "3")
    assert faults(Event(test=text)) == [  # type: ignore[arg-type]
        (
            "event.test.contains",
            "does not fit: it tests strings or lists, but the values are numbers",
        )
    ]
    assert faults(UserAttribute(key="$first_seen", test=Equals("2020"))) == [
        (
            "user_attribute.test.equals",
            "does not fit: it tests strings or lists, but the values are times",
        )
    ]
    assert faults(Identity(type="email", test=Compare("less_than", 3.0))) == [
        ("identity.test.less_than", "does not fit: it tests numbers, but the values are strings")
    ]
    for sound in (WithinLast(5), Compare("less_than", 5), Between(1, 2), Exists(), In((5, 6))):
        assert faults(UserAttribute(key="$last_seen", test=sound)) == []


@pytest.mark.parametrize(
    ("criterion", "field", "reason"),
    [
        (UserAttribute(key="", test=Exists()), "user_attribute.key", "must not be empty"),
        (Identity(type="", test=Exists()), "identity.type", "must not be empty"),
        (Sequence(steps=()), "sequence.steps", "must not be empty"),
        (Sequence(steps=(Step(),) * 21), "sequence.steps", "has 21 steps; at most 20 are allowed"),
        (Sequence(steps=(Step(),), within=0), "sequence.within", NOT_POSITIVE),
        (
            Audience(name="who"),
            "audience.name",
            "audience 'who' does not exist; names are full: accounts/{account}/audiences/{audience}; "
            "GetMilestone and `milepost audience list` tell the names of audiences",
        ),
        (
            Audience(name="accounts/a/audiences/who"),
            "audience.name",
            "audience 'accounts/a/audiences/who' does not exist; "
            "GetMilestone and `milepost audience list` tell the names of audiences",
        ),
        (Audience(name="cycle"), "audience.name", "audience 'cycle' itself depends on this milestone"),
        (
            Bucket(salt="s", from_percent=0.0, to_percent=101.0),
            "bucket.to_percent",
            "must lie between 0 and 100",
        ),
        (
            Bucket(salt="s", from_percent=math.nan, to_percent=1.0),
            "bucket.from_percent",
            "must lie between 0 and 100",
        ),
        (
            Bucket(salt="s", from_percent=5.0, to_percent=5.0),
            "bucket",
            "is empty: from_percent must be less than to_percent",
        ),
        (
            Consent(regulation="", purpose="ads", state=ConsentState.GIVEN),
            "consent.regulation",
            "must not be empty",
        ),
        (AllOf(label="l" * 257), "label", "is longer than 256 bytes"),
    ],
)
def test_a_faulty_node(criterion: Criterion, field: str, reason: str) -> None:
    assert faults(criterion) == [(field, reason)]


def test_all_faults_are_reported_in_reading_order_with_paths() -> None:
    criterion = AllOf(
        criteria=(
            UserAttribute(key="", test=Text("matches", "[")),
            AnyOf(criteria=(Not(criterion=Event(window=Range(start=2, end=1), aggregate=Aggregate.MAX)),)),
            Sequence(
                steps=(Step(), Step(where=WhereAny(conditions=(WhereAttribute(key="", test=Exists()),))))
            ),
        )
    )
    assert faults(criterion) == [
        ("all_of.criteria[0].user_attribute.key", "must not be empty"),
        (
            "all_of.criteria[0].user_attribute.test.matches",
            "is not a valid RE2 expression: missing ]: [",
        ),
        (
            "all_of.criteria[1].any_of.criteria[0].not.event.window.range",
            "is empty: start must be before end",
        ),
        ("all_of.criteria[1].any_of.criteria[0].not.event.of", "is required: MAX reads an attribute"),
        (
            "all_of.criteria[2].sequence.steps[1].where.any_of.conditions[0].attribute.key",
            "must not be empty",
        ),
    ]


@pytest.mark.parametrize(
    ("op", "pattern", "reason"),
    [
        ("glob", "*a*b" * 300, "is longer than 1024 bytes"),
        ("glob", "ß" * 513, "is longer than 1024 bytes"),
        ("glob", "*a?b" * 17, "has 34 wildcards; at most 32 are allowed"),
        ("matches", "x" * 1_025, "is longer than 1024 bytes"),
        (
            "matches",
            "(.{0,30}){0,30}z",
            "compiles to 8134 instructions; at most 4000 are allowed: use smaller repetitions",
        ),
    ],
)
def test_patterns_are_bounded_by_what_they_cost(op: TextOp, pattern: str, reason: str) -> None:
    criterion = UserAttribute(key="k", test=Text(op=op, pattern=pattern))
    assert faults(criterion) == [(f"user_attribute.test.{op}", reason)]


@pytest.mark.parametrize(
    ("op", "pattern"),
    [
        ("glob", "*" * 32 + "ab"),
        ("glob", "x" * 1_024),
        ("matches", r"^[\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]{2,63}){1,4}$"),
        ("matches", "|".join(f"{word:04d}" for word in range(200))),
        ("contains", "*" * 4_096),
    ],
)
def test_common_patterns_are_within_the_bounds(op: TextOp, pattern: str) -> None:
    assert faults(UserAttribute(key="k", test=Text(op=op, pattern=pattern))) == []


def nested(levels: int) -> Criterion:
    criterion: Criterion = AllOf()
    for _ in range(levels - 1):
        criterion = Not(criterion=criterion)
    return criterion


def test_depth_limit_stops_validation() -> None:
    assert faults(nested(32)) == []
    [(path, reason)] = faults(nested(33))
    assert path == ".".join(["not"] * 32)
    assert reason == "is nested deeper than 32 levels"
    assert len(faults(nested(900))) == 1
    where: Where = WhereAll(conditions=(WhereAll(conditions=(WhereAll(),)),))
    assert faults(Event(where=where), limits=Limits(criteria_depth_max=4)) == []
    assert faults(Event(where=where), limits=Limits(criteria_depth_max=3)) == [
        ("event.where.all_of.conditions[0].all_of.conditions[0]", "is nested deeper than 3 levels")
    ]


def test_node_limit_counts_criteria_conditions_and_steps() -> None:
    assert faults(AnyOf(criteria=(AllOf(),) * 499)) == []
    refused = check(AnyOf(criteria=(AllOf(),) * 500))
    assert [(v.field, v.description) for v in refused] == [
        ("criteria", "has 501 nodes; at most 500 are allowed")
    ]
    conditions = (WhereAttribute(key="k", test=Exists()),) * 3
    sequence = Sequence(steps=(Step(), Step(where=WhereAll(conditions=conditions))))
    assert faults(sequence, limits=Limits(criteria_nodes_max=7)) == []
    assert len(faults(sequence, limits=Limits(criteria_nodes_max=6))) == 1
