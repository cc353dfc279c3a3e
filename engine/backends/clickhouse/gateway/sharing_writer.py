"""Batches of callers that wait become one entry of the log, and so share its inserts into the cluster.

An insert takes tens of milliseconds, whatever its size up to thousands of rows. While one is under way, the
callers that come next wait; then one of them logs the batches of all together. The entry has one revision,
which its tokens follow from. So a shared entry is repeated, kept for a replica that is behind and replayed
like any other, with the same inserts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from engine.backends.base import Appended
from engine.backends.local.storage.write_ahead_log import (
    BatchEntry,
    LogEntry,
    SharedEntry,
    WriteAheadLog,
    rows_of,
)
from engine.backends.local.write.group_commit import Ticket, Writer
from engine.backends.local.write.state import State
from engine.clock import Stamp
from engine.errors import MilepostError

SHARED_ROWS_MAX = 50_000
"""Rows of the batches that share an entry. A larger batch is one of its own."""
SHARED_BYTES_MAX = 16 << 20
"""Bytes of these batches, as logged."""
GATHER_S = 0.002
"""Time to wait for as many callers as the last time, where an insert takes ten times as long."""


class _SharedTicket(Ticket):
    """The batches of several callers as one entry."""

    def __init__(self, parts: Sequence[Ticket], batches: Sequence[BatchEntry]) -> None:
        last = batches[-1]
        super().__init__(SharedEntry(last.arrival, tuple(batches), last.settled))
        self.parts = parts

    def logged(self, position: int) -> None:
        super().logged(position)
        for part in self.parts:
            part.logged(position)

    def answered(self, answers: Sequence[Appended]) -> None:
        super().answered(answers[-1:])
        for part, answer in zip(self.parts, answers, strict=True):
            part.answered((answer,))

    def failed(self, error: BaseException) -> None:
        super().failed(error)
        for part in self.parts:
            part.failed(error)


class SharingWriter(Writer):
    """Appends entries to the log and applies them to the state and the cluster."""

    def __init__(self, log: WriteAheadLog, state: State[Any], clock: Callable[[], Stamp]) -> None:
        super().__init__(log, state, clock)
        self._alone: deque[Ticket] = deque()
        """Batches of shared entries that were refused. They wait to be logged, each by itself."""
        self._turns = threading.Condition()
        self._is_led = False
        """Whether a caller works for all."""
        self._callers = 0
        """Those whose entries were logged together the last time."""

    def write(self, entry_at: Callable[[Stamp], LogEntry]) -> Appended:
        """As `Writer.write`. What comes while entries are applied is not logged before they are, so that it
        is logged together. One of the callers that wait works for all; the others are free once they are
        answered, and do not wait for what comes next.
        """
        ticket = self._enqueued(entry_at)
        while self._leads(ticket):
            try:
                with self._apply_lock:
                    self._work(ticket)
            finally:
                with self._turns:
                    self._is_led = False
                    self._turns.notify_all()
        return ticket.result()

    def _leads(self, ticket: Ticket) -> bool:
        """Waits until the ticket is decided (False), or its caller has to work."""
        with self._turns:
            self._turns.wait_for(lambda: ticket.is_decided or not self._is_led)
            if ticket.is_decided:
                return False
            self._is_led = True
            return True

    def _work(self, ticket: Ticket) -> None:
        if not ticket.position and not ticket.is_decided:
            if len(self._waiting) < self._callers:
                # Those that were answered together come again at about the same time.
                time.sleep(GATHER_S)
            with self._commit_lock:
                self._commit()
        self._decide_through(ticket)

    def _gathered(self) -> list[Ticket]:
        alone, waiting = list(self._alone), super()._gathered()
        self._alone.clear()
        self._callers = len(waiting)
        return [*alone, *_shared(waiting)]

    def _decide_through(self, ticket: Ticket) -> None:
        while self._logged and (not ticket.is_decided or self._has_note):
            if not self._decide_next():
                assert self._delay is not None
                # Nobody else tries as well: each would wait for servers that do not answer.
                for each in self._logged:
                    each.failed(self._delay)
                return

    def _refuse(self, ticket: Ticket, refusal: MilepostError) -> None:
        """It may be only one of several batches whose duplicates are unknown."""
        if not isinstance(ticket, _SharedTicket):
            super()._refuse(ticket, refusal)
            return
        self._note_refused(ticket)
        for part in ticket.parts:
            part.waits_again()
            self._alone.append(part)


def _shared(tickets: Iterable[Ticket]) -> Iterator[Ticket]:
    """Entries in order, batches that follow each other as shared ones."""
    shared = _Shared()
    for ticket in tickets:
        if not isinstance(ticket.entry, BatchEntry):
            yield from shared.joined()
            shared = _Shared()
            yield ticket
            continue
        if not shared.takes(ticket, ticket.entry):
            yield from shared.joined()
            shared = _Shared()
            shared.takes(ticket, ticket.entry)
    yield from shared.joined()


class _Shared:
    """Batches that become one entry. The answer to a request is looked up before the entry is applied, so a
    request is not in it twice.
    """

    def __init__(self) -> None:
        self._parts: list[Ticket] = []
        self._batches: list[BatchEntry] = []
        self._requests: set[tuple[str, str]] = set()
        self._rows = self._bytes = 0

    def takes(self, ticket: Ticket, batch: BatchEntry) -> bool:
        """Adds a batch if it can share the entry. The first one always can."""
        request = batch.account, batch.request_id
        rows, size = self._rows + rows_of(batch), self._bytes + len(ticket.encoded)
        if self._parts and (request in self._requests or rows > SHARED_ROWS_MAX or size > SHARED_BYTES_MAX):
            return False
        if batch.request_id:
            self._requests.add(request)
        self._rows, self._bytes = rows, size
        self._parts.append(ticket)
        self._batches.append(batch)
        return True

    def joined(self) -> Iterator[Ticket]:
        """The entry; none without batches."""
        if len(self._parts) > 1:
            yield _SharedTicket(self._parts, self._batches)
        else:
            yield from self._parts
