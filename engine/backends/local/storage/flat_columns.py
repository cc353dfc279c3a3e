"""Flat columns: the pages of a column of users, one after the other in memory.

A column of users is stored in pages of `PAGE_USERS`, so that a checkpoint rewrites little of it. Comparing
page by page costs more in calls than in comparisons. So a column that is asked about is copied into one array
over all groups, where a value is at its user's ordinal. A write to a page marks it, and the next question
copies that page again. Numbers are kept in two bytes each while all of them are integers up to
`SMALL_MAX`: scores, counts, years. Beside times their *hours* are kept, in two bytes each. These decide
all times but those in the hours at the ends of a range, and where these are is kept too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Bools, Positions
from engine.backends.local.storage.bitmaps import CONTAINER_IDS, bitmap_of, bitmap_of_pieces
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.page_cache import PAGE_BITS
from engine.backends.local.storage.ranges import ABSENT_SMALL, SMALL_MAX, Ranges
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.bounded_cache import BoundedCache

COMPARED_BYTES = 1 << 21
"""Bytes of values compared before others go first: a fraction of a millisecond."""

HOUR_BITS = 32
"""An hour is 2^32 microseconds, about 72 minutes."""
HOURS_BEFORE = 60_000
"""Hours before the last time of the first page that have numbers of their own: about eight years. Earlier
times share one.
"""
_HOUR_MAX = (1 << 16) - 1
_HALVES = np.dtype([("low", "<u4"), ("high", "<i4")])
"""Of a time: the high half is its hour."""
_FIRST_MIN, _FIRST_MAX = -(1 << 31), (1 << 31) - 1 - _HOUR_MAX

HOURS_KEPT_MAX = 4
"""Hours whose times are known by place: those at the ends of two ranges."""
KEPT_SHARE = 32
"""They are known while they are at most one in `KEPT_SHARE` of all."""
LOOKED_AT_SHARE = 8
"""Above one in `LOOKED_AT_SHARE`, comparing all times takes less than looking at those in an hour."""

Values: TypeAlias = npt.NDArray[Any]


class Stored(NamedTuple):
    """A column as it is stored: its name; what it has for users without a value; and the values of a page of
    a group, None where there are none. These are copied before anything else is read.
    """

    name: Hashable
    absent: float
    page_of: Callable[[int, int], Values | None]


class FlatColumn:
    """A column of some groups, with room for `stride` users in each. Where `absent` is NaN, values may be
    u16, `ABSENT_SMALL` for users without.
    """

    def __init__(self, absent: float, groups: int, stride: int) -> None:
        self._absent = absent
        self.stride = stride
        self._groups = groups
        self.values: Values = np.empty(groups * stride, np.uint16 if math.isnan(absent) else np.int64)
        self._hours: Values | None = None
        """Of times."""
        if self.values.dtype == np.int64:
            self._hours = np.empty(len(self.values), np.uint16)
        self._first_hour: int | None = None
        self._in_hour: dict[int, Positions] = {}
        """Where the times of some hours are, the hour asked about last at the end."""
        self._in_hours: dict[tuple[int, int, int, int], BitMap] = {}
        """The last answer about whole hours, by the bounds of the part, the first hour and the last."""
        self._without_hours: set[int] = set()
        """Pages that were copied since the hours of their times were found."""
        self._copied = 0
        """Pages copied so far."""
        self._is_asked_again = False
        """Whether the times were asked about since a page was copied."""
        self._stale = self._all_pages()
        """Pages that were written to since they were copied."""

    def _all_pages(self) -> set[int]:
        return set(range(len(self.values) >> PAGE_BITS))

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        hours = 0 if self._hours is None else self._hours.nbytes
        places = sum(places.nbytes for places in self._in_hour.values())
        return self.values.nbytes + hours + places + len(self._in_hours) * len(self.values) // 8

    def part_of(self, group: int) -> slice:
        """Where the values of a group are."""
        return slice(group * self.stride, (group + 1) * self.stride)

    def wrote(self, group: int, dense: int) -> None:
        """The page with this user is written to, before others go on."""
        if dense < self.stride:
            self._stale.add((group * self.stride + dense) >> PAGE_BITS)

    def copy_stale(
        self,
        groups: Iterable[int],
        counts: Sequence[int],
        page_of: Callable[[int, int], Values | None],
        pause: Callable[[], None],
    ) -> None:
        """Copies the stale pages of some groups. `counts`: the users of each group."""
        if not self._stale:
            return
        a_group = self.stride >> PAGE_BITS
        asked = {page for group in groups for page in range(group * a_group, (group + 1) * a_group)}
        copied = 0
        # A page written to in a pause, or copied when numbers grew wider, comes once more.
        while stale := sorted(self._stale & asked):
            for page in stale:
                group, of_group = divmod(page, a_group)
                has_users = of_group << PAGE_BITS < counts[group]
                # First: a write in a pause marks it again.
                self._stale.discard(page)
                try:
                    values = page_of(group, of_group) if has_users else None
                except BaseException:
                    self._stale.add(page)
                    raise
                self._copy_page(page, values)
                copied += 1
                # Not for ever, however many others write.
                if copied % PAUSE_PAGES == 0 and copied <= 2 * len(asked):
                    pause()

    def _copy_page(self, page: int, values: Values | None) -> None:
        """Replaces the values of a page. None: it has none."""
        self._copied += 1
        self._is_asked_again = False
        self._forget_hours()
        part = slice(page << PAGE_BITS, (page + 1) << PAGE_BITS)
        if self.values.dtype != np.uint16:
            self.values[part] = self._absent if values is None else values
            if self._hours is not None:
                self._without_hours.add(page)
        elif values is None:
            self.values[part] = ABSENT_SMALL
        else:
            self._copy_numbers(part, values)

    def _copy_numbers(self, part: slice, numbers: Values) -> None:
        """Replaces numbers; in eight bytes each from now on when they do not fit in two."""
        with np.errstate(invalid="ignore"):
            small = numbers.astype(np.uint16)
        are_small = small == numbers
        are_absent: Bools | None = None
        if not are_small.all():
            are_absent = np.isnan(numbers)
            are_small |= are_absent
            small[are_absent] = 0
        if are_small.all() and small.max() <= SMALL_MAX:
            small += 1
            if are_absent is not None:
                small[are_absent] = ABSENT_SMALL
            self.values[part] = small
            return
        # Filled page by page again: to copy all of them would keep others waiting.
        self.values = np.empty(len(self.values), np.float64)
        self._stale = self._all_pages()

    def _forget_hours(self) -> None:
        self._in_hour.clear()
        self._in_hours.clear()

    def _find_hours(self, pause: Callable[[], None]) -> None:
        """Finds the hours of the pages that were copied."""
        assert self._hours is not None
        for number, page in enumerate(sorted(self._without_hours), 1):
            self._without_hours.discard(page)
            part = slice(page << PAGE_BITS, (page + 1) << PAGE_BITS)
            self._hours[part] = self._hours_of(self.values[part])
            self._forget_hours()
            if number % PAUSE_PAGES == 0:
                pause()

    def _hours_of(self, times: Values) -> Values:
        """The hour of each time: an order that times agree with. Of no time it is the least."""
        if self._first_hour is None:
            latest = int(times.max(initial=int(self._absent)))
            if latest == self._absent:
                return np.zeros(len(times), np.uint16)
            self._first_hour = max(_FIRST_MIN, min((latest >> HOUR_BITS) - HOURS_BEFORE, _FIRST_MAX))
        # Takes half as long as with shifts and `clip`.
        hours: Values = np.maximum(times.view(_HALVES)["high"], self._first_hour)
        np.minimum(hours, self._first_hour + _HOUR_MAX, out=hours)
        hours -= self._first_hour
        return hours

    # --- answers ---

    def users(self, part: slice, ranges: Ranges, pause: Callable[[], None]) -> BitMap:
        """The places in a part, counted from its start, whose values lie in the ranges. Users that change
        during a pause may have other values.
        """
        span = ranges.only_span
        if span is None or self._hours is None:
            return _places_where(ranges.holds, self.values[part], pause)
        found = None
        # To find and keep hours takes longer than to compare all times once.
        if self._is_asked_again:
            self._find_hours(pause)
            if self._first_hour is not None:
                found = self._users_in_span(part, span, pause)
        self._is_asked_again = True
        return _places_where(ranges.holds, self.values[part], pause) if found is None else found

    def _users_in_span(self, part: slice, span: tuple[int, int], pause: Callable[[], None]) -> BitMap | None:
        """As `users`, of times in a span, both ends included. None: too many are in the hours at its ends."""
        assert self._hours is not None
        assert self._first_hour is not None
        first, last = (max(0, min((time >> HOUR_BITS) - self._first_hour, _HOUR_MAX)) for time in span)
        at_ends = [self._places_in(hour, pause) for hour in sorted({first, last})]
        if sum(map(len, at_ends)) > len(self.values) // LOOKED_AT_SHARE:
            return None
        sets = [self._users_in_hours(part, first + 1, last - 1, pause)]
        for places in at_ends:
            here = places[slice(*places.searchsorted((part.start, part.stop)).tolist())]
            times = self.values.take(here)
            sets.append(bitmap_of(here[(times >= span[0]) & (times <= span[1])] - part.start))
        return BitMap.union(*sets)

    def _users_in_hours(self, part: slice, first: int, last: int, pause: Callable[[], None]) -> BitMap:
        """The places in a part whose times are in whole hours, both included. A window up to now has the same
        for an hour.
        """
        assert self._hours is not None
        if first > last:
            return BitMap(optimize=False)
        asked = part.start, part.stop, first, last
        users = self._in_hours.get(asked)
        if users is None:
            copied = self._copied
            # What lies below the first becomes large.
            low, width = np.uint16(first), last - first
            users = _places_where(lambda hours: hours - low <= width, self._hours[part], pause)
            if self._copied == copied:
                self._in_hours = {asked: users}
        return users

    def _places_in(self, hour: int, pause: Callable[[], None]) -> Positions:
        """Where the times of an hour are, in order."""
        assert self._hours is not None
        places = self._in_hour.pop(hour, None)
        if places is None:
            copied = self._copied
            found = []
            for start in range(0, len(self._hours), CONTAINER_IDS):
                pause()
                found.append(np.flatnonzero(self._hours[start : start + CONTAINER_IDS] == hour) + start)
            places = np.concatenate(found)
            if self._copied != copied or len(places) > len(self._hours) // KEPT_SHARE:
                return places
        self._in_hour[hour] = places
        while len(self._in_hour) > HOURS_KEPT_MAX:
            del self._in_hour[next(iter(self._in_hour))]
        return places


HeldColumns: TypeAlias = "BoundedCache[Hashable, FlatColumn]"


class FlatColumns:
    """The flat columns of one part of an account's data. Call with the state lock held."""

    def __init__(self, held: HeldColumns, owner: Hashable) -> None:
        """`owner` keeps apart what shares the cache."""
        self._held = held
        self._owner = owner

    def wrote(self, name: Hashable, group: int, dense: int) -> bool:
        """The page with this user is written to, before others go on. Returns whether there is the column."""
        found = self._held.peek((self._owner, name))
        if found is not None:
            found.wrote(group, dense)
        return found is not None

    def of_group(
        self,
        column: Stored,
        group: int,
        counts: Sequence[int],
        ranges: Ranges,
        pause: Callable[[], None],
    ) -> BitMap:
        """The users of a group whose values lie in the ranges. `counts`: the users of each group."""
        found = self._held.get((self._owner, column.name))
        # Its room is changed for questions about everyone, and where there is too little.
        if found is None or counts[group] > found.stride:
            found = FlatColumn(column.absent, len(counts), Ordinals(counts).stride)
        return self._users(column, found, (group,), found.part_of(group), counts, ranges, pause)

    def of_all(
        self,
        column: Stored,
        ordinals: Ordinals,
        counts: Sequence[int],
        ranges: Ranges,
        pause: Callable[[], None],
    ) -> BitMap:
        """The ordinals of the users whose values lie in the ranges."""
        found = self._held.get((self._owner, column.name))
        if found is None or found.stride != ordinals.stride:
            found = FlatColumn(column.absent, ordinals.groups, ordinals.stride)
        groups = range(ordinals.groups)
        return self._users(column, found, groups, slice(0, ordinals.size), counts, ranges, pause)

    def _users(
        self,
        column: Stored,
        flat: FlatColumn,
        groups: Iterable[int],
        part: slice,
        counts: Sequence[int],
        ranges: Ranges,
        pause: Callable[[], None],
    ) -> BitMap:
        key, nbytes = (self._owner, column.name), flat.nbytes
        if self._held.peek(key) is not flat:
            # Before the first pause, so that writes in a pause mark their pages again.
            self._held.put(key, flat, nbytes)
        flat.copy_stale(groups, counts, column.page_of, pause)
        users = flat.users(part, ranges, pause)
        if flat.nbytes != nbytes and self._held.peek(key) is flat:
            self._held.put(key, flat, flat.nbytes)
        return users


def _places_where(holds: Callable[[Values], Bools], values: Values, pause: Callable[[], None]) -> BitMap:
    """The places of the values that pass."""
    size = max(CONTAINER_IDS, COMPARED_BYTES // values.itemsize)

    def masks() -> Iterator[Bools]:
        for start in range(0, len(values), size):
            pause()
            yield holds(values[start : start + size])

    return bitmap_of_pieces(masks())
