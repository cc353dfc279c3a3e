"""Between which times the writes lie by which users have their fields, without a column of times a field.

A profile holds the time of each write. For a page of users there is, beside their profiles, the *span* of the
times of each field, and how many writes are at each end of it. A write widens it at once. When the last write
at an end is replaced or removed the end is *loose*: all others lie inside. An answer needs only the outermost
ends of all pages, so the profiles of a page are read when a loose end is the outermost: seldom, unless most
users are written anew between two questions, each at a time of its own.
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
    """First and last time of the writes to one field by which users of a page have it, and how many of them
    are at just these times: none when the end is loose.
    """

    first: Micros
    last: Micros
    at_first: int = 1
    at_last: int = 1

    def replace(self, before: Micros | None, after: Micros | None) -> None:
        """A write was at `before` and is at `after`; None = there was, or is, no value."""
        # On the way of every write that comes in: no further calls.
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
        """Writes at these times are there no more."""
        self.at_first -= int(np.count_nonzero(times == self.first))
        self.at_last -= int(np.count_nonzero(times == self.last))

    def join(self, other: Span) -> None:
        """As many writes as another span has came to these."""
        if other.last > self.last:
            self.last, self.at_last = other.last, other.at_last
        elif other.last == self.last:
            self.at_last += other.at_last
        if other.first < self.first:
            self.first, self.at_first = other.first, other.at_first
        elif other.first == self.first:
            self.at_first += other.at_first

    def count(self, users: int) -> None:
        """So many users have the field: when all of their writes are at one end, so is the other end."""
        if self.at_last == users:
            self.first, self.at_first = self.last, users
        elif self.at_first == users:
            self.last, self.at_last = self.first, users


PageSpans = dict[int, Span]
"""By field; of some fields nobody may be left."""

SPANS: MessageCodec[PageSpans] = MessageCodec(PageSpans, dict)


class _At(NamedTuple):
    """A span and the page of users it is of."""

    span: Span
    group: int
    page: int


class WriteTimes:
    """The spans of one account's fields. Called with the state lock held, inside a session of the page_cache.

    `users_with` answers who of a group has a value for a field, `profile_of` the writes of one of them, by
    field.
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
        """The pages of this run of writes."""

    def begin(self) -> None:
        """Starts a run of writes: pages found in one session may be gone in the next."""
        self._open.clear()

    def of_page(self, ref: UserRef) -> PageSpans:
        """The spans of the page that a user is in, which are about to change."""
        spans = self._open.get(ref >> PAGE_BITS)
        if spans is None:
            cached = self._page_cache.get(
                self._key(ref >> GROUP_SHIFT, (ref & DENSE_MASK) >> PAGE_BITS), SPANS
            )
            self._page_cache.changed(cached)
            spans = self._open[ref >> PAGE_BITS] = cached.value
        return spans

    def add_many(self, field: int, refs: UserRefs, times: Int64s) -> None:
        """Users, all different and in order, have the field by writes at these times."""
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
        """Writes at these times, by which different users had the field, are there no more."""
        order = np.argsort(refs)
        refs, removed = refs[order], np.array(times, np.int64)[order]
        for start, end in itertools.pairwise(runs(refs >> PAGE_BITS).tolist()):
            self.of_page(int(refs[start]))[field].leave(removed[start:end])

    def _key(self, group: int, page: int) -> bytes:
        return key(Family.WRITE_TIMES, self._account, group, page)

    # --- answers --------------------------------------------------------------------------------------------

    def first_and_last(self, field: int, groups: int) -> tuple[Micros, Micros] | None:
        """The first and the last time of the writes by which users have the field, some of whom there are.

        None: this took the reading of a page of profiles, and may take more; to be asked again, after others
        had their turn.
        """
        spans = list(self._spans(field, groups))
        # Of two ends at one time a loose one comes second.
        first = min(spans, key=lambda at: (at.span.first, not at.span.at_first))
        last = max(spans, key=lambda at: (at.span.last, bool(at.span.at_last)))
        if first.span.at_first and last.span.at_last:
            return first.span.first, last.span.last
        loose = last if first.span.at_first else first
        self._tighten(loose.group, loose.page)
        return None

    def _spans(self, field: int, groups: int) -> Iterator[_At]:
        """The field's spans in pages where somebody has it."""
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
        """Makes every end in a page the true one, from the profiles of those who have a field with a loose
        one.
        """
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
        for field in fields:
            del cached.value[field]
        cached.value.update(found)
        self._page_cache.changed(cached)
