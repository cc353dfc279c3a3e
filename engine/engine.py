"""The engine: everything put together over one backend. It knows no network and starts no threads.

Whoever runs it calls `live.refresh_all` every `REFRESH_INTERVAL_MS`, and earlier when
`live.wait_for_work` says so, calls `retention.run` every `RETENTION_INTERVAL_S`, and delivers what `outbox`
has.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.audiences.funnel import Funnels
from engine.audiences.history import SizeHistory
from engine.audiences.live import Live
from engine.audiences.members import Members
from engine.audiences.outbox import Outbox
from engine.audiences.sizes import Sizes
from engine.audiences.targets import Targets
from engine.backend import Backend
from engine.catalog import Catalog
from engine.ingest import Ingest
from engine.journeys.accounts import Accounts
from engine.journeys.activation import Activation
from engine.journeys.audiences import AudienceRecords
from engine.journeys.connections import Connections
from engine.journeys.criteria import CriteriaCheck
from engine.journeys.forest import Forest
from engine.journeys.journeys import Journeys
from engine.journeys.milestones import Milestones
from engine.journeys.repository import Repository
from engine.limits import DEFAULT_LIMITS, Limits
from engine.retention import Retention
from engine.values import Micros

NANOS_PER_MICRO = 1_000


def now_micros() -> Micros:
    """The machine's clock."""
    return time.time_ns() // NANOS_PER_MICRO


class Engine:
    """The rule engine. Owns the backend: `close` closes it. All methods are safe from several threads."""

    def __init__(
        self, backend: Backend, *, limits: Limits = DEFAULT_LIMITS, clock: Callable[[], Micros] = now_micros
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.clock = clock
        repository = Repository(backend.documents)
        forest = Forest(repository)
        activation = Activation(repository)
        criteria = CriteriaCheck(forest, backend, limits)
        history = SizeHistory(backend.documents)
        self.audiences = AudienceRecords(repository, activation, limits, clock)
        targets = Targets(repository, forest, self.audiences, criteria)
        self.retention = Retention(repository, backend, clock)
        exact_since, erased_ids_days = self.retention.exact_since, limits.erased_ids_days
        self.live = Live(
            repository, forest, activation, backend, history, exact_since, clock, erased_ids_days
        )
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
        self.backend.close()
