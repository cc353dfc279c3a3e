"""Forgetting in the embedded store leaves nothing in the index, whenever a checkpoint or a crash comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from engine.backends.base import UserRecord
from engine.backends.base.upkeep import StoreFault
from engine.backends.local.account.forgotten_keys import OF_ACCOUNT, OF_FIELD, OF_INPUT
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.write.local_state import LocalState
from engine.clock import Stamp
from engine.errors import LimitExceeded
from engine.plan.model import Universe
from engine.values import MICROS_PER_DAY, Value
from tests.conformance.site import ACCOUNT, APP, AUDIENCE, JOURNEY, NOON, SHOP, WEB, event, listed, plan_of
from tests.stores import crash_image

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
USERS = [f"user-{number}" for number in range(300)]
LONG = "long " * 100

NOT_OF_ACCOUNT = {
    Family.META,
    Family.LOG,
    Family.RANGE,
    Family.DOCUMENT,
    Family.MEMBERSHIP,
    Family.MEMBERS,
    Family.CHANGES,
    Family.DEDUPE_RUN,
    Family.DEDUPE_FILTER,
    Family.DEDUPE_BLOCK,
}
"""Families whose keys begin with something else."""
KEPT = {Family.NAME, Family.REQUEST, Family.REQUEST_ARRIVAL, Family.ERASED}
"""Families in which a forgotten account may still have keys: numbers without a name, answers to requests
until they expire, and ids that change logs name, of which there are none without a stored membership.
"""


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    yield opened
    opened.close()


def fill(backend: LocalBackend) -> None:
    """Data of all forms in two inputs, for users that are erased."""
    for through in (WEB, APP):
        backend.append(ACCOUNT, [event(user, through=through, event_id=user, price=1.5) for user in USERS])
        attributes: dict[str, Value | None] = {"plan": "gold", "age": 7.0, "tags": ("a", "b"), "note": LONG}
        updates = [UserRecord(user, through, NOON, attributes, {"email": user}) for user in USERS]
        backend.append(ACCOUNT, updates, request_id=through)
    for user in USERS[:20]:
        backend.alias(ACCOUNT, f"alias-of-{user}", user)
    backend.checkpoint()
    backend.erase(ACCOUNT, USERS)


def families_with(backend: LocalBackend, account: int) -> set[Family]:
    """Families with keys of the account."""
    with backend._store.index.reading() as txn:
        return {family for family in OF_ACCOUNT if any(txn.keys(key(family, account)))}


def names(backend: LocalBackend) -> list[tuple[tuple[int | bytes, ...], str]]:
    """Every stored name, with its space, account and number."""
    with backend._store.index.reading() as txn:
        return [(parts_of(stored)[:3], bytes(name).decode()) for stored, name in txn.scan(key(Family.NAME))]


def faults(backend: LocalBackend) -> list[StoreFault]:
    return [finding for finding in backend.verify() if isinstance(finding, StoreFault)]


def users_of(backend: LocalBackend, through: str = WEB) -> list[str]:
    return listed(backend, plan_of(Universe(inputs=(through,))))


def test_every_family_is_forgotten_or_has_a_reason_not_to_be() -> None:
    of_account = {family for family in Family if family not in NOT_OF_ACCOUNT | KEPT}
    assert set(OF_ACCOUNT) == of_account
    assert len(OF_ACCOUNT) == len(of_account)
    assert set(OF_INPUT) | set(OF_FIELD) < of_account


def test_the_index_keeps_nothing_of_a_forgotten_account(backend: LocalBackend) -> None:
    fill(backend)
    backend.append("accounts/other", [event("zoe", through="accounts/other/workspaces/w/inputs/i")])
    backend.checkpoint()
    assert families_with(backend, 1) >= {Family.USER_COUNT, Family.USER_IDS, Family.EVENT_TABLE}
    assert len([name for name in names(backend) if name[0][1] == 1]) == 9
    backend.forget(ACCOUNT, ACCOUNT)
    backend.checkpoint()
    assert families_with(backend, 1) == set()
    assert [name for name in names(backend) if name[0][1] == 1] == []
    assert [name for name in names(backend) if name[0][0] == 1] == [
        ((1, 0, 1), ""),
        ((1, 0, 2), "accounts/other"),
    ]
    assert faults(backend) == []
    # The next one of that name has a number of its own.
    backend.append(ACCOUNT, [event("ada", event_id=USERS[0])])
    backend.checkpoint()
    assert (families_with(backend, 1), bool(families_with(backend, 3))) == (set(), True)
    assert faults(backend) == []


def test_the_index_keeps_nothing_of_a_forgotten_input_or_workspace(backend: LocalBackend) -> None:
    fill(backend)
    backend.checkpoint()

    def left(family: Family, number: int) -> bool:
        with backend._store.index.reading() as txn:
            return any(txn.keys(key(family, 1, number)))

    assert [left(Family.EVENT_TABLE, number) for number in (1, 2)] == [True, True]
    backend.forget(ACCOUNT, WEB)
    backend.checkpoint()
    assert [left(family, 1) for family in OF_INPUT] == [False] * len(OF_INPUT)
    assert left(Family.EVENT_TABLE, 2)
    assert faults(backend) == []
    backend.forget(ACCOUNT, SHOP)
    backend.checkpoint()
    assert not any(left(family, number) for family in (*OF_INPUT, *OF_FIELD) for number in range(1, 9))
    texts = [name for _, name in names(backend)]
    assert not any(SHOP in name for name in texts)
    assert faults(backend) == []


@pytest.mark.parametrize("step", ["stage", "write", "commit"])
def test_a_checkpoint_under_way_writes_the_state_before(
    backend: LocalBackend, tmp_path: Path, step: str
) -> None:
    # 1. While a checkpoint goes on, its account is forgotten, and data comes under the same name.
    fill(backend)
    go_on = getattr(LocalState, step)

    def forget_and_go_on(state: LocalState, *given: object) -> None:
        backend.forget(ACCOUNT, ACCOUNT)
        backend.append(ACCOUNT, [event("ada", event_id=USERS[0])])
        go_on(state, *given)

    backend.alias(ACCOUNT, "nobody", "someone")
    with mock.patch.object(LocalState, step, forget_and_go_on):
        backend.checkpoint()
    assert families_with(backend, 1) >= {Family.USER_COUNT, Family.ALIAS_OF}
    # 2. A crash right then: the rest is in the log.
    for number in range(2):
        again = LocalBackend.open(crash_image(tmp_path / "store", tmp_path / f"{number}"), settings=SETTINGS)
        assert users_of(again) == ["ada"]
        again.checkpoint()
        assert (families_with(again, 1), faults(again)) == (set(), [])
        again.close()
        # 3. The same after the next checkpoint.
        backend.checkpoint()
    assert (families_with(backend, 1), faults(backend)) == (set(), [])
    assert users_of(backend) == ["ada"]


def test_a_checkpoint_that_fails_forgets_the_next_time(backend: LocalBackend) -> None:
    fill(backend)
    backend.forget(ACCOUNT, ACCOUNT)
    full = LimitExceeded("the store is full", reason="STORE_FULL")
    with mock.patch.object(WriteBuffer, "write_to", side_effect=full), pytest.raises(LimitExceeded):
        backend.checkpoint()
    assert Family.USER_COUNT in families_with(backend, 1)
    backend.checkpoint()
    assert (families_with(backend, 1), faults(backend)) == (set(), [])


@pytest.mark.parametrize("restart", [False, True])
def test_event_ids_of_a_forgotten_account_go_after_a_day(tmp_path: Path, restart: bool) -> None:
    now = NOON

    def opened() -> LocalBackend:
        return LocalBackend.open(tmp_path / "store", settings=SETTINGS, clock=lambda: Stamp(now, now))

    def runs(backend: LocalBackend) -> list[int]:
        return [run.record.account for run in backend._state.event_ids.runs.all]

    backend = opened()
    backend.append(ACCOUNT, [event(user, event_id=user) for user in USERS])
    backend.append("accounts/other", [event("zoe", event_id="1", through="accounts/other/inputs/i")])
    backend.erase(ACCOUNT, USERS)
    backend.forget(ACCOUNT, ACCOUNT)
    backend.checkpoint()
    assert runs(backend) == [1, 2]
    now += MICROS_PER_DAY + 1
    if restart:
        backend.close()
        backend = opened()
    # A write, as without one there is no checkpoint.
    backend.append("accounts/other", [event("zoe", through="accounts/other/inputs/i")])
    backend.checkpoint()
    assert runs(backend) == [2]
    assert faults(backend) == []
    backend.close()


def test_memberships_of_an_account_made_again_are_sound_before_a_checkpoint(
    backend: LocalBackend, tmp_path: Path
) -> None:
    """Their changes number users that only the log has, like the erased ones in the index."""
    fill(backend)
    backend.checkpoint()
    backend.forget(ACCOUNT, ACCOUNT)
    backend.append(ACCOUNT, [event(user, event_id=user) for user in USERS])
    [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], plan_of(Universe(inputs=(WEB,))))
    assert membership.size == len(USERS)
    assert faults(backend) == []
    backend.snapshot(tmp_path / "copy")
    backend.checkpoint()
    assert faults(backend) == []


def test_what_is_left_of_a_forgotten_account_is_found(backend: LocalBackend) -> None:
    backend.append(ACCOUNT, [event("ada")])
    backend.checkpoint()
    with backend._store.index.writing() as txn:
        txn.put(key(Family.NAME, 1, 0, 1), b"")
    found = {(fault.family, fault.description) for fault in faults(backend)}
    assert ("USER_COUNT", "belongs to an unknown account") in found
    assert ("NAME", "belongs to an unknown account") in found
