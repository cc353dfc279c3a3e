"""Earliest and latest write time of each field, without a column of times per field.

A profile holds the time of each write. For a page of users there is, beside their profiles, the *span* of
times of each field and the number of writes at each end of it. A new write widens the span at once. When the
last write at an end is replaced or removed, that end becomes *loose*: all other writes lie inside it. An
answer needs only the outermost ends of all pages. So the profiles of a page are read only when its loose end
is the outermost. That is rare, unless most users are rewritten between two questions, each at a different
time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Int64s, runs
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import (
    PAGE_BITS,
    PAGE_USERS,
    CachedPage,
    MessageCodec,
    PageCache,
)
from engine.backends.local.storage.transactions import missing_keys
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.values import Micros, Value


class Span(msgspec.Struct, array_like=True, gc=False):
    """First and last time of the current writes to one field in a page, and the number of writes at exactly
    these times. A count of 0 marks a loose end.
    """

    first: Micros
    last: Micros
    at_first: int = 1
    at_last: int = 1

    def replace(self, before: Micros | None, after: Micros | None) -> None:
        """Moves a write from `before` to `after`. None: no value before, or after."""
        # Every incoming write passes here, so it calls nothing else.
        first, last = self.first, self.last
        if before is not None:
            if before == first:
                self.at_first -= 1
            if before == last:
                self.at_last -= 1
        if after is None:
            return
        if after > last:
            self.last = after
            self.at_last = 1
        elif after == last:
            self.at_last += 1
        if after < first:
            self.first = after
            self.at_first = 1
        elif after == first:
            self.at_first += 1

    def leave(self, times: Int64s) -> None:
        """Removes writes at these times."""
        self.at_first -= int(np.count_nonzero(times == self.first))
        self.at_last -= int(np.count_nonzero(times == self.last))

    def join(self, other: Span) -> None:
        """Adds the writes of another span."""
        if other.last > self.last:
            self.last, self.at_last = other.last, other.at_last
        elif other.last == self.last:
            self.at_last += other.at_last
        if other.first < self.first:
            self.first, self.at_first = other.first, other.at_first
        elif other.first == self.first:
            self.at_first += other.at_first

    def count(self, users: int) -> None:
        """Tightens the span given the number of users that have the field: when all their writes are at one
        end, so is the other end.
        """
        if self.at_last == users:
            self.first, self.at_first = self.last, users
        elif self.at_first == users:
            self.last, self.at_last = self.first, users


PageSpans = dict[int, Span]
"""Spans by field. A field may have no users left."""

SPANS: MessageCodec[PageSpans] = MessageCodec(PageSpans, dict)


class _At(NamedTuple):
    """A span and its page of users."""

    span: Span
    group: int
    page: int


class WriteTimes:
    """The spans of one account's fields. Call with the state lock held, inside a session of the page cache.

    `users_with` returns the users of a group that have a value for a field, `profile_of` the writes of one
    user by field.
    """

    def __init__(
        self,
        page_cache: PageCache,
        account: int,
        users_with: Callable[[int, int], BitMap],
        profile_of: Callable[[UserRef], Mapping[int, tuple[Micros, int, Value | None]]],
    ) -> None:
        self._page_cache = page_cache
        self._account = account
        self._users_with = users_with
        self._profile_of = profile_of
        self._open: dict[int, PageSpans] = {}
        """Pages of the current run of writes."""

    def begin(self) -> None:
        """Starts a run of writes. Pages found in one session may be evicted before the next."""
        self._open.clear()

    def of_page(self, ref: UserRef) -> PageSpans:
        """The spans of the user's page, to be modified."""
        spans = self._open.get(ref >> PAGE_BITS)
        if spans is None:
            cached = self._page_cache.change(
                self._key(ref >> GROUP_SHIFT, (ref & DENSE_MASK) >> PAGE_BITS), SPANS
            )
            spans = self._open[ref >> PAGE_BITS] = cached.value
        return spans

    def add_many(self, field: int, refs: UserRefs, times: Int64s) -> None:
        """Adds writes at these times to the field. Users are distinct and ascending."""
        bounds = runs(refs >> PAGE_BITS)
        starts = bounds[:-1]
        if not len(refs):
            return
        first, last = np.minimum.reduceat(times, starts), np.maximum.reduceat(times, starts)
        of_page = np.repeat(np.arange(len(starts)), np.diff(bounds))
        at_first = np.add.reduceat(times == first[of_page], starts, dtype=np.int64)
        at_last = np.add.reduceat(times == last[of_page], starts, dtype=np.int64)
        spans_of_pages = zip(first.tolist(), last.tolist(), at_first.tolist(), at_last.tolist(), strict=True)
        for ref, ends in zip(refs[starts].tolist(), spans_of_pages, strict=True):
            spans = self.of_page(ref)
            if field in spans:
                spans[field].join(Span(*ends))
            else:
                spans[field] = Span(*ends)

    def remove_many(self, field: int, refs: UserRefs, times: Sequence[Micros]) -> None:
        """Removes writes at these times from the field. Users are distinct."""
        order = np.argsort(refs)
        refs, removed = refs[order], np.array(times, np.int64)[order]
        for start, end in itertools.pairwise(runs(refs >> PAGE_BITS).tolist()):
            self.of_page(int(refs[start]))[field].leave(removed[start:end])

    def _key(self, group: int, page: int) -> bytes:
        return key(Family.WRITE_TIMES, self._account, group, page)

    # --- answers --------------------------------------------------------------------------------------------

    def first_and_last(self, field: int, groups: int) -> tuple[Micros, Micros] | None:
        """First and last time of the current writes to the field, which must have users.

        None: a page of profiles was read and more may be needed. Ask again after releasing the lock to
        others.
        """
        spans = list(self._spans(field, groups))
        # At equal times an exact end sorts before a loose one.
        first = min(spans, key=lambda at: (at.span.first, not at.span.at_first))
        last = max(spans, key=lambda at: (at.span.last, bool(at.span.at_last)))
        if first.span.at_first and last.span.at_last:
            return first.span.first, last.span.last
        loose = last if first.span.at_first else first
        self._tighten(loose.group, loose.page)
        return None

    def _spans(self, field: int, groups: int) -> Iterator[_At]:
        """The field's spans in pages where at least one user has it."""
        for group in range(groups):
            users = self._users_with(field, group)
            for page in range((users.max() >> PAGE_BITS) + 1 if users else 0):
                here = users.range_cardinality(page * PAGE_USERS, (page + 1) * PAGE_USERS)
                if here:
                    span = self._page(group, page).value[field]
                    span.count(here)
                    yield _At(span, group, page)

    def _page(self, group: int, page: int) -> CachedPage[PageSpans]:
        cached = self._page_cache.find(self._key(group, page), SPANS)
        if cached is None:
            raise missing_keys(self._key(group, page))
        return cached

    def _tighten(self, group: int, page: int) -> None:
        """Recomputes every loose end of a page from the profiles."""
        cached = self._page(group, page)
        fields = [field for field, span in cached.value.items() if not (span.at_first and span.at_last)]
        here = BitMap(range(page * PAGE_USERS, (page + 1) * PAGE_USERS))
        users = BitMap.union(BitMap(), *(self._users_with(field, group) & here for field in fields))
        found: PageSpans = {}
        for dense in users:
            profile = self._profile_of(group << GROUP_SHIFT | dense)
            for field in fields:
                write = profile.get(field)
                if write is None or write[2] is None:
                    continue
                span = found.get(field)
                if span is None:
                    found[field] = Span(write[0], write[0])
                else:
                    span.replace(None, write[0])
        changed = self._page_cache.change(cached.key, SPANS).value
        for field in fields:
            del changed[field]
        changed.update(found)
