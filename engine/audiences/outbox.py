"""What each connection has still to deliver, from its durable cursor.

On activation every member is sent as entered, then every change. A membership that is calculated for the
first time tells of its members by its first changes; where one was there already (another connection, or a
descendant, needed it) the members present come first, page by page, and then the changes after the sequence
that was the last at activation. What is read here and not yet confirmed by `advance` is read again after a
crash: at least once, in order, for each connection.
"""

from __future__ import annotations

import msgspec

from engine.audiences.model import DeliveryBatch, DeliveryCursor
from engine.backends.base import Change, Members, MembershipReader
from engine.errors import NotFound
from engine.resources.connections import Connections
from engine.resources.records import Audience, Closing, Connection, ConnectionState, Milestone, Output
from engine.resources.repository import Repository


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that delivers, with what its messages tell. `closing` when the audience is deleted and its
    last exits are being sent.
    """

    connection: Connection
    output: Output
    audience: Audience
    milestone: Milestone
    closing: bool


class Outbox:
    """Reads what is to be delivered. Safe to call from several threads, for different connections."""

    def __init__(self, repository: Repository, connections: Connections, backend: MembershipReader) -> None:
        self._repository = repository
        self._connections = connections
        self._backend = backend

    def outgoing(self) -> tuple[Outgoing, ...]:
        """Every ACTIVE connection of every account, those with the last exits of a deleted audience too."""
        with self._repository.reading():
            active = [
                connection
                for connection in self._repository.scan(Connection, "")
                if connection.state is ConnectionState.ACTIVE
            ]
            return tuple(self._outgoing(connection) for connection in active)

    def _outgoing(self, connection: Connection) -> Outgoing:
        output = self._repository.get(Output, connection.output)
        closing = self._repository.find(Closing, connection.audience)
        if closing is not None:
            audience, milestone = closing.audience, closing.milestone
        else:
            audience = self._repository.get(Audience, connection.audience)
            milestone = self._repository.get(Milestone, audience.milestone)
        return Outgoing(
            connection=connection,
            output=output,
            audience=audience,
            milestone=milestone,
            closing=closing is not None,
        )

    def pull(self, connection: Connection, limit: int) -> DeliveryBatch:
        """Up to `limit` changes after the connection's cursor, without waiting.

        Members present at activation carry the sequence of the last change they reflect. No changes and
        `caught_up` when there is nothing, or the membership is still being calculated for the first time.
        Raises CursorExpired when changes were lost before they could be delivered.
        """
        cursor = DeliveryCursor(connection.delivered, connection.snapshot_after)
        try:
            if cursor.snapshot_after is not None:
                return self._snapshot(connection.audience, cursor.sequence, cursor.snapshot_after, limit)
            page = self._backend.changes(connection.audience, cursor.sequence, limit)
        except NotFound:
            return DeliveryBatch((), cursor, caught_up=True)
        last = page.changes[-1].sequence if page.changes else cursor.sequence
        return DeliveryBatch(page.changes, DeliveryCursor(last), page.caught_up)

    def _snapshot(self, audience: str, sequence: int, after: str, limit: int) -> DeliveryBatch:
        membership = self._backend.membership(audience)
        if membership is None:
            raise NotFound(audience)
        page = self._backend.stored_members(audience, Members(after, limit))
        changes = tuple(Change(sequence, user_id, True, membership.as_of) for user_id in page.user_ids)
        return DeliveryBatch(changes, DeliveryCursor(sequence, page.next_after or None), caught_up=False)

    def advance(self, connection: Connection, cursor: DeliveryCursor) -> Connection | None:
        """Confirms that everything up to the cursor is delivered. None when the connection is gone."""
        return self._connections.advance(
            connection.name,
            cursor.sequence,
            snapshot_after=cursor.snapshot_after,
            activation=connection.activation,
        )

    def wait(self, connection: Connection, deadline: float) -> bool:
        """Blocks until the connection has a change to deliver (True) or the deadline, an instant of
        `time.monotonic()`, passes.
        """
        if connection.snapshot_after is not None:
            return True
        return self._backend.wait_for_changes(connection.audience, connection.delivered, deadline)
