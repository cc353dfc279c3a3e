"""Stored memberships: members of an audience, its change log, and dirty users.

A membership is a bitmap per group. Its change log has one record per refresh, with the bitmaps of users that
entered and exited, so a million entries cost little. Within a record, changes are numbered group by group,
entries before exits, ascending. Every operation is one durable transaction: a change that a consumer has read
is never renumbered.

Dirty users are kept in memory by *scope*. After a restart every user of a scope counts as dirty.

The ids of erased users are kept apart while a stored change may still name them.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from pyroaring import BitMap

from engine.backends.base import Change, ChangePage, Membership
from engine.backends.local.account.account import Account
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import BITMAP, PageCache
from engine.backends.local.storage.transactions import WriteTransaction
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef
from engine.errors import CursorExpired, LimitExceeded, NotFound
from engine.values import Micros

CHANGES_RETAINED_MAX = 5_000_000
"""Changes kept for each audience, at least. The next refresh deletes whole records beyond this number."""


class StoredState(msgspec.Struct, array_like=True):
    """A membership without its members. `number` identifies the audience in keys."""

    number: int
    account: str
    scope: str
    size: int = 0
    as_of: Micros = 0
    revision: int = 0
    first_sequence: int = 1
    last_sequence: int = 0
    entered_total: int = 0
    exited_total: int = 0

    def public(self) -> Membership:
        """The state as callers of the backend see it."""
        return Membership(
            size=self.size,
            as_of=self.as_of,
            revision=self.revision,
            first_sequence=self.first_sequence,
            last_sequence=self.last_sequence,
            entered_total=self.entered_total,
            exited_total=self.exited_total,
        )


class ChangeRecord(msgspec.Struct, frozen=True, array_like=True):
    """Changes of one instant: bitmaps of entries and exits for each group that has any."""

    as_of: Micros
    groups: tuple[tuple[int, bytes, bytes], ...]


class ErasedUser(msgspec.Struct, array_like=True):
    """The id of an erased user, the last change of each membership (by number) that may name it, and the time
    of erasure by the server's clock.
    """

    user_id: str
    named_through: dict[int, int]
    erased_at: Micros = 0


@dataclass(frozen=True, slots=True)
class GroupChanges:
    """Entries and exits of one group."""

    group: int
    entered: BitMap
    exited: BitMap


@dataclass(slots=True)
class _Scope:
    account: str
    whole: bool
    groups: list[BitMap] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Update:
    """The new content of one membership."""

    state: StoredState
    changes: Sequence[GroupChanges]
    as_of: Micros


@dataclass(frozen=True, slots=True)
class _Exits:
    """Erased users of an account whose exits are to be recorded: dense ids by group, and ids by user ref."""

    account: str
    account_number: int
    gone: Sequence[BitMap]
    users: Mapping[UserRef, str]
    erased_at: Micros


class Memberships:
    """All stored memberships. Call with the state lock held, except `wait`."""

    def __init__(
        self, index: Environment, page_cache: PageCache, groups: int, retained_max: int = CHANGES_RETAINED_MAX
    ) -> None:
        self._index = index
        self._page_cache = page_cache
        self._groups = groups
        self._retained_max = retained_max
        self._changed = threading.Condition()
        self._states: dict[str, StoredState] = {}
        self._records: dict[int, list[int]] = {}
        self._scopes: dict[str, _Scope] = {}
        self._closed = False
        self._waiting: list[_Exits] = []
        self._load()

    def _load(self) -> None:
        with self._index.reading() as txn:
            for stored, value in txn.scan(key(Family.MEMBERSHIP)):
                state = msgspec.msgpack.decode(value, type=StoredState)
                self._states[stored[1:].decode()] = state
                keys = txn.keys(key(Family.CHANGES, state.number))
                self._records[state.number] = [int.from_bytes(found[5:], "big") for found in keys]
                self._scopes[state.scope] = _Scope(state.account, whole=True, groups=self._no_users())
            self._erased = {
                stored: msgspec.msgpack.decode(value, type=ErasedUser)
                for stored, value in txn.scan(key(Family.ERASED))
            }

    def _no_users(self) -> list[BitMap]:
        return [BitMap(optimize=False) for _ in range(self._groups)]

    # --- dirty users ---

    def mark_dirty(self, account: str, touched: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty after new data."""
        for scope in self._scopes.values():
            if scope.account == account and not scope.whole:
                for group, users in touched.items():
                    scope.groups[group] |= users

    def dirty(self, scope: str) -> list[BitMap] | None:
        """Dirty users by group. None: every user is dirty."""
        found = self._scopes.get(scope)
        return None if found is None or found.whole else found.groups

    def pending(self, scope: str) -> int | None:
        """Number of dirty users. None: every user is dirty. 0: the scope is not tracked."""
        found = self._scopes.get(scope)
        if found is None:
            return 0
        return None if found.whole else sum(map(len, found.groups))

    def scope_account(self, scope: str) -> str | None:
        """The account of a tracked scope."""
        found = self._scopes.get(scope)
        return None if found is None else found.account

    def refreshed(self, account: str, scope: str) -> None:
        """Clears the dirty users of the scope."""
        self._scopes[scope] = _Scope(account, whole=False, groups=self._no_users())

    def drop_scope(self, scope: str) -> None:
        """Stops tracking the scope unless it has a stored membership."""
        if not any(state.scope == scope for state in self._states.values()):
            self._scopes.pop(scope, None)

    # --- members ---

    def find(self, audience: str) -> StoredState | None:
        """The state of a membership, or None when it is not stored."""
        return self._states.get(audience)

    def get(self, audience: str) -> StoredState:
        """The state of a membership. Raises NotFound when it is not stored."""
        state = self._states.get(audience)
        if state is None:
            raise NotFound(audience)
        return state

    def states(self, audiences: Sequence[str], account: str, scope: str) -> dict[str, StoredState]:
        """The states of memberships. Creates states for audiences that are stored for the first time."""
        free = 1 + max((state.number for state in self._states.values()), default=0)
        states = {}
        for audience in audiences:
            states[audience] = self._states.get(audience) or StoredState(free, account, scope)
            free += audience not in self._states
        return states

    def members(self, state: StoredState, group: int) -> BitMap:
        """The members of a group. Do not modify the result."""
        members = self._stored_members(state, group)
        for exits in self._waiting:
            if exits.account == state.account:
                members = members - exits.gone[group]
        return members

    def _stored_members(self, state: StoredState, group: int) -> BitMap:
        cached = self._page_cache.find(key(Family.MEMBERS, state.number, group), BITMAP)
        return BitMap() if cached is None else cached.value

    # --- changing ---

    def store(self, updates: Mapping[str, Update], revision: int) -> None:
        """Writes memberships (audience → update) and their changes in one transaction. Call `record_waiting`
        first: no exits may be pending.
        """
        with self._index.writing() as txn:
            outcome = {a: self._write(txn, a, update, revision) for a, update in updates.items()}
            states = (state for state, _, _ in outcome.values())
            ids = self._drop_ids(txn, {state.number: state.first_sequence - 1 for state in states})
        self._ids_dropped(ids)
        self._stored(outcome)

    def _write(
        self, txn: WriteTransaction, audience: str, update: Update, revision: int
    ) -> tuple[StoredState, list[int], dict[int, BitMap]]:
        """Writes one membership. Returns its new state, the starts of its records and the changed members."""
        state = msgspec.structs.replace(update.state, as_of=update.as_of, revision=revision)
        starts = list(self._records.get(state.number, ()))
        changes = [change for change in update.changes if change.entered or change.exited]
        members = {}
        for change in changes:
            before = self._stored_members(state, change.group)
            after = members[change.group] = (before | change.entered) - change.exited
            txn.put(key(Family.MEMBERS, state.number, change.group), BITMAP.encode(after) or BITMAP_EMPTY)
        if changes:
            entered = sum(len(change.entered) for change in changes)
            exited = sum(len(change.exited) for change in changes)
            start = state.last_sequence + 1
            record = ChangeRecord(
                update.as_of, tuple((c.group, c.entered.serialize(), c.exited.serialize()) for c in changes)
            )
            txn.put(key(Family.CHANGES, state.number, start), msgspec.msgpack.encode(record))
            starts.append(start)
            state.last_sequence += entered + exited
            state.size += entered - exited
            state.entered_total += entered
            state.exited_total += exited
        self._limit(txn, state, starts)
        txn.put(key(Family.MEMBERSHIP, audience.encode()), msgspec.msgpack.encode(state))
        return state, starts, members

    def _limit(self, txn: WriteTransaction, state: StoredState, starts: list[int]) -> None:
        """Deletes the oldest records while enough changes remain."""
        while len(starts) > 1 and state.last_sequence - starts[1] + 1 >= self._retained_max:
            txn.delete(key(Family.CHANGES, state.number, starts.pop(0)))
            state.first_sequence = max(state.first_sequence, starts[0])

    def _stored(self, outcome: Mapping[str, tuple[StoredState, list[int], dict[int, BitMap]]]) -> None:
        for audience, (state, starts, members) in outcome.items():
            self._states[audience] = state
            self._records[state.number] = starts
            for group, users in members.items():
                self._page_cache.replace(key(Family.MEMBERS, state.number, group), BITMAP, users)
        self._notify()

    def exit_all(self, audience: str, as_of: Micros, revision: int) -> Membership:
        """Empties a membership, recording every exit."""
        self.record_waiting()
        state = self.get(audience)
        changes = [GroupChanges(group, BitMap(), self.members(state, group)) for group in range(self._groups)]
        self.store({audience: Update(state, changes, as_of)}, revision)
        return self.get(audience).public()

    def erased(self, account: Account, users: Mapping[UserRef, str], erased_at: Micros) -> None:
        """Removes erased users: they exit every membership, by id, and are dirty nowhere.

        Users that have exited before are ignored, so a replay may repeat the call. When the store is full the
        exits are kept in memory for `record_waiting`, which runs before the checkpoint that trims the log.
        """
        gone = self._no_users()
        for ref in users:
            gone[ref >> GROUP_SHIFT].add(ref & DENSE_MASK)
        for scope in self._scopes.values():
            if scope.account == account.name:
                for group, dirty in enumerate(scope.groups):
                    dirty -= gone[group]
        self._waiting.append(_Exits(account.name, account.number, gone, users, erased_at))
        with suppress(LimitExceeded):
            self.record_waiting()

    def record_waiting(self) -> None:
        """Records pending exits of erased users. Raises LimitExceeded while the store is full."""
        while self._waiting:
            self._record(self._waiting[0])
            del self._waiting[0]

    def _record(self, exits: _Exits) -> None:
        states = {a: state for a, state in self._states.items() if state.account == exits.account}
        if not states:
            return
        with self._index.writing() as txn:
            outcome = {}
            for audience, state in states.items():
                changes = [
                    GroupChanges(group, BitMap(), self._stored_members(state, group) & exits.gone[group])
                    for group in range(self._groups)
                ]
                update = Update(state, changes, state.as_of)
                outcome[audience] = self._write(txn, audience, update, state.revision)
            named = {
                state.number: state.last_sequence
                for state, _, _ in outcome.values()
                if state.first_sequence <= state.last_sequence
            }
            kept = {}
            for ref, user_id in exits.users.items() if named else ():
                stored = key(Family.ERASED, exits.account_number, ref >> GROUP_SHIFT, ref & DENSE_MASK)
                kept[stored] = ErasedUser(user_id, dict(named), exits.erased_at)
                txn.put(stored, msgspec.msgpack.encode(kept[stored]))
        self._erased.update(kept)
        self._stored(outcome)

    def drop(self, audience: str) -> None:
        """Deletes a membership and its change log."""
        state = self._states.get(audience)
        if state is None:
            return
        with self._index.writing() as txn:
            txn.delete(key(Family.MEMBERSHIP, audience.encode()))
            txn.delete_prefix(key(Family.MEMBERS, state.number))
            txn.delete_prefix(key(Family.CHANGES, state.number))
            ids = self._drop_ids(txn, {state.number: state.last_sequence})
        self._ids_dropped(ids)
        del self._states[audience]
        self._records.pop(state.number, None)
        self._page_cache.forget(key(Family.MEMBERS, state.number))
        self._notify()

    def trim(self, audience: str, through: int) -> None:
        """Deletes changes up to and including a sequence."""
        state = self._states.get(audience)
        if state is None or through < state.first_sequence:
            return
        through = min(through, state.last_sequence)
        after = msgspec.structs.replace(state, first_sequence=through + 1)
        starts = list(self._records[state.number])
        with self._index.writing() as txn:
            while starts and (starts[1] if len(starts) > 1 else state.last_sequence + 1) <= through + 1:
                txn.delete(key(Family.CHANGES, state.number, starts.pop(0)))
            txn.put(key(Family.MEMBERSHIP, audience.encode()), msgspec.msgpack.encode(after))
            ids = self._drop_ids(txn, {state.number: through})
        self._ids_dropped(ids)
        self._states[audience] = after
        self._records[state.number] = starts

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change that may name a user erased before an instant; 0 when there is none."""
        number = self.get(audience).number
        old = (erased for erased in self._erased.values() if erased.erased_at < before)
        return max((erased.named_through.get(number, 0) for erased in old), default=0)

    def _drop_ids(self, txn: WriteTransaction, through: Mapping[int, int]) -> dict[bytes, ErasedUser | None]:
        """Deletes ids of erased users that no stored change names, once the changes of each membership (by
        number) are consumed through a sequence. Returns the remaining record of each id.
        """
        left: dict[bytes, ErasedUser | None] = {}
        for stored, erased in self._erased.items():
            named = {n: last for n, last in erased.named_through.items() if last > through.get(n, 0)}
            if len(named) == len(erased.named_through):
                continue
            left[stored] = ErasedUser(erased.user_id, named, erased.erased_at) if named else None
            if named:
                txn.put(stored, msgspec.msgpack.encode(left[stored]))
            else:
                txn.delete(stored)
        return left

    def _ids_dropped(self, left: Mapping[bytes, ErasedUser | None]) -> None:
        for stored, erased in left.items():
            if erased is None:
                del self._erased[stored]
            else:
                self._erased[stored] = erased

    # --- reading changes ---

    def changes(self, account: Account | None, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, in order. An account without data has none."""
        state = self.get(audience)
        if after + 1 < state.first_sequence:
            oldest = state.first_sequence - 1
            raise CursorExpired(
                f"changes of {audience} up to {oldest} are gone",
                metadata={"oldest_cursor": str(oldest)},
            )
        found: list[Change] = []
        starts = self._records[state.number]
        for start in starts[max(0, bisect.bisect_right(starts, after + 1) - 1) :]:
            if len(found) >= limit or account is None:
                break
            with self._index.reading() as txn:
                stored = txn.get(key(Family.CHANGES, state.number, start))
                record = msgspec.msgpack.decode(stored or b"", type=ChangeRecord)
            found += self._of_record(account, record, start, after, limit - len(found))
        last = found[-1].sequence if found else after
        return ChangePage(tuple(found), last >= state.last_sequence, state.as_of)

    def _of_record(
        self, account: Account, record: ChangeRecord, start: int, after: int, limit: int
    ) -> Iterator[Change]:
        """Up to `limit` changes of a record whose first one is number `start`."""
        sequence = start
        for group, *bitmaps in record.groups:
            for entered, stored in zip((True, False), bitmaps, strict=True):
                users = BitMap.deserialize(stored)
                skipped = min(len(users), max(0, after + 1 - sequence))
                page = users[skipped : skipped + limit] if skipped < len(users) and limit else BitMap()
                for offset, user_id in enumerate(self._ids(account, group, page), sequence + skipped):
                    yield Change(offset, user_id, entered, record.as_of)
                sequence += len(users)
                limit -= len(page)

    def _ids(self, account: Account, group: int, users: BitMap) -> Iterator[str]:
        for dense, user_id in zip(users, account.directory.user_ids(group, users), strict=True):
            if user_id:
                yield user_id
            else:
                yield self._erased[key(Family.ERASED, account.number, group, dense)].user_id

    # --- waiting ---

    def wait(self, audience: str, after: int, deadline: float) -> bool:
        """Blocks until there is a change above `after`. False: the membership was dropped or the deadline
        passed. Call without the state lock.
        """
        with self._changed:
            while True:
                state = self._states.get(audience)
                if state is None:
                    return False
                if state.last_sequence > after:
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._closed:
                    return False
                self._changed.wait(remaining)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Wakes all waiters."""
        self._closed = True
        self._notify()


BITMAP_EMPTY = BitMap().serialize()
