"""Streams of requests: awaited for a limited time, and until the service stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import Aborted
from service.prefetch import Prefetch
from service.reading import checked
from service.stopping import Stopping

REQUESTS_AHEAD = 1
"""Requests of a stream that are queued; one more may wait to enter the queue."""


@dataclass(frozen=True, slots=True)
class RequestStreams:
    """Reads streams of requests until the service stops, waiting for each request for `idle_s` at most."""

    stopping: Stopping
    idle_s: float

    def read(
        self, requests: Iterator[Any], may_go_on: Callable[[], None], idle_s_max: float | None = None
    ) -> Iterator[Any]:
        """The requests. Raises StoreUnavailable when the service stops, Aborted when the next request does
        not come in time, the error of an unreadable one, and what `may_go_on` raises.
        """
        limit_s = self.idle_s if idle_s_max is None else min(idle_s_max, self.idle_s)

        def while_waiting(waited_s: float) -> None:
            self.stopping.refuse()
            may_go_on()
            if waited_s >= limit_s:
                raise Aborted(
                    f"no request came for {limit_s:g} seconds; open the stream again when there is one",
                    reason="STREAM_IDLE",
                    metadata={"limit_s": f"{limit_s:g}"},
                )

        # Waiting for a request cannot be interrupted, and a caller may never send one.
        with Prefetch(
            requests, depth=REQUESTS_AHEAD, name="requests", while_waiting=while_waiting
        ) as prefetched:
            for request in prefetched:
                self.stopping.refuse()
                may_go_on()
                yield checked(request)
