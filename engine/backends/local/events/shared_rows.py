"""The rows of a few users of one event name, for several questions that differ in their time alone.

A round of refreshes asks every journey that reads an event about the same few users. To find their rows in
the parts of a table takes many times as long as to count those in a window. So the rows are found once.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.aggregate import in_intervals
from engine.backends.local.events.model import ResolvedSelection
from engine.backends.local.events.part import Part
from engine.backends.local.events.select import Universe, selected
from engine.backends.local.storage.arrays import Int64s, Uint32s, runs
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.criteria.ranges import Interval, TimeRange
from engine.values import MICROS_PER_DAY, Micros

SHARED_ROWS_MAX = 1 << 14
"""Rows of these users in a group, at most: 192 KB."""


class SharedRows:
    """The user and the time of each row, in order of user."""

    def __init__(self, users: Uint32s, times: Int64s) -> None:
        self.users = users
        self.times = times
        self._in_order: list[Micros] | None = None
        """The times, ascending, once a question has come."""
        self._passing: dict[tuple[int, int, tuple[Interval, ...]], BitMap] = {}
        """Answers by the range of these times: most windows begin and end between the same two rows."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.users.nbytes + self.times.nbytes

    @classmethod
    def none(cls) -> SharedRows:
        """No rows."""
        return cls(np.zeros(0, np.uint32), np.zeros(0, np.int64))

    @classmethod
    def of_parts(
        cls,
        parts: Sequence[Part],
        selection: ResolvedSelection,
        universe: Universe,
        others: Sequence[tuple[int, Micros]] = (),
    ) -> SharedRows | None:
        """The selected rows of the users, and `others` that are in no part; None when they are many."""
        count = len(others)
        pairs = np.array(others, np.int64).reshape(-1, 2)
        users, times = [pairs[:, 0].astype(np.uint32)], [pairs[:, 1]]
        for rows in selected(parts, selection, universe):
            slots, found = rows.row_slots, rows.at(rows.part.times())
            if universe.ids is None:
                # Everyone's rows were selected.
                mine = universe.mask[slots]
                users.append(slots[mine].astype(np.uint32, copy=False))
                times.append(found[mine])
            else:
                users.append(universe.ids[slots])
                times.append(found)
            count += len(users[-1])
            if count > SHARED_ROWS_MAX:
                break
        if count > SHARED_ROWS_MAX:
            return None
        if not count:
            return cls.none()
        joined = np.concatenate(users)
        order = np.argsort(joined, kind="stable")
        return cls(joined[order], np.concatenate(times)[order])

    @classmethod
    def joined(cls, pieces: Iterable[tuple[int, SharedRows]]) -> SharedRows:
        """The rows of several groups, with this added to the users of each; in order of user."""
        found = [(shift, rows) for shift, rows in pieces if len(rows.users)]
        if not found:
            return cls.none()
        users = np.concatenate([rows.users + np.uint32(shift) for shift, rows in found])
        return cls(users, np.concatenate([rows.times for _, rows in found]))

    def passing(self, time: TimeRange, intervals: Sequence[Interval]) -> BitMap:
        """The users whose number of rows in the range of time lies in an interval and is not 0. Do not modify
        the result.
        """
        if self._in_order is None:
            self._in_order = np.sort(self.times).tolist()
        in_order = self._in_order
        first = 0 if time.start is None else bisect.bisect_left(in_order, time.start)
        after = len(in_order) if time.end is None else bisect.bisect_left(in_order, time.end)
        name = first, after, tuple(intervals)
        found = self._passing.get(name)
        if found is None:
            found = self._passing[name] = self._counted(in_order[first:after], intervals)
        return found

    def _counted(self, times: Sequence[Micros], intervals: Sequence[Interval]) -> BitMap:
        """`passing` of the rows with these times, which are all that lie between the first and the last."""
        if not times:
            return BitMap()
        users = self.users[(self.times >= times[0]) & (self.times <= times[-1])]
        starts = runs(users)
        return bitmap_of(users[starts[:-1]][in_intervals(np.diff(starts), intervals)])


def shared_time(time: TimeRange, now: Micros) -> TimeRange:
    """A range of time that holds this one, and is the same for many that end about `now`: it begins at a
    whole multiple of its length, which is a power of two in days.
    """
    if time.start is None:
        return TimeRange(None, None)
    days = max(1, -(-(now - time.start) // MICROS_PER_DAY))
    length = (1 << (days - 1).bit_length()) * MICROS_PER_DAY
    return TimeRange(time.start // length * length, None)
