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
from engine.errors import DataLoss

SLOT_WORDS = 2
TOUCHED_USERS_MIN = 1 << 9
COUNTED_USERS_MAX = 1 << 23
"""Users of an account up to which the population of several inputs is counted with the state lock held: about
a millisecond. Readers answer no sizes of larger ones.
"""
FEW_TOUCHED_MAX = 16
"""Users of a group that are marked one by one: an array of them takes longer to make."""
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
        self._populations: tuple[tuple[int, int], dict[tuple[str, ...], int | None]] = (0, 0), {}
        """After how many writes and changes of ids, and by inputs the users that these had then."""
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

    # --- how many users ---

    def population(self, inputs: tuple[str, ...]) -> int | None:
        """Users of the inputs; None when they cannot be counted, or that takes long."""
        at = self.writes, self.id_changes
        if self._populations[0] != at:
            self._populations = at, {}
        known = self._populations[1]
        if inputs not in known:
            known[inputs] = self._counted(inputs)
        return known[inputs]

    def _counted(self, inputs: tuple[str, ...]) -> int | None:
        if len(inputs) > 1 and sum(self._account.directory.counts) > COUNTED_USERS_MAX:
            return None
        try:
            return self._account.universe_size(inputs)
        except DataLoss:
            return None

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
                touched = self._touched[group]
                if len(each) > FEW_TOUCHED_MAX:
                    touched[np.frombuffer(each.to_array(), np.uint32)] = stamp
                    continue
                for user in each:
                    touched[user] = stamp

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
    def needs_ids(self) -> bool:
        """Whether ids are to be added. Needs no lock."""
        return not self._has_no_more_ids and any(each.is_due for each in self._ids)

    def give_up_ids(self) -> None:
        """No more ids come: one could not be read."""
        self._has_no_more_ids = True

    def add_ids(self, pages_max: int) -> None:
        """Adds ids that are to be added, some pages of them. Raises DataLoss."""
        with self._ids_changing():
            for each in self._ids:
                while each.is_due:
                    if not pages_max:
                        return
                    each.add_page()
                    pages_max -= 1

    def look_at_ids(self) -> None:
        """The ids are added, as far as they are to be."""
        for each in self._ids:
            each.look()

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
