"""Users: the caller's user id ↔ (group, dense id), who is alive, aliases and partitions.

Partition p belongs to group p >> (10 − log2 groups), so that a group is a run of neighbouring partitions, and
the sampling order of partitions is simply ascending: whole groups first. Within a group users get dense ids
in first-seen order; the id of an erased user is never given again.

A user's *place* is group << 32 | dense id, one Python int.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.local.bitmaps import bitmap_of_mask
from engine.local.cache import ReadKey
from engine.local.cells import (
    BITMAP,
    PAGE_BITS,
    PAGE_MASK,
    PARTITIONS,
    Cells,
    MessageCodec,
    as_numpy,
)
from engine.local.environment import Writable
from engine.local.keys import Family, key
from engine.local.known import UNKNOWN, KnownUsers, Places
from engine.values import PARTITION_BITS, PARTITION_COUNT, partition_of

Place: TypeAlias = int
Entry: TypeAlias = int | tuple[str, str]
"""What stands under a user id: the user's place, or, of an alias, the id of its user and the id it was made
an alias of, which may be an alias itself.
"""

PLACE_SHIFT = 32
DENSE_MASK = (1 << PLACE_SHIFT) - 1

KNOWN_USERS_MAX = 16_000_000
"""How many places are remembered, about 64 bytes each, before all are forgotten."""

PARTITION_SETS_CACHED_MAX = 16

ID_LIST: MessageCodec[list[str]] = MessageCodec(list[str], list)
ENTRIES: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(int | tuple[str, str])
_encode = msgspec.msgpack.Encoder().encode


class Directory:
    """The users of one account. Called with the state lock held."""

    def __init__(self, cells: Cells, account: int, groups: int) -> None:
        self._cells = cells
        self._account = account
        self.groups = groups
        self._shift = PARTITION_BITS - (groups.bit_length() - 1)
        self._known = KnownUsers(KNOWN_USERS_MAX)
        self._fresh: dict[str, Entry | None] = {}
        self._writing: dict[str, Entry | None] = {}
        self._writing_counts: list[int] = []
        self.touched: set[ReadKey] = set()
        """Read keys of what changed since the caller last took them."""
        self._partition_sets: dict[tuple[int, frozenset[int]], tuple[int, BitMap]] = {}
        self.counts = [self._stored_count(group) for group in range(groups)]
        """For each group the next dense id."""

    def _stored_count(self, group: int) -> int:
        stored = self._cells.reading().get(key(Family.USER_COUNT, self._account, group))
        return 0 if stored is None else int.from_bytes(stored, "little")

    # --- user id → place ---

    def find(self, user_id: str) -> Place | None:
        """The place of the user that the id, or what it is an alias of, names."""
        hashes = self._known.hashes((user_id,))
        known = int(self._known.find(hashes)[0])
        if known != UNKNOWN:
            return known
        place = self._resolve(user_id)[1]
        if place is not None:
            self._known.put(hashes, np.array([place]))
        return place

    def places(self, user_ids: Sequence[str]) -> Places:
        """The places of users, in order, who all exist from now on. Ids may repeat."""
        hashes = self._known.hashes(user_ids)
        places = self._known.find(hashes)
        missing = np.flatnonzero(places == UNKNOWN).tolist()
        if missing:
            first = {user_ids[at]: at for at in reversed(missing)}
            rows = np.fromiter(first.values(), np.int64, len(first))
            places[rows] = self._find_or_create(list(first))
            self._known.put(hashes[rows], places[rows])
            if len(first) < len(missing):
                places[missing] = places[[first[user_ids[at]] for at in missing]]
        return places

    def _find_or_create(self, user_ids: Sequence[str]) -> list[Place]:
        """The places of different users, found in the index or made."""
        places: dict[str, Place] = {}
        new: dict[str, str] = {}
        for user_id, entry in zip(user_ids, self._standing_for(user_ids), strict=True):
            if isinstance(entry, int):
                places[user_id] = entry
                continue
            canonical, place = (user_id, None) if entry is None else self._resolve(user_id)
            if place is None:
                new[user_id] = canonical
            else:
                places[user_id] = place
        if new:
            made = dict.fromkeys(new.values())
            created = dict(zip(made, self._create(list(made)), strict=True))
            places.update((user_id, created[canonical]) for user_id, canonical in new.items())
        return [places[user_id] for user_id in user_ids]

    def _resolve(self, user_id: str) -> tuple[str, Place | None]:
        """The id itself, or what it is an alias of, and the place of that user."""
        entry = self._entry(user_id)
        if isinstance(entry, tuple):
            user_id = entry[0]
            entry = self._entry(user_id)
        assert not isinstance(entry, tuple), "the user of an alias is no alias"
        return user_id, entry

    def canonical(self, user_id: str) -> str:
        """The id itself, or what it is an alias of."""
        entry = self._entry(user_id)
        return entry[0] if isinstance(entry, tuple) else user_id

    def leads_to(self, user_id: str, end: str) -> bool:
        """Whether the id, or one that it is an alias of directly or through others, is `end`."""
        while user_id != end:
            entry = self._entry(user_id)
            if not isinstance(entry, tuple):
                return False
            user_id = entry[1]
        return True

    def _entry(self, user_id: str) -> Entry | None:
        return next(self._standing_for((user_id,)))

    def _standing_for(self, user_ids: Iterable[str]) -> Iterator[Entry | None]:
        """What stands under each id, None when nothing does."""
        prefix = key(Family.USER, self._account)
        get = self._cells.reading().get
        fresh, writing = self._fresh, self._writing
        for user_id in user_ids:
            if user_id in fresh:
                yield fresh[user_id]
            elif user_id in writing:
                yield writing[user_id]
            else:
                stored = get(prefix + user_id.encode())
                yield None if stored is None else ENTRIES.decode(stored)

    def _forget(self, user_id: str) -> None:
        self._known.put(self._known.hashes((user_id,)), np.array([UNKNOWN]))

    def _create(self, user_ids: Sequence[str]) -> list[Place]:
        """Makes users that do not exist yet, in order."""
        partitions = np.fromiter(map(partition_of, user_ids), np.uint16, len(user_ids))
        groups = partitions >> self._shift
        places = np.empty(len(user_ids), np.int64)
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            first = self.counts[group]
            self.counts[group] = first + len(rows)
            places[rows] = (group << PLACE_SHIFT) + first + np.arange(len(rows))
            self._enter(group, first, [user_ids[row] for row in rows.tolist()], partitions[rows])
            self.touched.add(("users", group))
        created = places.tolist()
        self._fresh.update(zip(user_ids, created, strict=True))
        return created

    def _enter(self, group: int, first: int, user_ids: list[str], partitions: npt.NDArray[np.uint16]) -> None:
        """Writes new users of a group, with dense ids from `first`, into its pages."""
        alive = self._cells.get(key(Family.ALIVE, self._account, group), BITMAP)
        alive.value.add_range(first, first + len(user_ids))
        self._cells.changed(alive)
        taken = 0
        while taken < len(user_ids):
            dense = first + taken
            fits = min(len(user_ids) - taken, PAGE_MASK + 1 - (dense & PAGE_MASK))
            ids = self._cells.get(key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS), ID_LIST)
            ids.value.extend(user_ids[taken : taken + fits])
            page = self._cells.get(self._partitions_key(group, dense >> PAGE_BITS), PARTITIONS)
            slot = dense & PAGE_MASK
            as_numpy(page.value)[slot : slot + fits] = partitions[taken : taken + fits]
            for cell in (ids, page):
                self._cells.changed(cell)
            taken += fits

    # --- place → user id ---

    def user_ids(self, group: int, users: Iterable[int]) -> list[str]:
        """The ids of users of one group, in the order given."""
        pages: dict[int, list[str]] = {}
        ids = []
        for dense in users:
            page = pages.get(dense >> PAGE_BITS)
            if page is None:
                stored = key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS)
                page = pages[dense >> PAGE_BITS] = self._cells.get(stored, ID_LIST).value
            ids.append(page[dense & PAGE_MASK])
        return ids

    def all_user_ids(self, group: int, start: int = 0) -> Sequence[str]:
        """The ids of a group by dense id, from `start`; "" for erased ones."""
        ids: list[str] = []
        for page in range(start >> PAGE_BITS, (self.counts[group] + PAGE_MASK) >> PAGE_BITS):
            ids += self._cells.get(key(Family.USER_IDS, self._account, group, page), ID_LIST).value
        return ids[start & PAGE_MASK :]

    def alive(self, group: int) -> BitMap:
        """Every user of the group. Not to be changed by the caller."""
        return self._cells.get(key(Family.ALIVE, self._account, group), BITMAP).value

    def size(self) -> int:
        """How many users the account has."""
        return sum(len(self.alive(group)) for group in range(self.groups))

    # --- partitions ---

    def group_partitions(self, group: int) -> range:
        """The partitions of a group."""
        return range(group << self._shift, (group + 1) << self._shift)

    def _partitions_key(self, group: int, page: int) -> bytes:
        return key(Family.USER_PARTITIONS, self._account, group, page)

    def in_partitions(self, group: int, partitions: frozenset[int]) -> BitMap:
        """Users of the group in those partitions."""
        cached = self._partition_sets.get((group, partitions))
        if cached is None or cached[0] != self.counts[group]:
            cached = self._keep_partition_set(group, partitions)
        return cached[1] & self.alive(group)

    def _keep_partition_set(self, group: int, partitions: frozenset[int]) -> tuple[int, BitMap]:
        """Every dense id ever given in the partitions, which only grows, and how many ids there were."""
        chosen = np.zeros(1 << 16, np.bool_)
        chosen[list(partitions)] = True
        pages = [
            as_numpy(self._cells.get(self._partitions_key(group, page), PARTITIONS).value)
            for page in range((self.counts[group] + PAGE_MASK) >> PAGE_BITS)
        ]
        users = bitmap_of_mask(chosen[np.concatenate(pages)]) if pages else BitMap()
        if len(self._partition_sets) >= PARTITION_SETS_CACHED_MAX:
            self._partition_sets.pop(next(iter(self._partition_sets)))
        kept = self._partition_sets[group, partitions] = (self.counts[group], users)
        return kept

    # --- aliases and erasure ---

    def _aliases(self, user_id: str) -> list[str]:
        return self._cells.get(self._aliases_key(user_id), ID_LIST).value

    def _aliases_key(self, user_id: str) -> bytes:
        return key(Family.ALIASES, self._account, user_id.encode())

    def link(self, from_user_id: str, to_user_id: str) -> None:
        """Makes `from`, which has been retired and is no alias, and its own aliases, aliases of what `to`
        stands for.
        """
        target = self.canonical(to_user_id)
        before = self._cells.get(self._aliases_key(from_user_id), ID_LIST)
        after = self._cells.get(self._aliases_key(target), ID_LIST)
        moved = [*before.value, from_user_id]
        after.value.extend(moved)
        before.value = []
        for cell in (before, after):
            self._cells.changed(cell)
        for user_id in moved:
            entry = self._entry(user_id)
            self._fresh[user_id] = (target, entry[1] if isinstance(entry, tuple) else to_user_id)
            self._forget(user_id)

    def retire(self, user_id: str, place: Place) -> None:
        """Takes a canonical user out: its id names nobody, its dense id is spent."""
        group, dense = place >> PLACE_SHIFT, place & DENSE_MASK
        ids = self._cells.get(key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS), ID_LIST)
        ids.value[dense & PAGE_MASK] = ""
        alive = self._cells.get(key(Family.ALIVE, self._account, group), BITMAP)
        alive.value.discard(dense)
        for cell in (ids, alive):
            self._cells.changed(cell)
        self._fresh[user_id] = None
        for known in (user_id, *self._aliases(user_id)):
            self._forget(known)

    def unlink_aliases(self, user_id: str) -> None:
        """Forgets every alias of a canonical id."""
        aliases = self._cells.get(self._aliases_key(user_id), ID_LIST)
        for alias in aliases.value:
            self._fresh[alias] = None
            self._forget(alias)
        aliases.value = []
        self._cells.changed(aliases)

    # --- folding ---

    def collect(self) -> None:
        """Sets what is new since the last fold, and not in cells, apart for `write`, which needs no lock."""
        self._writing, self._fresh = self._fresh, {}
        self._writing_counts = list(self.counts)

    def write(self, txn: Writable) -> None:
        """Writes what was collected."""
        prefix = key(Family.USER, self._account)
        for user_id, entry in sorted(self._writing.items()):
            stored = prefix + user_id.encode()
            if entry is None:
                txn.delete(stored)
            else:
                txn.put(stored, _encode(entry))
        for group, count in enumerate(self._writing_counts):
            txn.put(key(Family.USER_COUNT, self._account, group), count.to_bytes(U32_BYTES, "little"))

    def written(self) -> None:
        """What was collected is in the index."""
        self._writing = {}

    def unwritten(self) -> None:
        """What was collected did not reach the index."""
        self._fresh = {**self._writing, **self._fresh}
        self._writing = {}


def by_group(places: Iterable[Place]) -> dict[int, BitMap]:
    """The dense ids of places, by group."""
    users: dict[int, list[int]] = {}
    for place in places:
        users.setdefault(place >> PLACE_SHIFT, []).append(place & DENSE_MASK)
    return {group: BitMap(dense, optimize=False) for group, dense in users.items()}


U32_BYTES = 4

SAMPLING_ORDER = tuple(range(PARTITION_COUNT))
"""Ascending partitions fill one group after the other."""
