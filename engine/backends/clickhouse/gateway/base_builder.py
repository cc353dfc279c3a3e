"""Builds bases in the background, when enough has been written since the last one.

A base is built beside the one in use, and switched to in one step under the state lock. The one before is
dropped once the switch is in the index and no question that began before it goes on. So a process that ends
at any point finds the base that its index names, or goes on without those that it had not switched to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

import msgspec

from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import LOOK_S, Cluster
from engine.backends.clickhouse.fact_uses import FactUses
from engine.backends.clickhouse.gateway.cluster_state import ClusterState
from engine.backends.clickhouse.settings import BASE_WRITES_MIN
from engine.backends.clickhouse.tables import BASES, HOT_MAX
from engine.backends.clickhouse.view import Base, View
from engine.errors import DataLoss, MilepostError, StoreUnavailable
from engine.measures import Durations
from engine.values import PARTITION_COUNT

WRITES_SHARE_OF_USERS = 0.5
"""The writes have to be at least this share of the account's users too: building takes for each user as long
as grouping the rows of a hundred writes.
"""
BUILDING_SHARE_OF_TIME = 0.1
"""Share of the time in which bases are built, at most."""
AGAIN_S = 60.0
"""Time after a base could not be built before the next attempt."""
USERS_AT_ONCE = 200_000
"""Users whose rows one insert groups, about."""

_log = logging.getLogger(__name__)


class BaseBuilder:
    """Builds one base after the other, in one thread."""

    def __init__(
        self,
        cluster: Cluster,
        state: ClusterState,
        uses: FactUses,
        checkpoint: Callable[[], object],
        sweeping: threading.Lock,
        *,
        writes_min: int,
    ) -> None:
        """`sweeping` is held while a base is built: a cut that is swept meanwhile would be forgotten, and its
        user be in the base.
        """
        self._cluster, self._state, self._uses = cluster, state, uses
        self._checkpoint, self._sweeping = checkpoint, sweeping
        self._writes_min = writes_min
        self.times = Durations()
        """How long bases took to build."""

    def run(self, closing: threading.Event, look_s: float) -> None:
        """The background thread."""
        wait_s, is_checked = look_s, False
        while not closing.wait(wait_s):
            wait_s = look_s
            try:
                if not is_checked:
                    self.forget_lost()
                    is_checked = True
                account = self.due()
                if account is not None:
                    began = time.monotonic()
                    self.build(account, closing)
                    wait_s = (time.monotonic() - began) * (1 / BUILDING_SHARE_OF_TIME - 1)
            except MilepostError as error:
                _log.warning("no base is built: %s", error.message)
                wait_s = AGAIN_S
            except Exception:
                _log.exception("building a base failed")
                wait_s = AGAIN_S

    def due(self) -> str | None:
        """The account that needs a base most; None when none does, or a server is away."""
        with self._state.locked():
            writes = {
                account: rows.writes
                for account in self._state.rows.accounts()
                if (rows := self._state.rows.of(account)).writes >= self._writes_min
            }
        ratios = {account: count / max(1, self._users(account)) for account, count in writes.items()}
        due = [account for account, ratio in ratios.items() if ratio >= WRITES_SHARE_OF_USERS]
        if not due or not all(self._can_build()):
            return None
        return max(due, key=ratios.__getitem__)

    def _can_build(self) -> list[bool]:
        return [not each.is_behind and each.server.is_alive() for each in self._cluster.replicas()]

    def _users(self, account: str) -> int:
        try:
            with self._state.locked():
                found = self._state.find_account(account)
                return 0 if found is None else found.directory.size()
        except DataLoss:
            return 0

    def build(self, account: str, closing: threading.Event) -> Base:
        """Builds the base of an account, switches to it, and drops the one before. Raises StoreUnavailable
        when a replica fails or is behind; then everything is as before.
        """
        began = time.monotonic()
        with self._sweeping:
            with self._state.locked():
                # What comes from here on may be in the base and counts for the next one all the same.
                before = self._state.rows.of(account)
            with self._state.viewing(account) as view:
                base = self._built(view, before.base, closing)
            with self._state.locked():
                now = self._state.rows.of(account)
                self._state.rows.put(
                    account,
                    msgspec.structs.replace(now, base=base, writes=now.writes - before.writes),
                )
                begun = self._state.views_begun()
        self.times.add(time.monotonic() - began)
        _log.info("base built", extra={"account": account, "revision": base.revision})
        self._checkpoint()
        while not self._state.have_ended(begun):
            if closing.wait(LOOK_S):
                # A later build drops it.
                return base
        bases.drop(self._cluster, self._in_use())
        return base

    def _built(self, view: View, before: Base | None, closing: threading.Event) -> Base:
        def may_go_on() -> None:
            if closing.is_set():
                raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")

        hot = self._uses.most_used(view.account, HOT_MAX, () if before is None else before.hot)
        users = max(1, self._users(view.account))
        at_once = USERS_AT_ONCE * PARTITION_COUNT // users
        built = bases.build(
            self._cluster,
            [msgspec.structs.replace(view, base=None)],
            {view.account: hot},
            partitions_at_once=min(max(1, at_once), PARTITION_COUNT),
            may_go_on=may_go_on,
        )
        return built[view.account]

    def _in_use(self) -> list[str]:
        with self._state.locked():
            rows = self._state.rows
            return [base.name for each in rows.accounts() if (base := rows.of(each).base) is not None]

    def forget_lost(self) -> None:
        """Goes on without bases that no replica of some shard has, as after it was restored: the rows they
        were made of are there.
        """
        for replica in self._cluster.replicas():
            replica.server.check_alive()
        held = [
            {
                name
                for replica in shard.replicas
                for (name,) in replica.server.query(f"SELECT name FROM {BASES}")
            }
            for shard in self._cluster.shards
        ]
        self.forget([name for name in self._in_use() if not all(name in names for names in held)])

    def forget_all(self) -> None:
        """Goes on without any."""
        self.forget(self._in_use())

    def forget(self, names: Collection[str]) -> None:
        """Goes on without some bases, by name. Others are built as soon as they can be."""
        with self._state.locked():
            for account in self._state.rows.accounts():
                rows = self._state.rows.of(account)
                if rows.base is not None and rows.base.name in names:
                    _log.warning("the base of %s is not used any more, and is built again", account)
                    # Enough for another one.
                    writes = max(rows.writes, BASE_WRITES_MIN, self._users(account))
                    self._state.rows.put(account, msgspec.structs.replace(rows, base=None, writes=writes))
