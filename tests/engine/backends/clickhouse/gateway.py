"""The owner of a cluster's rows, in memory: revisions, aliases, event ids, cuts and the log.

A backend keeps these in its own store. Tests keep them here, so that whole worlds can be told to a cluster.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from engine.backends.base import Contains, Count, EventRecord, Members, Record
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.migrations import promote
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.rows import Batch as RowBatch
from engine.backends.clickhouse.rows import batch_of, joined
from engine.backends.clickhouse.tables import FACTS
from engine.backends.clickhouse.view import Base, View
from engine.backends.clickhouse.writer import Move, Writer
from engine.criteria.zones import SPAN_MICROS
from engine.plan.model import Plan
from engine.values import PARTITION_COUNT, Micros
from tests.oracle.history import Aliases
from tests.oracle.world import Alias, Batch, Erase, Expire, Forget, Operation, World

PAGE_USERS = 3


@dataclass
class _Account:
    name: str
    aliases: Aliases = field(default_factory=Aliases)
    event_ids: set[tuple[str, str]] = field(default_factory=set)
    request_ids: set[str] = field(default_factory=set)
    cuts: dict[str, int] = field(default_factory=dict)
    removals: list[tuple[Micros, int]] = field(default_factory=list)
    inputs: dict[str, set[str]] = field(default_factory=dict)
    """By user, the inputs it came through."""
    facts: set[tuple[str, str]] = field(default_factory=set)
    """Place and key of all facts that were ever written."""
    base: Base | None = None
    seq: int = 0
    spans: set[int] = field(default_factory=set)


class Gateway:
    """One writer of many accounts, over one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.writer = Writer(cluster)
        self.plans = Plans(cluster)
        self.revision = 0
        self._accounts: dict[str, _Account] = {}
        self._waiting: list[RowBatch] = []

    def close(self) -> None:
        """Waits for inserts."""
        self.writer.close()

    def feed(self, world: World, source: random.Random | None = None) -> None:
        """All operations of a world. With a source, bases are built amid them."""
        often = 0.0 if source is None else source.choice((0.0, 0.0, 0.5, 1.0)) / max(1, len(world.operations))
        for operation in world.operations:
            self.happen(world.account, operation)
            if source is not None and source.random() < often:
                self.build_base(world.account, source)

    def happen(self, account: str, operation: Operation) -> None:
        """One operation."""
        match operation:
            case Batch():
                self._append(self._account(account), operation)
            case Alias():
                self._alias(self._account(account), operation.from_user_id, operation.to_user_id)
            case Erase():
                self._erase(self._account(account), operation.user_ids)
            case Expire():
                found = self._account(account)
                found.removals.append((operation.before, self.revision))
            case Forget():
                self._forget(self._account(account), operation)

    def view(self, account: str) -> View:
        """What counts now."""
        self.flush()
        found = self._account(account)
        return View(
            account=account,
            revision=self.revision,
            cuts=dict(found.cuts),
            removals=tuple(found.removals),
            event_spans=tuple(sorted(found.spans)),
            base=found.base,
        )

    def build_base(self, account: str, source: random.Random) -> None:
        """Builds a base, with some of the account's facts in columns of their own, and switches to it."""
        found = self._account(account)
        chosen = source.sample(sorted(found.facts), min(len(found.facts), source.randrange(4)))
        built = bases.build(
            self._cluster,
            [self.view(account)],
            {account: chosen},
            partitions_at_once=source.choice((PARTITION_COUNT // 2, PARTITION_COUNT)),
        )
        found.base = built[account]
        bases.drop(self._cluster, [each.base.name for each in self._accounts.values() if each.base])

    def promote(self, keys: Collection[str]) -> None:
        """Gives event attributes columns of their own."""
        for replica in self._cluster.replicas():
            promote(replica.server, keys)
        self.plans = Plans(self._cluster, promoted=keys)

    def sweep(self, account: str) -> bool:
        """Removes what does not count."""
        found = self._account(account)
        done = self.writer.sweep(self.view(account))
        if done:
            found.cuts.clear()
            found.removals.clear()
        return done

    # --- questions ------------------------------------------------------------------------------------------

    def sizes(self, plan: Plan, partitions: Sequence[int] | None = None) -> list[int]:
        """The size of each root, among the users of some partitions."""
        view = self.view(plan.account)
        return list(self.plans.execute(view, plan, Count(), partitions=partitions).sizes)

    def flags(self, plan: Plan, user_ids: Iterable[str]) -> list[frozenset[str]]:
        """For each root, which of the users it contains."""
        users = tuple(user_ids)
        found = self.plans.execute(self.view(plan.account), plan, Contains(users)).flags
        return [
            frozenset(user for user, flags in zip(users, found, strict=True) if flags[root])
            for root in range(len(plan.roots))
        ]

    def found(self, plan: Plan) -> list[frozenset[str]]:
        """For each root, its users, by one statement over all users. Unlike `flags` it reads the base."""
        users = dict(self.plans.flags(self.view(plan.account), plan))
        return [
            frozenset(user for user, flags in users.items() if flags[root]) for root in range(len(plan.roots))
        ]

    def members(self, plan: Plan, limit: int | None = PAGE_USERS) -> list[str]:
        """The users of the first root, page by page."""
        found: list[str] = []
        after = ""
        while True:
            page = self.plans.execute(self.view(plan.account), plan, Members(after=after, limit=limit))
            found += page.user_ids
            after = page.next_after
            if not after:
                return found

    # --- writes ---------------------------------------------------------------------------------------------

    def _account(self, name: str) -> _Account:
        return self._accounts.setdefault(name, _Account(name))

    def _append(self, account: _Account, batch: Batch) -> None:
        if batch.request_id and batch.request_id in account.request_ids:
            return
        rows = self._rows(account, batch.records)
        self._waiting.append(rows)
        self.revision = rows.revision
        account.request_ids |= {batch.request_id} - {""}

    def flush(self) -> None:
        """Inserts the batches that came since the last time, all at once."""
        if self._waiting:
            self.writer.add(joined(self._waiting))
            self._waiting.clear()

    def _rows(self, account: _Account, records: Sequence[Record]) -> RowBatch:
        kept: list[Record] = []
        for record in records:
            if isinstance(record, EventRecord) and record.event_id:
                if (record.input, record.event_id) in account.event_ids:
                    continue
                account.event_ids.add((record.input, record.event_id))
            kept.append(record)
        account.spans |= {record.time // SPAN_MICROS for record in kept}
        owner = account.aliases.now_called
        for record in kept:
            account.inputs.setdefault(owner(record.user_id), set()).add(record.input)
        first_seq, account.seq = account.seq, account.seq + len(kept)
        made = batch_of(account.name, kept, revision=self.revision + 1, first_seq=first_seq, owner=owner)
        account.facts |= {(row[1], row[2]) for rows in made.rows[FACTS].values() for row in rows}
        return made

    def _alias(self, account: _Account, from_user_id: str, to_user_id: str) -> None:
        source = account.aliases.now_called(from_user_id)
        target = account.aliases.now_called(to_user_id)
        revision = self.revision + 1
        view = self.view(account.name)
        self.writer.add(Move(revision=revision, source=source, target=target, view=view))
        account.aliases.link(from_user_id, to_user_id)
        account.cuts[source] = self.revision
        self.revision = revision
        if source in account.inputs:
            account.inputs.setdefault(target, set()).update(account.inputs.pop(source))

    def _erase(self, account: _Account, user_ids: Sequence[str]) -> None:
        for user in account.aliases.forget(user_ids):
            account.cuts[user] = self.revision
            account.inputs.pop(user, None)
        self.revision += 1

    def _forget(self, account: _Account, forget: Forget) -> None:
        if any(forget.covers(name) for inputs in account.inputs.values() for name in inputs):
            return
        account.event_ids = {each for each in account.event_ids if not forget.covers(each[0])}
        if forget.name == account.name:
            account.aliases, account.request_ids = Aliases(), set()
