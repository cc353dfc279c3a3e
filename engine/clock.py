"""The clock: the current time, and the time that decides about removals.

The machine's wall clock can be wrong: a dead battery, a wrong time server, an operator's slip, a virtual
machine that was paused. So there are two readings:

`now`      decides questions, windows and new records. It follows the wall clock. After a *jump* (the wall
           clock and the monotonic clock disagree) it continues as before, and follows once the wall
           clock has been steady for `follow_after`, or immediately when the jump leads back to `settled`.
`settled`  decides everything irreversible: retention, and how long event ids, request ids,
           change logs and ids of erased users are kept. After a jump, or a start with the wall clock
           far from the store's latest time, it continues as before until the wall clock has been steady
           for `settle_after`, or an operator confirms it.

Records kept for a horizon carry the latest time either reading has shown since they diverged, so that they
never look older than they are. They expire when the settled time has passed the horizon (`Stamp`). While the
wall clock is trusted, all readings are the same instant.

The settled time is stored from time to time, so that a start can compare. Stores without one compare with the
arrival of their latest write.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from engine.backends.base import Documents
from engine.errors import FailedPrecondition
from engine.measures import Counter
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

NANOS_PER_MICRO = 1_000

JUMP_MICROS = 10 * MICROS_PER_SECOND
"""Wall clock and monotonic clock may differ by this much between two readings. Time servers slew by less."""

RESTART_GAP_MICROS = MICROS_PER_HOUR
"""A start at most this long after the latest time a store knows needs no confirmation: deployments and
reboots.
"""

FOLLOW_AFTER_MICROS = 60 * MICROS_PER_SECOND
SETTLE_AFTER_MICROS = MICROS_PER_DAY

LOOK_INTERVAL_MICROS = MICROS_PER_SECOND
"""A reading judges the wall clock anew, with a lock, at most this long after the last one that did."""

CONFIRM_WITHIN_MICROS = 300 * MICROS_PER_SECOND
"""Maximum difference between the wall clock and the time that a confirmation names."""

SAVE_INTERVAL_MICROS = 60 * MICROS_PER_SECOND

_KEY = "clock"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


class Stamp(NamedTuple):
    """The time of an arrival: `arrival` is recorded, `settled` decides what is expired by then."""

    arrival: Micros
    settled: Micros


class ClockState(enum.Enum):
    """Trust in the wall clock."""

    SETTLED = "settled"
    """Trusted for answers and removals."""
    FOLLOWED = "followed"
    """Trusted for answers; removals still wait."""
    HELD = "held"
    """It has just jumped. Not trusted: time continues from before the jump."""


class ClockStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The readings of one instant. `wait` is the time the wall clock must still be steady before `settled`
    follows it; 0 when it does.
    """

    state: ClockState
    wall: Micros
    now: Micros
    settled: Micros
    wait: Micros


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """Stored for comparison at a start: the settled time, the wall clock at that time and for how long it was
    steady, and the recorded time.
    """

    settled: Micros
    wall: Micros
    steady: Micros
    state: str
    latest: Micros = 0


def wall_micros() -> Micros:
    """The machine's wall clock."""
    return time.time_ns() // NANOS_PER_MICRO


def wall_stamp() -> Stamp:
    """The trusted wall clock."""
    wall = wall_micros()
    return Stamp(wall, wall)


def monotonic_micros() -> Micros:
    """The machine's monotonic clock: for differences only."""
    return time.monotonic_ns() // NANOS_PER_MICRO


class Clock:
    """Calling it answers `now()`. Safe to call from several threads."""

    def __init__(
        self,
        wall: Callable[[], Micros] = wall_micros,
        monotonic: Callable[[], Micros] = monotonic_micros,
        *,
        follow_after: Micros = FOLLOW_AFTER_MICROS,
        settle_after: Micros = SETTLE_AFTER_MICROS,
        trusted_at_start: bool = False,
    ) -> None:
        self._read_wall = wall
        self._read_monotonic = monotonic
        self._follow_after = follow_after
        self._settle_after = settle_after
        self._trusted_at_start = trusted_at_start
        self._lock = threading.RLock()
        self._documents: Documents | None = None
        self._state = ClockState.SETTLED
        self._steady: Micros = 0
        self._wall = self._now = self._settled = self._latest = wall()
        self._monotonic = monotonic()
        self._followed: tuple[Micros, Micros] | None = None
        """The last judged readings of both clocks; None while the wall clock is not the time for answers."""
        self._unknown: Micros = 0
        """Maximum lead over `settled` at a start: the downtime is unknown."""
        self._saved: _Stored | None = None
        self.jumps = Counter()
        """Jumps of the wall clock, those back to the expected time included."""

    @classmethod
    def of(cls, source: Callable[[], Micros]) -> Clock:
        """A clock that trusts a function alone: for replays and experiments."""
        return cls(source, source, follow_after=0, trusted_at_start=True)

    def now(self) -> Micros:
        """The time for answers. Takes no lock while the wall clock goes on as it did a moment ago."""
        followed = self._followed
        if followed is not None:
            wall = self._read_wall()
            elapsed = self._read_monotonic() - followed[1]
            jumped = wall - followed[0] - elapsed
            if 0 <= elapsed < LOOK_INTERVAL_MICROS and -JUMP_MICROS <= jumped <= JUMP_MICROS:
                return wall
        with self._lock:
            self._look()
            return self._now

    __call__ = now

    def settled(self) -> Micros:
        """The time for removals."""
        with self._lock:
            self._look()
            return self._settled

    def stamp(self) -> Stamp:
        """Both readings, for a record that is kept for a horizon."""
        with self._lock:
            self._look()
            return Stamp(self._latest, self._settled)

    def bounds(self) -> tuple[Micros, Micros]:
        """The earliest and latest time of any reading. Data within the limits by one of them is accepted:
        wrongly refused data may never be sent again.
        """
        with self._lock:
            self._look()
            readings = (self._wall, self._now, self._settled)
            return min(readings), max(readings)

    def status(self) -> ClockStatus:
        """All readings."""
        with self._lock:
            self._look()
            is_settled = self._state is ClockState.SETTLED
            return ClockStatus(
                state=self._state,
                wall=self._wall,
                now=self._now,
                settled=self._settled,
                wait=0 if is_settled else max(0, self._settle_after - self._steady),
            )

    # --- starting, confirming, keeping ---

    def start(self, documents: Documents, newest_arrival: Micros) -> None:
        """Compares the wall clock with the latest time of a store, and saves it there from then on."""
        with self._lock:
            self._documents = documents
            stored = documents.get(_KEY)
            self._saved = None if stored is None else msgspec.msgpack.decode(stored, type=_Stored)
            self._look()
            known = newest_arrival if self._saved is None else self._saved.settled
            if known and not self._trusted_at_start and not self._is_restart_within(known):
                self._start_apart(known)
            else:
                self._settle()
            self._show()
        self.save()

    def _is_restart_within(self, known: Micros) -> bool:
        return -JUMP_MICROS <= self._wall - known <= RESTART_GAP_MICROS

    def _start_apart(self, known: Micros) -> None:
        self._settled, self._steady, self._unknown = known, 0, RESTART_GAP_MICROS
        is_behind = is_held = self._wall < known
        saved = self._saved
        if saved is not None and saved.state != ClockState.SETTLED.value:
            # The same clock as before the restart, still waiting to be trusted.
            passed = self._wall - saved.wall
            if 0 <= passed <= RESTART_GAP_MICROS:
                self._settled, self._steady = saved.settled + passed, saved.steady + passed
                is_held = is_behind and saved.state == ClockState.HELD.value
        # The downtime is unknown, so a clock ahead may be right. A clock behind contradicts what the store
        # has seen.
        self._state = ClockState.HELD if is_held else ClockState.FOLLOWED
        self._now = self._settled if is_held else self._wall
        self._latest = max(self._now, self._settled, 0 if saved is None else saved.latest)
        _log.warning(
            "the clock shows %s, %s %s the latest time this store knows (%s); nothing is removed until it"
            " has been steady for %s, or is confirmed: milepost store clock --confirm",
            _shown(self._wall),
            _length(abs(self._wall - known)),
            "behind" if is_behind else "ahead of",
            _shown(known),
            _length(max(0, self._settle_after - self._steady)),
        )

    def confirm(self, time: Micros) -> ClockStatus:
        """Called when an operator confirms the wall clock: everything follows it immediately. `time` is the
        operator's time.

        Raises FailedPrecondition when the wall clock shows another time.
        """
        with self._lock:
            self._look()
            if abs(self._wall - time) > CONFIRM_WITHIN_MICROS:
                raise FailedPrecondition(
                    f"the server's clock shows {_shown(self._wall)}, not {_shown(time)}: correct the clock"
                    " or confirm the time it shows",
                    reason="CLOCK_DIFFERS",
                    metadata={"wall_time": _shown(self._wall)},
                )
            if self._state is not ClockState.SETTLED:
                _log.warning(
                    "the clock was confirmed: removals use %s instead of %s",
                    _shown(self._wall),
                    _shown(self._settled),
                )
            self._settle()
            self._show()
        self.save()
        return self.status()

    def save(self) -> None:
        """Stores the settled time for the next start. Raises LimitExceeded when the store is full."""
        with self._lock:
            self._look()
            if self._documents is None:
                return
            saved = _Stored(self._settled, self._wall, self._steady, self._state.value, self._latest)
            documents, self._saved = self._documents, saved
        documents.commit({_KEY: msgspec.msgpack.encode(saved)})

    def keep(self) -> None:
        """Reads the clock, and saves it after an interval or a change of state. Call about every second."""
        with self._lock:
            self._look()
            saved = self._saved
            is_due = (
                saved is None
                or saved.state != self._state.value
                or abs(self._settled - saved.settled) >= SAVE_INTERVAL_MICROS
            )
        if is_due:
            self.save()

    # --- reading ---

    def _look(self) -> None:
        """Takes a reading, and judges the wall clock since the last one by the monotonic clock."""
        self._judge()
        self._show()

    def _show(self) -> None:
        """Lets `now` read the wall clock, if that is the time for answers."""
        self._followed = None if self._state is ClockState.HELD else (self._wall, self._monotonic)

    def _judge(self) -> None:
        wall, monotonic = self._read_wall(), self._read_monotonic()
        elapsed = max(0, monotonic - self._monotonic)
        jumped = wall - (self._wall + elapsed)
        self._wall, self._monotonic = wall, monotonic
        is_jump = abs(jumped) > JUMP_MICROS
        if self._state is ClockState.SETTLED and not is_jump:
            self._now = wall
            # The wall clock may be slewed back slightly; the settled time never goes back.
            self._latest = self._settled = max(self._settled, wall)
            return
        self._now += elapsed
        self._settled += elapsed
        self._latest += elapsed
        if is_jump:
            self._jump(jumped)
        else:
            self._wait(elapsed)
        if self._state is not ClockState.SETTLED:
            self._latest = max(self._latest, self._now)

    def _jump(self, jumped: Micros) -> None:
        self.jumps.add()
        self._steady = 0
        if self._is_back():
            return
        is_towards = abs(self._wall - self._settled) < abs(self._now - self._settled)
        is_followed = is_towards or not self._follow_after
        self._state = ClockState.FOLLOWED if is_followed else ClockState.HELD
        if is_followed:
            self._now = self._wall
        _log.warning(
            "the clock jumped %s by %s, to %s; %s; nothing is removed until it has been steady for %s, or is"
            " confirmed: milepost store clock --confirm",
            "ahead" if jumped > 0 else "back",
            _length(abs(jumped)),
            _shown(self._wall),
            "answers use it"
            if is_followed
            else f"answers continue from {_shown(self._now)} for {_length(self._follow_after)}",
            _length(self._settle_after),
        )

    def _wait(self, elapsed: Micros) -> None:
        self._steady += elapsed
        if self._is_back():
            return
        if self._state is ClockState.HELD and self._steady >= self._follow_after:
            self._state = ClockState.FOLLOWED
            _log.warning(
                "the clock has been steady for %s: answers now use %s, removals still use %s",
                _length(self._steady),
                _shown(self._wall),
                _shown(self._settled),
            )
        if self._state is ClockState.FOLLOWED:
            self._now = self._wall
        if self._steady >= self._settle_after:
            _log.warning(
                "the clock has been steady for %s: removals now use %s instead of %s",
                _length(self._steady),
                _shown(self._wall),
                _shown(self._settled),
            )
            self._settle()

    def _is_back(self) -> bool:
        """Whether the wall clock shows the settled time again, which then applies to everything."""
        if not -JUMP_MICROS <= self._wall - self._settled <= max(JUMP_MICROS, self._unknown):
            return False
        _log.warning("the clock shows the expected time again, %s", _shown(self._wall))
        settled = max(self._settled, self._wall)
        self._settle()
        self._latest = self._settled = settled
        return True

    def _settle(self) -> None:
        self._state, self._steady, self._unknown = ClockState.SETTLED, 0, 0
        self._now = self._settled = self._latest = self._wall


def _shown(time: Micros) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time)).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{time} µs after 1970"


def _length(micros: Micros) -> str:
    seconds = micros // MICROS_PER_SECOND
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "0 s"
