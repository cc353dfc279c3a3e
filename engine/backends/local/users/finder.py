"""Finding the users of an account without the state lock, and with it when that is not enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from engine.backends.local.storage.user_ref import UserRef, UserRefs
from engine.backends.local.users.directory import Directory
from engine.backends.local.users.hash_table import CHANGING, UNKNOWN

ATTEMPTS_MAX = 3
"""Attempts to find many users while others are being added, before the lock is taken."""


class UserFinder:
    """Finds the users of one account. Needs the state lock only for users that are not in memory, for unknown
    ids of an account that has aliases, and while users are being added.
    """

    def __init__(
        self,
        find_directory: Callable[[], Directory | None],
        locked: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`find_directory` gives the account's directory, None while it has no data. Called with the lock
        held.
        """
        self._find_directory = find_directory
        self._locked = locked
        self._directory: Directory | None = None

    def open(self) -> None:
        """Call with the lock held, so that `find` does not take it to begin with."""
        self._opened()

    def find(self, user_id: str) -> UserRef | None:
        """The user that an id names, or None."""
        directory = self._directory
        ref = CHANGING if directory is None else directory.peek(user_id)
        if ref >= 0:
            return ref
        if ref == UNKNOWN:
            return None
        with self._locked():
            found = self._opened()
            return None if found is None else found.find(user_id)

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        """The user of each id; a negative number for an id that names none."""
        refs = self._peek_many(user_ids)
        changing = np.flatnonzero(refs == CHANGING)
        if len(changing):
            with self._locked():
                found = self._opened()
                asked = [user_ids[row] for row in changing.tolist()]
                refs[changing] = UNKNOWN if found is None else found.find_many(asked)
        return refs

    def _peek_many(self, user_ids: Sequence[str]) -> UserRefs:
        directory = self._directory
        for _ in range(0 if directory is None else ATTEMPTS_MAX):
            assert directory is not None
            refs = directory.peek_many(user_ids)
            if refs is not None:
                return refs
        return np.full(len(user_ids), CHANGING, np.int64)

    def _opened(self) -> Directory | None:
        if self._directory is None:
            self._directory = self._find_directory()
        return self._directory
