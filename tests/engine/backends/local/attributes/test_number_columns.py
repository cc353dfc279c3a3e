"""Numbers and times between writes of all kinds: what is asked twice is kept in memory and follows them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from engine.backends.base import Count, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.operators import InstantRange, NumberRange
from engine.criteria.ranges import Interval, TimeRange
from engine.event_columns import TextColumn, ValueColumn
from engine.plan.model import AttributeMatch, Plan
from engine.user_columns import UnsetColumn, UserColumns
from engine.values import Kind, Value

SEED = 20_261_129
ACCOUNT = "accounts/a"
WORKSPACE = f"{ACCOUNT}/workspaces/w"
INPUT = f"{WORKSPACE}/inputs/i"
USERS = 5_000
"""More than a page has."""


class World:
    """A store, and what it should hold, by user number."""

    def __init__(self, directory: Path, random_: random.Random) -> None:
        self.random = random_
        self.backend = LocalBackend.open(directory, settings=LocalSettings(groups=1))
        self.numbers: dict[int, float] = {}
        self.times: dict[int, int] = {}
        self.now = 1

    def write_records(self) -> None:
        """Some users one by one: a number, a time, both unset, or a string in place of the number."""
        records = []
        for user in self.random.sample(range(USERS), 20):
            number: float | str | None = self.random.choice((float(self.random.randrange(100)), "text", None))
            time = self.random.choice((self.random.randrange(100), None))
            self._take(self.numbers, user, number if type(number) is float else None)
            self._take(self.times, user, time)
            attributes: dict[str, Value | None] = {"number": number, "time": time}
            records.append(UserRecord(user_id=f"u{user}", input=INPUT, time=self.now, attributes=attributes))
        self.backend.append(ACCOUNT, records)
        self.now += 1

    def write_columns(self) -> None:
        """Many users at once: a number for each, and a time for none of them."""
        users = np.sort(self.random.sample(range(USERS), self.random.choice((50, 3_000))))
        numbers = np.array([self.random.randrange(100) for _ in users], np.float64)
        for user, number in zip(users.tolist(), numbers.tolist(), strict=True):
            self._take(self.numbers, user, number)
            self._take(self.times, user, None)
        columns = UserColumns(
            user_ids=TextColumn.of([f"u{user}" for user in users.tolist()], np.arange(len(users))),
            inputs=TextColumn.same(INPUT, len(users)),
            time_bytes=np.full(len(users), self.now, "<i8").tobytes(),
            attributes=[ValueColumn.of("number", Kind.NUMBER, None, numbers)],
            unset_attributes=[UnsetColumn.of("time", None)],
        )
        self.backend.append_user_columns(ACCOUNT, columns)
        self.now += 1

    def erase(self) -> None:
        """Some users are erased."""
        for user in self.random.sample(range(USERS), 3):
            self.backend.erase(ACCOUNT, [f"u{user}"])
            self._take(self.numbers, user, None)
            self._take(self.times, user, None)

    def checkpoint(self) -> None:
        """What is in memory alone is stored."""
        self.backend.checkpoint()

    def ask(self) -> None:
        """Counts users by number and by time."""
        low, high = sorted(self.random.sample(range(101), 2))
        number = AttributeMatch(
            workspaces=(WORKSPACE,), key="number", test=NumberRange((Interval(low=low, high=high),))
        )
        time = AttributeMatch(
            workspaces=(WORKSPACE,), key="time", test=InstantRange((TimeRange(start=low, end=high),))
        )
        plan = Plan(account=ACCOUNT, as_of=0, steps=(number, time), roots=(0, 1))
        sizes = self.backend.execute(plan, Count()).sizes
        assert sizes == (
            sum(low <= each <= high for each in self.numbers.values()),
            sum(low <= each < high for each in self.times.values()),
        )

    @staticmethod
    def _take(values: dict[int, float] | dict[int, int], user: int, value: float | None) -> None:
        values.pop(user, None)
        if value is not None:
            values[user] = value  # type: ignore[assignment]


def test_counts_by_number_and_time_follow_every_write(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    chosen = random.Random(SEED)
    world = World(tmp_path / "store", chosen)
    steps = (world.write_records, world.write_columns, world.erase, world.checkpoint, world.ask)
    try:
        world.write_columns()
        for _ in range(60):
            chosen.choices(steps, (4, 2, 1, 1, 6))[0]()
        world.ask()
    finally:
        world.backend.close()
