"""What a backend may know about predicates, for the order in which operands are looked at.

Statistics change which of several equal plans is chosen, never an answer.
"""

from __future__ import annotations

from typing import Protocol

from engine.plan.model import Predicate


class Statistics(Protocol):
    """Estimates about one account's users."""

    def share(self, predicate: Predicate) -> float | None:
        """The share of the users, 0 to 1, for whom the predicate is expected to hold; None = no idea."""
        ...


class NoStatistics:
    """Nothing is known."""

    def share(self, predicate: Predicate) -> float | None:
        """None, for every predicate."""
        return None
