"""The ledger of the kill rounds: what was sent, what was acknowledged, and so what must be in the store.

A writer has its own users, and each of its events a *slot*: no two events of a user share one, so user and
slot name an event, and the set of a user's slots says exactly which of its events are there. A writer's
batches are taken in the order in which it sends them: those in flight at a kill are there up to some batch
and not from there on, each wholly or not at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

SLOTS = 16
REFUSED_SLOT = SLOTS - 1
"""The slot of rows that the service must reject: no user may ever have it."""

Slots = int
"""A set of slots, as bits."""

Faults = list[str]


@dataclass(frozen=True)
class EventRow:
    """One event. With an `event_id` it may be sent again; `fault` "" = a good one."""

    user_id: str
    slot: int
    event_id: str = ""
    fault: str = ""

    @property
    def bit(self) -> Slots:
        """The slot as a set."""
        return 1 << self.slot


@dataclass(frozen=True)
class Answer:
    """The answer to a batch, without its revision."""

    accepted: int
    duplicates: int
    refused: tuple[int, ...]


@dataclass
class EventBatch:
    """A batch as it was sent, the answer it must get, and the revision of its first answer (0 = none yet).

    `in_store` once it is known to be there, acknowledged or not.
    """

    rows: tuple[EventRow, ...]
    request_id: str
    expected: Answer
    repeats: EventBatch | None = None
    revision: int = 0
    in_store: bool = False


class EventLedger:
    """The batches of one writer. Not safe from several threads."""

    def __init__(self) -> None:
        self.present: dict[str, Slots] = {}
        """Batches that must be in the store: acknowledged, or found there after a kill."""
        self.answered: deque[EventBatch] = deque(maxlen=64)
        """The latest batches that have a request id and are in the store."""
        self.lost: list[EventBatch] = []
        """Batches not acknowledged at the last kill, whether or not they reached the store."""
        self.revision = 0
        self.faults: Faults = []
        self.acknowledged_events = 0
        self._assumed: dict[str, Slots] = {}
        self._in_flight: deque[EventBatch] = deque()
        self._requests: dict[str, EventBatch] = {}
        self._touched: set[str] = set()

    # --- while the service runs -----------------------------------------------------------------------------

    def send(self, rows: Iterable[EventRow], request_id: str = "") -> EventBatch:
        """Records a batch that is about to be sent, after those in flight."""
        first = self._requests.get(request_id)
        if first is not None:
            batch = EventBatch(first.rows, request_id, first.expected, repeats=first)
        else:
            kept = tuple(rows)
            batch = EventBatch(kept, request_id, self._expect(kept))
            if request_id:
                self._requests[request_id] = batch
        self._in_flight.append(batch)
        self._touched.update(row.user_id for row in batch.rows)
        return batch

    def _expect(self, rows: tuple[EventRow, ...]) -> Answer:
        accepted, duplicates, refused = 0, 0, []
        for index, row in enumerate(rows):
            if row.fault:
                refused.append(index)
            elif self._assumed.get(row.user_id, 0) & row.bit:
                duplicates += 1
            else:
                accepted += 1
                _add(self._assumed, row)
        return Answer(accepted, duplicates, tuple(refused))

    def acknowledge(self, answer: Answer, revision: int) -> None:
        """Records the answer to the first batch in flight: its content is owed from now on."""
        batch = self._in_flight.popleft()
        if answer != batch.expected:
            self.faults.append(f"{batch.request_id!r} was answered {answer}, not {batch.expected}")
        if batch.repeats is None and revision <= self.revision:
            self.faults.append(f"revision {revision} was answered after {self.revision}")
        first = 0 if batch.repeats is None else batch.repeats.revision
        if first and first != revision:
            self.faults.append(f"{batch.request_id!r} was answered {revision}, and {first} before")
        self.revision = max(self.revision, revision)
        (batch.repeats or batch).revision = revision
        if batch.repeats is None:
            self._keep(batch)
            self.acknowledged_events += batch.expected.accepted

    def _keep(self, batch: EventBatch) -> None:
        batch.in_store = True
        for row in batch.rows:
            if not row.fault:
                _add(self.present, row)
        if batch.request_id:
            self.answered.append(batch)

    # --- after a restart ------------------------------------------------------------------------------------

    def touched(self) -> frozenset[str]:
        """The users of all batches since the last `settle`."""
        return frozenset(self._touched)

    def settle(self, observed: Mapping[str, Slots]) -> Faults:
        """Determines from the slots of the touched users which batches in flight are in the store, and
        reports missing, unexpected and torn ones.
        """
        before = {user_id: self.present.get(user_id, 0) for user_id in self._touched}
        applied = True
        self.lost = []
        for batch in self._in_flight:
            if batch.repeats is not None:
                continue
            fresh = {
                (row.user_id, row.slot)
                for row in batch.rows
                if not row.fault and not self.present.get(row.user_id, 0) & row.bit
            }
            found = {(user_id, slot) for user_id, slot in fresh if observed[user_id] >> slot & 1}
            if found and found != fresh:
                missing = sorted(fresh - found)
                self.faults.append(f"a batch of {len(fresh)} new events is torn: without {missing}")
            applied = applied and found == fresh
            self.lost.append(batch)
            if applied:
                self._keep(batch)
        self._in_flight.clear()
        self._requests = {batch.request_id: batch for batch in self.answered}
        self._compare(observed, before)
        self._assumed.update({user_id: self.present.get(user_id, 0) for user_id in self._touched})
        self._touched.clear()
        found_faults, self.faults = self.faults, []
        return found_faults

    def _compare(self, observed: Mapping[str, Slots], before: Mapping[str, Slots]) -> None:
        for user_id, acknowledged in before.items():
            present = self.present.get(user_id, 0)
            if lost := acknowledged & ~observed[user_id]:
                self.faults.append(f"{user_id} lost slots {slots_in(lost)}, which were acknowledged")
            if extra := observed[user_id] & ~present:
                self.faults.append(f"{user_id} has slots {slots_in(extra)}, which it should not have")


def _add(slots: dict[str, Slots], row: EventRow) -> None:
    slots[row.user_id] = slots.get(row.user_id, 0) | row.bit


def slots_in(slots: Slots) -> list[int]:
    """The slots of a set."""
    return [slot for slot in range(SLOTS) if slots >> slot & 1]


# --- updates of users ---------------------------------------------------------------------------------------

AttributeRef = tuple[str, str]
"""A user and an attribute of it."""
Written = tuple[datetime, float | None]
"""When a value was written, and the value; None = unset."""


@dataclass(frozen=True)
class UpdateRow:
    """One update: attributes set (or unset, None) at a time that no other update shares."""

    user_id: str
    time: datetime
    attributes: Mapping[str, float | None]
    fault: str = ""


@dataclass
class UpdateBatch:
    """A batch of updates as it was sent; `revision` and `in_store` as of an `EventBatch`."""

    rows: tuple[UpdateRow, ...]
    request_id: str
    revision: int = 0
    in_store: bool = False

    @property
    def refused(self) -> tuple[int, ...]:
        """The rows that the service must reject."""
        return tuple(index for index, row in enumerate(self.rows) if row.fault)


MARKER_USER = "marker"
"""Each batch of updates starts with one of this user, later than all before, which tells whether it is in."""


@dataclass
class UserLedger:
    """The updates of one writer, which has one batch in flight at most."""

    present: dict[AttributeRef, Written] = field(default_factory=dict)
    answered: deque[UpdateBatch] = field(default_factory=lambda: deque(maxlen=16))
    lost: list[UpdateBatch] = field(default_factory=list)
    revision: int = 0
    faults: Faults = field(default_factory=list)
    acknowledged_updates: int = 0
    _in_flight: UpdateBatch | None = None
    _touched: set[str] = field(default_factory=set)

    def send(self, batch: UpdateBatch) -> None:
        """Records a batch that is about to be sent."""
        self._in_flight = batch
        self._touched.update(row.user_id for row in batch.rows)

    def acknowledge(self, accepted: int, refused: tuple[int, ...], revision: int) -> None:
        """Records the answer to the batch in flight."""
        batch = self._in_flight
        assert batch is not None
        if refused != batch.refused or accepted != len(batch.rows) - len(refused):
            self.faults.append(f"{batch.request_id!r} was answered {accepted}, refused {refused}")
        if batch.revision and revision != batch.revision:
            self.faults.append(f"{batch.request_id!r} was answered {revision}, and {batch.revision} before")
        self._in_flight = None
        self.revision = max(self.revision, revision)
        batch.revision = revision
        if not batch.in_store:
            self.present = self._after(batch)
            self._remember(batch)
            self.acknowledged_updates += accepted

    def _remember(self, batch: UpdateBatch) -> None:
        batch.in_store = True
        if batch.request_id:
            self.answered.append(batch)

    def _after(self, batch: UpdateBatch) -> dict[AttributeRef, Written]:
        after = dict(self.present)
        for row in batch.rows:
            for key, value in row.attributes.items():
                at = (row.user_id, key)
                if not row.fault and (at not in after or after[at][0] < row.time):
                    after[at] = (row.time, value)
        return after

    def touched(self) -> frozenset[str]:
        """The users of all batches since the last `settle`."""
        return frozenset(self._touched)

    def values(self, user_ids: Iterable[str]) -> dict[AttributeRef, float]:
        """The expected state of these users."""
        wanted = set(user_ids)
        return {at: value for at, (_, value) in self.present.items() if at[0] in wanted and value is not None}

    def settle(self, observed: Mapping[AttributeRef, float]) -> Faults:
        """As `EventLedger.settle`, from the attributes of the touched users."""
        batch, self._in_flight, self.lost = self._in_flight, None, []
        if batch is not None and not batch.in_store:
            self.lost = [batch]
            [(key, number)] = batch.rows[0].attributes.items()
            if observed.get((MARKER_USER, key)) == number:
                self.present = self._after(batch)
                self._remember(batch)
        wanted = self.values(self._touched)
        for at in sorted(wanted.keys() | observed.keys()):
            if observed.get(at) != wanted.get(at):
                self.faults.append(f"{at} is {observed.get(at)}, not {wanted.get(at)}")
        self._touched.clear()
        found_faults, self.faults = self.faults, []
        return found_faults
