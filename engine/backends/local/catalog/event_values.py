"""Number of events for each value of an event attribute, most frequent first.

The parts are copies made under the state lock, in the state of a read transaction begun there. They are read
without the lock, one at a time, so writers go on. An attribute may have as many values as events. When the
values counted so far take too much memory, those in the upper half of their order are dropped, and counted in
a further pass over the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.backends.base import ValueCount
from engine.backends.local.catalog.ranks import Rank, first_ranks
from engine.backends.local.events.columns import Column, DictionaryColumn, NumberColumn
from engine.backends.local.events.part import Part
from engine.values import Kind, kind_of

COUNTED_BYTES_MAX = 32 << 20
"""Approximate memory of the values counted in one pass, in bytes."""
VALUE_BYTES = 150
"""Approximate memory of a value and its count, without the characters of a string, in bytes."""

_KINDS = (
    (Kind.STRING, (Kind.STRING, Kind.LIST)),
    *((kind, (kind,)) for kind in (Kind.NUMBER, Kind.BOOL, Kind.TIME)),
)
"""The kinds that values are counted as, each with the kinds of its columns."""


class EventValueCounts:
    """The values of one attribute in some parts. `check` is called from time to time and may raise."""

    def __init__(self, parts: Sequence[Part], attribute: int, check: Callable[[], None]) -> None:
        self._parts = parts
        self._attribute = attribute
        self._check = check

    def top(self, prefix: str, after: ValueCount | None, limit: int) -> list[ValueCount]:
        """Up to `limit` values after `after`: strings that start with `prefix`, or values of all kinds when
        it is empty.
        """
        last = None if after is None else (-after.events, int(kind_of(after.value)), after.value)
        found = first_ranks(self._ranks(prefix), last, limit)
        return [ValueCount(value, events=-negative) for negative, _, value in found]

    def _ranks(self, prefix: str) -> Iterator[Rank]:
        for kind, column_kinds in _KINDS[:1] if prefix else _KINDS:
            for counted in self._passes(column_kinds, prefix):
                for value, events in counted.items():
                    yield -events, int(kind), value

    def _passes(self, kinds: Sequence[Kind], prefix: str) -> Iterator[dict[Any, int]]:
        """The values with their number of events, in as many passes as it takes, each over a range of
        values.
        """
        start = None
        while True:
            counted, end = self._counted(kinds, prefix, start)
            yield counted
            if end is None:
                return
            start = end

    def _counted(self, kinds: Sequence[Kind], prefix: str, start: Any) -> tuple[dict[Any, int], Any]:
        """The values from `start` to before the returned end, which is None when there are no others."""
        counted: dict[Any, int] = {}
        end = None
        size = 0
        for value, events in self._values(kinds, prefix):
            if (start is not None and value < start) or (end is not None and value >= end):
                continue
            if value in counted:
                counted[value] += events
                continue
            counted[value] = events
            size += _size(value)
            if size > COUNTED_BYTES_MAX and len(counted) > 1:
                upper = sorted(counted)[len(counted) // 2 :]
                end = upper[0]
                for each in upper:
                    del counted[each]
                    size -= _size(each)
        return counted, end

    def _values(self, kinds: Sequence[Kind], prefix: str) -> Iterator[tuple[Any, int]]:
        """Values with their number of events, part by part."""
        for part in self._parts:
            self._check()
            for kind in kinds:
                column = part.live_column(self._attribute, kind)
                if column is None:
                    continue
                for value, events in _distinct(column):
                    for single in set(value) if kind is Kind.LIST else (value,):
                        if not prefix or single.startswith(prefix):
                            yield single, events


def _distinct(column: Column) -> Iterator[tuple[Any, int]]:
    """The distinct values of a column, each with its number of rows."""
    if isinstance(column, DictionaryColumn):
        counts = np.bincount(column.codes, minlength=column.entries.count).tolist()
        yield from ((value, rows) for value, rows in zip(column.entries.values, counts, strict=True) if rows)
        return
    # Adding 0 turns -0.0 into 0.0: they are the same number.
    rows = column.doubles + 0 if isinstance(column, NumberColumn) else column.times
    values, counts = np.unique(rows, return_counts=True)
    yield from zip(values.tolist(), counts.tolist(), strict=True)


def _size(value: Any) -> int:
    return VALUE_BYTES + (len(value) if isinstance(value, str) else 0)
