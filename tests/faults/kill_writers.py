"""Clients that write until the service ends, each with its own ledger."""

from __future__ import annotations

import queue
import random
import time
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from milepost import Client, make_event
from milepost.errors import Cancelled, MilepostError, Unavailable
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import (
    IngestEventsRequest,
    IngestEventsResponse,
    StreamEventsRequest,
    UpsertUsersRequest,
)
from milepost.values import to_attributes, to_timestamp
from tests.faults.kill_ledger import (
    MARKER_USER,
    REFUSED_SLOT,
    Answer,
    EventBatch,
    EventLedger,
    EventRow,
    Faults,
    UpdateBatch,
    UpdateRow,
    UserLedger,
)

EVENT_NAME = "tick"
INPUTS = ("app/ios", "shop/web")
"""Events come through both, updates through the second."""
EVENT_FAULTS = ("no name", "no input", "in the future")
BATCH_ROWS = (1, 2, 5, 12, 40)
WINDOWS = (1, 2, 8)
"""Batches that a stream sends ahead of their acknowledgement."""
PAUSE_S_MAX = 0.01
HISTORY_DAYS = 40
USERS_A_ROUND = 24
UPDATED_USERS = 60
UPDATED_KEYS = ("score", "level", "streak")
TIME_STEPS = 3_000_000
"""Seconds over which updates are spread; the writer's count of them tells those of one second apart."""
CALL_S = 30.0


class Revision(int):
    """The number of a revision, and the token that an acknowledgement carried."""

    token: str

    @classmethod
    def of(cls, token: str) -> Revision:
        """The revision of a token."""
        found = cls(token.split(".")[1], 16)
        found.token = token
        return found


class Writer(ABC):
    """One client. `write` works until the service ends; `faults` has any other error."""

    def __init__(self, number: int, source: random.Random) -> None:
        self.number = number
        self.source = source
        self.faults: Faults = []
        self.started = datetime.now(UTC)
        self._sent = 0

    def write(self, client: Client, round_number: int) -> None:
        """Sends batches until the service ends; any other error is a fault."""
        try:
            self._write(client, round_number)
        except (Unavailable, Cancelled):
            return
        except (MilepostError, AssertionError) as error:
            self.faults.append(f"writer {self.number}: {type(error).__name__}: {error}")

    @abstractmethod
    def _write(self, client: Client, round_number: int) -> None: ...

    def chance(self, percent: int) -> bool:
        """True in about `percent` of a hundred cases."""
        return self.source.randrange(100) < percent

    def next_request_id(self) -> str:
        """A request id never used before, or none."""
        self._sent += 1
        return f"w{self.number}-{self._sent}" if self.chance(60) else ""

    def pause(self) -> None:
        """Pauses occasionally."""
        if self.chance(40):
            time.sleep(self.source.uniform(0.0, PAUSE_S_MAX))


class EventWriter(Writer):
    """Generates batches of events, some of them repeated, and records their answers."""

    def __init__(self, number: int, source: random.Random) -> None:
        super().__init__(number, source)
        self.ledger = EventLedger()
        self._users: list[str] = []
        self._next_slot: dict[str, int] = {}
        self._with_id: deque[EventRow] = deque(maxlen=500)

    def _batches(self, round_number: int) -> Iterator[EventBatch]:
        """Batches without end, each recorded as sent: first some of those lost at the last kill."""
        fresh = (f"w{self.number}-{round_number}-{n}" for n in range(USERS_A_ROUND))
        self._users = [*self._users[-USERS_A_ROUND:], *fresh]
        for lost in self.ledger.lost:
            if self.chance(70):
                rows = lost.rows if lost.request_id else [row for row in lost.rows if row.event_id]
                if rows:
                    yield self.ledger.send(rows, lost.request_id)
        while True:
            if self.ledger.answered and self.chance(10):
                again = self.source.choice(self.ledger.answered)
                yield self.ledger.send(again.rows, again.request_id)
                continue
            rows = [self._row(n) for n in range(self.source.randint(1, self.source.choice(BATCH_ROWS)))]
            yield self.ledger.send(rows, self.next_request_id())

    def _row(self, index: int) -> EventRow:
        """A new event, a repeated one or, except first, an invalid one."""
        if self._with_id and self.chance(10):
            return self.source.choice(self._with_id)
        user_id = self.source.choice(self._users)
        if index and self.chance(4):
            return EventRow(user_id, REFUSED_SLOT, fault=self.source.choice(EVENT_FAULTS))
        slot = self._next_slot.get(user_id, 0)
        if slot == REFUSED_SLOT:
            self._users.remove(user_id)
            self._users.append(f"{user_id}+")
            return self._row(index)
        self._next_slot[user_id] = slot + 1
        row = EventRow(user_id, slot, f"{user_id}/{slot}" if self.chance(60) else "")
        if row.event_id:
            self._with_id.append(row)
        return row

    def request(self, client: Client, batch: EventBatch) -> IngestEventsRequest:
        """The message for a batch."""
        return IngestEventsRequest(
            parent=client.account_name,
            input=client.input_name(INPUTS[0]),
            events=[event_message(client, row, self.started) for row in batch.rows],
            request_id=batch.request_id,
        )

    def take(self, response: IngestEventsResponse) -> None:
        """Records an acknowledgement."""
        refused = tuple(rejection.index for rejection in response.rejections)
        answer = Answer(response.accepted, response.duplicates, refused)
        self.ledger.acknowledge(answer, Revision.of(response.revision))


def event_message(client: Client, row: EventRow, started: datetime) -> Event:
    """The message for an event, some time before `started`; the same for a row each time, so that a repeated
    batch is the same batch.
    """
    chance = zlib.crc32(f"{row.user_id} {row.slot}".encode())
    time_ = started - timedelta(days=chance % HISTORY_DAYS, seconds=chance % 80_000)
    event = make_event(
        row.user_id,
        EVENT_NAME,
        time_,
        {"slot": row.slot, "channel": f"channel-{chance % 7}"},
        event_id=row.event_id,
        input=client.input_name(INPUTS[chance % 2]),
    )
    match row.fault:
        case "no name":
            event.name = ""
        case "no input":
            event.input = client.input_name("shop/none")
        case "in the future":
            event.time.CopyFrom(to_timestamp(time_ + timedelta(days=HISTORY_DAYS + 3)))
    return event


class UnaryWriter(EventWriter):
    """Sends single batches through IngestEvents."""

    def _write(self, client: Client, round_number: int) -> None:
        for batch in self._batches(round_number):
            self.take(client.ingest.IngestEvents(self.request(client, batch), timeout=CALL_S))
            self.pause()


class StreamWriter(EventWriter):
    """Sends batches through StreamEvents, several in flight."""

    def _write(self, client: Client, round_number: int) -> None:
        requests: queue.SimpleQueue[StreamEventsRequest | None] = queue.SimpleQueue()
        responses = client.ingest.StreamEvents(iter(requests.get, None))
        window = self.source.choice(WINDOWS)
        try:
            answered = 0
            for number, batch in enumerate(self._batches(round_number)):
                requests.put(StreamEventsRequest(batch=self.request(client, batch), sequence=number))
                while number + 1 - answered > window:
                    response = next(responses)
                    assert response.sequence == answered, (
                        f"{response.sequence} is acknowledged, not {answered}"
                    )
                    self.take(response.result)
                    answered += 1
                self.pause()
        finally:
            requests.put(None)


class UserWriter(Writer):
    """Batches of user updates, in any order of their times, one after the other through UpsertUsers."""

    def __init__(self, number: int, source: random.Random) -> None:
        super().__init__(number, source)
        self.ledger = UserLedger()
        self._updates = 0

    def _write(self, client: Client, round_number: int) -> None:
        again = [batch for batch in self.ledger.lost if self.chance(70)]
        while True:
            batch = again.pop() if again else self._batch()
            self.ledger.send(batch)
            response = client.ingest.UpsertUsers(self._request(client, batch), timeout=CALL_S)
            refused = tuple(rejection.index for rejection in response.rejections)
            self.ledger.acknowledge(response.accepted, refused, Revision.of(response.revision))
            self.pause()

    def _batch(self) -> UpdateBatch:
        if self.ledger.answered and self.chance(10):
            return self.source.choice(self.ledger.answered)
        rows = [UpdateRow(MARKER_USER, self._time(late=True), {"batch": float(self._updates)})]
        rows += [self._row() for _ in range(self.source.randint(1, self.source.choice(BATCH_ROWS)))]
        return UpdateBatch(tuple(rows), self.next_request_id())

    def _row(self) -> UpdateRow:
        user_id, number = f"updated-{self.source.randrange(UPDATED_USERS)}", float(self._updates)
        keys = self.source.sample(UPDATED_KEYS, self.source.randint(1, len(UPDATED_KEYS)))
        attributes = {key: None if self.chance(10) else number for key in keys}
        if self.chance(4):
            return UpdateRow(user_id, self._time() + timedelta(days=HISTORY_DAYS + 3), attributes, "late")
        return UpdateRow(user_id, self._time(), attributes)

    def _time(self, *, late: bool = False) -> datetime:
        """A time that no other update has; with `late`, after every time before."""
        self._updates += 1
        second = 0 if late else -self.source.randint(1, TIME_STEPS)
        return self.started + timedelta(seconds=second, microseconds=self._updates)

    def _request(self, client: Client, batch: UpdateBatch) -> UpsertUsersRequest:
        return UpsertUsersRequest(
            parent=client.account_name,
            input=client.input_name(INPUTS[1]),
            users=[_update(row) for row in batch.rows],
            request_id=batch.request_id,
        )


def _update(row: UpdateRow) -> UserUpdate:
    return UserUpdate(
        user_id=row.user_id,
        time=to_timestamp(row.time),
        attributes=to_attributes({key: value for key, value in row.attributes.items() if value is not None}),
        unset_attributes=[key for key, value in row.attributes.items() if value is None],
    )
