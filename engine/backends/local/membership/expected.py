"""Whom time is expected to move: users whose membership may change before the end of a horizon, given their
data.

A scope has a few horizons, such as the coming hour and the coming minute. A tick then looks only at the users
of the nearest one, and at none when it is empty. Users with new data are looked at when they are refreshed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyroaring import BitMap

from engine.values import Micros


@dataclass(slots=True)
class Horizon:
    """The users, by group, whom time may move after `since` and up to `until`."""

    since: Micros
    until: Micros
    groups: list[BitMap]
    count: int = 0
    """Number of the users."""

    def counted(self) -> Horizon:
        """Counts the users, which have changed."""
        self.count = sum(map(len, self.groups))
        return self

    def covers(self, first: Micros, last: Micros) -> bool:
        return self.since <= first and last <= self.until


class Expected:
    """The horizons of every scope, the farthest first. Call with the state lock held."""

    def __init__(self) -> None:
        self._scopes: dict[str, list[Horizon]] = {}

    def put(self, scope: str, level: int, since: Micros, until: Micros, groups: Sequence[BitMap]) -> None:
        """The scope has this horizon as its number `level`, and none that is nearer."""
        horizons = self._scopes.setdefault(scope, [])
        horizons[level:] = [Horizon(since, until, list(groups)).counted()]

    def covering(self, scope: str, first: Micros, last: Micros) -> Horizon | None:
        """The nearest horizon that has everyone whom time moves between the instants. None: no horizon
        does.
        """
        for horizon in reversed(self._scopes.get(scope, ())):
            if horizon.covers(first, last):
                return horizon
        return None

    def at_level(self, level: int) -> Iterator[tuple[str, Sequence[BitMap]]]:
        """The scopes with users in their horizon of a level, and these by group."""
        for scope, horizons in self._scopes.items():
            if level < len(horizons) and horizons[level].count:
                yield scope, horizons[level].groups

    def levels(self, scope: str) -> int:
        """How many horizons the scope has."""
        return len(self._scopes.get(scope, ()))

    def count(self, scope: str, level: int = -1) -> int | None:
        """Number of users within the nearest horizon, or that of a level; None without it. Needs no lock."""
        horizons = self._scopes.get(scope, ())
        return horizons[level].count if horizons and level < len(horizons) else None

    def renew(self, scope: str, level: int, users: Mapping[int, tuple[BitMap, BitMap]]) -> None:
        """Users were looked at (by group), and these of them are expected to move."""
        horizons = self._scopes.get(scope, [])
        if users and level < len(horizons):
            groups = horizons[level].groups
            for group, (looked_at, found) in users.items():
                groups[group] = (groups[group] - looked_at) | found
            horizons[level].counted()

    def join(self, scope: str, users: Mapping[int, BitMap]) -> None:
        """Users, by group, may move at any time: what is expected of them is not known."""
        for horizon in self._scopes.get(scope, ()):
            for group, some in users.items():
                horizon.groups[group] = horizon.groups[group] | some
            horizon.counted()

    def drop(self, scope: str) -> None:
        """Forgets the horizons of a scope."""
        self._scopes.pop(scope, None)
