"""Has the store record when values change that connections have opted in to."""

from __future__ import annotations

from engine.backends.base import MembershipStore, OptedIn
from engine.resources.activation import LIVE_STATES
from engine.resources.connections import opted_in_by
from engine.resources.records import Connection
from engine.resources.repository import Repository

_NOTHING = OptedIn()


class OptedInValues:
    """Tells the store what the live connections of each audience send, and has it record the changes."""

    def __init__(self, repository: Repository, backend: MembershipStore) -> None:
        self._repository = repository
        self._backend = backend
        self._known: dict[str, OptedIn] = {}
        """By audience, what the store was told last."""

    def keep(self) -> None:
        """Call after each round. A connection is delivered once the store knows what it sends."""
        wanted = self._wanted()
        for audience in self._known.keys() | wanted.keys():
            values = wanted.get(audience, _NOTHING)
            membership = self._backend.membership(audience)
            if membership is not None and membership.opted_in != values:
                self._backend.opt_in(audience, values)
        self._known = wanted
        self._backend.record_updates()

    def _wanted(self) -> dict[str, OptedIn]:
        found: dict[str, OptedIn] = {}
        for connection in self._repository.scan(Connection, ""):
            if connection.state in LIVE_STATES:
                values = opted_in_by(connection)
                if values != _NOTHING:
                    found[connection.audience] = _united(found.get(connection.audience, _NOTHING), values)
        return found


def _united(one: OptedIn, other: OptedIn) -> OptedIn:
    return OptedIn(
        tuple(sorted({*one.attributes, *other.attributes})),
        tuple(sorted({*one.identities, *other.identities})),
    )
