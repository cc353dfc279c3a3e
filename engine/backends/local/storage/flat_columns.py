"""Flat columns: the pages of a column of a group, one after the other in memory.

A column of users is stored in pages of `PAGE_USERS`, so that a checkpoint rewrites little of it. Comparing
page by page costs more in calls than in comparisons. So a column that is asked about is copied into one
array. A write to a page marks it, and the next question copies that page again. Numbers are kept in two bytes
each while all of them are integers below `ABSENT_SMALL`: scores, counts, years.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Bools
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.page_cache import PAGE_BITS, PAGE_USERS
from engine.backends.local.storage.ranges import ABSENT_SMALL, Ranges
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.bounded_cache import BoundedCache

COMPARED_AT_ONCE = PAUSE_PAGES * PAGE_USERS
"""Values compared before others go first."""

Values: TypeAlias = npt.NDArray[Any]


class FlatColumn:
    """A column of a group. `stale`: pages that were written to since they were copied."""

    def __init__(self, absent: float) -> None:
        self._absent = absent
        self.values: Values = np.empty(0, np.uint16 if math.isnan(absent) else np.int64)
        self.stale: set[int] = set()

    def grow(self, pages: int) -> None:
        """Makes room for a number of pages; those that are new are stale."""
        known = len(self.values) >> PAGE_BITS
        if pages > known:
            grown = np.empty(pages << PAGE_BITS, self.values.dtype)
            grown[: len(self.values)] = self.values
            self.values = grown
            self.stale.update(range(known, pages))

    def copy_page(self, page: int, values: Values | None) -> None:
        """Replaces the values of a page. None: it has none."""
        part = slice(page << PAGE_BITS, (page + 1) << PAGE_BITS)
        if self.values.dtype != np.uint16:
            self.values[part] = self._absent if values is None else values
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
        flat = self._of_size(column, (count + PAGE_USERS - 1) >> PAGE_BITS, absent)
        copied, nbytes = 0, flat.values.nbytes
        # It is in the cache before the first pause, so writes in a pause mark their pages again.
        while flat.stale:
            page = min(flat.stale)
            flat.copy_page(page, page_of(page))
            copied += 1
            # Not for ever, however many others write.
            if copied % PAUSE_PAGES == 0 and copied << PAGE_BITS <= len(flat.values):
                pause()
        if flat.values.nbytes != nbytes:
            self._held.put((self._owner, column), flat, flat.values.nbytes)
        return flat.values[:count]

    def _of_size(self, column: Hashable, pages: int, absent: float) -> FlatColumn:
        """The column with room for a number of pages, in the cache."""
        key = self._owner, column
        flat = self._held.get(key)
        if flat is None or len(flat.values) < pages << PAGE_BITS:
            flat = flat or FlatColumn(absent)
            flat.grow(pages)
            self._held.put(key, flat, flat.values.nbytes)
        return flat


def match_values(values: Values, ranges: Ranges, pause: Callable[[], None]) -> BitMap:
    """The positions of values in the ranges."""
    return bitmap_of_mask(mask_of_values(values, ranges, pause))


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
