"""A world for the size tables: many users with a few attributes, and some events in thirty days.

Attributes and events are drawn from a seed. A country has from 11 to 0.6 per cent of the users and a score
0.1, so that with the plan, the signup and the events criteria of every size can be asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine import Engine
from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.header import GROUPS_DEFAULT
from engine.criteria.model import EventType
from engine.resources.records import Account, Input, Journey, Workspace
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND, Micros

ACCOUNT_ID, WORKSPACE_ID, INPUT_ID, JOURNEY_ID = "bench", "shop", "web", "main"
ACCOUNT = f"accounts/{ACCOUNT_ID}"
WORKSPACE = f"{ACCOUNT}/workspaces/{WORKSPACE_ID}"
INPUT = f"{WORKSPACE}/inputs/{INPUT_ID}"
JOURNEY = f"{ACCOUNT}/journeys/{JOURNEY_ID}"

NOW: Micros = 1_790_812_800 * MICROS_PER_SECOND
"""2026-10-01T00:00:00Z, just after the last event."""
EVENT_DAYS = 30
SIGNUP_DAYS = 1_000

PLANS = ("free", "basic", "plus", "team", "enterprise")
PLAN_SHARES = (0.50, 0.25, 0.14, 0.10, 0.01)
COUNTRIES = tuple(f"{first}{second}" for first in "ABCDEFGHKL" for second in "KLMNOPRS")
SCORE_MAX = 1_000
EVENT_NAMES = ("visit", "open", "purchase", "support", "unsubscribe")
EVENT_SHARES = (0.55, 0.25, 0.14, 0.05, 0.01)
AMOUNT_CENTS_MAX = 50_000

BATCH_RECORDS = 10_000
FILLING_CHECKPOINT_RECORDS = 1_000_000
FILLING_CHECKPOINT_S = 3_600.0
"""Fewer and larger checkpoints than a busy service would use."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size and seed of a world, and the number of partition groups of its store."""

    users: int
    events: int
    groups: int = GROUPS_DEFAULT
    seed: int = 20_261_001

    @property
    def directory(self) -> str:
        """The name of a store of that scale."""
        return f"sizes-{self.users}-{self.events}-{self.groups}-{self.seed}"


def open_engine(directory: Path, scale: Scale) -> Engine:
    """The engine over the store of that scale in `directory`, filled if necessary."""
    store, mark = directory / scale.directory, directory / f"{scale.directory}.filled"
    if not mark.exists():
        shutil.rmtree(store, ignore_errors=True)
        fill(store, scale)
        mark.touch()
    return Engine(LocalBackend.open(store), clock=lambda: NOW)


def fill(store: Path, scale: Scale) -> None:
    """A new store with the world of that scale, checkpointed, and an empty journey over it."""
    store.parent.mkdir(parents=True, exist_ok=True)
    settings = LocalSettings(
        groups=scale.groups,
        checkpoint_records=FILLING_CHECKPOINT_RECORDS,
        checkpoint_s=FILLING_CHECKPOINT_S,
    )
    backend = LocalBackend.open(store, settings=settings)
    engine = Engine(backend, clock=lambda: NOW)
    try:
        engine.accounts.create_account(ACCOUNT_ID, Account(name=""))
        engine.accounts.create_workspace(ACCOUNT, WORKSPACE_ID, Workspace(name=""))
        engine.accounts.create_input(WORKSPACE, INPUT_ID, Input(name=""))
        engine.journeys.create_journey(ACCOUNT, JOURNEY_ID, Journey(name="", display_name="Main"))
        for records in batches(scale):
            backend.append(ACCOUNT, records)
        backend.checkpoint()
    finally:
        engine.close()


def batches(scale: Scale) -> Iterator[list[Record]]:
    """The world as records: users first, then events. Equal scales give equal worlds."""
    random = np.random.Generator(np.random.PCG64(scale.seed))
    for start in range(0, scale.users, BATCH_RECORDS):
        yield _users(random, start, min(BATCH_RECORDS, scale.users - start))
    for start in range(0, scale.events, BATCH_RECORDS):
        yield _events(random, scale.users, min(BATCH_RECORDS, scale.events - start))


def _users(random: np.random.Generator, start: int, count: int) -> list[Record]:
    columns = zip(
        random.choice(len(PLANS), count, p=PLAN_SHARES).tolist(),
        (len(COUNTRIES) * random.random(count) ** 2).astype(np.int64).tolist(),
        random.integers(0, SCORE_MAX + 1, count).tolist(),
        (NOW - random.integers(0, SIGNUP_DAYS * MICROS_PER_DAY, count)).tolist(),
        strict=True,
    )
    return [
        UserRecord(
            user_id=f"u{number}",
            input=INPUT,
            time=NOW - EVENT_DAYS * MICROS_PER_DAY,
            attributes={
                "plan": PLANS[plan],
                "country": COUNTRIES[country],
                "score": float(score),
                "signup": signup,
            },
        )
        for number, (plan, country, score, signup) in enumerate(columns, start)
    ]


def _events(random: np.random.Generator, users: int, count: int) -> list[Record]:
    columns = zip(
        (random.random(count) ** 1.4 * users).astype(np.int64).tolist(),
        random.choice(len(EVENT_NAMES), count, p=EVENT_SHARES).tolist(),
        (NOW - random.integers(0, EVENT_DAYS * MICROS_PER_DAY, count)).tolist(),
        random.integers(1, AMOUNT_CENTS_MAX + 1, count).tolist(),
        strict=True,
    )
    return [
        EventRecord(
            user_id=f"u{user}",
            input=INPUT,
            name=EVENT_NAMES[name],
            type=EventType.CUSTOM,
            time=time,
            attributes={"amount": cents / 100},
        )
        for user, name, time, cents in columns
    ]
