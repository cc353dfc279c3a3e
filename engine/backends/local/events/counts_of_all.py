"""Counts of rows over every group at once, for questions about everyone.

Group by group, a count takes some forty calls of numpy and as many of Python for each of sixteen groups. Of
tables with less than a few million rows these calls take longer than their work. So the parts of all groups
are read as one table whose users are ordinals. What is kept between questions is joined over all groups:

- of the parts that lie wholly in the window the counts, or with a condition the rows by value or as columns;
- of the parts at its start and at its end the rows by value with their times, or day by day, so that times
  are compared in two days alone.

A first question keeps no more than the columns it has read. To order them takes longer than to read them
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.aggregate import add_whole_part, in_intervals
from engine.backends.local.events.by_value import is_by_value, users_by_value
from engine.backends.local.events.columns import integers_between
from engine.backends.local.events.joined_rows import JoinedRows, RowsInDays
from engine.backends.local.events.model import ResolvedEventMatch
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.events.select import Universe, holds, lasting_in_window, select_rows
from engine.backends.local.storage.arrays import Ints, Uint32s, apply_at, smallest
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.criteria.conditions import WhereAttribute, tests_in
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import TimeRange


class Counted(NamedTuple):
    """The ordinals of the users that pass, and the rows or users that were looked at."""

    users: BitMap
    looked_at: int


class CountOfAll:
    """One question for a number of rows. A user's ordinal is group × `stride` + dense id."""

    def __init__(
        self,
        parts_of: Sequence[Sequence[Part]],
        stride: int,
        step: ResolvedEventMatch,
        check: Callable[[], None],
    ) -> None:
        """`parts_of`: by group, the live parts that the window overlaps."""
        self._parts_of = parts_of
        self._stride = stride
        self._step = step
        self._where = step.selection.where
        self._time = step.selection.time
        self._check = check
        self._group_of = {id(part): group for group, parts in enumerate(parts_of) for part in parts}
        self._looked_at = 0
        peak = max((sum(part.record.peak for part in parts) for parts in parts_of), default=0)
        self._counts: Ints = np.zeros(stride * len(parts_of), np.min_scalar_type(peak))

    def passing(self) -> Counted:
        """Answers the question."""
        parts = [part for parts in self._parts_of for part in parts]
        if parts:
            lasting, others = lasting_in_window(parts, self._step.selection)
            for part in (*self._add_lasting(lasting), *self._add_edges(others)):
                self._check()
                self._add_part(part)
        return Counted(bitmap_of_mask(in_intervals(self._counts, self._step.intervals)), self._looked_at)

    def _firsts(self, parts: Sequence[Part]) -> list[int]:
        """The ordinal that the dense ids of each part are counted from."""
        return [self._group_of[id(part)] * self._stride for part in parts]

    def _add_users(self, users: Uint32s) -> None:
        self._looked_at += len(users)
        apply_at(np.add, self._counts, users, 1)

    # --- parts that lie wholly in the window ---

    def _add_lasting(self, parts: list[Part]) -> list[Part]:
        """Adds the rows of lasting parts; returns the parts that are left."""
        if not parts:
            return []
        if self._where is None:
            self._looked_at += sum(part.record.users for part in parts)
            tag = "counts of all", self._stride
            counts = derived_of_all(parts, tag, lambda: self._counts_of(parts)).counts
            self._counts += counts.astype(self._counts.dtype, copy=False)
            return []
        if not self._were_read(parts):
            return parts
        if self._add_by_value(parts, None):
            return []
        whole = [part for part in parts if not part.has_tombstones]
        passing = self._rows(whole).users_passing(self._where, self._time) if whole else None
        if passing is None:
            return parts
        self._looked_at += sum(part.record.rows for part in whole)
        self._add_users(passing)
        return [part for part in parts if part.has_tombstones]

    def _add_by_value(self, parts: Sequence[Part], time: TimeRange | None) -> bool:
        """Adds the rows of some parts whose value passes and that lie in a range of time (None: all do).
        False: the condition is another one, or the values are many.
        """
        if not isinstance(self._where, WhereAttribute) or not is_by_value(self._where):
            return False
        found = users_by_value(parts, self._where, self._check, self._firsts(parts), time)
        for users in found or ():
            self._add_users(users)
        return found is not None

    def _counts_of(self, parts: Sequence[Part]) -> _Counts:
        counts = np.zeros_like(self._counts)
        for part, first in zip(parts, self._firsts(parts), strict=True):
            self._check()
            add_whole_part(counts[first : first + self._stride], part)
        return _Counts(smallest(counts))

    def _were_read(self, parts: Sequence[Part]) -> bool:
        """Whether what the condition reads of some parts is in memory, by the first and the last: a question
        reads them in this order.
        """
        tags = [(test.key, kind) for test in tests_in(self._where) for kind in matcher_of(test.test).kinds]
        ends = parts[0], parts[-1]
        return all(part.is_loaded and part.has_column(*tag) for part in ends for tag in tags)

    def _rows(self, parts: Sequence[Part]) -> JoinedRows:
        return JoinedRows(parts, self._check, self._firsts(parts))

    # --- parts at the edges of the window ---

    def _add_edges(self, parts: list[Part]) -> list[Part]:
        """Adds the rows of stored parts, once times of some of them were read before; returns the parts that
        are left.
        """
        start = self._time.start
        whole = [part for part in parts if part.is_stored and not part.has_tombstones]
        if not any(part.has_times for part in whole):
            return parts
        # Apart: as windows move on, what was an end becomes a start.
        at_start = [part for part in whole if not part.within(start, None)]
        at_end = [part for part in whole if part.within(start, None)]
        taken: set[int] = set()
        for some in (at_start, at_end):
            if some and self._add_ordered(some):
                taken |= set(map(id, some))
        return [part for part in parts if id(part) not in taken]

    def _add_ordered(self, parts: Sequence[Part]) -> bool:
        """Adds the rows of some parts. False: they are not to be joined."""
        if self._add_by_value(parts, self._time):
            return True
        rows = RowsInDays(self._rows(parts))
        if self._where is None:
            self._looked_at += rows.count_between(self._time, self._counts)
            return True
        passing = rows.users_passing(self._where, self._time)
        if passing is None:
            return False
        self._add_users(passing)
        return True

    # --- the others ---

    def _add_part(self, part: Part) -> None:
        """Adds the rows of one part."""
        first = self._group_of[id(part)] * self._stride
        counts = self._counts[first : first + self._stride]
        time, where = self._time, self._where
        is_within = part.within(time.start, time.end)
        if where is None and is_within:
            self._looked_at += part.record.users
            add_whole_part(counts, part)
            return
        if part.has_tombstones or not part.is_stored:
            rows = select_rows(part, self._step.selection, Universe((part,), None, self._check))
            if rows is not None:
                self._looked_at += len(rows)
                apply_at(np.add, counts, rows.row_slots, 1)
            return
        held = None if where is None else holds(where, part, None, part.record.rows, self._check)
        if not is_within:
            in_time = integers_between(part.times(), time.start, None if time.end is None else time.end - 1)
            held = in_time if held is None else held & in_time
        assert held is not None
        self._add_users(part.row_users_from(first).take(np.flatnonzero(held)))


@dataclass(frozen=True, slots=True)
class _Counts:
    """The number of rows of each ordinal."""

    counts: Ints

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes
