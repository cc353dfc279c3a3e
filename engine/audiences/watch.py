"""The change stream of one calculated audience, until the watcher stops.

A snapshot is read page by page while the membership changes. Every change since it began is sent after the
pages, so the last update for each user is right, and the snapshot is complete: a state that the audience had.
Each watcher reads the stored change log at its own pace; nothing waits for it.

A cursor belongs to an epoch: one calculation of the audience in one store. Calculated anew, or restored from
a backup, the same sequence numbers mean other changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from engine.audiences.model import (
    WatchBegin,
    WatchChanges,
    WatchEnd,
    WatchItem,
    WatchMembers,
    WatchProgress,
    WatchStart,
    WatchUpdate,
)
from engine.backends.base import ChangePage, Members, Membership, MembershipSource, epoch_of
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


class Watcher:
    """Makes streams. `calculated`, `reached` and `failure` are those of `Live`."""

    def __init__(
        self,
        repository: Repository,
        calculated: Callable[[str], bool],
        reached: Callable[[str], Micros],
        failure: Callable[[str], str],
        backend: MembershipSource,
    ) -> None:
        self._repository = repository
        self._calculated = calculated
        self._reached = reached
        self._failure = failure
        self._backend = backend

    def watch(
        self,
        start: WatchStart,
        progress_interval: Micros,
        stopped: Callable[[], bool],
    ) -> Iterator[WatchItem]:
        """Items of an audience until `stopped`. An invalid request is refused by this call, not by the first
        item.

        Raises NotFound, InvalidInput, and FailedPrecondition when the audience is not calculated. The stream
        raises CursorExpired, naming the oldest cursor, also when another epoch begins; and NotFound once the
        audience is deleted and its last exit was sent.
        """
        check_name(start.audience, "audience", Resource.AUDIENCE, Resource.MILESTONE)
        milestone = self._repository.find(Milestone, start.audience)
        audience = start.audience if milestone is None else milestone.audience
        if start.cursor is not None and start.cursor < 0:
            raise InvalidInput.one("cursor", "must not be negative")
        if progress_interval < PROGRESS_INTERVAL_MIN_MICROS:
            raise InvalidInput.one("progress_interval", "must be at least 0.1 s")
        self._require_calculated(audience)
        return self._items(audience, start, progress_interval / MICROS_PER_SECOND, stopped)

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
        self, audience: str, start: WatchStart, progress_seconds: float, stopped: Callable[[], bool]
    ) -> Iterator[WatchItem]:
        found = self._first_calculated(audience, stopped)
        if found is None:
            return
        membership, reached = found
        current = self._epoch(membership)
        cursor, epoch = start.cursor, start.epoch
        if cursor is None or (start.renews and epoch != current):
            epoch, cursor = current, membership.last_sequence
            for update in self._snapshot(audience, epoch, membership, reached, stopped):
                if isinstance(update, WatchEnd):
                    cursor = update.cursor
                yield WatchItem(audience, epoch, update)
        elif cursor and not epoch:
            # Its number may exist in this epoch too, where it means other changes.
            raise _expired(
                f"cursor {cursor} of {audience} comes without its epoch: send both, or start with a snapshot",
                membership.first_sequence - 1,
                current,
            )
        epoch = epoch or current
        marked = time.monotonic()
        while not stopped():
            self._require_epoch(audience, cursor, epoch)
            # Read before the changes, so that every change up to it will have been sent.
            reached = self._reached(audience)
            page = self._changes(audience, cursor, epoch, CHANGES_PAGE)
            if page.changes:
                cursor = page.changes[-1].sequence
                # Updates are for connections, which send the values.
                changes = tuple(change for change in page.changes if not change.updated)
                if changes:
                    yield WatchItem(audience, epoch, WatchChanges(changes))
            now = time.monotonic()
            if page.caught_up and now - marked >= progress_seconds:
                if not reached and self._repository.find(Closing, audience) is not None:
                    # Nothing refreshes it any more.
                    reached = page.as_of
                # Before the first round since a start there is none: marks never go back, and it is not known
                # how far they went before.
                if reached:
                    yield WatchItem(audience, epoch, WatchProgress(cursor, reached))
                marked = now
            elif page.caught_up:
                wait = min(STOP_POLL_SECONDS, marked + progress_seconds - now)
                self._backend.wait_for_changes(audience, cursor, now + wait)

    def _snapshot(
        self,
        audience: str,
        epoch: str,
        membership: Membership,
        reached: Micros,
        stopped: Callable[[], bool],
    ) -> Iterator[WatchUpdate]:
        cursor, after = membership.last_sequence, ""
        yield WatchBegin(cursor, max(membership.as_of, reached))
        while not stopped():
            page = self._backend.stored_members(audience, Members(after, SNAPSHOT_PAGE_USERS))
            if page.user_ids:
                yield WatchMembers(page.user_ids)
            after = page.next_after
            if not after:
                break
        # Pages may hold what changed since the beginning, but nothing later than this.
        reached = max(reached, self._reached(audience))
        complete = self._stored(audience)
        while cursor < complete.last_sequence and not stopped():
            limit = min(CHANGES_PAGE, complete.last_sequence - cursor)
            changes = self._changes(audience, cursor, epoch, limit).changes
            if not changes:
                raise self._other_epoch(audience, complete)
            cursor = changes[-1].sequence
            yield WatchChanges(
                tuple(msgspec.structs.replace(change, last_of_instant=False) for change in changes)
            )
        self._require_epoch(audience, cursor, epoch)
        if not stopped():
            as_of = max(complete.as_of, reached)
            yield WatchEnd(cursor, as_of)
            yield WatchProgress(cursor, as_of)

    def _changes(self, audience: str, cursor: int, epoch: str, limit: int) -> ChangePage:
        try:
            page = self._backend.changes(audience, cursor, limit)
        except CursorExpired as error:
            raise CursorExpired(error.message, metadata={**error.metadata, "epoch": epoch}) from error
        membership = self._backend.membership(audience)
        # The changes were read after the epoch was looked at. A dropped membership has no other epoch.
        if page.changes and membership is not None and epoch != self._epoch(membership):
            raise self._other_epoch(audience, membership)
        return page

    def _epoch(self, membership: Membership) -> str:
        return epoch_of(self._backend.store_id, membership)

    def _require_epoch(self, audience: str, cursor: int, epoch: str) -> None:
        membership = self._stored(audience)
        if epoch != self._epoch(membership) or cursor > membership.last_sequence:
            raise self._other_epoch(audience, membership)

    def _other_epoch(self, audience: str, membership: Membership) -> CursorExpired:
        return _expired(
            f"{audience} was calculated anew, or its store restored, since that cursor was issued: start "
            "with a snapshot",
            membership.first_sequence - 1,
            self._epoch(membership),
        )

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

    def _stored(self, audience: str) -> Membership:
        membership = self._backend.membership(audience)
        if membership is None:
            self._require_calculated(audience)
            raise NotFound(audience)
        return membership


def _expired(message: str, oldest: int, epoch: str) -> CursorExpired:
    return CursorExpired(message, metadata={"oldest_cursor": str(oldest), "epoch": epoch})
