"""How reads share the state lock: a long one holds it turn by turn, and not at all while it computes.

A `Read` is begun with the lock held. Between pieces of work it calls `pause`, which lets others go first.
What takes long and needs no state, such as scans of immutable columns and searches in strings, it does in a
block of `released`. The state may change meanwhile; `engine.backends.local.query.executor` says why the
answer is right all the same.

Nobody waits for a long read for longer than the work between two pauses (`PAUSE_PAGES`). One that only keeps
other long reads waiting goes on for `TURN_SECONDS`, since handing the lock over costs both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from engine.backends.local.storage.fair_lock import FairLock
from engine.deadline import check_deadline
from engine.errors import DeadlineExceeded

TURN_SECONDS = 0.002
"""A long read gives way to other long reads after it has held the lock for this long."""

PAUSE_PAGES = 16
"""Pages, sets or profiles that a long read looks up before it pauses: a fraction of a millisecond."""


class TakesLong(Exception):
    """A question takes longer than the lock should be held for."""


class Computing:
    """The reads that compute without the lock, one after the other: they compete for one interpreter, and
    more at once would only delay calls that are quickly done. They have read transactions, so closing waits
    for them.
    """

    def __init__(self) -> None:
        self._turn = FairLock()
        self._ended = threading.Condition()
        self._count = 0

    @contextmanager
    def one(self, deadline: float | None, *, is_brief: bool) -> Iterator[None]:
        """Is one of them within the block. One that is brief does not wait for the others."""
        with self._ended:
            self._count += 1
        try:
            if is_brief:
                yield
                return
            if not self._turn.acquire(deadline):
                raise DeadlineExceeded("the deadline passed while waiting for other long reads")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            with self._ended:
                self._count -= 1
                self._ended.notify_all()

    def close(self, seconds: float) -> bool:
        """Waits until none is left, for at most this long. False: some are."""
        with self._ended:
            return self._ended.wait_for(lambda: not self._count, timeout=seconds)


class Unshared:
    """A read of a state that nobody changes meanwhile. `Read` shares the state with others."""

    def __init__(self) -> None:
        self.looked_at = 0
        """Rows or values read so far."""

    def check(self) -> None:
        """Raises an error when the work has lost its purpose. Needs no lock."""

    def pause(self) -> None:
        """Lets others go first. Values of the state that were looked up before may have changed afterwards,
        and no view of a read transaction may be held.
        """

    @contextmanager
    def released(self, *, is_brief: bool = False) -> Iterator[None]:
        """The lock is not held within the block, unless within `keeping_lock`. What takes a few milliseconds
        at most is brief.
        """
        yield


class Read(Unshared):
    """One read of the state. Call every method but `check` with the lock held."""

    def __init__(
        self,
        lock: FairLock,
        session: Callable[[], AbstractContextManager[None]],
        computing: Computing,
        check_open: Callable[[], None],
        deadline: float | None,
    ) -> None:
        """`check_open` raises once the store is closing."""
        super().__init__()
        self._lock = lock
        self._session = session
        self._computing = computing
        self._check_open = check_open
        self.deadline = deadline
        self._opened: ExitStack | None = None
        self._keeps_lock = False
        self._since = 0.0
        self.waited = 0.0
        """Seconds spent waiting for others since the read began."""

    @contextmanager
    def begun(self) -> Iterator[Read]:
        """The length of the read."""
        self._enter(patient=False)
        try:
            yield self
        finally:
            self._leave()

    def _enter(self, *, patient: bool) -> None:
        if not self._lock.acquire(self.deadline, patient=patient):
            raise DeadlineExceeded("the deadline passed while waiting for the store")
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            stack.enter_context(self._session())
            if patient:
                self._check_open()
            self._opened = stack.pop_all()
        self._since = time.monotonic()

    def _leave(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def check(self) -> None:
        check_deadline(self.deadline)
        self._check_open()

    def pause(self) -> None:
        check_deadline(self.deadline)
        if self._keeps_lock:
            return
        lock = self._lock
        if lock.is_wanted or (lock.is_wanted_patiently and time.monotonic() - self._since >= TURN_SECONDS):
            began = time.monotonic()
            self._leave()
            self._enter(patient=True)
            self.waited += time.monotonic() - began

    @contextmanager
    def released(self, *, is_brief: bool = False) -> Iterator[None]:
        if self._keeps_lock:
            yield
            return
        self._leave()
        began = time.monotonic()
        try:
            with self._computing.one(self.deadline, is_brief=is_brief):
                self.waited += time.monotonic() - began
                yield
        finally:
            began = time.monotonic()
            self._enter(patient=True)
            self.waited += time.monotonic() - began

    @contextmanager
    def keeping_lock(self) -> Iterator[None]:
        """The lock is held within the block whatever is called, so the state does not change. Only for
        little work.
        """
        before, self._keeps_lock = self._keeps_lock, True
        try:
            yield
        finally:
            self._keeps_lock = before
