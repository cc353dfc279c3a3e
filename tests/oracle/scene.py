"""Worlds written by hand, one line per operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import msgspec

from engine.backends.base import EventRecord, Record, UserRecord
from engine.criteria.model import ConsentState, Criterion, EventType
from engine.values import Micros, Value
from tests.oracle.palette import instant
from tests.oracle.world import Alias, Batch, Erase, Journey, Milestone, Operation, World, fresh_account

NOON = instant("2025-06-18T12:00:00Z")
"""A Wednesday, far from any edge: the instant of evaluation unless a scene says otherwise."""

IOS = "workspaces/app/inputs/ios"
ANDROID = "workspaces/app/inputs/android"
WEB = "workspaces/site/inputs/web"
ASKED = "asked"


class Scene:
    """Builds a world step by step. Inputs are named below the account (`IOS`, `ANDROID`, `WEB`)."""

    def __init__(self, *, now: Micros = NOON, time_zone: str = "UTC") -> None:
        self.account = fresh_account()
        self.now = now
        self.time_zone = time_zone
        self.operations: list[Operation] = []

    def input(self, path: str) -> str:
        """The resource name of an input."""
        return f"{self.account}/{path}"

    def event(
        self,
        user_id: str,
        name: str = "buy",
        *,
        at: Micros | None = None,
        attributes: Mapping[str, Value] | None = None,
        input: str = IOS,
        type: EventType = EventType.CUSTOM,
        event_id: str = "",
    ) -> Self:
        """An event arrives; it happened `at` (now unless given)."""
        time = self.now if at is None else at
        record = EventRecord(
            user_id, self.input(input), name, type, time, dict(attributes or {}), event_id=event_id
        )
        return self._arrive(record)

    def update(
        self,
        user_id: str,
        attributes: Mapping[str, Value | None] | None = None,
        *,
        at: Micros | None = None,
        input: str = IOS,
        identities: Mapping[str, str | None] | None = None,
        consents: Mapping[tuple[str, str], ConsentState] | None = None,
    ) -> Self:
        """A user update arrives, written `at` (an hour before now unless given)."""
        time = self.now - 3_600_000_000 if at is None else at
        record = UserRecord(
            user_id,
            self.input(input),
            time,
            dict(attributes or {}),
            dict(identities or {}),
            dict(consents or {}),
        )
        return self._arrive(record)

    def _arrive(self, record: Record) -> Self:
        self.operations.append(Batch((record,)))
        return self

    def alias(self, from_user_id: str, to_user_id: str) -> Self:
        """`from` becomes `to`."""
        self.operations.append(Alias(from_user_id, to_user_id))
        return self

    def erase(self, *user_ids: str) -> Self:
        """The users are erased."""
        self.operations.append(Erase(user_ids))
        return self

    def again(self) -> Self:
        """The last batch is sent a second time."""
        self.operations.append(self.operations[-1])
        return self

    def world(self, *journeys: Journey, at: Micros | None = None) -> World:
        """The world so far, with these journeys, looked at from `at` (now unless given)."""
        return World(
            account=self.account,
            inputs=tuple(self.input(path) for path in (IOS, ANDROID, WEB)),
            time_zone=self.time_zone,
            as_of=self.now if at is None else at,
            operations=tuple(self.operations),
            journeys=journeys,
        )

    def asking(
        self, criterion: Criterion, *, inputs: tuple[str, ...] = (), at: Micros | None = None
    ) -> World:
        """The world with one journey of one milestone, `ASKED`."""
        journey = Journey(
            id="j",
            inputs=tuple(map(self.input, inputs)),
            milestones=(Milestone(id=ASKED, criteria=criterion),),
        )
        return self.world(journey, at=at)


def with_journeys(world: World, *journeys: Journey) -> World:
    """The same world after its journeys were edited."""
    return msgspec.structs.replace(world, journeys=journeys)
