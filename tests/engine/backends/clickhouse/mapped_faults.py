"""Rounds of faults about events that are read in place: a gateway in a process of its own follows a table of
others, whose rows come to each server, and ends at any moment.

While a server is away, its rows wait for it, and may come later still; rows of a server may be lost, and come
back. So servers have different rows most of the time. A user's answer is that of the rows up to a mark which
the gateway had followed when it answered, or the question fails with StoreUnavailable.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from clickhouse_connect.driver.exceptions import ClickHouseError

from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.criteria.model import Aggregate, Equals, EventType
from engine.errors import StoreUnavailable
from engine.plan.model import AttributeMatch, EventMatch, EventSelection, Interval, Plan, Step, Universe
from tests.engine.backends.clickhouse import outages
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.gateway_process import Answer, GatewayEnded, GatewayProcess
from tests.engine.backends.clickhouse.outages import Outages, Slowest, unlike_replicas
from tests.engine.backends.clickhouse.servers import ClickHouseServer
from tests.engine.backends.clickhouse.theirs import Theirs, their_table
from tests.oracle.history import aliases_after, histories
from tests.oracle.plans import root_sets
from tests.oracle.world import Alias, Batch, Erase, Operation, World

ACCOUNT = "accounts/faults"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
SENT, MAPPED = f"{WORKSPACE}/inputs/sent", f"{WORKSPACE}/inputs/table"
USERS = tuple(f"user-{number}" for number in range(40))
STEPS = 12
CALLS_MAX = 12
"""Calls of servers after which a gateway ends, at most."""
AGAIN_S = 0.2
CATCH_UP_S_MAX = 120.0

PLAN_STEPS: tuple[Step, ...] = (
    Universe(inputs=(SENT, MAPPED)),
    *(
        EventMatch(
            selection=EventSelection(inputs=inputs, name="buy"),
            aggregate=aggregate,
            of="price",
            intervals=(Interval(low=float(least)),),
        )
        for inputs in ((MAPPED,), (SENT, MAPPED))
        for aggregate in (Aggregate.COUNT, Aggregate.SUM)
        for least in (1, 2, 3, 5, 8, 13)
    ),
    *(AttributeMatch(workspaces=(WORKSPACE,), key="tier", test=Equals(tier)) for tier in ("a", "b", "c")),
)
PLAN = Plan(account=ACCOUNT, as_of=0, steps=PLAN_STEPS, roots=tuple(range(len(PLAN_STEPS))))


class Truth:
    """What was done, in order: writes that were acknowledged, and rows once they were followed. A write whose
    call failed may have been done.
    """

    def __init__(self) -> None:
        self.done: list[Operation] = []
        self.pending: Operation | None = None
        self.rows: dict[int, tuple[EventRecord, ...]] = {}
        """Those that were not followed, by mark."""
        self.reach = -1
        self._followed_at = 0

    def looks(self) -> None:
        """The gateway looks for rows. Those that it finds come before whatever is written later."""
        self._followed_at = len(self.done)

    def reaches(self, mark: int) -> None:
        """Rows up to a mark were followed."""
        assert mark >= self.reach, f"the reach went back from {self.reach} to {mark}"
        self.reach = mark
        for each in sorted(each for each in self.rows if each <= mark):
            self.done.insert(self._followed_at, Batch(self.rows.pop(each)))
            self._followed_at += 1

    def is_acknowledged(self) -> None:
        """The pending write was."""
        if self.pending is not None:
            self.done.append(self.pending)
        self.pending = None

    def states(self, answer: Answer) -> Iterator[list[Operation]]:
        """What had been done in each state in which an answer may have been given."""
        self.reaches(answer.earliest)
        for mark in sorted({answer.earliest, answer.latest}):
            rows = [Batch(self.rows[each]) for each in sorted(self.rows) if each <= mark]
            before = [*self.done[: self._followed_at], *rows, *self.done[self._followed_at :]]
            yield before
            if self.pending is not None:
                yield [*before, self.pending]


def _flags(operations: Sequence[Operation]) -> tuple[tuple[bool, ...], ...]:
    """By user, which roots of the plan have it. An alias names the user that it stands for."""
    called, sets = aliases_after(operations).now_called, _sets(operations)
    return tuple(tuple(called(user) in each for each in sets) for user in USERS)


def _sizes(operations: Sequence[Operation]) -> tuple[int, ...]:
    return tuple(map(len, _sets(operations)))


def _sets(operations: Sequence[Operation]) -> list[frozenset[str]]:
    world = World(
        account=ACCOUNT,
        inputs=(SENT, MAPPED),
        time_zone="UTC",
        as_of=0,
        operations=tuple(operations),
        journeys=(),
    )
    return root_sets(PLAN, histories(world))


class TheirRows:
    """The table of others on each server, and the rows that each still lacks."""

    def __init__(self, theirs: Theirs, servers: Sequence[ClickHouseServer], outages: Outages) -> None:
        self._tables = dict(zip(servers, theirs.servers, strict=True))
        self._theirs, self._outages = theirs, outages
        self._rows: dict[int, tuple[EventRecord, ...]] = {}
        self._lacking: dict[ClickHouseServer, list[int]] = {server: [] for server in servers}

    def lacks(self, server: ClickHouseServer) -> bool:
        """Whether a server has not all rows."""
        return bool(self._lacking[server])

    def come(
        self, rows: tuple[EventRecord, ...], *, late: ClickHouseServer | None, dying: ClickHouseServer | None
    ) -> int:
        """Rows come to all servers that run but one that is late, while another one is killed. Returns their
        mark.
        """
        mark = self._theirs.next_mark()
        self._rows[mark] = rows
        for server in self._tables:
            self._lacking[server].append(mark)
        if dying is not None:
            inserting = threading.Thread(target=self._try_to_insert, args=(dying, mark))
            inserting.start()
            self._outages.kill(dying)
            inserting.join()
        for server in self._outages.running:
            # What it lacks from earlier comes first, as a queue would have it, or not yet.
            if server is not late and self._lacking[server] == [mark]:
                self.deliver(server)
        return mark

    def lose(self, server: ClickHouseServer, mark: int) -> None:
        """A server has the rows with a mark no more."""
        self._theirs.run(f"DELETE FROM rows WHERE arrived = {mark}", [self._tables[server]])
        self._lacking[server].append(mark)

    def deliver(self, server: ClickHouseServer) -> None:
        """A server gets what it lacks. What it was sent when it was killed may be there."""
        for mark in tuple(self._lacking[server]):
            table = self._tables[server]
            ((there,),) = table.query(f"SELECT count() FROM rows WHERE arrived = {mark}")
            assert there in (0, len(self._rows[mark])), f"an insert was stored in part: {there} rows"
            if not there:
                self._insert(table, mark)
            self._lacking[server].remove(mark)

    def has(self, server: ClickHouseServer) -> list[int]:
        """The marks whose rows a server has."""
        return [mark for mark in self._rows if mark not in self._lacking[server]]

    def _insert(self, table: Server, mark: int) -> None:
        self._theirs.insert(self._rows[mark], mark=mark, servers=[table])

    def _try_to_insert(self, server: ClickHouseServer, mark: int) -> None:
        with suppress(ClickHouseError, OSError):
            self._insert(self._tables[server], mark)


class MappedRound:
    """One round over a new store and a new table."""

    def __init__(
        self,
        servers: Sequence[Sequence[ClickHouseServer]],
        gateway: GatewayProcess,
        theirs: Theirs,
        source: random.Random,
        counts: Counter[str],
        slowest: Slowest,
    ) -> None:
        self.slowest = slowest
        self.servers = [server for shard in servers for server in shard]
        self.outages = Outages(servers, source, counts)
        self.rows = TheirRows(theirs, self.servers, self.outages)
        self.gateway, self.source, self.counts = gateway, source, counts
        self.truth = Truth()
        self.dying: ClickHouseServer | None = None
        self.request = ""
        self.failure = ""
        """Why the last call failed."""
        self._numbers = itertools.count(1)
        gateway.start()
        gateway.call("map", theirs.table)

    def run(self) -> list[str]:
        """The differences."""
        try:
            self._rows_come()
            self._follow()
            for _ in range(STEPS):
                self._fault()
                if self.source.random() < 0.7:
                    self._rows_come()
                self._write()
                self._follow()
                if found := self._differences():
                    return found
                if self.source.random() < 0.4:
                    self.outages.mend(one=True)
                if self.source.random() < 0.5:
                    self._deliver(self.source.sample(self.servers, 2))
            self._end_well()
            found = self._differences(must_answer=True)
            # It may be about to remove rows that do not count, from one replica after the other.
            self.gateway.call("close")
            return found
        finally:
            self.outages.mend(one=False)
            self.gateway.kill()

    def _end_well(self) -> None:
        """Everything runs and is there."""
        self.outages.mend(one=False)
        self._deliver(self.servers)
        until = time.monotonic() + CATCH_UP_S_MAX
        while not self._is_well():
            assert time.monotonic() < until, f"does not come to rest: {self.failure}"
            time.sleep(AGAIN_S)
        self.counts["rounds that ended with a base"] += self.gateway.call("has_base")
        assert self.gateway.call("errors") == [], "the gateway has logged errors"

    def _is_well(self) -> bool:
        if not (self._start() and self._try_pending() and self._follow()):
            return False
        self.failure = f"{len(self.truth.rows)} inserts of rows were not followed"
        try:
            return not self.truth.rows and bool(self._call("has_caught_up"))
        except StoreUnavailable:
            return False

    # --- what goes wrong ------------------------------------------------------------------------------------

    def _fault(self) -> None:
        kind = self.source.choice(("nothing", "lost", "dying", "gateway", "end", "end", *outages.KINDS))
        running = self.outages.running
        self.dying = None
        if kind in outages.KINDS:
            self.outages.hit(kind)
        elif kind == "gateway":
            self.gateway.kill()
            self.counts["gateways killed between calls"] += 1
        elif kind == "end" and self.gateway.is_running:
            # It may end by what it was told before.
            with suppress(StoreUnavailable):
                place = self.source.choice(("before", "after"))
                self._call("end_in", self.source.randrange(CALLS_MAX), place)
        elif kind == "dying" and running:
            self.dying = self.source.choice(running)
        elif kind == "lost" and running:
            self._lose(self.source.choice(running))

    def _lose(self, server: ClickHouseServer) -> None:
        if marks := self.rows.has(server):
            self.rows.lose(server, self.source.choice(marks))
            self.counts["rows of a server lost"] += 1

    def _deliver(self, servers: Sequence[ClickHouseServer]) -> None:
        for server in servers:
            if server in self.outages.running:
                self.rows.deliver(server)

    def _start(self) -> bool:
        """Whether the gateway runs, now if not before."""
        if not self.gateway.is_running:
            try:
                with self.slowest.timed("start"):
                    self.gateway.start()
            except StoreUnavailable as error:
                self.failure = f"start: {error.message}"
                self.counts["starts that failed"] += 1
                return False
            except GatewayEnded:
                return False
            self.counts["starts after an end"] += 1
        return True

    def _call(self, name: str, *arguments: object) -> object:
        """Calls the gateway. Raises StoreUnavailable, also when it ends."""
        if not self._start():
            raise StoreUnavailable("there is no gateway")
        try:
            return self.gateway.call(name, *arguments)
        except StoreUnavailable as error:
            self.failure = f"{name}: {error.message}"
            raise
        except GatewayEnded:
            self.counts["gateways killed in a call"] += 1
            raise StoreUnavailable("the gateway ended") from None

    # --- what comes in --------------------------------------------------------------------------------------

    def _rows_come(self) -> None:
        rows = tuple(self._event(MAPPED) for _ in range(self.source.choice((1, 30))))
        late = self.source.choice(self.servers) if self.source.random() < 0.3 else None
        mark = self.rows.come(rows, late=late, dying=self.dying)
        self.truth.rows[mark] = rows
        self.counts["inserts of rows"] += 1
        self.counts["inserts of rows while a server was killed"] += self.dying is not None
        self.dying = None

    def _event(self, through: str) -> EventRecord:
        price = self.source.choice((0.1, 0.2, 1.0, 2.5))
        user, at = self.source.choice(USERS), next(self._numbers)
        return EventRecord(user, through, "buy", EventType.CUSTOM, at, {"price": price})

    def _follow(self) -> bool:
        """Whether the gateway has looked for rows. Never while a write may have been done or not."""
        if self.truth.pending is not None:
            return False
        self.truth.looks()
        try:
            reach = self._call("follow")
        except StoreUnavailable:
            self.counts["looks that failed"] += 1
            return False
        assert isinstance(reach, int)
        self.counts["looks that found rows"] += reach > self.truth.reach
        self.truth.reaches(reach)
        return True

    def _write(self) -> None:
        if self.truth.pending is None:
            self.truth.pending = self._something()
            self.request = f"request-{next(self._numbers)}"
        self.counts["writes acknowledged" if self._try_pending() else "writes that failed"] += 1

    def _try_pending(self) -> bool:
        """Whether no write is pending any more. Batches are sent again with the same id of their request."""
        pending = self.truth.pending
        if pending is None:
            return True
        try:
            match pending:
                case Batch():
                    reach = self._call("append", ACCOUNT, pending.records, self.request)
                case Alias():
                    reach = self._call("alias", ACCOUNT, pending.from_user_id, pending.to_user_id)
                case Erase():
                    reach = self._call("erase", ACCOUNT, pending.user_ids)
                case _:
                    raise AssertionError(pending)
        except StoreUnavailable:
            return False
        assert isinstance(reach, int)
        self.truth.reaches(reach)
        self.truth.is_acknowledged()
        return True

    def _something(self) -> Operation:
        kind = self.source.random()
        aliases = aliases_after(self.truth.done)
        if kind < 0.2:
            one, other = self.source.sample(USERS, 2)
            if aliases.now_called(one) == one and aliases.now_called(other) != one:
                return Alias(one, other)
        if kind < 0.35:
            return Erase(tuple(self.source.sample(USERS, 2)))
        return Batch(tuple(self._records()))

    def _records(self) -> Iterator[Record]:
        for _ in range(self.source.choice((1, 30))):
            if self.source.random() < 0.7:
                yield self._event(SENT)
            else:
                user, tier = self.source.choice(USERS), self.source.choice("abc")
                yield UserRecord(
                    user, self.source.choice((SENT, MAPPED)), next(self._numbers), {"tier": tier}
                )

    # --- what is answered -----------------------------------------------------------------------------------

    def _differences(self, *, must_answer: bool = False) -> list[str]:
        is_lacking = any(map(self.rows.lacks, self.outages.running))
        found: list[str] = []
        for name, arguments in (("sizes", (PLAN,)), ("flags", (PLAN, USERS))):
            try:
                self._start()
                with self.slowest.timed("answer"):
                    answer = self._call(name, *arguments)
            except StoreUnavailable:
                self.counts["questions without a gateway"] += 1
                continue
            assert isinstance(answer, Answer)
            found += self._judged(name, answer)
            if answer.value is None:
                self.counts["answers: unavailable"] += 1
                if must_answer:
                    found.append(f"{name} are unavailable at the end")
                continue
            self.counts["answers: right"] += 1
            self.counts["answers: right, while some server that runs lacked rows"] += is_lacking
        return found

    def _judged(self, name: str, answer: Answer) -> list[str]:
        """The answer, when it is that of no state."""
        states = list(self.truth.states(answer))
        if answer.value is None:
            return []
        right = _sizes if name == "sizes" else _flags
        if answer.value in map(right, states):
            return []
        told = [f"{name} as of marks {answer.earliest} to {answer.latest}, pending: {self.truth.pending}"]
        for state in states:
            pairs = zip(range(len(answer.value)), answer.value, right(state), strict=True)
            told += [f"{at}: {found} instead of {wanted}" for at, found, wanted in pairs if found != wanted]
        return told


def run_round(
    servers: Sequence[Sequence[ClickHouseServer]],
    directory: Path,
    source: random.Random,
    counts: Counter[str],
    slowest: Slowest,
) -> list[str]:
    """Plays one round. Returns the differences."""
    shards = [[server.address for server in shard] for shard in servers]
    with databases_on(shards) as databases, their_table(shards) as theirs:
        settings = ClickHouseSettings(
            checkpoint_s=3_600.0,
            maintenance_s=0.2,
            follow_s=3_600.0,
            base_writes_min=source.choice((30, 100_000)),
        )
        url = databases.url(directory)
        one = MappedRound(servers, GatewayProcess(url, MAPPED, settings), theirs, source, counts, slowest)
        return one.run() or _unlike_replicas(url)


def _unlike_replicas(url: str) -> list[str]:
    location = location_of(url.removeprefix("clickhouse:"))
    servers = [[Server(address, location.database) for address in shard] for shard in location.shards]
    try:
        return list(unlike_replicas(servers))
    finally:
        for server in itertools.chain(*servers):
            server.close()
