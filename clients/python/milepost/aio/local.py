"""Membership checks without a call: audiences followed into this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol, Self

from milepost._concurrency import CLOSED, AsyncBackground, AsyncSignal
from milepost._local import Followed, LocalAnswers
from milepost._retrying import Backoff, is_temporary
from milepost.aio.watching import AsyncWatch
from milepost.errors import MilepostError, OutOfRange, cancelled, not_followed

READY_TIMEOUT_SECONDS = 60.0
PROGRESS_INTERVAL = timedelta(seconds=0.25)
REPEAT_SECONDS = 5.0
"""Pause after an error that is not temporary, such as an audience that is no longer activated."""


class AsyncFollows(Protocol):
    """The methods of a client that local checks use."""

    def target_name(self, target: str) -> str:
        """See `Naming`."""
        ...

    def watch(
        self,
        target: str,
        *,
        cursor: int | None = None,
        epoch: str = "",
        progress_interval: timedelta | None = None,
        attempts_max: int = 0,
    ) -> AsyncWatch:
        """See `AudienceMethods`."""
        ...

    async def check(self, user_id: str, target: str) -> bool:
        """See `AudienceMethods`."""
        ...


class AsyncLocalChecks(LocalAnswers):
    """Audiences whose members are in this process, and answers about them without a call.

    Each audience is followed by a watch of its own, so it must be activated. An answer is from a state that
    the service had. `as_of` and `staleness` are those of the audience that is furthest behind; `check`
    answers from that instant or a later one.

    While the service is out of reach answers go on, and grow stale; with a `max_staleness` they then raise
    `TooStale`. The watch resumes where it was. When its cursor is too old, or of another epoch, it starts
    over with a snapshot, and the state before stays until that is complete. When an audience cannot be
    followed any more, for example since it was deactivated, answers about it raise the service's error until
    it can again.

    Checks are safe from any thread. Use it in a `with`, or close it. Each member takes about 120 bytes.
    """

    def __init__(
        self,
        client: AsyncFollows,
        targets: Sequence[str],
        *,
        max_staleness: timedelta | None,
        progress_interval: timedelta,
        ready_timeout: float,
    ) -> None:
        if max_staleness is not None and max_staleness <= progress_interval:
            seconds = progress_interval.total_seconds()
            raise ValueError(f"max_staleness must be more than the progress interval, {seconds} s")
        super().__init__({target: client.target_name(target) for target in targets}, max_staleness)
        self._client = client
        self._progress_interval = progress_interval
        self._ready_timeout = ready_timeout
        self._background = AsyncBackground()
        self._watches: dict[str, AsyncWatch] = {}
        self._closed = AsyncSignal()
        self._changed = AsyncSignal()

    async def __aenter__(self) -> Self:
        """Waits until every audience has a state. Raises the error that keeps one from it."""
        for followed in self._followed:
            self._background.start(self._follow, followed)
        try:
            await self._wait_until_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stops following. Checks go on answering from the last states, which age."""
        self._closed.set()
        for watch in list(self._watches.values()):
            watch.close()
        await self._background.join()

    async def check_or_call(self, user_id: str, target: str) -> bool:
        """As `check`; asks the service when the local state may not be used."""
        try:
            return self.check(user_id, target)
        except MilepostError:
            return await self._client.check(user_id, target)

    # --- following ---

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._ready_timeout
        while not all(each.is_ready for each in self._followed):
            for each in self._followed:
                if each.error is not None and not is_temporary(each.error, timeouts=True):
                    raise each.error
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                waiting = [each for each in self._followed if not each.is_ready]
                raise not_followed(waiting[0].name, self._ready_timeout) from waiting[0].error
            await self._changed.wait(remaining)
            self._changed.clear()

    async def _follow(self, followed: Followed) -> None:
        backoff = Backoff(sys.maxsize, timeouts=True)
        while not self._closed.is_set():
            try:
                await self._watch(followed, backoff)
                return
            except MilepostError as error:
                if isinstance(error, OutOfRange) and followed.cursor is not None:
                    followed.start_over()
                    continue
                temporary = is_temporary(error, timeouts=True)
                followed.failed(error, is_temporary=temporary)
                pause = backoff.failed(error) if temporary else REPEAT_SECONDS
                self._changed.set()
            except CLOSED:
                # The client was closed, and nothing will be followed any more.
                followed.failed(cancelled(), is_temporary=False)
                self._changed.set()
                return
            await self._closed.wait(pause)

    async def _watch(self, followed: Followed, backoff: Backoff) -> None:
        """Takes updates until the watch is closed, or ends with an error."""
        watch = self._client.watch(
            followed.name,
            cursor=followed.cursor,
            epoch=followed.epoch,
            progress_interval=self._progress_interval,
            attempts_max=1,
        )
        self._watches[followed.name] = watch
        if self._closed.is_set():
            return
        try:
            async for update in watch:
                backoff.succeeded()
                followed.epoch = watch.epoch
                if followed.take(update, self._lock):
                    self._changed.set()
        finally:
            followed.cursor, followed.epoch = watch.cursor, watch.epoch
