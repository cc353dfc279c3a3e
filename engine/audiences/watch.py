"""The change stream of one calculated audience, for as long as somebody listens.

A snapshot is read page by page while changes go on: the cursor is taken first, so that whatever happens to a
user during the snapshot comes again as a change after it, and the last word on each user is right. Each
listener reads the stored change log at its own pace; nothing waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from engine.audiences.model import WatchChanges, WatchItem, WatchProgress, WatchSnapshot
from engine.backends.base import Members, Membership, MembershipReader
from engine.errors import CursorExpired, FailedPrecondition, InvalidInput, NotFound
from engine.resources.names import Resource, check_name
from engine.resources.records import Audience, Closing
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

PROGRESS_INTERVAL_DEFAULT_MICROS = 5 * MICROS_PER_SECOND
PROGRESS_INTERVAL_MIN_MICROS = MICROS_PER_SECOND // 10
SNAPSHOT_PAGE_USERS = 1_000
CHANGES_PAGE = 1_000

STOP_POLL_SECONDS = 0.25
"""How long a wait may go on before asking whether anybody still listens."""


class Watcher:
    """Makes streams. `calculated` and `reached` are those of `Live`."""

    def __init__(
        self,
        repository: Repository,
        calculated: Callable[[str], bool],
        reached: Callable[[str], Micros],
        backend: MembershipReader,
    ) -> None:
        self._repository = repository
        self._calculated = calculated
        self._reached = reached
        self._backend = backend

    def watch(
        self,
        audience: str,
        cursor: int | None,
        progress_interval: Micros,
        stopped: Callable[[], bool],
    ) -> Iterator[WatchItem]:
        """Items until `stopped`. The faults of the request are raised by this call, not by the first item.

        Raises NotFound, InvalidInput, FailedPrecondition when the audience is not calculated, and from the
        stream CursorExpired, naming the oldest cursor, or NotFound once the audience is deleted and its last
        exit given.
        """
        check_name(audience, "audience", Resource.AUDIENCE)
        if cursor is not None and cursor < 0:
            raise InvalidInput.one("cursor", "must not be negative")
        if progress_interval < PROGRESS_INTERVAL_MIN_MICROS:
            raise InvalidInput.one("progress_interval", "must be at least 0.1 s")
        self._require_calculated(audience)
        return self._items(audience, cursor, progress_interval / MICROS_PER_SECOND, stopped)

    def _require_calculated(self, audience: str) -> None:
        if self._repository.find(Closing, audience) is not None:
            return
        self._repository.get(Audience, audience)
        if not self._calculated(audience):
            raise FailedPrecondition(
                f"{audience} is not calculated: neither it nor a descendant has an active connection",
                reason="CONNECTION_STATE",
                metadata={"state": "INACTIVE"},
            )

    def _items(
        self, audience: str, cursor: int | None, progress_seconds: float, stopped: Callable[[], bool]
    ) -> Iterator[WatchItem]:
        membership = self._first_calculated(audience, stopped)
        if membership is None:
            return
        if cursor is None:
            cursor = membership.last_sequence
            yield from self._snapshot(audience, stopped)
            yield WatchProgress(cursor, membership.as_of)
        marked = time.monotonic()
        while not stopped():
            membership = self._stored(audience)
            if cursor > membership.last_sequence:
                raise _expired(audience, membership.first_sequence - 1)
            # Read before the changes are, so that every change up to it will have been given.
            reached = self._reached(audience)
            page = self._backend.changes(audience, cursor, CHANGES_PAGE)
            if page.changes:
                cursor = page.changes[-1].sequence
                yield WatchChanges(page.changes)
            now = time.monotonic()
            if page.caught_up and now - marked >= progress_seconds:
                # Not the later of the two: once a clock that was ahead is right again, the stored instant may
                # be the wrong one until the next round.
                yield WatchProgress(cursor, reached or page.as_of)
                marked = now
            elif page.caught_up:
                wait = min(STOP_POLL_SECONDS, marked + progress_seconds - now)
                self._backend.wait_for_changes(audience, cursor, now + wait)

    def _first_calculated(self, audience: str, stopped: Callable[[], bool]) -> Membership | None:
        """The membership, waited for while its first calculation is under way; None when stopped."""
        while not stopped():
            membership = self._backend.membership(audience)
            if membership is not None:
                return membership
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
        f"the change log of {audience} has begun anew since that cursor was given",
        metadata={"oldest_cursor": str(oldest)},
    )
