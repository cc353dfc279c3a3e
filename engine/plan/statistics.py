"""Estimates about predicates that a backend may have, for ordering operands.

Statistics change which of several equal plans is chosen, never an answer.
"""

from __future__ import annotations

from typing import Protocol

from engine.plan.model import Predicate


class Statistics(Protocol):
    """Estimates about one account's users."""

    def share(self, predicate: Predicate) -> float | None:
        """The share of the users, 0 to 1, for whom the predicate is expected to hold; None = unknown."""
        ...


class NoStatistics:
    """No estimates."""

    def share(self, predicate: Predicate) -> float | None:
        """Always None."""
        return None
