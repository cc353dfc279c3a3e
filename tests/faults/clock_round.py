"""One round of the clock campaign: a random world under a clock that jumps."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from engine import Engine
from engine.audiences.live import STORED_AGE_MICROS_MAX
from engine.audiences.model import MemberPage, MembershipStatus, SavedTarget
from engine.backends.base import Change, EventRecord, NameSpan
from engine.backends.local.backend import LocalBackend
from engine.clock import RESTART_GAP_MICROS, Clock, ClockState
from engine.criteria.model import Criterion, EventType, Not
from engine.resources.records import Milestone
from engine.retention import PAST_QUESTIONS_MICROS
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros
from tests.engine.audiences.running import Running
from tests.engine.machine import Machine
from tests.engine.site import did, statuses_of
from tests.oracle import world as drawn
from tests.oracle.evaluate import Oracle
from tests.oracle.generate import draw_world
from tests.oracle.palette import Chooser, draw_palette
from tests.stores import settle

SECOND, HOUR, DAY = MICROS_PER_SECOND, MICROS_PER_HOUR, MICROS_PER_DAY
JUMPS = (120 * SECOND, HOUR, 5 * HOUR, DAY, 9 * DAY, 60 * DAY, 400 * DAY, 4_000 * DAY)
WRONG_FOR = (4 * SECOND, 70 * SECOND, HOUR, 7 * HOUR)
"""Shorter than a day in sum: a clock that is wrong for longer is believed, as it says."""
STEPS = (7, SECOND, HOUR, 11 * HOUR, 2 * DAY)
DOWN = (SECOND, HOUR // 2, 5 * HOUR, 3 * DAY)
RETENTIONS = (2 * DAY, 5 * DAY, 20 * DAY)
RECORDS_MAX = 40
STEPS_MIN = 10
SENTINEL = "sentinel"

WINDOWS: dict[str, Criterion] = {
    "lately": did(SENTINEL, days=1),
    "in-ten-days": did(SENTINEL, days=10),
    "not-lately": Not(criterion=did(SENTINEL, days=2)),
}
"""Besides the random ones: audiences that are always activated, and that any jump changes."""

MembersOf: TypeAlias = Mapping[str, Set[str]]
"""The users in each milestone."""

WINDOWED = tuple(
    drawn.Journey(id=name, milestones=(drawn.Milestone(id=name, criteria=criterion),))
    for name, criterion in WINDOWS.items()
)


class ClockFault(AssertionError):
    """A violated expectation."""


class _Checked(NamedTuple):
    """What checks say: the milestones of each user. The answers about a user hold for one instant: `stored`,
    that of the memberships, or, where these leave something open, `now`.
    """

    milestones: dict[str, set[str]]
    stored: Micros
    now: Micros

    def compare(self, members: Mapping[Micros, MembersOf], source: str) -> None:
        """Raises ClockFault for a user of whom a source says something else at each of the instants."""
        for user, found in self.milestones.items():
            said = {
                instant: {milestone for milestone, users in members[instant].items() if user in users}
                for instant in (self.stored, self.now)
            }
            if found not in said.values():
                raise ClockFault(f"checks say that {user} is in {found}, {source} by instant: {said}")


class ClockRound:
    """A store, a machine whose clock is wrong now and then, and a world that happens meanwhile."""

    def __init__(
        self,
        directory: Path,
        seed: str,
        *,
        records: int = RECORDS_MAX,
        passes: Sequence[Micros] = STEPS,
    ) -> None:
        """`passes`: how much time may pass with each step."""
        self._source = random.Random(seed)
        self._passes = passes
        choose = Chooser(self._source.randrange)
        world = draw_world(choose, draw_palette(choose, drawn.fresh_account()), records_max=records)
        if not world.event_retention and self._source.random() < 0.7:
            retention = self._source.choice(RETENTIONS)
            world = msgspec.structs.replace(world, event_retention=retention)
        operations, journeys = tuple(_plain(world.operations)), (*world.journeys, *WINDOWED)
        self._world = msgspec.structs.replace(world, operations=operations, journeys=journeys)
        self.machine = Machine(self._start(world.as_of - 20 * DAY))
        self._directory = directory
        self._happened: list[drawn.Operation] = []
        self._sentinels: list[tuple[Micros, EventRecord]] = []
        self._folded: dict[str, set[str]] = {}
        self._cursors: dict[str, int] = {}
        self._lines = _Lines()
        self._refreshed: Micros = 0
        self._lag: Micros = 0
        """Downtime before starts under a wrong clock: unknown to the service until it believes the clock."""
        self._started_ahead = False
        self._believed: Micros = 0
        self.steps = 0
        self.jumps = 0
        self.removals = 0

    def _start(self, instant: Micros) -> Micros:
        """The instant, or shortly before its midnight, where retention works in whole days."""
        return instant if self._source.random() < 0.7 else instant // DAY * DAY + DAY - HOUR // 2

    def play(self) -> None:
        """The whole round. Raises ClockFault."""
        with self._lines.read():
            self._open()
            self._running = Running(self._engine)
            self._built = self._running.build(self._world)
            self._activate()
            for operation in self._world.operations:
                self._happen(operation)
                self._step()
            while self.steps < STEPS_MIN:
                self._step()
            self._right_for_days()
            self._engine.close()

    # --- operations -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self.clock = Clock(self.machine.wall, self.machine.monotonic)
        backend = LocalBackend.open(self._directory, clock=self.clock.stamp)
        self._engine = Engine(backend, clock=self.clock)
        self._watch_removals(backend)

    def _watch_removals(self, backend: LocalBackend) -> None:
        remove = backend.remove_events

        def removing(account: str, before: Micros, names: NameSpan | None = None) -> int:
            revision = backend.revision()
            after = remove(account, before, names)
            self.removals += after != revision
            allowed = self._right_removal()
            if after != revision and before > allowed:
                raise ClockFault(
                    f"events before {before} were removed; a right clock removes before {allowed}"
                )
            return after

        backend.remove_events = removing  # type: ignore[method-assign]

    def _right_removal(self) -> Micros:
        """Before which instant events are removed at most."""
        return (self._latest_believed() - self._world.event_retention - PAST_QUESTIONS_MICROS) // DAY * DAY

    def _latest_believed(self) -> Micros:
        """The latest time that removals may have used: that of a right clock, unless a start believed one
        that was ahead by less than a deployment takes. What was removed by then does not come back.
        """
        real, settled = self.machine.real, self.clock.settled()
        is_believed = self._started_ahead and settled <= real + RESTART_GAP_MICROS
        self._believed = max(self._believed, real, settled if is_believed else real)
        return self._believed

    def _activate(self) -> None:
        for milestone_id, milestone in self._built.items():
            if milestone_id in WINDOWS or self._source.random() < 0.6:
                self._running.switch(milestone)
                self._folded[milestone.audience], self._cursors[milestone.audience] = set(), 0

    def _happen(self, operation: drawn.Operation) -> None:
        self._running.apply(self._world.account, operation)
        self._happened.append(operation)
        self._send_sentinel()

    def _send_sentinel(self) -> None:
        """An event with an id, in a batch with a request id, that happened a while ago at most."""
        time = self.machine.real - self._source.choice((0, HOUR, DAY, 3 * DAY))
        number = len(self._sentinels)
        record = EventRecord(
            f"sentinel-{number % 5}",
            self._world.inputs[number % len(self._world.inputs)],
            SENTINEL,
            EventType.CUSTOM,
            time,
            {},
            event_id=f"sentinel-{number}",
        )
        batch = drawn.Batch((record,), f"request-{number}")
        self._running.apply(self._world.account, batch)
        self._happened.append(batch)
        self._sentinels.append((self.machine.real - self._behind(), record))

    def _behind(self) -> Micros:
        """How much earlier than it is the service may take an arrival to be."""
        if self.clock.settled() >= self.machine.real:
            self._lag = 0
        return self._lag

    def _step(self) -> None:
        """Time passes; the clock may be wrong for a while, and the service may restart."""
        self.steps += 1
        self._pass(self._source.choice(self._passes))
        match self._source.randrange(6):
            case 0 | 1 | 2:
                self._wrong_for_a_while()
            case 3:
                self._restart(self._source.choice((0, 0, self._jump())))
            case 4:
                settle(self._engine.backend)
        self._look()

    def _jump(self) -> Micros:
        return self._source.choice(JUMPS) * self._source.choice((1, -1))

    def _wrong_for_a_while(self) -> None:
        self._set_wrong(self._jump())
        self._send_sentinel()
        self._pass(self._source.choice(WRONG_FOR))
        if self._source.random() < 0.3:
            # From one wrong time to another.
            self._set_wrong(self._jump())
            self._pass(self._source.choice(WRONG_FOR))
        self._send_sentinel()
        if self._source.random() < 0.2:
            self._restart(self.machine.wrong, down=SECOND, ends=False)
        self._set_wrong(0)
        if self._source.random() < 0.2 and self.clock.status().state is not ClockState.SETTLED:
            self.clock.confirm(self.machine.real)

    def _set_wrong(self, wrong: Micros) -> None:
        lines, jump = self._lines.count, wrong - self.machine.wrong
        self.machine.jump(jump)
        self.clock.now()
        self.jumps += 1
        if abs(jump) > 10 * SECOND and self._lines.count == lines:
            raise ClockFault(f"a jump by {jump} µs left no line in the log")

    def _restart(self, wrong: Micros, *, down: Micros | None = None, ends: bool = True) -> None:
        """The service restarts, perhaps with a different clock."""
        behind = self._behind()
        self._engine.close()
        down = self._source.choice(DOWN) if down is None else down
        self.machine.restart(down)
        self.machine.wrong = wrong
        self._lag = behind + down if wrong or behind else 0
        self._started_ahead |= wrong > 0
        self._open()
        self._running.engine = self._engine
        self._work()
        if wrong and ends:
            self._pass(self._source.choice(WRONG_FOR))
            self._set_wrong(0)

    def _pass(self, micros: Micros) -> None:
        """Time passes, while the service reads its clock and works."""
        for part in (min(micros, 61 * SECOND), max(0, micros - 61 * SECOND)):
            self.machine.pass_time(part)
            self._work()

    def _work(self) -> None:
        self.clock.keep()
        if abs(self.clock.now() - self._refreshed) > STORED_AGE_MICROS_MAX:
            self._agree(folded=False)
        self._refresh()
        self._engine.retention.run()
        self._fold_changes()
        self._agree()
        if self._source.random() < 0.3:
            settle(self._engine.backend)
        self._check_sentinels()
        self._check_duplicates()

    # --- expectations ---------------------------------------------------------------------------------------

    def _look(self) -> None:
        """While the clock is right, answers are right."""
        if not self.machine.wrong and self.clock.now() == self.machine.real:
            self._refresh()
            self._fold_changes()
            self._check_answers()

    def _refresh(self) -> None:
        self._engine.live.refresh_all()
        self._refreshed = self.clock.now()

    def _check_sentinels(self) -> None:
        """Whatever the clock shows, no event is removed that a right one would keep."""
        oldest = self._right_removal() if self._world.event_retention else None
        due = sum(oldest is None or record.time >= oldest for _, record in self._sentinels)
        facts = self._engine.backend.event_names(self._world.account, prefix=SENTINEL, limit=100)
        kept = sum(fact.events for fact in facts)
        if kept < due:
            raise ClockFault(f"{due} events are to be kept, {kept} are left")

    def _check_duplicates(self) -> None:
        """Nor does an event id or a request id expire."""
        believed = self._latest_believed()
        if not self._sentinels:
            return
        number = self._source.randrange(len(self._sentinels))
        arrived, record = self._sentinels[number]
        account = self._world.account
        if arrived > believed - DAY:
            again = self._engine.backend.append(account, [record], request_id=f"request-{number}")
            if not again.repeated:
                raise ClockFault(f"request-{number} was forgotten")
        retention = self._world.event_retention
        is_too_old = retention and record.time < self.machine.real - retention
        if is_too_old or arrived < believed - 30 * DAY:
            return
        answer = self._engine.backend.append(account, [record])
        if answer.duplicates != 1:
            raise ClockFault(f"event id {record.event_id} was forgotten")

    def _oracle(self, instant: Micros) -> Oracle:
        operations = tuple(self._happened)
        return Oracle(msgspec.structs.replace(self._world, operations=operations), instant)

    def _instant(self, milestone: Milestone) -> Micros:
        """The instant that changes of a milestone lead to. Stored memberships follow time second by second,
        each journey for itself, and some worlds have a retention or windows of microseconds.
        """
        current = self._engine.live.current(milestone.audience)
        return self.clock.now() if current is None else current.as_of

    def _check_answers(self) -> None:
        oracle = self._oracle(self.machine.real)
        expected: dict[Micros, MembersOf] = {self.machine.real: oracle.all_members()}
        checked = self._checked(sorted({*oracle.users, "nobody"}))
        instants = {milestone_id: self._instant(milestone) for milestone_id, milestone in self._built.items()}
        for instant in {checked.stored, checked.now, *instants.values()} - expected.keys():
            expected[instant] = self._oracle(instant).all_members()
        checked.compare(expected, "the oracle")
        for milestone_id, milestone in self._built.items():
            counted = self._engine.sizes.count(milestone.name).users
            estimated = self._engine.sizes.estimate(SavedTarget(milestone.name)).size.users
            size = len(expected[self.machine.real][milestone_id])
            if (counted, estimated) != (size, size):
                raise ClockFault(f"{milestone_id}: {counted} and {estimated}, the oracle {size}")
            folded, wanted = (
                self._folded.get(milestone.audience),
                expected[instants[milestone_id]][milestone_id],
            )
            if folded is not None and folded != set(wanted):
                raise ClockFault(f"changes of {milestone_id} fold to {folded}, the oracle {wanted}")

    def _agree(self, *, folded: bool = True) -> None:
        """Also under a wrong clock, checks and lists say the same, and after a refresh folded changes."""
        instants = {milestone_id: self._instant(milestone) for milestone_id, milestone in self._built.items()}
        listed = {instant: self._listed(instant) for instant in {self.clock.now(), *instants.values()}}
        users = {user for members in listed.values() for some in members.values() for user in some}
        self._checked(sorted({"nobody", *users})).compare(listed, "lists")
        for milestone_id, milestone in self._built.items():
            folds, members = (
                self._folded.get(milestone.audience),
                listed[instants[milestone_id]][milestone_id],
            )
            if folded and folds is not None and folds != members:
                raise ClockFault(f"changes of {milestone_id} fold to {folds}, lists say {members}")

    def _listed(self, instant: Micros) -> MembersOf:
        return {
            milestone_id: {u for page in self._pages(milestone, instant) for u in page.user_ids}
            for milestone_id, milestone in self._built.items()
        }

    def _pages(self, milestone: Milestone, instant: Micros) -> Iterator[MemberPage]:
        return self._engine.members.export(milestone.name, as_of=instant)

    def _checked(self, user_ids: list[str]) -> _Checked:
        audiences = [milestone.audience for milestone in self._built.values()]
        answer = self._engine.members.batch_check(self._world.account, user_ids, audiences)
        milestones = {
            user_id: {
                milestone_id
                for milestone_id, status in zip(self._built, statuses, strict=True)
                if status is MembershipStatus.MEMBER
            }
            for user_id, statuses in statuses_of(answer)
        }
        return _Checked(milestones, answer.as_of, self.clock.now())

    def _fold_changes(self) -> None:
        for audience, members in self._folded.items():
            page = self._engine.backend.changes(audience, self._cursors[audience], 100_000)
            for change in page.changes:
                self._fold(members, change)
                self._cursors[audience] = change.sequence

    def _fold(self, members: set[str], change: Change) -> None:
        if change.entered is (change.user_id in members):
            raise ClockFault(f"change {change} of a membership that has it already")
        (members.add if change.entered else members.remove)(change.user_id)

    def _right_for_days(self) -> None:
        """The clock stays right, is trusted in the end, and expired data is removed."""
        for _ in range(3):
            self._pass(DAY)
        self._look()
        status = self.clock.status()
        if status.state is not ClockState.SETTLED or status.settled != self.machine.real:
            raise ClockFault(f"a clock that was right for three days is not believed: {status}")
        retention = self._world.event_retention
        facts = self._engine.backend.event_names(self._world.account, limit=1_000)
        left = min((fact.first_time for fact in facts), default=self.machine.real)
        if retention and left < self._right_removal():
            raise ClockFault(f"an event of {left} is left; all before {self._right_removal()} are due")


def _plain(operations: Iterable[drawn.Operation]) -> Iterator[drawn.Operation]:
    """Without what depends on horizons, which the oracle does not know: the round has its own."""
    for operation in operations:
        if isinstance(operation, drawn.Batch):
            records = (
                msgspec.structs.replace(record, event_id="") if isinstance(record, EventRecord) else record
                for record in operation.records
            )
            yield drawn.Batch(tuple(records))
        elif not isinstance(operation, drawn.Expire):
            yield operation


class _Lines(logging.Handler):
    """Counts the lines of the clock's log."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    @contextmanager
    def read(self) -> Iterator[None]:
        """Counts while the block runs; nothing is printed."""
        logger = logging.getLogger("engine.clock")
        logger.addHandler(self)
        propagate, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = propagate
