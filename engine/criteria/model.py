"""The criteria language as plain data.

The structs mirror the messages of `milepost/v1/criteria.proto` field by field, so that the path of a fault is
the same on both sides. They are stored with a milestone, validated by `validation`, and compiled into a plan
by `engine.plan`. Tests on a value are in `operators`, one file per family, and are re-exported here.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from engine.criteria.conditions import Condition
from engine.criteria.conditions import WhereAll as WhereAll
from engine.criteria.conditions import WhereAny as WhereAny
from engine.criteria.conditions import WhereAttribute as WhereAttribute
from engine.criteria.conditions import WhereNot as WhereNot
from engine.criteria.operators import Between as Between
from engine.criteria.operators import Compare as Compare
from engine.criteria.operators import CompareOp as CompareOp
from engine.criteria.operators import Equals as Equals
from engine.criteria.operators import Exists as Exists
from engine.criteria.operators import In as In
from engine.criteria.operators import Near as Near
from engine.criteria.operators import NumberTest as NumberTest
from engine.criteria.operators import OlderThan as OlderThan
from engine.criteria.operators import Semver as Semver
from engine.criteria.operators import SemverOp as SemverOp
from engine.criteria.operators import Text as Text
from engine.criteria.operators import TextOp as TextOp
from engine.criteria.operators import ValueTest as ValueTest
from engine.criteria.operators import WithinLast as WithinLast
from engine.values import Micros

Where: TypeAlias = Condition[str, ValueTest]
"""A condition on one event."""


class _Node(msgspec.Struct, frozen=True, kw_only=True, tag_field="node", omit_defaults=True):
    pass


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
    with days of 23 or 25 hours where clocks change. The windows of a unit tile time. An hour begins where the
    local clock shows a full hour or jumps over one: it lasts 3,600 seconds, and 30 or 90 minutes where clocks
    change by 30. A day begins at local midnight; the first of two, or where clocks skip midnight, the moment
    they jump.
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
    """The value computed over a user's events before the test."""

    COUNT = "count"
    DISTINCT_DAYS = "distinct_days"
    SUM = "sum"
    AVERAGE = "average"
    MIN = "min"
    MAX = "max"
    DISTINCT = "distinct"
    FIRST = "first"
    LAST = "last"

    @property
    def is_of_attribute(self) -> bool:
        """Whether it reads an attribute of the events."""
        return self not in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS)

    @property
    def is_whole_number(self) -> bool:
        """Whether it is a count."""
        return self in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS, Aggregate.DISTINCT)

    @property
    def is_zero_without_events(self) -> bool:
        """Whether it is 0 without events; the others are then undefined and pass no test."""
        return self.is_whole_number or self is Aggregate.SUM


class ConsentState(enum.StrEnum):
    """The two states of a consent."""

    GIVEN = "given"
    DENIED = "denied"


class _Criterion(_Node, frozen=True, kw_only=True):
    label: str = ""


class AllOf(_Criterion, frozen=True, tag="all_of", kw_only=True):
    """Every child is true; without children = everyone."""

    criteria: tuple[Criterion, ...] = ()


class AnyOf(_Criterion, frozen=True, tag="any_of", kw_only=True):
    """Some child is true; without children = no one."""

    criteria: tuple[Criterion, ...] = ()


class Not(_Criterion, frozen=True, tag="not", kw_only=True):
    """The journey's users for whom the child is not true."""

    criterion: Criterion


class UserAttribute(_Criterion, frozen=True, tag="user_attribute", kw_only=True):
    """The attribute passes the test in at least one workspace of the journey's inputs.

    `$first_seen` and `$last_seen` are built in: times over the journey's inputs; and `$user_id`, the id as
    a string.
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
USER_ID = "$user_id"
BUILT_IN_ATTRIBUTES = frozenset({FIRST_SEEN, LAST_SEEN, USER_ID})
