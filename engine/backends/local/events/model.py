"""Rows and questions of the event tables, with numbers for names.

The question structs mirror those of `engine.plan.model`. A name that was never interned has the number
`NEVER`, which matches no table, row or value.
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
"""Number of a name that no event has carried."""


class EventRow(msgspec.Struct, gc=False):
    """One event of one user. `sequence` is its position in the order of arrival, unique in the store."""

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
    """Selects events: `EventSelection` with numbers. Name and type None = any."""

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
