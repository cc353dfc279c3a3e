"""Flat columns: the pages of a column of a group, one after the other in memory.

A column of users is stored in pages of `PAGE_USERS`, so that a checkpoint rewrites little of it. Comparing
page by page costs more in calls than in comparisons. So a column that is asked about is copied into one
array. A write to a page marks it, and the next question copies that page again. Numbers are kept in two
bytes each while all of them are integers below `ABSENT_SMALL`: scores, counts, years. Beside times their
*hours* are kept, in two bytes each. These decide all times but those in the hours at the ends of a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.arrays import Bools
from engine.backends.local.storage.page_cache import PAGE_BITS, PAGE_USERS
from engine.backends.local.storage.ranges import ABSENT_SMALL, Ranges
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.bounded_cache import BoundedCache

COMPARED_AT_ONCE = PAUSE_PAGES * PAGE_USERS
"""Values compared before others go first."""

HOUR_BITS = 32
"""An hour is 2^32 microseconds, about 72 minutes."""
HOURS_BEFORE = 60_000
"""Hours before the last time of the first page that have numbers of their own: about eight years. Earlier
times share one.
"""
_HOUR_MAX = (1 << 16) - 1
HOURS_USERS_MIN = 1 << 14
"""Times from which hours are kept beside them; fewer are as quickly compared."""

Values: TypeAlias = npt.NDArray[Any]


class FlatColumn:
    """A column of a group. `stale`: pages that were written to since they were copied."""

    def __init__(self, absent: float) -> None:
        self._absent = absent
        self.values: Values = np.empty(0, np.uint16 if math.isnan(absent) else np.int64)
        self.stale: set[int] = set()
        self._hours: Values | None = None
        """Of times, if they are many."""
        self._first_hour: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.values.nbytes + (0 if self._hours is None else self._hours.nbytes)

    def grow(self, pages: int) -> None:
        """Makes room for a number of pages; those that are new are stale."""
        known = len(self.values) >> PAGE_BITS
        if pages > known:
            self.values = _grown(self.values, pages)
            if self._hours is not None:
                self._hours = _grown(self._hours, pages)
            elif self.values.dtype == np.int64 and len(self.values) >= HOURS_USERS_MIN:
                self._hours = np.empty(len(self.values), np.uint16)
                self._hours[: known << PAGE_BITS] = self._hours_of(self.values[: known << PAGE_BITS])
            self.stale.update(range(known, pages))

    def copy_page(self, page: int, values: Values | None) -> None:
        """Replaces the values of a page. None: it has none."""
        part = slice(page << PAGE_BITS, (page + 1) << PAGE_BITS)
        if self.values.dtype != np.uint16:
            self.values[part] = self._absent if values is None else values
            if self._hours is not None:
                self._hours[part] = self._hours_of(self.values[part])
        elif values is None:
            self.values[part] = ABSENT_SMALL
        else:
            self._copy_numbers(part, values)
        self.stale.discard(page)

    def _copy_numbers(self, part: slice, numbers: Values) -> None:
        """Replaces numbers; in eight bytes each from now on when they do not fit in two."""
        with np.errstate(invalid="ignore"):
            small = numbers.astype(np.uint16)
        are_absent = np.isnan(numbers)
        if ((small == numbers) & (small != ABSENT_SMALL) | are_absent).all():
            small[are_absent] = ABSENT_SMALL
            self.values[part] = small
            return
        are_absent = self.values == ABSENT_SMALL
        self.values = self.values.astype(np.float64)
        self.values[are_absent] = self._absent
        self.values[part] = numbers

    def _hours_of(self, times: Values) -> Values:
        """The hour of each time: an order that times agree with. Of no time it is the least."""
        if self._first_hour is None:
            latest = int(times.max(initial=int(self._absent)))
            if latest == self._absent:
                return np.zeros(len(times), np.uint16)
            self._first_hour = (latest >> HOUR_BITS) - HOURS_BEFORE
        return np.asarray(np.clip((times >> HOUR_BITS) - self._first_hour, 0, _HOUR_MAX))

    def mask(self, ranges: Ranges, count: int, pause: Callable[[], None]) -> Bools:
        """Mask of the first values that lie in the ranges."""
        span = ranges.only_span
        if self._hours is None or self._first_hour is None or span is None:
            return mask_of_values(self.values[:count], ranges, pause)
        hours = [max(0, min((time >> HOUR_BITS) - self._first_hour, _HOUR_MAX)) for time in span]
        mask = np.empty(count, np.bool_)
        for start in range(0, count, COMPARED_AT_ONCE):
            if start:
                pause()
            piece = slice(start, min(start + COMPARED_AT_ONCE, count))
            mask[piece] = _times_between(self.values[piece], self._hours[piece], span, hours)
        return mask


def _times_between(times: Values, hours: Values, span: tuple[int, int], span_hours: Sequence[int]) -> Bools:
    """Mask of times in a span, both ends included, whose hours are given."""
    (low, high), (first, last) = span, span_hours
    inside: Bools
    if last - first > 1:
        # What lies below the first becomes large.
        inside = hours - np.uint16(first + 1) < last - first - 1
    else:
        inside = np.zeros(len(hours), np.bool_)
    at_ends = np.flatnonzero((hours == first) | (hours == last))
    times = times.take(at_ends)
    inside[at_ends] = (times >= low) & (times <= high)
    return inside


def _grown(values: Values, pages: int) -> Values:
    """A copy with room for a number of pages."""
    grown = np.empty(pages << PAGE_BITS, values.dtype)
    grown[: len(values)] = values
    return grown


HeldColumns: TypeAlias = "BoundedCache[Hashable, FlatColumn]"


class FlatColumns:
    """The flat columns of one part of an account's data. Call with the state lock held."""

    def __init__(self, held: HeldColumns, owner: Hashable) -> None:
        """`owner` keeps apart what shares the cache."""
        self._held = held
        self._owner = owner

    def wrote(self, column: Hashable, dense: int) -> None:
        """The page with this user is written to, before others go on."""
        found = self._held.peek((self._owner, column))
        # Of a page beyond those copied, the whole is read once the column grows.
        if found is not None and dense < len(found.values):
            found.stale.add(dense >> PAGE_BITS)

    def values(
        self,
        column: Hashable,
        count: int,
        absent: float,
        page_of: Callable[[int], Values | None],
        pause: Callable[[], None],
    ) -> Values:
        """The values of the first `count` users, `absent` for those without; `page_of` reads a page, None
        when it has no values. Where `absent` is NaN, values may be u16, `ABSENT_SMALL` for users without.
        Users that change during a pause may have other values.
        """
        return self.column(column, count, absent, page_of, pause).values[:count]

    def column(
        self,
        column: Hashable,
        count: int,
        absent: float,
        page_of: Callable[[int], Values | None],
        pause: Callable[[], None],
    ) -> FlatColumn:
        """The column of these values."""
        flat = self._of_size(column, (count + PAGE_USERS - 1) >> PAGE_BITS, absent)
        copied, nbytes = 0, flat.nbytes
        # It is in the cache before the first pause, so writes in a pause mark their pages again.
        while flat.stale:
            page = min(flat.stale)
            flat.copy_page(page, page_of(page))
            copied += 1
            # Not for ever, however many others write.
            if copied % PAUSE_PAGES == 0 and copied << PAGE_BITS <= len(flat.values):
                pause()
        if flat.nbytes != nbytes:
            self._held.put((self._owner, column), flat, flat.nbytes)
        return flat

    def _of_size(self, column: Hashable, pages: int, absent: float) -> FlatColumn:
        """The column with room for a number of pages, in the cache."""
        key = self._owner, column
        flat = self._held.get(key)
        if flat is None or len(flat.values) < pages << PAGE_BITS:
            flat = flat or FlatColumn(absent)
            flat.grow(pages)
            self._held.put(key, flat, flat.nbytes)
        return flat


def mask_of_values(values: Values, ranges: Ranges, pause: Callable[[], None]) -> Bools:
    """Mask of values in the ranges."""
    if len(values) <= COMPARED_AT_ONCE:
        return ranges.holds(values)
    mask = np.empty(len(values), np.bool_)
    for start in range(0, len(values), COMPARED_AT_ONCE):
        pause()
        piece = slice(start, start + COMPARED_AT_ONCE)
        mask[piece] = ranges.holds(values[piece])
    return mask
