"""Members in pages, as a reader has them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from pyroaring import BitMap

from engine.backends.base.serving import ServedPage
from engine.backends.local.query.member_order import (
    Cut,
    Position,
    after_group,
    cut_page,
    position_of,
)
from engine.backends.local.serving.views import AccountState, AccountView, Changed, ScopeState
from engine.backends.local.storage.bitmaps import ids_of
from engine.errors import StoreUnavailable
from engine.values import Micros

ATTEMPTS_MAX = 50
"""Attempts to read ids that the writer changes meanwhile, a millisecond apart."""
PAUSE_S = 0.001
KEPT_MAX = 64
"""Walks whose members are kept for their next page."""
KEPT_S = 60.0
"""How long they are kept after a page."""


class Members(NamedTuple):
    """The members of an audience at an instant, by group: `engine.backends.base.ServedMembers`."""

    account: AccountView
    scope: ScopeState
    groups: tuple[BitMap, ...]
    as_of: Micros
    revision: int

    def page(self, after: str, limit: int) -> ServedPage:
        """A page of them, without users who were erased meanwhile. Raises StoreUnavailable when their ids are
        not served any more.
        """
        cut = self.cut(after, limit)
        for _ in range(ATTEMPTS_MAX):
            try:
                found = ids_of_users(self.account.state(), cut)
            except Changed:
                time.sleep(PAUSE_S)
                continue
            if found is None:
                break
            return ServedPage([*filter(None, found)], cut.after, self.as_of, self.revision)
        raise StoreUnavailable("the members are not at hand any more; try again")

    def cut(self, after: str, limit: int) -> Cut:
        """The users of a page. Raises InvalidInput for an `after` that is none."""
        first = after_group(after)
        return cut_page(after, limit, enumerate(self.groups[first:], first))

    def settled_page(self, after: str, limit: int, revision: int) -> ServedPage | None:
        """A page of them, with everything that was acknowledged so far; None when only the writer can tell.
        Raises Changed.
        """
        users = self.account.state()
        cut = self.cut(after, limit)
        is_touched = self._is_touched(users, after, cut)
        found = None if is_touched else ids_of_users(users, cut)
        if not users.is_current():
            raise Changed
        # At last: an erasure before this would have changed the ids.
        if found is None or not self.scope.has_ids_of(users):
            return None
        return ServedPage(found, cut.after, self.as_of, revision)

    def _is_touched(self, users: AccountState, after: str, cut: Cut) -> bool:
        """Whether a user of the page was touched since the members were published, one who could be on it, or
        the member behind it: then there may be no next page.
        """
        if self.scope.is_settled(users) and self.scope.is_current():
            return False
        start, end = position_of(after), self._first_behind(cut)
        last_group = len(self.groups) - 1 if end is None else end.group
        return any(
            users.is_any_touched(
                group,
                start.dense + 1 if start is not None and group == start.group else 0,
                end.dense + 1 if end is not None and group == end.group else None,
                self.scope.stamp,
            )
            for group in range(0 if start is None else start.group, last_group + 1)
        )

    def _first_behind(self, cut: Cut) -> Position | None:
        """The first member behind a page; None when there is none. With it there is a next page."""
        if not cut.after:
            return None
        [(group, users)] = self.cut(cut.after, 1).users
        return Position(group, users.min())


def ids_of_users(users: AccountState, cut: Cut) -> list[str] | None:
    """The ids of the users of a page, "" for those who were erased; None when some are not there. They are
    right if the account is current afterwards. Raises Changed.
    """
    found: list[str] = []
    for group, some in cut.users:
        ids = users.user_ids(group, ids_of(some))
        if ids is None:
            return None
        found += ids
    return found


class Walks:
    """Members whose next page is likely to be asked for. Safe to call from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Micros], tuple[float, Members]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, name: str, members: Members) -> None:
        """Keeps the members of the audience of that name for a while."""
        now = time.monotonic()
        with self._lock:
            self._kept.pop((name, members.as_of), None)
            self._kept[name, members.as_of] = now, members
            for key in [*self._old(now)]:
                del self._kept[key]

    def find(self, name: str, as_of: Micros) -> Members | None:
        """The members kept for that instant."""
        with self._lock:
            found = self._kept.get((name, as_of))
        return None if found is None else found[1]

    def _old(self, now: float) -> Iterator[tuple[str, Micros]]:
        surplus = len(self._kept) - KEPT_MAX
        for number, (key, (kept_at, _)) in enumerate(self._kept.items()):
            if number >= surplus and kept_at > now - KEPT_S:
                return
            yield key
