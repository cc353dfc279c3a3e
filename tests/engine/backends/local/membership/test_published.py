"""What is published answers as one state, whatever happens while it is read.

Each test lets something happen in the middle of an answer: the users found and the members asked are fakes
that call back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest
from pyroaring import BitMap

from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, Membership, PublishedMembership
from engine.backends.local.account.readers import ReadBy
from engine.backends.local.membership.dirty_users import DirtyUsers
from engine.backends.local.membership.published import IdChanges, PublishedAccount, StoredMembers
from engine.backends.local.storage.user_ref import GROUP_SHIFT, UserRef, UserRefs
from engine.backends.local.users.hash_table import UNKNOWN

FACTS = PublishedMembership(Membership(0, 0, 0, 1, 0, 0, 0), "")
GROUPS = 2
ACCOUNT = "accounts/a"


@dataclass
class Users:
    """Finds `u<n>` as user n of group n % 2; others are unknown. `meanwhile` is called while finding."""

    meanwhile: Callable[[], None] = lambda: None

    def open(self) -> None:
        pass

    def find(self, user_id: str) -> UserRef | None:
        self.meanwhile()
        if not user_id.startswith("u"):
            return None
        number = int(user_id[1:])
        return (number % GROUPS << GROUP_SHIFT) + number

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        found = [self.find(user_id) for user_id in user_ids]
        return np.array([UNKNOWN if ref is None else ref for ref in found], np.int64)


@dataclass
class Members:
    """Members of a group; `meanwhile` is called when they are first asked."""

    users: frozenset[int]
    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def __contains__(self, dense: int) -> bool:
        while self.meanwhile:
            self.meanwhile.pop()()
        return dense in self.users

    def __len__(self) -> int:
        return len(self.users)


class World:
    """Two exclusive audiences of one scope, over users 0 to 9: below 5, and the others."""

    def __init__(self) -> None:
        self.users = Users()
        self.ids = IdChanges()
        self.dirty = DirtyUsers(GROUPS)
        self.dirty.track(ACCOUNT, "scope", whole=False)
        self.low = [Members(frozenset(range(5))) for _ in range(GROUPS)]
        self.high = [Members(frozenset(range(5, 10))) for _ in range(GROUPS)]

    def mark(self, *numbers: int) -> None:
        users = {g: BitMap([n for n in numbers if n % GROUPS == g]) for g in range(GROUPS)}
        self.dirty.mark([ReadBy(frozenset({"scope"}), users)])

    def published(self) -> PublishedAccount:
        stored = {
            name: StoredMembers(FACTS, "scope", cast(tuple[BitMap, ...], tuple(members)))
            for name, members in (("low", self.low), ("high", self.high))
        }
        return PublishedAccount(self.users, self.ids, self.ids.count, stored, self.dirty.of_account(ACCOUNT))


def change_ids(world: World) -> None:
    world.ids.count += 1


def test_members_dirty_users_and_unknown_ids() -> None:
    world = World()
    state = world.published()
    world.mark(3, 8)
    asked = ["u1", "u3", "u8", "u9", "x"]
    assert [state.contains("low", each) for each in asked] == [True, None, None, False, False]
    assert [state.contains("high", each) for each in asked] == [False, None, None, True, False]
    assert state.contains_many(["high", "low"], asked).tolist() == [
        [NOT_MEMBER, MEMBER],
        [UNDECIDED, UNDECIDED],
        [UNDECIDED, UNDECIDED],
        [MEMBER, NOT_MEMBER],
        [NOT_MEMBER, NOT_MEMBER],
    ]


@pytest.mark.parametrize("first", ["low", "high"])
def test_a_user_that_becomes_dirty_meanwhile_is_undecided_in_all_or_none(first: str) -> None:
    world = World()
    state = world.published()
    for group, members in enumerate(world.low if first == "low" else world.high):
        members.meanwhile.append(functools.partial(world.mark, *range(group, 10, 2)))
    for audiences in (["low", "high"], ["high", "low"]):
        flags = state.contains_many(audiences, [f"u{n}" for n in range(10)])
        for row in flags.tolist():
            assert sorted(row) in ([NOT_MEMBER, MEMBER], [UNDECIDED, UNDECIDED])


def test_an_id_that_changes_its_user_meanwhile_is_undecided() -> None:
    world = World()
    state = world.published()
    world.users.meanwhile = lambda: change_ids(world)
    assert state.contains("low", "u1") is None
    assert world.published().contains_many(["low"], ["u1", "x"]).tolist() == [[UNDECIDED], [UNDECIDED]]
    # From then on the state does not answer any more; the next one does.
    world.users.meanwhile = lambda: None
    assert state.contains("low", "u1") is None
    assert world.published().contains("low", "u1") is True


def test_a_refresh_or_an_erasure_leaves_the_dirty_users_of_earlier_states() -> None:
    world = World()
    state = world.published()
    world.mark(1, 2)
    world.dirty.remove(ACCOUNT, {1: BitMap([1])})
    assert state.contains("low", "u1") is None
    assert world.published().contains("low", "u1") is True
    assert world.published().contains("low", "u2") is None
    world.dirty.track(ACCOUNT, "scope", whole=False)
    assert state.contains("low", "u2") is None
    assert world.published().contains("low", "u2") is True
    world.mark(4)
    assert world.published().contains("low", "u4") is None


def test_everyone_of_a_scope_may_be_dirty() -> None:
    world = World()
    world.dirty.track(ACCOUNT, "scope", whole=True)
    world.mark(1)
    state = world.published()
    assert (state.contains("low", "u1"), state.contains("low", "x")) == (None, False)
    assert state.contains_many(["low"], ["u1", "x"]).tolist() == [[UNDECIDED], [NOT_MEMBER]]
