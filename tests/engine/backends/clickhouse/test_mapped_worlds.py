"""Worlds some of whose events are rows of a table of others: every set of users is the oracle's, the catalog
is that of a store which was sent all events, and what is delivered, folded, is what the oracle finds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest

from engine.backends.base import Backend, Contains, Count, EventLookup, EventRecord, Lookup
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway import follower
from engine.backends.clickhouse.gateway.location import location_of
from engine.backends.clickhouse.server import Address
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.backends.local.backend import LocalBackend
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES
from engine.values import PARTITION_COUNT, TIME_MAX_MICROS
from tests.conformance.site import listed
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.theirs import Theirs, their_table
from tests.oracle.campaign import world_of
from tests.oracle.history import History, histories
from tests.oracle.plans import root_sets
from tests.oracle.trees import Trees
from tests.oracle.world import Alias, Batch, Erase, Expire, Operation, World
from tests.service.delivery import delivered_worlds

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("in_whole_runs_only")]

WORLDS = 3
LIMIT = 1_000
SETTINGS = ClickHouseSettings(checkpoint_s=3_600.0, maintenance_s=0.1, follow_s=3_600.0)


@pytest.fixture
def theirs(shards: list[list[Address]]) -> Iterator[Theirs]:
    with their_table(shards) as made:
        yield made


def is_theirs(record: object, mapped: str) -> bool:
    """Whether a record is a row of the table."""
    return type(record) is EventRecord and record.input == mapped


def without_ids(world: World, mapped: str) -> World:
    """The world without ids of events that are rows: each row counts."""

    def changed(operation: Operation) -> Operation:
        if not isinstance(operation, Batch):
            return operation
        return Batch(
            tuple(
                msgspec.structs.replace(record, event_id="")
                if isinstance(record, EventRecord) and is_theirs(record, mapped)
                else record
                for record in operation.records
            ),
            operation.request_id,
        )

    return msgspec.structs.replace(world, operations=tuple(map(changed, world.operations)))


def apart_in_time(world: World, mapped: str) -> World:
    """The world with no row at the instant of an event that is sent."""
    records = [record for each in world.operations if isinstance(each, Batch) for record in each.records]
    taken = {record.time for record in records if not is_theirs(record, mapped)}

    def moved(time: int) -> int:
        while time in taken:
            time += 1 if time < TIME_MAX_MICROS else -1_000_000
        return time

    def changed(operation: Operation) -> Operation:
        if not isinstance(operation, Batch):
            return operation
        return Batch(
            tuple(
                msgspec.structs.replace(record, time=moved(record.time))
                if is_theirs(record, mapped)
                else record
                for record in operation.records
            ),
            operation.request_id,
        )

    return msgspec.structs.replace(world, operations=tuple(map(changed, world.operations)))


class Feed:
    """Tells operations to a backend: rows come in through their table."""

    def __init__(self, theirs: Theirs, mapped: str, source: random.Random) -> None:
        self._theirs, self._mapped, self._source = theirs, mapped, source
        self._requests: set[str] = set()

    def happen(self, backend: ClickHouseBackend, account: str, operation: Operation) -> None:
        """One operation."""
        if isinstance(operation, Batch):
            self._append(backend, account, operation)
        else:
            _apply(backend, account, operation)

    def _append(self, backend: ClickHouseBackend, account: str, batch: Batch) -> None:
        if batch.request_id in self._requests:
            backend.append(account, (), request_id=batch.request_id)
            return
        self._requests |= {batch.request_id} - {""}
        own = [record for record in batch.records if not is_theirs(record, self._mapped)]
        rows = [
            record
            for record in batch.records
            if isinstance(record, EventRecord) and is_theirs(record, self._mapped)
        ]
        backend.append(account, own, request_id=batch.request_id)
        # Rows of one insert may share a mark where their order does not matter.
        is_one_insert = len({row.time for row in rows}) == len(rows) and self._source.random() < 0.5
        mark = self._theirs.next_mark() if is_one_insert else None
        self._theirs.insert(rows, mark=mark)
        if is_one_insert:
            self._theirs.next_mark()
        backend.follow()


def ordered(users: dict[str, History], mapped: str) -> dict[str, History]:
    """The users with their events in the order of arrival that rows have: after all that were sent."""
    for user in users.values():
        user.events.sort(key=lambda event: is_theirs(event, mapped))
    return users


def wrong_sets(
    backend: ClickHouseBackend, plan: Plan, expected: Sequence[frozenset[str]], users: Sequence[str]
) -> Iterator[str]:
    """Where the answers about a plan differ from the sets of its roots."""
    sizes = [len(each) for each in expected]
    if list(backend.execute(plan, Count()).sizes) != sizes:
        yield f"sizes {backend.execute(plan, Count()).sizes} instead of {sizes}"
    half = range(0, PARTITION_COUNT, 2), range(1, PARTITION_COUNT, 2)
    halves = [backend.execute(plan, Count(), partitions=some).sizes for some in half]
    if [sum(each) for each in zip(*halves, strict=True)] != sizes:
        yield f"the sizes of two halves {halves} do not add up to {sizes}"
    flags = backend.execute(plan, Contains(tuple(users))).flags
    for at, wanted in enumerate(expected):
        found = {user for user, each in zip(users, flags, strict=True) if each[at]}
        if found != wanted:
            yield f"{plan.steps[plan.roots[at]]}: {sorted(found)} instead of {sorted(wanted)}"
    one = msgspec.structs.replace(plan, roots=plan.roots[:1])
    if set(listed(cast(Backend, backend), one)) != expected[0]:
        yield f"members of {plan.steps[plan.roots[0]]}"


def catalog(backend: ClickHouseBackend | LocalBackend, world: World) -> list[object]:
    """What is known of the events of a world."""
    account = world.account
    names = backend.event_names(account, limit=LIMIT)
    found: list[object] = [names]
    lookups: list[Lookup] = []
    for name in sorted({each.name for each in names}):
        attributes = backend.event_attributes(account, name, limit=LIMIT)
        found.append(attributes)
        for attribute in attributes:
            values = backend.event_attribute_values(account, name, attribute.key, limit=LIMIT)
            found.append(values)
            lookups.append(EventLookup(inputs=world.inputs, name=name, type=None, key=attribute.key))
        lookups += [EventLookup(inputs=(each,), name=name, type=None, key="") for each in world.inputs]
    return [*found, backend.look_up(account, lookups)]


def test_every_answer_is_that_of_events_that_were_sent(
    tmp_path: Path, shards: list[list[Address]], theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(2**32)
    embedded = LocalBackend.open(tmp_path / "embedded")
    with databases_on(shards) as databases:
        location = location_of(databases.url(tmp_path / "gateway").removeprefix("clickhouse:"))

        def opened() -> ClickHouseBackend:
            return ClickHouseBackend.open(location, settings=SETTINGS)

        backend = opened()
        for number in range(WORLDS):
            source = random.Random(f"{seed} {number}")
            # Pieces of a few rows, and of a part of an insert.
            monkeypatch.setattr(follower, "ROWS_AT_ONCE", source.choice((1, 3, 20_000)))
            world = world_of(seed, number)
            mapped = source.choice(world.inputs)
            world = without_ids(world, mapped)
            theirs.run("TRUNCATE TABLE rows")
            backend.map_events(mapped, theirs.table, 0.0)
            feed = Feed(theirs, mapped, source)
            for operation in world.operations:
                feed.happen(backend, world.account, operation)
                _apply(embedded, world.account, operation)
                if source.random() < 0.1:
                    # The log since the last checkpoint is replayed.
                    monkeypatch.setattr(backend, "_checkpoint", lambda: 0)
                    backend.close()
                    backend = opened()
                if source.random() < 0.1:
                    backend.checkpoint()
            again = f"seed {seed}, world {number}"
            assert catalog(backend, world) == catalog(embedded, world), again
            users = ordered(histories(world), mapped)
            trees = Trees(world)
            if trees.milestones:
                plan = trees.plan(passes=ALL_PASSES if source.random() < 0.5 else ())
                plan = msgspec.structs.replace(plan, roots=(*plan.roots, *range(len(plan.steps))))
                expected = root_sets(plan, users)
                assert list(wrong_sets(backend, plan, expected, [*users, "nobody"])) == [], again
            backend.unmap_events(mapped)
        backend.close()
    embedded.close()


def _apply(backend: LocalBackend | ClickHouseBackend, account: str, operation: Operation) -> None:
    match operation:
        case Batch():
            backend.append(account, operation.records, request_id=operation.request_id)
        case Alias():
            backend.alias(account, operation.from_user_id, operation.to_user_id)
        case Erase():
            backend.erase(account, operation.user_ids)
        case Expire():
            backend.remove_events(account, operation.before)
        case _:
            raise AssertionError(f"{operation} is in no drawn world")


# --- activated audiences ------------------------------------------------------------------------------------


class MappedLaboratory(delivered_worlds.Laboratory):
    """An engine whose operations go through a feed."""

    feed: Feed

    def apply(self, account: str, operation: Operation, *, by_column: bool = False) -> None:
        backend = self.engine.backend
        assert isinstance(backend, ClickHouseBackend)
        self.feed.happen(backend, account, operation)


class MappedWorld(delivered_worlds.World):
    """A world one of whose inputs is a table."""

    def __init__(self, laboratory: MappedLaboratory, seed: str, theirs: Theirs) -> None:
        super().__init__(laboratory, seed)
        self.mapped = self.source.choice(self.whole.inputs)
        self.whole = apart_in_time(without_ids(self.whole, self.mapped), self.mapped)
        backend = laboratory.engine.backend
        assert isinstance(backend, ClickHouseBackend)
        backend.map_events(self.mapped, theirs.table, 0.0)
        laboratory.feed = Feed(theirs, self.mapped, self.source)


def test_files_folded_are_the_members_with_rows_of_a_table(
    tmp_path: Path, shards: list[list[Address]], theirs: Theirs
) -> None:
    seed = random.randrange(2**32)
    with databases_on(shards) as databases:
        laboratory = MappedLaboratory(tmp_path, databases.url)
        try:
            world = MappedWorld(laboratory, f"{seed} 0", theirs)
            assert world.run() == [], f"seed {seed}"
        finally:
            laboratory.close()
