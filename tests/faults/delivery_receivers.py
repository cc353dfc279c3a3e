"""Receivers of the delivery campaign: one for each kind of output, on a real server.

To add a kind: a context manager that gives a `Receiver` and hands each event that arrives to the ledger, in
order of arrival, and its line in `RECEIVERS`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from milepost.outputs import OutputKind, WebhookOutput
from tests.faults.delivery_ledger import DeliveryLedger
from tests.service.delivery.endpoint import DROP, HALF, Answer, Endpoint, Received, endpoint

SECRET = "whsec_" + "A" * 32
FAILURES_MAX = 100
"""Requests that an endpoint fails in a campaign: each costs the connection a wait."""
FAILURE_PERCENT = 2


@dataclass(frozen=True)
class Receiver:
    """Where a connection delivers to, and the flags that the service needs for it."""

    output: OutputKind
    flags: tuple[str, ...] = ()


OpenReceiver = Callable[[Path, DeliveryLedger, random.Random], AbstractContextManager[Receiver]]
"""Opens a receiver that may keep files in a directory. `Random` chooses its failures."""


class _Failing(Endpoint):
    """Verifies signatures, hands events to the ledger, and fails now and then: before it has taken the
    events, after it, and half-way through its answer.
    """

    def __init__(self, ledger: DeliveryLedger, source: random.Random) -> None:
        super().__init__()
        self._ledger = ledger
        self._source = source
        self._failures = 0

    def take(self, received: Received) -> Answer:
        received.verify(SECRET)
        fails = self._failures < FAILURES_MAX and self._source.randrange(100) < FAILURE_PERCENT
        self._failures += fails
        if fails and self._source.random() < 0.5:
            return Answer(self._source.choice((429, 500, 503)), {"Retry-After": "0"})
        for event in received.events:
            self._ledger.take(event)
        if fails:
            return Answer(200, body=b"taken", way=self._source.choice((DROP, HALF)))
        return Answer()


@contextlib.contextmanager
def _webhook(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    with endpoint(made=_Failing(ledger, source)) as receiver:
        yield Receiver(WebhookOutput(url=receiver.url, secret=SECRET), ("--output-networks", "127.0.0.0/8"))


RECEIVERS: dict[str, OpenReceiver] = {
    "webhook": _webhook,
}
"""By the name of the kind."""
