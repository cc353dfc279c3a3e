"""First and last seen: the inputs of each user, with the first and the last time.

Each input and group has a bitmap of its users and pages with two columns of times. Events and updates count
alike. Times take the minimum and the maximum, so the order of arrival does not matter. The times of large
batches are therefore buffered until they are read, or until they are worth a pass over the pages.
"""

from __future__ import annotations

import array
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Int64s, Uint32s, runs
from engine.backends.local.storage.bitmaps import bitmap_of, ids_of
from engine.backends.local.storage.flat_columns import FlatColumns, HeldColumns, Stored
from engine.backends.local.storage.keys import PAGE_KEYS_KEPT, Family, key
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.page_cache import (
    ABSENT_TIME,
    BITMAP,
    PAGE_BITS,
    PAGE_MASK,
    PAGE_USERS,
    SEEN_TIMES,
    CachedPage,
    PageCache,
    as_numpy,
)
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import ReadKey
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.values import TIME_MAX_MICROS, Micros

VECTOR_USERS_MIN = 16
"""Users of a page below which they are updated one by one; a pass over the whole page costs more."""

WAITING_USERS_MAX = 1 << 15
"""Users whose times are buffered for each input and group, at 20 bytes each."""
WAITING_BATCHES_MAX = 1 << 8
"""Batches buffered at most: a small batch takes little more memory than its array objects."""


_NOBODY = BitMap(optimize=False)


def _go_on() -> None:
    pass


class _Spans(NamedTuple):
    """Distinct users of a group, ascending, with their first and last times."""

    users: Uint32s
    first: Int64s
    last: Int64s


class FirstLastSeen:
    """First and last times of one account's users. Called with the state lock held."""

    def __init__(self, page_cache: PageCache, account: int, flat_columns: HeldColumns) -> None:
        self._page_cache = page_cache
        self._account = account
        self._flat = FlatColumns(flat_columns, ("seen", account))
        """First (False) and last (True) times by (inputs, whether last)."""
        self._flat_of_input: dict[int, set[tuple[tuple[int, ...], bool]]] = {}
        """The flat columns that an input's times are in."""
        self._pages: dict[tuple[int, int], CachedPage[array.array[int]]] = {}
        self._belongs: dict[tuple[int, int], CachedPage[BitMap]] = {}
        self._waiting: dict[tuple[int, int], list[_Spans]] = {}
        self._waiting_users: dict[tuple[int, int], int] = {}
        self.touched: set[ReadKey] = set()
        """Read keys that changed since the caller last took them."""
        self._newcomers: dict[int, dict[int, BitMap]] = {}

    def take_newcomers(self) -> dict[int, dict[int, BitMap]]:
        """The users, by input and group, that came to belong to an input since the caller last took them, or
        whose first time on it became earlier by `saw`. More users may be among them.
        """
        found, self._newcomers = self._newcomers, {}
        return found

    def _came(self, input_number: int, group: int, users: BitMap) -> None:
        by_group = self._newcomers.setdefault(input_number, {})
        by_group[group] = by_group.get(group, _NOBODY) | users

    def begin(self) -> None:
        """Starts a run of `saw` calls. Pages found in one session may be evicted before the next."""
        self._pages.clear()
        self._belongs.clear()

    def saw(self, input_number: int, ref: UserRef, time: Micros) -> None:
        """Records that the input had data for the user at that time."""
        self._see(input_number, ref, time, time)

    def saw_many(self, input_number: int, group: int, users: Uint32s, first: Int64s, last: Int64s) -> None:
        """Records that the input had data for distinct users of a group between those times. Users come in
        ascending order.
        """
        self.touched.add(("seen", input_number, group))
        new = bitmap_of(users)
        belonging = self._page_cache.find(self._belonging_key(input_number, group), BITMAP)
        if belonging is not None:
            new -= belonging.value
        if new:
            self._belonging(input_number, group).value |= new
            self._came(input_number, group, new)
        at = input_number, group
        waiting = self._waiting.setdefault(at, [])
        waiting.append(_Spans(users, first, last))
        self._waiting_users[at] = self._waiting_users.get(at, 0) + len(users)
        if self._waiting_users[at] >= WAITING_USERS_MAX or len(waiting) >= WAITING_BATCHES_MAX:
            self._settle(input_number, group)

    def settle(self) -> None:
        """Discards all buffered times."""
        for input_number, group in list(self._waiting):
            self._settle(input_number, group)

    def _settle(self, input_number: int, group: int) -> None:
        waiting = self._waiting.get((input_number, group))
        if waiting is None:
            return
        self.begin()
        users, first, last = _joined(waiting)
        bounds = runs(users >> PAGE_BITS)
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if end - start < VECTOR_USERS_MIN:
                for at in range(start, end):
                    ref = group << GROUP_SHIFT | int(users[at])
                    self._widen(input_number, ref, int(first[at]), int(last[at]))
                continue
            page = self._page(input_number, group << GROUP_SHIFT | int(users[start]))
            times = as_numpy(page.value)
            slots = (users[start:end] & PAGE_MASK).astype(np.int64)
            earliest, latest = times[slots], times[slots + PAGE_USERS]
            absent = latest == ABSENT_TIME
            times[slots] = np.where(absent, first[start:end], np.minimum(earliest, first[start:end]))
            # The value for "no time" is the smallest of all, so any time wins here.
            times[slots + PAGE_USERS] = np.maximum(latest, last[start:end])
            self._wrote(input_number, group << GROUP_SHIFT | int(users[start]))
        # Only now: if a page cannot be read, the buffer stays whole and is applied again.
        del self._waiting[input_number, group], self._waiting_users[input_number, group]

    def _see(self, input_number: int, ref: UserRef, first: Micros, last: Micros) -> None:
        is_new, is_earlier = self._widen(input_number, ref, first, last)
        group = ref >> GROUP_SHIFT
        if is_new or is_earlier:
            dense = ref & DENSE_MASK
            if is_new:
                self._belonging(input_number, group).value.add(dense)
            by_group = self._newcomers.setdefault(input_number, {})
            if group in by_group:
                by_group[group].add(dense)
            else:
                by_group[group] = BitMap((dense,))
        self.touched.add(("seen", input_number, group))

    def _widen(self, input_number: int, ref: UserRef, first: Micros, last: Micros) -> tuple[bool, bool]:
        """Whether the user had no times until now, and whether its first time became earlier."""
        page = self._pages.get((input_number, ref >> PAGE_BITS))
        if page is None:
            page = self._page(input_number, ref)
        times = page.value
        slot = ref & PAGE_MASK
        latest = times[slot + PAGE_USERS]
        if latest == ABSENT_TIME:
            times[slot] = first
            times[slot + PAGE_USERS] = last
            self._wrote(input_number, ref)
            return True, False
        if last > latest:
            times[slot + PAGE_USERS] = last
            self._wrote(input_number, ref, (True,))
        if first < times[slot]:
            times[slot] = first
            self._wrote(input_number, ref, (False,))
            return False, True
        return False, False

    def _wrote(self, input_number: int, ref: UserRef, halves: Sequence[bool] = (False, True)) -> None:
        """The first (False) or last (True) times in the user's page change."""
        flat = self._flat_of_input.get(input_number)
        if not flat:
            return
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        for name in list(flat):
            if name[1] in halves and not self._flat.wrote(name, group, dense):
                flat.discard(name)

    def _page(self, input_number: int, ref: UserRef) -> CachedPage[array.array[int]]:
        page = self._page_key(input_number, ref >> GROUP_SHIFT, ref & DENSE_MASK)
        cached = self._page_cache.change(page, SEEN_TIMES)
        self._pages[input_number, ref >> PAGE_BITS] = cached
        return cached

    def _page_key(self, input_number: int, group: int, dense: int) -> bytes:
        return _page_key(self._account, input_number, group, dense >> PAGE_BITS)

    def _belonging_key(self, input_number: int, group: int) -> bytes:
        return _belonging_key(self._account, input_number, group)

    def _belonging(self, input_number: int, group: int) -> CachedPage[BitMap]:
        cached = self._belongs.get((input_number, group))
        if cached is None:
            cached = self._page_cache.change(self._belonging_key(input_number, group), BITMAP)
            self._belongs[input_number, group] = cached
            self.touched.add(("belongs", input_number, group))
        return cached

    def times(self, input_number: int, ref: UserRef) -> tuple[Micros, Micros] | None:
        """First and last time of a user on an input. None: the user does not belong to the input."""
        self._settle(input_number, ref >> GROUP_SHIFT)
        page = self._page_cache.find(
            self._page_key(input_number, ref >> GROUP_SHIFT, ref & DENSE_MASK), SEEN_TIMES
        )
        slot = ref & PAGE_MASK
        if page is None or page.value[slot] == ABSENT_TIME:
            return None
        return page.value[slot], page.value[slot + PAGE_USERS]

    def take(self, inputs: Sequence[int], ref: UserRef) -> dict[int, tuple[Micros, Micros]]:
        """Removes a user and returns its times by input."""
        self.begin()
        taken = {}
        for number in inputs:
            times = self.times(number, ref)
            if times is None:
                continue
            taken[number] = times
            self.touched.add(("seen", number, ref >> GROUP_SHIFT))
            page = self._page(number, ref).value
            slot = ref & PAGE_MASK
            page[slot] = page[slot + PAGE_USERS] = ABSENT_TIME
            self._wrote(number, ref)
            self._belonging(number, ref >> GROUP_SHIFT).value.discard(ref & DENSE_MASK)
        return taken

    def give(self, ref: UserRef, times: dict[int, tuple[Micros, Micros]]) -> None:
        """Adds to a user what `take` returned for another one."""
        self.begin()
        for number, (first, last) in times.items():
            self._see(number, ref, first, last)

    # --- answers ---

    def users(
        self,
        inputs: Sequence[int],
        group: int,
        among: BitMap | None = None,
        pause: Callable[[], None] = _go_on,
    ) -> BitMap:
        """Users that belong to at least one of the inputs, optionally only `among` some. Do not modify the
        result.
        """
        users: BitMap | None = None
        for count, number in enumerate(inputs, 1):
            if count % PAUSE_PAGES == 0:
                pause()
            cached = self._page_cache.find(self._belonging_key(number, group), BITMAP)
            if cached is None:
                continue
            found = cached.value if among is None else cached.value & among
            users = found if users is None else users | found
        return BitMap() if users is None else users

    def has(self, inputs: Sequence[int], group: int, user: int) -> bool:
        """Whether the user belongs to at least one of the inputs."""
        for number in inputs:
            cached = self._page_cache.find(self._belonging_key(number, group), BITMAP)
            if cached is not None and user in cached.value:
                return True
        return False

    def has_any(self, inputs: Sequence[int], group: int, among: BitMap) -> bool:
        """Whether some of the users belong to at least one of the inputs."""
        pages = (self._page_cache.find(self._belonging_key(number, group), BITMAP) for number in inputs)
        return any(cached is not None and cached.value.intersect(among) for cached in pages)

    def match(
        self,
        inputs: Sequence[int],
        group: int,
        last: bool,
        ranges: Ranges,
        counts: Sequence[int],
        pause: Callable[[], None] = _go_on,
    ) -> BitMap:
        """Users of the group whose last or first time over the inputs lies in the ranges. `counts`: the users
        of each group.
        """
        if not inputs:
            return BitMap()
        column = self._column(inputs, (group,), last, pause)
        return self._flat.of_group(column, group, counts, ranges, pause)

    def match_all(
        self,
        inputs: Sequence[int],
        ordinals: Ordinals,
        last: bool,
        ranges: Ranges,
        counts: Sequence[int],
        pause: Callable[[], None],
    ) -> BitMap:
        """As `match`, the ordinals of users of all groups."""
        if not inputs:
            return BitMap()
        column = self._column(inputs, range(ordinals.groups), last, pause)
        return self._flat.of_all(column, ordinals, counts, ranges, pause)

    def _column(
        self, inputs: Sequence[int], groups: Iterable[int], last: bool, pause: Callable[[], None]
    ) -> Stored:
        """The last or first times over the inputs, for questions about some groups."""

        def page_of(group: int, page: int) -> Int64s | None:
            return self._page_of(inputs, group, page << PAGE_BITS, last, pause)

        for group in groups:
            for count, number in enumerate(inputs):
                if count % PAUSE_PAGES == 0:
                    pause()
                self._settle(number, group)
        name = tuple(inputs), last
        for number in inputs:
            self._flat_of_input.setdefault(number, set()).add(name)
        return Stored(name, ABSENT_TIME, page_of)

    def _page_of(
        self, inputs: Sequence[int], group: int, start: int, last: bool, pause: Callable[[], None]
    ) -> Int64s | None:
        """The last or first times of a page over the inputs, without those that are buffered."""
        found: Int64s | None = None
        for count, number in enumerate(inputs, 1):
            times = self._page_cache.view(self._page_key(number, group, start), SEEN_TIMES)
            if times is not None:
                half = times[_half(last)]
                found = half if found is None else _joined_times([found, half], last)
            if count % PAUSE_PAGES == 0 and count < len(inputs):
                # A view is valid until others go first.
                found = None if found is None else found.copy()
                pause()
        return found

    def match_users(
        self, inputs: Sequence[int], group: int, last: bool, ranges: Ranges, users: BitMap
    ) -> BitMap:
        """As `match`, for few users."""
        if len(users) == 1:
            return self._match_one(inputs, group, last, ranges, users.min())
        ids = ids_of(users)
        passing = np.zeros(len(ids), np.bool_)
        for page in np.unique(ids >> PAGE_BITS).tolist():
            times = self._times_of_page(inputs, group, page << PAGE_BITS, last)
            if times is not None:
                here = ids >> PAGE_BITS == page
                passing[here] = ranges.holds(times[ids[here] & PAGE_MASK])
        return bitmap_of(ids[passing])

    def _match_one(self, inputs: Sequence[int], group: int, last: bool, ranges: Ranges, dense: int) -> BitMap:
        times = [t for number in inputs if (t := self.times(number, group << GROUP_SHIFT | dense))]
        if not times:
            return BitMap()
        instant = max(t[1] for t in times) if last else min(t[0] for t in times)
        return BitMap((dense,)) if ranges.holds(np.array([instant], np.int64))[0] else BitMap()

    def _times_of_page(
        self, inputs: Sequence[int], group: int, start: int, last: bool
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        for number in inputs:
            self._settle(number, group)
        keys = (self._page_key(number, group, start) for number in inputs)
        found = (self._page_cache.find(each, SEEN_TIMES) for each in keys)
        halves = [as_numpy(cached.value)[_half(last)] for cached in found if cached is not None]
        return _joined_times(halves, last) if halves else None


@functools.lru_cache(PAGE_KEYS_KEPT)
def _page_key(account: int, input_number: int, group: int, page: int) -> bytes:
    return key(Family.SEEN, account, input_number, group, page)


@functools.lru_cache(PAGE_KEYS_KEPT)
def _belonging_key(account: int, input_number: int, group: int) -> bytes:
    return key(Family.BELONGS, account, input_number, group)


def _half(last: bool) -> slice:
    """Where the last or first times of a page are."""
    return slice(PAGE_USERS, None) if last else slice(0, PAGE_USERS)


def _joined_times(columns: Sequence[Int64s], last: bool) -> Int64s:
    """The last or first time of each user over several inputs."""
    if len(columns) == 1:
        return columns[0]
    if last:
        return np.asarray(np.maximum.reduce(columns))
    # The value for "no time" is the smallest of all: any time must win here.
    earliest = np.minimum.reduce([np.where(c == ABSENT_TIME, TIME_MAX_MICROS + 1, c) for c in columns])
    return np.where(earliest > TIME_MAX_MICROS, ABSENT_TIME, earliest)


def _joined(pieces: Sequence[_Spans]) -> _Spans:
    """Users of several batches, each with its overall first and last time."""
    if len(pieces) == 1:
        return pieces[0]
    users, first, last = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    # Each piece is sorted, so a stable sort merges them.
    order = np.argsort(users, kind="stable")
    users = users[order]
    starts = runs(users)[:-1]
    return _Spans(
        users[starts], np.minimum.reduceat(first[order], starts), np.maximum.reduceat(last[order], starts)
    )
