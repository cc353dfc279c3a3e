"""Checks while others write, refresh, alias and erase: never older than what was acknowledged before.

Each writer owns some users, so it knows after every acknowledged write what a check has to answer. All the
while the memberships are refreshed and published, ids come to mean other users, and new users make the hash
table grow.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from engine.audiences.model import MembershipStatus
from engine.backends.base import UserRecord
from engine.criteria.model import AllOf, Compare, Equals, Event, Last, UserAttribute
from engine.resources.records import Milestone
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, NOW, WEB, Site, event, statuses_of

WRITERS = 3
USERS_PER_WRITER = 6
TURNS = 80
NEW_USERS_PER_TURN = 60
SWITCH_SECONDS = 1e-5
"""Threads take turns a hundred times as often as usual."""

TIERS = ("gold", "tin", "none")


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Crowd:
    """Threads and the first error of each. Those that repeat a job do so until the others are done."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._done = threading.Event()

    def run(self, once: list[Callable[[], None]], repeated: list[Callable[[], None]]) -> None:
        background = [threading.Thread(target=self._repeat, args=(job,)) for job in repeated]
        foreground = [threading.Thread(target=self._safely, args=(job,)) for job in once]
        for thread in (*background, *foreground):
            thread.start()
        for thread in foreground:
            thread.join()
        self._done.set()
        for thread in background:
            thread.join()

    def _safely(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            self.errors.append(error)

    def _repeat(self, job: Callable[[], None]) -> None:
        while not self._done.is_set() and not self.errors:
            self._safely(job)


class Writer:
    """Writes to users of its own, and checks them after each write."""

    def __init__(self, site: Site, split: tuple[Milestone, ...], number: int, seed: int) -> None:
        self._site = site
        self._split = split
        self._random = random.Random(seed * 1_000 + number)
        self._ids = [f"w{number}-u{at}" for at in range(USERS_PER_WRITER)]
        self._prefix = f"w{number}"
        self.tiers: dict[str, str | None] = {}
        """By id: the tier of the user it names, or None for ids that name no user (any more)."""
        self._aliases: dict[str, str] = {}
        self._time = NOW
        self._count = 0

    def run(self) -> None:
        for _ in range(TURNS):
            touched = self._write()
            for user_id in touched:
                self._check(user_id)

    def _write(self) -> list[str]:
        self._count += 1
        match self._random.randrange(12):
            case 0:
                return self._erase()
            case 1:
                return self._alias()
            case _:
                return self._set_tier()

    def _set_tier(self) -> list[str]:
        user_id, tier = self._random.choice(self._ids), self._random.choice(TIERS)
        user_id = self._aliases.get(user_id, user_id)
        self._time += 1
        self._site.backend.append(ACCOUNT, [UserRecord(user_id, WEB, self._time, {"tier": tier})])
        self.tiers[user_id] = tier
        return [user_id, *self._names_of(user_id)]

    def _erase(self) -> list[str]:
        user_id = self._random.choice(self._ids)
        self._site.backend.erase(ACCOUNT, [user_id])
        user_id = self._aliases.get(user_id, user_id)
        gone = [user_id, *self._names_of(user_id)]
        for each in gone:
            self.tiers[each] = None
            self._aliases.pop(each, None)
        return gone

    def _alias(self) -> list[str]:
        target = self._random.choice(self._ids)
        target = self._aliases.get(target, target)
        alias = f"{self._prefix}-a{self._count}"
        # Often a user of its own until then: its data moves, and its tier counts if it is the later write.
        if self._random.random() < 0.5:
            self._time += 1
            tier = self._random.choice(TIERS)
            self._site.backend.append(ACCOUNT, [UserRecord(alias, WEB, self._time, {"tier": tier})])
            self.tiers[alias] = tier
            self._check(alias)
            self.tiers[target] = tier
        self._site.backend.alias(ACCOUNT, alias, target)
        self._ids.append(alias)
        self._aliases[alias] = target
        return [target, *self._names_of(target)]

    def _names_of(self, user_id: str) -> list[str]:
        return [alias for alias, target in self._aliases.items() if target == user_id]

    def expected(self, user_id: str) -> tuple[bool, ...]:
        """For each milestone of the split whether the user is in it."""
        tier = self.tiers.get(self._aliases.get(user_id, user_id))
        return tier == "gold", tier == "tin", tier == "none"

    def _check(self, user_id: str) -> None:
        members = self._site.engine.members
        revision = self._site.backend.revision()
        expected = self.expected(user_id)
        for milestone, member in zip(self._split, expected, strict=True):
            found = members.check(milestone.audience, user_id, at_least=revision)
            assert (found.member, milestone.name) == (member, milestone.name), (user_id, self._count)
            assert found.revision >= revision
        names = [milestone.audience for milestone in self._split]
        ((_, statuses),) = statuses_of(members.batch_check(ACCOUNT, [user_id], names))
        assert tuple(status is MembershipStatus.MEMBER for status in statuses) == expected, user_id
        own = {record.name for record in members.user_audiences(ACCOUNT, user_id).audiences}
        assert own == {name for name, member in zip(names, expected, strict=True) if member}


@pytest.mark.parametrize("turn", range(2))
def test_checks_see_every_acknowledged_write(site: Site, turn: int) -> None:
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    split = (
        site.add("gold", UserAttribute(key="tier", test=Equals("gold"))),
        # Depends on time, and so is refreshed for time alone as well.
        site.add(
            "tin",
            AllOf(
                criteria=(
                    UserAttribute(key="tier", test=Equals("tin")),
                    Event(name="x", window=Last(duration=MICROS_PER_DAY), test=Compare("less_than", 1.0)),
                )
            ),
        ),
        site.add("others", None),
    )
    for milestone in split:
        site.connect(milestone, milestone.name.rpartition("/")[2])
    site.engine.live.refresh_all()
    writers = [Writer(site, split, number, seed) for number in range(WRITERS)]
    names = [milestone.audience for milestone in split]
    grown = 0

    def refresh() -> None:
        site.clock.now += 1_000
        site.engine.live.refresh_all()

    def grow() -> None:
        nonlocal grown
        site.backend.append(ACCOUNT, [event(f"new-{grown + at}", "y") for at in range(NEW_USERS_PER_TURN)])
        grown += NEW_USERS_PER_TURN

    def look() -> None:
        """No user is in two audiences of a split, whatever is going on."""
        asked = [user_id for writer in writers for user_id in writer.tiers.copy()]
        answer = site.engine.members.batch_check(ACCOUNT, [*asked, f"new-{grown - 1}"], names)
        for user_id, statuses in statuses_of(answer):
            assert statuses.count(MembershipStatus.MEMBER) <= 1, user_id

    crowd = Crowd()
    with switching_often():
        crowd.run([writer.run for writer in writers], [refresh, refresh, grow, look])
    for error in crowd.errors:
        raise error
    # In the end published and evaluated answers are the same.
    for _ in range(2):
        for milestone, column in zip(split, range(3), strict=True):
            evaluated = site.members(milestone)
            for writer in writers:
                for user_id in writer.tiers:
                    member = writer.expected(user_id)[column]
                    if user_id not in writer._aliases:
                        assert (user_id in evaluated) is member, user_id
                    assert site.engine.members.check(milestone.audience, user_id).member is member
        site.engine.live.refresh_all()
