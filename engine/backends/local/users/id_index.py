"""The user id index: hash of a user id → user ref.

A user id is represented by the first 88 bits of its XXH3-128. The seed is drawn when the store is created and
never leaves it, so no one can construct colliding ids. Among ten million users the probability of any
collision is 2 in 10^13. Hashes and refs are numpy arrays throughout: a batch of a hundred thousand users is
looked up, created and written without a Python loop.

Users of an account are kept in memory in a `UserHashTable`: all of them, or the recently used ones when there
are too many. On disk they are sorted runs (`engine.backends.local.storage.sorted_runs`); each checkpoint
removes erased users from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family
from engine.backends.local.storage.sorted_runs import Items, Keys, RunForm, Runs
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.unwritten import Unwritten
from engine.backends.local.storage.user_ref import USER_REF_BITS, USER_REF_MASK, UserRef, UserRefs
from engine.backends.local.users.hash_table import (
    CHANGING,
    OWN_MEMORY,
    UNKNOWN,
    TableMemory,
    UserHashTable,
    rows_of,
)

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

LOW_MASK = ((1 << 64) - 1) ^ USER_REF_MASK
_HASH_MASK = np.uint64(LOW_MASK)


def user_keys(user_ids: Sequence[str], seed: int) -> Keys:
    """The keys of user ids, in order."""
    digests = map(xxhash.xxh3_128_digest, map(str.encode, user_ids), itertools.repeat(seed))
    keys = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    keys[:, 1] &= _HASH_MASK
    return keys


class UserIndex:
    """The users of one account that have a ref. Call with the state lock held, except `write`, `peek` and
    `peek_many`.
    """

    def __init__(self, index: Environment, account: int, seed: int) -> None:
        self._seed = seed
        self._runs = Runs(index, USER_RUNS, (account,))
        self._memory: TableMemory = OWN_MEMORY
        self._table = _Table(UserHashTable(), is_complete=not self._runs.all)
        self._new: Unwritten[int, Keys] = Unwritten()
        """Rows of new users, by the ref of the first."""
        self._gone: Unwritten[int, Keys] = Unwritten()
        """Erased users by ref. They are still in new rows or on disk and must not be found."""

    @property
    def runs(self) -> Runs:
        """The runs on disk, merged from time to time."""
        return self._runs

    def keys(self, user_ids: Sequence[str]) -> Keys:
        """The keys of user ids, in order."""
        return user_keys(user_ids, self._seed)

    # --- finding --------------------------------------------------------------------------------------------

    def peek(self, user_id: str) -> UserRef:
        """The ref of a user id, UNKNOWN, or CHANGING when it takes `find` to know it."""
        digest = xxhash.xxh3_128_intdigest(user_id.encode(), self._seed)
        # Read once: it is replaced by one that knows more, or less.
        table = self._table
        ref = table.refs.peek(digest >> 64, digest & LOW_MASK)
        return CHANGING if ref == UNKNOWN and not table.is_complete else ref

    def peek_many(self, keys: Keys) -> UserRefs | None:
        """As `peek`, for keys; None: the table changed meanwhile."""
        table = self._table
        refs = table.refs.peek_many(keys)
        if refs is not None and not table.is_complete:
            refs[refs == UNKNOWN] = CHANGING
        return refs

    def find(self, keys: Keys) -> UserRefs:
        """The ref of each key, or UNKNOWN."""
        refs = self._table.refs.find(keys)
        if not self._table.is_complete:
            missing = np.flatnonzero(refs == UNKNOWN)
            if self._is_worth_loading(len(missing)):
                self._load()
                return self._table.refs.find(keys)
            if len(missing):
                refs[missing] = self._find_stored(keys[missing])
        return refs

    def _is_worth_loading(self, missing: int) -> bool:
        """Whether a scan of all stored users is cheaper than looking these up. Replays and the first loads
        after a restart ask for that many.
        """
        stored = self._runs.count
        return self._has_room and 0 < stored <= LOADED_USERS_PER_MISSING_ONE * missing

    @property
    def _has_room(self) -> bool:
        """Whether all users may be kept: without room for twice as many they would soon be dropped and read
        again.
        """
        return self._runs.count <= HASH_TABLE_USERS_MAX // 2

    def load(self) -> None:
        """Reads all users into memory, if they fit. Raises DataLoss."""
        if not self._table.is_complete and self._has_room:
            self._load()

    def _load(self) -> None:
        rows = self._runs.items().view("<u8").reshape(-1, 2)
        self._memory.set_complete(False)
        stored = UserHashTable.of(_without(rows, [*self._gone]), self._memory)
        # Users that were added since, and aliases.
        stored.put_rows(self._table.refs.rows())
        self._replace(stored, is_complete=True)

    def _replace(self, refs: UserHashTable, *, is_complete: bool) -> None:
        """Takes this table. While a new one is made, others may see it without its rows."""
        self._table = _Table(refs, is_complete)
        self._memory.set_complete(is_complete)

    def _find_stored(self, keys: Keys) -> UserRefs:
        refs = np.full(len(keys), UNKNOWN)
        rows, lows = self._runs.find(keys)
        found = (lows & np.uint64(USER_REF_MASK)).astype(np.int64)
        if self._gone:
            there = ~np.isin(found, np.array([*self._gone]))
            rows, found = rows[there], found[there]
        refs[rows] = found
        rows = np.unique(rows)
        self.remember(keys[rows], refs[rows])
        return refs

    # --- sharing ---

    @property
    def seed(self) -> int:
        """The seed of user id hashes."""
        return self._seed

    def share(self, memory: TableMemory) -> None:
        """Keeps the users in this memory from now on, all of them if they fit."""
        self._memory = memory
        if not self._table.is_complete and self._has_room:
            self._load()
        else:
            memory.set_complete(False)
            refs = UserHashTable.of(self._table.refs.rows(), memory)
            self._replace(refs, is_complete=self._table.is_complete)

    # --- changing -------------------------------------------------------------------------------------------

    def add(self, keys: Keys, refs: UserRefs) -> None:
        """Adds new users, at least one, with distinct keys."""
        rows = rows_of(keys, refs)
        self._new.fresh[int(refs[0])] = rows
        self._remember_rows(rows)

    def remember(self, keys: Keys, refs: UserRefs) -> None:
        """Caches distinct keys, for example those of aliases."""
        self._remember_rows(rows_of(keys, refs))

    def _remember_rows(self, rows: Keys) -> None:
        if len(self._table.refs) + len(rows) > HASH_TABLE_USERS_MAX:
            self._memory.set_complete(False)
            self._replace(UserHashTable(self._memory), is_complete=False)
            # New users are only in memory.
            if self._new:
                self._table.refs.put_rows(_without(np.concatenate([*self._new.values()]), [*self._gone]))
        self._table.refs.put_rows(rows)

    def forget(self, keys: Keys) -> None:
        """Removes distinct keys from the cache."""
        self._table.refs.forget(keys)

    def remove(self, keys: Keys, ref: int) -> None:
        """Removes the user with this key and ref."""
        self._gone.fresh[ref] = keys
        self._table.refs.forget(keys)

    # --- checkpointing --------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Collects what is new since the last checkpoint for `write`, which needs no lock."""
        self._new.prepare()
        self._gone.prepare()

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        new, gone = self._new.writing, self._gone.writing
        if gone:
            keys = np.concatenate([*gone.values()])
            self._runs.stage_removal(txn, _items(rows_of(keys, np.array([*gone]))))
        if new:
            rows = _without(np.concatenate([*new.values()]), gone.keys())
            if len(rows):
                self._runs.stage_new(txn, _items(rows))

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        for part in (self._runs, self._new, self._gone):
            part.commit()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        for part in (self._runs, self._new, self._gone):
            part.rollback()


@dataclass(frozen=True, slots=True)
class _Table:
    """Users in memory: all of the account, or those used lately."""

    refs: UserHashTable
    is_complete: bool


def _without(rows: Keys, gone: Collection[int]) -> Keys:
    """The rows without these refs."""
    if not gone:
        return rows
    refs = rows[:, 1] & np.uint64(USER_REF_MASK)
    return rows[~np.isin(refs, np.array([*gone], np.uint64))]


def _items(rows: Keys) -> Items:
    return rows.astype("<u8", copy=False).view(USER_RUNS.items)[:, 0]
