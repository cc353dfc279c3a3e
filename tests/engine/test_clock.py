"""Clock jumps: the time for answers, the time for removals, and the log."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from engine import Engine
from engine.backends.local.backend import LocalBackend
from engine.clock import Clock, ClockState, Stamp
from engine.errors import FailedPrecondition
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros
from tests.engine.machine import Machine
from tests.engine.site import ACCOUNT, event

START = 20_000 * MICROS_PER_DAY
DAY, HOUR, SECOND = MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND
MINUTE = 60 * SECOND


class Documents:
    """The documents of a store."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def scan(self, prefix: str, limit: int | None = None) -> itertools.chain[tuple[str, bytes]]:
        return itertools.chain(self.kept.items())

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        self.kept.update(puts)


@pytest.fixture
def documents() -> Documents:
    return Documents()


@pytest.fixture
def machine() -> Machine:
    return Machine(START)


def started(machine: Machine, documents: Documents, *, arrival: Micros = 0, trusted: bool = False) -> Clock:
    clock = Clock(machine.wall, machine.monotonic, trusted_at_start=trusted)
    clock.start(documents, arrival)
    return clock


def readings(clock: Clock) -> tuple[ClockState, Micros, Micros]:
    """The state, and the times for answers and removals relative to the start."""
    status = clock.status()
    return status.state, status.now - START, status.settled - START


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.name == "engine.clock"]
    caplog.clear()
    return found


def test_steady_clock_is_followed_immediately(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    clock = started(machine, documents)
    for passed in (0, SECOND, DAY, 400 * DAY):
        machine.pass_time(passed)
        assert clock.stamp() == Stamp(machine.wall(), machine.wall())
    # Slewed: answers follow, removals never go back.
    machine.jump(-3 * SECOND)
    assert (clock.now() - machine.wall(), clock.settled() - machine.wall()) == (0, 3 * SECOND)
    assert warnings(caplog) == []


@pytest.mark.parametrize("seed", range(20))
def test_time_for_answers_needs_no_look(machine: Machine, documents: Documents, seed: int) -> None:
    """Asked every few milliseconds, it is the same as that of a clock that judges every reading, but for what
    the wall clock was slewed by since the last judgement.
    """
    draw = random.Random(seed)
    asked, judged = started(machine, documents), started(machine, Documents())
    for _ in range(400):
        machine.pass_time(draw.choice((0, 1, 5_000, 300_000, SECOND, MINUTE)))
        if draw.random() < 0.1:
            machine.jump(draw.choice((1, -1)) * draw.choice((10, 20 * SECOND, HOUR, 3 * DAY)))
        assert abs(asked.now() - judged.status().now) <= 400 * 10, f"seed {seed}"
    assert asked.jumps.value == judged.jumps.value > 0


@pytest.mark.parametrize("jump", [60 * SECOND, DAY, 4_000 * DAY, -60 * SECOND, -DAY, -4_000 * DAY])
def test_jump_delays_answers_a_minute_and_removals_a_day(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture, jump: Micros
) -> None:
    clock = started(machine, documents)
    machine.jump(jump)
    assert readings(clock) == (ClockState.HELD, 0, 0)
    (line,) = warnings(caplog)
    assert line.startswith(f"the clock jumped {'ahead' if jump > 0 else 'back'} by ")
    machine.pass_time(59 * SECOND)
    assert readings(clock) == (ClockState.HELD, 59 * SECOND, 59 * SECOND)
    machine.pass_time(SECOND)
    assert readings(clock) == (ClockState.FOLLOWED, jump + MINUTE, MINUTE)
    assert clock.stamp() == Stamp(START + max(jump, 0) + MINUTE, START + MINUTE)
    assert clock.status().wait == DAY - MINUTE
    machine.pass_time(DAY - MINUTE - 1)
    assert clock.settled() - START == DAY - 1
    machine.pass_time(1)
    assert readings(clock) == (ClockState.SETTLED, jump + DAY, jump + DAY)
    assert len(warnings(caplog)) == 2


def test_clock_that_jumps_back_is_trusted_immediately(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    clock = started(machine, documents)
    for wrong_for in (4 * SECOND, HOUR):
        began = machine.wall() - START
        machine.jump(DAY)
        assert readings(clock) == (ClockState.HELD, began, began)
        machine.pass_time(wrong_for)
        clock.now()
        machine.jump(-DAY)
        assert readings(clock) == (ClockState.SETTLED, began + wrong_for, began + wrong_for)
        assert warnings(caplog)[-1].startswith("the clock shows the expected time again")


def test_jump_restarts_the_wait_unless_towards_the_settled_time(
    machine: Machine, documents: Documents
) -> None:
    clock = started(machine, documents)
    machine.jump(60 * DAY)
    clock.now()
    machine.pass_time(23 * HOUR)
    assert readings(clock) == (ClockState.FOLLOWED, 60 * DAY + 23 * HOUR, 23 * HOUR)
    machine.jump(-30 * DAY)
    assert readings(clock) == (ClockState.FOLLOWED, 30 * DAY + 23 * HOUR, 23 * HOUR)
    machine.pass_time(23 * HOUR)
    assert clock.settled() - START == 46 * HOUR


def test_stamps_carry_the_latest_trusted_time(machine: Machine, documents: Documents) -> None:
    started(machine, documents).save()
    machine.restart(3 * DAY)
    clock = started(machine, documents)
    assert clock.stamp() == Stamp(START + 3 * DAY, START)
    # Behind what was shown before: what comes now came after that all the same.
    machine.jump(-400 * DAY)
    for _ in range(2):
        clock.keep()
        machine.pass_time(MINUTE)
    assert clock.now() < START
    assert clock.stamp() == Stamp(START + 3 * DAY + 2 * MINUTE, START + 2 * MINUTE)
    clock.save()
    machine.restart(0)
    clock = started(machine, documents)
    assert clock.stamp() == Stamp(START + 3 * DAY + 2 * MINUTE, START + 2 * MINUTE)
    machine.jump(400 * DAY)
    clock.confirm(machine.wall())
    assert clock.stamp() == Stamp(machine.wall(), machine.wall())


def test_data_within_any_reading_of_the_clock_is_accepted(machine: Machine, documents: Documents) -> None:
    clock = started(machine, documents)
    assert clock.bounds() == (START, START)
    machine.jump(60 * DAY)
    assert clock.bounds() == (START, START + 60 * DAY)
    machine.jump(-90 * DAY)
    assert clock.bounds() == (START - 30 * DAY, START)


@pytest.mark.parametrize("down", [0, MINUTE, HOUR])
def test_a_restart_needs_no_confirmation(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture, down: Micros
) -> None:
    started(machine, documents).save()
    machine.restart(down)
    assert readings(started(machine, documents)) == (ClockState.SETTLED, down, down)
    assert warnings(caplog) == []


def test_a_start_believes_a_clock_an_hour_ahead_and_no_later_start_adds_to_it(
    machine: Machine, documents: Documents
) -> None:
    """Retention allows for it: events are removed a day after they have left it."""
    started(machine, documents).save()
    for _ in range(3):
        machine.wrong = HOUR
        assert readings(started(machine, documents)) == (ClockState.SETTLED, HOUR, HOUR)
        machine.wrong = 0
        state, now, settled = readings(started(machine, documents))
        assert (state, settled) == (ClockState.HELD, HOUR)
        assert now == HOUR


@pytest.mark.parametrize("lead", [0, HOUR], ids=["right", "ahead"])
def test_a_start_that_believes_a_clock_ahead_forgets_requests_sooner(
    machine: Machine, tmp_path: Path, lead: Micros
) -> None:
    """A request is known for a day, less the lead of the clock."""

    def started() -> Engine:
        clock = Clock(machine.wall, machine.monotonic)
        return Engine(LocalBackend.open(tmp_path, clock=clock.stamp), clock=clock)

    def is_known(engine: Engine) -> bool:
        events = [event("ann", "visit", time=START)]
        return engine.backend.append(ACCOUNT, events, request_id="r").repeated

    engine = started()
    assert not is_known(engine)
    engine.close()
    machine.wrong = lead
    engine = started()
    assert is_known(engine)
    machine.pass_time(DAY - lead)
    assert is_known(engine)
    machine.pass_time(1)
    assert not is_known(engine)
    engine.close()


def test_after_long_downtime_answers_follow_and_removals_wait(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    started(machine, documents).save()
    machine.restart(60 * DAY)
    clock = started(machine, documents)
    assert readings(clock) == (ClockState.FOLLOWED, 60 * DAY, 0)
    (line,) = warnings(caplog)
    assert line.startswith("the clock shows 2024-12-03T00:00:00Z, 60 d ahead of the latest time this store")
    # Restarts of the same clock do not restart the wait.
    machine.pass_time(20 * HOUR)
    clock.save()
    machine.restart(30 * MINUTE)
    clock = started(machine, documents)
    assert clock.status().wait == DAY - 20 * HOUR - 30 * MINUTE
    machine.pass_time(clock.status().wait)
    assert clock.status().state is ClockState.SETTLED


def test_start_with_a_clock_behind_holds_the_latest_known_time(
    machine: Machine, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    started(machine, documents).save()
    machine.restart(HOUR)
    machine.jump(-START)
    clock = started(machine, documents)
    assert readings(clock) == (ClockState.HELD, 0, 0)
    # The time server answers at last; the downtime is unknown.
    machine.pass_time(20 * SECOND)
    clock.now()
    machine.jump(START)
    assert readings(clock) == (ClockState.SETTLED, HOUR + 20 * SECOND, HOUR + 20 * SECOND)
    assert len(warnings(caplog)) == 2


def test_store_without_a_stored_time_compares_with_its_latest_write(
    machine: Machine, documents: Documents
) -> None:
    assert readings(started(machine, documents, arrival=START - 2 * DAY)) == (
        ClockState.FOLLOWED,
        0,
        -2 * DAY,
    )


def test_an_operator_confirms_the_clock(machine: Machine, documents: Documents) -> None:
    started(machine, documents).save()
    machine.restart(60 * DAY)
    clock = started(machine, documents)
    with pytest.raises(FailedPrecondition) as refused:
        clock.confirm(START)
    assert refused.value.reason == "CLOCK_DIFFERS"
    assert readings(clock) == (ClockState.FOLLOWED, 60 * DAY, 0)
    assert clock.confirm(START + 60 * DAY + 4 * MINUTE).state is ClockState.SETTLED
    assert readings(clock) == (ClockState.SETTLED, 60 * DAY, 60 * DAY)
    # What was confirmed is known to the next start; it can be taken back in the same way.
    machine.restart(MINUTE)
    machine.jump(-60 * DAY)
    clock = started(machine, documents)
    assert readings(clock) == (ClockState.HELD, 60 * DAY, 60 * DAY)
    clock.confirm(START + MINUTE)
    assert readings(clock) == (ClockState.SETTLED, MINUTE, MINUTE)


def test_start_with_clock_trust(machine: Machine, documents: Documents) -> None:
    started(machine, documents).save()
    machine.restart(60 * DAY)
    assert readings(started(machine, documents, trusted=True)) == (ClockState.SETTLED, 60 * DAY, 60 * DAY)


def test_time_is_saved_every_minute_and_on_every_state_change(machine: Machine, documents: Documents) -> None:
    clock = started(machine, documents)
    kept = []
    for _ in range(150):
        machine.pass_time(SECOND)
        clock.keep()
        kept.append(documents.kept["clock"])
    assert len(set(kept)) == 3
    machine.jump(DAY)
    clock.keep()
    assert documents.kept["clock"] != kept[-1]
