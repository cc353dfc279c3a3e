"""Keeps writes to an account and deletions in it apart.

A write checks the records of its account and inputs, and then appends. A deletion checks that no data belongs
to what it deletes, and then removes the records. Neither may come between the two steps of the other. Writes
of an account run side by side; a deletion runs alone. Other accounts notice nothing.

A write waits for a deletion, so a deletion that has to wait for a long write gives up.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import StoreUnavailable

WRITES_END_S_MAX = 2.0
"""How long a deletion waits for writes that have begun, and holds later ones meanwhile."""


class WriteGate:
    """Lets writes of an account in unless something in it is being deleted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._writes: Counter[str] = Counter()
        self._closed: set[str] = set()

    @contextmanager
    def writing(self, account: str) -> Iterator[None]:
        """A write of the account, from its first check to its end. Waits for a deletion."""
        with self._changed:
            self._changed.wait_for(lambda: account not in self._closed)
            self._writes[account] += 1
        try:
            yield
        finally:
            with self._changed:
                self._writes[account] -= 1
                if not self._writes[account]:
                    del self._writes[account]
                    self._changed.notify_all()

    @contextmanager
    def closed(self, account: str) -> Iterator[None]:
        """A deletion in the account. Waits for writes that have begun, and holds later ones. Raises
        StoreUnavailable when they take longer than `WRITES_END_S_MAX`.
        """
        with self._changed:
            self._changed.wait_for(lambda: account not in self._closed)
            self._closed.add(account)
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: account not in self._writes, WRITES_END_S_MAX):
                    raise StoreUnavailable(
                        f"a write to {account} is under way; delete again once it has ended"
                    )
            yield
        finally:
            with self._changed:
                self._closed.discard(account)
                self._changed.notify_all()
