"""The change stream of one calculated audience, until the watcher stops.

A snapshot is read page by page while the membership changes. The cursor is taken first, so every change
during the snapshot is repeated after it and the last item for each user is right. Each watcher reads the
stored change log at its own pace; nothing waits for it.

A cursor belongs to an epoch: one calculation of the audience in one store. Calculated anew, or restored from
a backup, the same sequence numbers mean other changes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from engine.audiences.model import WatchChanges, WatchItem, WatchProgress, WatchSnapshot
from engine.backends.base import ChangePage, Members, Membership, MembershipReader, Store
from engine.errors import CursorExpired, FailedPrecondition, InvalidInput, NotFound
from engine.resources.names import Resource, check_name
from engine.resources.records import Audience, Closing, Milestone, account_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

PROGRESS_INTERVAL_DEFAULT_MICROS = 5 * MICROS_PER_SECOND
PROGRESS_INTERVAL_MIN_MICROS = MICROS_PER_SECOND // 10
SNAPSHOT_PAGE_USERS = 1_000
CHANGES_PAGE = 1_000

STOP_POLL_SECONDS = 0.25
"""Maximum wait before checking whether the watcher has stopped."""
EPOCH_BYTES = 8


class WatchedStore(Store, MembershipReader, Protocol):
    """A store with memberships to watch."""


class Watcher:
    """Makes streams. `calculated`, `reached` and `failure` are those of `Live`."""

    def __init__(
        self,
        repository: Repository,
        calculated: Callable[[str], bool],
        reached: Callable[[str], Micros],
        failure: Callable[[str], str],
        backend: WatchedStore,
    ) -> None:
        self._repository = repository
        self._calculated = calculated
        self._reached = reached
        self._failure = failure
        self._backend = backend

    def watch(
        self,
        audience: str,
        cursor: int | None,
        progress_interval: Micros,
        stopped: Callable[[], bool],
        epoch: str = "",
    ) -> Iterator[WatchItem]:
        """Items of an audience, or that of a milestone, until `stopped`. An invalid request is refused by
        this call, not by the first item. The cursor must be of the `epoch`; "" = of whichever it is.

        Raises NotFound, InvalidInput, and FailedPrecondition when the audience is not calculated. The stream
        raises CursorExpired, naming the oldest cursor, also when another epoch begins; and NotFound once the
        audience is deleted and its last exit was sent.
        """
        check_name(audience, "audience", Resource.AUDIENCE, Resource.MILESTONE)
        milestone = self._repository.find(Milestone, audience)
        if milestone is not None:
            audience = milestone.audience
        if cursor is not None and cursor < 0:
            raise InvalidInput.one("cursor", "must not be negative")
        if progress_interval < PROGRESS_INTERVAL_MIN_MICROS:
            raise InvalidInput.one("progress_interval", "must be at least 0.1 s")
        self._require_calculated(audience)
        return self._items(audience, cursor, epoch, progress_interval / MICROS_PER_SECOND, stopped)

    def _require_calculated(self, audience: str) -> None:
        if self._repository.find(Closing, audience) is not None:
            return
        self._repository.get(Audience, audience)
        if not self._calculated(audience):
            raise FailedPrecondition(
                f"{audience} is not calculated: neither it nor a descendant has an active connection",
                reason="CONNECTION_STATE",
                metadata={"state": "INACTIVE", "audience": audience},
            )

    def _items(
        self,
        audience: str,
        cursor: int | None,
        epoch: str,
        progress_seconds: float,
        stopped: Callable[[], bool],
    ) -> Iterator[WatchItem]:
        found = self._first_calculated(audience, stopped)
        if found is None:
            return
        membership, reached = found
        if cursor is None:
            cursor, epoch = membership.last_sequence, self._epoch(membership)
            yield from self._snapshot(audience, stopped)
            self._require_epoch(audience, cursor, epoch)
            yield WatchProgress(cursor, max(membership.as_of, reached), epoch)
        epoch = epoch or self._epoch(membership)
        marked = time.monotonic()
        while not stopped():
            self._require_epoch(audience, cursor, epoch)
            # Read before the changes, so that every change up to it will have been sent.
            reached = self._reached(audience)
            page = self._changes(audience, cursor, epoch)
            if page.changes:
                cursor = page.changes[-1].sequence
                yield WatchChanges(page.changes)
            now = time.monotonic()
            if page.caught_up and now - marked >= progress_seconds:
                # Before the first round since a start there is none: marks never go back, and it is not known
                # how far they went before.
                if reached:
                    yield WatchProgress(cursor, reached, epoch)
                marked = now
            elif page.caught_up:
                wait = min(STOP_POLL_SECONDS, marked + progress_seconds - now)
                self._backend.wait_for_changes(audience, cursor, now + wait)

    def _changes(self, audience: str, cursor: int, epoch: str) -> ChangePage:
        page = self._backend.changes(audience, cursor, CHANGES_PAGE)
        membership = self._backend.membership(audience)
        # The changes were read after the epoch was looked at. A dropped membership has no other epoch.
        if page.changes and membership is not None and epoch != self._epoch(membership):
            raise _expired(audience, membership.first_sequence - 1)
        return page

    def _epoch(self, membership: Membership) -> str:
        named = f"{self._backend.store_id}/{membership.calculation}".encode()
        return hashlib.blake2b(named, digest_size=EPOCH_BYTES).hexdigest()

    def _require_epoch(self, audience: str, cursor: int, epoch: str) -> None:
        membership = self._stored(audience)
        if epoch != self._epoch(membership) or cursor > membership.last_sequence:
            raise _expired(audience, membership.first_sequence - 1)

    def _first_calculated(
        self, audience: str, stopped: Callable[[], bool]
    ) -> tuple[Membership, Micros] | None:
        """The membership once its first calculation is done, and the instant up to which it has all changes;
        None when stopped. After a start waits for the first round, unless that fails: marks before the start
        may be later than what is stored.
        """
        while not stopped():
            # Read before the membership, which then has every change up to it.
            reached = self._reached(audience)
            membership = self._backend.membership(audience)
            is_kept = self._repository.find(Closing, audience) is None and self._calculated(audience)
            has_begun = self._backend.published(account_of(audience)).reached(audience) > 0
            if membership is not None and (has_begun or not is_kept or self._failure(audience)):
                return membership, reached
            self._require_calculated(audience)
            time.sleep(STOP_POLL_SECONDS / 10)
        return None

    def _snapshot(self, audience: str, stopped: Callable[[], bool]) -> Iterator[WatchItem]:
        after = ""
        while not stopped():
            page = self._backend.stored_members(audience, Members(after, SNAPSHOT_PAGE_USERS))
            if page.user_ids:
                yield WatchSnapshot(page.user_ids)
            after = page.next_after
            if not after:
                return

    def _stored(self, audience: str) -> Membership:
        membership = self._backend.membership(audience)
        if membership is None:
            self._require_calculated(audience)
            raise NotFound(audience)
        return membership


def _expired(audience: str, oldest: int) -> CursorExpired:
    return CursorExpired(
        f"{audience} was calculated anew, or its store restored, since that cursor was issued: start with a "
        "snapshot",
        metadata={"oldest_cursor": str(oldest)},
    )
