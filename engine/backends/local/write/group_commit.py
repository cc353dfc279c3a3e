"""Group commit: from a request to an applied entry (log, fsync, apply, answer).

Concurrent writers share one commit: one of them writes the entries of all. While one group of entries is
applied, the next one is already being synced. Entries are applied in log order.

What is in the log goes before all that comes later. So what is logged ahead is bounded by work, and what
waits beyond it is logged in an order that is fair to accounts (`work_queue`): a write waits for the entry
that is being applied and for a bounded amount of work, however much others send.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeAlias

import msgspec

from engine.backends.base import Appended
from engine.backends.local.storage.dedupe import DuplicatesUnknown
from engine.backends.local.storage.write_ahead_log import (
    AppendEntry,
    EraseEntry,
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
from engine.backends.local.write.work_queue import WorkQueue
from engine.clock import Stamp
from engine.errors import DataLoss, FailedPrecondition, MilepostError, StoreUnavailable

_log = logging.getLogger(__name__)

IMPORTED_PER_RECORD = 10
"""Events in columns that are applied in the time of one event record."""
IMPORTED_USERS_PER_RECORD = 2
"""The same for user updates, which take more memory until the next checkpoint."""
RECORDS_PER_ERASED = 4
"""Event records that are applied in the time in which one user is erased."""
LOGGED_WORK_MAX = 2_000
"""Work that is logged ahead of what is being applied, in event records: some ten milliseconds. An entry with
more is logged when nothing else is to be applied.
"""

_UNLOGGED = Stamp(0, 0)
"""The stamp of an entry that is not logged yet."""


class Ticket:
    """One entry to be logged and applied, and what became of it."""

    def __init__(self, entry: LogEntry) -> None:
        self.entry = entry
        self.account = entry.account
        """The account that the entry counts for."""
        self.work = work_of(entry)
        """Its work, in event records."""
        self.encoded = b""
        self.position = 0
        self.answer: Appended | None = None
        self.error: BaseException | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the caller can be answered."""
        return self.answer is not None or self.error is not None

    def of_callers(self) -> Sequence[Ticket]:
        """The tickets of those who wait for the entry."""
        return (self,)

    def stamped(self, at: Stamp) -> None:
        """The entry is about to be logged, and arrives now."""
        self.entry = msgspec.structs.replace(self.entry, arrival=at.arrival, settled=at.settled)
        self.encoded = encode_entry(self.entry)

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


_Job: TypeAlias = Literal["commit", "apply"]
"""Work for all, which one caller at a time does."""


class _Turn:
    """What a caller waits for: that its ticket is decided, or that it gets a job."""

    def __init__(self) -> None:
        self.comes = threading.Lock()
        self.comes.acquire()
        self.job: _Job | None = None


class Writer:
    """Appends entries to the log and applies them to the state."""

    logged_work_max = LOGGED_WORK_MAX

    def __init__(self, log: WriteAheadLog, state: State[Any], clock: Callable[[], Stamp]) -> None:
        self._log = log
        self._state = state
        self._clock = clock
        self._commit_lock = threading.Lock()
        self._apply_lock = threading.Lock()
        self._turns = threading.Lock()
        """Guards the seven that follow. Held for moments."""
        self._waiting: WorkQueue[Ticket] = WorkQueue()
        self._jobs: set[_Job] = set()
        """Those that callers are doing."""
        self._parked: dict[Ticket, _Turn] = {}
        """Callers who have nothing to do, those who wait longest first."""
        self._pauses = 0
        """Those who want, or have, that no entry is applied."""
        self._unapplied: dict[str, int] = {}
        """For each account its entries that wait or are logged, and are not applied yet."""
        self._ahead = 0
        """Work that is logged, or being logged, and not being applied yet."""
        self._applying = 0
        """Work of the entry that is being applied."""
        self._logged: deque[Ticket] = deque()
        """To be applied, in order of the log; the first may be under way."""
        self._failure: BaseException | None = None
        self._unreplayed: DataLoss | None = None
        """Why the replay stopped before the end of the log, or None."""
        self._delay: NotApplied | None = None
        """Why the first logged entry is not applied yet, or None."""
        self._closed = False
        self.records_since_checkpoint = 0
        self.left_through = 0
        """Through which position the log may have data of users that do not exist: it was erased or refused
        there.
        """

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
        return self.write_all((entry_at,))[0]

    def write_all(self, entries_at: Iterable[Callable[[Stamp], LogEntry]]) -> list[Appended]:
        """As `write`, for several entries of one account in order. Entries of others may come between them.
        After an error the others are applied or have failed too.
        """
        self.check_writable()
        tickets = [Ticket(entry_at(_UNLOGGED)) for entry_at in entries_at]
        with self._turns:
            for ticket in tickets:
                self._waiting.put(ticket)
                self._count(ticket, 1)
        for ticket in tickets:
            self._see_through(ticket)
        return [ticket.result() for ticket in tickets]

    def _see_through(self, ticket: Ticket) -> None:
        """Works for all, or waits while others do, until the ticket is decided."""
        done: _Job | None = None
        while job := self._next_turn(ticket, done):
            try:
                if job == "commit":
                    self._commit()
                else:
                    self._apply_logged(ticket)
            except BaseException:
                with self._turns:
                    self._jobs.remove(job)
                    self._hand_out()
                raise
            done = job

    def _next_turn(self, ticket: Ticket, done: _Job | None) -> _Job | None:
        """Ends the job that is done, and waits for the next one; None: the ticket is decided."""
        job: _Job | None = None
        turn: _Turn | None = None
        with self._turns:
            if done is not None:
                self._jobs.remove(done)
            if not ticket.is_decided:
                job = self._take_job()
                if job is None:
                    turn = self._parked[ticket] = _Turn()
            if self._parked:
                self._hand_out()
        if turn is not None:
            turn.comes.acquire()
            job = turn.job
        return job

    def _take_job(self) -> _Job | None:
        """Takes a job that is to be done, if there is one. Committing comes first: it is short, and what is
        logged can be applied meanwhile.
        """
        job: _Job
        if "commit" not in self._jobs and self._may_commit():
            job = "commit"
        elif "apply" not in self._jobs and self._may_apply():
            job = "apply"
        else:
            return None
        self._jobs.add(job)
        return job

    def _hand_out(self) -> None:
        """Gives the jobs that are to be done to callers who wait."""
        while self._parked and (job := self._take_job()):
            self._wake(next(iter(self._parked)), job)

    def _wake(self, ticket: Ticket, job: _Job | None = None) -> None:
        turn = self._parked.pop(ticket, None)
        if turn is not None:
            turn.job = job
            turn.comes.release()

    def _ended(self, ticket: Ticket) -> None:
        """The entry is applied, refused or not logged. Wakes those whose ticket is decided with it; others
        are to be logged again.
        """
        for each in ticket.of_callers():
            if each.is_decided:
                self._count(each, -1)
                self._wake(each)

    def _count(self, ticket: Ticket, more: int) -> None:
        """Counts an entry that is to be applied (1), or no longer is (-1)."""
        account = ticket.account
        left = self._unapplied.get(account, 0) + more
        if left:
            self._unapplied[account] = left
        else:
            del self._unapplied[account]

    def has_unapplied(self, account: str) -> bool:
        """Whether entries of the account are still to be applied, those of callers who got an error
        included.
        """
        with self._turns:
            return account in self._unapplied

    def _may_commit(self) -> bool:
        """Whether something waits that may be logged now, or fails."""
        if not self._waiting:
            return False
        return self._delay is not None or self._fits(self._waiting.first().work)

    def _may_apply(self) -> bool:
        """Whether a caller may apply what is logged."""
        return bool(self._logged) and not self._pauses and self._delay is None

    def _fits(self, work: int) -> bool:
        """Whether that much more may be logged ahead."""
        return self._ahead + work <= self.logged_work_max or not self._ahead + self._applying

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
        """Logs the entries that are next."""
        with self._commit_lock:
            group = self._gathered()
            try:
                self.check_writable()
                first = self._log.append([ticket.encoded for ticket in group])
            except BaseException as error:
                self._give_up(group, error)
                return
            with self._turns:
                for position, ticket in enumerate(group, first):
                    ticket.logged(position)
                    self._logged.append(ticket)
                if self._delay is not None:
                    self._fail_logged(self._delay)

    def _gathered(self) -> list[Ticket]:
        """Takes the entries to be logged now: the first that waits, and what else may be logged ahead."""
        taken: list[Ticket] = []
        with self._turns:
            while self._waiting and (not taken or self._fits(self._waiting.first().work)):
                taken.append(self._waiting.take())
                self._ahead += taken[-1].work
        # Here, so that arrival times follow log order.
        arrival, group = self._clock(), []
        for ticket in taken:
            try:
                ticket.stamped(arrival)
                group.append(ticket)
            except Exception as error:
                self._give_up([ticket], error)
        return group

    def _give_up(self, tickets: Sequence[Ticket], error: BaseException) -> None:
        """Entries are not logged, for that reason."""
        with self._turns:
            for ticket in tickets:
                self._ahead -= ticket.work
                ticket.failed(error)
                self._ended(ticket)

    def _apply_logged(self, ticket: Ticket) -> None:
        """Applies logged entries until the ticket is decided, none is left or somebody wants a pause."""
        with self._apply_lock:
            while self._has_note or (self._may_apply() and not ticket.is_decided):
                if not self._decide_next():
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
        ticket = self._logged[0]
        with self._turns:
            self._ahead -= ticket.work
            self._applying = ticket.work
        try:
            self._decide(ticket)
        except NotApplied as delay:
            with self._turns:
                self._delay = delay
                self._ahead += ticket.work
                self._applying = 0
                self._fail_logged(delay)
            return False
        with self._turns:
            self._delay = None
            self._logged.popleft()
            self._applying = 0
            self._ended(ticket)
            if self._parked:
                self._hand_out()
        return True

    def _fail_logged(self, delay: NotApplied) -> None:
        """Whoever waits for logged entries gets an error: nobody else tries to apply them."""
        for ticket in self._logged:
            ticket.failed(delay)
            for each in ticket.of_callers():
                self._wake(each)

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
                note.logged(self._log.append([encode_entry(note.entry)]))
                with self._turns:
                    self._ahead += note.work
                    self._count(note, 1)
                    self._logged.append(note)
        except MilepostError as failure:
            self._failure = self._failure or failure

    def _unavailable(self, failure: BaseException) -> StoreUnavailable:
        error = StoreUnavailable("the store failed and has to be opened again", reason="STORE_FAILED")
        error.__cause__ = failure
        return error

    def _apply(self, position: int, entry: LogEntry) -> Sequence[Appended]:
        if isinstance(entry, EraseEntry):
            self.left_through = position
        try:
            return self._state.apply(position, entry)
        except BaseException:
            self.left_through = position
            raise
        finally:
            self.records_since_checkpoint += work_of(entry)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While this block runs no entry is applied. Logging continues. It begins after the entry that is
        being applied, before all others.
        """
        with self._turns:
            self._pauses += 1
        try:
            with self._apply_lock:
                yield
        finally:
            with self._turns:
                self._pauses -= 1
                self._hand_out()

    def close(self) -> None:
        """Refuses new entries and applies those already logged."""
        with self._commit_lock:
            self._closed = True
        with self._apply_lock:
            while self._logged and self._decide_next():
                pass


def work_of(entry: LogEntry) -> int:
    """The work of applying an entry, in event records: 1 or more."""
    match entry:
        case AppendEntry():
            return max(1, len(entry.records))
        case ImportEntry():
            return 1 + len(entry.columns) // IMPORTED_PER_RECORD
        case UserImportEntry():
            return 1 + len(entry.columns) // IMPORTED_USERS_PER_RECORD
        case SharedEntry():
            return sum(map(work_of, entry.batches))
        case FollowEntry():
            return 1 + len(entry.users)
        case EraseEntry():
            return 1 + RECORDS_PER_ERASED * len(entry.user_ids)
        case _:
            return 1
