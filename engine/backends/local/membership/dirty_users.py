"""Dirty users: those whose membership new data may have changed since the last refresh.

They are kept in memory by *scope*. A scope says what its plans read, and only such data make users dirty in
it. After a restart every user of a scope counts as dirty. The set of a scope is read without a lock
(`published`): it may grow, but it is never emptied or reduced, only replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

from pyroaring import BitMap

from engine.backends.local.account.readers import ANY_TIME, NO_DATA, DataTimes, ReadBy, Readers
from engine.plan.reads import Reads


class DirtyScope:
    """The dirty users of a scope by group; None: every user of the account is dirty. Scopes that read the
    same share one if they were refreshed together, or if none of their users was dirty after the refresh.
    """

    __slots__ = ("__weakref__", "account", "groups", "is_empty", "times")

    def __init__(self, account: str, groups: tuple[BitMap, ...] | None, times: DataTimes = NO_DATA) -> None:
        self.account = account
        self.groups = groups
        self.times = times
        """Of the data by which the users became dirty."""
        self.is_empty = groups is not None and not any(groups)
        """False when a user has become dirty."""

    def add(self, users: Mapping[int, BitMap], times: DataTimes) -> None:
        """Users, by group, have new data of these times."""
        if not self.times.hold(times):
            self.times = self.times.joined(times)
        if self.groups is not None:
            _add_to(self.groups, users)
            self.is_empty = False

    def without(self, gone: Mapping[int, BitMap]) -> DirtyScope:
        """The scope without users, by group: itself when none of them is dirty."""
        groups = self.groups
        if groups is None or not any(groups[group].intersect(users) for group, users in gone.items()):
            return self
        left = [users - gone[group] if group in gone else users for group, users in enumerate(groups)]
        return DirtyScope(self.account, tuple(left), self.times)


class LateUsers:
    """The users that became dirty, or were erased, since refreshes began. Flights of scopes that read the
    same and began at the same moment share them.
    """

    def __init__(self, scope: DirtyScope, reads: Reads | None) -> None:
        """`scope`: collects them, and becomes the scopes' own after the refresh."""
        self.scope = scope
        self.reads = reads
        """What the scopes read."""
        self.is_shared = False
        self._apart: tuple[Mapping[int, BitMap | None], bool] | None = None
        """Users that were asked about last, and the answer."""

    @property
    def groups(self) -> tuple[BitMap, ...]:
        """The users by group."""
        assert self.scope.groups is not None
        return self.scope.groups

    def add(self, users: Mapping[int, BitMap], times: DataTimes = NO_DATA) -> None:
        """Users, by group, are late, by data of these times."""
        self.scope.add(users, times)
        self._apart = None

    def is_apart_from(self, users: Mapping[int, BitMap | None]) -> bool:
        """Whether none of these (None = all of a group), which do not change meanwhile, is late."""
        if self._apart is None or self._apart[0] is not users:
            found = not any(
                late and group in users and ((some := users[group]) is None or late.intersect(some))
                for group, late in enumerate(self.groups)
            )
            self._apart = users, found
        return self._apart[1]

    def copied(self) -> LateUsers:
        """The same users, for one scope alone."""
        scope = DirtyScope(self.scope.account, tuple(map(BitMap.copy, self.groups)), self.scope.times)
        return LateUsers(scope, self.reads)


class Flight:
    """A refresh of a scope, and the users that are late for it. Use with the state lock held."""

    def __init__(
        self, late: LateUsers, times: DataTimes, revision: int, collects_apart: Callable[[], None]
    ) -> None:
        """`collects_apart` is called when it no longer shares its late users."""
        self._collects_apart = collects_apart
        self.revision = revision
        """That of the store when the refresh began."""
        self.late = late
        self.is_settled = False
        """Whether what was evaluated is stored: who comes now, or was not taken, is dirty afterwards."""
        self.taken: dict[int, BitMap] = {}
        """All users that were taken, by group."""
        self.times = times
        """Of the data of users who were dirty when the refresh began."""

    @property
    def account(self) -> str:
        """The account of the scope."""
        return self.late.scope.account

    @property
    def late_times(self) -> DataTimes:
        """Of data that came since the refresh began."""
        return self.late.scope.times

    def _alone(self) -> LateUsers:
        """The late users, which no other flight shares any more."""
        if self.late.is_shared:
            self.late = self.late.copied()
            self._collects_apart()
        return self.late

    def add(self, users: Mapping[int, BitMap]) -> None:
        """Users, by group, are to be evaluated again."""
        self._alone().add(users)

    def take(self, group: int) -> BitMap:
        """The late users of a group; they are taken out."""
        if not self.late.groups[group]:
            return BitMap()
        late = self._alone().groups[group]
        taken = late.copy()
        late.clear()
        self.taken[group] = self.taken.get(group, BitMap()) | taken
        return taken

    def is_apart_from(self, users: Mapping[int, BitMap | None]) -> bool:
        """Whether no user was taken, and none of these (None = all of a group) is late. Their answers are
        then those at the revision at which the refresh began.
        """
        return not self.taken and self.late.is_apart_from(users)

    def gone(self, users: Mapping[int, BitMap]) -> None:
        """Users, by group, are erased: in no set any more, and dirty nowhere."""
        late = self._alone()
        if not self.is_settled:
            late.add(users)
            return
        for group, some in users.items():
            late.groups[group].difference_update(some)

    def settle(self) -> None:
        """What was evaluated is stored."""
        self.is_settled = True


def _add_to(groups: Sequence[BitMap], users: Mapping[int, BitMap]) -> None:
    """Adds users, by group. Each set changes by one operation, which no reader sees half done."""
    for group, some in users.items():
        # As `|=`, for the set that readers have.
        _unite(groups[group], some)


_unite = BitMap.__ior__


MARKED_MAX = 1_024
"""Combinations of scopes of which it is kept what new data mark. A round begins anew."""


class _Marked(NamedTuple):
    """What new data of some scopes marks: each set once, and of how many scopes it is known who is dirty."""

    sets: tuple[DirtyScope | LateUsers, ...]
    scopes: int


class DirtyUsers:
    """The dirty users of every tracked scope. Call with the state lock held.

    While a scope is refreshed its dirty users stay dirty, since the memberships are those from before; users
    that become dirty meanwhile are also late for its `Flight`, and alone are dirty afterwards.
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._scopes: dict[str, DirtyScope] = {}
        self._readers: dict[str, Readers] = {}
        self._reads: dict[str, Reads | None] = {}
        self._flights: dict[str, Flight] = {}
        self._beginning: dict[tuple[str, Reads | None], LateUsers] = {}
        """By account and what is read: who is late for refreshes that began since the last change."""
        self._clean: WeakValueDictionary[tuple[str, Reads | None], DirtyScope] = WeakValueDictionary()
        """By account and what is read: scopes of which nobody was dirty after their refresh."""
        self._marked: dict[frozenset[str], _Marked] = {}
        """By scopes: many share what a write marks. Until a scope or a flight changes."""
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
        self._scopes[scope] = DirtyScope(account, None) if whole else self._nobody(account)
        self._marked.clear()
        self._read(account, scope, reads)

    def _nobody(self, account: str) -> DirtyScope:
        return DirtyScope(account, tuple(BitMap(optimize=False) for _ in range(self._groups)))

    def _read(self, account: str, scope: str, reads: Reads | None) -> None:
        self._reads[scope] = reads
        self.readers_of(account).put(scope, reads)

    def drop(self, scope: str) -> None:
        """Stops tracking the scope."""
        found = self._scopes.pop(scope, None)
        if found is not None:
            self._marked.clear()
            del self._reads[scope]
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
        late, times = self._late(account, self._reads[scope]), self._scopes[scope].times
        flight = self._flights[scope] = Flight(late, times, revision, self._marked.clear)
        self._marked.clear()
        return flight

    def _late(self, account: str, reads: Reads | None) -> LateUsers:
        """Collects who is late for a refresh that begins now."""
        late = self._beginning.get((account, reads))
        if late is None:
            late = self._beginning[account, reads] = LateUsers(self._nobody(account), reads)
        else:
            late.is_shared = True
        return late

    def begin_again(self, scope: str, revision: int) -> Flight | None:
        """As `begin`, by plans that read what the last ones did. None: the scope is not tracked."""
        found = self._scopes.get(scope)
        return None if found is None else self.begin(found.account, scope, self._reads[scope], revision)

    def is_under_way(self, scope: str, flight: Flight, reads: Reads | None) -> bool:
        """Whether the flight collects for the scope, and plans that read this may go on with it."""
        return self._flights.get(scope) is flight and self._reads.get(scope) is reads

    def finish(self, scope: str, reads: Reads | None) -> None:
        """The refreshed memberships are stored: only users that became dirty meanwhile are dirty."""
        late = self._flights.pop(scope).late
        self._marked.clear()
        # Later refreshes share no late users with those that have ended.
        self._beginning.clear()
        if late.is_shared and reads != late.reads:
            late = late.copied()
        self._scopes[scope] = self._shared(late.scope, reads)
        if self._reads[scope] is not reads:
            self._read(late.scope.account, scope, reads)

    def _shared(self, scope: DirtyScope, reads: Reads | None) -> DirtyScope:
        """The dirty users of a scope after its refresh. Journeys that are calculated one after another share
        them, too, as long as no data come.
        """
        if not scope.is_empty or scope.times != NO_DATA:
            return scope
        clean = self._clean.get((scope.account, reads))
        if clean is None or not clean.is_empty:
            clean = self._clean[scope.account, reads] = scope
        return clean

    def abandon(self, scope: str, flight: Flight | None = None) -> None:
        """The refresh is given up: the memberships are those from before. `flight`: unless another is under
        way.
        """
        if flight is None or self._flights.get(scope) is flight:
            self._flights.pop(scope, None)
            self._marked.clear()

    def mark(self, read: Iterable[ReadBy], times: DataTimes = ANY_TIME) -> None:
        """Marks users as dirty in the scopes that read their new data, which have these times."""
        for scopes, users in read:
            self._mark(scopes, users, times)

    def mark_all(self, account: str, users: Mapping[int, BitMap]) -> None:
        """Marks users of the account (by group) as dirty in every scope."""
        names = frozenset(name for name, scope in self._scopes.items() if scope.account == account)
        self._mark(names, users, ANY_TIME)

    def _mark(self, names: frozenset[str], users: Mapping[int, BitMap], times: DataTimes) -> None:
        self._beginning.clear()
        marked = self._marked.get(names)
        if marked is None:
            if len(self._marked) >= MARKED_MAX:
                self._marked.clear()
            marked = self._marked[names] = self._marked_by(names)
        self.marks += marked.scopes * sum(map(len, users.values()))
        for each in marked.sets:
            each.add(users, times)

    def _marked_by(self, names: frozenset[str]) -> _Marked:
        sets: dict[DirtyScope | LateUsers, None] = {}
        scopes = 0
        for name in names:
            scope, flight = self._scopes[name], self._flights.get(name)
            scopes += scope.groups is not None
            sets[scope] = None
            if flight is not None:
                sets[flight.late] = None
        return _Marked(tuple(sets), scopes)

    def remove(self, account: str, gone: Mapping[int, BitMap]) -> None:
        """Removes users of the account (by group) that no longer exist."""
        self._beginning.clear()
        flights = [flight for flight in self._flights.values() if flight.account == account]
        # What is stored of one that shares its late users does not concern the others.
        settled = {flight.late for flight in flights if flight.is_settled}
        added: set[LateUsers] = set()
        for flight in flights:
            if flight.late in settled:
                flight.gone(gone)
            elif flight.late not in added:
                added.add(flight.late)
                flight.late.add(gone)
        self._marked.clear()
        left: dict[DirtyScope, DirtyScope] = {}
        for name, scope in self._scopes.items():
            if scope.account == account:
                if scope not in left:
                    left[scope] = scope.without(gone)
                self._scopes[name] = left[scope]

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
        if found is None or found.is_empty:
            return 0
        return None if found.groups is None else sum(map(len, found.groups))

    def account(self, scope: str) -> str | None:
        """The account of a tracked scope."""
        found = self._scopes.get(scope)
        return None if found is None else found.account
