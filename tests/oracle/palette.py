"""Palettes for random worlds: small pools of names, values and instants that hit the edges.

Every world draws a few of each, so that criteria and data often match and few sets are empty or full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros, Value
from tests.oracle.times import local_day

_T = TypeVar("_T")


class Chooser:
    """Random choices in the form the generators use; `below(n)` gives an integer in [0, n).

    Zero is taken to be the simplest choice, so the plain case comes first in every pool.
    """

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below

    def between(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in about `percent` of a hundred cases."""
        return self.below(100) >= 100 - percent

    def pick(self, pool: Sequence[_T]) -> _T:
        """One of the pool."""
        return pool[self.below(len(pool))]

    def some(self, pool: Sequence[_T], low: int, high: int) -> tuple[_T, ...]:
        """Between `low` and `high` different ones of the pool, in an order of their own."""
        rest = list(pool)
        return tuple(rest.pop(self.below(len(rest))) for _ in range(min(self.between(low, high), len(rest))))


def instant(text: str) -> Micros:
    """The microseconds of an ISO 8601 instant."""
    return (datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")) // timedelta(
        microseconds=1
    )


USER_IDS = (
    *(f"user-{n}" for n in range(8)),
    "User-1",
    "user-1 ",
    "müller",
    "a\0b",
    "😀",
    "x" * 256,
    'quo"te',
)
INPUT_PATHS = (
    "workspaces/app/inputs/ios",
    "workspaces/app/inputs/android",
    "workspaces/site/inputs/web",
    "workspaces/crm/inputs/feed",
)
EVENT_NAMES = ("buy", "open", "Buy", "buy.item", 'say "hi"', "nul\0name", "🎉", "buy ")
UNREAD_EVENT = "heartbeat"
"""No criterion names it: only those for events of any name read it."""
USER_KEYS = ("plan", "age", "tags", "joined", "Plan", "plan.tier", 'q"k', "n\0k", "📦", "version", "place")
EVENT_KEYS = ("amount", "sku", "when", "Amount", "a.mount", "flag", "colors", 'p"rice', "🏷")
IDENTITY_TYPES = ("email", "customer_id")
REGULATIONS = (("gdpr", "marketing"), ("gdpr", "analytics"), ("ccpa", "marketing"))
EVENT_IDS = ("e1", "e2", "e3", "ü")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
"""Zones whose standard time and whose rule for summer have not changed since 2008."""

NUMBERS = (
    1.0,
    0.0,
    2.0,
    0.1,
    0.2,
    0.3,
    3.0,
    9.0,
    10.0,
    12.0,
    -0.0,
    -1.0,
    0.7,
    123456.789,
    9007199254740993.0,
    1e15,
    1e308,
    -1e308,
    5e-324,
    1.7976931348623157e308,
)
STRINGS = (
    "gold",
    "Gold",
    "1",
    "12",
    "9",
    "",
    "true",
    "goldfish",
    "Straße",
    "STRASSE",
    "ΣΊΣΥΦΟΣ",
    "σίσυφος",
    "a.b",
    'a"b',
    "a\0b",
    "🙂",
    "a*b",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
)
VERSIONS = (
    *("1.0.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.2.10", "1.10.2", "1.0.0+build.5"),
    *("1", "1.0", "1.10", "1-alpha", "1.2+7"),
)
NO_VERSIONS = ("v1.0.0", "v1", "1.0.0.0", "1.", " 1.0", "01.0.0", "1.0.0-01", "1.0.0-")
PLACES = ("52.52,13.405", "48.8566,2.3522", "0,0", "0,180", "-33.8688,151.2093", "91,0", "52.52", "x,y")
EMAILS = ("ann@example.org", "Ann@Example.org", "bob@example.com", "")
LISTS: tuple[tuple[str, ...], ...] = (("gold",), (), ("gold", "1"), ("", "🙂"), ("12", "1.10.2", "12"))
PATTERNS = (
    "^gold",
    "g.*d",
    "[0-9]+",
    "old$",
    "^$",
    r"\.",
    "^.$",
    "(?i)GOLD",
    "ß|🙂",
    "a{3,}",
    "^(1|12)$",
)
DURATIONS = (
    MICROS_PER_DAY,
    1,
    MICROS_PER_SECOND,
    MICROS_PER_HOUR,
    7 * MICROS_PER_DAY,
    30 * MICROS_PER_DAY,
    MICROS_PER_DAY - 1,
    MICROS_PER_DAY + 1,
)
NOWS = tuple(
    map(
        instant,
        (
            "2025-06-18T13:37:11.123457Z",
            "2018-01-01T00:00:00Z",
            "2024-12-31T23:59:59.999999Z",
            "2025-01-01T05:00:00Z",
            "2024-02-29T23:00:00Z",
            "2024-12-30T00:00:00Z",
            "2025-03-31T22:00:00Z",
            "2025-03-30T00:59:59.999999Z",
            "2025-03-30T01:00:00Z",
            "2025-03-30T22:00:00Z",
            "2024-10-27T00:30:00Z",
            "2024-10-27T23:00:00Z",
            "2025-03-09T07:00:00Z",
            "2025-11-02T06:00:00Z",
            "2025-11-03T05:00:00Z",
        ),
    )
)
HALF_HOUR = MICROS_PER_HOUR // 2
NUDGES = (0, 0, 1, -1)
AHEAD = (1, MICROS_PER_HOUR, 23 * MICROS_PER_HOUR)


@dataclass(frozen=True)
class Palette:
    """The pools that one world draws from."""

    account: str
    now: Micros
    time_zone: str
    inputs: tuple[str, ...]
    user_ids: tuple[str, ...]
    event_names: tuple[str, ...]
    instants: tuple[Micros, ...]
    user_values: dict[str, tuple[Value, ...]]
    event_values: dict[str, tuple[Value, ...]]
    event_retention: Micros


def draw_palette(choose: Chooser, account: str) -> Palette:
    """The pools of one world."""
    now, zone = choose.pick(NOWS), choose.pick(ZONES)
    instants = tuple(draw_instant(choose, now, zone) for _ in range(choose.between(5, 14)))
    return Palette(
        account=account,
        now=now,
        time_zone=zone,
        inputs=tuple(f"{account}/{path}" for path in choose.some(INPUT_PATHS, 1, 4)),
        user_ids=choose.some(USER_IDS, 4, 12),
        event_names=choose.some(EVENT_NAMES, 1, 3),
        instants=instants,
        user_values={
            key: draw_values(choose, instants, choose.pick(("plain", key)))
            for key in choose.some(USER_KEYS, 1, 3)
        },
        event_values={
            key: draw_values(choose, instants, choose.pick(("amount", key)))
            for key in choose.some(EVENT_KEYS, 1, 2)
        },
        event_retention=draw_retention(choose, now, instants) if choose.chance(30) else 0,
    )


def draw_retention(choose: Chooser, now: Micros, instants: tuple[Micros, ...]) -> Micros:
    """A retention that ends at one of the instants or next to it, when that is in the past."""
    return max(1, now - choose.pick(instants) + choose.pick(NUDGES))


def draw_instant(choose: Chooser, now: Micros, zone: str) -> Micros:
    """An instant at or near the edge of some window that ends at `now`, or anywhere in the last 45 days."""
    nudge = choose.pick(NUDGES)
    match choose.below(7):
        case 6:
            return (now // HALF_HOUR - choose.between(-2, 4)) * HALF_HOUR + nudge
        case 0:
            return now - choose.pick((*DURATIONS, *DURATIONS[4:6])) + nudge
        case 1:
            return now + nudge
        case 2:
            return start_of_day(now, choose.pick(ZONES), -choose.between(-1, 8)) + nudge
        case 3:
            return start_of_day(now, zone, -choose.between(0, 62)) + nudge
        case 4:
            return now + choose.pick(AHEAD)
        case _:
            return now - choose.between(0, 45 * 24) * MICROS_PER_HOUR - choose.below(MICROS_PER_SECOND)


def start_of_day(now: Micros, zone: str, days_later: int) -> Micros:
    """Midnight in `zone`, that many days after the day that `now` belongs to."""
    day = local_day(now, zone) + timedelta(days=days_later)
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    return instant(midnight.astimezone(ZoneInfo("UTC")).isoformat())


def draw_values(choose: Chooser, instants: tuple[Micros, ...], theme: str) -> tuple[Value, ...]:
    """The few values one attribute takes in a world: mostly those of its theme, some of any kind."""
    themes: dict[str, Sequence[Value]] = {
        "age": NUMBERS,
        "amount": NUMBERS,
        "version": (*VERSIONS, *NO_VERSIONS),
        "place": PLACES,
        "joined": instants,
        "when": instants,
        "tags": LISTS,
        "colors": LISTS,
        "flag": (True, False),
    }
    usual: Sequence[Value] = themes.get(theme, STRINGS)
    values = [choose.pick(usual) for _ in range(choose.between(2, 4))]
    if choose.chance(40):
        values.append(draw_value(choose, instants))
    if choose.chance(20):
        values += choose.pick(((1.0, True, "1"), (12.0, "12", ("12",)), (0.0, False, "", ())))
    return tuple(values)


def draw_value(choose: Chooser, instants: tuple[Micros, ...]) -> Value:
    """A value of any kind."""
    pools: tuple[Sequence[Value], ...] = (NUMBERS, STRINGS, (True, False), instants, LISTS)
    return choose.pick(choose.pick(pools))
