"""What a field holds over all groups of an account, kept until the field changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyroaring import BitMap

from engine.backends.local.account.account import Account
from engine.backends.local.attributes.index import value_suffix
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import reads_of_groups
from engine.backends.local.storage.turns import PAUSE_PAGES, Unshared
from engine.values import Kind

FEW_TEXTS_MAX = 512
"""Distinct strings up to which each is tested once for all groups: most attributes have a handful."""

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
        self._reads = reads_of_groups("field", (field,), ordinals.groups)

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
        account, counts = self._account, self._account.directory.counts
        self._read.looked_at += sum(counts)
        properties, pause = account.properties, self._read.pause
        return properties.match_column_of_all(self._field, kind, self._ordinals, ranges, counts, pause)

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
