"""A client that merges and erases users: three new users at a time, in the same five steps.

1. `x`, `y` and `z` have an event each.   2. `x` becomes `y`.   3. `y` is to become `x`, which is refused.
4. `x`, who is `y` by now, has another event.   5. `z` is erased.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

from milepost import Client
from milepost.errors import FailedPrecondition
from milepost.v1.ingest_service_pb2 import AliasUserRequest, DeleteUsersRequest, IngestEventsRequest
from tests.faults.kill_ledger import EventRow, Faults, Slots
from tests.faults.kill_writers import CALL_S, INPUTS, Revision, Writer, event_message

STATES: tuple[tuple[Slots, Slots, Slots], ...] = (
    (0, 0, 0),
    (0b0001, 0b0010, 0b0100),
    (0b0011, 0b0011, 0b0100),
    (0b0011, 0b0011, 0b0100),
    (0b1011, 0b1011, 0b0100),
    (0b1011, 0b1011, 0),
)
"""Expected slots of `x`, `y` and `z` after each step. An alias has the slots of its user."""
ALIASED = 2
"""Steps after which `x` is no longer a user."""

Trio = tuple[str, str, str]


class TrioLedger:
    """How many steps each trio has behind it."""

    def __init__(self) -> None:
        self.revision = 0
        self.done = 0
        """Trios that went through all steps."""
        self._steps: dict[Trio, int] = {}
        self._touched: set[Trio] = set()
        self._in_flight: Trio | None = None

    def begin(self, trio: Trio) -> None:
        """A new trio; the steps that follow are its."""
        self._steps[trio] = 0
        self._touched.add(trio)

    def send(self, trio: Trio) -> None:
        """Records that its next step is about to be sent."""
        self._in_flight = trio

    def acknowledge(self, revision: int) -> None:
        """Records the answer to that step, with its revision (0 = refused)."""
        assert self._in_flight is not None
        self._steps[self._in_flight] += 1
        self.done += self._steps[self._in_flight] == len(STATES) - 1
        self._in_flight = None
        self.revision = max(self.revision, revision)

    def touched(self) -> frozenset[str]:
        """The users of the trios since the last `settle`."""
        return frozenset(user_id for trio in self._touched for user_id in trio)

    def settle(self, observed: Mapping[str, Slots]) -> Faults:
        """Determines whether the step in flight was applied, and reports differences."""
        faults = []
        for trio in sorted(self._touched):
            found = tuple(observed[user_id] for user_id in trio)
            steps = self._steps[trio]
            if trio == self._in_flight and found == STATES[steps + 1]:
                self._steps[trio] = steps + 1
            elif found != STATES[steps]:
                faults.append(f"{trio} have slots {found} after {steps} steps")
        self._touched.clear()
        self._in_flight = None
        return faults

    @property
    def present(self) -> dict[str, Slots]:
        """The expected slots of every user."""
        return {
            user_id: slots
            for trio, steps in self._steps.items()
            for user_id, slots in zip(trio, STATES[steps], strict=True)
            if slots and not (user_id == trio[0] and steps >= ALIASED)
        }


class TrioWriter(Writer):
    """Sends the steps of one trio after the other."""

    def __init__(self, number: int, source: random.Random) -> None:
        super().__init__(number, source)
        self.ledger = TrioLedger()

    def _write(self, client: Client, round_number: int) -> None:
        for number in itertools.count():
            x, y, z = (f"trio-{round_number}-{number}-{name}" for name in "xyz")
            trio = (x, y, z)
            self.ledger.begin(trio)
            for step in self._steps(client, trio):
                self.ledger.send(trio)
                self.ledger.acknowledge(step())
                self.pause()

    def _steps(self, client: Client, trio: Trio) -> tuple[Callable[[], int], ...]:
        x, y, z = trio
        return (
            lambda: self._events(client, EventRow(x, 0), EventRow(y, 1), EventRow(z, 2)),
            lambda: self._alias(client, x, y),
            lambda: self._refused(client, y, x),
            lambda: self._events(client, EventRow(x, 3, f"{x}/3")),
            lambda: self._erase(client, z),
        )

    def _events(self, client: Client, *rows: EventRow) -> int:
        request = IngestEventsRequest(
            parent=client.account_name,
            input=client.input_name(INPUTS[0]),
            events=[event_message(client, row, self.started) for row in rows],
        )
        return Revision.of(client.ingest.IngestEvents(request, timeout=CALL_S).revision)

    def _alias(self, client: Client, from_user_id: str, to_user_id: str) -> int:
        request = AliasUserRequest(
            parent=client.account_name, from_user_id=from_user_id, to_user_id=to_user_id
        )
        return Revision.of(client.ingest.AliasUser(request, timeout=CALL_S).revision)

    def _refused(self, client: Client, from_user_id: str, to_user_id: str) -> int:
        try:
            self._alias(client, from_user_id, to_user_id)
        except FailedPrecondition:
            return 0
        raise AssertionError(f"{from_user_id} became its own alias {to_user_id}")

    def _erase(self, client: Client, user_id: str) -> int:
        request = DeleteUsersRequest(parent=client.account_name, user_ids=[user_id])
        response = client.ingest.DeleteUsers(request, timeout=CALL_S)
        assert response.deleted == 1, f"{user_id} was not there to be erased"
        return Revision.of(response.revision)
