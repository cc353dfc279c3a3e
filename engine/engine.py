"""The engine: all components over one backend, without network or threads.

The embedding program calls `live.refresh_all` every `REFRESH_INTERVAL_MS`, or earlier when
`live.wait_for_work` returns, `clock.keep` every second, `retention.run` every `RETENTION_INTERVAL_S`, and
delivers the changes in `deliveries`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from engine.audiences.deliveries import Deliveries
from engine.audiences.edit_preview import EditPreviews
from engine.audiences.funnel import Funnels
from engine.audiences.history import SizeHistory
from engine.audiences.live import Live
from engine.audiences.members import Members
from engine.audiences.sizes import Sizes
from engine.audiences.targets import Targets
from engine.backends.base import Backend, Measured, ServingWriter
from engine.catalog import Catalog
from engine.clock import Clock, ClockState
from engine.errors import LimitExceeded
from engine.ingest import Ingest
from engine.limits import DEFAULT_LIMITS, Limits
from engine.measures import Measure, counted, gauge
from engine.resources.accounts import Accounts
from engine.resources.activation import Activation
from engine.resources.api_keys import ApiKeys
from engine.resources.applying import Applying
from engine.resources.audiences import AudienceRecords
from engine.resources.connections import Connections
from engine.resources.criteria import CriteriaCheck
from engine.resources.deletion import Deletion
from engine.resources.journeys import Journeys
from engine.resources.leftovers import Leftovers
from engine.resources.milestone_tree import Forest
from engine.resources.milestones import Milestones
from engine.resources.repository import Repository
from engine.resources.requests import Requests
from engine.resources.secret_keys import SecretKeys
from engine.resources.versions import Versions
from engine.retention import Retention
from engine.values import MICROS_PER_SECOND, Micros
from engine.write_gate import WriteGate


class Engine:
    """The rule engine. Owns the backend: `close` closes it. All methods are safe from several threads."""

    def __init__(
        self,
        backend: Backend,
        *,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock | Callable[[], Micros] | None = None,
        keys: SecretKeys | None = None,
    ) -> None:
        """`clock`: by default the machine's; a plain function is always trusted. `keys` encrypt the secrets
        of outputs; without them no output can have any.
        """
        self.backend = backend
        self.limits = limits
        if not isinstance(clock, Clock):
            clock = Clock() if clock is None else Clock.of(clock)
        self.clock = clock
        clock.start(backend.documents, backend.newest_arrival())
        repository = Repository(backend.documents, limits)
        self.signer = repository.signer
        self.pages = repository.pages
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
        self.versions = Versions(repository, forest)
        self.journeys = Journeys(
            repository, forest, activation, criteria, self.versions, limits, clock, changed
        )
        self.milestones = Milestones(repository, forest, criteria, self.versions, limits, clock, changed)
        self.edit_previews = EditPreviews(repository, forest, activation, backend, clock)
        self.applying = Applying(repository, forest, criteria, self.versions, limits, clock, changed)
        self.connections = Connections(
            repository, activation, backend, keys or SecretKeys(None), limits, clock, changed
        )
        self.deliveries = Deliveries(repository, self.connections, backend, clock)
        funnels = Funnels(repository, forest, activation, criteria, backend)
        self.sizes = Sizes(
            backend, forest, self.audiences, targets, self.live, history, funnels, self.pages, clock
        )
        leftovers = Leftovers(repository, backend, self._forget_account)
        leftovers.clear_all()
        self.api_keys = ApiKeys(repository, limits, clock)
        self.accounts = Accounts(repository, activation, leftovers, limits, clock)
        gate = WriteGate()
        requests = Requests(repository, limits, clock.stamp)
        self.deletion = Deletion(repository, requests, backend, gate, leftovers, self.live.refresh)
        self.members = Members(repository, forest, self.audiences, targets, self.live, backend, limits, clock)
        self.catalog = Catalog(repository, backend)
        self.ingest = Ingest(repository, backend, gate, limits, clock, self.live.data_came)

    def serve_with(self, writer: ServingWriter) -> None:
        """Hands calculated memberships to readers in other processes."""
        self.live.serve_with(writer, self.sizes.outlooks)

    def _forget_account(self, account: str) -> None:
        self.sizes.forget_account(account)
        self.retention.forget(account)

    def measures(self) -> Iterator[Measure]:
        """What the engine and its store count and time about themselves."""
        stats = self.backend.stats()
        yield gauge("users", "Users in the store.", stats.users)
        yield gauge("events", "Events in the store.", stats.events)
        yield gauge("revision", "Latest revision: a number that grows with every write.", stats.revision)
        yield gauge("disk_bytes", "Bytes of the store on disk.", stats.disk_bytes)
        yield gauge("log_disk_bytes", "Bytes of the write-ahead log on disk.", stats.log_bytes)
        yield gauge(
            "writes_accepted",
            "1 while writes are accepted, 0 while the store refuses them.",
            self.backend.write_fault() is None,
        )
        if isinstance(self.backend, Measured):
            yield from self.backend.measures()
        yield from self.live.measures()
        yield from self.deliveries.measures()
        status = self.clock.status()
        yield counted("clock_jumps_total", "Jumps of the machine's clock.", self.clock.jumps)
        yield gauge(
            "clock_settled",
            "1 while removals follow the machine's clock, 0 after a jump.",
            status.state is ClockState.SETTLED,
        )
        yield gauge(
            "clock_difference_seconds",
            "Machine's clock minus the settled time.",
            (status.wall - status.settled) / MICROS_PER_SECOND,
        )

    def close(self) -> None:
        """Closes the backend. Open watch streams end with StoreUnavailable."""
        with suppress(LimitExceeded):
            self.clock.save()
        self.backend.close()
