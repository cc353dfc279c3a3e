"""Entries that wait to be logged, in an order that is fair to accounts.

Each account gets the same share of the work, whatever it sends: the next entry is that of the account which
has had the least since it last had nothing to wait for (start-time fair queueing). So a small write goes
before all large ones of another account but the first. Entries of one account keep their order.
"""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """What can wait."""

    @property
    def account(self) -> str:
        """Whose work it is."""
        ...

    @property
    def work(self) -> int:
        """How much it is: 1 or more."""
        ...


T = TypeVar("T", bound=Item)


class WorkQueue(Generic[T]):
    """Items that wait. Not safe to call from several threads."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, T]] = []
        """By the account's work before the item, then small ones first, then by arrival."""
        self._arrived = 0
        self._served = 0
        """The account's work before the item that was taken last."""
        self._ends: dict[str, int] = {}
        """For each account its work up to the end of its last item."""

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, item: T) -> None:
        """Adds an item."""
        # An account that had nothing to wait for has saved nothing up.
        start = max(self._served, self._ends.get(item.account, 0))
        self._ends[item.account] = start + item.work
        self._arrived += 1
        heapq.heappush(self._heap, (start, item.work, self._arrived, item))

    def first(self) -> T:
        """The item that is next."""
        return self._heap[0][3]

    def take(self) -> T:
        """Removes the item that is next."""
        self._served, _, _, item = heapq.heappop(self._heap)
        if not self._heap:
            self._served = 0
            self._ends.clear()
        return item
