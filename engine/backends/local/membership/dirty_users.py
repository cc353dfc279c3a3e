"""Dirty users: those whose membership new data may have changed since the last refresh.

They are kept in memory by *scope*. A scope says what its plans read, and only such data make users dirty in
it. After a restart every user of a scope counts as dirty. The set of a scope is read without a lock
(`published`): it may grow, but it is never emptied or reduced, only replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from engine.backends.local.account.readers import ANY_TIME, NO_DATA, DataTimes, ReadBy, Readers
from engine.plan.reads import Reads


@dataclass(frozen=True, slots=True)
class DirtyScope:
    """The dirty users of a scope by group; None: every user of the account is dirty."""

    account: str
    groups: tuple[BitMap, ...] | None


class Flight:
    """The users of a scope that became dirty, or were erased, since its refresh began to evaluate users. Use
    with the state lock held.
    """

    def __init__(self, account: str, groups: int, times: DataTimes, revision: int) -> None:
        self.account = account
        self.revision = revision
        """That of the store when the refresh began."""
        self._late = tuple(BitMap(optimize=False) for _ in range(groups))
        self._is_settled = False
        self.taken: dict[int, BitMap] = {}
        """All users that were taken, by group."""
        self.times = times
        """Of the data of users who were dirty when the refresh began."""
        self.late_times = NO_DATA
        """Of data that came since."""

    def add(self, users: Mapping[int, BitMap]) -> None:
        """Users, by group, are to be evaluated again."""
        _add_to(self._late, users)

    def take(self, group: int) -> BitMap:
        """The users of a group; they are taken out."""
        taken = self._late[group].copy()
        self._late[group].clear()
        if taken:
            self.taken[group] = self.taken.get(group, BitMap()) | taken
        return taken

    def is_apart_from(self, users: Mapping[int, BitMap | None]) -> bool:
        """Whether no user was taken, and none of these (None = all of a group) has new data. Their answers
        are then those at the revision at which the refresh began.
        """
        return not self.taken and not any(
            late and group in users and ((some := users[group]) is None or late.intersect(some))
            for group, late in enumerate(self._late)
        )

    def gone(self, users: Mapping[int, BitMap]) -> None:
        """Users, by group, are erased: in no set any more, and dirty nowhere."""
        if not self._is_settled:
            self.add(users)
            return
        for group, some in users.items():
            self._late[group].difference_update(some)

    def settle(self) -> None:
        """What was evaluated is stored. Who comes now, or was not taken, is dirty after the refresh."""
        self._is_settled = True

    @property
    def dirty(self) -> tuple[BitMap, ...]:
        """The users who are dirty after the refresh, by group."""
        return self._late


def _add_to(groups: Sequence[BitMap], users: Mapping[int, BitMap]) -> None:
    """Adds users, by group. Each set changes by one operation, which no reader sees half done."""
    for group, some in users.items():
        # As `|=`, for the set that readers have.
        _unite(groups[group], some)


_unite = BitMap.__ior__


class DirtyUsers:
    """The dirty users of every tracked scope. Call with the state lock held.

    While a scope is refreshed its dirty users stay dirty, since the memberships are those from before; users
    that become dirty meanwhile are also collected in its `Flight`, and alone are dirty afterwards.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._scopes: dict[str, DirtyScope] = {}
        self._readers: dict[str, Readers] = {}
        self._reads: dict[str, Reads | None] = {}
        self._flights: dict[str, Flight] = {}
        self._times: dict[str, DataTimes] = {}
        """By scope: the times of the data by which its users became dirty."""
        self.marks = 0
        """How many times a user was marked in a scope: what new data cost beside what it changes."""

    def accounts(self) -> list[str]:
        """The accounts with readers."""
        return list(self._readers)

    def readers_of(self, account: str) -> Readers:
        """Which scopes of the account read what."""
        return self._readers.setdefault(account, Readers())

    def track(self, account: str, scope: str, *, whole: bool, reads: Reads | None = None) -> None:
        """Tracks the scope from now on. `whole`: every user is dirty; otherwise none is. `reads`: the data
        that may change an answer of the scope; None: any.
        """
        none = None if whole else tuple(BitMap(optimize=False) for _ in range(self._groups))
        self._scopes[scope] = DirtyScope(account, none)
        self._read(account, scope, reads)

    def _read(self, account: str, scope: str, reads: Reads | None) -> None:
        self._reads[scope] = reads
        self.readers_of(account).put(scope, reads)

    def drop(self, scope: str) -> None:
        """Stops tracking the scope."""
        found = self._scopes.pop(scope, None)
        if found is not None:
            del self._reads[scope]
            self._times.pop(scope, None)
            self.readers_of(found.account).drop(scope)

    def begin(self, account: str, scope: str, reads: Reads | None, revision: int = 0) -> Flight:
        """A refresh of the scope begins at a revision, by plans that read this (None = anything). It ends
        with `finish` or `abandon`.
        """
        known = self._reads.get(scope)
        if scope not in self._scopes:
            self.track(account, scope, whole=True, reads=reads)
        elif known is not reads:
            self._read(account, scope, None if known is None or reads is None else known | reads)
        flight = Flight(account, self._groups, self._times.get(scope, NO_DATA), revision)
        self._flights[scope] = flight
        return flight

    def begin_again(self, scope: str, revision: int) -> Flight | None:
        """As `begin`, by plans that read what the last ones did. None: the scope is not tracked."""
        found = self._scopes.get(scope)
        return None if found is None else self.begin(found.account, scope, self._reads[scope], revision)

    def is_under_way(self, scope: str, flight: Flight, reads: Reads | None) -> bool:
        """Whether the flight collects for the scope, and plans that read this may go on with it."""
        return self._flights.get(scope) is flight and self._reads.get(scope) is reads

    def finish(self, scope: str, reads: Reads | None) -> None:
        """The refreshed memberships are stored: only users that became dirty meanwhile are dirty."""
        flight = self._flights.pop(scope)
        self._scopes[scope] = DirtyScope(flight.account, flight.dirty)
        self._times[scope] = flight.late_times
        self._read(flight.account, scope, reads)

    def abandon(self, scope: str, flight: Flight | None = None) -> None:
        """The refresh is given up: the memberships are those from before. `flight`: unless another is under
        way.
        """
        if flight is None or self._flights.get(scope) is flight:
            self._flights.pop(scope, None)

    def mark(self, read: Iterable[ReadBy], times: DataTimes = ANY_TIME) -> None:
        """Marks users as dirty in the scopes that read their new data, which have these times."""
        for scopes, users in read:
            count = sum(map(len, users.values()))
            for scope in scopes:
                self._mark(scope, users, count, times)

    def mark_all(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty in every scope."""
        count = sum(map(len, users.values()))
        for name, scope in self._scopes.items():
            if scope.account == account:
                self._mark(name, users, count, ANY_TIME)

    def _mark(self, name: str, users: Mapping[int, BitMap], count: int, times: DataTimes) -> None:
        """Marks that many users."""
        known = self._times.get(name, NO_DATA)
        if not known.hold(times):
            self._times[name] = known.joined(times)
        groups = self._scopes[name].groups
        if groups is not None:
            self.marks += count
            _add_to(groups, users)
        flight = self._flights.get(name)
        if flight is not None:
            _add_to(flight.dirty, users)
            if not flight.late_times.hold(times):
                flight.late_times = flight.late_times.joined(times)

    def remove(self, account: str, gone: Mapping[int, BitMap]) -> None:
        """Removes users of the account (by group) that no longer exist."""
        for flight in self._flights.values():
            if flight.account == account:
                flight.gone(gone)
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
        """Number of dirty users. None: every user is dirty. 0: the scope is not tracked. Needs no lock."""
        found = self._scopes.get(scope)
        if found is None:
            return 0
        return None if found.groups is None else sum(map(len, found.groups))

    def account(self, scope: str) -> str | None:
        """The account of a tracked scope."""
        found = self._scopes.get(scope)
        return None if found is None else found.account
