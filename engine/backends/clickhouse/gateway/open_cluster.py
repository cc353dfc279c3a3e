"""What the roles of a gateway share: its store, its state and the cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.fact_uses import FactUses
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.cluster_state import ClusterState
from engine.backends.clickhouse.gateway.kept_entries import KeptEntries
from engine.backends.clickhouse.gateway.location import Location
from engine.backends.clickhouse.gateway.owner import Owner, check_rows, claim, delete_leftovers, own
from engine.backends.clickhouse.gateway.profiles import Profiles
from engine.backends.clickhouse.gateway.sharing_writer import SharingWriter
from engine.backends.clickhouse.migrations import promote
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.view import View
from engine.backends.clickhouse.writer import Writer
from engine.backends.local.roles.open_store import OpenStore
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.positions import read_reach
from engine.backends.local.storage.store import Store
from engine.clock import Stamp
from engine.errors import FailedPrecondition, StoreUnavailable

_log = logging.getLogger(__name__)


def cluster_at(location: Location, owner: Owner | None = None) -> Cluster:
    """The cluster at a location, with the partitions that the owner of its rows gave its shards."""
    servers = [[Server(address, location.database) for address in shard] for shard in location.shards]
    is_known = owner is not None and owner.shards == len(servers)
    return Cluster(servers, owner.starts if owner is not None and is_known else ())


class OpenCluster(OpenStore[ClusterPeople]):
    """An open store whose rows are in a cluster. Each role adds its methods."""

    def _connect(self, cluster: Cluster, store: Store, promoted: Collection[str]) -> None:
        """Says where the rows are, and which event attributes get columns of their own. Called before the
        store is opened.
        """
        self._cluster, self._promoted = cluster, promoted
        self._fact_uses = FactUses()
        self._plans = Plans(cluster, self._fact_uses, promoted)
        self._profiles = Profiles(cluster)
        self._kept = KeptEntries(store.index)
        self._owner = Owner(store.store_id, len(cluster.shards))

    def _open_state(self) -> ClusterState:
        state = ClusterState(self._store, self._settings, self._check, self._profiles)
        self._claim(state.position)
        state.writer = self._rows = Writer(
            self._cluster, revision=state.position, behind=self._kept.behind, keep=self._kept.keep
        )
        # One that lacks rows may have come back while those that have them went away. Without it nothing of
        # the log could be applied, so this does not wait until the store is open.
        self._kept.settle(self._rows.catch_up(self._kept.after, unless_readable=True))
        self._cluster_state = state
        return state

    def _open_writer(self, clock: Callable[[], Stamp]) -> SharingWriter:
        return SharingWriter(self._log, self._state, clock)

    def _claim(self, position: int) -> None:
        """Checks the servers. Those that do not answer are behind from now on, so that they are checked
        before they are read.
        """
        with self._store.index.reading() as txn, self._store.log.reading() as log:
            has_documents = next(txn.keys(key(Family.DOCUMENT)), None) is not None
            newest = max(position, read_reach(log).newest or 0)
        is_new = newest == 0
        own(self._store.index, self._owner, is_new=is_new and not has_documents)
        behind = dict(self._kept.behind)
        self._check_names(behind)
        for shard in self._cluster.shards:
            failures = []
            for replica in shard.replicas:
                name = replica.server.address.name
                try:
                    replica.server.check_alive()
                    claim(replica.server, self._owner, shard.number, is_new=is_new or behind.get(name) == 0)
                    promote(replica.server, self._promoted)
                    delete_leftovers(self._store.index, replica.server)
                    check_rows(replica.server, newest)
                except StoreUnavailable as error:
                    _log.warning("a server is not read until it answers: %s", error.message)
                    failures.append(error.message)
                    behind.setdefault(name, position)
            if len(failures) == len(shard.replicas):
                raise StoreUnavailable(f"{shard.name} cannot be read: {'; '.join(failures)}")
        self._kept.settle(behind)

    def _check_names(self, behind: Iterable[str]) -> None:
        """Raises FailedPrecondition when a server that lacks rows is not there under its name: under another
        one it would be read.
        """
        known = {replica.server.address.name for replica in self._cluster.replicas()}
        missing = [name for name in behind if name not in known]
        if missing:
            raise FailedPrecondition(
                f"the server {missing[0]} lacks the latest rows: name it in the URL until it has them"
            )

    def _claim_again(self) -> None:
        """Checks the servers that are behind, before they catch up. Raises FailedPrecondition."""
        for shard in self._cluster.shards:
            for replica in shard.replicas:
                revision = self._rows.behind.get(replica.server.address.name)
                if revision is not None and replica.server.is_alive():
                    claim(replica.server, self._owner, shard.number, is_new=revision == 0)
                    promote(replica.server, self._promoted)
                    delete_leftovers(self._store.index, replica.server)

    @contextmanager
    def _viewed(
        self, name: str, deadline: float | None = None
    ) -> Iterator[tuple[ClusterPeople | None, View]]:
        """An account, None when it has no data, and what counts of its rows at the newest revision."""
        with self._locked(deadline):
            account = self._state.find_account(name)
        with self._cluster_state.viewing(name, deadline) as view:
            yield account, view
