"""A world of users and events drawn from a seed: the same on every machine, as columns, as batches of
an import for a backend, and as Parquet for the peers.

Fifty event names in three densities share 90 days: two dense ones carry 80 % of the events (about 89,000 a
day each at the full scale of 20 million), eight medium ones 16 %, forty sparse ones the rest. Some users are
far more active than others. Every event has `amount`, a number with two decimals, and `category`, one of
twenty strings; every user has the attributes `plan`, `score` and `country`, the identity `email` and a
consent. Times are exact to the microsecond, and the world goes on for some hours after `NOW`, so that both
ends of a window cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.criteria.model import ConsentState, EventType
from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.user_columns import ConsentColumn, UserColumns
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Kind, Micros

ACCOUNT = "accounts/bench"
WORKSPACE = f"{ACCOUNT}/workspaces/shop"
INPUT = f"{WORKSPACE}/inputs/web"

DAYS = 90
END: Micros = 1_790_812_800 * MICROS_PER_SECOND
"""2026-10-01T00:00:00Z, just after the last event."""
START: Micros = END - DAYS * MICROS_PER_DAY
NOW: Micros = END - 7 * MICROS_PER_HOUR - 801_000_457
"""The instant the criteria are evaluated at: on no edge of an hour, some events still to come."""

DENSE_NAMES = tuple(f"dense_{i}" for i in range(2))
MEDIUM_NAMES = tuple(f"medium_{i}" for i in range(8))
SPARSE_NAMES = tuple(f"sparse_{i:02d}" for i in range(40))
NAMES = DENSE_NAMES + MEDIUM_NAMES + SPARSE_NAMES
DENSE_SHARE = 0.80
MEDIUM_SHARE = 0.16

CATEGORIES = tuple(f"category {letter}" for letter in "abcdefghijklmnopqrst")
AMOUNT_CENTS_MAX = 50_000
PLANS = ("free", "basic", "plus", "team", "enterprise")
PLAN_SHARES = (0.55, 0.20, 0.15, 0.07, 0.03)
COUNTRIES = tuple(
    f"{first}{second}-{region}" for first in "ABCDE" for second in "KLMNOPRS" for region in range(5)
)
MAIL_HOSTS = ("mail.example", "post.example", "corp.example", "uni.example")
SCORE_MAX = 1_000
CONSENT_REGULATION = "gdpr"
CONSENT_PURPOSE = "marketing"
CONSENT_SHARE = 0.6
CONSENT_STATES = (ConsentState.DENIED.value, ConsentState.GIVEN.value)
"""By whether it was given."""
ACTIVITY_EXPONENT = 1.4
"""Activity exponent: 1 makes all users equally active; at 1.4 the busiest tenth of the users has a fifth of
the events.
"""

BATCH_ROWS = 100_000
"""Rows of a batch of an import."""
ROW_GROUP_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Size and seed of a world."""

    users: int = 1_000_000
    events: int = 20_000_000
    seed: int = 20_261_001


@dataclass(frozen=True, kw_only=True)
class Users:
    """One row a user; the user's number is the row's index. Codes index the tuples above."""

    plan: NDArray[np.int8]
    country: NDArray[np.int16]
    score: NDArray[np.int32]
    mail_host: NDArray[np.int8]
    consent: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Events:
    """One row an event, in order of time. `user` is the user's number, `cents` a hundred times the amount."""

    user: NDArray[np.uint32]
    name: NDArray[np.int8]
    time: NDArray[np.int64]
    cents: NDArray[np.int32]
    category: NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class World:
    scale: Scale
    users: Users
    events: Events


def user_id(number: int) -> str:
    """The id under which a backend knows the user; the peers know the number."""
    return f"u{number}"


def email(number: int, host: int) -> str:
    return f"{number * 7_919 % 999_983:x}.{number}@{MAIL_HOSTS[host]}"


def draw(scale: Scale) -> World:
    """The world of that scale; equal scales give equal worlds."""
    random = np.random.Generator(np.random.PCG64(scale.seed))
    return World(scale=scale, users=_draw_users(random, scale.users), events=_draw_events(random, scale))


def _draw_users(random: np.random.Generator, count: int) -> Users:
    return Users(
        plan=random.choice(len(PLANS), count, p=PLAN_SHARES).astype(np.int8),
        country=(len(COUNTRIES) * random.random(count) ** 2).astype(np.int16),
        score=random.integers(0, SCORE_MAX + 1, count, dtype=np.int32),
        mail_host=random.integers(0, len(MAIL_HOSTS), count, dtype=np.int8),
        consent=random.random(count) < CONSENT_SHARE,
    )


def _draw_events(random: np.random.Generator, scale: Scale) -> Events:
    count = scale.events
    time = random.integers(START, END, count, dtype=np.int64)
    time.sort()
    rank = random.random(count) ** ACTIVITY_EXPONENT
    return Events(
        user=(rank * scale.users).astype(np.uint32),
        name=random.choice(len(NAMES), count, p=_name_shares()).astype(np.int8),
        time=time,
        cents=(random.random(count) ** 2 * AMOUNT_CENTS_MAX).astype(np.int32) + 1,
        category=(len(CATEGORIES) * random.random(count) ** 1.5).astype(np.int8),
    )


def _name_shares() -> list[float]:
    sparse_share = 1 - DENSE_SHARE - MEDIUM_SHARE
    return (
        [DENSE_SHARE / len(DENSE_NAMES)] * len(DENSE_NAMES)
        + [MEDIUM_SHARE / len(MEDIUM_NAMES)] * len(MEDIUM_NAMES)
        + [sparse_share / len(SPARSE_NAMES)] * len(SPARSE_NAMES)
    )


# --- for a backend ------------------------------------------------------------------------------------------


def user_batches(world: World) -> Iterator[UserColumns]:
    """The users as batches of an import."""
    users = world.users
    for start in range(0, world.scale.users, BATCH_ROWS):
        rows = slice(start, min(start + BATCH_ROWS, world.scale.users))
        numbers = np.arange(rows.start, rows.stop)
        hosts = users.mail_host[rows].tolist()
        emails = [email(number, host) for number, host in zip(numbers.tolist(), hosts, strict=True)]
        consents = ValueColumn.of("", Kind.STRING, None, users.consent[rows], CONSENT_STATES)
        yield UserColumns(
            user_ids=TextColumn.of([user_id(number) for number in numbers.tolist()], numbers - rows.start),
            inputs=TextColumn.same(INPUT, len(numbers)),
            time_bytes=np.full(len(numbers), START, "<i8").tobytes(),
            attributes=[
                ValueColumn.of("plan", Kind.STRING, None, users.plan[rows], PLANS),
                ValueColumn.of("country", Kind.STRING, None, users.country[rows], COUNTRIES),
                ValueColumn.of("score", Kind.NUMBER, None, users.score[rows]),
            ],
            identities=[
                ValueColumn.of("email", Kind.STRING, None, np.arange(len(numbers)), tuple(emails)),
            ],
            consents=[ConsentColumn(CONSENT_REGULATION, CONSENT_PURPOSE, consents)],
        )


def event_batches(world: World) -> Iterator[EventColumns]:
    """The events as batches of an import, in order of time."""
    for start in range(0, world.scale.events, BATCH_ROWS):
        yield event_columns(world.events, slice(start, start + BATCH_ROWS))


def event_columns(events: Events, rows: slice) -> EventColumns:
    """Some of the events as columns."""
    numbers, codes = np.unique(events.user[rows], return_inverse=True)
    return EventColumns(
        user_ids=TextColumn.of([user_id(number) for number in numbers.tolist()], codes),
        inputs=TextColumn.same(INPUT, len(codes)),
        names=TextColumn.of(NAMES, events.name[rows]),
        type_bytes=np.full(len(codes), EventType.CUSTOM, np.uint8).tobytes(),
        time_bytes=events.time[rows].astype("<i8").tobytes(),
        attributes=[
            ValueColumn.of("amount", Kind.NUMBER, None, events.cents[rows] / 100),
            ValueColumn.of("category", Kind.STRING, None, events.category[rows], CATEGORIES),
        ],
    ).trimmed()


# --- for the peers ------------------------------------------------------------------------------------------


def write_parquet(world: World, directory: Path) -> tuple[Path, Path]:
    """Writes `users.parquet` (user_number, plan, country, score, email, consent, last_seen) and
    `events.parquet` (user_number, name, time, amount, category) with native types, and returns both paths.
    """
    directory.mkdir(parents=True, exist_ok=True)
    users_path, events_path = directory / "users.parquet", directory / "events.parquet"
    pq.write_table(_users_table(world), users_path)
    with pq.ParquetWriter(events_path, _EVENTS_SCHEMA) as writer:
        for start in range(0, world.scale.events, ROW_GROUP_ROWS):
            writer.write_table(_events_table(world.events, slice(start, start + ROW_GROUP_ROWS)))
    return users_path, events_path


def _users_table(world: World) -> pa.Table:
    users = world.users
    last_seen = np.full(world.scale.users, START, np.int64)
    np.maximum.at(last_seen, world.events.user, world.events.time)
    return pa.table(
        {
            "user_number": pa.array(np.arange(len(users.plan), dtype=np.uint32)),
            "plan": _strings(users.plan, PLANS),
            "country": _strings(users.country, COUNTRIES),
            "score": pa.array(users.score),
            "email": pa.array([email(number, host) for number, host in enumerate(users.mail_host.tolist())]),
            "consent": pa.array(users.consent),
            "last_seen": pa.array(last_seen).cast(pa.timestamp("us")),
        }
    )


_EVENTS_SCHEMA = pa.schema(
    {
        "user_number": pa.uint32(),
        "name": pa.string(),
        "time": pa.timestamp("us"),
        "amount": pa.decimal128(9, 2),
        "category": pa.string(),
    }
)


def _events_table(events: Events, rows: slice) -> pa.Table:
    cents = pa.array(events.cents[rows]).cast(pa.decimal128(10, 0))
    amount = pc.multiply(cents, pa.scalar(Decimal("0.01"), pa.decimal128(3, 2)))
    return pa.table(
        [
            pa.array(events.user[rows]),
            _strings(events.name[rows], NAMES),
            pa.array(events.time[rows]).cast(pa.timestamp("us")),
            amount.cast(pa.decimal128(9, 2)),
            _strings(events.category[rows], CATEGORIES),
        ],
        schema=_EVENTS_SCHEMA,
    )


def _strings(codes: NDArray[np.int8] | NDArray[np.int16], values: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(values)).cast(pa.string())
