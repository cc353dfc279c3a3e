"""An account in the memory that readers map: how to find its users, and when each was last touched."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
from pyroaring import BitMap

from engine.backends.local.account.people import People
from engine.backends.local.serving.arena import WORD_BYTES, Arena, Words
from engine.backends.local.serving.ids import IdPages
from engine.backends.local.serving.layout import Account
from engine.backends.local.storage.sorted_runs import Keys

SLOT_WORDS = 2
TOUCHED_USERS_MIN = 1 << 9
GROUP_WORDS = 4
IDS_AT, IDS_PAGES = 2, 3
"""Words of a group, after the two of its touched users."""


class SharedAccount:
    """Writes the record of one account. Call with the state lock held. It is the `TableMemory` of the
    account's users.
    """

    def __init__(self, arena: Arena, account: People) -> None:
        self._arena = arena
        self._account = account
        self._groups = account.groups
        words = Account.TOUCHED + GROUP_WORDS * self._groups
        self.at = arena.allocate(words * WORD_BYTES)
        self._record = arena.words[self.at // WORD_BYTES : self.at // WORD_BYTES + words]
        for word in range(words):
            self._record[word] = 0
        self._record[Account.GROUPS] = self._groups
        self._record[Account.SEED] = account.user_index.seed
        self._touched: list[Words] = []
        for group, count in enumerate(account.directory.counts):
            self._touched.append(self._new_touched(max(count, TOUCHED_USERS_MIN)))
            self._tell_touched(group)
        self._ids = [
            IdPages(arena, account.directory, group, self._block, partial(self._tell_ids, group))
            for group in range(self._groups)
        ]
        self._has_no_more_ids = False
        account.user_index.share(self)
        self.settle_ids()

    def is_of(self, account: People) -> bool:
        """Whether this is the record of that account, and not of an earlier one of its name."""
        return self._account is account

    # --- the users' table -----------------------------------------------------------------------------------

    def allocate(self, slots: int) -> Keys:
        """Memory for slots, which is freed with the array."""
        words = slots * SLOT_WORDS
        return self._block(words).reshape(-1, SLOT_WORDS)

    def hold(self, slots: Keys) -> None:
        """The table has these slots from now on."""
        self._change({Account.TABLE_AT: _address(self._arena, slots), Account.TABLE_SLOTS: len(slots)})

    def count(self, version: int) -> None:
        """The version of the table, odd while slots change."""
        self._record[Account.TABLE_COUNTER] = version

    def set_complete(self, is_complete: bool) -> None:
        """Whether a key that is not in the table is nowhere."""
        self._change({Account.IS_COMPLETE: int(is_complete)})

    # --- what ids mean --------------------------------------------------------------------------------------

    def begin_ids(self) -> None:
        """Ids are about to mean other users."""
        self._record[Account.BEGUN] += 1

    def settle_ids(self) -> None:
        """Ids mean what the table says, or are aliases."""
        self._change({Account.HAS_ALIASES: int(self._account.directory.has_aliases)})
        self._record[Account.ENDED] = self._record[Account.BEGUN]

    @property
    def id_changes(self) -> int:
        """How many times ids have come to mean other users."""
        return self._record[Account.BEGUN]

    # --- touched users --------------------------------------------------------------------------------------

    @property
    def writes(self) -> int:
        """How many writes have touched users."""
        return self._record[Account.WRITES]

    def count_write(self) -> None:
        """One more write touches users."""
        self._record[Account.WRITES] += 1

    def touch(self, users: Mapping[int, BitMap], stamp: int) -> None:
        """Marks users (by group) as touched."""
        for group, each in users.items():
            if each:
                self._reserve(group, each.max() + 1)
                self._touched[group][np.frombuffer(each.to_array(), np.uint32)] = stamp

    def _reserve(self, group: int, users: int) -> None:
        before = self._touched[group]
        if users > len(before):
            after = self._new_touched(2 * users)
            after[: len(before)] = before
            self._touched[group] = after
            self._tell_touched(group)

    def _new_touched(self, users: int) -> Words:
        touched = self._block(1 << (users - 1).bit_length())
        touched[:] = 0
        return touched

    def _tell_touched(self, group: int) -> None:
        touched = self._touched[group]
        at = Account.TOUCHED + GROUP_WORDS * group
        self._change({at: _address(self._arena, touched), at + 1: len(touched)})

    # --- ids of users ---------------------------------------------------------------------------------------

    @property
    def has_all_ids(self) -> bool:
        """Whether the ids of all users are there, or no more come. Needs no lock."""
        return self._has_no_more_ids or all(each.is_complete for each in self._ids)

    def give_up_ids(self) -> None:
        """No more ids come: one could not be read."""
        self._has_no_more_ids = True

    def add_ids(self, pages_max: int) -> None:
        """Adds ids that are not there yet, some pages of them. Raises DataLoss."""
        with self._ids_changing():
            for each in self._ids:
                while not each.is_complete:
                    if not pages_max:
                        return
                    each.add_page()
                    pages_max -= 1

    def clear_ids(self, users: Mapping[int, BitMap]) -> None:
        """Users (by group) were erased. Raises DataLoss."""
        with self._ids_changing():
            for group, each in users.items():
                self._ids[group].clear(each)

    def close(self) -> None:
        """The account has no users any more."""
        with self._ids_changing():
            for each in self._ids:
                each.close()

    @contextmanager
    def _ids_changing(self) -> Iterator[None]:
        self._record[Account.IDS_COUNTER] += 1
        try:
            yield
        finally:
            self._record[Account.IDS_COUNTER] += 1

    def _tell_ids(self, group: int, table: Words) -> None:
        at = Account.TOUCHED + GROUP_WORDS * group
        place = _address(self._arena, table) if len(table) else 0
        self._change({at + IDS_AT: place, at + IDS_PAGES: len(table)})

    # --- memory ---------------------------------------------------------------------------------------------

    def _block(self, words: int) -> Words:
        at = self._arena.allocate(words * WORD_BYTES)
        block = self._arena.array(at, words)
        # Code in this process that still reads the block keeps the array alive.
        weakref.finalize(block, self._arena.free, at, words * WORD_BYTES).atexit = False
        return block

    def _change(self, words: Mapping[int, int]) -> None:
        record = self._record
        record[Account.COUNTER] += 1
        for word, value in words.items():
            record[word] = value
        record[Account.COUNTER] += 1


def _address(arena: Arena, words: Words) -> int:
    return int(words.__array_interface__["data"][0]) - arena.address
