"""What the roles of one store share: its state, its log, and their locks.

Locks are taken in this order: checkpoint, apply (`Writer`), index, counting (`CatalogPages`), state
(`State`). A thread that writes to the index holds the index lock, briefly under the state lock or for longer
without it. A write request is logged and synced outside the state lock and applied under it in chunks. A read
request holds it for a short answer; a longer one lets others go first (`storage.turns`).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic

from engine.backends.local.membership.store import Write
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Read
from engine.backends.local.storage.write_ahead_log import WriteAheadLog
from engine.backends.local.write.group_commit import Writer
from engine.backends.local.write.state import P, State
from engine.clock import Stamp
from engine.errors import LimitExceeded, StoreUnavailable
from engine.values import Micros


class AccountForgotten(Exception):
    """The account was deleted while it was read: it has no users."""


class OpenStore(Generic[P]):
    """An open store, whose accounts are of the class P. Each role adds its methods; `LocalBackend` has all
    roles of the embedded store.
    """

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        self._store = store
        self._settings = settings
        self._state = self._open_state()
        self._log = WriteAheadLog(store.log, self._state.position)
        self._writer = self._open_writer(clock)
        self._writer.replay()
        self._state.load_users()
        self._index_lock = threading.RLock()
        self._closing = threading.Event()
        self._closed = False

    def _open_state(self) -> State[P]:
        """The state that the log is applied to. `_store` and `_settings` are set."""
        raise NotImplementedError

    def _open_writer(self, clock: Callable[[], Stamp]) -> Writer:
        """The writer of the log. `_log` and `_state` are set."""
        return Writer(self._log, self._state, clock)

    @property
    def store_id(self) -> str:
        """Random, fixed at creation."""
        return self._store.store_id

    def revision(self) -> int:
        """The newest visible revision."""
        return self._state.position

    def newest_arrival(self) -> Micros:
        """When the newest write arrived; 0 when there is none."""
        return self._state.arrival

    @contextmanager
    def _locked(self, deadline: float | None = None) -> Iterator[None]:
        with self._state.locked(deadline):
            self._check()
            yield

    @contextmanager
    def _read(self, deadline: float | None, name: str) -> Iterator[tuple[P | None, Read]]:
        """A read that lets others go first, and the account; None when it has no data. Raises
        AccountForgotten when the account is forgotten meanwhile, and StoreUnavailable when the store is
        closing.
        """
        account: P | None = None

        def check_open() -> None:
            if self._closing.is_set():
                raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")
            self._check()
            if account is not None and not self._state.is_current(account):
                raise AccountForgotten(name)

        with self._state.read(deadline, check_open) as read:
            self._check()
            account = self._state.find_account(name)
            yield account, read

    # --- writing memberships ---

    def _commit(self, collect: Callable[[], Write | None]) -> bool:
        """Stores an operation on memberships. It is collected and published with the state lock, and
        committed without it, since a commit waits for the disk. Call with the index lock. False: there was
        nothing to do.
        """
        with self._state.locked():
            write = collect()
        if write is None:
            return False
        try:
            self._state.memberships.write(write)
        except BaseException:
            with self._state.locked():
                write.give_up()
            raise
        with self._state.locked():
            write.finish()
        return True

    def _record_waiting(self, as_of: Micros = 0) -> None:
        """Records pending exits of erased users, as of this instant or that of the last round, whichever is
        later, and changes of opted-in values. Call with the index lock. Raises LimitExceeded while the store
        is full.
        """
        memberships = self._state.memberships
        while self._commit(functools.partial(memberships.record_exits, as_of)):
            pass
        self._commit(memberships.record_updates)

    def _record_exits_if_there_is_room(self) -> None:
        """Records pending exits, unless the store is full or they wait for a round. Call with the index
        lock.
        """
        with self._state.locked():
            may_record = self._state.memberships.may_record_exits
        if may_record:
            with suppress(LimitExceeded):
                self._record_waiting()

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", reason="STORE_CLOSED")
        self._writer.check()

    def _await(self, revision: int, deadline: float | None) -> None:
        if revision > self._state.position:
            latest = time.monotonic() + self._settings.revision_wait_seconds_max
            self._state.wait_for(revision, latest if deadline is None else deadline)
