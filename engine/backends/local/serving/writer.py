"""What the process with the store publishes for readers (`engine.backends.base.ServingWriter`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pyroaring import BitMap

from engine.backends.base.serving import ServedScope
from engine.backends.local.account.people import People
from engine.backends.local.membership.dirty_users import DirtyScope
from engine.backends.local.membership.published import PublishedAccount, StoredMembers
from engine.backends.local.serving.accounts import SharedAccount
from engine.backends.local.serving.arena import WORD_BYTES, Arena
from engine.backends.local.serving.layout import (
    HEADER_WORDS,
    SCOPES_MAX,
    UNCOUNTED,
    WORD_MASK,
    Header,
    require_order,
)
from engine.backends.local.serving.scopes import Publication, SharedBitmaps, SharedScope
from engine.backends.local.write.state import State
from engine.errors import DataLoss, LimitExceeded
from engine.values import Micros

NANOS_PER_MICRO = 1_000
SCOPES_AT_ONCE = 32
"""Scopes that are served per hold of the state lock: a few milliseconds at most."""
ID_PAGES_AT_ONCE = 4
"""Pages of 4,096 ids that are added per hold of the state lock: about a millisecond."""
ID_PAGES_A_ROUND = 256
"""Pages added after a round: so long the next one waits."""


@dataclass(frozen=True, slots=True)
class _Stamped:
    """A stamp, and for which dirty users of an account it was given, after how many of its writes."""

    stamp: int
    account: SharedAccount
    dirty: DirtyScope
    writes: int


@dataclass(slots=True)
class _Scope:
    """A scope that is or was served, and what it was published from."""

    record: SharedScope
    account: str = ""
    stored: Mapping[str, StoredMembers] = field(default_factory=dict)
    dirty: DirtyScope | None = None
    served: ServedScope | None = None
    writes: int = 0
    """Of the account, when the scope got its stamp."""
    id_changes: int = 0
    """Of the account, when the scope was published."""
    waited: bool = False
    """Whether exits of erased users waited."""


class LocalServing:
    """Publishes the memberships of one open store. See `layout` for what readers rely on."""

    def __init__(self, state: State[Any], locked: Callable[[], AbstractContextManager[None]]) -> None:
        require_order()
        self._state = state
        self._locked = locked
        self._arena = Arena((HEADER_WORDS + SCOPES_MAX) * WORD_BYTES)
        self._words = self._arena.words
        self._bitmaps = SharedBitmaps(self._arena)
        self._stamp = 1
        self._accounts: dict[str, SharedAccount] = {}
        self._stamped: _Stamped | None = None
        """The last stamp that was given."""
        self._scopes: dict[str, _Scope] = {}
        self._timely: set[str] = set()
        """Scopes of which readers do not know yet that a user is dirty."""
        self._outside = threading.Lock()
        """For what is written without the state lock. Taken after that one."""
        with locked():
            self.reach(state.position)
            state.serve_with(self)

    @property
    def descriptor(self) -> int:
        """The file descriptor of the memory."""
        return self._arena.descriptor

    # --- memberships ----------------------------------------------------------------------------------------

    def writes(self, account: str) -> int | None:
        """How many writes have touched users of the account since it is served. Takes no lock."""
        shared = self._accounts.get(account)
        return None if shared is None else shared.writes

    def _id_changes(self, account: str) -> int | None:
        shared = self._accounts.get(account)
        return None if shared is None else shared.id_changes

    def serve(self, account: str, scopes: Mapping[str, ServedScope]) -> None:
        """Serves the memberships of some scopes as they are now. For one thread a scope."""
        changed = [
            (scope, served) for scope, served in scopes.items() if not self._moves_on(account, scope, served)
        ]
        for start in range(0, len(changed), SCOPES_AT_ONCE):
            with self._locked():
                published = self._state.memberships.published(account)
                found = self._state.find_account(account)
                with self._outside:
                    for scope, served in changed[start : start + SCOPES_AT_ONCE]:
                        stored = _servable(published, scope, served)
                        if found is None or not stored:
                            self._end(scope)
                        else:
                            self._publish(found, scope, served, published, stored)

    def serve_ids(self, account: str) -> None:
        """Adds ids of users that readers do not have yet, for a while, a few per hold of the lock."""
        for _ in range(ID_PAGES_A_ROUND // ID_PAGES_AT_ONCE):
            shared = self._accounts.get(account)
            if shared is None:
                return
            if not shared.needs_ids:
                shared.look_at_ids()
                return
            with self._locked():
                if self._accounts.get(account) is not shared:
                    return
                try:
                    shared.add_ids(ID_PAGES_AT_ONCE)
                except DataLoss:
                    # Lists go to the process that says so.
                    shared.give_up_ids()

    def _moves_on(self, account: str, scope: str, served: ServedScope) -> bool:
        """Whether nothing has changed but the instant and the records' generation. Does not wait for the
        state lock.
        """
        with self._outside:
            return self._moved_on(account, scope, served)

    def _moved_on(self, account: str, scope: str, served: ServedScope) -> bool:
        known = self._scopes.get(scope)
        if known is None or known.served is None:
            return not served.definitions
        published = self._state.memberships.published(account)
        if (
            known.account != account
            or known.dirty is not published.dirty.get(scope)
            or (known.served.definitions, known.served.names) != (served.definitions, served.names)
            or known.served.depends_on_time != served.depends_on_time
            or any(published.stored.get(audience) is not stored for audience, stored in known.stored.items())
            or len(known.stored) != len(served.definitions)
            # Users that other data have touched seem changed to readers until the scope gets a new stamp.
            or known.writes != self.writes(account)
            # Readers count nothing after an erasure until the sizes are published anew.
            or known.id_changes != self._id_changes(account)
            or known.waited != self._state.memberships.wait_for_exits(account)
            or (known.served.inputs, known.served.outlooks) != (served.inputs, served.outlooks)
        ):
            return False
        known.record.move_on(served.generation, served.reached)
        return True

    def _publish(
        self,
        account: People,
        scope: str,
        served: ServedScope,
        published: PublishedAccount,
        stored: Mapping[str, StoredMembers],
    ) -> None:
        shared = self._shared(account)
        dirty = published.dirty[scope]
        assert dirty.groups is not None
        stamp, is_late = self._stamp_of(shared, dirty), any(dirty.groups)
        waits = self._state.memberships.wait_for_exits(account.name)
        population = shared.population(served.inputs)
        known = self._scopes.get(scope) or self._new_scope(scope)
        known.record.publish(
            {audience: each.members for audience, each in stored.items() if each.members is not None},
            served.names,
            Publication(
                stamp=stamp,
                account_at=shared.at,
                generation=served.generation,
                reached=served.reached,
                depends_on_time=served.depends_on_time,
                is_late=is_late,
                ids=UNCOUNTED if waits or population is None else shared.id_changes,
                population=population or 0,
                # Made before the lock was taken: a write since may have changed what they say.
                outlooks=served.outlooks if served.writes == shared.writes else {},
                writes=shared.writes,
            ),
        )
        if is_late:
            self._timely.discard(scope)
        else:
            self._timely.add(scope)
        known.account, known.stored, known.dirty, known.served = account.name, stored, dirty, served
        known.writes, known.id_changes, known.waited = shared.writes, shared.id_changes, waits

    def _stamp_of(self, shared: SharedAccount, dirty: DirtyScope) -> int:
        """A stamp after which the dirty users are touched, and those of later writes. Scopes with the same
        dirty users share one until the next write.
        """
        assert dirty.groups is not None
        last = self._stamped
        if last is None or (last.account, last.dirty, last.writes) != (shared, dirty, shared.writes):
            last = self._stamped = _Stamped(self._stamp, shared, dirty, shared.writes)
            self._stamp += 1
            shared.touch(dict(enumerate(dirty.groups)), self._stamp)
        return last.stamp

    def _end(self, scope: str) -> None:
        known = self._scopes.get(scope)
        if known is not None and known.served is not None:
            known.record.end()
            known.stored, known.dirty, known.served = {}, None, None

    def _new_scope(self, scope: str) -> _Scope:
        number = len(self._scopes)
        if number >= SCOPES_MAX:
            raise LimitExceeded(f"at most {SCOPES_MAX:,} journeys can be served by readers")
        known = self._scopes[scope] = _Scope(SharedScope(self._arena, self._bitmaps))
        self._words[HEADER_WORDS + number] = known.record.at
        self._words[Header.SCOPES] = number + 1
        return known

    def _shared(self, account: People) -> SharedAccount:
        shared = self._accounts.get(account.name)
        if shared is None or not shared.is_of(account):
            shared = self._accounts[account.name] = SharedAccount(self._arena, account)
        return shared

    # --- what the state tells; with the state lock held -----------------------------------------------------

    def reach(self, revision: int) -> None:
        """Everything up to this revision is applied."""
        self._words[Header.REVISION] = revision

    def touch(self, account: str, users: Mapping[int, BitMap], scopes: Iterable[str]) -> None:
        """New data has touched users (by group), some of which are dirty in these scopes now."""
        shared = self._accounts.get(account)
        if shared is None:
            return
        shared.touch(users, self._stamp)
        shared.count_write()
        late = self._timely.intersection(scopes) if self._timely else ()
        for scope in late:
            self._scopes[scope].record.be_late()
        self._timely.difference_update(late)

    def begin_ids(self, account: str) -> None:
        """Ids of the account are about to mean other users."""
        shared = self._accounts.get(account)
        if shared is not None:
            shared.begin_ids()

    def settle_ids(self, account: str) -> None:
        """They have changed."""
        shared = self._accounts.get(account)
        if shared is not None:
            shared.settle_ids()

    def erase(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Users (by group) were erased, or are aliases from now on."""
        shared = self._accounts.get(account)
        if shared is not None:
            shared.clear_ids(users)

    def forget_account(self, account: str) -> None:
        """The account has no users any more; others may come under its name."""
        with self._outside:
            for scope, known in self._scopes.items():
                if known.account == account:
                    self._end(scope)
        shared = self._accounts.pop(account, None)
        if shared is not None:
            shared.close()

    # --- everything else ------------------------------------------------------------------------------------

    def change_records(self, generation: int) -> None:
        """Ends the service of every scope of another generation."""
        self._words[Header.GENERATION] = generation

    def keep_time(self, now: Micros) -> None:
        """Gives readers the time."""
        words = self._words
        with self._outside:
            words[Header.CLOCK_COUNTER] += 1
            words[Header.CLOCK_TIME] = now & WORD_MASK
            words[Header.CLOCK_MONOTONIC] = time.monotonic_ns() // NANOS_PER_MICRO
            words[Header.CLOCK_COUNTER] += 1

    def put_keys(self, keys: bytes) -> None:
        """Gives readers the API keys."""
        words = self._words
        with self._outside:
            old = words[Header.KEYS_AT], words[Header.KEYS_BYTES]
            at = self._arena.put(keys)
            words[Header.KEYS_COUNTER] += 1
            words[Header.KEYS_AT] = at
            words[Header.KEYS_BYTES] = len(keys)
            words[Header.KEYS_COUNTER] += 1
            if old[1]:
                self._arena.free(*old)

    def close(self) -> None:
        """Readers answer nothing any more."""
        self._words[Header.CLOSED] = 1
        with self._locked():
            self._state.serve_with(None)
        self._arena.close()


def _servable(published: PublishedAccount, scope: str, served: ServedScope) -> dict[str, StoredMembers]:
    """The memberships that are of the definitions to be served, and know their dirty users."""
    dirty = published.dirty.get(scope)
    if dirty is None or dirty.groups is None:
        return {}
    found = {audience: published.stored.get(audience) for audience in served.definitions}
    return {
        audience: stored
        for audience, stored in found.items()
        if stored is not None
        and stored.scope == scope
        and stored.members is not None
        and stored.facts.definition == served.definitions[audience]
        and stored.facts.membership.as_of <= served.reached
    }
