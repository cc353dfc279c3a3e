# Generated from milepost/aio/watching.py: edit that file, then run `make client`.
"""Follows audiences and reconnects after failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from milepost._concurrency import Call, sleep
from milepost._retrying import Backoff
from milepost.errors import Cancelled, MilepostError
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    MembershipSnapshot,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
    WatchEnd,
    WatchMembershipRequest,
    WatchMembershipResponse,
)

WATCH_ATTEMPTS_MAX = 10

Watched = SnapshotBegin | MembershipSnapshot | SnapshotEnd | MembershipChange | ProgressMark


class WatchedTogether(NamedTuple):
    """An update of one of several audiences that are watched in one stream."""

    target: str
    """What `watch_together` was called with for it."""
    audience: str
    """Name of the audience; empty when there is none."""
    epoch: str
    """Which calculation the update's cursor or sequence number belongs to."""
    update: Watched | WatchEnd
    """`WatchEnd` is the last of an audience that can no longer be watched; the others go on."""


class Watch:
    """An iterator over the updates of one audience, in order.

    A snapshot is what comes from `SnapshotBegin` to `SnapshotEnd`: a new set of members, which replaces what
    was known before. After a broken connection, or a limit that says when to try again, the watch continues
    after the last update: nothing is repeated or lost. One exception: a snapshot that breaks off raises its
    error, mostly `Unavailable`, because users already returned may have left meanwhile; start a new watch.
    `cursor` is the position from which a later watch would continue, None until a snapshot is complete, and
    `epoch` says which calculation it belongs to; keep both. `audience` is the audience's name. When it is
    calculated anew, the watch ends with `OutOfRange`.
    """

    def __init__(
        self,
        open_stream: Callable[[WatchMembershipRequest], Iterable[WatchMembershipResponse]],
        request: WatchMembershipRequest,
        attempts_max: int,
    ) -> None:
        self._open_stream = open_stream
        self._request = request
        self._attempts_max = attempts_max
        self._stream: Any = None
        self._closed = False
        self._in_snapshot = False
        self.cursor: int | None = request.cursor if request.WhichOneof("start") == "cursor" else None
        self.epoch = request.epoch
        self.audience = request.audience

    def __iter__(self) -> Iterator[Watched]:
        backoff = Backoff(self._attempts_max)
        while not self._is_closed():
            try:
                for update in self._updates():
                    backoff.succeeded()
                    yield update
                return
            except Cancelled:
                if self._is_closed():
                    return
                raise
            except MilepostError as error:
                if self.cursor is None:
                    raise
                if self._stream.was_opened():
                    backoff.succeeded()
                pause = backoff.failed(error)
            sleep(pause)

    def close(self) -> None:
        """Ends the watch, also while another thread or task waits for its next update."""
        self._closed = True
        if self._stream is not None:
            self._stream.cancel()

    def _is_closed(self) -> bool:
        return self._closed

    def _updates(self) -> Iterator[Watched]:
        request = WatchMembershipRequest()
        request.CopyFrom(self._request)
        if self.cursor is not None:
            request.cursor = self.cursor
            request.epoch = self.epoch
        self._stream = self._open_stream(request)
        if self._is_closed():
            # Closed while it was opened.
            self._stream.cancel()
        for response in self._stream:
            self.audience, self.epoch = response.audience, response.epoch
            yield from self._updates_of(response)

    def _updates_of(self, response: WatchMembershipResponse) -> Iterator[Watched]:
        match response.WhichOneof("update"):
            case "snapshot_begin":
                self.cursor, self._in_snapshot = None, True
                yield response.snapshot_begin
            case "snapshot":
                yield response.snapshot
            case "snapshot_end":
                self.cursor, self._in_snapshot = response.snapshot_end.cursor, False
                yield response.snapshot_end
            case "progress":
                self.cursor = response.progress.cursor
                yield response.progress
            case "changes":
                for change in response.changes.changes:
                    if not self._in_snapshot:
                        self.cursor = change.sequence
                    yield change


class WatchTogether:
    """An iterator over the updates of several audiences, in order for each of them.

    Each begins with a snapshot, from `SnapshotBegin` to `SnapshotEnd`, and so it does again when it is
    calculated anew, when the watch was away for longer than changes are kept, and when a broken connection
    interrupts a snapshot. An audience that is deleted or no longer activated ends with `WatchEnd`; the watch
    ends when all have. After a broken connection the watch continues: nothing is repeated or lost.

    `position` is where a later watch continues, "" until there is one. The service sends it with progress
    marks, about once an interval. A later watch repeats what came after it: a change that was processed has
    the same epoch and sequence.
    """

    def __init__(
        self,
        open_stream: Callable[[WatchMembershipRequest], Iterable[WatchMembershipResponse]],
        request: WatchMembershipRequest,
        attempts_max: int,
        targets: Mapping[str, str],
    ) -> None:
        """`targets`: full names → what the caller calls them."""
        self._open_stream = open_stream
        self._request = request
        self._attempts_max = attempts_max
        self._targets = dict(targets)
        self._stream: Any = None
        self._closed = False
        self._in_snapshot: set[str] = set()
        self._reached: dict[str, tuple[str, int]] = {}
        """The epoch and the last change of each audience outside a snapshot."""
        self.position = request.position

    def __iter__(self) -> Iterator[WatchedTogether]:
        backoff = Backoff(self._attempts_max)
        while self._targets and not self._is_closed():
            try:
                for update in self._updates():
                    backoff.succeeded()
                    yield update
                return
            except Cancelled:
                if self._is_closed():
                    return
                raise
            except MilepostError as error:
                if self._stream.was_opened():
                    backoff.succeeded()
                pause = backoff.failed(error)
            sleep(pause)

    def close(self) -> None:
        """Ends the watch, also while another thread or task waits for its next update."""
        self._closed = True
        if self._stream is not None:
            self._stream.cancel()

    def _is_closed(self) -> bool:
        return self._closed

    def _updates(self) -> Iterator[WatchedTogether]:
        request = WatchMembershipRequest()
        request.CopyFrom(self._request)
        request.audiences.extend(self._targets)
        if self.position:
            request.position = self.position
        else:
            request.snapshot = True
        self._stream = self._open_stream(request)
        if self._is_closed():
            # Closed while it was opened.
            self._stream.cancel()
        for response in self._stream:
            target = self._targets[response.requested_name]
            if response.position:
                self.position = response.position
            for update in self._updates_of(response):
                yield WatchedTogether(target, response.audience, response.epoch, update)

    def _updates_of(self, response: WatchMembershipResponse) -> Iterator[Watched | WatchEnd]:
        name, epoch = response.requested_name, response.epoch
        match response.WhichOneof("update"):
            case "snapshot_begin":
                self._in_snapshot.add(name)
                self._reached.pop(name, None)
                yield response.snapshot_begin
            case "snapshot":
                yield response.snapshot
            case "snapshot_end":
                self._in_snapshot.discard(name)
                self._reached[name] = epoch, response.snapshot_end.cursor
                yield response.snapshot_end
            case "progress":
                yield response.progress
            case "changes":
                for change in response.changes.changes:
                    if name not in self._in_snapshot:
                        if not self._is_new(name, epoch, change.sequence):
                            continue
                        self._reached[name] = epoch, change.sequence
                    yield change
            case "ended":
                del self._targets[name]
                self._in_snapshot.discard(name)
                yield response.ended

    def _is_new(self, name: str, epoch: str, sequence: int) -> bool:
        """Whether a change did not come before, over a connection that broke after the last position."""
        known_epoch, known = self._reached.get(name, ("", 0))
        return epoch != known_epoch or sequence > known


class AcknowledgedWatch(Watch):
    """A watch of a connection. What is acknowledged is not sent again to a later watch, even after a restart
    of the service or of the consumer.
    """

    def __init__(
        self,
        open_stream: Callable[[WatchMembershipRequest], Iterable[WatchMembershipResponse]],
        request: WatchMembershipRequest,
        attempts_max: int,
        acknowledge: Call[None],
    ) -> None:
        super().__init__(open_stream, request, attempts_max)
        self._acknowledge = acknowledge

    def acknowledge(self, cursor: int | None = None) -> None:
        """Acknowledges everything up to a cursor; by default, all that the watch has returned. During a
        snapshot there is nothing to acknowledge yet. Raises MilepostError.
        """
        reached = self.cursor if cursor is None else cursor
        if reached is not None:
            self._acknowledge(reached, self.epoch)
