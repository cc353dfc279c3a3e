"""Ids of erased users are kept exactly as long as a change may name them, and found without a search."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.membership.erased import ErasedIds, ErasedUser, Exits, Naming
from engine.backends.local.storage.user_ref import GROUP_SHIFT

ACCOUNT = 7
MEMBERSHIPS = (1, 2, 3)


class Transaction:
    """The keys that were written."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}

    def put(self, key: bytes, value: bytes) -> None:
        self.stored[key] = value

    def delete(self, key: bytes) -> None:
        del self.stored[key]

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return sorted(self.stored.items())


def exits(*dense: int, erased_at: int = 0) -> Exits:
    users = {(1 << GROUP_SHIFT) + each: f"user-{each}" for each in dense}
    return Exits("accounts/a", ACCOUNT, {1: BitMap(dense)}, users, erased_at)


def keep(ids: ErasedIds, txn: Any, named: dict[int, int], *dense: int, erased_at: int = 0) -> None:
    naming = [Naming(number, last, {1: BitMap(dense)}) for number, last in named.items()]
    ids.written(ids.keep(txn, exits(*dense, erased_at=erased_at), naming))


def drop(ids: ErasedIds, txn: Any, through: dict[int, int]) -> None:
    ids.written(ids.drop(txn, through))


STEPS = st.one_of(
    st.tuples(st.just("erase"), st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("drop"), st.dictionaries(st.sampled_from(MEMBERSHIPS), st.integers(0, 40))),
    st.tuples(st.just("open"), st.none()),
)


@given(st.lists(STEPS, max_size=20), st.data())
def test_ids_are_kept_through_the_last_change_that_may_name_them(
    steps: list[tuple[str, Any]], data: st.DataObject
) -> None:
    txn: Any = Transaction()
    ids = ErasedIds(txn)
    expected: dict[int, tuple[dict[int, int], int]] = {}
    last = dict.fromkeys(MEMBERSHIPS, 1)
    for at, (step, argument) in enumerate(steps):
        if step == "erase":
            naming = data.draw(st.lists(st.sampled_from(MEMBERSHIPS), min_size=1, unique=True))
            for number in naming:
                last[number] += data.draw(st.integers(0, 9))
            through = {number: last[number] for number in naming}
            keep(ids, txn, through, *argument, erased_at=at)
            expected.update(dict.fromkeys(argument, (through, at)))
        elif step == "drop":
            drop(ids, txn, argument)
            for dense, (named, when) in list(expected.items()):
                left = {number: end for number, end in named.items() if end > argument.get(number, 0)}
                expected[dense] = left, when
                if not left:
                    del expected[dense]
        else:
            ids = ErasedIds(txn)
        for dense in expected:
            assert ids.find(ACCOUNT, 1, dense) == f"user-{dense}"
        kept = [msgspec.msgpack.decode(value, type=ErasedUser) for value in txn.stored.values()]
        assert sorted((each.user_id, each.named_through, each.erased_at) for each in kept) == sorted(
            (f"user-{dense}", named, when) for dense, (named, when) in expected.items()
        )
        for number in MEMBERSHIPS:
            for before in (at, at + 1):
                ends = [named.get(number, 0) for named, when in expected.values() if when < before]
                assert ids.named_through(number, before) == max(ends, default=0)


def test_what_cannot_go_yet_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh asks each time what may go, while it holds the lock."""
    txn: Any = Transaction()
    ids = ErasedIds(txn)
    for each in range(1_000):
        keep(ids, txn, {1: 100 + each, 2: 100}, each)
    looked_at: list[int] = []
    is_named = ErasedIds._is_named

    def counting(self: ErasedIds, *args: Any) -> bool:
        looked_at.append(1)
        return is_named(self, *args)

    monkeypatch.setattr(ErasedIds, "_is_named", counting)
    drop(ids, txn, {1: 50, 2: 99, 3: 10_000})
    assert len(txn.stored) == 1_000
    assert not looked_at
    drop(ids, txn, {1: 10_000, 2: 10_000})
    assert not txn.stored
    assert not ids._naming
    assert len(looked_at) <= 4_000


def test_only_ids_that_a_change_names_are_kept() -> None:
    txn: Any = Transaction()
    ids = ErasedIds(txn)
    naming = [Naming(1, 10, {1: BitMap([2, 3])}), Naming(2, 20, {1: BitMap([3, 4]), 0: BitMap([5])})]
    ids.written(ids.keep(txn, exits(1, 2, 3, 5), naming))
    kept = [msgspec.msgpack.decode(value, type=ErasedUser) for value in txn.stored.values()]
    assert {each.user_id: each.named_through for each in kept} == {
        "user-2": {1: 10},
        "user-3": {1: 10, 2: 20},
    }
