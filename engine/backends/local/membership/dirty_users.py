"""Dirty users: those whose membership new data may have changed since the last refresh.

They are kept in memory by *scope*. A scope says what its plans read, and only such data make users dirty in
it. After a restart every user of a scope counts as dirty. The set of a scope is read without a lock
(`published`): it may grow, but it is never emptied or reduced, only replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyroaring import BitMap

from engine.backends.local.account.readers import ReadBy, Readers
from engine.plan.reads import Reads


@dataclass(frozen=True, slots=True)
class DirtyScope:
    """The dirty users of a scope by group; None: every user of the account is dirty."""

    account: str
    groups: tuple[BitMap, ...] | None


class DirtyUsers:
    """The dirty users of every tracked scope. Call with the state lock held."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._scopes: dict[str, DirtyScope] = {}
        self._readers: dict[str, Readers] = {}
        self.marks = 0
        """How many times a user was marked in a scope: what new data cost beside what it changes."""

    def readers_of(self, account: str) -> Readers:
        """Which scopes of the account read what."""
        return self._readers.setdefault(account, Readers())

    def track(self, account: str, scope: str, *, whole: bool, reads: Reads | None = None) -> None:
        """Tracks the scope from now on. `whole`: every user is dirty; otherwise none is. `reads`: the data
        that may change an answer of the scope; None: any.
        """
        none = None if whole else tuple(BitMap(optimize=False) for _ in range(self._groups))
        self._scopes[scope] = DirtyScope(account, none)
        self.readers_of(account).put(scope, reads)

    def drop(self, scope: str) -> None:
        """Stops tracking the scope."""
        found = self._scopes.pop(scope, None)
        if found is not None:
            self.readers_of(found.account).drop(scope)

    def mark(self, read: Iterable[ReadBy]) -> None:
        """Marks users as dirty in the scopes that read their new data."""
        for scopes, users in read:
            for scope in scopes:
                self._mark(self._scopes[scope], users)

    def mark_all(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty in every scope."""
        for scope in self._scopes.values():
            if scope.account == account:
                self._mark(scope, users)

    def _mark(self, scope: DirtyScope, users: Mapping[int, BitMap]) -> None:
        if scope.groups is not None:
            for group, some in users.items():
                self.marks += len(some)
                # One operation, which no reader sees half done.
                scope.groups[group].update(some)

    def remove(self, account: str, gone: Mapping[int, BitMap]) -> None:
        """Removes users of the account (by group) that no longer exist."""
        for name, scope in self._scopes.items():
            if scope.account == account and scope.groups is not None:
                left = [users - gone[at] if at in gone else users for at, users in enumerate(scope.groups)]
                self._scopes[name] = DirtyScope(account, tuple(left))

    def of(self, scope: str) -> tuple[BitMap, ...] | None:
        """Dirty users by group. None: every user is dirty."""
        found = self._scopes.get(scope)
        return None if found is None else found.groups

    def of_account(self, account: str) -> dict[str, DirtyScope]:
        """The dirty users of the account's scopes."""
        return {name: scope for name, scope in self._scopes.items() if scope.account == account}

    def count(self, scope: str) -> int | None:
        """Number of dirty users. None: every user is dirty. 0: the scope is not tracked."""
        found = self._scopes.get(scope)
        if found is None:
            return 0
        return None if found.groups is None else sum(map(len, found.groups))

    def account(self, scope: str) -> str | None:
        """The account of a tracked scope."""
        found = self._scopes.get(scope)
        return None if found is None else found.account
