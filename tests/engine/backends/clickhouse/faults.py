"""Kills, stalls and fills servers of two shards of two replicas while data come in, and checks every answer.

    python -m tests.engine.backends.clickhouse.faults --rounds 200 --seed 7

A round writes, moves and erases users and builds bases while one thing after another goes wrong: a replica is
killed or stopped, both replicas of a shard are, a replica takes no more inserts as its disk is full, or the
owner of the rows ends in the middle of an insert and begins anew from its log. After each step every user is
asked for. Its answer is that of the oracle, or the question fails with StoreUnavailable; it is never another
one. At the end of a round all servers run again, have caught up and have the same rows.

Every other round has a gateway in a process of its own, and events that are read in place (`mapped_faults`).
"""

from __future__ import annotations

import argparse
import itertools
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.backends.base import Contains, Count, EventRecord, Record, UserRecord
from engine.backends.clickhouse import bases
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.plans import Plans
from engine.backends.clickhouse.rows import batch_of
from engine.backends.clickhouse.tables import COLUMNS, PROFILES
from engine.backends.clickhouse.view import Base, View
from engine.backends.clickhouse.writer import Entry, Move, Writer
from engine.criteria.model import Aggregate, Equals, EventType
from engine.errors import StoreUnavailable
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, Interval, Plan, Step, Universe
from engine.values import PARTITION_COUNT
from tests.engine.backends.clickhouse import mapped_faults, outages
from tests.engine.backends.clickhouse.outages import Outages, Slowest, unlike_replicas
from tests.engine.backends.clickhouse.servers import (
    ClickHouseServer,
    fresh_cluster,
    reason_not_to_start,
    started,
)
from tests.oracle.campaign import SEED_BITS
from tests.oracle.history import aliases_after, histories
from tests.oracle.plans import root_sets
from tests.oracle.world import Alias, Batch, Erase, Operation, World

ACCOUNT = "accounts/faults"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
INPUT = f"{WORKSPACE}/inputs/i"
USERS = tuple(f"user-{number}" for number in range(40))
HOT = ((WORKSPACE, "tier"),)
STEPS = 12
FREE_BYTES_MIN = "min_free_disk_bytes_to_perform_insert"
"""The setting of a table by which an insert fails as on a full disk."""
AGAIN_S = 0.5
CATCH_UP_S_MAX = 120.0


Insert = Callable[[str, Sequence[Sequence[Any]], str], None]


class OwnerEnds(BaseException):
    """The process of the owner ends."""


class Owner:
    """The owner of the rows: a log and what it has made visible, which outlive it, and a writer, which does
    not.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.log: list[Entry] = []
        self.visible = 0
        self.behind: dict[str, int] = {}
        self.cuts: dict[str, int] = {}
        self.base: Base | None = None
        self.pending_cuts: dict[str, int] = {}
        self.done: list[Operation] = []
        self.pending: Operation | None = None
        self.writer = self._began()

    def _began(self) -> Writer:
        return Writer(self.cluster, revision=self.visible, behind=self.behind)

    def begin_anew(self) -> None:
        """A new process, which finds what was stored."""
        self.writer.close()
        self.writer = self._began()

    def view(self) -> View:
        """What counts."""
        cuts = dict(self.cuts)
        return View(account=ACCOUNT, revision=self.visible, cuts=cuts, event_spans=(0,), base=self.base)

    def build_base(self) -> bool:
        """Builds a base and switches to it. False when it cannot be built now."""
        view = self.view()
        try:
            built = bases.build(self.cluster, [view], {ACCOUNT: HOT}, partitions_at_once=PARTITION_COUNT)
        except StoreUnavailable:
            return False
        self.base = built[ACCOUNT]
        return True

    def since(self, revision: int) -> Sequence[Entry]:
        """The log after a revision."""
        return [entry for entry in self.log if entry.revision > revision]

    def log_entry(self, entry: Entry, operation: Operation, cuts: dict[str, int]) -> None:
        """It is in the log, but not added."""
        self.log.append(entry)
        self.pending, self.pending_cuts = operation, cuts

    def add_pending(self) -> bool:
        """Adds the last entry of the log, and makes it visible. False when it cannot be added now."""
        if self.pending is None:
            return True
        try:
            self.writer.add(self.log[-1])
        except StoreUnavailable:
            return False
        self.behind = dict(self.writer.behind)
        self.visible = self.log[-1].revision
        self.cuts |= self.pending_cuts
        self.done.append(self.pending)
        self.pending = None
        return True


PLAN_STEPS: tuple[Step, ...] = (
    Universe(inputs=(INPUT,)),
    *(
        EventMatch(
            selection=EventSelection(inputs=(INPUT,), name="buy"),
            aggregate=aggregate,
            of="price",
            intervals=(Interval(low=float(least)),),
        )
        for aggregate in (Aggregate.COUNT, Aggregate.SUM)
        for least in (1, 2, 3, 5, 8, 13)
    ),
    *(AttributeMatch(workspaces=(WORKSPACE,), key="tier", test=Equals(tier)) for tier in ("a", "b", "c")),
)
PLAN = Plan(account=ACCOUNT, as_of=0, steps=PLAN_STEPS, roots=tuple(range(len(PLAN_STEPS))))


class Round:
    """One round over a new cluster's tables."""

    def __init__(
        self,
        servers: Sequence[Sequence[ClickHouseServer]],
        cluster: Cluster,
        source: random.Random,
        counts: Counter[str],
        slowest: Slowest,
    ) -> None:
        self.slowest = slowest
        self.outages = Outages(servers, source, counts)
        self.cluster, self.source, self.counts = cluster, source, counts
        self.owner = Owner(cluster)
        self.full: list[ClickHouseServer] = []
        self.ends_in: int | None = None
        self.time = 0

    def run(self) -> list[str]:
        """The differences."""
        try:
            # Before anything goes wrong: later a server is almost always away, and no base can be built.
            self._write()
            self._build_base()
            for _ in range(STEPS):
                self._fault()
                self._write()
                if self.source.random() < 0.2:
                    self._build_base()
                if found := self._differences():
                    return found
                if self.source.random() < 0.4:
                    self._mend(one=True)
            self._mend(one=False)
            while not self.owner.add_pending():
                time.sleep(AGAIN_S)
            self._catch_up()
            if found := self._differences(must_answer=True):
                return found
            self._build_base()
            return self._differences(must_answer=True) + list(
                unlike_replicas([[each.server for each in shard.replicas] for shard in self.cluster.shards])
            )
        finally:
            self._mend(one=False)
            self.owner.writer.close()

    # --- what goes wrong ------------------------------------------------------------------------------------

    def _fault(self) -> None:
        """Something goes wrong with servers that run, or will with the owner."""
        kind = self.source.choice(("nothing", "full", "owner", *outages.KINDS))
        self.ends_in = self.source.randrange(6) if kind == "owner" else None
        if kind in outages.KINDS:
            self.outages.hit(kind)
        elif kind == "full" and (running := self.outages.running):
            self._fill(self.source.choice(running))

    def _fill(self, server: ClickHouseServer) -> None:
        """Its disk has less left than its tables need for an insert."""
        self._set(server, f"MODIFY SETTING {FREE_BYTES_MIN} = {1 << 60}")
        self.full.append(server)
        self.counts["disks full"] += 1

    def _set(self, server: ClickHouseServer, change: str) -> None:
        (replica,) = (each for each in self.cluster.replicas() if each.server.address == server.address)
        for table in (*COLUMNS, PROFILES):
            replica.server.command(f"ALTER TABLE {table} {change}")

    def _mend(self, *, one: bool) -> None:
        """Starts one server again, or all of them."""
        self.outages.mend(one=one)
        runs = [each for each in self.full if each in self.outages.running]
        for server in runs[:1] if one else runs:
            self._set(server, f"RESET SETTING {FREE_BYTES_MIN}")
            self.full.remove(server)
        if one:
            self.owner.writer.catch_up(self.owner.since)
            self.owner.behind = dict(self.owner.writer.behind)

    def _catch_up(self) -> None:
        until = time.monotonic() + CATCH_UP_S_MAX
        while self.owner.writer.catch_up(self.owner.since):
            assert time.monotonic() < until, f"does not catch up: {self.owner.writer.behind}"
        self.owner.behind = {}

    def _build_base(self) -> None:
        built = self.owner.build_base()
        self.counts["bases built" if built else "bases that could not be built"] += 1

    # --- what comes in --------------------------------------------------------------------------------------

    def _write(self) -> None:
        if self.owner.pending is None:
            self._log_something()
        inserts = [(each.server, each.server.insert) for each in self.cluster.replicas()]
        try:
            if self.ends_in is not None:
                self._end_owner_in(self.ends_in)
            self.counts["entries added" if self.owner.add_pending() else "entries that had to wait"] += 1
        except OwnerEnds:
            self.counts["owners ended in an insert"] += 1
        finally:
            for server, insert in inserts:
                setattr(server, "insert", insert)  # noqa: B010
            if self.ends_in is not None:
                self.owner.begin_anew()

    def _end_owner_in(self, inserts: int) -> None:
        """Lets the owner end once that many inserts have been made. The next one is made, or is not."""
        left = itertools.count(inserts, -1)

        def ending(insert: Insert) -> Insert:
            def insert_or_end(table: str, columns: Sequence[Sequence[Any]], token: str) -> None:
                is_last = next(left) <= 0
                if is_last and self.source.random() < 0.5:
                    raise OwnerEnds
                insert(table, columns, token)
                if is_last:
                    raise OwnerEnds

            return insert_or_end

        for replica in self.cluster.replicas():
            setattr(replica.server, "insert", ending(replica.server.insert))  # noqa: B010 (it stands in for a method)

    def _log_something(self) -> None:
        owner, source = self.owner, self.source
        revision = (owner.log[-1].revision if owner.log else owner.visible) + 1
        aliases = aliases_after(owner.done)
        kind = source.random()
        if kind < 0.2:
            one, other = source.sample(USERS, 2)
            if not aliases.closes_cycle(one, other):
                source_user, target = aliases.now_called(one), aliases.now_called(other)
                move = Move(revision=revision, source=source_user, target=target, view=owner.view())
                owner.log_entry(move, Alias(one, other), {source_user: revision - 1})
                return
        if kind < 0.3:
            users = tuple(source.sample(USERS, 2))
            cuts = dict.fromkeys(aliases.forget(users), revision - 1)
            owner.log_entry(batch_of(ACCOUNT, (), revision=revision, first_seq=0), Erase(users), cuts)
            return
        records = tuple(self._records())
        batch = batch_of(
            ACCOUNT, records, revision=revision, first_seq=revision * 1_000, owner=aliases.now_called
        )
        owner.log_entry(batch, Batch(records), {})

    def _records(self) -> Iterator[Record]:
        for _ in range(self.source.choice((1, 30))):
            self.time += 1
            user = self.source.choice(USERS)
            if self.source.random() < 0.7:
                price = self.source.choice((0.1, 0.2, 1.0, 2.5))
                yield EventRecord(user, INPUT, "buy", EventType.CUSTOM, self.time, {"price": price})
            else:
                yield UserRecord(user, INPUT, self.time, {"tier": self.source.choice("abc")})

    # --- what is answered -----------------------------------------------------------------------------------

    def _differences(self, *, must_answer: bool = False) -> list[str]:
        world = World(
            account=ACCOUNT,
            inputs=(INPUT,),
            time_zone="UTC",
            as_of=0,
            operations=tuple(self.owner.done),
            journeys=(),
        )
        expected = root_sets(PLAN, histories(world))
        plans, view = Plans(self.cluster), self.owner.view()
        try:
            with self.slowest.timed("answer"):
                sizes = plans.execute(view, PLAN, Count()).sizes
                flags = plans.execute(view, PLAN, Contains(USERS)).flags
        except StoreUnavailable as error:
            self.counts["answers: unavailable"] += 1
            return [f"unavailable: {error}"] if must_answer else []
        self.counts["answers: right"] += 1
        found = []
        if sizes != tuple(map(len, expected)):
            found.append(f"sizes {sizes} instead of {tuple(map(len, expected))}")
        for user, each in zip(USERS, flags, strict=True):
            wanted = tuple(user in users for users in expected)
            if each != wanted:
                found.append(f"{user} is in {each} instead of {wanted}")
        return found


def _run_round(
    servers: Sequence[Sequence[ClickHouseServer]],
    source: random.Random,
    counts: Counter[str],
    slowest: Slowest,
) -> list[str]:
    """Plays one round. Returns the differences."""
    with fresh_cluster([[server.address for server in shard] for shard in servers]) as cluster:
        cluster.folding()
        return Round(servers, cluster, source, counts, slowest).run()


def run(rounds: int, seed: int, first: int = 0) -> int:
    """Runs the rounds, prints what happened and returns the exit code."""
    counts: Counter[str] = Counter()
    slowest = Slowest()
    with (
        tempfile.TemporaryDirectory(prefix="clickhouse-") as directory,
        started(Path(directory), 2, 2) as servers,
    ):
        for number in range(first, first + rounds):
            source = random.Random(f"{seed} {number}")
            if number % 2:
                gateway = Path(directory) / f"gateway-{number}"
                found = mapped_faults.run_round(servers, gateway, source, counts, slowest)
            else:
                found = _run_round(servers, source, counts, slowest)
            if found:
                print(f"round {number} of seed {seed}:", *found, sep="\n  ", flush=True)
                return 1
            if number % 10 == 9:
                print(f"{number + 1 - first} rounds", flush=True)
    for kind in sorted(counts):
        print(f"  {kind:56} {counts[kind]}")
    for kind, seconds in sorted(slowest.seconds.items()):
        print(f"  {f'slowest {kind}':56} {seconds:.1f} s")
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="faults", description="Kills and stalls servers of a cluster.")
    parser.add_argument("--rounds", type=int, default=20, help="how many rounds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    options = parser.parse_args()
    if reason := reason_not_to_start():
        print(f"SKIPPED: {reason}", file=sys.stderr)
        return 0
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    print(f"{options.rounds} rounds from {options.first} on, --seed {seed}", flush=True)
    return run(options.rounds, seed, options.first)


if __name__ == "__main__":
    sys.exit(main())
