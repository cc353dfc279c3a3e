"""Activated and calculated audiences, derived from connections and never stored."""

from __future__ import annotations

from collections.abc import Iterable

from engine.limits import ACCOUNTS_MAX
from engine.resources.records import Audience, Connection, ConnectionState, Milestone
from engine.resources.repository import Repository

LIVE_STATES = frozenset({ConnectionState.ACTIVE, ConnectionState.FAULTED})
"""States in which a connection keeps a cursor: a FAULTED one continues from it when resumed."""


class Activation:
    """Derives the sets from the records and caches them until the records change."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._derived: dict[str, tuple[int, frozenset[str], frozenset[str]]] = {}

    def activated(self, account: str) -> frozenset[str]:
        """Audiences with an ACTIVE connection."""
        return self._of(account)[0]

    def calculated(self, account: str) -> frozenset[str]:
        """Audiences with stored membership: those with a live connection, and their ancestors."""
        return self._of(account)[1]

    def _of(self, account: str) -> tuple[frozenset[str], frozenset[str]]:
        with self._repository.reading():
            generation = self._repository.generation(Connection, Milestone, Audience)
            known = self._derived.get(account)
            if known is not None and known[0] == generation:
                return known[1], known[2]
            connections = self._repository.scan(Connection, f"{account}/connections/")
            active = {c.audience for c in connections if c.state is ConnectionState.ACTIVE}
            live = {c.audience for c in connections if c.state in LIVE_STATES}
            # A connection may outlive its audience while it has exits to deliver.
            present = {name for name in live if self._repository.find(Audience, name) is not None}
            activated = frozenset(active & present)
            calculated = frozenset(self._with_ancestors(present))
            if len(self._derived) >= ACCOUNTS_MAX:
                # Deleted accounts are among them.
                self._derived.clear()
            self._derived[account] = (generation, activated, calculated)
            return activated, calculated

    def _with_ancestors(self, audiences: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for name in audiences:
            milestone: Milestone | None = self._repository.get(
                Milestone, self._repository.get(Audience, name).milestone
            )
            while milestone is not None and milestone.audience not in found:
                found.add(milestone.audience)
                milestone = self._repository.find(Milestone, milestone.parent)
        return found
