"""What the process with the store publishes for readers (`engine.backends.base.ServingWriter`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
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
from engine.backends.local.serving.layout import HEADER_WORDS, SCOPES_MAX, WORD_MASK, Header, require_order
from engine.backends.local.serving.scopes import SharedScope
from engine.backends.local.write.state import State
from engine.errors import LimitExceeded
from engine.values import Micros

NANOS_PER_MICRO = 1_000


@dataclass(slots=True)
class _Scope:
    """A scope that is or was served, and what it was published from."""

    record: SharedScope
    account: str = ""
    stored: Mapping[str, StoredMembers] = field(default_factory=dict)
    dirty: DirtyScope | None = None
    served: ServedScope | None = None
    touches: int = 0
    """Of the account, when the scope got its stamp."""


class LocalServing:
    """Publishes the memberships of one open store. See `layout` for what readers rely on."""

    def __init__(self, state: State[Any], locked: Callable[[], AbstractContextManager[None]]) -> None:
        require_order()
        self._state = state
        self._locked = locked
        self._arena = Arena((HEADER_WORDS + SCOPES_MAX) * WORD_BYTES)
        self._words = self._arena.words
        self._stamp = 1
        self._accounts: dict[str, SharedAccount] = {}
        self._touches: dict[str, int] = {}
        """By account: how many writes have touched users."""
        self._scopes: dict[str, _Scope] = {}
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

    def serve(self, account: str, scope: str, served: ServedScope) -> None:
        """Serves the memberships of a scope as they are now. For one thread a scope."""
        if self._moves_on(account, scope, served):
            return
        with self._locked():
            published = self._state.memberships.published(account)
            stored = _servable(published, scope, served)
            found = self._state.find_account(account) if stored else None
            with self._outside:
                if found is None:
                    self._end(scope)
                else:
                    self._publish(found, scope, served, published, stored)

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
            or known.touches != self._touches.get(account, 0)
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
        # Users that are dirty now are touched after this stamp, and so are those of later writes.
        stamp, self._stamp = self._stamp, self._stamp + 1
        shared.touch(dict(enumerate(dirty.groups)), self._stamp)
        known = self._scopes.get(scope) or self._new_scope(scope)
        known.record.publish(
            {audience: each.members for audience, each in stored.items() if each.members is not None},
            served.names,
            stamp=stamp,
            account_at=shared.at,
            generation=served.generation,
            reached=served.reached,
            depends_on_time=served.depends_on_time,
        )
        known.account, known.stored, known.dirty, known.served = account.name, stored, dirty, served
        known.touches = self._touches.get(account.name, 0)

    def _end(self, scope: str) -> None:
        known = self._scopes.get(scope)
        if known is not None and known.served is not None:
            known.record.end()
            known.stored, known.dirty, known.served = {}, None, None

    def _new_scope(self, scope: str) -> _Scope:
        number = len(self._scopes)
        if number >= SCOPES_MAX:
            raise LimitExceeded(f"at most {SCOPES_MAX:,} journeys can be served by readers")
        known = self._scopes[scope] = _Scope(SharedScope(self._arena))
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

    def touch(self, account: str, users: Mapping[int, BitMap]) -> None:
        """New data has touched users (by group)."""
        shared = self._accounts.get(account)
        if shared is not None:
            shared.touch(users, self._stamp)
            self._touches[account] = self._touches.get(account, 0) + 1

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

    def forget_account(self, account: str) -> None:
        """The account has no users any more; others may come under its name."""
        with self._outside:
            for scope, known in self._scopes.items():
                if known.account == account:
                    self._end(scope)
            self._accounts.pop(account, None)

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
