"""Stored memberships are right at the moment they are stored, although others write during the refresh."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.backends.base import Contains, UserRecord
from engine.backends.base import Members as AskMembers
from engine.backends.local.backend import LocalBackend
from engine.backends.local.query import evaluation
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import Equals, Text
from engine.plan.model import AttributeMatch, Difference, Plan, Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB
from tests.engine.backends.local.query.interleaving import giving_way
from tests.oracle.world import Erase

USERS = 150
SHOP = f"{ACCOUNT}/workspaces/shop"
OTHERS = f"{ACCOUNT}/audiences/others"
GOLD = Plan(
    account=ACCOUNT,
    as_of=NOON,
    steps=(
        Universe(inputs=(WEB,)),
        AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold")),
        AttributeMatch(workspaces=(SHOP,), key="plan", test=Text(op="matches", pattern="^go")),
        Difference(minuend=0, subtrahend=1),
    ),
    roots=(2, 3),
)


class Changing:
    """Users change their plan in every pause, and some are erased."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._random = random.Random(7)
        self.pauses = 0

    def happen(self) -> None:
        """Some users change, mostly the same few."""
        self.pauses += 1
        if self.pauses % 3 == 0:
            self.change()

    def change(self) -> None:
        """Some users change now."""
        some = [self._random.randrange(USERS if self.pauses % 4 else 5) for _ in range(10)]
        plans = self._random.choices(("gold", "free"), k=len(some))
        records = [
            UserRecord(f"u{user}", WEB, NOON, {"plan": plan}) for user, plan in zip(some, plans, strict=True)
        ]
        self._backend.append(ACCOUNT, records)
        if self.pauses % 30 == 0:
            erased = Erase((f"u{self._random.randrange(USERS)}",))
            self._backend.erase(ACCOUNT, erased.user_ids)


def _check(backend: LocalBackend) -> None:
    """The stored memberships are those of the plan, and their logs add up to them."""
    user_ids = tuple(f"u{user}" for user in range(USERS))
    flags = backend.execute(GOLD, Contains(user_ids)).flags
    for at, audience in enumerate((AUDIENCE, OTHERS)):
        assert backend.pending(JOURNEY) == 0
        stored = set(backend.stored_members(audience, AskMembers()).user_ids)
        assert stored == {user_id for user_id, each in zip(user_ids, flags, strict=True) if each[at]}
        membership = backend.membership(audience)
        assert membership is not None
        assert membership.size == len(stored)
        members: set[str] = set()
        for change in backend.changes(audience, 0, 100_000).changes:
            assert (change.user_id in members) != change.entered
            members ^= {change.user_id}
        assert members == stored


@pytest.mark.parametrize(("rounds_max", "at_once"), [(0, 0), (1, 64), (8, 4)])
def test_a_refresh_is_right_when_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds_max: int, at_once: int
) -> None:
    monkeypatch.setattr(evaluation, "ROUNDS_MAX", rounds_max)
    monkeypatch.setattr(evaluation, "AT_ONCE_USERS_MAX", at_once)
    backend = LocalBackend.open(tmp_path, settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    backend.append(ACCOUNT, [UserRecord(f"u{user}", WEB, NOON, {"plan": "free"}) for user in range(USERS)])
    changing = Changing(backend)
    for whole in (True, False, True):
        before = changing.pauses
        with giving_way(changing.happen):
            backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHERS], GOLD, whole=whole)
        assert changing.pauses > before or not whole
        if backend.pending(JOURNEY):
            # Others than those it looked at have changed meanwhile, and wait for the next.
            assert not whole
            backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE, OTHERS], GOLD)
        # Nothing has changed since it was stored: `happen` is called in pauses only.
        _check(backend)
        changing.change()
    backend.close()
