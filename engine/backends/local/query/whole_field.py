"""What a field holds over all groups of an account, kept until the field changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.account.account import Account
from engine.backends.local.attributes.index import value_suffix
from engine.backends.local.storage.arrays import Bools
from engine.backends.local.storage.bitmaps import CONTAINER_IDS, bitmap_of_mask
from engine.backends.local.storage.flat_columns import FlatColumn
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.ranges import ABSENT_SMALL, Ranges
from engine.backends.local.storage.step_cache import ReadKey
from engine.backends.local.storage.turns import PAUSE_PAGES, Unshared
from engine.values import Kind

FEW_TEXTS_MAX = 512
"""Distinct strings up to which each is tested once for all groups: most attributes have a handful."""

COMPARED_AT_ONCE = 16 * CONTAINER_IDS
"""Numbers of two bytes that are compared before others go first: a fraction of a millisecond."""

KEPT_USERS_MIN = 256
"""Users of a value from which their set is kept. A value of few users is seldom asked about again, and there
may be a million of them.
"""


class _Texts(list[str]):
    """The distinct strings of a field; `are_few` is false when there are too many to keep."""

    are_few = True


class WholeField:
    """One field over all groups. The sets are of ordinals; do not modify them."""

    def __init__(self, account: Account, field: int, ordinals: Ordinals, read: Unshared) -> None:
        self._account = account
        self._field = field
        self._ordinals = ordinals
        self._read = read
        self._reads: tuple[ReadKey, ...] = tuple(("field", field, group) for group in range(ordinals.groups))

    def present(self, kind: Kind) -> BitMap:
        """Users whose field has the kind."""
        name = key(Family.FIELD_PRESENT, self._account.number, self._field, kind)
        return self._kept(name, lambda: self._present_by_group(kind))

    def _present_by_group(self, kind: Kind) -> Iterator[tuple[int, BitMap | bytes]]:
        for group in range(self._ordinals.groups):
            if group % PAUSE_PAGES == 0:
                self._read.pause()
            yield group, self._account.properties.present(self._field, kind, group)

    def with_value(self, kind: Kind, value: str | bool) -> BitMap:
        """Users whose field is this string or bool, or a list with this element."""
        groups, pause = self._ordinals.groups, self._read.pause
        name = key(Family.FIELD_VALUE, self._account.number, self._field, kind) + value_suffix(value)
        with_value = self._account.properties.with_value_by_group
        return self._kept(name, lambda: with_value(self._field, kind, groups, value, pause), KEPT_USERS_MIN)

    def in_ranges(self, kind: Kind, ranges: Ranges) -> BitMap:
        """Users whose number or time lies in the ranges."""
        self._read.looked_at += sum(self._account.directory.counts)
        small = self._small_column(kind)
        if small is None:
            groups = range(self._ordinals.groups)
            return self._ordinals.of_masks(self._mask(kind, ranges, group) for group in groups)
        users = BitMap(optimize=False)
        for start in range(0, len(small), COMPARED_AT_ONCE):
            self._read.pause()
            inside = bitmap_of_mask(ranges.holds(small[start : start + COMPARED_AT_ONCE]))
            users |= inside.shift(start) if start else inside
        return users

    def _small_column(self, kind: Kind) -> npt.NDArray[np.uint16] | None:
        """The number of each ordinal, in two bytes each; None when they take more. It takes a quarter of a
        millisecond to join them, and less than half of that to compare them.
        """
        name = key(Family.FIELD_COLUMN, self._account.number, self._field, kind)
        cache, ordinals = self._account.cache, self._ordinals
        found: npt.NDArray[np.uint16] | None = cache.find_part(ordinals.place, name, self._reads, np.ndarray)
        if found is None:
            began = cache.instant()
            for group in range(ordinals.groups):
                column, count = self._flat_column(kind, group)
                if column.values.dtype != np.uint16:
                    return None
                if found is None:
                    found = np.full(ordinals.size, ABSENT_SMALL, np.uint16)
                start = group * ordinals.stride
                found[start : start + count] = column.values[:count]
            assert found is not None
            cache.add_part(ordinals.place, name, found, found.nbytes, began)
        return found

    def _mask(self, kind: Kind, ranges: Ranges, group: int) -> Bools:
        column, count = self._flat_column(kind, group)
        return column.mask(ranges, count, self._read.pause)

    def _flat_column(self, kind: Kind, group: int) -> tuple[FlatColumn, int]:
        """The column of a group, and the number of its dense ids that have ordinals."""
        pause = self._read.pause
        pause()
        # Users that came since the ordinals were made have none, and are answered again.
        count = min(self._account.directory.counts[group], self._ordinals.stride)
        return self._account.properties.flat_column(self._field, kind, group, count, pause), count

    def few_texts(self, kind: Kind) -> list[str] | None:
        """The distinct strings, or elements of lists; None when they are many. Some may have no users."""
        name = key(Family.FIELD_TEXT, self._account.number, self._field, kind)
        cache, place = self._account.cache, self._ordinals.place
        texts = cache.find_part(place, name, self._reads, _Texts)
        if texts is None:
            began = cache.instant()
            texts = self._read_texts(kind)
            cache.add_part(place, name, texts, sum(map(len, texts)), began)
        return texts if texts.are_few else None

    def _read_texts(self, kind: Kind) -> _Texts:
        distinct: set[str] = set()
        for group in range(self._ordinals.groups):
            self._read.pause()
            texts = self._account.properties.few_texts(self._field, kind, group, FEW_TEXTS_MAX, self._read)
            if texts is not None:
                distinct.update(texts)
            if texts is None or len(distinct) > FEW_TEXTS_MAX:
                many = _Texts()
                many.are_few = False
                return many
        return _Texts(distinct)

    def _kept(
        self, name: bytes, sets: Callable[[], Iterator[tuple[int, BitMap | bytes]]], users_min: int = 0
    ) -> BitMap:
        """The users of all groups: as kept under a name, or found anew and kept, if they are enough."""
        cache, ordinals = self._account.cache, self._ordinals
        found = cache.find(ordinals.place, name, self._reads)
        if found is None:
            began = cache.instant()
            self._read.looked_at += ordinals.groups
            found = ordinals.joined_stored(sets())
            if len(found) >= users_min:
                cache.add(ordinals.place, name, found, ordinals.size, began)
        return found
