"""Group commit: from a request to an applied entry (log, fsync, apply, answer).

Concurrent writers share one commit: the first to get the commit lock writes the entries of all. While one
group of entries is applied, the next one is already being synced. Entries are applied in log order.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from engine.backends.base import Appended
from engine.backends.local.storage.dedupe import DuplicatesUnknown
from engine.backends.local.storage.write_ahead_log import (
    AppendEntry,
    FollowEntry,
    ImportEntry,
    LogEntry,
    RefusedEntry,
    SharedEntry,
    UserImportEntry,
    WriteAheadLog,
    accounts_of,
    encode_entry,
)
from engine.backends.local.write.state import NotApplied, State
from engine.clock import Stamp
from engine.errors import DataLoss, FailedPrecondition, MilepostError, StoreUnavailable

_log = logging.getLogger(__name__)

IMPORTED_PER_RECORD = 10
"""Events in columns that are applied in the time of one event record."""
IMPORTED_USERS_PER_RECORD = 2
"""The same for user updates, which take more memory until the next checkpoint."""


class Ticket:
    """One entry to be logged and applied, and what became of it."""

    def __init__(self, entry: LogEntry) -> None:
        self.entry = entry
        self.encoded = encode_entry(entry)
        self.position = 0
        self.answer: Appended | None = None
        self.error: BaseException | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the caller can be answered."""
        return self.answer is not None or self.error is not None

    def logged(self, position: int) -> None:
        """The entry is in the log."""
        self.position = position
        self.encoded = b""

    def waits_again(self) -> None:
        """The entry is to be logged once more."""
        self.position = 0
        self.encoded = encode_entry(self.entry)

    def answered(self, answers: Sequence[Appended]) -> None:
        """The entry is applied; it has one answer for each of its batches."""
        (self.answer,) = answers

    def failed(self, error: BaseException) -> None:
        """The caller gets an error."""
        self.error = error

    def result(self) -> Appended:
        """The answer of a decided ticket. Raises its error."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class Writer:
    """Appends entries to the log and applies them to the state."""

    def __init__(self, log: WriteAheadLog, state: State[Any], clock: Callable[[], Stamp]) -> None:
        self._log = log
        self._state = state
        self._clock = clock
        self._enqueue_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        self._apply_lock = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._logged: deque[Ticket] = deque()
        self._failure: BaseException | None = None
        self._unreplayed: DataLoss | None = None
        """Why the replay stopped before the end of the log, or None."""
        self._delay: NotApplied | None = None
        """Why the first logged entry is not applied yet, or None."""
        self._closed = False
        self.records_since_checkpoint = 0

    def replay(self) -> None:
        """Applies log entries that are newer than the index.

        Stops before an acknowledged entry when damage hides whether its events came before. The log keeps
        that entry and all later ones; writes are refused, and so are reads of the accounts that these entries
        change. Other accounts are complete.
        """
        for position, entry in self._log.replay(self._state.position):
            # Refused aliases are in the log too and are refused again.
            with suppress(FailedPrecondition):
                try:
                    self._apply(position, entry)
                except DuplicatesUnknown as damage:
                    if not self._log.is_refused(position):
                        self._stop_replay(position, damage)
                        return
                    self._state.skip(position, entry)

    def _stop_replay(self, position: int, damage: DuplicatesUnknown) -> None:
        accounts = {name for _, entry in self._log.replay(position - 1) for name in accounts_of(entry)}
        self._unreplayed = DataLoss(
            f"entries {position} to {self._log.position} of the log are not applied: {damage.message}",
            metadata={**damage.metadata, "applied_revision": str(position - 1)},
        )
        self._state.close_accounts(accounts, self._unreplayed)
        _log.error(
            "writes are refused, and reads of %d accounts that miss some: %s",
            len(accounts),
            self._unreplayed.message,
        )

    def write(self, entry_at: Callable[[Stamp], LogEntry]) -> Appended:
        """Logs the entry that `entry_at` builds from its arrival, applies it, and returns the result.

        Raises LimitExceeded when the log is full, with nothing applied; FailedPrecondition for a refused
        alias; StoreUnavailable after a failure that left the state unknown; DataLoss when the log could not
        be replayed to its end.
        """
        ticket = self._enqueued(entry_at)
        with self._commit_lock:
            if not ticket.position and not ticket.is_decided:
                self._commit()
        if not ticket.is_decided:
            with self._apply_lock:
                self._decide_through(ticket)
        return ticket.result()

    def _enqueued(self, entry_at: Callable[[Stamp], LogEntry]) -> Ticket:
        self.check_writable()
        with self._enqueue_lock:
            # Under the lock, so that arrival times follow log order.
            ticket = Ticket(entry_at(self._clock()))
            self._waiting.append(ticket)
        return ticket

    def check(self) -> None:
        """Raises StoreUnavailable when closed, or after a failure that left the state unknown."""
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="STORE_CLOSED")
        if self._failure is not None:
            self._check_failure()

    def check_writable(self) -> None:
        """As `check`; raises DataLoss when the log could not be replayed to its end."""
        self.check()
        if self._unreplayed is not None:
            raise self._unreplayed
        if self._delay is not None:
            raise self._delay

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise StoreUnavailable(
                "the store failed and has to be opened again", reason="STORE_FAILED"
            ) from self._failure

    def _commit(self) -> None:
        group = self._gathered()
        try:
            self.check_writable()
            first = self._log.append([ticket.encoded for ticket in group])
        except BaseException as error:
            for ticket in group:
                ticket.failed(error)
            return
        for position, ticket in enumerate(group, first):
            ticket.logged(position)
            self._logged.append(ticket)

    def _gathered(self) -> list[Ticket]:
        """The entries that wait to be logged. They wait no more."""
        with self._enqueue_lock:
            group = list(self._waiting)
            self._waiting.clear()
        return group

    def _decide_through(self, ticket: Ticket) -> None:
        while not ticket.is_decided or self._has_note:
            if not self._decide_next():
                ticket.error = ticket.error or self._delay
                return

    @property
    def delay(self) -> NotApplied | None:
        """Why logged entries are not applied yet, so that new ones are refused; None when they are."""
        return self._delay

    def go_on(self) -> None:
        """Applies the entries that are logged and were not applied yet, unless that is still not possible."""
        with self._apply_lock:
            while self._logged and self._decide_next():
                pass

    def _decide_next(self) -> bool:
        """Decides the first logged entry. False: it cannot be applied yet, and stays the first."""
        try:
            self._decide(self._logged[0])
        except NotApplied as delay:
            self._delay = delay
            return False
        self._delay = None
        self._logged.popleft()
        return True

    @property
    def _has_note(self) -> bool:
        """Whether the next entry is a note without a waiting caller."""
        return bool(self._logged) and isinstance(self._logged[0].entry, RefusedEntry)

    def _decide(self, ticket: Ticket) -> None:
        try:
            self._check_failure()
            ticket.answered(self._apply(ticket.position, ticket.entry))
        except NotApplied:
            raise
        except FailedPrecondition as refusal:
            ticket.failed(refusal)
        except DuplicatesUnknown as refusal:
            self._refuse(ticket, refusal)
        except BaseException as failure:
            # Logged, but applied partly or not at all: only a replay restores a known state.
            self._failure = self._failure or failure
            ticket.failed(failure if isinstance(failure, MilepostError) else self._unavailable(failure))

    def _refuse(self, ticket: Ticket, refusal: MilepostError) -> None:
        self._note_refused(ticket)
        ticket.failed(refusal)

    def _note_refused(self, ticket: Ticket) -> None:
        """Logs that an entry was refused, so that a replay refuses it too."""
        entry = ticket.entry
        self._state.skip(ticket.position, entry)
        try:
            with self._commit_lock:
                note = Ticket(RefusedEntry(entry.account, entry.arrival, ticket.position, entry.settled))
                note.position = self._log.append([note.encoded])
                self._logged.append(note)
        except MilepostError as failure:
            self._failure = self._failure or failure

    def _unavailable(self, failure: BaseException) -> StoreUnavailable:
        error = StoreUnavailable("the store failed and has to be opened again", reason="STORE_FAILED")
        error.__cause__ = failure
        return error

    def _apply(self, position: int, entry: LogEntry) -> Sequence[Appended]:
        try:
            return self._state.apply(position, entry)
        finally:
            self.records_since_checkpoint += _weight(entry)

    def paused(self) -> AbstractContextManager[bool]:
        """While this block runs no entry is applied. Logging continues."""
        return self._apply_lock

    def close(self) -> None:
        """Refuses new entries and applies those already logged."""
        with self._commit_lock:
            self._closed = True
        with self._apply_lock:
            while self._logged and self._decide_next():
                pass


def _weight(entry: LogEntry) -> int:
    """Number of append records with the same replay cost."""
    match entry:
        case AppendEntry():
            return len(entry.records)
        case ImportEntry():
            return 1 + len(entry.columns) // IMPORTED_PER_RECORD
        case UserImportEntry():
            return 1 + len(entry.columns) // IMPORTED_USERS_PER_RECORD
        case SharedEntry():
            return sum(map(_weight, entry.batches))
        case FollowEntry():
            return 1 + len(entry.users)
        case _:
            return 1
