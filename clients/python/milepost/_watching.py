"""Follows an audience and reconnects after failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from milepost._batches import BACKOFF_FIRST_SECONDS, BACKOFF_LAST_SECONDS
from milepost.errors import Cancelled, Unavailable
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    MembershipSnapshot,
    ProgressMark,
    WatchMembershipRequest,
    WatchMembershipResponse,
)

Watched = MembershipSnapshot | MembershipChange | ProgressMark


class Watch:
    """The updates of one audience, in order: iterate over it.

    After a broken connection it goes on behind the last update it gave: nothing comes twice or is left out.
    The one exception: a snapshot that breaks off before its progress mark raises `Unavailable`, because the
    users already given may have left meanwhile; start anew. `cursor` is where a later watch would go on.
    """

    def __init__(
        self,
        open_stream: Callable[[WatchMembershipRequest], Iterator[WatchMembershipResponse]],
        request: WatchMembershipRequest,
        attempts_max: int,
    ) -> None:
        self._open_stream = open_stream
        self._request = request
        self._attempts_max = attempts_max
        self._stream: Any = None
        self._closed = False
        self.cursor: int | None = None if request.snapshot else request.cursor

    def __iter__(self) -> Iterator[Watched]:
        failures = 0
        while not self._is_closed():
            try:
                for update in self._updates():
                    failures = 0
                    yield update
                return
            except Cancelled:
                if self._is_closed():
                    return
                raise
            except Unavailable:
                failures += 1
                if self.cursor is None or failures >= self._attempts_max:
                    raise
                time.sleep(min(BACKOFF_FIRST_SECONDS * 2**failures, BACKOFF_LAST_SECONDS))

    def close(self) -> None:
        """Ends the watch. May be called from any thread."""
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
        self._stream = self._open_stream(request)
        for response in self._stream:
            kind = response.WhichOneof("update")
            if kind == "snapshot":
                yield response.snapshot
            elif kind == "progress":
                self.cursor = response.progress.cursor
                yield response.progress
            else:
                yield from self._changes(response)

    def _changes(self, response: WatchMembershipResponse) -> Iterator[MembershipChange]:
        for change in response.changes.changes:
            self.cursor = change.sequence
            yield change
