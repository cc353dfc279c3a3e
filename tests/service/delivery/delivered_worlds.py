"""Compares what connections wrote to files with the oracle, over random worlds with edits of their journeys.

    python -m tests.service.delivery.delivered_worlds --worlds 2000 --seed 7
    python -m tests.service.delivery.delivered_worlds --seed 7 --first 123 --worlds 1     # one of them again
    python -m tests.service.delivery.delivered_worlds --shards 2 --replicas 2     # over a ClickHouse cluster

After each round the files of every connection, folded, are the oracle's members. No file has an entry of a
member or an exit of somebody else. Each edit is previewed, and what its preview counts is what the files get.
Connections are deactivated at any point of their delivery, activated again or left: then nobody is a member.
Stops at the first difference and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine import Engine
from engine.backends.base import OptedIn, UserRecord
from engine.backends.registry import open_backend
from engine.criteria.model import AllOf, Criterion, Not
from engine.errors import FailedPrecondition, InvalidInput, NotFound
from engine.resources.milestone_tree import with_audiences_renamed
from engine.resources.milestones import Edited
from engine.resources.records import Connection, Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR
from service.delivery.delivering import Delivering, Terms
from service.delivery.opted_in import opted_in
from service.delivery.refused import RefusedEvents
from service.delivery.retry import RetryPolicy
from service.delivery.sinks.file import FileSink
from service.delivery.sinks.sink import Surroundings
from tests.engine.audiences.running import Running
from tests.engine.backends.clickhouse.databases import databases_on
from tests.engine.backends.clickhouse.servers import started
from tests.engine.site import Clock
from tests.oracle import world as drawn
from tests.oracle.evaluate import Oracle
from tests.oracle.generate import draw_world
from tests.oracle.palette import Chooser, draw_palette

STEPS = (0, 7, MICROS_PER_HOUR, 3 * MICROS_PER_DAY)
"""How far the clock moves between two operations."""
WORLDS_PER_STORE = 50
RECORDS_MAX = 40
STEPS_MAX = 1_000
SEED_BITS = 32


class Laboratory(Running):
    """An engine whose clock moves only when told, and a directory for files. `url` names the store in a
    directory.
    """

    def __init__(self, directory: Path, url: Callable[[Path], str]) -> None:
        self.clock = Clock()
        self.files = directory / "files"
        super().__init__(Engine(open_backend(url(directory / "store")), clock=self.clock))

    def close(self) -> None:
        self.engine.close()


ASIDE_S = 1.0
"""Longer than accounts rest that are refreshed aside."""


class Consumer:
    """One connection of a milestone, its file, and what a reader of the file knows."""

    def __init__(
        self, laboratory: Laboratory, milestone: Milestone, connection_id: str, opted_in: OptedIn
    ) -> None:
        engine, account = laboratory.engine, milestone.name.partition("/journeys/")[0]
        # What happens while the members at activation are being sent is repeated after them.
        engine.live.refresh_all()
        record = Connection(
            name="",
            audience=milestone.audience,
            output=f"{account}/outputs/out",
            batch_age=1,
            batch_changes=2,
            attributes=opted_in.attributes,
            identities=opted_in.identities,
            exits_on_deactivation=True,
        )
        created = engine.connections.create_connection(account, connection_id, record)
        self.connection = engine.connections.activate(created.name)
        self.name = self.connection.name
        engine.live.refresh_all()
        self._engine = engine
        surroundings = Surroundings(laboratory.files)
        self._terms = Terms(
            engine,
            lambda delivery: FileSink.open(delivery, surroundings),
            RetryPolicy(),
            60.0,
            RefusedEvents(None, 0),
        )
        self._open()
        self._file = laboratory.files / account.rpartition("/")[2] / "out" / f"{connection_id}.ndjson"
        self._read = 0
        self.members: set[str] = set()
        self._collecting: set[str] | None = None
        """The members of a snapshot that is not complete."""
        self.values: dict[str, object] = {}
        self.events = 0
        self.updates = 0
        self.faults: list[str] = []
        self.catch_up()

    def _open(self) -> None:
        active = self._engine.deliveries.active()
        [found] = [each for each in active if each.connection.name == self.name]
        self._delivering = Delivering(self._terms, found)

    def activate(self, steps: int) -> None:
        """Activates the connection again, and delivers some batches of the snapshot."""
        self.connection = self._engine.connections.activate(self.name)
        self._open()
        self._step(steps)

    def deactivate(self, steps: int) -> None:
        """Delivers some batches, deactivates the connection, and delivers some batches of what follows."""
        self._step(steps)
        self.connection = self._engine.connections.deactivate(self.name)
        if self.connection.exiting:
            self._open()
            self._step(steps)

    def _step(self, steps: int) -> None:
        for _ in range(steps):
            self._delivering.step()
        self._delivering.close_sink()

    def catch_up(self) -> tuple[int, int]:
        """Delivers everything, reads the file, and returns how many entered and exited."""
        for _ in range(STEPS_MAX):
            if not self._has_more():
                break
            self._delivering.step()
        else:
            self.faults.append("delivery does not end")
        self._delivering.close_sink()
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        fresh, self._read = lines[self._read :], len(lines)
        counts = {True: 0, False: 0}
        for line in fresh:
            event = json.loads(line)
            kind = event["type"].removeprefix("milepost.membership.")
            user = event.get("subject", "")
            if event["type"] == "milepost.snapshot.begin":
                self._collecting = set()
            elif event["type"] == "milepost.snapshot.end" and self._collecting is not None:
                self.members, self._collecting = self._collecting, None
            members = self.members if self._collecting is None else self._collecting
            if kind in ("entered", "updated"):
                self.values[user] = _values(event["data"])
            if kind == "updated" and user not in members:
                self.faults.append(f"{user!r} updated, who is no member, {event['id']}")
            self.updates += kind == "updated"
            if kind not in ("entered", "exited"):
                continue
            entered = kind == "entered"
            counts[entered] += 1
            self.events += 1
            if entered is (user in members):
                self.faults.append(f"{user!r} {kind} twice in a row, {event['id']}")
            (members.add if entered else members.discard)(user)
        return counts[True], counts[False]

    def check_values(self) -> None:
        """What was sent of the members last is what the store has."""
        account = self.name.partition("/connections/")[0]
        for user in self.members:
            sent = opted_in(self.connection, user, lambda each: self._engine.backend.profile(account, each))
            expected = _values(json.loads(b"{" + sent[1:] + b"}"))
            if self.values[user] != expected:
                self.faults.append(f"{user!r} has {expected}, and {self.values[user]} was sent")

    def _has_more(self) -> bool:
        try:
            connection = self._engine.connections.get_connection(self.name)
        except NotFound:
            return False
        if not connection.delivers:
            return False
        batch = self._engine.deliveries.pull(connection, 1)
        return bool(batch.changes) or not batch.caught_up


def _values(data: Mapping[str, object]) -> object:
    """The values of a user in an event."""
    return [data.get(name) for name in ("attributes", "identities")]


class World:
    """A random world while it runs: what was applied so far, its journeys as edited, its consumers."""

    def __init__(self, laboratory: Laboratory, seed: str) -> None:
        self.source = random.Random(seed)
        self.laboratory = laboratory
        choose = Chooser(self.source.randrange)
        palette = draw_palette(choose, drawn.fresh_account())
        self.whole = draw_world(choose, palette, records_max=RECORDS_MAX)
        self.now = msgspec.structs.replace(self.whole, operations=())
        laboratory.clock.now = self.whole.as_of - 20 * MICROS_PER_DAY
        self.built = laboratory.build(self.whole)
        self.consumers: dict[str, Consumer] = {}
        self.gone: list[Consumer] = []
        self.faults: list[str] = []
        self.edits = 0
        self.moving = 0
        self.left = 0

    def run(self) -> list[str]:
        """Every difference."""
        for operation in map(self._now_possible, self.whole.operations):
            for _ in range(self.source.randrange(4)):
                self._connect()
            self.laboratory.apply(self.whole.account, operation)
            self.now = msgspec.structs.replace(self.now, operations=(*self.now.operations, operation))
            clock = self.laboratory.clock
            clock.now = min(self.whole.as_of, clock.now + self.source.choice(STEPS))
            if self.source.random() < 0.3:
                self._leave()
            if self.source.random() < 0.5:
                self._compare()
            self._edit()
        self._compare()
        return self.faults

    def _now_possible(self, operation: drawn.Operation) -> drawn.Operation:
        """The clock is behind that of the drawn world, and nothing is removed that a plan still counts."""
        if not isinstance(operation, drawn.Expire):
            return operation
        retention = self.whole.event_retention
        return drawn.Expire(min(operation.before, self.laboratory.clock.now - retention))

    def _connect(self) -> None:
        free = [each for each in self.built if each not in self.consumers]
        if free:
            chosen = self.source.choice(free)
            name = f"c{len(self.consumers) + len(self.gone)}"
            values = OptedIn() if self.source.random() < 0.3 else self._values()
            self.consumers[chosen] = Consumer(self.laboratory, self.built[chosen], name, values)

    def _leave(self) -> None:
        """Deactivates a connection while changes wait, perhaps activates it in the middle of its exits, and
        deactivates it again in the middle of the snapshot. It is read to its end with those of deleted ones.
        """
        if not self.consumers:
            return
        if self.source.random() < 0.7:
            self._refresh()
        milestone_id = self.source.choice(sorted(self.consumers))
        consumer = self.consumers.pop(milestone_id)
        self.left += 1
        consumer.deactivate(self.source.randrange(3))
        self._refresh()
        while self.source.random() < 0.4:
            consumer.activate(0)
            self._refresh()
            consumer.deactivate(self.source.randrange(4))
            self._refresh()
        self.gone.append(consumer)

    def _refresh(self) -> None:
        """One round; now and then accounts have no time in it, and are refreshed aside."""
        live = self.laboratory.engine.live
        if self.source.random() < 0.7:
            live.refresh_all()
            return
        live.refresh_timely(0.0)
        for _ in range(len(live._aside)):
            live.refresh_aside(ASIDE_S)

    def _values(self) -> OptedIn:
        """Half of the attributes and types of identity that users have, at most 100."""
        attributes, identities = set[str](), set[str]()
        for operation in self.whole.operations:
            for record in operation.records if isinstance(operation, drawn.Batch) else ():
                if isinstance(record, UserRecord):
                    attributes.update(record.attributes)
                    identities.update(record.identities)
        half = [sorted(each)[: len(each) // 2 + 1] for each in (attributes, identities)]
        return OptedIn(tuple(half[0]), tuple(half[1]))

    def _compare(self) -> dict[str, tuple[int, int]]:
        """Runs a round, delivers, and compares. Returns what each consumer got, by milestone id."""
        self._refresh()
        at = self.laboratory.clock.now
        expected = Oracle(msgspec.structs.replace(self.now, as_of=at)).all_members()
        got = {}
        for milestone_id, consumer in self.consumers.items():
            got[milestone_id] = consumer.catch_up()
            consumer.check_values()
            wrong = consumer.members ^ expected[milestone_id]
            if wrong:
                self.faults.append(f"{milestone_id}: folded otherwise for {sorted(wrong)}")
        for consumer in self.gone:
            consumer.catch_up()
            if consumer.members:
                self.faults.append(f"deleted or left, and still members: {sorted(consumer.members)}")
        for consumer in (*self.consumers.values(), *self.gone):
            self.faults += consumer.faults
            consumer.faults.clear()
        return got

    # --- edits ----------------------------------------------------------------------------------------------

    def _edit(self) -> None:
        if not self.built:
            return
        self._compare()
        milestone_id = self.source.choice(sorted(self.built))
        edit = self.source.choice((self._move, self._delete, self._rewrite))
        edit(milestone_id)

    def _move(self, milestone_id: str) -> None:
        milestones, name = self.laboratory.engine.milestones, self.built[milestone_id].name
        position = self.source.randrange(4)

        def moved(split: list[drawn.Milestone]) -> list[drawn.Milestone]:
            (each,) = [m for m in split if m.id == milestone_id]
            others = [m for m in split if m.id != milestone_id]
            room = sum(m.criteria is not None for m in others)
            others.insert(min(position, room), each)
            return others

        self._make(
            milestone_id,
            lambda: milestones.moved(name, position),
            lambda: milestones.move_milestone(name, position),
            moved,
        )

    def _delete(self, milestone_id: str) -> None:
        milestones, name = self.laboratory.engine.milestones, self.built[milestone_id].name
        self._make(
            milestone_id,
            lambda: milestones.deleted(name),
            lambda: milestones.delete_milestone(name),
            lambda split: [m for m in split if m.id != milestone_id],
        )

    def _rewrite(self, milestone_id: str) -> None:
        milestones, name = self.laboratory.engine.milestones, self.built[milestone_id].name
        others = [m.criteria for j in self.now.journeys for m in drawn.walk(j.milestones) if m.criteria]
        criteria: Criterion = self.source.choice([*others, AllOf(criteria=())])
        if self.source.random() < 0.5:
            criteria = Not(criterion=criteria)
        names = {self.whole.audience_name(each): found.audience for each, found in self.built.items()}
        record = Milestone(name=name, audience="", criteria=with_audiences_renamed(criteria, names))

        def rewritten(split: list[drawn.Milestone]) -> list[drawn.Milestone]:
            return [
                msgspec.structs.replace(m, criteria=criteria) if m.id == milestone_id else m for m in split
            ]

        self._make(
            milestone_id,
            lambda: milestones.updated(record, {"criteria"}),
            lambda: milestones.update_milestone(record, {"criteria"}),
            rewritten,
        )

    def _make(
        self,
        milestone_id: str,
        preview: Callable[[], Edited],
        make: Callable[[], object],
        change: Callable[[list[drawn.Milestone]], list[drawn.Milestone]],
    ) -> None:
        engine = self.laboratory.engine
        try:
            edited = preview()
        except (FailedPrecondition, InvalidInput):
            # As the edit would be: it has children, closes a cycle, names an input of another journey.
            return
        before = {each.milestone: each for each in engine.edit_previews.preview(edited).audiences}
        make()
        self.edits += 1
        journeys = tuple(
            msgspec.structs.replace(each, milestones=_changed(each.milestones, milestone_id, change))
            for each in self.now.journeys
        )
        self.now = msgspec.structs.replace(self.now, journeys=journeys)
        names = {each: found.name for each, found in self.built.items()}
        if edited.deleted:
            del self.built[milestone_id]
            if milestone_id in self.consumers:
                self.gone.append(self.consumers.pop(milestone_id))
        got = self._compare()
        self.moving += any(counts != (0, 0) for counts in got.values())
        for each, (entered, exited) in got.items():
            previewed = before.get(names[each])
            counted = (0, 0) if previewed is None else (previewed.entering, previewed.leaving)
            if counted != (entered, exited):
                self.faults.append(f"{each}: previewed {counted}, delivered {(entered, exited)}")


def _changed(
    split: tuple[drawn.Milestone, ...],
    milestone_id: str,
    change: Callable[[list[drawn.Milestone]], list[drawn.Milestone]],
) -> tuple[drawn.Milestone, ...]:
    """The tree with the split that has the milestone changed."""
    if any(each.id == milestone_id for each in split):
        return tuple(change(list(split)))
    return tuple(
        msgspec.structs.replace(each, children=_changed(each.children, milestone_id, change))
        for each in split
    )


@dataclass
class Outcome:
    """The first difference, or "", and how much was tried. `moving` edits moved users of activated
    audiences.
    """

    difference: str = ""
    events: int = 0
    edits: int = 0
    moving: int = 0
    updates: int = 0
    left: int = 0


def embedded(directory: Path) -> str:
    """The URL of the embedded store in a directory."""
    return f"local:{directory}"


def run_worlds(
    seed: int, first: int, count: int, directory: Path, url: Callable[[Path], str] = embedded
) -> Outcome:
    """Runs worlds of a seed, up to the first difference."""
    outcome = Outcome()
    for start in range(first, first + count, WORLDS_PER_STORE):
        laboratory = Laboratory(directory / str(start), url)
        try:
            for number in range(start, min(start + WORLDS_PER_STORE, first + count)):
                world = World(laboratory, f"{seed} {number}")
                found = world.run()
                outcome.edits += world.edits
                outcome.moving += world.moving
                outcome.left += world.left
                outcome.updates += sum(each.updates for each in (*world.consumers.values(), *world.gone))
                outcome.events += sum(each.events for each in (*world.consumers.values(), *world.gone))
                if found:
                    outcome.difference = f"world {number} of seed {seed}: {found[0]}"
                    return outcome
        finally:
            laboratory.close()
    return outcome


def _run_over(asked: argparse.Namespace, directory: Path) -> Outcome:
    if not asked.shards:
        return run_worlds(asked.seed, asked.first, asked.worlds, directory)
    with (
        started(directory / "servers", asked.shards, asked.replicas) as servers,
        databases_on([[server.address for server in shard] for shard in servers]) as databases,
    ):
        return run_worlds(asked.seed, asked.first, asked.worlds, directory, databases.url)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(SEED_BITS))
    parser.add_argument("--shards", type=int, default=0, help="shards of ClickHouse; 0 = the embedded store")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of each (default %(default)s)")
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="delivered-") as directory:
        outcome = _run_over(asked, Path(directory))
    print(f"{asked.worlds} worlds: {outcome}")
    sys.exit(1 if outcome.difference else 0)


if __name__ == "__main__":
    main()
