"""Number of users for each value of an attribute, most frequent first.

An attribute may have as many values as users, so values are counted without blocking writers. Counts that are
not in the index yet are copied under the state lock (`ValueCounts`). The rest is read from a read transaction
begun at the same moment. Both together are one state of the store. Strings are merged from sorted scans and
never held in memory together.
"""

from __future__ import annotations

import array
import heapq
import itertools
import operator
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backends.base import ValueCount
from engine.backends.local.attributes.index import (
    DIGEST_SUFFIX,
    PLAIN_SUFFIX,
    TEXT_IN_KEY_BYTES_MAX,
    column_codec,
    decode_text,
    text_key,
    value_suffix,
)
from engine.backends.local.catalog.ranks import Rank, first_ranks
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import BITMAP, U32_BYTES, PageCache, as_numpy
from engine.backends.local.storage.transactions import ReadTransaction
from engine.errors import DataLoss
from engine.values import Kind, kind_of

VALUES_PER_CHECK = 1_024


class ValueCounts:
    """The values of one field. Created under the state lock, in which `txn` began; read without it until
    `txn` ends. `check` is called from time to time and may raise.
    """

    def __init__(
        self,
        page_cache: PageCache,
        txn: ReadTransaction,
        account: int,
        field: int,
        groups: int,
        check: Callable[[], None],
    ) -> None:
        self._txn = txn
        self._field = (account, field)
        self._groups = range(groups)
        self._check = check
        self._sizes: dict[bytes, dict[bytes, int]] = {}
        self._texts: dict[bytes, str] = {}
        self._pages: dict[bytes, array.array[Any]] = {}
        values, columns, texts = (
            key(family, account, field)
            for family in (Family.FIELD_VALUE, Family.FIELD_COLUMN, Family.FIELD_TEXT)
        )
        for stored, value in page_cache.unstored((values, columns, texts)):
            if stored.startswith(values):
                at = len(self._value_prefix(Kind.STRING, 0))
                self._sizes.setdefault(stored[:at], {})[stored[at:]] = len(value)
            elif stored.startswith(columns):
                self._pages[stored] = value[:]
            else:
                self._texts[stored] = value

    def top(self, prefix: str, after: ValueCount | None, limit: int) -> list[ValueCount]:
        """Up to `limit` values after `after`: strings that start with `prefix`, or values of all kinds when
        it is empty.
        """
        ranks: Iterable[Rank] = self._strings(prefix)
        if not prefix:
            numbers = (self._column(kind, after, limit) for kind in (Kind.NUMBER, Kind.TIME))
            ranks = itertools.chain(ranks, self._bools(), *numbers)
        last = None if after is None else (-after.users, int(kind_of(after.value)), after.value)
        return [ValueCount(value, -negative) for negative, _, value in first_ranks(ranks, last, limit)]

    # --- strings and elements of lists ----------------------------------------------------------------------

    def _strings(self, prefix: str) -> Iterator[Rank]:
        wanted, kind = prefix.encode(), int(Kind.STRING)
        scans = [
            self._scan(self._value_prefix(kind, group), wanted)
            for kind in (Kind.STRING, Kind.LIST)
            for group in self._groups
        ]
        by_suffix = operator.itemgetter(0)
        merged = heapq.merge(*scans, key=by_suffix)
        for number, (suffix, same) in enumerate(itertools.groupby(merged, by_suffix)):
            if number % VALUES_PER_CHECK == 0:
                self._check()
            _, value_prefix, users = next(same)
            users += sum(more for _, _, more in same)
            if suffix[:1] == PLAIN_SUFFIX:
                yield -users, kind, suffix[1:].decode()
                continue
            text = self._text(value_prefix + suffix)
            if text.startswith(prefix):
                yield -users, kind, text

    def _scan(self, value_prefix: bytes, wanted: bytes) -> Iterator[tuple[bytes, bytes, int]]:
        """Suffix, prefix and users of the values in one group, by suffix: short values that begin with
        `wanted`, and all long ones.
        """
        starts = [DIGEST_SUFFIX]
        if len(wanted) <= TEXT_IN_KEY_BYTES_MAX:
            starts.insert(0, PLAIN_SUFFIX + wanted)
        unstored = self._sizes.get(value_prefix, {})
        for start in starts:
            stored = self._stored(value_prefix, start, unstored)
            fresh = sorted((s, value_prefix, n) for s, n in unstored.items() if n and s.startswith(start))
            yield from heapq.merge(stored, fresh) if fresh else stored

    def _stored(
        self, value_prefix: bytes, start: bytes, unstored: Container[bytes]
    ) -> Iterator[tuple[bytes, bytes, int]]:
        at = len(value_prefix)
        for found, stored in self._txn.scan(value_prefix + start):
            suffix = found[at:]
            if suffix not in unstored:
                yield suffix, value_prefix, _size(stored)

    def _text(self, value_key: bytes) -> str:
        stored_key = text_key(value_key)
        text = self._texts.get(stored_key)
        if text is None:
            stored = self._txn.get(stored_key)
            if stored is None:
                family = Family.FIELD_TEXT.name
                raise DataLoss(f"a value of the family {family} is missing", metadata={"key_family": family})
            text = decode_text(stored)
        return text

    # --- other kinds ----------------------------------------------------------------------------------------

    def _bools(self) -> Iterator[Rank]:
        for value in (False, True):
            suffix = value_suffix(value)
            users = sum(self._users(self._value_prefix(Kind.BOOL, group), suffix) for group in self._groups)
            if users:
                yield -users, int(Kind.BOOL), value

    def _users(self, value_prefix: bytes, suffix: bytes) -> int:
        unstored = self._sizes.get(value_prefix, {}).get(suffix)
        if unstored is not None:
            return unstored
        stored = self._txn.get(value_prefix + suffix)
        return 0 if stored is None else _size(stored)

    def _column(self, kind: Kind, after: ValueCount | None, limit: int) -> Iterator[Rank]:
        """The first numbers or times after `after`."""
        pages = [page for group in self._groups for page in self._present(kind, group)]
        if not pages:
            return
        values, counts = np.unique(np.concatenate(pages), return_counts=True)
        if after is not None:
            behind = counts < after.users
            if kind_of(after.value) is kind:
                behind |= (counts == after.users) & (values > after.value)
            elif kind_of(after.value) < kind:
                behind |= counts == after.users
            values, counts = values[behind], counts[behind]
        for at in np.lexsort((values, -counts))[:limit]:
            yield -int(counts[at]), int(kind), values[at].item()

    def _present(self, kind: Kind, group: int) -> Iterator[npt.NDArray[Any]]:
        """The values in the pages of a group."""
        codec = column_codec(kind)
        prefix = key(Family.FIELD_COLUMN, *self._field, kind, group)
        pages = [page for stored, page in self._pages.items() if stored.startswith(prefix)]
        stored_pages = (v for found, v in self._txn.scan(prefix) if found not in self._pages)
        for page in itertools.chain(pages, map(codec.decode, stored_pages)):
            self._check()
            values = as_numpy(page)
            # Adding 0 turns -0.0 into 0.0: they are the same number.
            yield values[codec.is_present(values)] + 0

    def _value_prefix(self, kind: Kind, group: int) -> bytes:
        return key(Family.FIELD_VALUE, *self._field, kind, group)


def _size(stored: memoryview) -> int:
    # With many values most sets have one user; no bitmap is built for those.
    return 1 if len(stored) == U32_BYTES else len(BITMAP.decode(stored))
