"""The memory as a reader sees it. What is read here is checked afterwards: see `layout`.

Records are read into states that never change, so several threads may use them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash
from pyroaring import BitMap

from engine.backends.local.serving.accounts import GROUP_WORDS, IDS_AT, IDS_PAGES, SLOT_WORDS
from engine.backends.local.serving.arena import ARENA_BYTES, WORD_BYTES, Words
from engine.backends.local.serving.ids import text_offset
from engine.backends.local.serving.layout import NOBODY, UNCOUNTED, Account, Scope
from engine.backends.local.serving.scopes import Block, ColumnOutlook
from engine.backends.local.storage.page_cache import PAGE_BITS, PAGE_MASK
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.backends.local.users.hash_table import CHANGING, UNKNOWN, find_in, find_one_in
from engine.backends.local.users.id_index import LOW_MASK, user_keys
from engine.values import Micros

PROBES_MAX = 4_096
"""Slots looked at for one user. More are needed only in memory that was freed meanwhile."""

_decode_blocks = msgspec.msgpack.Decoder(list[list[Block]]).decode
_decode_outlooks = msgspec.msgpack.Decoder(dict[int, ColumnOutlook]).decode
_decode_names = msgspec.msgpack.Decoder(dict[str, int]).decode


class Changed(Exception):
    """The record changed while it was read; reading it again helps."""


class Memory:
    """The memory of a writer, mapped for reading."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, ARENA_BYTES, prot=mmap.PROT_READ)
        os.close(descriptor)
        self.words: memoryview[int] = memoryview(self._map).cast("Q")

    def bytes(self, at: int, size: int) -> bytes:
        """A copy of a block."""
        return self._map[at : at + size]

    def array(self, at: int, words: int) -> Words:
        """Words as an array over the memory itself."""
        return np.frombuffer(self._map, np.uint64, words, at)

    def ends(self, at: int, count: int) -> npt.NDArray[np.uint32]:
        """The ends in a page of ids, over the memory itself."""
        return np.frombuffer(self._map, np.uint32, count, at)


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account's record as it was at `counter`. The arrays and words are the memory itself."""

    counter: int
    record: memoryview[int]
    seed: int
    knows_all: bool
    """Whether an id that is not in the table names nobody."""
    numbers: memoryview[int]
    slots: npt.NDArray[np.uint64]
    touched: tuple[memoryview[int], ...]
    touched_arrays: tuple[Words, ...]
    memory: Memory
    id_tables: tuple[memoryview[int], ...]
    """By group: where the pages of ids are."""

    def find(self, user_id: str) -> UserRef:
        """The user of an id, UNKNOWN, or CHANGING when only the writer can tell."""
        record = self.record
        begun, table = record[Account.BEGUN], record[Account.TABLE_COUNTER]
        if table & 1 or record[Account.ENDED] != begun:
            return CHANGING
        digest = xxhash.xxh3_128_intdigest(user_id.encode(), self.seed)
        ref = find_one_in(self.numbers, digest >> 64, digest & LOW_MASK, PROBES_MAX)
        if record[Account.TABLE_COUNTER] != table or record[Account.BEGUN] != begun:
            return CHANGING
        return CHANGING if ref == UNKNOWN and not self.knows_all else ref

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        """`find` of each id."""
        record = self.record
        begun, table = record[Account.BEGUN], record[Account.TABLE_COUNTER]
        refs = None
        if not table & 1 and record[Account.ENDED] == begun:
            refs = find_in(self.slots, user_keys(user_ids, self.seed), PROBES_MAX)
        if refs is None or record[Account.TABLE_COUNTER] != table or record[Account.BEGUN] != begun:
            return np.full(len(user_ids), CHANGING, np.int64)
        if not self.knows_all:
            refs[refs == UNKNOWN] = CHANGING
        return refs

    def is_touched(self, ref: UserRef, stamp: int) -> bool:
        """Whether a write has touched the user after the stamp."""
        touched, dense = self.touched[ref >> GROUP_SHIFT], ref & DENSE_MASK
        # A user that has no place yet is just being added.
        return dense >= len(touched) or touched[dense] > stamp

    def are_touched(self, group: int, dense: npt.NDArray[np.int64], stamp: int) -> npt.NDArray[np.bool_]:
        """`is_touched` of each user of a group."""
        touched = self.touched_arrays[group]
        has_place = dense < len(touched)
        found = ~has_place
        found[has_place] = touched[dense[has_place]] > np.uint64(stamp)
        return found

    def is_any_touched(self, group: int, first: int, end: int | None, stamp: int) -> bool:
        """Whether a user of a group was touched after the stamp, from one to before another dense id."""
        return bool((self.touched_arrays[group][first:end] > np.uint64(stamp)).any())

    def user_ids(self, group: int, users: npt.NDArray[np.uint32]) -> list[str] | None:
        """The ids of users of a group, which are sorted; "" for those that were erased. None: some are not
        there. They are right if the account is current afterwards. Raises Changed.
        """
        counter, table = self.record[Account.IDS_COUNTER], self.id_tables[group]
        found: list[bytes] = []
        pages = users >> PAGE_BITS
        for some in np.split(users, np.flatnonzero(np.diff(pages)) + 1) if len(users) else ():
            page = int(some[0]) >> PAGE_BITS
            at = table[page] if page < len(table) else 0
            if not at:
                return None
            known = self.memory.words[at // WORD_BYTES]
            self._require_ids(counter)
            slots = (some & PAGE_MASK).astype(np.int64)
            if slots[-1] >= known:
                return None
            ends = self.memory.ends(at + WORD_BYTES, known)
            last = ends[slots].tolist()
            first = np.where(slots, ends[slots - 1], 0).tolist()
            self._require_ids(counter)
            text = at + text_offset(known)
            found += [self.memory.bytes(text + a, b - a) for a, b in zip(first, last, strict=True)]
        self._require_ids(counter)
        return [each.decode() for each in found]

    def _require_ids(self, counter: int) -> None:
        if counter & 1 or self.record[Account.IDS_COUNTER] != counter:
            raise Changed

    def is_current(self) -> bool:
        """Whether the record is the same now, and so what was read through it."""
        return self.record[Account.COUNTER] == self.counter


class AccountView:
    """The record of an account."""

    def __init__(self, memory: Memory, at: int) -> None:
        self._memory = memory
        self._first = at // WORD_BYTES
        self._record = memory.words[self._first : self._first + Account.TOUCHED]
        self._state: AccountState | None = None

    def state(self) -> AccountState:
        """The record as it is now. Raises Changed."""
        known, counter = self._state, self._record[Account.COUNTER]
        if known is None or known.counter != counter:
            known = self._state = self._read(counter)
        return known

    def _read(self, counter: int) -> AccountState:
        record, words, array = self._record, self._memory.words, self._memory.array
        table_at, slots = record[Account.TABLE_AT], record[Account.TABLE_SLOTS]
        knows_all = bool(record[Account.IS_COMPLETE]) and not record[Account.HAS_ALIASES]
        first = self._first + Account.TOUCHED
        groups = words[first : first + GROUP_WORDS * record[Account.GROUPS]].tolist()
        seed = record[Account.SEED]
        if counter & 1 or record[Account.COUNTER] != counter:
            raise Changed
        places = list(zip(groups[::GROUP_WORDS], groups[1::GROUP_WORDS], strict=True))
        tables = zip(groups[IDS_AT::GROUP_WORDS], groups[IDS_PAGES::GROUP_WORDS], strict=True)
        return AccountState(
            counter=counter,
            record=record,
            seed=seed,
            knows_all=knows_all,
            numbers=words[table_at // WORD_BYTES : table_at // WORD_BYTES + slots * SLOT_WORDS],
            slots=array(table_at, slots * SLOT_WORDS).reshape(-1, SLOT_WORDS),
            touched=tuple(words[at // WORD_BYTES : at // WORD_BYTES + users] for at, users in places),
            touched_arrays=tuple(array(at, users) for at, users in places),
            memory=self._memory,
            id_tables=tuple(words[at // WORD_BYTES : at // WORD_BYTES + pages] for at, pages in tables),
        )


@dataclass(frozen=True, slots=True)
class ScopeState:
    """A scope's record as it was at `counter`."""

    counter: int
    record: memoryview[int]
    memory: Memory
    generation: int
    reached: Micros
    depends_on_time: bool
    stamp: int
    account_at: int
    blocks: list[list[Block]]
    """By column and group. A column that is not served has none."""
    bitmaps: dict[tuple[int, int], tuple[int, BitMap]]
    """By column and group: the number of a block, and the bitmap in it. Shared with later states."""
    id_changes: int
    """Those of the account that the members are about; UNCOUNTED while they still have erased users."""
    population: int
    outlooks: dict[int, ColumnOutlook]
    """By column. They hold while the account has had `writes` writes."""
    writes: int

    def serves(self, column: int) -> bool:
        """Whether the column has members, or could have."""
        return column < len(self.blocks) and bool(self.blocks[column])

    def all_members(self, column: int) -> tuple[BitMap, ...]:
        """The members by group. Do not modify the result. Raises Changed."""
        return tuple(self.members(column, group) for group in range(len(self.blocks[column])))

    def has_ids_of(self, account: AccountState) -> bool:
        """Whether ids mean the users that the members are about, and none of these was erased."""
        record = account.record
        return (
            self.id_changes != UNCOUNTED and record[Account.BEGUN] == self.id_changes == record[Account.ENDED]
        )

    def is_settled(self, account: AccountState) -> bool:
        """Whether the members are right for everyone, with all that was acknowledged so far. It holds if the
        state is current afterwards.
        """
        return not self.record[Scope.LATE] and self.has_ids_of(account)

    def outlook(self, column: int, account: AccountState) -> ColumnOutlook | None:
        """What is known of an estimate, if it still holds. It does if the state is current afterwards."""
        return self.outlooks.get(column) if account.record[Account.WRITES] == self.writes else None

    def size(self, column: int) -> int:
        """Number of members."""
        return sum(block.users for block in self.blocks[column])

    def members(self, column: int, group: int) -> BitMap:
        """The members of a group. Do not modify the result. Raises Changed."""
        block = self.blocks[column][group]
        if block.number == NOBODY:
            return _NO_MEMBERS
        known = self.bitmaps.get((column, group))
        if known is not None and known[0] == block.number:
            return known[1]
        data = self.memory.bytes(block.at, block.size)
        if not self.is_current():
            raise Changed
        bitmap = BitMap.deserialize(data)
        self.bitmaps[column, group] = block.number, bitmap
        return bitmap

    def is_current(self) -> bool:
        """Whether the record is the same now, and so what was read through it."""
        return self.record[Scope.COUNTER] == self.counter


class ScopeView:
    """The record of a scope."""

    def __init__(self, memory: Memory, at: int) -> None:
        self._memory = memory
        self._record = memory.words[at // WORD_BYTES : at // WORD_BYTES + len(Scope)]
        self._state: ScopeState | None = None
        self._bitmaps: dict[tuple[int, int], tuple[int, BitMap]] = {}

    def state(self) -> ScopeState:
        """The record as it is now. Raises Changed."""
        known, counter = self._state, self._record[Scope.COUNTER]
        if known is None or known.counter != counter:
            words, encoded = self._block(counter, Scope.MEMBERS_AT, Scope.MEMBERS_BYTES)
            _, outlooks = self._block(counter, Scope.OUTLOOKS_AT, Scope.OUTLOOKS_BYTES)
            reached = words[Scope.REACHED]
            known = self._state = ScopeState(
                counter=counter,
                record=self._record,
                memory=self._memory,
                generation=words[Scope.GENERATION],
                reached=reached - (reached >> 63 << 64),
                depends_on_time=bool(words[Scope.DEPENDS_ON_TIME]),
                stamp=words[Scope.STAMP],
                account_at=words[Scope.ACCOUNT_AT],
                blocks=_decode_blocks(encoded) if encoded else [],
                bitmaps=self._bitmaps,
                id_changes=words[Scope.IDS],
                population=words[Scope.POPULATION],
                outlooks=_decode_outlooks(outlooks) if outlooks else {},
                writes=words[Scope.WRITES],
            )
        return known

    def names(self) -> tuple[int, dict[str, int]]:
        """The columns by name, and a number that changes with them. Raises Changed."""
        words, encoded = self._block(self._record[Scope.COUNTER], Scope.NAMES_AT, Scope.NAMES_BYTES)
        names = _decode_names(encoded) if encoded else {}
        self._keep_bitmaps_of(set(names.values()))
        return words[Scope.NAMES_VERSION], names

    def _keep_bitmaps_of(self, columns: Set[int]) -> None:
        """Drops the bitmaps of columns that are not served any more."""
        # A copy: other threads may be adding bitmaps.
        kept = {place: found for place, found in self._bitmaps.copy().items() if place[0] in columns}
        if len(kept) < len(self._bitmaps):
            self._state, self._bitmaps = None, kept

    def names_version(self) -> int:
        """The number that `names` gives."""
        return self._record[Scope.NAMES_VERSION]

    def _block(self, counter: int, at: Scope, size: Scope) -> tuple[list[int], bytes]:
        """The record, and the block at two of its words. Raises Changed."""
        words = self._record.tolist()
        data = self._memory.bytes(words[at], words[size])
        if counter & 1 or words[Scope.COUNTER] != counter or self._record[Scope.COUNTER] != counter:
            raise Changed
        return words, data


_NO_MEMBERS = BitMap()
