"""Criteria in Python: functions that build `milepost.v1.criteria_pb2.Criteria`.

    from datetime import timedelta
    from milepost.criteria import all_of, attribute, event, event_attribute

    groceries = event_attribute("department").equals("GROCERY")
    all_of(
        attribute("plan").equals("pro"),
        event("buy", where=groceries, last=timedelta(days=30)).count() >= 3,
        event("refund").never(),
    )

Every builder returns a plain message that can be stored, compared, and printed as proto3 JSON. The service
alone decides what criteria mean and which are valid.

Python's `and`, `or` and `not` do not combine criteria, and `10 < n < 20` is `n < 20` alone: use `all_of`,
`any_of`, `not_` and `between`. What is not a criterion yet, such as an attribute or a count, raises TypeError
when it is used like that, and says what to write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Generic, Literal, TypeVar, overload

from milepost._arguments import require_several, require_text, wrong
from milepost.v1 import criteria_pb2 as pb
from milepost.v1.criteria_pb2 import Criteria, EventCondition, NumberTest, ValueTest, Window
from milepost.v1.data_pb2 import CONSENT_STATE_DENIED, CONSENT_STATE_GIVEN, EVENT_TYPE_UNSPECIFIED, EventType
from milepost.v1.value_pb2 import Value
from milepost.values import Plain, named, optional, to_duration, to_number, to_timestamp, to_value

__all__ = [
    "Attribute",
    "Events",
    "Number",
    "VersionTests",
    "all_of",
    "any_of",
    "attribute",
    "audience",
    "between_ago",
    "bucket",
    "calendar",
    "consent",
    "event",
    "event_attribute",
    "everyone",
    "identity",
    "labelled",
    "last",
    "not_",
    "sequence",
    "step",
    "time_range",
]

_COMBINE = "use all_of(a, b), any_of(a, b) and not_(a) for `and`, `or` and `not`"


class _Unfinished:
    """What becomes a criterion by one of its methods. Python's own tests on it would give True or False, and
    so another criterion than meant, or none; they raise TypeError with the way on.
    """

    _finish = "compare it or call one of its methods"

    def __bool__(self) -> bool:
        raise TypeError(f"{_kind(self)} is not a criterion yet: {self._finish}; {_COMBINE}")

    def __eq__(self, other: object) -> bool:
        raise TypeError(self._instead_of("==", "equals", other))

    def __ne__(self, other: object) -> bool:
        raise TypeError(self._instead_of("!=", "equals", other))

    def __contains__(self, other: object) -> bool:
        raise TypeError(self._instead_of("in", "contains", other))

    __hash__ = object.__hash__

    def _instead_of(self, operator: str, method: str, other: object) -> str:
        if not hasattr(self, method):
            return f"{_kind(self)} has no `{operator}`: {self._finish}"
        operand = "…" if isinstance(other, _Unfinished) else repr(other)
        way_on = f".{method}({operand})"
        return f"{_kind(self)} has no `{operator}`: use {f'not_(…{way_on})' if operator == '!=' else way_on}"


def _kind(unfinished: object) -> str:
    return type(unfinished).__name__.lstrip("_")


Unit = Literal["hour", "day", "week", "month", "quarter", "year"]
Made = TypeVar("Made")


class Testable(_Unfinished, ABC, Generic[Made]):
    """Something with a value. Its methods are tests on the value.

    A missing value, or one of another kind, passes no test; on a list a test passes when some element passes.
    """

    @abstractmethod
    def _passes(self, test: ValueTest) -> Made:
        """A criterion: the value passes `test`."""

    def exists(self) -> Made:
        """The value is present; a list has at least one element."""
        return self._passes(ValueTest(exists=pb.ExistsTest()))

    def equals(self, value: Plain | Value, *, ignore_case: bool = False) -> Made:
        """Same kind and same value: the string "12" is not the number 12."""
        return self._passes(ValueTest(equals=to_value(value), ignore_case=ignore_case))

    def one_of(self, values: Iterable[Plain | Value], *, ignore_case: bool = False) -> Made:
        """Equal to one of at most 10,000 values."""
        require_several(values=values)
        listed = pb.ValueList(values=[to_value(value) for value in values])
        return self._passes(ValueTest(one_of=listed, ignore_case=ignore_case))

    def __gt__(self, value: float | datetime) -> Made:
        return self._passes(ValueTest(greater_than=to_value(value)))

    def __ge__(self, value: float | datetime) -> Made:
        return self._passes(ValueTest(greater_or_equal=to_value(value)))

    def __lt__(self, value: float | datetime) -> Made:
        return self._passes(ValueTest(less_than=to_value(value)))

    def __le__(self, value: float | datetime) -> Made:
        return self._passes(ValueTest(less_or_equal=to_value(value)))

    def between(self, low: float | datetime, high: float | datetime) -> Made:
        """`low <= value <= high`, both numbers or both times."""
        return self._passes(ValueTest(between=pb.BetweenTest(low=to_value(low), high=to_value(high))))

    def contains(self, part: str, *, ignore_case: bool = False) -> Made:
        """The string contains this text."""
        require_text(part=part)
        return self._passes(ValueTest(contains=part, ignore_case=ignore_case))

    def starts_with(self, prefix: str, *, ignore_case: bool = False) -> Made:
        """The string starts with this text."""
        require_text(prefix=prefix)
        return self._passes(ValueTest(starts_with=prefix, ignore_case=ignore_case))

    def ends_with(self, suffix: str, *, ignore_case: bool = False) -> Made:
        """The string ends with this text."""
        require_text(suffix=suffix)
        return self._passes(ValueTest(ends_with=suffix, ignore_case=ignore_case))

    def glob(self, pattern: str, *, ignore_case: bool = False) -> Made:
        """The whole string matches the pattern: `*` any characters, `?` one."""
        require_text(pattern=pattern)
        return self._passes(ValueTest(glob=pattern, ignore_case=ignore_case))

    def matches(self, regex: str, *, ignore_case: bool = False) -> Made:
        """Part of the string matches, in RE2 syntax."""
        require_text(regex=regex)
        return self._passes(ValueTest(matches=regex, ignore_case=ignore_case))

    @property
    def version(self) -> VersionTests[Made]:
        """The value as a version string: `attribute("app_version").version >= "2.1.0"`."""
        return VersionTests(self._passes)

    def within_last(self, length: timedelta) -> Made:
        """A time in (now - length, now]."""
        return self._passes(ValueTest(within_last=to_duration(length)))

    def older_than(self, length: timedelta) -> Made:
        """A time up to and including now - length."""
        return self._passes(ValueTest(older_than=to_duration(length)))

    def near(self, latitude: float, longitude: float, *, meters: float) -> Made:
        """A "lat,long" string within `meters` of the point, given in decimal degrees."""
        point = pb.NearTest(latitude=latitude, longitude=longitude, meters=meters)
        return self._passes(ValueTest(near=point))


class VersionTests(_Unfinished, Generic[Made]):
    """Comparisons by the precedence of Semantic Versioning 2.0.0. Missing parts are 0: 10.1 equals 10.1.0."""

    def __init__(self, passes: Callable[[ValueTest], Made]) -> None:
        self._passes = passes

    def equals(self, version: str) -> Made:
        """Same precedence: build metadata does not count."""
        return self._passes(ValueTest(semver=pb.SemverTest(equals=version)))

    def __gt__(self, version: str) -> Made:
        return self._passes(ValueTest(semver=pb.SemverTest(greater_than=version)))

    def __ge__(self, version: str) -> Made:
        return self._passes(ValueTest(semver=pb.SemverTest(greater_or_equal=version)))

    def __lt__(self, version: str) -> Made:
        return self._passes(ValueTest(semver=pb.SemverTest(less_than=version)))

    def __le__(self, version: str) -> Made:
        return self._passes(ValueTest(semver=pb.SemverTest(less_or_equal=version)))


class Attribute(Testable[Criteria]):
    """An attribute of the user; see `attribute`."""

    def __init__(self, key: str) -> None:
        self._key = key

    def _passes(self, test: ValueTest) -> Criteria:
        return Criteria(user_attribute=pb.UserAttributeCriterion(key=self._key, test=test))


class _Identity(Testable[Criteria]):
    def __init__(self, identity_type: str) -> None:
        self._type = identity_type

    def _passes(self, test: ValueTest) -> Criteria:
        return Criteria(identity=pb.IdentityCriterion(identity_type=self._type, test=test))


class _EventAttribute(Testable[EventCondition]):
    def __init__(self, key: str) -> None:
        self._key = key

    def _passes(self, test: ValueTest) -> EventCondition:
        return EventCondition(attribute=pb.EventAttributeCondition(key=self._key, test=test))


class Number(_Unfinished):
    """The result of an aggregate. A comparison returns the criterion."""

    _finish = "compare it with a number, like `>= 10`"

    def __init__(self, criterion: pb.EventCriterion) -> None:
        self._criterion = criterion

    def equals(self, number: float) -> Criteria:
        """Exactly this number."""
        return self._passes(NumberTest(equals=to_number(number)))

    def one_of(self, numbers: Iterable[float]) -> Criteria:
        """One of these numbers."""
        require_several(numbers=numbers)
        # An empty list is a valid test that no value passes.
        listed = pb.NumberList(values=[to_number(number) for number in numbers])
        return self._passes(NumberTest(one_of=listed))

    def between(self, low: float, high: float) -> Criteria:
        """`low <= number <= high`."""
        return self._passes(NumberTest(between=pb.NumberBetween(low=to_number(low), high=to_number(high))))

    def __gt__(self, number: float) -> Criteria:
        return self._passes(NumberTest(greater_than=to_number(number)))

    def __ge__(self, number: float) -> Criteria:
        return self._passes(NumberTest(greater_or_equal=to_number(number)))

    def __lt__(self, number: float) -> Criteria:
        return self._passes(NumberTest(less_than=to_number(number)))

    def __le__(self, number: float) -> Criteria:
        return self._passes(NumberTest(less_or_equal=to_number(number)))

    def _passes(self, test: NumberTest) -> Criteria:
        criterion = pb.EventCriterion()
        criterion.CopyFrom(self._criterion)
        criterion.test.CopyFrom(test)
        return Criteria(event=criterion)


class Events(_Unfinished):
    """A user's events of one name; see `event`. An aggregate over them is a `Number`."""

    _finish = "call .happened(), .never() or an aggregate like .count() on it"

    def __init__(self, criterion: pb.EventCriterion) -> None:
        self._criterion = criterion

    def happened(self) -> Criteria:
        """At least one such event."""
        return Criteria(event=self._criterion)

    def never(self) -> Criteria:
        """No such event; including users without data."""
        return not_(self.happened())

    def count(self) -> Number:
        """The number of events."""
        return self._aggregate(pb.AGGREGATE_COUNT)

    def distinct_days(self) -> Number:
        """The number of calendar days with events, in the account's time zone."""
        return self._aggregate(pb.AGGREGATE_DISTINCT_DAYS)

    def sum(self, of: str) -> Number:
        """Sum of the number attribute, added as decimals; 0 without any."""
        return self._aggregate(pb.AGGREGATE_SUM, of)

    def average(self, of: str) -> Number:
        """Mean of the number attribute; passes no test without any."""
        return self._aggregate(pb.AGGREGATE_AVERAGE, of)

    def min(self, of: str) -> Number:
        """Least value; passes no test without any."""
        return self._aggregate(pb.AGGREGATE_MIN, of)

    def max(self, of: str) -> Number:
        """Greatest value; passes no test without any."""
        return self._aggregate(pb.AGGREGATE_MAX, of)

    def distinct(self, of: str) -> Number:
        """The number of distinct values, of any kind; 0 without any."""
        return self._aggregate(pb.AGGREGATE_DISTINCT, of)

    def first(self, of: str) -> Number:
        """The value of the earliest event; passes no test without any."""
        return self._aggregate(pb.AGGREGATE_FIRST, of)

    def latest(self, of: str) -> Number:
        """The value of the latest event; passes no test without any."""
        return self._aggregate(pb.AGGREGATE_LAST, of)

    def _aggregate(self, aggregate: pb.Aggregate.ValueType, of: str = "") -> Number:
        criterion = pb.EventCriterion()
        criterion.CopyFrom(self._criterion)
        criterion.aggregate = aggregate
        criterion.of = of
        return Number(criterion)


# --- testable values ---


def attribute(key: str) -> Attribute:
    """An attribute of the user, in at least one workspace of the journey's inputs.

    >>> attribute("plan").equals("pro").user_attribute.key
    'plan'
    >>> attribute("$last_seen").older_than(timedelta(days=90)).WhichOneof("node")
    'user_attribute'
    """
    require_text(key=key)
    return Attribute(key)


def identity(identity_type: str) -> Testable[Criteria]:
    """The user's identity of a type: `identity("email").ends_with("@example.com", ignore_case=True)`."""
    require_text(identity_type=identity_type)
    return _Identity(identity_type)


def event_attribute(key: str) -> Testable[EventCondition]:
    """An attribute of the event itself, for `where`: `event_attribute("price") >= 10`."""
    require_text(key=key)
    return _EventAttribute(key)


def event(
    name: str = "",
    *,
    where: EventCondition | None = None,
    last: timedelta | None = None,
    window: Window | None = None,
    inputs: Sequence[str] = (),
    type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED,
) -> Events:
    """The user's events of a name (empty = any), narrowed by `where`, a window, inputs and type.

    `last` is short for `window=last(...)`; giving both is a ValueError.

    >>> spent = event("purchase", last=timedelta(days=30)).sum("price") >= 100
    >>> spent.event.of, spent.event.window.last.seconds
    ('price', 2592000)
    """
    require_text(name=name)
    require_several(inputs=inputs)
    if last is not None and window is not None:
        raise ValueError("set `last` or `window`, not both")
    return Events(
        pb.EventCriterion(
            name=name,
            event_type=type,
            condition=_condition(where),
            inputs=inputs,
            window=Window(last=named("last", to_duration, last)) if last is not None else window,
        )
    )


# --- sets of users ---


def everyone() -> Criteria:
    """Every user of the journey."""
    return Criteria(all_of=pb.CriteriaList())


@overload
def all_of(*parts: Criteria | Events) -> Criteria: ...
@overload
def all_of(*parts: EventCondition) -> EventCondition: ...
def all_of(*parts: Criteria | Events | EventCondition) -> Criteria | EventCondition:
    """Every part is true. For conditions on an event the result is a condition, otherwise a criterion.

    >>> all_of(attribute("plan").exists(), event("buy")).WhichOneof("node")
    'all_of'
    >>> all_of(event_attribute("price") > 10, event_attribute("gift").exists()).WhichOneof("condition")
    'all_of'
    """
    conditions = [part for part in parts if isinstance(part, EventCondition)]
    if conditions:
        return EventCondition(all_of=_condition_list(parts, conditions))
    return Criteria(all_of=_criteria_list(parts))


@overload
def any_of(*parts: Criteria | Events) -> Criteria: ...
@overload
def any_of(*parts: EventCondition) -> EventCondition: ...
def any_of(*parts: Criteria | Events | EventCondition) -> Criteria | EventCondition:
    """At least one part is true. Without parts, no user. For conditions on an event the result is a
    condition.
    """
    conditions = [part for part in parts if isinstance(part, EventCondition)]
    if conditions:
        return EventCondition(any_of=_condition_list(parts, conditions))
    return Criteria(any_of=_criteria_list(parts))


@overload
def not_(part: Criteria | Events) -> Criteria: ...
@overload
def not_(part: EventCondition) -> EventCondition: ...
def not_(part: Criteria | Events | EventCondition) -> Criteria | EventCondition:
    """All other users of the journey, including those without data; for a condition, the other events."""
    if isinstance(part, EventCondition):
        return EventCondition(negation=part)
    return Criteria(negation=_criteria(part))


def labelled(label: str, part: Criteria | Events) -> Criteria:
    """The same criterion with a label: an estimate gives the size of each labelled criterion alone."""
    named = Criteria()
    named.CopyFrom(_criteria(part))
    named.label = label
    return named


def step(
    name: str = "",
    *,
    where: EventCondition | None = None,
    inputs: Sequence[str] = (),
    type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED,
) -> pb.SequenceStep:
    """One step of a `sequence`."""
    require_text(name=name)
    require_several(inputs=inputs)
    return pb.SequenceStep(name=name, event_type=type, condition=_condition(where), inputs=inputs)


def sequence(
    *steps: pb.SequenceStep, within: timedelta | None = None, window: Window | None = None
) -> Criteria:
    """Events matching the steps happened in that order, each strictly later than the one before.

    `within` limits the time from the first to the last; all lie inside `window`.

    >>> bought = sequence(step("view"), step("cart"), step("buy"), within=timedelta(hours=1))
    >>> [each.name for each in bought.sequence.steps]
    ['view', 'cart', 'buy']
    """
    for each in steps:
        if not isinstance(each, pb.SequenceStep):
            raise wrong("steps", "step(…)", each)
    limit = optional(to_duration, within, "within")
    return Criteria(sequence=pb.SequenceCriterion(steps=steps, within=limit, window=window))


def audience(name: str) -> Criteria:
    """The user is in that audience, `accounts/{a}/audiences/{id}`."""
    require_text(name=name)
    return Criteria(audience=pb.AudienceCriterion(name=name))


def consent(regulation: str, purpose: str, *, given: bool = True) -> Criteria:
    """The latest consent state is GIVEN (or DENIED); without a consent it is neither."""
    require_text(regulation=regulation, purpose=purpose)
    state = CONSENT_STATE_GIVEN if given else CONSENT_STATE_DENIED
    return Criteria(consent=pb.ConsentCriterion(regulation=regulation, purpose=purpose, state=state))


def bucket(salt: str, from_percent: float, to_percent: float) -> Criteria:
    """A stable random share of the users, [from, to) percent; other salts give independent shares."""
    return Criteria(bucket=pb.BucketCriterion(salt=salt, from_percent=from_percent, to_percent=to_percent))


# --- windows ---


def last(length: timedelta) -> Window:
    """(now - length, now]."""
    return Window(last=to_duration(length))


def between_ago(start: timedelta, end: timedelta) -> Window:
    """(now - start, now - end], with start longer than end."""
    return Window(between_ago=pb.BetweenAgo(from_age=to_duration(start), to_age=to_duration(end)))


def time_range(start: datetime | None = None, end: datetime | None = None) -> Window:
    """[start, end); a missing end is open."""
    return Window(
        time_range=pb.TimeRange(
            start=None if start is None else to_timestamp(start),
            end=None if end is None else to_timestamp(end),
        )
    )


def calendar(unit: Unit, *, count: int = 1, offset: int = 0, time_zone: str = "") -> Window:
    """`count` whole units, the last of them `offset` before the one that contains now.

    "This month" is `calendar("month")`, "yesterday" `calendar("day", offset=1)`, "the previous two weeks"
    `calendar("week", count=2, offset=1)`. Weeks start on Monday; an empty zone is the account's.
    """
    chosen = pb.CalendarUnit.Value(f"CALENDAR_UNIT_{unit.upper()}")
    window = pb.CalendarWindow(unit=chosen, count=count, offset=offset, time_zone=time_zone)
    return Window(calendar=window)


# --- helpers --


def checked(argument: str, given: object) -> Criteria:
    """Criteria that a caller gave. Raises TypeError, which names the argument, for anything else."""
    if isinstance(given, Criteria):
        return given
    if isinstance(given, Number | Events | Testable | VersionTests):
        raise TypeError(f"{argument}: {_kind(given)} is not a criterion yet: {given._finish}")
    if isinstance(given, EventCondition):
        raise TypeError(f"{argument}: a condition on an event is no criterion: give it to event(where=…)")
    error = wrong(argument, "criteria as milepost.criteria builds them", given)
    if isinstance(given, str | Mapping):
        raise TypeError(f"{error}; milepost.documents.loads_criteria reads YAML and JSON")
    raise error


def _criteria(part: Criteria | Events) -> Criteria:
    return part.happened() if isinstance(part, Events) else checked("criteria", part)


def _criteria_list(parts: Iterable[Criteria | Events | EventCondition]) -> pb.CriteriaList:
    return pb.CriteriaList(criteria=[_criteria(p) for p in parts if not isinstance(p, EventCondition)])


def _condition(where: EventCondition | None) -> EventCondition | None:
    """Raises TypeError for anything but a condition."""
    untyped: object = where
    if where is None or isinstance(untyped, EventCondition):
        return where
    if isinstance(untyped, Criteria):
        raise TypeError("where: a criterion on users is no condition on an event: use event_attribute(…)")
    raise wrong("where", "a condition, like event_attribute(key).equals(value)", untyped)


def _condition_list(
    parts: Sequence[Criteria | Events | EventCondition], conditions: Sequence[EventCondition]
) -> pb.EventConditionList:
    if len(conditions) != len(parts):
        raise TypeError("cannot combine conditions on an event with criteria on users")
    return pb.EventConditionList(conditions=conditions)
