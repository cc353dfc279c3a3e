"""Which users change while a long read goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyroaring import BitMap

_NOBODY = BitMap()


class ChangedUsers:
    """Users whose data have changed since a read began or last took them. Use with the state lock held."""

    def __init__(self) -> None:
        self.users: dict[int, BitMap] = {}
        """By group; an addition replaces a set."""
        self.are_all = False
        """Whether something has changed that may concern everyone."""

    def add(self, touched: Mapping[int, BitMap]) -> None:
        """Adds users by group."""
        for group, users in touched.items():
            self.users[group] = self.users.get(group, _NOBODY) | users

    def take(self, group: int) -> BitMap:
        """The users of a group; they are taken out."""
        return self.users.pop(group, _NOBODY)

    def among(self, group: int, users: BitMap) -> BitMap:
        """Those of some users of a group."""
        return self.users.get(group, _NOBODY) & users


class Watches:
    """The long reads of an account that want to know who changes. Call with the state lock held."""

    def __init__(self) -> None:
        self._open: list[ChangedUsers] = []
        self._opening = threading.Lock()

    @contextmanager
    def watching(self) -> Iterator[ChangedUsers]:
        """Collects the users that change within the block, which may end without the lock."""
        changed = ChangedUsers()
        with self._opening:
            self._open = [*self._open, changed]
        try:
            yield changed
        finally:
            with self._opening:
                self._open = [each for each in self._open if each is not changed]

    def changed(self, touched: Mapping[int, BitMap]) -> None:
        """Users, by group, whose data have changed."""
        for each in self._open:
            each.add(touched)

    def changed_for_all(self) -> None:
        """Something has changed that may concern everyone."""
        for each in self._open:
            each.are_all = True
