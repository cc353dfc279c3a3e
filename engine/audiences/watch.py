"""The change streams of calculated audiences.

A stream holds no thread: `Watch.take` gives the next item, or None when there is nothing to send before
`Watch.due`; a change of a watched audience calls the watcher before. Each watcher reads the stored change log
at its own pace; nothing waits for it.

A snapshot is read page by page while the membership changes. Every change since it began is sent after the
pages, so the last update for each user is right, and the snapshot is complete: a state that the audience had.

A cursor belongs to an epoch: one calculation of the audience in one store. Calculated anew, or restored from
a backup, the same sequence numbers mean other changes.

Several audiences share one stream. There an audience that is calculated anew begins again with a snapshot,
and one that cannot be watched ends alone.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import msgspec

from engine.audiences.model import (
    WatchBegin,
    WatchChanges,
    WatchEnd,
    WatchEnded,
    WatchItem,
    WatchMembers,
    WatchProgress,
    WatchStart,
    WatchUpdate,
)
from engine.audiences.watch_positions import Reached, position_of, read_position
from engine.audiences.watched_pages import WatchedPages
from engine.backends.base import Change, ChangePage, Members, Membership, MembershipSource, epoch_of
from engine.errors import (
    CursorExpired,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Violation,
    Violations,
)
from engine.limits import WATCHED_AUDIENCES_MAX
from engine.resources.names import Resource, check_name
from engine.resources.records import Audience, Closing, Milestone, account_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

PROGRESS_INTERVAL_DEFAULT_MICROS = 5 * MICROS_PER_SECOND
PROGRESS_INTERVAL_MIN_MICROS = MICROS_PER_SECOND // 10
SNAPSHOT_PAGE_USERS = 1_000
CHANGES_PAGE = 1_000

CALCULATION_POLL_SECONDS = 0.25
"""Interval between looks whether an audience that is not calculated yet is still activated."""
FIRST_MARK_SHARE_MIN = 0.5
"""The first progress mark comes after this share of the interval or later, at random, so that the marks of
many watchers that began together do not all fall due together.
"""


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
        self._pages = WatchedPages(backend, CHANGES_PAGE)

    def watch(self, start: WatchStart, progress_interval: Micros, wake: Callable[[], None]) -> Watch:
        """A stream of an audience. `wake` is called, in any thread, when there is something to take before
        `due`; it must not wait.

        Raises NotFound, InvalidInput, and FailedPrecondition when the audience is not calculated. The stream
        raises CursorExpired, naming the oldest cursor, also when another epoch begins; and NotFound once the
        audience is deleted and its last exit was sent.
        """
        check_name(start.audience, "audience", Resource.AUDIENCE, Resource.MILESTONE)
        audience = self._audience(start.audience)
        if start.cursor is not None and start.cursor < 0:
            raise InvalidInput.one("cursor", "must not be negative")
        _check_interval(progress_interval)
        self.require_calculated(audience)
        stream = AudienceStream(self, audience, start, progress_interval / MICROS_PER_SECOND)
        return Watch([stream], self, wake)

    def watch_together(
        self,
        names: Sequence[str],
        position: str | None,
        progress_interval: Micros,
        wake: Callable[[], None],
    ) -> WatchTogether:
        """A stream of several audiences of one account, or those of milestones: each continues where it was
        at `position`, or begins with a snapshot. `wake` is as in `watch`.

        Raises InvalidInput. The stream ends when none of its audiences can be watched any more.
        """
        faults = Violations(_faults_of_names(names))
        if faults:
            raise InvalidInput(faults)
        _check_interval(progress_interval)
        asked: dict[str, str] = {}
        for index, name in enumerate(names):
            audience = self._audience(name)
            if audience in asked:
                raise InvalidInput.one(f"audiences[{index}]", f"is the audience of {asked[audience]} too")
            asked[audience] = name
        reached = {} if position is None else read_position(position)
        progress_s = progress_interval / MICROS_PER_SECOND
        streams = []
        for audience, name in asked.items():
            epoch, cursor = reached.get(audience.rpartition("/")[2], ("", None))
            start = WatchStart(audience, cursor, epoch)
            streams.append(AudienceStream(self, audience, start, progress_s, requested_name=name))
        return WatchTogether(streams, self, wake, progress_s)

    def _audience(self, name: str) -> str:
        """The audience of that name or of that milestone; of no milestone, the name."""
        milestone = self._repository.find(Milestone, name)
        return name if milestone is None else milestone.audience

    def listen(self, audience: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after each change of the audience, until the result is called."""
        return self._backend.listen(audience, changed)

    # --- reading --------------------------------------------------------------------------------------------

    def require_calculated(self, audience: str) -> None:
        """Raises NotFound, and FailedPrecondition when nothing needs the audience's membership."""
        if self._repository.find(Closing, audience) is not None:
            return
        self._repository.get(Audience, audience)
        if not self._calculated(audience):
            raise FailedPrecondition(
                f"{audience} is not calculated: neither it nor a descendant has an active connection",
                reason="CONNECTION_STATE",
                metadata={"state": "INACTIVE", "audience": audience},
            )

    def find(self, audience: str) -> Membership | None:
        """The stored membership, read without a lock."""
        published = self._backend.published(account_of(audience)).find(audience)
        return None if published is None else published.membership

    def stored(self, audience: str) -> Membership:
        """The stored membership. Raises NotFound, FailedPrecondition."""
        membership = self.find(audience)
        if membership is None:
            self.require_calculated(audience)
            raise NotFound(audience)
        return membership

    def members(self, audience: str, after: str) -> tuple[tuple[str, ...], str]:
        """A page of members, and the user that the next one comes after; "" = it is the last."""
        page = self._backend.stored_members(audience, Members(after, SNAPSHOT_PAGE_USERS))
        return page.user_ids, page.next_after

    def changes(self, audience: str, epoch: str, cursor: int, last: int) -> ChangePage:
        """Changes after a cursor, of an audience whose last one is `last`. Raises CursorExpired."""
        try:
            page = self._pages.read(audience, epoch, cursor, last)
        except CursorExpired as error:
            raise CursorExpired(error.message, metadata={**error.metadata, "epoch": epoch}) from error
        if not page.changes:
            raise self.other_epoch(audience, self.stored(audience))
        membership = self.find(audience)
        # The changes were read after the epoch was looked at. A dropped membership has no other epoch.
        if membership is not None and epoch != self.epoch(membership):
            raise self.other_epoch(audience, membership)
        return page

    def reached(self, audience: str) -> Micros:
        """The instant up to which the change log is complete; 0 = unknown."""
        return self._reached(audience)

    def is_closing(self, audience: str) -> bool:
        """Whether the audience is deleted: nothing refreshes its membership any more."""
        return self._repository.find(Closing, audience) is not None

    def has_begun(self, audience: str) -> bool:
        """Whether a round has covered the audience since the start, or none will: marks before the start may
        be later than what is stored.
        """
        if self.is_closing(audience) or not self._calculated(audience) or self._failure(audience):
            return True
        return self._backend.published(account_of(audience)).reached(audience) > 0

    def epoch(self, membership: Membership) -> str:
        """The epoch of a membership."""
        return epoch_of(self._backend.store_id, membership)

    def other_epoch(self, audience: str, membership: Membership) -> CursorExpired:
        """The refusal of a cursor of another epoch."""
        return self.expired(
            f"{audience} was calculated anew, or its store restored, since that cursor was issued: start "
            "with a snapshot",
            audience,
            membership,
        )

    def expired(self, message: str, audience: str, membership: Membership) -> CursorExpired:
        """The refusal of a cursor, with the oldest valid one."""
        oldest, epoch = membership.first_sequence - 1, self.epoch(membership)
        return CursorExpired(message, metadata={"oldest_cursor": str(oldest), "epoch": epoch})


class Watch:
    """A stream of audiences. For one thread at a time; `close` it."""

    def __init__(self, streams: Sequence[AudienceStream], watcher: Watcher, wake: Callable[[], None]) -> None:
        self.due = 0.0
        """When there is something to take though nothing changed, an instant of `time.monotonic()`."""
        self._ready = deque(streams)
        self._changed: deque[AudienceStream] = deque()
        """Streams whose audience changed: filled in other threads."""
        self._timed: list[tuple[float, int, AudienceStream]] = []
        self._wake = wake
        # Before the first look, so that no change after it goes unnoticed.
        self._stop_listening = {
            stream.audience: watcher.listen(stream.audience, partial(self._hear, stream))
            for stream in streams
        }

    def take(self) -> WatchItem | None:
        """The next item, of each audience in turn; None: nothing before `due`, unless something changes."""
        self._make_ready()
        while self._ready:
            stream = self._ready.popleft()
            item = self._take(stream)
            if item is not None:
                return item
        self.due = self._timed[0][0] if self._timed else math.inf
        return None

    def close(self) -> None:
        """Ends the stream."""
        for stop in self._stop_listening.values():
            stop()

    def _take(self, stream: AudienceStream) -> WatchItem | None:
        """The next item of one that is ready, which then is again, or waits."""
        item = stream.take()
        if item is not None:
            self._ready.append(stream)
            return item
        stream.is_waiting = True
        heapq.heappush(self._timed, (stream.due, id(stream), stream))
        return None

    def _hear(self, stream: AudienceStream) -> None:
        self._changed.append(stream)
        self._wake()

    def _make_ready(self) -> None:
        while self._changed:
            self._go_on(self._changed.popleft())
        now = time.monotonic()
        while self._timed and (self._timed[0][0] <= now or not self._timed[0][2].is_waiting):
            self._go_on(heapq.heappop(self._timed)[2])

    def _go_on(self, stream: AudienceStream) -> None:
        if stream.is_waiting:
            stream.is_waiting = False
            self._ready.append(stream)


class WatchTogether(Watch):
    """A stream of several audiences, whose position goes with a progress mark once an interval."""

    def __init__(
        self,
        streams: Sequence[AudienceStream],
        watcher: Watcher,
        wake: Callable[[], None],
        progress_s: float,
    ) -> None:
        self._streams = {stream.audience: stream for stream in streams}
        self._progress_s = progress_s
        self._positioned = -math.inf
        self._positioned_streams = 0
        super().__init__(streams, watcher, wake)

    @property
    def is_over(self) -> bool:
        """Whether every audience has ended: nothing comes any more."""
        return not self._streams

    def _take(self, stream: AudienceStream) -> WatchItem | None:
        try:
            item = super()._take(stream)
        except (NotFound, FailedPrecondition) as error:
            del self._streams[stream.audience]
            self._stop_listening.pop(stream.audience)()
            return stream.item(WatchEnded(error))
        if item is not None and isinstance(item.update, WatchProgress):
            return self._with_position(item)
        return item

    def _with_position(self, item: WatchItem) -> WatchItem:
        """The item with the position, when the interval is over, or all audiences are in it first."""
        now = time.monotonic()
        positioned = sum(stream.reached is not None for stream in self._streams.values())
        is_complete = positioned == len(self._streams) > self._positioned_streams
        if not is_complete and now - self._positioned < self._progress_s:
            return item
        self._positioned, self._positioned_streams = now, positioned
        reached = {
            stream.audience: stream.reached for stream in self._streams.values() if stream.reached is not None
        }
        return msgspec.structs.replace(item, position=position_of(reached))


class AudienceStream:
    """The items of one audience; with a `requested_name`, of one of several."""

    def __init__(
        self,
        watcher: Watcher,
        audience: str,
        start: WatchStart,
        progress_s: float,
        *,
        requested_name: str = "",
    ) -> None:
        self.audience = audience
        self.reached: Reached | None = None if start.cursor is None else (start.epoch, start.cursor)
        """Where a later stream goes on; None in a snapshot."""
        self.due = 0.0
        self.is_waiting = False
        self._watcher = watcher
        self._start = start
        self._progress_s = progress_s
        self._requested_name = requested_name
        self._cursor = 0
        self._epoch = ""
        self._updates = self._renewed_updates() if requested_name else self._all_updates()

    def take(self) -> WatchItem | None:
        """The next item; None: nothing before `due`, unless the audience changes."""
        update = next(self._updates)
        if isinstance(update, WatchBegin):
            self.reached = None
        elif isinstance(update, WatchEnd) or (self.reached is not None and self._epoch):
            self.reached = self._epoch, self._cursor
        return None if update is None else self.item(update)

    def item(self, update: WatchUpdate) -> WatchItem:
        """An item of this audience."""
        return WatchItem(self.audience, self._epoch, update, self._requested_name)

    def _renewed_updates(self) -> Iterator[WatchUpdate | None]:
        """As `_all_updates`, and with a snapshot where a cursor has expired."""
        self._watcher.require_calculated(self.audience)
        while True:
            try:
                yield from self._all_updates()
            except CursorExpired:
                self._start = WatchStart(self.audience)

    def _all_updates(self) -> Iterator[WatchUpdate | None]:
        watcher, audience, start = self._watcher, self.audience, self._start
        while True:
            # Read before the membership, which then has every change up to it.
            reached = watcher.reached(audience)
            membership = watcher.find(audience)
            if membership is not None and watcher.has_begun(audience):
                break
            watcher.require_calculated(audience)
            self.due = time.monotonic() + CALCULATION_POLL_SECONDS
            yield None
        current = watcher.epoch(membership)
        self._epoch = start.epoch or current
        if start.cursor is None or (start.renews and start.epoch != current):
            self._epoch = current
            yield from self._snapshot(membership, reached)
        elif start.cursor and not start.epoch:
            # Its number may exist in this epoch too, where it means other changes.
            raise watcher.expired(
                f"cursor {start.cursor} of {audience} comes without its epoch: send both, or start with a "
                "snapshot",
                audience,
                membership,
            )
        else:
            self._cursor = start.cursor
        yield from self._changes()

    def _snapshot(self, membership: Membership, reached: Micros) -> Iterator[WatchUpdate]:
        self._cursor, after = membership.last_sequence, ""
        yield WatchBegin(self._cursor, max(membership.as_of, reached))
        while True:
            user_ids, after = self._watcher.members(self.audience, after)
            if user_ids:
                yield WatchMembers(user_ids)
            if not after:
                break
        # Pages may hold what changed since the beginning, but nothing later than this.
        reached = max(reached, self._watcher.reached(self.audience))
        complete = self._current()
        while self._cursor < complete.last_sequence:
            page = self._watcher.changes(self.audience, self._epoch, self._cursor, complete.last_sequence)
            self._cursor = page.changes[-1].sequence
            changes = tuple(
                msgspec.structs.replace(change, last_of_instant=False) for change in _of_members(page.changes)
            )
            if changes:
                yield WatchChanges(changes)
        self._current()
        as_of = max(complete.as_of, reached)
        yield WatchEnd(self._cursor, as_of)
        yield WatchProgress(self._cursor, as_of)

    def _changes(self) -> Iterator[WatchUpdate | None]:
        marked = time.monotonic() - self._progress_s * random.uniform(0, 1 - FIRST_MARK_SHARE_MIN)
        while True:
            # Read before the membership, so that every change up to it will have been sent.
            reached = self._watcher.reached(self.audience)
            membership = self._current()
            if self._cursor < membership.last_sequence:
                page = self._watcher.changes(
                    self.audience, self._epoch, self._cursor, membership.last_sequence
                )
                self._cursor = page.changes[-1].sequence
                changes = _of_members(page.changes)
                if changes:
                    yield WatchChanges(changes)
                continue
            now = time.monotonic()
            if now - marked >= self._progress_s:
                marked = now
                if not reached and self._watcher.is_closing(self.audience):
                    reached = membership.as_of
                # Before the first round since a start there is none: marks never go back, and it is not known
                # how far they went before.
                if reached:
                    yield WatchProgress(self._cursor, reached)
            else:
                self.due = marked + self._progress_s
                yield None

    def _current(self) -> Membership:
        """The stored membership. Raises CursorExpired when the cursor is not of its epoch."""
        membership = self._watcher.stored(self.audience)
        if self._epoch != self._watcher.epoch(membership) or self._cursor > membership.last_sequence:
            raise self._watcher.other_epoch(self.audience, membership)
        return membership


def _check_interval(progress_interval: Micros) -> None:
    if progress_interval < PROGRESS_INTERVAL_MIN_MICROS:
        raise InvalidInput.one("progress_interval", "must be at least 0.1 s")


def _faults_of_names(names: Sequence[str]) -> Iterator[Violation]:
    """What is wrong with the names of audiences to watch in one stream."""
    if len(names) > WATCHED_AUDIENCES_MAX:
        yield Violation("audiences", f"names {len(names)}; at most {WATCHED_AUDIENCES_MAX} are allowed")
        return
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        field = f"audiences[{index}]"
        try:
            check_name(name, field, Resource.AUDIENCE, Resource.MILESTONE)
        except InvalidInput as error:
            yield from error.violations
            continue
        other = next(iter(first), name)
        if account_of(name) != account_of(other):
            message = f"is of another account than audiences[{first[other]}]: watch each account by itself"
            yield Violation(field, message)
        elif name in first:
            yield Violation(field, f"is audiences[{first[name]}] again")
        first.setdefault(name, index)


def _of_members(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """The changes without updates, which are for connections that send the values. Where an update is the
    last of an instant, the change before it is marked, if it is of that instant.
    """
    if not any(change.updated for change in changes):
        return changes
    kept: list[Change] = []
    for change in changes:
        if not change.updated:
            kept.append(change)
        elif change.last_of_instant and kept and kept[-1].as_of == change.as_of:
            kept[-1] = msgspec.structs.replace(kept[-1], last_of_instant=True)
    return tuple(kept)
