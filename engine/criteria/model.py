"""The criteria language as plain data.

The structs mirror the messages of `milepost/v1/criteria.proto` field by field, so that a fault's path reads
the same on both sides. They are what is stored with a milestone, validated by `validation`, and compiled into
a plan by `engine.plan`.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec

from engine.values import Micros, Value


class _Node(msgspec.Struct, frozen=True, kw_only=True, tag_field="node", omit_defaults=True):
    pass


# --- tests on a value ---------------------------------------------------------------------------------------


class _Test(msgspec.Struct, frozen=True, tag_field="test", omit_defaults=True):
    pass


class Exists(_Test, frozen=True, tag="exists"):
    """There is a value; on a list, at least one element."""


class Equals(_Test, frozen=True, tag="equals"):
    """Same kind and same value. `ignore_case` folds case (Unicode) of strings, alone or in a list.

    A string is equal to a list of which some element is equal; a list is equal to the list with the same
    elements in the same order.
    """

    value: Value
    ignore_case: bool = False


class In(_Test, frozen=True, tag="in"):
    """Equal to one of `values`, of any kinds; none given = nothing passes."""

    values: tuple[Value, ...]
    ignore_case: bool = False


CompareOp = Literal["greater_than", "greater_or_equal", "less_than", "less_or_equal"]


class Compare(_Test, frozen=True, tag="compare"):
    """Ordering on numbers or on times, by the kind of `operand` (a float or an int of microseconds)."""

    op: CompareOp
    operand: float | Micros


class Between(_Test, frozen=True, tag="between"):
    """low <= value <= high, both of one kind, number or time."""

    low: float | Micros
    high: float | Micros


TextOp = Literal["contains", "starts_with", "ends_with", "glob", "matches"]


class Text(_Test, frozen=True, tag="text"):
    """A test on strings. `glob` matches the whole string, `matches` is an unanchored RE2 expression.

    `ignore_case` folds both sides (Unicode); `matches` is compiled case-insensitively instead.
    """

    op: TextOp
    pattern: str
    ignore_case: bool = False


SemverOp = Literal["equals", "greater_than", "greater_or_equal", "less_than", "less_or_equal"]


class Semver(_Test, frozen=True, tag="semver"):
    """Precedence of version strings after Semantic Versioning 2.0.0, section 11; a string that is no version
    passes no test.
    """

    op: SemverOp
    version: str


class WithinLast(_Test, frozen=True, tag="within_last"):
    """A time in (now - duration, now]."""

    duration: Micros


class OlderThan(_Test, frozen=True, tag="older_than"):
    """A time up to and including now - duration."""

    duration: Micros


class Near(_Test, frozen=True, tag="near"):
    """A "lat,long" string in decimal degrees within `meters` of a point, on the great circle (radius
    6,371,008.8 m).
    """

    latitude: float
    longitude: float
    meters: float


ValueTest: TypeAlias = (
    Exists | Equals | In | Compare | Between | Text | Semver | WithinLast | OlderThan | Near
)
NumberTest: TypeAlias = Equals | In | Compare | Between
"""What an aggregate can be tested with: the operands are numbers."""


# --- conditions on one event --------------------------------------------------------------------------------


class WhereAll(_Node, frozen=True, tag="all_of", kw_only=True):
    """Every condition holds of the same event; none given = every event."""

    conditions: tuple[Where, ...] = ()


class WhereAny(_Node, frozen=True, tag="any_of", kw_only=True):
    """Some condition holds; none given = no event."""

    conditions: tuple[Where, ...] = ()


class WhereNot(_Node, frozen=True, tag="not", kw_only=True):
    """The condition does not hold, missing attribute included."""

    condition: Where


class WhereAttribute(_Node, frozen=True, tag="attribute", kw_only=True):
    """The event's own attribute passes the test."""

    key: str
    test: ValueTest


Where: TypeAlias = WhereAll | WhereAny | WhereNot | WhereAttribute


# --- windows ------------------------------------------------------------------------------------------------


class Last(_Node, frozen=True, tag="last", kw_only=True):
    """(now - duration, now]."""

    duration: Micros


class BetweenAgo(_Node, frozen=True, tag="between_ago", kw_only=True):
    """(now - from_, now - to], with from_ > to >= 0."""

    from_: Micros = msgspec.field(name="from")
    to: Micros


class Range(_Node, frozen=True, tag="range", kw_only=True):
    """[start, end); a missing end is open."""

    start: Micros | None = None
    end: Micros | None = None


class CalendarUnit(enum.StrEnum):
    """Units of a calendar window; weeks are ISO weeks, from Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Calendar(_Node, frozen=True, tag="calendar", kw_only=True):
    """`count` whole units ending `offset` units before the one that contains now.

    offset 0, count 1: the current unit ("this month", to its end). offset 1, count 1: the unit before
    ("yesterday"). offset 1, count 2: "the previous two weeks". In `time_zone` (IANA; "" = the account's),
    with days of 23 or 25 hours where clocks change. An hour is always 3,600 seconds long and begins where the
    local clock shows a full hour. A day begins at local midnight; at the first of two, and where clocks skip
    midnight, at the moment they jump.
    """

    unit: CalendarUnit
    count: int = 1
    offset: int = 0
    time_zone: str = ""


Window: TypeAlias = Last | BetweenAgo | Range | Calendar


# --- criteria -----------------------------------------------------------------------------------------------


class EventType(enum.IntEnum):
    """The type of an event; the numbers are those of the proto and are stored."""

    CUSTOM = 1
    SCREEN_VIEW = 2
    COMMERCE = 3
    SESSION = 4
    LIFECYCLE = 5


class Aggregate(enum.StrEnum):
    """What is computed over a user's events before the test."""

    COUNT = "count"
    DISTINCT_DAYS = "distinct_days"
    SUM = "sum"
    AVERAGE = "average"
    MIN = "min"
    MAX = "max"
    DISTINCT = "distinct"
    FIRST = "first"
    LAST = "last"


class ConsentState(enum.StrEnum):
    """The two states of a consent."""

    GIVEN = "given"
    DENIED = "denied"


class _Criterion(_Node, frozen=True, kw_only=True):
    label: str = ""


class AllOf(_Criterion, frozen=True, tag="all_of", kw_only=True):
    """Every child is true; none = everyone."""

    criteria: tuple[Criterion, ...] = ()


class AnyOf(_Criterion, frozen=True, tag="any_of", kw_only=True):
    """Some child is true; none = no one."""

    criteria: tuple[Criterion, ...] = ()


class Not(_Criterion, frozen=True, tag="not", kw_only=True):
    """Everyone of the journey's users not in the set of the child."""

    criterion: Criterion


class UserAttribute(_Criterion, frozen=True, tag="user_attribute", kw_only=True):
    """The attribute passes the test in at least one workspace of the journey's inputs.

    `$first_seen` and `$last_seen` are built in: times over the journey's inputs.
    """

    key: str
    test: ValueTest


class Event(_Criterion, frozen=True, tag="event", kw_only=True):
    """Aggregate over the user's events of a name ("" = any) and type (None = any), then test the number."""

    name: str = ""
    type: EventType | None = None
    where: Where | None = None
    inputs: tuple[str, ...] = ()
    window: Window | None = None
    aggregate: Aggregate = Aggregate.COUNT
    of: str = ""
    test: NumberTest | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of a sequence: an event of this name, type, condition and inputs."""

    name: str = ""
    type: EventType | None = None
    where: Where | None = None
    inputs: tuple[str, ...] = ()


class Sequence(_Criterion, frozen=True, tag="sequence", kw_only=True):
    """Events matching the steps in order, each strictly later than the one before, all inside `window`,
    the last no later than `within` after the first (None = no limit)."""

    steps: tuple[Step, ...]
    within: Micros | None = None
    window: Window | None = None


class Audience(_Criterion, frozen=True, tag="audience", kw_only=True):
    """The user is in that audience, by resource name `accounts/{a}/audiences/{id}`."""

    name: str


class Consent(_Criterion, frozen=True, tag="consent", kw_only=True):
    """The latest consent for regulation and purpose has that state."""

    regulation: str
    purpose: str
    state: ConsentState


class Identity(_Criterion, frozen=True, tag="identity", kw_only=True):
    """The identity of that type passes the test."""

    type: str
    test: ValueTest


class Bucket(_Criterion, frozen=True, tag="bucket", kw_only=True):
    """`bucket_of(salt, user_id)` as a share of 2^64 lies in [from_percent, to_percent) of a hundred."""

    salt: str
    from_percent: float
    to_percent: float


Criterion: TypeAlias = (
    AllOf | AnyOf | Not | UserAttribute | Event | Sequence | Audience | Consent | Identity | Bucket
)

FIRST_SEEN = "$first_seen"
LAST_SEEN = "$last_seen"
BUILT_IN_ATTRIBUTES = frozenset({FIRST_SEEN, LAST_SEEN})
