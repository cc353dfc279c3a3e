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
    parts: list[Ticket] = []
    for ticket in tickets:
        if parts and not _fits(ticket, parts):
            yield _joined(parts)
            parts = []
        parts.append(ticket)
    if parts:
        yield _joined(parts)


def _fits(ticket: Ticket, parts: Sequence[Ticket]) -> bool:
    """Whether a batch can share an entry with others. The answer to a request is looked up before the entry
    is applied, so a request is not in it twice.
    """
    several = [*parts, ticket]
    batches = [each.entry for each in several if isinstance(each.entry, BatchEntry)]
    requests = [(batch.account, batch.request_id) for batch in batches if batch.request_id]
    return (
        len(batches) == len(several)
        and len(set(requests)) == len(requests)
        and sum(map(rows_of, batches)) <= SHARED_ROWS_MAX
        and sum(len(each.encoded) for each in several) <= SHARED_BYTES_MAX
    )


def _joined(parts: Sequence[Ticket]) -> Ticket:
    if len(parts) == 1:
        return parts[0]
    return _SharedTicket(parts, [each.entry for each in parts if isinstance(each.entry, BatchEntry)])
