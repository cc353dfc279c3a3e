"""Streams of requests: awaited for a limited time, and until the service stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import Aborted
from service.prefetch import Prefetch
from service.reading import checked
from service.silent_streams import SilentStreams
from service.stopping import Stopping

REQUESTS_AHEAD = 1
"""Requests of a stream that are queued; one more may wait to enter the queue."""


@dataclass(frozen=True, slots=True)
class RequestStreams:
    """Reads streams of requests until the service stops, waiting for each request for `idle_s` at most."""

    stopping: Stopping
    idle_s: float
    silent: SilentStreams

    def read(
        self,
        requests: Iterator[bytes],
        parse: Callable[[bytes], Any],
        may_go_on: Callable[[], None],
        idle_s_max: float | None = None,
        pool: str | None = None,
    ) -> Iterator[Any]:
        """The requests, each parsed when it is used. Raises StoreUnavailable when the service stops, Aborted
        when the next request does not come in time, the error of an unreadable one, and what `may_go_on`
        raises. With `pool` a stream that waits gives way to others of that pool.
        """
        limit_s = self.idle_s if idle_s_max is None else min(idle_s_max, self.idle_s)
        stream = None if pool is None else self.silent.opened(pool)

        def while_waiting(waited_s: float) -> None:
            self.stopping.refuse()
            may_go_on()
            if stream is not None:
                stream.waited_s = waited_s
                if stream.gives_way:
                    raise _idle("while others called", limit_s)
            if waited_s >= limit_s:
                raise _idle(f"for {limit_s:g} seconds", limit_s)

        try:
            # Waiting for a request cannot be interrupted, and a caller may never send one.
            with Prefetch(
                requests, depth=REQUESTS_AHEAD, name="requests", while_waiting=while_waiting
            ) as prefetched:
                for request in prefetched:
                    self.stopping.refuse()
                    may_go_on()
                    if stream is not None:
                        stream.waited_s = 0.0
                    yield checked(parse(request))
        finally:
            if stream is not None:
                self.silent.closed(stream)


def _idle(while_: str, limit_s: float) -> Aborted:
    return Aborted(
        f"no request came {while_}; open the stream again when there is one",
        reason="STREAM_IDLE",
        metadata={"limit_s": f"{limit_s:g}"},
    )
