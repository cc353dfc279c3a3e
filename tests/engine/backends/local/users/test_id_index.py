"""The user id index compared with a dict, through checkpoints, failed checkpoints, merges and restarts."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from engine.backends.local.storage import sorted_runs as runs
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.users import id_index as user_index
from engine.backends.local.users.hash_table import UNKNOWN
from engine.backends.local.users.id_index import USER_RUNS, UserIndex, user_keys

SEED = 7
NAMES = tuple(f"user-{number}" for number in range(24))


class Life(RuleBasedStateMachine):
    """Users come and go. `collected`: a checkpoint is between its two halves, while others go on."""

    directory: Path

    def __init__(self) -> None:
        super().__init__()
        self._limits = [
            mock.patch.object(runs, "BLOCK_BYTES", 2 * USER_RUNS.items.itemsize),
            mock.patch.object(runs, "RUNS_PER_TIER_MAX", 2),
        ]
        for limit in self._limits:
            limit.start()
        self.index = Environment(self.directory, map_bytes=1 << 26)
        with self.index.writing() as txn:
            for family in (Family.USER_RUN, Family.USER_FILTER, Family.USER_BLOCK):
                txn.delete_prefix(key(family))
        self.users = UserIndex(self.index, 1, SEED)
        self.expected: dict[str, int] = {}
        self.checkpointed: dict[str, int] = {}
        self.collected: dict[str, int] | None = None
        self.next_ref = 0

    @initialize(known=st.sampled_from([2, 6, 1_000]), loaded=st.sampled_from([0, 2, 128]))
    def limit(self, known: int, loaded: int) -> None:
        for name, limit in (("HASH_TABLE_USERS_MAX", known), ("LOADED_USERS_PER_MISSING_ONE", loaded)):
            self._limits.append(mock.patch.object(user_index, name, limit))
            self._limits[-1].start()

    def teardown(self) -> None:
        self.index.close()
        for limit in self._limits:
            limit.stop()

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1))
    def come(self, names: set[str]) -> None:
        new = sorted(names - self.expected.keys())
        if new:
            refs = np.arange(self.next_ref, self.next_ref + len(new))
            self.next_ref += len(new)
            self.users.add(self.users.keys(new), refs)
            self.expected |= dict(zip(new, refs.tolist(), strict=True))

    @rule(name=st.sampled_from(NAMES))
    def go(self, name: str) -> None:
        if name in self.expected:
            self.users.remove(self.users.keys((name,)), self.expected.pop(name))

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    def ask(self, names: list[str]) -> None:
        found = self.users.find(self.users.keys(names)).tolist()
        assert found == [self.expected.get(name, UNKNOWN) for name in names]

    @precondition(lambda self: self.collected is None)
    @rule()
    def prepare(self) -> None:
        self.users.prepare()
        self.collected = dict(self.expected)

    @precondition(lambda self: self.collected is not None)
    @rule()
    def commit(self) -> None:
        assert self.collected is not None
        with self.index.writing() as txn:
            self.users.write(txn)
        self.users.commit()
        self.checkpointed, self.collected = self.collected, None
        opened = UserIndex(self.index, 1, SEED)
        names = list(NAMES)
        found = opened.find(opened.keys(names)).tolist()
        assert found == [self.checkpointed.get(name, UNKNOWN) for name in names]

    @precondition(lambda self: self.collected is not None)
    @rule()
    def fail(self) -> None:
        self.users.write(WriteBuffer())
        self.users.rollback()
        self.collected = None

    @precondition(lambda self: self.collected is None)
    @rule()
    def merge(self) -> None:
        some = self.users.runs.mergeable()
        if some:
            self.users.runs.merged(some, self.users.runs.merge(some))
            self.users.runs.discard(some)

    @precondition(lambda self: self.collected is None and self.checkpointed == self.expected)
    @rule()
    def reopen(self) -> None:
        self.users = UserIndex(self.index, 1, SEED)


def test_index_follows_added_and_removed_users(tmp_path: Path) -> None:
    Life.directory = tmp_path / "index"
    Life.TestCase.settings = settings(stateful_step_count=40, deadline=None)
    Life.TestCase("runTest").runTest()


def test_removed_users_leave_no_key(tmp_path: Path) -> None:
    """Neither in a run nor in what says where its blocks begin."""
    index = Environment(tmp_path / "index", map_bytes=1 << 26)
    users = UserIndex(index, 1, SEED)
    names = [f"user-{number}" for number in range(100)]
    users.add(users.keys(names), np.arange(100))
    for _ in range(2):
        users.prepare()
        with index.writing() as txn:
            users.write(txn)
        users.commit()
        for number in range(50):
            users.remove(users.keys((names[number],)), number)
    highs = {int(high) for high in users.keys(names[:50])[:, 0]}
    with index.reading() as txn:
        [block] = [bytes(value) for _, value in txn.scan(key(Family.USER_BLOCK))]
        stored = {int(high) for high in np.frombuffer(block, USER_RUNS.items)["high"]}
    assert len(stored) == 50
    assert not stored & highs
    assert not {fence for run in users.runs.all for fence in run.record.fences} & highs
    index.close()


def test_keys_follow_from_id_and_seed() -> None:
    keys = user_keys(["a", "b", "a"], 1)
    assert keys[0].tolist() == keys[2].tolist() != keys[1].tolist()
    assert keys[0].tolist() != user_keys(["a"], 2)[0].tolist()
    assert (keys[:, 1] & np.uint64((1 << 40) - 1)).tolist() == [0, 0, 0]


def test_removed_users_are_not_found_in_the_store_with_an_empty_cache(tmp_path: Path) -> None:
    """Neither before the checkpoint that removes its item, nor between that checkpoint's two halves."""
    index = Environment(tmp_path / "index", map_bytes=1 << 26)
    users = UserIndex(index, 1, SEED)
    with mock.patch.object(user_index, "HASH_TABLE_USERS_MAX", 1):
        users.add(users.keys(["a", "b"]), np.array([1, 2]))
        users.prepare()
        with index.writing() as txn:
            users.write(txn)
        users.commit()
        users.remove(users.keys(["a"]), 1)
        for number in range(2):
            users.add(users.keys([f"new-{number}"]), np.array([10 + number]))
            assert users.find(users.keys(["a", "b"])).tolist() == [UNKNOWN, 2]
            if not number:
                users.prepare()
    index.close()
