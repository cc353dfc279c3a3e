"""`LocalBackend`: every role of a backend (`engine.backends.base`) in one process over one directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from engine.backends.base import Capabilities, NameSpan, Profile, Role
from engine.backends.local.account.account import Account
from engine.backends.local.roles.catalog import CatalogPages
from engine.backends.local.roles.embedded_memberships import EmbeddedMemberships
from engine.backends.local.roles.lifetime import Lifetime
from engine.backends.local.roles.maintenance import Maintenance
from engine.backends.local.roles.users import Users
from engine.backends.local.roles.writing import Writing
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.keys import CLUSTER, Family, key
from engine.backends.local.storage.store import Store
from engine.backends.local.write.local_state import LocalState
from engine.clock import Stamp, wall_stamp
from engine.errors import FailedPrecondition
from engine.values import Micros

TABLES_REMOVED_AT_ONCE = 256
"""Tables of which an entry removes events, where no single name has more: some ten milliseconds, after which
others' writes have their turn.
"""


class LocalBackend(
    EmbeddedMemberships,
    Writing[Account],
    Users[Account],
    CatalogPages,
    Maintenance,
    Lifetime[Account],
):
    """The embedded backend. One process owns a directory; all methods are safe from several threads."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        """Use `open`."""
        super().__init__(store, settings, clock)
        self._start()

    def _open_state(self) -> LocalState:
        return LocalState(self._store, self._settings, self._check)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        settings: LocalSettings | None = None,
        clock: Callable[[], Stamp] = wall_stamp,
    ) -> LocalBackend:
        """Opens or creates the store in a directory and replays log entries that are newer than the index.

        `clock` stamps arrivals. The horizons of event ids and request ids follow it.

        Raises StoreUnavailable when another process owns the store, DataLoss when it is damaged, and
        FailedPrecondition when it is that of a gateway, whose rows are in a cluster.
        """
        settings = settings or LocalSettings()
        store = Store.open(directory, groups=settings.groups, map_bytes=settings.map_bytes)
        with store.index.reading() as txn:
            is_of_gateway = next(txn.keys(key(Family.META, CLUSTER)), None) is not None
        if is_of_gateway:
            store.close()
            raise FailedPrecondition(
                f"the rows of the store in {directory} are in a cluster: open it by its URL, clickhouse://…"
            )
        return cls._over(store, settings, clock)

    @classmethod
    def in_memory(
        cls, *, settings: LocalSettings | None = None, clock: Callable[[], Stamp] = wall_stamp
    ) -> LocalBackend:
        """A new store in memory, which is gone once it is closed or its process has ended. Its writes are not
        synced.
        """
        settings = settings or LocalSettings()
        store = Store.in_memory(groups=settings.groups, map_bytes=settings.map_bytes)
        return cls._over(store, settings, clock)

    @classmethod
    def _over(cls, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> LocalBackend:
        try:
            return cls(store, settings, clock)
        except BaseException:
            store.close()
            raise

    def capabilities(self) -> Capabilities:
        """All roles."""
        return Capabilities(name="local", roles=frozenset(Role))

    def profile(self, account: str, user_id: str) -> Profile | None:
        """The profile of a user, or of the user an alias names: everything except its events."""
        with self._locked():
            found = self._state.find_account(account)
            return None if found is None else found.profile(user_id)

    def events_before(self, account: str, before: Micros) -> Iterator[NameSpan]:
        """As `DataWriter.events_before`. Looks at one name after the other, so others go between."""
        with self._locked():
            found = self._state.find_account(account)
            numbers = [] if found is None else found.tables.event_names()
        names: list[int] = []
        tables = 0
        for number in numbers:
            with self._locked():
                found = self._state.find_account(account)
                here = 0 if found is None else found.tables.tables_before(number, before)
            if here:
                names.append(number)
                tables += here
            if tables >= TABLES_REMOVED_AT_ONCE:
                yield NameSpan(names[0], names[-1] + 1)
                names, tables = [], 0
        if names:
            yield NameSpan(names[0], names[-1] + 1)

    def _shut(self) -> None:
        # What counts values ends first.
        with self._counting_alone():
            super()._shut()

    def _end_reads(self) -> bool:
        return self._upkeep.close()
