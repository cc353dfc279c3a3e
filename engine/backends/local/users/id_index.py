"""The user id index: hash of a user id → user ref.

A user id is represented by the first 88 bits of its XXH3-128. The seed is drawn when the store is created and
never leaves it, so nobody can prepare ids that collide. Among ten million users the chance of any collision
is 2 in 10^13. Hashes and refs are numpy arrays throughout: a batch of a hundred thousand users is looked up,
created and written without a Python loop.

Users of an account are kept in memory in a `UserHashTable`: all of them, or the recently used ones when there
are too many. On disk they are sorted runs (`engine.backends.local.storage.sorted_runs`); each checkpoint
removes erased users from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import numpy as np
import xxhash

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family
from engine.backends.local.storage.sorted_runs import Items, Keys, RunForm, Runs
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import USER_REF_BITS, USER_REF_MASK, UserRefs
from engine.backends.local.users.hash_table import UNKNOWN, UserHashTable, rows_of

HASH_TABLE_USERS_MAX = 32_000_000
"""User refs of an account kept in memory, about 30 bytes each. Above this all are dropped."""

LOADED_USERS_PER_MISSING_ONE = 128
"""Users a sequential scan reads in the time of one lookup in the store."""

USER_RUNS = RunForm(
    record=Family.USER_RUN,
    filter=Family.USER_FILTER,
    block=Family.USER_BLOCK,
    items=np.dtype([("high", "<u8"), ("low", "<u8")]),
    payload_bits=USER_REF_BITS,
)

_HASH_MASK = np.uint64(((1 << 64) - 1) ^ USER_REF_MASK)


def user_keys(user_ids: Sequence[str], seed: int) -> Keys:
    """The keys of user ids, in order."""
    digests = map(xxhash.xxh3_128_digest, map(str.encode, user_ids), itertools.repeat(seed))
    keys = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    keys[:, 1] &= _HASH_MASK
    return keys


class UserIndex:
    """The users of one account that have a ref. Call with the state lock held, except `write`."""

    def __init__(self, index: Environment, account: int, seed: int) -> None:
        self._seed = seed
        self._runs = Runs(index, USER_RUNS, (account,))
        self._hash_table = UserHashTable()
        self._knows_all = not self._runs.all
        self._fresh: list[Keys] = []
        self._gone: dict[int, Keys] = {}
        """Erased users by ref. They are still in fresh rows or on disk and must not be found."""
        self._writing: list[Keys] = []
        self._writing_gone: dict[int, Keys] = {}

    @property
    def runs(self) -> Runs:
        """The runs on disk, merged from time to time."""
        return self._runs

    def keys(self, user_ids: Sequence[str]) -> Keys:
        """The keys of user ids, in order."""
        return user_keys(user_ids, self._seed)

    # --- finding --------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> UserRefs:
        """The ref of each key, or UNKNOWN."""
        refs = self._hash_table.find(keys)
        if not self._knows_all:
            missing = np.flatnonzero(refs == UNKNOWN)
            if self._is_worth_loading(len(missing)):
                self._load()
                return self._hash_table.find(keys)
            if len(missing):
                refs[missing] = self._find_stored(keys[missing])
        return refs

    def _is_worth_loading(self, missing: int) -> bool:
        """Whether a scan of all stored users is cheaper than looking these up. Replays and the first loads
        after a restart ask for that many.
        """
        stored = self._runs.count
        # Without room for twice as many they would soon be dropped and read again.
        return 0 < stored <= min(LOADED_USERS_PER_MISSING_ONE * missing, HASH_TABLE_USERS_MAX // 2)

    def _load(self) -> None:
        rows = self._runs.items().view("<u8").reshape(-1, 2)
        stored = UserHashTable.of(_without(rows, (*self._gone, *self._writing_gone)))
        # Users that were added since, and aliases.
        stored.put_rows(self._hash_table.rows())
        self._hash_table, self._knows_all = stored, True

    def _find_stored(self, keys: Keys) -> UserRefs:
        refs = np.full(len(keys), UNKNOWN)
        rows, lows = self._runs.find(keys)
        found = (lows & np.uint64(USER_REF_MASK)).astype(np.int64)
        if self._gone or self._writing_gone:
            there = ~np.isin(found, np.array([*self._gone, *self._writing_gone]))
            rows, found = rows[there], found[there]
        refs[rows] = found
        rows = np.unique(rows)
        self.remember(keys[rows], refs[rows])
        return refs

    # --- changing -------------------------------------------------------------------------------------------

    def add(self, keys: Keys, refs: UserRefs) -> None:
        """Adds new users with distinct keys."""
        rows = rows_of(keys, refs)
        self._fresh.append(rows)
        self._remember_rows(rows)

    def remember(self, keys: Keys, refs: UserRefs) -> None:
        """Caches distinct keys, for example those of aliases."""
        self._remember_rows(rows_of(keys, refs))

    def _remember_rows(self, rows: Keys) -> None:
        if len(self._hash_table) + len(rows) > HASH_TABLE_USERS_MAX:
            self._hash_table = UserHashTable()
            self._knows_all = False
            # Fresh users are only in memory.
            unstored = [*self._writing, *self._fresh]
            if unstored:
                self._hash_table.put_rows(
                    _without(np.concatenate(unstored), (*self._writing_gone, *self._gone))
                )
        self._hash_table.put_rows(rows)

    def forget(self, keys: Keys) -> None:
        """Removes distinct keys from the cache."""
        self._hash_table.forget(keys)

    def remove(self, keys: Keys, ref: int) -> None:
        """Removes the user with this key and ref."""
        self._gone[ref] = keys
        self._hash_table.forget(keys)

    # --- checkpointing
    # --------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Collects what is new since the last checkpoint for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, []
        self._writing_gone, self._gone = self._gone, {}

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        if self._writing_gone:
            keys = np.concatenate(list(self._writing_gone.values()))
            self._runs.stage_removal(txn, _items(rows_of(keys, np.array([*self._writing_gone]))))
        if self._writing:
            rows = _without(np.concatenate(self._writing), self._writing_gone)
            if len(rows):
                self._runs.stage_new(txn, _items(rows))

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self._runs.commit()
        self._writing, self._writing_gone = [], {}

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self._runs.rollback()
        self._fresh = [*self._writing, *self._fresh]
        self._gone = {**self._writing_gone, **self._gone}
        self._writing, self._writing_gone = [], {}


def _without(rows: Keys, gone: Collection[int]) -> Keys:
    """The rows without these refs."""
    if not gone:
        return rows
    refs = rows[:, 1] & np.uint64(USER_REF_MASK)
    return rows[~np.isin(refs, np.array([*gone], np.uint64))]


def _items(rows: Keys) -> Items:
    return rows.astype("<u8", copy=False).view(USER_RUNS.items)[:, 0]
