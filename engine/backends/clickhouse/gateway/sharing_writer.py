"""Batches of callers that wait become one entry of the log, and so share its inserts into the cluster.

An insert takes tens of milliseconds, whatever its size up to thousands of rows. While one is under way, the
callers that come next wait; then one of them logs the batches of all together. The entry has one revision,
which its tokens follow from. So a shared entry is repeated, kept for a replica that is behind and replayed
like any other, with the same inserts.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from engine.backends.base import Appended
from engine.backends.local.storage.write_ahead_log import (
    BatchEntry,
    SharedEntry,
    WriteAheadLog,
    encode_entry,
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
        self.encoded = encode_entry(self.entry)
        self.parts = parts

    def of_callers(self) -> Sequence[Ticket]:
        return self.parts

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

    logged_work_max = SHARED_ROWS_MAX

    def __init__(self, log: WriteAheadLog, state: State[Any], clock: Callable[[], Stamp]) -> None:
        super().__init__(log, state, clock)
        self._alone: deque[Ticket] = deque()
        """Batches of shared entries that were refused. They wait to be logged, each by itself."""
        self._callers = 0
        """Those whose entries were logged together the last time."""

    def _may_commit(self) -> bool:
        """What comes while entries are applied is not logged before they are, so that it is logged
        together.
        """
        if not self._waiting and not self._alone:
            return False
        return self._delay is not None or not (self._ahead + self._applying or self._pauses)

    def _commit(self) -> None:
        if len(self._waiting) < self._callers:
            # Those that were answered together come again at about the same time.
            time.sleep(GATHER_S)
        super()._commit()

    def _gathered(self) -> list[Ticket]:
        with self._turns:
            alone = list(self._alone)
            self._alone.clear()
            self._ahead += sum(ticket.work for ticket in alone)
        waiting = super()._gathered()
        self._callers = len(waiting)
        return [*alone, *_shared(waiting)]

    def _refuse(self, ticket: Ticket, refusal: MilepostError) -> None:
        """It may be only one of several batches whose duplicates are unknown."""
        if not isinstance(ticket, _SharedTicket):
            super()._refuse(ticket, refusal)
            return
        self._note_refused(ticket)
        with self._turns:
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
