"""All rows of one event name over every group, where they are few: a count reads the rows in the window.

A question about every group reads a table, a handful of parts and a few calls of numpy for each. Of a name
with few rows these calls take many times as long as their work. So its rows are kept joined, day by day, with
the ordinal of each row's user. Only in the days at the edges of a window are times compared. The rows of the
days between are counted once for each user, and the counts kept for the next window over the same days.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.columns import integers_between
from engine.backends.local.events.decimals import integer_bounds
from engine.backends.local.events.part import Part
from engine.backends.local.storage.arrays import Bools, Int64s, Ints, Positions, Uint32s, apply_at, runs
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask
from engine.criteria.ranges import Interval, TimeRange
from engine.values import MICROS_PER_DAY, Micros

ALL_ROWS_MAX = 1 << 19
"""Rows up to which those of a name are kept joined: six megabytes."""

SPARSE_SHARE = 32
"""Rows are sorted by user while there are fewer than one for 32 users; above, every user is counted."""

DAYS_SORTED_FAST_MAX = 1 << 16
"""Days between the first and the last row up to which rows are sorted in linear time."""

States = tuple[object, ...]
"""Of a group, tokens for the live rows of its stored parts."""

Bounds = tuple[int, int | None]
"""The least and the most rows, one at least; None = any number."""

_Rows = tuple[Uint32s, Int64s, int]
"""The user and the time of some rows, and the most rows of a user, or more."""


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Live rows of a group: of its stored parts, if `stored` is not None, and of parts in memory."""

    group: int
    states: States
    stored: list[_Rows] | None
    fresh: list[_Rows]

    @classmethod
    def of_parts(
        cls,
        group: int,
        parts: Sequence[Part],
        since: Micros | None,
        known: States | None,
        check: Callable[[], None],
    ) -> GroupRows:
        """The rows of these parts from an instant on. Those of stored parts are left out when they are
        `known`.
        """
        stored = [part for part in parts if part.is_stored]
        states = tuple(part.state for part in stored)
        return cls(
            group,
            states,
            None if states == known else _live_rows(stored, since, check),
            _live_rows([part for part in parts if not part.is_stored], since, check),
        )


def _live_rows(parts: Sequence[Part], since: Micros | None, check: Callable[[], None]) -> list[_Rows]:
    found = []
    for part in parts:
        check()
        live = part.live_rows()
        users, times = part.row_users(), part.times()
        if since is not None and not part.within(since, None):
            lately: Bools = times >= since
            live = lately if live is None else live & lately
        rows = None if live is None else np.flatnonzero(live)
        if rows is not None:
            users, times = users.take(rows), times.take(rows)
        found.append((users, times, part.record.peak))
    return found


@dataclass(frozen=True, slots=True)
class RowsByDay:
    """The ordinal of the user and the time of each row, day by day."""

    users: Uint32s
    times: Int64s
    days: Int64s
    """The days that have rows."""
    offsets: Int64s
    """Where the rows of each day start, followed by the number of rows."""
    peak: int
    """The most rows of a user, or more."""
    _counted: _LastCounted = field(default_factory=lambda: _LastCounted(), init=False)

    @property
    def nbytes(self) -> int:
        return self.users.nbytes + self.times.nbytes + self.days.nbytes + self.offsets.nbytes

    @classmethod
    def of_groups(cls, groups: Sequence[tuple[int, list[_Rows]]], stride: int) -> RowsByDay:
        """The rows of some groups."""
        users = [rows + np.uint32(group * stride) for group, pieces in groups for rows, _, _ in pieces]
        times = [rows for _, pieces in groups for _, rows, _ in pieces]
        if not users:
            return cls(_NO_USERS, _NO_TIMES, _NO_TIMES, np.zeros(1, np.int64), 0)
        peak = max(sum(most for _, _, most in pieces) for _, pieces in groups)
        return cls.in_order(np.concatenate(users), np.concatenate(times), peak)[0]

    @classmethod
    def in_order(cls, users: Uint32s, times: Int64s, peak: int) -> tuple[RowsByDay, Positions]:
        """Some rows, at least one, and which of them each row of the result is."""
        days = times // MICROS_PER_DAY
        first = int(days.min())
        days -= first
        order = np.argsort(_of_few_bytes(days), kind="stable")
        days = days[order]
        offsets = runs(days)
        return cls(users[order], times[order], days[offsets[:-1]] + first, offsets, peak), order

    def users_between(self, start: Micros | None, end: Micros | None) -> list[Uint32s]:
        """The user of each row in [start, end)."""
        whole, edges = self._days_between(start, end)
        return [self.users[whole], *self._at_edges(edges, start, end)]

    def rows_between(self, start: Micros | None, end: Micros | None) -> int:
        """Number of rows in [start, end), or a few more: those of the days at its ends are all counted."""
        whole, edges = self._days_between(start, end)
        at_edges = sum([int(self.offsets[day + 1] - self.offsets[day]) for day in edges])
        return int(whole.stop - whole.start) + at_edges

    def mask_between(
        self, start: Micros | None, end: Micros | None
    ) -> tuple[slice, list[tuple[slice, Bools]]]:
        """The rows of the days that may lie in [start, end), which follow each other; and for those among
        them that may lie in it partly whether they do, counted from the first.
        """
        whole, edges = self._days_between(start, end)
        rows = [slice(int(self.offsets[day]), int(self.offsets[day + 1])) for day in edges]
        first = min([whole.start, *(some.start for some in rows)])
        last = max([whole.stop, *(some.stop for some in rows)])
        masks = [
            (slice(some.start - first, some.stop - first), _within(self.times[some], start, end))
            for some in rows
        ]
        return slice(first, last), masks

    def _days_between(self, start: Micros | None, end: Micros | None) -> tuple[slice, set[int]]:
        """The rows of the days that lie wholly in [start, end), and the days that may lie in it partly."""
        days, offsets = self.days, self.offsets
        first = 0 if start is None else int(days.searchsorted(-(-start // MICROS_PER_DAY)))
        last = len(days) if end is None else int(days.searchsorted(end // MICROS_PER_DAY))
        edges = {first - 1} if start is not None and first else set()
        if end is not None and last < len(days):
            edges.add(last)
        return slice(int(offsets[first]), int(offsets[max(first, last)])), edges

    def _at_edges(self, days: set[int], start: Micros | None, end: Micros | None) -> list[Uint32s]:
        """The user of each row of these days in [start, end)."""
        found = []
        for day in days:
            rows = slice(self.offsets[day], self.offsets[day + 1])
            found.append(self.users[rows][_within(self.times[rows], start, end)])
        return found

    def count_between(self, start: Micros | None, end: Micros | None, counts: Ints) -> None:
        """Adds to `counts`, an item for each user, the number of the user's rows in [start, end)."""
        whole, edges = self._days_between(start, end)
        last = self._counted.last
        if last is None or (last.rows, last.counts.dtype) != (whole, counts.dtype):
            found = np.zeros_like(counts)
            apply_at(np.add, found, self.users[whole], 1)
            last = self._counted.last = _Counted(whole, found)
        counts += last.counts
        for users in self._at_edges(edges, start, end):
            apply_at(np.add, counts, users, 1)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Number of rows of each user among some rows."""

    rows: slice
    counts: Ints


@dataclass(slots=True)
class _LastCounted:
    """What was counted last. Several threads may count at once: each sets what is right."""

    last: _Counted | None = None


def _of_few_bytes(days: Int64s) -> Ints:
    """Days from 0 on, in one byte or two if these hold them: sorted in linear time."""
    last = int(days.max())
    return days.astype(np.min_scalar_type(last)) if last < DAYS_SORTED_FAST_MAX else days


def _within(times: Int64s, start: Micros | None, end: Micros | None) -> Bools:
    return integers_between(times, start, None if end is None else end - 1)


@dataclass(frozen=True, slots=True)
class AllRows:
    """All rows of a name from an instant on: stored ones, and those in memory."""

    since: Micros | None
    """None: from the first on."""
    states: tuple[States, ...]
    """By group, the stored parts that `stored` has the rows of."""
    stored: RowsByDay
    fresh: RowsByDay
    size: int
    """Number of ordinals."""

    def __len__(self) -> int:
        return len(self.stored.users) + len(self.fresh.users)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, with the counts that are kept once they are asked about."""
        parts = self._parts
        are_counted = sum(len(part.users) for part in parts) * SPARSE_SHARE >= self.size
        counts = self.size * self._counts_type.itemsize * len(parts) if are_counted else 0
        return self.stored.nbytes + self.fresh.nbytes + counts

    @property
    def _parts(self) -> list[RowsByDay]:
        return [part for part in (self.stored, self.fresh) if len(part.users)]

    @property
    def _counts_type(self) -> np.dtype[Any]:
        """The smallest type that holds the number of rows of every user."""
        return np.min_scalar_type(sum(part.peak for part in self._parts))

    @classmethod
    def of_groups(cls, since: Micros | None, groups: Sequence[GroupRows], stride: int) -> AllRows:
        """The rows of all groups, none of them left out."""
        stored = [(rows.group, rows.stored) for rows in groups if rows.stored is not None]
        fresh = [(rows.group, rows.fresh) for rows in groups]
        states = tuple(rows.states for rows in groups)
        by_day, fresh_by_day = (RowsByDay.of_groups(rows, stride) for rows in (stored, fresh))
        return cls(since, states, by_day, fresh_by_day, stride * len(groups))

    def begin_by(self, start: Micros | None) -> bool:
        """Whether they have every row from an instant on."""
        return self.since is None or (start is not None and self.since <= start)

    def with_fresh(self, groups: Sequence[GroupRows], stride: int) -> AllRows:
        """The same stored rows, and these rows in memory."""
        fresh = [(rows.group, rows.fresh) for rows in groups]
        return AllRows(self.since, self.states, self.stored, RowsByDay.of_groups(fresh, stride), self.size)

    def passing(self, time: TimeRange, intervals: Sequence[Interval]) -> BitMap:
        """The users whose number of rows in the range of time lies in an interval and is not 0."""
        low_and_high = [integer_bounds(interval) for interval in intervals]
        bounds = [(max(1, low or 1), high) for low, high in low_and_high]
        parts = self._parts
        if sum(part.rows_between(time.start, time.end) for part in parts) * SPARSE_SHARE < self.size:
            pieces = [users for part in parts for users in part.users_between(time.start, time.end)]
            return bitmap_of(_with_counts(np.sort(np.concatenate((_NO_USERS, *pieces))), bounds))
        counts: Ints = np.zeros(self.size, self._counts_type)
        for part in parts:
            part.count_between(time.start, time.end, counts)
        return bitmap_of_mask(_between(counts, bounds))


def _with_counts(users: Uint32s, bounds: Sequence[Bounds]) -> Uint32s:
    """Those of sorted users that come as many times as some bounds say."""
    if len(bounds) == 1 and bounds[0][1] is None:
        # Who comes this many times is the same user as this many places before.
        apart = bounds[0][0] - 1
        users = users[apart:][users[apart:] == users[: len(users) - apart]] if apart else users
        return users[runs(users)[:-1]]
    starts = runs(users)
    return users[starts[:-1]][_between(np.diff(starts), bounds)]


def _between(counts: Ints, bounds: Sequence[Bounds]) -> Bools:
    """Mask of counts that lie in some bounds."""
    passed = [integers_between(counts, low, high) for low, high in bounds]
    return functools.reduce(np.logical_or, passed) if passed else np.zeros(len(counts), np.bool_)


_NO_USERS: Uint32s = np.zeros(0, np.uint32)
_NO_TIMES: Int64s = np.zeros(0, np.int64)
