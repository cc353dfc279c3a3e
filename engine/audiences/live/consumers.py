"""The live connections of an audience, and how far they have delivered its changes."""

from __future__ import annotations

from engine.resources.activation import LIVE_STATES
from engine.resources.records import Connection, Output, account_of
from engine.resources.repository import Repository


class Consumers:
    """Reads connections and their outputs."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def of(self, audience: str) -> list[Connection]:
        """The audience's live connections."""
        connections = self._repository.scan(Connection, f"{account_of(audience)}/connections/")
        return [c for c in connections if c.audience == audience and c.state in LIVE_STATES]

    def exiting(self, audience: str) -> bool:
        """Whether a deactivated connection of the audience still delivers exits, from a copy of its own."""
        connections = self._repository.scan(Connection, f"{account_of(audience)}/connections/")
        return any(c.exiting for c in connections if c.audience == audience)

    def delivered(self, audience: str) -> list[int]:
        """Cursors of the audience's connections that deliver. Consumers of a `Watch` output may stay away for
        ever: changes are kept for them as for all watchers.
        """
        return [c.delivered for c in self.of(audience) if not self.is_watch(c)]

    def is_watch(self, connection: Connection) -> bool:
        """Whether the consumer fetches the changes itself."""
        output = self._repository.find(Output, connection.output)
        return output is not None and not output.target.sends
