"""Has the store record when values change that connections have opted in to."""

from __future__ import annotations

from collections.abc import Sequence

from engine.audiences.live.failures import each_alone
from engine.backends.base import MembershipStore, OptedIn
from engine.errors import MilepostError
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

    def keep(self) -> dict[str, MilepostError]:
        """Call after each round. A connection is delivered once the store knows what it sends. Returns the
        failures by audience.
        """
        wanted = self._wanted()

        def tell(audiences: Sequence[str]) -> None:
            for audience in audiences:
                values = wanted.get(audience, _NOTHING)
                membership = self._backend.membership(audience)
                if membership is not None and membership.opted_in != values:
                    self._backend.opt_in(audience, values)

        failures = dict(each_alone([*(self._known.keys() | wanted.keys())], tell))
        # What failed is tried again by the next round: known audiences and wanted ones are.
        self._known = wanted | {audience: _NOTHING for audience in failures if audience not in wanted}
        self._backend.record_updates()
        return failures

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
