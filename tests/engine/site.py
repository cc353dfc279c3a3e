"""An engine over a real embedded store with a fixed clock, and short helpers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import Engine
from engine.audiences.model import (
    BatchCheck,
    DeliveryBatch,
    MembershipStatus,
    WatchChanges,
    WatchEnd,
    WatchItem,
    WatchMembers,
    WatchStart,
)
from engine.backends.base import EventRecord, UserRecord
from engine.backends.registry import open_backend
from engine.criteria.model import Criterion, Event, EventType, Last
from engine.ingest import Ingested
from engine.limits import DEFAULT_LIMITS, Limits
from engine.resources.records import (
    Account,
    Connection,
    Input,
    Journey,
    Milestone,
    MilestoneKind,
    Output,
    Workspace,
)
from engine.resources.secret_keys import SecretKeys
from engine.resources.targets import File
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros, Value

ACCOUNT = "accounts/acme"
WORKSPACE = f"{ACCOUNT}/workspaces/shop"
WEB = f"{WORKSPACE}/inputs/web"
APP = f"{WORKSPACE}/inputs/app"
JOURNEY = f"{ACCOUNT}/journeys/main"
OUTPUT = f"{ACCOUNT}/outputs/file"
NOW = 20_000 * MICROS_PER_DAY + 12 * MICROS_PER_HOUR
"""2024-10-04T12:00:00Z."""


@dataclass
class Clock:
    """A clock that moves only when set."""

    now: Micros = NOW

    def __call__(self) -> Micros:
        return self.now


class Site:
    """One account with the inputs `web` and `app`, the journey `main` and the output `file`."""

    limits: Limits = DEFAULT_LIMITS

    def __init__(self, directory: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.directory = directory
        self.limits = limits
        self.clock = Clock()
        self.open()
        self.engine.accounts.create_account("acme", Account(name=""))
        self.engine.accounts.create_workspace(ACCOUNT, "shop", Workspace(name=""))
        for name in ("web", "app"):
            self.engine.accounts.create_input(WORKSPACE, name, Input(name=""))
        self.engine.journeys.create_journey(ACCOUNT, "main", Journey(name="", display_name="Main"))
        self.engine.connections.create_output(ACCOUNT, "file", Output(name="", target=File("out")))

    def open(self) -> None:
        """Opens the store; after `engine.close()`, again."""
        self.backend = open_backend(f"local:{self.directory}")
        keys = SecretKeys(self.directory / "secrets.key")
        self.engine = Engine(self.backend, clock=self.clock, limits=self.limits, keys=keys)

    def add(
        self,
        milestone_id: str,
        criteria: Criterion | None,
        parent: str = "",
        *,
        journey: str = JOURNEY,
        display_name: str = "",
    ) -> Milestone:
        """Creates a milestone; without criteria it is the remaining users."""
        record = Milestone(
            name="",
            audience="",
            display_name=display_name,
            parent=parent,
            kind=MilestoneKind.REMAINING_USERS if criteria is None else MilestoneKind.CRITERIA,
            criteria=criteria,
        )
        return self.engine.milestones.create_milestone(journey, milestone_id, record).record

    def send(self, events: Iterable[tuple[str, str]], *, time: Micros = NOW, input: str = WEB) -> Ingested:
        """Ingests events of (user, name), all at one time."""
        rows = [event(user, name, time=time, input=input) for user, name in events]
        return self.engine.ingest.events(ACCOUNT, rows)

    def update(self, user_id: str, attributes: dict[str, Value | None], *, time: Micros = NOW) -> Ingested:
        """Ingests one user update."""
        record = UserRecord(user_id=user_id, input=WEB, time=time, attributes=attributes)
        return self.engine.ingest.users(ACCOUNT, [record])

    def connect(self, milestone: Milestone, connection_id: str = "sending") -> Connection:
        """Connects a milestone's audience to the output and activates the connection."""
        record = Connection(name="", audience=milestone.audience, output=OUTPUT)
        created = self.engine.connections.create_connection(ACCOUNT, connection_id, record)
        return self.engine.connections.activate(created.name)

    def members(self, milestone: Milestone) -> set[str]:
        """The users of a milestone, evaluated now."""
        return {user for page in self.engine.members.export(milestone.name) for user in page.user_ids}

    def stored(self, milestone: Milestone) -> set[str]:
        """The members of a milestone's stored membership."""
        found: set[str] = set()
        for item in items_of(self.engine, WatchStart(milestone.audience)):
            match item.update:
                case WatchMembers(user_ids):
                    found.update(user_ids)
                case WatchChanges(changes):
                    for change in changes:
                        (found.add if change.entered else found.discard)(change.user_id)
                case WatchEnd():
                    return found
        raise AssertionError("the snapshot did not end")

    def deliver(self, connection_name: str, limit: int = 100) -> list[tuple[str, bool]]:
        """Delivers all pending changes of a connection: (user, entered), in order."""
        delivered: list[tuple[str, bool]] = []
        while True:
            waiting = [o for o in self.engine.deliveries.active() if o.connection.name == connection_name]
            if not waiting:
                return delivered
            batch = self.step(connection_name, limit)
            delivered += [(change.user_id, change.entered) for change in batch.changes]
            if batch.caught_up:
                return delivered

    def step(self, connection_name: str, limit: int) -> DeliveryBatch:
        """Delivers the next batch of a connection."""
        connection = self.engine.connections.get_connection(connection_name)
        batch = self.engine.deliveries.pull(connection, limit)
        self.engine.deliveries.advance(connection, batch.cursor)
        return batch


def items_of(
    engine: Engine, start: WatchStart, progress_interval: Micros = 10 * MICROS_PER_SECOND
) -> Iterator[WatchItem]:
    """The items of a stream, waited for."""
    changed = threading.Event()
    stream = engine.live.watch(start, progress_interval=progress_interval, wake=changed.set)

    def items() -> Iterator[WatchItem]:
        while True:
            changed.clear()
            item = stream.take()
            if item is None:
                changed.wait(max(0.0, stream.due - time.monotonic()))
            else:
                yield item

    return items()


def event(
    user: str,
    name: str,
    *,
    time: Micros = NOW,
    input: str = WEB,
    attributes: dict[str, Value] | None = None,
    event_id: str = "",
) -> EventRecord:
    """One custom event."""
    return EventRecord(user, input, name, EventType.CUSTOM, time, attributes or {}, event_id)


def did(name: str, *, days: int = 0, label: str = "") -> Criterion:
    """The user did that, at any time or in the last `days`."""
    window = Last(duration=days * MICROS_PER_DAY) if days else None
    return Event(name=name, window=window, label=label)


def statuses_of(answer: BatchCheck) -> list[tuple[str, tuple[MembershipStatus, ...]]]:
    """Each user of a batch check with its statuses, in order."""
    rows = zip(answer.user_ids, answer.rows, strict=True)
    return [(user_id, answer.patterns[row]) for user_id, row in rows]
