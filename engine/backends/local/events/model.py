"""What goes into the event tables and what is asked of them, with numbers in place of names.

The asking structs mirror those of `engine.plan.model`. A name that was never interned has the number `NEVER`:
it selects no table, no row and no value.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from engine.criteria.conditions import Condition
from engine.criteria.model import Aggregate, EventType
from engine.criteria.operators import ResolvedTest
from engine.criteria.ranges import ALL_TIME, Interval, TimeRange
from engine.values import Micros, Value

NEVER = -1
"""The number of a name that no event ever carried."""


class EventRow(msgspec.Struct, gc=False):
    """One event of one user. `sequence` is its place in the order of arrival, unique in the store."""

    group: int
    user: int
    input_number: int
    name_number: int
    type: EventType
    time: Micros
    sequence: int
    attributes: dict[int, Value]


RowCondition: TypeAlias = Condition[int, ResolvedTest]
"""A condition on one event, attributes by number."""


class ResolvedSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events take part: `EventSelection` with numbers. Name and type None = any."""

    inputs: tuple[int, ...]
    name: int | None = None
    type: EventType | None = None
    time: TimeRange = ALL_TIME
    where: RowCondition | None = None


class ResolvedEventMatch(msgspec.Struct, frozen=True, kw_only=True):
    """`EventMatch` with numbers. `of` is not read for COUNT and DISTINCT_DAYS."""

    selection: ResolvedSelection
    aggregate: Aggregate = Aggregate.COUNT
    of: int = NEVER
    time_zone: str = "UTC"
    intervals: tuple[Interval, ...]


class ResolvedSequence(msgspec.Struct, frozen=True, kw_only=True):
    """`SequenceMatch` with numbers."""

    steps: tuple[ResolvedSelection, ...]
    within: Micros | None = None
