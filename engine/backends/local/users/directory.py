"""The user directory: user id ↔ user ref (group, dense id), live users, aliases and partitions.

`PartitionOrder` assigns partitions to groups. Within a group users get dense ids in first-seen order. The
dense id of an erased user is never reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.query.halvings import Halvings
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import (
    BITMAP,
    PAGE_BITS,
    PAGE_MASK,
    PARTITIONS,
    MessageCodec,
    PageCache,
    as_numpy,
)
from engine.backends.local.storage.partition_order import PartitionOrder
from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.step_cache import ReadKey
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.backends.local.users.hash_table import UNKNOWN
from engine.backends.local.users.id_index import UserIndex
from engine.backends.local.users.id_pages import ID_PAGE, IdPage
from engine.values import partition_of

PARTITION_SETS_CACHED_MAX = 16

ID_LIST: MessageCodec[list[str]] = MessageCodec(list[str], list)


class Alias(NamedTuple):
    """The user an alias resolves to, and the id it was made an alias of, which may itself be an alias."""

    user_id: str
    alias_of: str


ALIASES: msgspec.msgpack.Decoder[Alias] = msgspec.msgpack.Decoder(Alias)
_encode = msgspec.msgpack.Encoder().encode


class Directory:
    """The users of one account. Call with the state lock held."""

    def __init__(
        self, page_cache: PageCache, index: UserIndex, account: int, partitions: PartitionOrder
    ) -> None:
        self._page_cache = page_cache
        self._index = index
        self._account = account
        self.partitions = partitions
        self.groups = len(partitions.groups)
        self._fresh: dict[str, Alias | None] = {}
        self._writing: dict[str, Alias | None] = {}
        self._writing_counts: list[int] = []
        self.touched: set[ReadKey] = set()
        """Read keys that changed since the caller last took them."""
        self._halvings: dict[int, Halvings] = {}
        self._partition_sets: dict[tuple[int, frozenset[int]], tuple[int, BitMap]] = {}
        self.counts = [self._stored_count(group) for group in range(self.groups)]
        """For each group the next dense id."""
        aliases = self._page_cache.reading().keys(key(Family.ALIAS_OF, account))
        self._has_aliases = next(aliases, None) is not None

    def _stored_count(self, group: int) -> int:
        stored = self._page_cache.reading().get(key(Family.USER_COUNT, self._account, group))
        return 0 if stored is None else int.from_bytes(stored, "little")

    # --- user id → user ref ---

    def find(self, user_id: str) -> UserRef | None:
        """The ref of the user that the id names, after resolving aliases."""
        keys = self._index.keys((user_id,))
        ref = int(self._index.find(keys)[0])
        if ref != UNKNOWN:
            return ref
        alias = self._alias(user_id)
        if alias is None:
            return None
        refs = self._index.find(self._index.keys((alias.user_id,)))
        if refs[0] == UNKNOWN:
            return None
        self._index.remember(keys, refs)
        return int(refs[0])

    def refs(self, user_ids: Sequence[str]) -> UserRefs:
        """The refs of users, in order. Creates users that do not exist. Ids may repeat."""
        keys = self._index.keys(user_ids)
        refs = self._index.find(keys)
        missing = np.flatnonzero(refs == UNKNOWN).tolist()
        if missing:
            first = {user_ids[at]: at for at in reversed(missing)}
            rows = np.fromiter(first.values(), np.int64, len(first))
            refs[rows] = self._refs_of_missing(list(first), keys[rows])
            if len(first) < len(missing):
                refs[missing] = refs[[first[user_ids[at]] for at in missing]]
        return refs

    def _refs_of_missing(self, user_ids: Sequence[str], keys: Keys) -> UserRefs:
        """The refs of distinct ids that are not in the index: aliases and new users."""
        if not self._has_aliases:
            return self._create(user_ids, keys)
        aliases = {
            at: alias for at, user_id in enumerate(user_ids) if (alias := self._alias(user_id)) is not None
        }
        if not aliases:
            return self._create(user_ids, keys)
        refs = np.empty(len(user_ids), np.int64)
        of_aliases = np.fromiter(aliases, np.int64, len(aliases))
        refs[of_aliases] = self.refs([alias.user_id for alias in aliases.values()])
        self._index.remember(keys[of_aliases], refs[of_aliases])
        others = np.delete(np.arange(len(user_ids)), of_aliases)
        # Resolving the aliases may have created some of them.
        refs[others] = self.refs([user_ids[at] for at in others.tolist()])
        return refs

    def canonical(self, user_id: str) -> str:
        """The id itself, or the user it is an alias of."""
        alias = self._alias(user_id)
        return user_id if alias is None else alias.user_id

    def leads_to(self, user_id: str, end: str) -> bool:
        """Whether the chain of aliases from the id reaches `end`."""
        while user_id != end:
            alias = self._alias(user_id)
            if alias is None:
                return False
            user_id = alias.alias_of
        return True

    def _alias(self, user_id: str) -> Alias | None:
        """What the id is an alias of, or None."""
        if not self._has_aliases:
            return None
        for changed in (self._fresh, self._writing):
            if user_id in changed:
                return changed[user_id]
        stored = self._page_cache.reading().get(key(Family.ALIAS_OF, self._account, user_id.encode()))
        return None if stored is None else ALIASES.decode(stored)

    def _forget(self, user_ids: Sequence[str]) -> None:
        self._index.forget(self._index.keys(user_ids))

    def _create(self, user_ids: Sequence[str], keys: Keys) -> UserRefs:
        """Creates new users, in order."""
        partitions = np.fromiter(map(partition_of, user_ids), np.uint16, len(user_ids))
        groups = self.partitions.group_of[partitions]
        refs = np.empty(len(user_ids), np.int64)
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            first = self.counts[group]
            self.counts[group] = first + len(rows)
            refs[rows] = (group << GROUP_SHIFT) + first + np.arange(len(rows))
            self._enter(group, first, [user_ids[row] for row in rows.tolist()], partitions[rows])
            self.touched.add(("users", group))
        self._index.add(keys, refs)
        return refs

    def _enter(self, group: int, first: int, user_ids: list[str], partitions: npt.NDArray[np.uint16]) -> None:
        """Writes new users of a group into its pages, with dense ids from `first`."""
        alive = self._page_cache.get(key(Family.ALIVE, self._account, group), BITMAP)
        alive.value.add_range(first, first + len(user_ids))
        self._page_cache.changed(alive)
        taken = 0
        while taken < len(user_ids):
            dense = first + taken
            fits = min(len(user_ids) - taken, PAGE_MASK + 1 - (dense & PAGE_MASK))
            ids = self._page_cache.get(
                key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS), ID_PAGE
            )
            ids.value.extend(user_ids[taken : taken + fits])
            page = self._page_cache.get(self._partitions_key(group, dense >> PAGE_BITS), PARTITIONS)
            slot = dense & PAGE_MASK
            as_numpy(page.value)[slot : slot + fits] = partitions[taken : taken + fits]
            for cached in (ids, page):
                self._page_cache.changed(cached)
            taken += fits

    # --- user ref → user id ---

    def user_ids(self, group: int, users: Iterable[int]) -> list[str]:
        """The ids of users of one group, in the order given."""
        pages: dict[int, IdPage] = {}
        ids = []
        for dense in users:
            page = pages.get(dense >> PAGE_BITS)
            if page is None:
                stored = key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS)
                page = pages[dense >> PAGE_BITS] = self._page_cache.get(stored, ID_PAGE).value
            ids.append(page[dense & PAGE_MASK])
        return ids

    def all_user_ids(self, group: int, start: int = 0) -> Sequence[str]:
        """The ids of a group by dense id, from `start`; "" for erased ones."""
        ids: list[str] = []
        for page in range(start >> PAGE_BITS, (self.counts[group] + PAGE_MASK) >> PAGE_BITS):
            stored = key(Family.USER_IDS, self._account, group, page)
            ids += self._page_cache.get(stored, ID_PAGE).value.texts(0 if ids else start & PAGE_MASK)
        return ids

    def alive(self, group: int) -> BitMap:
        """Every user of the group. Do not modify the result."""
        return self._page_cache.get(key(Family.ALIVE, self._account, group), BITMAP).value

    def size(self) -> int:
        """Number of users in the account."""
        return sum(len(self.alive(group)) for group in range(self.groups))

    # --- partitions ---

    def _partitions_key(self, group: int, page: int) -> bytes:
        return key(Family.USER_PARTITIONS, self._account, group, page)

    def in_partitions(self, group: int, partitions: frozenset[int]) -> BitMap:
        """Users of the group in those partitions."""
        cached = self._partition_sets.get((group, partitions))
        if cached is None or cached[0] != self.counts[group]:
            cached = self._keep_partition_set(group, partitions)
        return cached[1] & self.alive(group)

    def _keep_partition_set(self, group: int, partitions: frozenset[int]) -> tuple[int, BitMap]:
        """Every dense id ever assigned in the partitions, and their number. Both only grow."""
        chosen = np.zeros(1 << 16, np.bool_)
        chosen[list(partitions)] = True
        users = bitmap_of_mask(chosen[self._partitions_from(group, 0)])
        if len(self._partition_sets) >= PARTITION_SETS_CACHED_MAX:
            self._partition_sets.pop(next(iter(self._partition_sets)))
        kept = self._partition_sets[group, partitions] = (self.counts[group], users)
        return kept

    def halvings(self, group: int) -> Halvings:
        """The halves of a group's partitions, with every user of it."""
        found = self._halvings.get(group)
        if found is None:
            found = self._halvings[group] = Halvings(len(self.partitions.of_group(group)))
        if found.known < self.counts[group]:
            found.extend(self.partitions.rank_in_group[self._partitions_from(group, found.known)])
        return found

    def _partitions_from(self, group: int, start: int) -> npt.NDArray[np.uint16]:
        """The partition of every dense id of a group, from `start`."""
        first = start >> PAGE_BITS
        pages = [
            as_numpy(self._page_cache.get(self._partitions_key(group, page), PARTITIONS).value)
            for page in range(first, (self.counts[group] + PAGE_MASK) >> PAGE_BITS)
        ]
        if not pages:
            return np.empty(0, np.uint16)
        base = first << PAGE_BITS
        return np.concatenate(pages)[start - base : self.counts[group] - base]

    # --- aliases and erasure ---

    def _aliases(self, user_id: str) -> list[str]:
        return self._page_cache.get(self._aliases_key(user_id), ID_LIST).value

    def _aliases_key(self, user_id: str) -> bytes:
        return key(Family.ALIASES, self._account, user_id.encode())

    def link(self, from_user_id: str, to_user_id: str) -> None:
        """Makes `from` and its own aliases aliases of the user of `to`. `from` is retired and no alias."""
        target = self.canonical(to_user_id)
        before = self._page_cache.get(self._aliases_key(from_user_id), ID_LIST)
        after = self._page_cache.get(self._aliases_key(target), ID_LIST)
        moved = [*before.value, from_user_id]
        after.value.extend(moved)
        before.value = []
        for cached in (before, after):
            self._page_cache.changed(cached)
        for user_id in moved:
            alias = self._alias(user_id)
            self._fresh[user_id] = Alias(target, to_user_id if alias is None else alias.alias_of)
        self._has_aliases = True
        self._forget(moved)

    def retire(self, user_id: str, ref: UserRef) -> None:
        """Removes a canonical user. Its id names nobody and its dense id is not reused."""
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        ids = self._page_cache.get(key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS), ID_PAGE)
        ids.value.clear(dense & PAGE_MASK)
        alive = self._page_cache.get(key(Family.ALIVE, self._account, group), BITMAP)
        alive.value.discard(dense)
        for cached in (ids, alive):
            self._page_cache.changed(cached)
        self._index.remove(self._index.keys((user_id,)), ref)
        self._forget(self._aliases(user_id))

    def unlink_aliases(self, user_id: str) -> None:
        """Deletes every alias of a canonical id."""
        aliases = self._page_cache.get(self._aliases_key(user_id), ID_LIST)
        self._fresh.update(dict.fromkeys(aliases.value))
        self._forget(aliases.value)
        aliases.value = []
        self._page_cache.changed(aliases)

    # --- checkpointing ---

    def prepare(self) -> None:
        """Collects what is new since the last checkpoint and not in the page cache for `write`, which needs
        no lock.
        """
        self._index.prepare()
        self._writing, self._fresh = self._fresh, {}
        self._writing_counts = list(self.counts)

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        self._index.write(txn)
        prefix = key(Family.ALIAS_OF, self._account)
        for user_id, alias in sorted(self._writing.items()):
            stored = prefix + user_id.encode()
            if alias is None:
                txn.delete(stored)
            else:
                txn.put(stored, _encode(alias))
        for group, count in enumerate(self._writing_counts):
            txn.put(key(Family.USER_COUNT, self._account, group), count.to_bytes(U32_BYTES, "little"))

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        self._index.commit()
        self._writing = {}

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self._index.rollback()
        self._fresh = {**self._writing, **self._fresh}
        self._writing = {}


def by_group(refs: Iterable[UserRef]) -> dict[int, BitMap]:
    """The dense ids of user refs, by group."""
    users: dict[int, list[int]] = {}
    for ref in refs:
        users.setdefault(ref >> GROUP_SHIFT, []).append(ref & DENSE_MASK)
    return {group: BitMap(dense, optimize=False) for group, dense in users.items()}


U32_BYTES = 4
