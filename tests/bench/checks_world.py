"""The world of the checks table: an activated journey, and one with the same milestones that is not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from engine import Engine
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import (
    Aggregate,
    AllOf,
    Compare,
    Criterion,
    Event,
    In,
    Last,
    UserAttribute,
)
from engine.resources.records import Connection, Journey, Milestone, MilestoneKind, Output
from engine.resources.targets import Watch
from engine.values import MICROS_PER_DAY
from tests.bench import marketing_world
from tests.bench.marketing_world import ACCOUNT

WINDOW = Last(duration=400 * MICROS_PER_DAY)
"""Long enough that the events of the world, which are of a fixed month, are inside."""

SPLITS: tuple[Criterion, ...] = (
    UserAttribute(key="plan", test=In(("basic", "plus", "team"))),
    Event(name="visit", window=WINDOW, test=Compare("greater_or_equal", 1.0)),
    AllOf(
        criteria=(
            Event(name="purchase", window=WINDOW),
            Event(
                name="purchase",
                window=WINDOW,
                aggregate=Aggregate.SUM,
                of="amount",
                test=Compare("greater_or_equal", 250.0),
            ),
        )
    ),
)
"""Three levels, each below the one before: an attribute, two counts and a sum."""

ENGINE_TURNS = 5
ENGINE_CHECKS = 2_000
BATCH_USERS = 10_000
MICROS_A_SECOND = 1_000_000


@dataclass(frozen=True)
class World:
    """A filled store: its audiences, and users to ask about."""

    store: Path
    activated: str
    not_activated: str
    users: tuple[str, ...]


def build(directory: Path, scale: marketing_world.Scale) -> World:
    """A new store with both journeys; the deepest milestone of one is activated."""
    store = directory / "store"
    marketing_world.fill(store, scale)
    engine = Engine(LocalBackend.open(store))
    try:
        audiences = []
        for journey_id in ("activated", "evaluated"):
            journey = engine.journeys.create_journey(ACCOUNT, journey_id, Journey(name=""))
            audiences.append(_build(engine, journey.name))
        engine.connections.create_output(ACCOUNT, "watch", Output(name="", target=Watch()))
        record = Connection(name="", audience=audiences[0], output=f"{ACCOUNT}/outputs/watch")
        engine.connections.activate(engine.connections.create_connection(ACCOUNT, "watch", record).name)
        engine.live.refresh_all()
    finally:
        engine.close()
    # A stride that meets every group, and asks for each user as often as for any other.
    users = tuple(f"u{number * 7_919 % scale.users}" for number in range(min(scale.users, 50_000)))
    return World(store, audiences[0], audiences[1], users)


def _build(engine: Engine, journey: str) -> str:
    """The audience of the deepest milestone."""
    parent, audience = "", ""
    for level, criteria in enumerate(SPLITS):
        record = Milestone(
            name="", audience="", parent=parent, kind=MilestoneKind.CRITERIA, criteria=criteria
        )
        created = engine.milestones.create_milestone(journey, f"level-{level}", record).record
        parent, audience = created.name, created.audience
    return audience


@dataclass(frozen=True)
class EngineMicros:
    """Processor time of one thread in the engine alone, in microseconds."""

    activated: float
    not_activated: float
    batch_decision: float


def engine_micros(world: World) -> EngineMicros:
    """Checks in this process, without a server."""
    engine = Engine(LocalBackend.open(world.store))
    try:
        engine.live.refresh_all()
        # The batch comes first: all users are in memory afterwards.
        return EngineMicros(
            batch_decision=_batch_micros(engine, world.activated, world.users[:BATCH_USERS]),
            activated=_micros(engine, world.activated, world.users, ENGINE_CHECKS),
            not_activated=_micros(engine, world.not_activated, world.users, ENGINE_CHECKS // 10),
        )
    finally:
        engine.close()


def _micros(engine: Engine, audience: str, users: tuple[str, ...], checks: int) -> float:
    taken = []
    for turn in range(ENGINE_TURNS):
        asked = [users[(turn * checks + at) % len(users)] for at in range(checks)]
        started = time.thread_time()
        for user in asked:
            engine.members.check(audience, user)
        taken.append((time.thread_time() - started) / len(asked))
        engine.live.refresh_all()
    return median(taken) * MICROS_A_SECOND


def _batch_micros(engine: Engine, audience: str, users: tuple[str, ...]) -> float:
    taken = []
    for _ in range(ENGINE_TURNS):
        started = time.thread_time()
        engine.members.batch_check(ACCOUNT, users, (audience,))
        taken.append((time.thread_time() - started) / len(users))
        engine.live.refresh_all()
    return median(taken) * MICROS_A_SECOND
