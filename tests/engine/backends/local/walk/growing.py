"""A world that grows by one operation at a time, and the expected answer to each."""

from __future__ import annotations

import random
from typing import TypeVar

import msgspec

from engine.backends.base import EventRecord, Record
from engine.values import MICROS_PER_DAY
from tests.oracle.evaluate import Oracle
from tests.oracle.generate import JourneyDrawer, draw_record
from tests.oracle.history import Aliases
from tests.oracle.palette import Chooser, draw_palette
from tests.oracle.trees import Trees
from tests.oracle.world import (
    Alias,
    Batch,
    Erase,
    Expire,
    Forget,
    Journey,
    Operation,
    World,
    workspace_of,
)

OPERATIONS_BEFORE_JOURNEYS = 15
RECORDS_MAX = (1, 2, 3, 5, 16)

K = TypeVar("K")


class Expected(msgspec.Struct, frozen=True):
    """The answer to a batch: events taken, events seen before, or the request whose answer comes again."""

    accepted: int
    duplicates: int
    repeats: str = ""


class Growing:
    """A growing world. A drawn operation becomes part of it when it is `add`ed."""

    def __init__(self, source: random.Random, account: str) -> None:
        self.choose = Chooser(source.randrange)
        self.palette = draw_palette(self.choose, account)
        self.aliases = Aliases()
        self.journeys: tuple[Journey, ...] = ()
        self.stored: frozenset[str] = frozenset()
        """The journeys whose membership the store keeps."""
        self._operations: list[Operation] = []
        self._event_ids: set[tuple[str, str]] = set()
        self._requests: list[str] = []
        self._oracle: Oracle | None = None
        self._trees: Trees | None = None

    @property
    def account(self) -> str:
        """The account it is in."""
        return self.palette.account

    @property
    def length(self) -> int:
        """How many operations it has."""
        return len(self._operations)

    def world(self) -> World:
        """The world so far."""
        palette = self.palette
        return World(
            account=palette.account,
            inputs=palette.inputs,
            time_zone=palette.time_zone,
            as_of=palette.now,
            operations=tuple(self._operations),
            journeys=self.journeys,
            event_retention=palette.event_retention,
        )

    def oracle(self) -> Oracle:
        """The expected state of the world so far."""
        if self._oracle is None:
            self._oracle = Oracle(self.world())
        return self._oracle

    def trees(self) -> Trees:
        """Its journeys for the planner, which do not depend on the operations."""
        if self._trees is None:
            self._trees = Trees(self.world())
        return self._trees

    def copied(self) -> Growing:
        """A copy of the current state."""
        copy = Growing.__new__(Growing)
        copy.__dict__.update(self.__dict__)
        copy.aliases = self.aliases.copied()
        copy._operations = list(self._operations)
        copy._event_ids = set(self._event_ids)
        copy._requests = list(self._requests)
        return copy

    # --- next operation -------------------------------------------------------------------------------------

    def draw_batch(self) -> Batch:
        """New records, often with events seen before among them; sometimes a whole batch again."""
        choose = self.choose
        before = [operation for operation in self._operations if isinstance(operation, Batch)]
        if before and choose.chance(6):
            return choose.pick(before)
        size = choose.between(1, choose.pick(RECORDS_MAX))
        records = [self._record() for _ in range(size)]
        request_id = ""
        if choose.chance(25):
            request_id = f"request-{self.length}"
        elif self._requests and choose.chance(5):
            # Another batch under a request id that was used before.
            request_id = choose.pick(self._requests)
        return Batch(tuple(records), request_id)

    def _record(self) -> Record:
        record = draw_record(self.choose, self.palette)
        if isinstance(record, EventRecord) and self.choose.chance(15):
            # Besides the few ids of the palette, ids that are met again now and then.
            return msgspec.structs.replace(record, event_id=f"id-{self.choose.below(3 + self.length)}")
        return record

    def draw_alias(self) -> Alias:
        """Any two users; see `refusal_of`."""
        return Alias(self.choose.pick(self.palette.user_ids), self.choose.pick(self.palette.user_ids))

    def draw_erase(self) -> Erase:
        """One or two ids, whether or not there is such a user."""
        return Erase(self.choose.some(self.palette.user_ids, 1, 2))

    def draw_expire(self) -> Expire:
        """An instant before which events go: those that the retention is over for. Without a retention it is
        any, until the store keeps memberships, which do not follow such a removal.
        """
        choose, palette = self.choose, self.palette
        earlier = choose.pick((0, 1, MICROS_PER_DAY))
        if palette.event_retention:
            return Expire(palette.now - palette.event_retention - earlier)
        return Expire((min(palette.instants) if self.stored else choose.pick(palette.instants)) - earlier)

    def draw_forget(self) -> Forget:
        """An input or a workspace; the account while the store keeps no memberships of it."""
        input_name = self.choose.pick(self.palette.inputs)
        names = [input_name, input_name, workspace_of(input_name)]
        return Forget(self.choose.pick(names if self.stored else [*names, self.account]))

    def users_below(self, forget: Forget) -> tuple[str, ...]:
        """The users that prevent it."""
        users = self.oracle().users
        return tuple(user_id for user_id, user in users.items() if any(map(forget.covers, user.inputs)))

    def refusal_of(self, alias: Alias) -> str:
        """Why an alias is refused ("" = it is not)."""
        source, target = alias.from_user_id, alias.to_user_id
        if source in self.aliases.chain(target):
            return "ALIAS_CYCLE"
        if self.aliases.now_called(source) in (source, self.aliases.now_called(target)):
            return ""
        return "ALREADY_ALIASED"

    def expected(self, batch: Batch) -> Expected:
        """The expected answer to a batch."""
        if batch.request_id in self._requests:
            return Expected(0, 0, batch.request_id)
        seen = set(self._event_ids)
        duplicates = 0
        for record in batch.records:
            if isinstance(record, EventRecord) and record.event_id:
                duplicates += (record.input, record.event_id) in seen
                seen.add((record.input, record.event_id))
        return Expected(len(batch.records) - duplicates, duplicates)

    def add(self, operation: Operation) -> None:
        """It happened."""
        match operation:
            case Batch():
                self._add_batch(operation)
            case Alias():
                if self.aliases.closes_cycle(operation.from_user_id, operation.to_user_id):
                    # Made before: repeating it changes nothing.
                    return
                self.aliases.link(operation.from_user_id, operation.to_user_id)
            case Erase():
                self.aliases.forget(operation.user_ids)
            case Forget():
                self._event_ids = {each for each in self._event_ids if not operation.covers(each[0])}
                if operation.name == self.account:
                    self.aliases, self._requests = Aliases(), []
        self._operations.append(operation)
        self._oracle = None
        if self.length == OPERATIONS_BEFORE_JOURNEYS:
            self.journeys = JourneyDrawer(self.choose, self.palette, self.world()).journeys()
            self._trees = None

    def _add_batch(self, batch: Batch) -> None:
        if batch.request_id in self._requests:
            return
        if batch.request_id:
            self._requests.append(batch.request_id)
        for record in batch.records:
            if isinstance(record, EventRecord) and record.event_id:
                self._event_ids.add((record.input, record.event_id))
