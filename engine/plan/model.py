"""The plan: a directed acyclic graph of user sets, as plain data.

A plan is a list of steps in dependency order. Each step denotes a set of users. Set steps refer to earlier
steps by index; predicate steps are decided for each user from that user's data alone. `roots` are the steps
whose sets the caller wants: one plan with several roots gives the size of a milestone and of each of its
labelled criteria.

Everything that depends on the clock, on time zones or on the journey's inputs has been resolved: windows are
absolute half-open ranges, "older than 30 days" is a range of times, "all inputs" is a list. `not c` is
`Difference(universe, c)`; a remaining-users split is a difference as well. A plan contains no dense ids,
bitmaps or SQL. Its MessagePack is stable, so its hash names it. The tags of steps appear in ExplainAudience.

Do not compare steps with `==`: in Python `Equals(1) == Equals(True) == Equals(1.0)`. Two steps are the same
exactly when their MessagePack encodings (`encode_step`) are the same bytes.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import xxhash

from engine.criteria.conditions import Condition
from engine.criteria.model import Aggregate, ConsentState, EventType
from engine.criteria.operators import InstantRange as InstantRange
from engine.criteria.operators import NumberRange as NumberRange
from engine.criteria.operators import ResolvedTest as ResolvedTest
from engine.criteria.ranges import ALL_TIME as ALL_TIME
from engine.criteria.ranges import Interval as Interval
from engine.criteria.ranges import TimeRange as TimeRange
from engine.values import Micros

PLAN_VERSION = 1

SOME_EVENT = (Interval(low=1.0),)
"""One or more, as the intervals of a count."""


RowFilter: TypeAlias = Condition[str, ResolvedTest]
"""A condition on one event, independent of the clock."""


class EventSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The selected events: through `inputs` (resource names, sorted), with a name ("" = any) and type (None =
    any), inside the time range, passing the filter.
    """

    inputs: tuple[str, ...]
    name: str = ""
    type: EventType | None = None
    time: TimeRange = ALL_TIME
    where: RowFilter | None = None


# --- steps --------------------------------------------------------------------------------------------------


class _Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="op"):
    pass


class Universe(_Step, frozen=True, tag="universe", kw_only=True):
    """Users that belong to at least one of the inputs (resource names, sorted). Without inputs: no one."""

    inputs: tuple[str, ...]


class Empty(_Step, frozen=True, tag="nobody", kw_only=True):
    """The empty set."""


class Intersection(_Step, frozen=True, tag="intersect", kw_only=True):
    """Users in every one of the operand steps (two or more indices)."""

    operands: tuple[int, ...]


class Union(_Step, frozen=True, tag="unite", kw_only=True):
    """Users in at least one of the operand steps (two or more indices)."""

    operands: tuple[int, ...]


class Difference(_Step, frozen=True, tag="subtract", kw_only=True):
    """Users in `minuend` and not in `subtrahend`."""

    minuend: int
    subtrahend: int


class AttributeMatch(_Step, frozen=True, tag="attribute", kw_only=True):
    """Users whose attribute `key` in at least one of `workspaces` (resource names, sorted) passes the
    test.
    """

    workspaces: tuple[str, ...]
    key: str
    test: ResolvedTest


class SeenMatch(_Step, frozen=True, tag="seen", kw_only=True):
    """Users whose first (or last) seen time over `inputs`, by events or updates, lies in one of the ranges.

    `last` tests the latest time over the inputs, otherwise the earliest. Users that came through none of the
    inputs do not match.
    """

    inputs: tuple[str, ...]
    last: bool
    test: InstantRange


class IdentityMatch(_Step, frozen=True, tag="identity", kw_only=True):
    """Users whose identity of that type passes the test. Identities belong to the account, not to a
    workspace.
    """

    type: str
    test: ResolvedTest


class UserIdMatch(_Step, frozen=True, tag="user_id", kw_only=True):
    """Users whose own id, as a string, passes the test. Aliases of it are not tested."""

    test: ResolvedTest


class ConsentMatch(_Step, frozen=True, tag="consent", kw_only=True):
    """Users whose latest consent for regulation and purpose has that state. Consents belong to the
    account.
    """

    regulation: str
    purpose: str
    state: ConsentState


class EventMatch(_Step, frozen=True, tag="event", kw_only=True):
    """Users with at least one qualifying event and whose aggregate over those events lies in `intervals`.

    Qualifying: in the selection and, for every aggregate but COUNT and DISTINCT_DAYS, with a fitting
    attribute `of` (a number; any kind for DISTINCT). Users without such an event never match; where a test
    holds for 0, the planner subtracts from the universe. DISTINCT_DAYS counts calendar days in `time_zone`.
    SUM and AVERAGE add shortest decimal forms exactly. FIRST and LAST take the number of the event earliest
    or latest in time; of equal times the first or last to arrive.
    """

    selection: EventSelection
    aggregate: Aggregate = Aggregate.COUNT
    of: str = ""
    time_zone: str = "UTC"
    intervals: tuple[Interval, ...]


class SequenceMatch(_Step, frozen=True, tag="sequence", kw_only=True):
    """Users with events e1 < e2 < … (strictly later each), ei in `steps[i]`, the last at most `within`
    microseconds after the first.
    """

    steps: tuple[EventSelection, ...]
    within: Micros | None = None


class BucketMatch(_Step, frozen=True, tag="bucket", kw_only=True):
    """Users with first <= bucket_of(salt, user_id) <= last, both unsigned 64-bit."""

    salt: str
    first: int
    last: int


Predicate: TypeAlias = (
    AttributeMatch
    | SeenMatch
    | IdentityMatch
    | UserIdMatch
    | ConsentMatch
    | EventMatch
    | SequenceMatch
    | BucketMatch
)
Source: TypeAlias = Universe | Empty | Predicate
"""Steps that a backend answers from its data."""
Combination: TypeAlias = Intersection | Union | Difference
"""Steps that combine other steps."""
Step: TypeAlias = Source | Combination

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode_step(step: Step) -> bytes:
    """The canonical bytes of a step: equal bytes, equal step."""
    return _encoder.encode(step)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Steps in dependency order, and the indices of those whose sets are requested."""

    version: int = PLAN_VERSION
    account: str
    as_of: Micros
    steps: tuple[Step, ...]
    roots: tuple[int, ...]

    def encode(self) -> bytes:
        """Deterministic MessagePack, the form in which a plan crosses a process or network boundary."""
        return _encoder.encode(self)

    def digest(self) -> str:
        """A stable name for this plan: XXH3-128 of its encoding, as 32 hex digits."""
        return xxhash.xxh3_128_hexdigest(self.encode())


def decode_plan(data: bytes) -> Plan:
    """The inverse of `Plan.encode`."""
    return msgspec.msgpack.decode(data, type=Plan)


def operands_of(step: Step) -> tuple[int, ...]:
    """The indices of a step's operands."""
    match step:
        case Intersection() | Union():
            return step.operands
        case Difference():
            return (step.minuend, step.subtrahend)
        case _:
            return _no_operands(step)


def _no_operands(step: Source) -> tuple[int, ...]:
    """Empty, for a step without operands."""
    return ()
