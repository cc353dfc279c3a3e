"""The engine: everything put together over one backend. It knows no network and starts no threads.

Whoever runs it calls `live.refresh_all` every `REFRESH_INTERVAL_MS`, and earlier when
`live.wait_for_work` says so, `clock.keep` every second, `retention.run` every `RETENTION_INTERVAL_S`, and
delivers what `outbox` has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from engine.audiences.funnel import Funnels
from engine.audiences.history import SizeHistory
from engine.audiences.live import Live
from engine.audiences.members import Members
from engine.audiences.outbox import Outbox
from engine.audiences.sizes import Sizes
from engine.audiences.targets import Targets
from engine.backends.base import Backend
from engine.catalog import Catalog
from engine.clock import Clock
from engine.errors import LimitExceeded
from engine.ingest import Ingest
from engine.limits import DEFAULT_LIMITS, Limits
from engine.resources.accounts import Accounts
from engine.resources.activation import Activation
from engine.resources.audiences import AudienceRecords
from engine.resources.connections import Connections
from engine.resources.criteria import CriteriaCheck
from engine.resources.journeys import Journeys
from engine.resources.milestone_tree import Forest
from engine.resources.milestones import Milestones
from engine.resources.repository import Repository
from engine.retention import Retention
from engine.values import Micros


class Engine:
    """The rule engine. Owns the backend: `close` closes it. All methods are safe from several threads."""

    def __init__(
        self,
        backend: Backend,
        *,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock | Callable[[], Micros] | None = None,
    ) -> None:
        """`clock`: the machine's unless given; a plain function is believed whatever it answers."""
        self.backend = backend
        self.limits = limits
        if not isinstance(clock, Clock):
            clock = Clock() if clock is None else Clock.of(clock)
        self.clock = clock
        clock.start(backend.documents, backend.newest_arrival())
        repository = Repository(backend.documents)
        forest = Forest(repository)
        activation = Activation(repository)
        criteria = CriteriaCheck(forest, backend, limits)
        history = SizeHistory(backend.documents)
        self.audiences = AudienceRecords(repository, activation, limits, clock)
        targets = Targets(repository, forest, self.audiences, criteria)
        self.retention = Retention(repository, backend, clock.settled)
        exact_since = self.retention.exact_since
        self.live = Live(repository, forest, activation, backend, history, exact_since, clock, limits)
        changed = self.live.changed
        self.accounts = Accounts(repository, activation, limits, clock)
        self.journeys = Journeys(repository, forest, activation, criteria, limits, clock, changed)
        self.milestones = Milestones(repository, forest, criteria, limits, clock, changed)
        self.connections = Connections(repository, activation, backend, limits, clock, changed)
        self.outbox = Outbox(repository, self.connections, backend)
        funnels = Funnels(repository, forest, activation, criteria, backend)
        self.sizes = Sizes(backend, forest, self.audiences, targets, self.live, history, funnels, clock)
        self.members = Members(repository, forest, self.audiences, targets, self.live, backend, limits, clock)
        self.catalog = Catalog(repository, backend)
        self.ingest = Ingest(repository, backend, limits, clock, changed)

    def close(self) -> None:
        """Closes the backend. Streams that are being watched end with StoreUnavailable."""
        with suppress(LimitExceeded):
            self.clock.save()
        self.backend.close()
