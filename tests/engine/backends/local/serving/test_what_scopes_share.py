"""Journeys that are alike share what is served of them: stamps, populations and the members themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from pyroaring import BitMap

from engine.backends.local.account.people import People
from engine.backends.local.serving.accounts import SharedAccount
from engine.backends.local.serving.arena import Arena
from engine.backends.local.serving.ids import MISSING_SHARE
from engine.backends.local.serving.scopes import EMPTY, Block, SharedBitmaps
from engine.resources.records import Journey, Milestone
from tests.engine.backends.local.serving.test_serving import Served, reading
from tests.engine.site import ACCOUNT, did

JOURNEYS = 5
USERS = [f"u{number}" for number in range(200)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path / "store")
    yield site
    site.close()


@pytest.fixture
def milestones(served: Served) -> list[Milestone]:
    """Audiences of a journey each: who bought."""
    found = []
    for number in range(JOURNEYS):
        served.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
        found.append(served.add("m", did("buy", days=30), journey=f"{ACCOUNT}/journeys/j{number}"))
        served.connect(found[-1], f"c{number}")
    served.refresh()
    return found


def members(served: Served, milestone: Milestone) -> tuple[BitMap, ...]:
    found = served.backend.published(ACCOUNT).stored[milestone.audience].members  # type: ignore[attr-defined]
    assert found is not None
    return found  # type: ignore[no-any-return]


def test_audiences_that_gain_the_same_users_have_the_same_members_in_memory(
    served: Served, milestones: list[Milestone]
) -> None:
    for start in range(0, len(USERS), 50):
        served.send([(user, "buy") for user in USERS[start : start + 50]])
        served.refresh()
    first, *others = (members(served, milestone) for milestone in milestones)
    assert sum(map(len, first)) == len(USERS)
    for other in others:
        assert all(mine is its for mine, its in zip(first, other, strict=True))
        assert other is first
    bitmaps = served.writer._bitmaps  # type: ignore[attr-defined]
    assert [taken.count for taken in bitmaps._taken.values()] == [JOURNEYS]
    assert [count for _, _, count in bitmaps._held.values()] == [1] * len(list(filter(None, first)))


def test_audiences_that_differ_afterwards_have_members_of_their_own(
    served: Served, milestones: list[Milestone]
) -> None:
    served.send([(user, "buy") for user in USERS])
    served.refresh()
    served.send([("other", "visit")])
    record = Milestone(name=milestones[0].name, audience="", criteria=did("visit", days=30))
    served.engine.milestones.update_milestone(record, {"criteria"})
    served.refresh()
    served.send([("one more", "buy")])
    served.refresh()
    assert served.stored(milestones[0]) == {"other"}
    for milestone in milestones[1:]:
        assert served.stored(milestone) == {*USERS, "one more"}
        assert reading(served).contains(milestone.audience, "one more").member  # type: ignore[union-attr]
    assert not reading(served).contains(milestones[0].audience, "u1").member  # type: ignore[union-attr]


def test_a_bitmap_has_one_block_until_nobody_needs_it() -> None:
    arena = Arena(1_000)
    bitmaps = SharedBitmaps(arena)
    some, equal = BitMap(range(0, 100, 2)), BitMap(range(0, 100, 2))
    first, again, other = bitmaps.take(some), bitmaps.take(some), bitmaps.take(equal)
    assert first == again != other
    bitmaps.give_back(some)
    assert arena.allocate(first.size) != first.at
    bitmaps.give_back(some)
    assert arena.allocate(first.size) == first.at
    assert bitmaps.take(BitMap()) == EMPTY
    bitmaps.give_back(BitMap())


def test_the_members_of_several_audiences_have_blocks_until_none_has_them() -> None:
    arena = Arena(1_000)
    bitmaps = SharedBitmaps(arena)
    stays, goes = BitMap(range(0, 100, 2)), BitMap(range(0, 100, 3))
    before, after = (stays, goes, BitMap()), (stays, BitMap(), BitMap())
    encoded = bitmaps.take_all(before)
    assert bitmaps.take_all(before) is encoded
    blocks = msgspec.msgpack.decode(encoded, type=list[Block])
    assert [block.users for block in blocks] == [len(stays), len(goes), 0]
    # The group that has not changed keeps its block.
    assert msgspec.msgpack.decode(bitmaps.take_all(after), type=list[Block]) == [blocks[0], EMPTY, EMPTY]
    bitmaps.give_all_back(before)
    assert arena.allocate(blocks[1].size) != blocks[1].at
    bitmaps.give_all_back(before)
    assert arena.allocate(blocks[1].size) == blocks[1].at
    assert arena.allocate(blocks[0].size) != blocks[0].at
    bitmaps.give_all_back(after)
    assert arena.allocate(blocks[0].size) == blocks[0].at


def test_the_same_dirty_users_are_marked_once_and_the_same_population_is_counted_once(
    served: Served, milestones: list[Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.send([(user, "buy") for user in USERS])
    marked, counted = [], []
    touch, count = SharedAccount.touch, People.universe_size

    def touched(account: SharedAccount, users: Mapping[int, BitMap], stamp: int) -> None:
        marked.append(stamp)
        touch(account, users, stamp)

    def population(account: People, *args: object) -> int:
        counted.append(args)
        return count(account, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SharedAccount, "touch", touched)
    monkeypatch.setattr(People, "universe_size", population)
    served.refresh()
    assert (len(marked), len(counted)) == (1, 1)
    for milestone in milestones:
        assert reading(served).count(milestone.audience).population == len(USERS)  # type: ignore[union-attr]
    # A write ends what they share.
    served.send([("late", "buy")])
    for milestone in milestones:
        assert reading(served).contains(milestone.audience, "late") is None
    served.refresh()
    for milestone in milestones:
        assert reading(served).contains(milestone.audience, "late").member  # type: ignore[union-attr]
        assert reading(served).count(milestone.audience).population == len(USERS) + 1  # type: ignore[union-attr]


def test_ids_of_a_few_more_users_come_when_no_more_do(served: Served, milestones: list[Milestone]) -> None:
    audience, users = milestones[0].audience, [f"user {number}" for number in range(1_000)]
    served.send([(user, "buy") for user in users])
    served.refresh()
    page = reading(served).page(audience, "", 2 * len(users), None)
    assert page is not None
    assert sorted(page.user_ids) == sorted(users)
    for number in range(len(users) // 16 // MISSING_SHARE // 2):
        # Less than the share of any group's page, of which there are 16.
        users.append(f"more {number}")
        served.send([(users[-1], "buy")])
        served.refresh()
        assert reading(served).page(audience, "", 2 * len(users), None) is None
    served.refresh()
    page = reading(served).page(audience, "", 2 * len(users), None)
    assert page is not None
    assert sorted(page.user_ids) == sorted(users)
