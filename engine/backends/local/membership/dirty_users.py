"""Dirty users: those whose membership new data may have changed since the last refresh.

They are kept in memory by *scope*. After a restart every user of a scope counts as dirty. The set of a scope
is read without a lock (`published`): it may grow, but it is never emptied or reduced, only replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyroaring import BitMap


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

    def track(self, account: str, scope: str, *, whole: bool) -> None:
        """Tracks the scope from now on. `whole`: every user is dirty; otherwise none is."""
        none = None if whole else tuple(BitMap(optimize=False) for _ in range(self._groups))
        self._scopes[scope] = DirtyScope(account, none)

    def drop(self, scope: str) -> None:
        """Stops tracking the scope."""
        self._scopes.pop(scope, None)

    def mark(self, account: str, touched: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty after new data."""
        for scope in self._scopes.values():
            if scope.account == account and scope.groups is not None:
                for group, users in touched.items():
                    # One operation, which no reader sees half done.
                    scope.groups[group].update(users)

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
