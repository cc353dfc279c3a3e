"""Slots of a pool of calls, and how many of them one account takes at most.

What is left for an account are the slots that no other account holds. It takes a share of them, so there are
always some for the next one: with half as the share, one account alone has half of a pool, two have a third
each, three a quarter.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from engine.errors import LimitExceeded

SLOT_RETRY_S = 0.5
"""When to try again after a pool was full: nobody knows when a call ends."""


class Holder(NamedTuple):
    """Whose calls count together: an account, or an operator's API key."""

    name: str
    percent: int
    """Its share of the slots that others do not hold."""


class Slots:
    """The slots of one pool. Safe to call from several threads."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self.most = most
        """How many there are."""
        self.taken = 0
        """How many are held."""
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def are_all_taken(self) -> bool:
        """Whether none is left."""
        return self.taken >= self.most

    def check(self, holder: Holder | None) -> None:
        """Raises LimitExceeded when all are held, or when the holder has its share. None = a caller without a
        key, who has no share.
        """
        if self.are_all_taken:
            raise LimitExceeded(
                f"{self.most} calls of this kind are already in flight",
                metadata={"limit": str(self.most), "pool": self._name},
                retry_after_s=SLOT_RETRY_S,
            )
        self.check_share(holder)

    def check_share(self, holder: Holder | None) -> None:
        """Raises LimitExceeded when the holder has its share."""
        if holder is None:
            return
        held = self._held.get(holder.name, 0)
        share = share_of(holder.percent, held + max(0, self.most - self.taken))
        if held >= share:
            raise LimitExceeded(
                f"{holder.name} has {held} calls of this kind in flight, {holder.percent} % of the slots that"
                " others leave: try again once one has ended, or ask an operator to raise"
                " quotas.slots_percent_max",
                metadata={
                    "quota": "quotas.slots_percent_max",
                    "limit": str(share),
                    "count": str(held),
                    "pool": self._name,
                    "resource": holder.name,
                },
                retry_after_s=SLOT_RETRY_S,
            )

    def take(self, holder: Holder | None) -> None:
        """Holds one until `give_back`."""
        with self._lock:
            self.taken += 1
            if holder is not None:
                self._held[holder.name] = self._held.get(holder.name, 0) + 1

    def give_back(self, holder: Holder | None) -> None:
        """Lets go of one."""
        with self._lock:
            self.taken -= 1
            if holder is not None:
                left = self._held[holder.name] - 1
                if left:
                    self._held[holder.name] = left
                else:
                    del self._held[holder.name]


def share_of(percent: int, slots: int) -> int:
    """How many of the slots that others do not hold an account takes: one at least."""
    return max(1, slots * percent // 100)
