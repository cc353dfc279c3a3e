"""Members are stored now and then: the latest changes are in the change log alone, and nothing shows it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.backends.base import Members, OptedIn, UserRecord
from engine.backends.base.upkeep import StoreFault
from engine.backends.local.backend import LocalBackend
from engine.backends.local.membership import store
from engine.backends.local.membership.states import StoredState
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.keys import Family, key
from engine.criteria.model import Equals
from engine.errors import CursorExpired
from engine.plan.model import AttributeMatch, Plan
from tests.conformance.site import ACCOUNT, JOURNEY, NOON, SHOP, WEB
from tests.stores import crash_image

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
USERS = [f"u{number}" for number in range(30)]
TIERS = ("gold", "tin")
NAMES = {tier: f"{ACCOUNT}/audiences/{tier}" for tier in TIERS}
PLAN = Plan(
    account=ACCOUNT,
    as_of=NOON,
    steps=tuple(AttributeMatch(workspaces=(SHOP,), key="tier", test=Equals(tier)) for tier in TIERS),
    roots=(0, 1),
)


class Running:
    """A store with an audience for each tier, and what is to be in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.backend = LocalBackend.open(directory, settings=SETTINGS)
        self.tiers: dict[str, str] = {}
        self._writes = 0

    def write(self, tiers: dict[str, str]) -> None:
        self._writes += 1
        rows = [UserRecord(user, WEB, NOON + self._writes, {"tier": tier}) for user, tier in tiers.items()]
        self.backend.append(ACCOUNT, rows)
        self.tiers |= tiers

    def refresh(self) -> None:
        self.backend.refresh(ACCOUNT, JOURNEY, list(NAMES.values()), PLAN)

    def reopen(self, directory: Path, *, crash: bool) -> None:
        if crash:
            crash_image(self.directory, directory)
            self.backend.close()
            self.directory = directory
        else:
            self.backend.close()
        self.backend = LocalBackend.open(self.directory, settings=SETTINGS)

    def behind(self) -> list[int]:
        """How many changes the stored members of each audience lack, as the index says."""
        inner: Any = self.backend
        with inner._store.index.reading() as txn:
            states = [txn.get(key(Family.MEMBERSHIP, name.encode())) for name in NAMES.values()]
        return [msgspec.msgpack.decode(state, type=StoredState).behind for state in states]

    def check(self) -> None:
        for tier, name in NAMES.items():
            members = {user for user, each in self.tiers.items() if each == tier}
            assert set(self.backend.stored_members(name, Members()).user_ids) == members
            membership = self.backend.membership(name)
            assert membership is not None
            assert membership.size == len(members)
            folded: set[str] = set()
            if membership.first_sequence == 1:
                for change in self.backend.changes(name, 0, 1 << 20).changes:
                    (folded.add if change.entered else folded.discard)(change.user_id)
                assert folded == members
        faults = [finding for finding in self.backend.verify() if isinstance(finding, StoreFault)]
        assert faults == []


@pytest.mark.parametrize("_", range(4))
def test_members_are_right_after_restarts_crashes_trims_and_erasures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _: int
) -> None:
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    source = random.Random(seed)
    monkeypatch.setattr(store, "MEMBERS_STORED_TURNS", source.choice((3, 7, 64)))
    running = Running(tmp_path / "0")
    running.write(dict.fromkeys(USERS, "tin"))
    running.refresh()
    seen: set[bool] = set()
    for step in range(1, 60):
        some = source.sample(USERS, source.choice((1, 3)))
        running.write({user: source.choice(TIERS) for user in some})
        running.refresh()
        seen |= {bool(behind) for behind in running.behind()}
        match source.randrange(12):
            case 0:
                running.reopen(tmp_path / str(step), crash=True)
            case 1:
                running.reopen(tmp_path / str(step), crash=False)
                assert running.behind() == [0, 0]
            case 2:
                gone = source.choice(USERS)
                running.backend.erase(ACCOUNT, [gone])
                running.tiers.pop(gone, None)
                running.refresh()
            case 3:
                name = source.choice([*NAMES.values()])
                membership = running.backend.membership(name)
                assert membership is not None
                through = source.randrange(membership.first_sequence, membership.last_sequence + 2)
                running.backend.trim_changes(name, through)
            case 4:
                running.backend.checkpoint()
        running.check()
    running.backend.close()
    assert True in seen


def test_a_round_writes_what_has_changed_and_no_members(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.write(dict.fromkeys(USERS, "tin"))
    running.refresh()
    inner: Any = running.backend
    with inner._store.index.reading() as txn:
        before = dict(txn.scan(key(Family.MEMBERS)))
        before = {at: bytes(value) for at, value in before.items()}
    lacking = set()
    for user in USERS[:10]:
        running.write({user: "gold"})
        running.refresh()
        lacking |= set(running.behind())
        with inner._store.index.reading() as txn:
            after = {at: bytes(value) for at, value in txn.scan(key(Family.MEMBERS))}
        if 0 not in running.behind():
            # Neither has had its turn.
            assert after == before
        before = after
    assert max(lacking) > 1
    running.backend.close()


def test_trimming_what_the_stored_members_lack_stores_them_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MEMBERS_STORED_TURNS", 1 << 30)
    running = Running(tmp_path / "before")
    running.write(dict.fromkeys(USERS, "tin"))
    running.refresh()
    running.write({"u1": "gold", "u2": "gold"})
    running.refresh()
    assert running.behind() == [2, 2]
    last = running.backend.membership(NAMES["tin"])
    assert last is not None
    running.backend.trim_changes(NAMES["tin"], last.last_sequence)
    assert running.behind() == [2, 0]
    with pytest.raises(CursorExpired):
        running.backend.changes(NAMES["tin"], 0, 9)
    running.reopen(tmp_path / "after", crash=True)
    running.check()
    running.backend.close()


def test_changes_of_opted_in_values_do_not_count_as_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MEMBERS_STORED_TURNS", 1 << 30)
    running = Running(tmp_path / "before")
    running.backend.append(ACCOUNT, [UserRecord("u1", WEB, NOON, {"tier": "gold"})])
    running.refresh()
    running.backend.opt_in(NAMES["gold"], OptedIn(("note",)))
    for number in range(3):
        running.backend.append(ACCOUNT, [UserRecord("u1", WEB, NOON, {"note": f"n{number}"})])
        running.backend.record_updates()
        running.backend.append(ACCOUNT, [UserRecord(f"u{number + 2}", WEB, NOON, {"tier": "gold"})])
        running.refresh()
    members = {"u1", "u2", "u3", "u4"}
    assert running.behind()[0] >= 3
    for crash in (True, False):
        running.reopen(tmp_path / "after", crash=crash)
        assert set(running.backend.stored_members(NAMES["gold"], Members()).user_ids) == members
        assert [f for f in running.backend.verify() if isinstance(f, StoreFault)] == []
    running.backend.close()
