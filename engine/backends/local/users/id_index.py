"""Where users are: the hash of a user id → the user's place.

What stands for a user id is the first 88 bits of its XXH3-128 with a seed that is drawn when the store is
created and never told, so that nobody can prepare ids that collide; among ten million users, the chance that
any two share one is 2 in 10^13. Hashes and places are arrays throughout: a batch of a hundred thousand users
is found, made and written without touching them one by one.

All users of an account may be in memory (`UserHashTable`); when it has too many, those seen lately. In the
store they are sorted runs (`engine.backends.local.storage.sorted_runs`), from which a checkpoint removes
users that are gone.
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
"""How many places of an account are kept in memory, about 30 bytes each, before all are forgotten."""

LOADED_USERS_PER_MISSING_ONE = 128
"""So many users are read from the store in the time in which one is found there."""

USER_RUNS = RunForm(
    record=Family.USER_RUN,
    filter=Family.USER_FILTER,
    block=Family.USER_BLOCK,
    items=np.dtype([("high", "<u8"), ("low", "<u8")]),
    payload_bits=USER_REF_BITS,
)

_HASH_MASK = np.uint64(((1 << 64) - 1) ^ USER_REF_MASK)


def user_keys(user_ids: Sequence[str], seed: int) -> Keys:
    """What stands for user ids, in order."""
    digests = map(xxhash.xxh3_128_digest, map(str.encode, user_ids), itertools.repeat(seed))
    keys = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    keys[:, 1] &= _HASH_MASK
    return keys


class UserIndex:
    """The users of one account that have a place. Called with the state lock held, save `write`."""

    def __init__(self, index: Environment, account: int, seed: int) -> None:
        self._seed = seed
        self._runs = Runs(index, USER_RUNS, (account,))
        self._hash_table = UserHashTable()
        self._knows_all = not self._runs.all
        self._fresh: list[Keys] = []
        self._gone: dict[int, Keys] = {}
        """By place, those that are in fresh rows or in the store and must not be found."""
        self._writing: list[Keys] = []
        self._writing_gone: dict[int, Keys] = {}

    @property
    def runs(self) -> Runs:
        """What was checkpointed, to be merged now and then."""
        return self._runs

    def keys(self, user_ids: Sequence[str]) -> Keys:
        """What stands for user ids, in order."""
        return user_keys(user_ids, self._seed)

    # --- finding --------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> UserRefs:
        """The place of each, or UNKNOWN."""
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
        """Whether so many of the stored users are asked for at once that reading all of them costs no more
        than finding these, who are not the last ones: replays and loads after a restart.
        """
        stored = self._runs.count
        # With no room for as many again they would soon have to be forgotten, and read anew.
        return 0 < stored <= min(LOADED_USERS_PER_MISSING_ONE * missing, HASH_TABLE_USERS_MAX // 2)

    def _load(self) -> None:
        rows = self._runs.items().view("<u8").reshape(-1, 2)
        stored = UserHashTable.of(_without(rows, (*self._gone, *self._writing_gone)))
        # What came since, and aliases.
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
        """New users, all different."""
        rows = rows_of(keys, refs)
        self._fresh.append(rows)
        self._remember_rows(rows)

    def remember(self, keys: Keys, refs: UserRefs) -> None:
        """Has different keys, of aliases for example, found in memory from now on, for a while."""
        self._remember_rows(rows_of(keys, refs))

    def _remember_rows(self, rows: Keys) -> None:
        if len(self._hash_table) + len(rows) > HASH_TABLE_USERS_MAX:
            self._hash_table = UserHashTable()
            self._knows_all = False
            # What is not in the store is here or nowhere.
            unstored = [*self._writing, *self._fresh]
            if unstored:
                self._hash_table.put_rows(
                    _without(np.concatenate(unstored), (*self._writing_gone, *self._gone))
                )
        self._hash_table.put_rows(rows)

    def forget(self, keys: Keys) -> None:
        """What was remembered of different keys holds no more."""
        self._hash_table.forget(keys)

    def remove(self, keys: Keys, ref: int) -> None:
        """The user (one key) that had the place is gone."""
        self._gone[ref] = keys
        self._hash_table.forget(keys)

    # --- checkpointing
    # --------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Sets what is new since the last checkpoint apart for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, []
        self._writing_gone, self._gone = self._gone, {}

    def write(self, txn: Writable) -> None:
        """Writes what was collected."""
        if self._writing_gone:
            keys = np.concatenate(list(self._writing_gone.values()))
            self._runs.stage_removal(txn, _items(rows_of(keys, np.array([*self._writing_gone]))))
        if self._writing:
            rows = _without(np.concatenate(self._writing), self._writing_gone)
            if len(rows):
                self._runs.stage_new(txn, _items(rows))

    def commit(self) -> None:
        """What was collected is in the index."""
        self._runs.commit()
        self._writing, self._writing_gone = [], {}

    def rollback(self) -> None:
        """What was collected did not reach the index."""
        self._runs.rollback()
        self._fresh = [*self._writing, *self._fresh]
        self._gone = {**self._writing_gone, **self._gone}
        self._writing, self._writing_gone = [], {}


def _without(rows: Keys, gone: Collection[int]) -> Keys:
    """The rows that have none of the places."""
    if not gone:
        return rows
    refs = rows[:, 1] & np.uint64(USER_REF_MASK)
    return rows[~np.isin(refs, np.array([*gone], np.uint64))]


def _items(rows: Keys) -> Items:
    return rows.astype("<u8", copy=False).view(USER_RUNS.items)[:, 0]
