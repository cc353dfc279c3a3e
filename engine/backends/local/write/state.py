"""The state built from the log: accounts, seen event ids and requests, and the applied position.

`apply` depends only on log order. It takes the state lock in chunks, so queries run in between. All other
callers take the lock for one question at a time. How a batch is applied, and what else goes with an alias, an
erasure or a removal, is up to a subclass: in the embedded store `LocalState`.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import msgspec

from engine.backends.base import Appended
from engine.backends.local.account.caches import AccountCaches
from engine.backends.local.account.forgotten_keys import ForgottenKeys, keys_of_account
from engine.backends.local.account.people import People
from engine.backends.local.account.readers import Readers
from engine.backends.local.membership.published import Serves
from engine.backends.local.membership.store import Memberships
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.dedupe import EventIds, Requests
from engine.backends.local.storage.fair_lock import CANCELLED_POLL_SECONDS, FairLock
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Names, Space
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.positions import CheckpointedState, read_checkpointed, write_checkpointed
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.turns import Computing, Read
from engine.backends.local.storage.user_ref import UserRef
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    BatchEntry,
    EraseEntry,
    ExpireEntry,
    FollowEntry,
    ForgetEntry,
    ImportEntry,
    LogEntry,
    MapEntry,
    MappingEntry,
    RefusedEntry,
    SharedEntry,
    UnmapEntry,
    UserImportEntry,
)
from engine.backends.local.users.directory import Directory, by_group
from engine.backends.local.users.finder import UserFinder
from engine.clock import Stamp
from engine.deadline import is_cancelled
from engine.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    RevisionNotReached,
    StoreUnavailable,
)
from engine.measures import Durations
from engine.values import Micros

ERASED_AT_ONCE = 8
"""Users erased per hold of the lock."""
FOUND_AT_ONCE = 512
"""Ids of users to erase that are looked up per hold of the lock."""


class _Locked:
    """See `State.locked`."""

    __slots__ = ("_deadline", "_lock", "_session")

    def __init__(self, lock: FairLock, session: AbstractContextManager[None], deadline: float | None) -> None:
        self._lock = lock
        self._session = session
        self._deadline = deadline

    def __enter__(self) -> None:
        if not self._lock.acquire(self._deadline):
            raise DeadlineExceeded("the deadline passed while waiting for the store")
        self._session.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._session.__exit__(kind, error, trace)
        finally:
            self._lock.release()


class NotApplied(StoreUnavailable):
    """An entry is logged, and could not be applied yet: nothing has changed. It is applied before any
    other.
    """


P_co = TypeVar("P_co", bound=People, covariant=True)
P = TypeVar("P", bound=People)


class State(Generic[P]):
    """The in-memory state of one store, whose accounts are of the class P."""

    def __init__(
        self, store: Store, settings: LocalSettings, check: Callable[[], None], make_account: MakesAccount[P]
    ) -> None:
        """`check` raises when the store is closed or has failed."""
        self._store = store
        self._check = check
        self._make_account = make_account
        self._chunk_records = settings.apply_chunk_records
        self._lock = FairLock()
        self._reached = threading.Condition()
        self._settings = settings
        self.page_cache = PageCache(store.index)
        self.caches = AccountCaches()
        self.computing = Computing()
        self._limit_caches()
        self.names = Names(store.index)
        self.event_ids = EventIds(store.index, settings.dedupe_horizon_days)
        for number in self.names.space(Space.ACCOUNT).forgotten:
            self.event_ids.forget(number)
        self.requests = Requests(store.index, settings.request_horizon_hours)
        self.memberships = Memberships(
            store.index, self.page_cache, store.groups, self._users_of, settings.changes_retained_max
        )
        self.memberships.log_position = lambda: self.position
        self._serving: ServesRevisions | None = None
        self._accounts: dict[str, P] = {}
        self._checkpointing: list[P] = []
        """The accounts that take part in the checkpoint under way, also those forgotten meanwhile."""
        self._forgotten_keys = ForgottenKeys()
        self._closed_accounts: dict[str, DataLoss] = {}
        with store.index.reading() as txn:
            self.checkpointed = read_checkpointed(txn)
        self.position = self.checkpointed.position
        self._sequence = self.checkpointed.sequence
        self.arrival = self.checkpointed.arrival
        self._settled = self.checkpointed.stamp.settled
        self._writing = CheckpointedState()

    def _limit_caches(self) -> None:
        """Sets the cache budgets by the number of users in the index."""
        with self._store.index.reading() as txn:
            users = sum(int.from_bytes(count, "little") for _, count in txn.scan(key(Family.USER_COUNT)))
        self.page_cache.limit(self._settings.page_budget_bytes(users))
        self.caches.limit(self._settings.column_budget_bytes(users), users)

    @property
    def has_unlogged_changes(self) -> bool:
        """Whether a checkpoint has something to write that no log entry says."""
        return False

    @property
    def lock_waits(self) -> Durations:
        """How long threads waited for the lock."""
        return self._lock.waits

    def cache_bytes(self) -> Iterator[tuple[str, int, int]]:
        """Name, memory and budget of each cache of the store."""
        yield "pages", self.page_cache.size_bytes, self.page_cache.size_bytes_max
        for cache in self.caches.all():
            yield cache.name, cache.nbytes, cache.bytes_max

    def locked(self, deadline: float | None = None) -> AbstractContextManager[None]:
        """Holds the state lock and a session of the page cache. Raises DeadlineExceeded when the deadline
        passes before the thread gets the lock.
        """
        return _Locked(self._lock, self.page_cache.session(), deadline)

    def yield_lock(self) -> None:
        """Lets others go first. Call with the lock held."""
        self._lock.yield_lock()

    @contextmanager
    def read(self, deadline: float | None, check_open: Callable[[], None]) -> Iterator[Read]:
        """As `locked`, for a read that lets others go first (`engine.backends.local.storage.turns`)."""
        read = Read(self._lock, self.page_cache.session, self.computing, check_open, deadline)
        with read.begun():
            yield read

    def is_current(self, account: People) -> bool:
        """Whether the account has not been forgotten."""
        return self._accounts.get(account.name) is account

    def find_account(self, name: str) -> P | None:
        """The account, or None when it has never had data. Reading must not number an account: numbers follow
        log order. Raises DataLoss for an account that was closed.
        """
        self.check_account(name)
        known = self._accounts.get(name) or self.names.space(Space.ACCOUNT).find(name)
        return None if known is None else self._account(name)

    def check_account(self, name: str) -> None:
        """Raises DataLoss for an account that was closed. Needs no lock."""
        if name in self._closed_accounts:
            raise self._closed_accounts[name]

    def _users_of(self, name: str) -> UserFinder:
        """Finds the users of an account."""

        def find_directory() -> Directory | None:
            account = self.find_account(name)
            return None if account is None else account.directory

        return UserFinder(find_directory, self._locked_and_open)

    @contextmanager
    def _locked_and_open(self) -> Iterator[None]:
        with self.locked():
            self._check()
            yield

    def serve_with(self, serving: ServesRevisions | None) -> None:
        """Tells `serving` from now on what readers in other processes must not miss. Call with the state lock
        held.
        """
        self._serving = self.memberships.serving = serving

    def load_users(self) -> None:
        """Reads the users of accounts with stored memberships into memory, so that checks find them without
        the lock. What is damaged is found when it is needed.
        """
        for name in self.memberships.accounts():
            with suppress(DataLoss), self.locked():
                account = self.find_account(name)
                if account is not None:
                    account.user_index.load()

    def close_accounts(self, names: Iterable[str], damage: DataLoss) -> None:
        """Refuses to read these accounts, which miss writes that were acknowledged."""
        self._closed_accounts = dict.fromkeys(names, damage)

    def accounts(self) -> list[P]:
        """Every account with data."""
        return [self._account(name) for name in list(self.names.space(Space.ACCOUNT).numbers)]

    def _account(self, name: str) -> P:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._make_account(
                self._store,
                self.page_cache,
                self.caches,
                self.names,
                name,
                self.memberships.readers_of(name),
            )
        return account

    # --- applying -------------------------------------------------------------------------------------------

    def apply(self, position: int, entry: LogEntry) -> tuple[Appended, ...]:
        """Applies the entry at the next position and makes that revision visible. Returns the answer to each
        of its batches, or to the entry. Raises FailedPrecondition for an alias that is refused or a name that
        has users, whose position is reached all the same, and DuplicatesUnknown, with nothing changed, for
        events that may be duplicates; and NotApplied.
        """
        try:
            match entry:
                case AppendEntry() | ImportEntry() | UserImportEntry():
                    return (self._take_batch(position, entry),)
                case SharedEntry():
                    return self._take_shared(position, entry)
                case EraseEntry():
                    return (self._erase(position, entry),)
                case AliasEntry():
                    return (self._alias(position, entry),)
                case ExpireEntry():
                    return (self._expire(position, entry),)
                case ForgetEntry():
                    return (self._forget(position, entry),)
                case RefusedEntry():
                    self._reach(position, entry)
                    return (Appended(position, 0, 0),)
                case MapEntry() | UnmapEntry() | FollowEntry():
                    return (self._take_mapping(position, entry),)
        except FailedPrecondition:
            self._reach(position, entry)
            raise

    def skip(self, position: int, entry: LogEntry) -> None:
        """Makes the revision of a refused entry visible."""
        with self.locked():
            self._reach(position, entry)

    def _take_batch(self, position: int, entry: BatchEntry) -> Appended:
        """Applies what is new of a batch."""
        raise NotImplementedError

    def _take_shared(self, position: int, entry: SharedEntry) -> tuple[Appended, ...]:
        """Applies what is new of several batches. Only the writer of a gateway logs such entries."""
        raise NotImplementedError

    def _take_mapping(self, position: int, entry: MappingEntry) -> Appended:
        """Applies what tables of others give. Only gateways log such entries."""
        raise NotImplementedError

    def _first_answer(self, entry: BatchEntry) -> Appended | None:
        """The answer to a repeated request; None to one that is new."""
        if not entry.request_id:
            return None
        number = self._account(entry.account).number
        first = self.requests.find(number, entry.request_id, stamp_of(entry).settled)
        return None if first is None else msgspec.structs.replace(first, repeated=True)

    def _answered(self, position: int, entry: BatchEntry, account: P, rows: int, duplicates: int) -> Appended:
        """The answer to a batch, stored if it is a request."""
        answer = Appended(position, rows - duplicates, duplicates)
        if entry.request_id:
            self.requests.add(account.number, entry.request_id, entry.arrival, answer)
        return answer

    def _erase(self, position: int, entry: EraseEntry) -> Appended:
        """Users cease to exist a few at a time; only then their events go, table by table. So queries run in
        between, and no answer has a user that has lost some of its data.
        """
        with self.locked():
            account = self._account(entry.account)
        users: dict[str, UserRef] = {}
        unknown: dict[str, None] = {}
        for start in range(0, len(entry.user_ids), FOUND_AT_ONCE):
            with self.locked():
                named = account.named(entry.user_ids[start : start + FOUND_AT_ONCE])
                users |= {user_id: ref for user_id, ref in named.items() if ref is not None}
                unknown |= dict.fromkeys(user_id for user_id, ref in named.items() if ref is None)
        self._erasing(position, account, [*users, *unknown])
        with self.locked():
            for user_id in unknown:
                account.directory.unlink_aliases(user_id)
        with self.locked():
            self.memberships.find_named(account.name, self._lock.yield_lock)
        # Users of a group share pages.
        in_order = sorted(users.items(), key=operator.itemgetter(1))
        for start in range(0, len(in_order), ERASED_AT_ONCE):
            chunk = dict(in_order[start : start + ERASED_AT_ONCE])
            with self.locked(), self.memberships.ids_changing(account.name):
                account.retire(chunk)
                self._retired(position, account, chunk)
                gone = {ref: user_id for user_id, ref in chunk.items()}
                self.memberships.erased(account, gone, stamp_of(entry).settled)
        with self.locked():
            account.remove_events_of(by_group(users.values()), self._lock.yield_lock)
            # A name may have no data any more.
            self.memberships.lose_events(account.name)
            self._reach(position, entry)
        return Appended(position, len(users), 0)

    def _erasing(self, position: int, account: P, user_ids: Sequence[str]) -> None:
        """These users are about to be erased, and ids without data to lose their aliases. Called without the
        lock, before anything has changed.
        """

    def _retired(self, position: int, account: P, users: Collection[str]) -> None:
        """These users were erased, under the lock; they are still to exit their memberships."""

    def _alias(self, position: int, entry: AliasEntry) -> Appended:
        with self.locked():
            self.memberships.find_named(entry.account, self._lock.yield_lock)
        with self.locked():
            account = self._account(entry.account)
            is_new = account.check_alias(entry.from_user_id, entry.to_user_id)
        if is_new:
            self._move(position, account, entry)
        with self.locked():
            if is_new:
                with self.memberships.ids_changing(account.name):
                    moved = account.alias(entry.from_user_id, entry.to_user_id)
                    if moved is not None:
                        before, after = moved
                        # First, since from now on the alias means this user.
                        self.memberships.mark_all_dirty(account.name, by_group([after]))
                        exits = {before: entry.from_user_id}
                        self._moved(position, account, entry)
                        self.memberships.erased(account, exits, stamp_of(entry).settled)
            self._reach(position, entry)
        return Appended(position, 1, 0)

    def _move(self, position: int, account: P, entry: AliasEntry) -> None:
        """An alias is about to be made. Called without the lock, before anything has changed."""

    def _moved(self, position: int, account: P, entry: AliasEntry) -> None:
        """The data of a user were moved, under the lock; it is still to exit its memberships."""

    def _expire(self, position: int, entry: ExpireEntry) -> Appended:
        with self.locked():
            account = self._account(entry.account)
            account.remove_events(entry.before, entry.names, self._lock.yield_lock)
            self._removed(position, account, entry.before)
            self.memberships.lose_events(account.name)
            self.event_ids.expire(account.number, entry.before)
            self._reach(position, entry)
        return Appended(position, 0, 0)

    def _removed(self, position: int, account: P, before: Micros) -> None:
        """Events of an account before an instant were removed, under the lock."""

    def _forget(self, position: int, entry: ForgetEntry) -> Appended:
        with self.locked():
            account = self.find_account(entry.account)
            if account is not None:
                users = account.users_below(entry.name)
                if users:
                    raise FailedPrecondition(f"{entry.name} is not empty: users belong to it: {users}")
                self._forgotten_keys.add(account.forget(entry.name))
                if entry.name == account.name:
                    self._forget_account(account)
            self._forgot(entry)
            self._reach(position, entry)
        return Appended(position, 0, 0)

    def _forgot(self, entry: ForgetEntry) -> None:
        """What was left of a name was forgotten, under the lock."""

    def _forget_account(self, account: P) -> None:
        del self._accounts[account.name]
        self.memberships.forget_account(account.name)
        self.names.forget_account(account.name)
        self.event_ids.forget(account.number)
        self._forgotten_keys.add(keys_of_account(account.number))

    def _reach(self, position: int, entry: LogEntry) -> None:
        self.position = position
        if self._serving is not None:
            self._serving.reach(position)
        self.arrival, self._settled = stamp_of(entry)
        with self._reached:
            self._reached.notify_all()

    def wait_for(self, revision: int, deadline: float) -> None:
        """Blocks until the revision is visible. Raises RevisionNotReached when the deadline passes first, and
        DeadlineExceeded when the caller gives up.
        """
        with self._reached:
            while self.position < revision:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise RevisionNotReached(
                        f"revision {revision} was not reached in time; the newest is {self.position}",
                        metadata={"revision": str(self.position)},
                    )
                self._reached.wait(min(remaining, CANCELLED_POLL_SECONDS))
                if is_cancelled(deadline):
                    raise DeadlineExceeded("the caller cancelled the call")

    # --- checkpointing --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Fixes what a checkpoint writes. Others may read in between. No entry may be applied before this
        returns.
        """
        self._writing = CheckpointedState(self.position, self._sequence, self.arrival, self._settled)
        for part in (self.names, self.event_ids, self.requests, self._forgotten_keys):
            part.prepare()
        self._checkpointing = list(self._accounts.values())
        for account in self._checkpointing:
            account.prepare()
            self._lock.yield_lock()
        self.page_cache.freeze()

    def stage(self, pause: Callable[[], None]) -> None:
        """Does what `prepare` has left, piece by piece, and calls `pause` in between. Entries may be applied
        meanwhile. Call without the lock.
        """
        for account in self._checkpointing:
            self._in_pieces(account.stage_next, pause)
        self._in_pieces(self.page_cache.stage_next, pause)

    def _in_pieces(self, take_next: Callable[[], bool], pause: Callable[[], None]) -> None:
        """Takes the lock for each piece, until none is left."""
        is_left = True
        while is_left:
            with self.locked():
                is_left = take_next()
            pause()

    def write(self, txn: Writable, pause: Callable[[], None]) -> None:
        """Writes what was prepared, with the position it reflects, and calls `pause` in between. Needs no
        lock.
        """
        self.page_cache.write(txn, pause)
        self.names.write(txn)
        self.event_ids.write(txn, self._writing.stamp)
        self.requests.write(txn, self._writing.stamp.settled)
        for account in self._checkpointing:
            account.write(txn, pause)
        self._forgotten_keys.write(txn)
        write_checkpointed(txn, self._writing)

    def commit(self, pause: Callable[[], None]) -> None:
        """Finishes a checkpoint that has committed, and calls `pause` in between. Call without the lock."""
        with self.locked():
            for part in self._checkpointing_parts():
                part.commit()
            accounts, self._checkpointing = self._checkpointing, []
            self.checkpointed = self._writing
            self._limit_caches()
        for account in accounts:
            self._in_pieces(account.settle_next, pause)

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit; its changes are still to be written."""
        for part in self._checkpointing_parts():
            part.rollback()
        self._checkpointing = []

    def _checkpointing_parts(self) -> list[CheckpointingPart]:
        return [
            *self._checkpointing,
            self.page_cache,
            self.names,
            self.event_ids,
            self.requests,
            self._forgotten_keys,
        ]


def stamp_of(entry: LogEntry) -> Stamp:
    """When an entry arrived."""
    return Stamp(entry.arrival, entry.arrival if entry.settled is None else entry.settled)


class ServesRevisions(Serves, Protocol):
    """Hears of revisions as well."""

    def reach(self, revision: int) -> None:
        """Everything up to this revision is applied."""
        ...


class MakesAccount(Protocol[P_co]):
    """Opens or makes an account; see `People`."""

    def __call__(
        self,
        store: Store,
        page_cache: PageCache,
        caches: AccountCaches,
        names: Names,
        name: str,
        readers: Readers,
        /,
    ) -> P_co: ...


class CheckpointingPart(Protocol):
    """What takes part in a checkpoint."""

    def commit(self) -> None: ...

    def rollback(self) -> None: ...
