"""All rows of one event name over every group, where they are few: a count reads the rows in the window.

A question about every group reads a table, a handful of parts and a few calls of numpy for each. Of a name
with few rows these calls take many times as long as their work. So its rows are kept joined, day by day, with
the ordinal of each row's user. Only in the days at the edges of a window are times compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.columns import integers_between
from engine.backends.local.events.decimals import integer_bounds
from engine.backends.local.events.part import Part
from engine.backends.local.storage.arrays import Bools, Int64s, Ints, Uint32s, runs
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask
from engine.criteria.ranges import Interval, TimeRange
from engine.values import MICROS_PER_DAY, Micros

ALL_ROWS_MAX = 1 << 19
"""Rows up to which those of a name are kept joined: six megabytes."""

SPARSE_SHARE = 4
"""Rows are sorted by user while there are fewer than one for four users; above, every user is counted."""

DAYS_SORTED_FAST_MAX = 1 << 16
"""Days between the first and the last row up to which rows are sorted in linear time."""

States = tuple[object, ...]
"""Of a group, tokens for the live rows of its stored parts."""

Bounds = tuple[int, int | None]
"""The least and the most rows, one at least; None = any number."""

_Rows = tuple[Uint32s, Int64s]
"""The user and the time of some rows."""


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
        found.append((users, times) if rows is None else (users.take(rows), times.take(rows)))
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

    @property
    def nbytes(self) -> int:
        return self.users.nbytes + self.times.nbytes + self.days.nbytes + self.offsets.nbytes

    @classmethod
    def of_groups(cls, groups: Sequence[tuple[int, list[_Rows]]], stride: int) -> RowsByDay:
        """The rows of some groups."""
        users = [rows + np.uint32(group * stride) for group, pieces in groups for rows, _ in pieces]
        times = [rows for _, pieces in groups for _, rows in pieces]
        if not users:
            return cls(_NO_USERS, _NO_TIMES, _NO_TIMES, np.zeros(1, np.int64))
        joined = np.concatenate(times)
        days = joined // MICROS_PER_DAY
        first = int(days.min())
        offsets_of_days = days - first
        if int(days.max()) - first < DAYS_SORTED_FAST_MAX:
            offsets_of_days = offsets_of_days.astype(np.uint16)
        order = np.argsort(offsets_of_days, kind="stable")
        days = days[order]
        offsets = runs(days)
        return cls(np.concatenate(users)[order], joined[order], days[offsets[:-1]], offsets)

    def users_between(self, start: Micros | None, end: Micros | None) -> list[Uint32s]:
        """The user of each row in [start, end)."""
        days, offsets = self.days, self.offsets
        # The days that lie wholly in the range, and the one before and after them.
        first = 0 if start is None else int(days.searchsorted(-(-start // MICROS_PER_DAY)))
        last = len(days) if end is None else int(days.searchsorted(end // MICROS_PER_DAY))
        found = [self.users[offsets[first] : offsets[last]]] if first < last else []
        edges = {first - 1} if start is not None and first else set()
        if end is not None and last < len(days):
            edges.add(last)
        for day in edges:
            rows = slice(offsets[day], offsets[day + 1])
            found.append(self.users[rows][_within(self.times[rows], start, end)])
        return found


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

    def __len__(self) -> int:
        return len(self.stored.users) + len(self.fresh.users)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.stored.nbytes + self.fresh.nbytes

    @classmethod
    def of_groups(cls, since: Micros | None, groups: Sequence[GroupRows], stride: int) -> AllRows:
        """The rows of all groups, none of them left out."""
        stored = [(rows.group, rows.stored) for rows in groups if rows.stored is not None]
        fresh = [(rows.group, rows.fresh) for rows in groups]
        states = tuple(rows.states for rows in groups)
        return cls(since, states, RowsByDay.of_groups(stored, stride), RowsByDay.of_groups(fresh, stride))

    def begin_by(self, start: Micros | None) -> bool:
        """Whether they have every row from an instant on."""
        return self.since is None or (start is not None and self.since <= start)

    def with_fresh(self, groups: Sequence[GroupRows], stride: int) -> AllRows:
        """The same stored rows, and these rows in memory."""
        fresh = [(rows.group, rows.fresh) for rows in groups]
        return AllRows(self.since, self.states, self.stored, RowsByDay.of_groups(fresh, stride))

    def passing(self, time: TimeRange, intervals: Sequence[Interval], size: int) -> BitMap:
        """The users whose number of rows in the range of time lies in an interval and is not 0. `size`:
        number of ordinals.
        """
        pieces = [
            rows for part in (self.stored, self.fresh) for rows in part.users_between(time.start, time.end)
        ]
        low_and_high = [integer_bounds(interval) for interval in intervals]
        bounds = [(max(1, low or 1), high) for low, high in low_and_high]
        if sum(map(len, pieces)) * SPARSE_SHARE < size:
            return bitmap_of(_with_counts(np.sort(np.concatenate((_NO_USERS, *pieces))), bounds))
        if (1, None) in bounds:
            present = np.zeros(size, np.bool_)
            for rows in pieces:
                present[rows] = True
            return bitmap_of_mask(present)
        return bitmap_of_mask(_between(np.bincount(np.concatenate(pieces), minlength=size), bounds))


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
    passed = np.zeros(len(counts), np.bool_)
    for low, high in bounds:
        passed |= integers_between(counts, low, high)
    return passed


_NO_USERS: Uint32s = np.zeros(0, np.uint32)
_NO_TIMES: Int64s = np.zeros(0, np.int64)
