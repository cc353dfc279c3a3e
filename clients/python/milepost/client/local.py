# Generated from milepost/aio/local.py: edit that file, then run `make client`.
"""Membership checks without a call: audiences followed into this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, Self

from milepost._arguments import require_several
from milepost._concurrency import CLOSED, Background, Signal
from milepost._local import Followed, LocalAnswers
from milepost._retrying import Backoff, is_temporary
from milepost.client.watching import WATCH_ATTEMPTS_MAX, WatchTogether
from milepost.errors import InvalidArgument, MilepostError, NotFound, cancelled, from_watch_end, not_followed
from milepost.v1.audience_service_pb2 import WatchEnd

READY_TIMEOUT_SECONDS = 60.0
PROGRESS_INTERVAL = timedelta(seconds=0.25)
REPEAT_SECONDS = 5.0
"""Pause after an error that is not temporary, such as an audience that is no longer activated."""
STREAM_AUDIENCES_MAX = 200
"""Audiences that one stream follows; more take more streams."""


class Follows(Protocol):
    """The methods of a client that local checks use."""

    def target_name(self, target: str) -> str:
        """See `Naming`."""
        ...

    def watch_together(
        self,
        targets: Sequence[str],
        *,
        position: str = "",
        progress_interval: timedelta | None = None,
        attempts_max: int = 0,
    ) -> WatchTogether:
        """See `AudienceMethods`."""
        ...

    def check(self, user_id: str, target: str) -> bool:
        """See `AudienceMethods`."""
        ...


class LocalChecks(LocalAnswers):
    """Audiences whose members are in this process, and answers about them without a call.

    The audiences are followed in one stream (one for every 200), so they must be activated. An answer is from
    a state that the service had. `as_of` and `staleness` are those of the audience that is furthest behind;
    `check` answers from that instant or a later one.

    While the service is out of reach answers go on, and grow stale; with a `max_staleness` they then raise
    `TooStale`. The watch resumes where it was. When an audience was calculated anew, or its changes since are
    no longer kept, it starts over with a snapshot, and the state before stays until that is complete. When an
    audience cannot be followed any more, for example since it was deactivated, answers about it raise the
    service's error until it can again. The others go on.

    Checks are safe from any thread. Use it in a `with`, or close it. Each member takes about 120 bytes.
    """

    def __init__(
        self,
        client: Follows,
        targets: Sequence[str],
        *,
        max_staleness: timedelta | None,
        progress_interval: timedelta,
        ready_timeout: float,
    ) -> None:
        if max_staleness is not None and max_staleness <= progress_interval:
            seconds = progress_interval.total_seconds()
            raise ValueError(f"max_staleness must be more than the progress interval, {seconds} s")
        require_several(targets=targets)
        super().__init__({target: client.target_name(target) for target in targets}, max_staleness)
        self._client = client
        self._progress_interval = progress_interval
        self._ready_timeout = ready_timeout
        self._background = Background()
        self._watches: set[WatchTogether] = set()
        self._closed = Signal()
        self._changed = Signal()

    def __enter__(self) -> Self:
        """Waits until every audience has a state. Raises the error that keeps one from it; `Unavailable` only
        after as many attempts as a watch makes.
        """
        for first in range(0, len(self._followed), STREAM_AUDIENCES_MAX):
            self._start(self._followed[first : first + STREAM_AUDIENCES_MAX])
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops following. Checks go on answering from the last states, which age."""
        self._closed.set()
        for watch in list(self._watches):
            watch.close()
        self._background.join()

    def check_or_call(self, user_id: str, target: str) -> bool:
        """As `check`; asks the service when the local state may not be used."""
        try:
            return self.check(user_id, target)
        except MilepostError:
            return self._client.check(user_id, target)

    # --- following ---

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout
        while not all(each.is_ready for each in self._followed):
            for each in self._followed:
                if each.error is not None and (
                    each.failures >= WATCH_ATTEMPTS_MAX or not is_temporary(each.error, timeouts=True)
                ):
                    raise each.error
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                waiting = [each for each in self._followed if not each.is_ready]
                cause = waiting[0].error
                raise not_followed(waiting[0].name, self._ready_timeout, cause) from cause
            self._changed.wait(remaining)
            self._changed.clear()

    def _start(self, group: Sequence[Followed], pause: float = 0.0) -> None:
        self._background.start(self._follow, {each.name: each for each in group}, pause)

    def _follow(self, group: dict[str, Followed], pause: float) -> None:
        """Follows audiences in one stream, after a pause. One of several that ends leaves the group, and is
        tried again in a stream of its own.
        """
        if pause:
            self._closed.wait(pause)
        backoff = Backoff(sys.maxsize, timeouts=True)
        position = ""
        while group and not self._closed.is_set():
            watch = self._client.watch_together(
                list(group),
                position=position,
                progress_interval=self._progress_interval,
                attempts_max=1,
            )
            try:
                self._watch(watch, group, backoff)
            except (InvalidArgument, NotFound) as error:
                if len(group) > 1:
                    # One name may be why all were refused.
                    for each in group.values():
                        self._start([each])
                    return
                pause = self._failed(group, error, backoff)
            except MilepostError as error:
                pause = self._failed(group, error, backoff)
            except CLOSED:
                # The client was closed, and nothing will be followed any more.
                self._failed(group, cancelled(), backoff)
                return
            else:
                continue
            position = watch.position
            self._closed.wait(pause)

    def _watch(self, watch: WatchTogether, group: dict[str, Followed], backoff: Backoff) -> None:
        """Takes updates until the watch is closed, or ends with an error, or all audiences have ended."""
        self._watches.add(watch)
        try:
            if self._closed.is_set():
                return
            for target, _audience, epoch, update in watch:
                backoff.succeeded()
                if not isinstance(update, WatchEnd):
                    if group[target].take(update, epoch, self._lock):
                        self._changed.set()
                elif len(group) > 1:
                    ended = group.pop(target)
                    self._failed({target: ended}, from_watch_end(update), backoff)
                    self._start([ended], REPEAT_SECONDS)
                else:
                    raise from_watch_end(update)
        finally:
            self._watches.discard(watch)

    def _failed(self, group: dict[str, Followed], error: MilepostError, backoff: Backoff) -> float:
        """Notes why audiences are not followed. Returns the seconds until another attempt."""
        temporary = is_temporary(error, timeouts=True)
        for each in group.values():
            each.failed(error, is_temporary=temporary)
        self._changed.set()
        return backoff.failed(error) if temporary else REPEAT_SECONDS
