"""The user directory: user id ↔ user ref (group, dense id), live users, aliases and partitions.

`PartitionOrder` assigns partitions to groups. Within a group users get dense ids in first-seen order. The
dense id of an erased user is never reused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Int64s
from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.keys import PAGE_KEYS_KEPT, Family, key
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
from engine.backends.local.storage.unwritten import Unwritten
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.backends.local.users.halvings import Halvings
from engine.backends.local.users.hash_table import CHANGING, UNKNOWN
from engine.backends.local.users.id_index import UserIndex
from engine.backends.local.users.id_pages import ID_PAGE, IdPage
from engine.bounded_cache import BoundedCache
from engine.values import partition_of

PartitionSets: TypeAlias = "BoundedCache[tuple[int, int, frozenset[int]], tuple[int, BitMap]]"
"""By account, group and partitions: how many dense ids had been given, and those in the partitions. Both only
grow.
"""
PARTITION_NUMBER_BYTES = 64
"""Memory of a partition's number in the key of such a set."""
FEW_USERS_MAX = 64
"""New users up to which each is given to its group by itself: calls of numpy for every group take longer."""

ONE_BY_ONE_MAX = 8
"""New users of a page whose partitions are written one by one."""
ID_LIST: MessageCodec[list[str]] = MessageCodec(list[str], list)


class Alias(NamedTuple):
    """The user an alias resolves to, and the id it was made an alias of, which may itself be an alias."""

    user_id: str
    alias_of: str


@functools.lru_cache(PAGE_KEYS_KEPT)
def _alive_key(account: int, group: int) -> bytes:
    return key(Family.ALIVE, account, group)


@functools.lru_cache(PAGE_KEYS_KEPT)
def _page_keys(account: int, group: int, page: int) -> tuple[bytes, bytes]:
    """The keys of a page of ids, and of the page of their partitions."""
    return key(Family.USER_IDS, account, group, page), key(Family.USER_PARTITIONS, account, group, page)


ALIASES: msgspec.msgpack.Decoder[Alias] = msgspec.msgpack.Decoder(Alias)
_encode = msgspec.msgpack.Encoder().encode


class Directory:
    """The users of one account. Call with the state lock held, except `peek` and `peek_many`."""

    def __init__(
        self,
        page_cache: PageCache,
        index: UserIndex,
        account: int,
        partitions: PartitionOrder,
        partition_sets: PartitionSets,
    ) -> None:
        self._page_cache = page_cache
        self._index = index
        self._account = account
        self.partitions = partitions
        self.groups = len(partitions.groups)
        self._aliased: Unwritten[str, Alias | None] = Unwritten()
        """Ids that became aliases, or (None) are none any more."""
        self._writing_counts: list[int] = []
        self.touched: set[ReadKey] = set()
        """Read keys that changed since the caller last took them."""
        self._halvings: dict[int, Halvings] = {}
        self._partition_sets = partition_sets
        self.counts = [self._stored_count(group) for group in range(self.groups)]
        """For each group the next dense id."""
        aliases = self._page_cache.reading().keys(key(Family.ALIAS_OF, account))
        self._has_aliases = next(aliases, None) is not None

    def _stored_count(self, group: int) -> int:
        stored = self._page_cache.reading().get(key(Family.USER_COUNT, self._account, group))
        return 0 if stored is None else int.from_bytes(stored, "little")

    @property
    def has_aliases(self) -> bool:
        """Whether some ids may be aliases."""
        return self._has_aliases

    # --- user id → user ref ---

    def find(self, user_id: str) -> UserRef | None:
        """The ref of the user that the id names, after resolving aliases."""
        known = self.peek(user_id)
        if known != CHANGING:
            return None if known == UNKNOWN else known
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

    def find_many(self, user_ids: Sequence[str]) -> UserRefs:
        """`find` of each id; UNKNOWN for those that name no user."""
        keys = self._index.keys(user_ids)
        refs = self._index.find(keys)
        if self._has_aliases:
            for row in np.flatnonzero(refs == UNKNOWN).tolist():
                ref = self.find(user_ids[row])
                refs[row] = UNKNOWN if ref is None else ref
        return refs

    def peek(self, user_id: str) -> UserRef:
        """`find` without the lock: UNKNOWN for no user, CHANGING when it takes the lock to know."""
        ref = self._index.peek(user_id)
        return CHANGING if ref == UNKNOWN and self._has_aliases else ref

    def peek_many(self, user_ids: Sequence[str]) -> UserRefs | None:
        """`peek` of each id; None: users were added meanwhile."""
        refs = self._index.peek_many(self._index.keys(user_ids))
        if refs is not None and self._has_aliases:
            refs[refs == UNKNOWN] = CHANGING
        return refs

    def named(self, group: int, user_ids: Sequence[str]) -> BitMap:
        """The users of the group with these ids. Aliases are not resolved."""
        if not user_ids:
            return BitMap()
        refs = self._index.find(self._index.keys(user_ids))
        # An alias that the index remembers leads to a user with another id, perhaps of another group.
        here = refs[(refs != UNKNOWN) & (refs >> GROUP_SHIFT == group)] & DENSE_MASK
        dense, wanted = here.tolist(), frozenset(user_ids)
        found = zip(dense, self.user_ids(group, dense), strict=True)
        return BitMap([each for each, user_id in found if user_id in wanted])

    def known(self, user_ids: Sequence[str]) -> list[str]:
        """The ids that name a user, are aliases or have aliases."""
        refs = self.find_many(user_ids).tolist()
        return [
            user_id
            for user_id, ref in zip(user_ids, refs, strict=True)
            if ref != UNKNOWN or self._alias(user_id) is not None or self.aliases(user_id)
        ]

    def by_group(self, user_ids: Sequence[str]) -> dict[int, list[str]]:
        """The ids by the group that their users belong to, whether they exist or not."""
        return self.partitions.by_group(user_ids)

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
        if user_id in self._aliased:
            return self._aliased[user_id]
        stored = self._page_cache.reading().get(key(Family.ALIAS_OF, self._account, user_id.encode()))
        return None if stored is None else ALIASES.decode(stored)

    def _forget(self, user_ids: Sequence[str]) -> None:
        if user_ids:
            self._index.forget(self._index.keys(user_ids))

    def _create(self, user_ids: Sequence[str], keys: Keys) -> UserRefs:
        """Creates new users, in order."""
        partitions = np.fromiter(map(partition_of, user_ids), np.uint16, len(user_ids))
        groups = self.partitions.group_of[partitions]
        if len(user_ids) <= FEW_USERS_MAX:
            refs = self._create_few(user_ids, partitions.tolist(), groups.tolist())
            self._index.add(keys, refs)
            return refs
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

    def _create_few(
        self, user_ids: Sequence[str], partitions: Sequence[int], groups: Sequence[int]
    ) -> UserRefs:
        """The refs of new users with these partitions and groups, in order."""
        refs: list[UserRef] = []
        new: dict[int, tuple[int, list[str], list[int]]] = {}
        for user_id, partition, group in zip(user_ids, partitions, groups, strict=True):
            dense = self.counts[group]
            self.counts[group] = dense + 1
            refs.append(group << GROUP_SHIFT | dense)
            _, ids, of_ids = new.setdefault(group, (dense, [], []))
            ids.append(user_id)
            of_ids.append(partition)
        for group, (first, ids, of_ids) in new.items():
            self._enter(group, first, ids, of_ids)
            self.touched.add(("users", group))
        return np.array(refs, np.int64)

    def _enter(
        self, group: int, first: int, user_ids: list[str], partitions: npt.NDArray[np.uint16] | list[int]
    ) -> None:
        """Writes new users of a group into its pages, with dense ids from `first`."""
        alive = self._page_cache.change(_alive_key(self._account, group), BITMAP)
        alive.value.add_range(first, first + len(user_ids))
        taken = 0
        while taken < len(user_ids):
            dense = first + taken
            fits = min(len(user_ids) - taken, PAGE_MASK + 1 - (dense & PAGE_MASK))
            ids_key, partitions_key = _page_keys(self._account, group, dense >> PAGE_BITS)
            self._page_cache.change(ids_key, ID_PAGE).value.extend(user_ids[taken : taken + fits])
            page = self._page_cache.change(partitions_key, PARTITIONS)
            slot = dense & PAGE_MASK
            if fits > ONE_BY_ONE_MAX:
                as_numpy(page.value)[slot : slot + fits] = partitions[taken : taken + fits]
            else:
                for at in range(fits):
                    page.value[slot + at] = partitions[taken + at]
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

    def pages_of_user_ids(self, group: int, start: int, end: int) -> Iterator[Sequence[str]]:
        """The ids of a group by dense id, from `start` to before `end`, page by page; "" for erased ones.
        Others may write between two pages.
        """
        for page, first, last in self._id_pages(group, start, end):
            yield page.texts(first)[: last - first]

    def joined_user_ids(self, group: int, start: int, end: int) -> Iterator[tuple[bytes, Int64s]]:
        """As `pages_of_user_ids`, joined, with the end of each after a leading 0."""
        for page, first, last in self._id_pages(group, start, end):
            yield page.joined(first, last)

    def _id_pages(self, group: int, start: int, end: int) -> Iterator[tuple[IdPage, int, int]]:
        """The pages of a range of dense ids, each with its first slot and the one after its last."""
        for number in range(start >> PAGE_BITS, (end + PAGE_MASK) >> PAGE_BITS):
            before = number << PAGE_BITS
            page = self._page_cache.get(key(Family.USER_IDS, self._account, group, number), ID_PAGE).value
            yield page, max(0, start - before), min(PAGE_MASK + 1, end - before)

    def alive(self, group: int) -> BitMap:
        """Every user of the group. Do not modify the result."""
        return self._page_cache.get(key(Family.ALIVE, self._account, group), BITMAP).value

    def size(self) -> int:
        """Number of users in the account."""
        return sum(len(self.alive(group)) for group in range(self.groups))

    # --- partitions ---

    def in_partitions(self, group: int, partitions: frozenset[int]) -> BitMap:
        """Users of the group in those partitions."""
        cache_key = self._account, group, partitions
        cached = self._partition_sets.get(cache_key)
        if cached is None or cached[0] != self.counts[group]:
            chosen = np.zeros(1 << 16, np.bool_)
            chosen[list(partitions)] = True
            cached = self.counts[group], bitmap_of_mask(chosen[self._partitions_from(group, 0)])
            nbytes = self.counts[group] // 8 + PARTITION_NUMBER_BYTES * len(partitions)
            self._partition_sets.put(cache_key, cached, nbytes)
        return cached[1] & self.alive(group)

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
            as_numpy(self._page_cache.get(_page_keys(self._account, group, page)[1], PARTITIONS).value)
            for page in range(first, (self.counts[group] + PAGE_MASK) >> PAGE_BITS)
        ]
        if not pages:
            return np.empty(0, np.uint16)
        base = first << PAGE_BITS
        return np.concatenate(pages)[start - base : self.counts[group] - base]

    # --- aliases and erasure ---

    def all_aliases(self) -> dict[str, str]:
        """Every alias, and the user that it means."""
        if not self._has_aliases:
            return {}
        prefix = key(Family.ALIAS_OF, self._account)
        found: dict[str, Alias | None] = {
            stored[len(prefix) :].decode(): ALIASES.decode(value)
            for stored, value in self._page_cache.reading().scan(prefix)
        }
        found |= {user_id: self._aliased[user_id] for user_id in self._aliased}
        return {user_id: alias.user_id for user_id, alias in found.items() if alias is not None}

    def aliases(self, user_id: str) -> tuple[str, ...]:
        """The aliases of a canonical id, those of aliases too."""
        return tuple(self._aliases(user_id)) if self._has_aliases else ()

    def _aliases(self, user_id: str) -> list[str]:
        found = self._page_cache.find(self._aliases_key(user_id), ID_LIST)
        return [] if found is None else found.value

    def _aliases_key(self, user_id: str) -> bytes:
        return key(Family.ALIASES, self._account, user_id.encode())

    def aliases_with(self, from_user_id: str, to_user_id: str) -> int:
        """Number of aliases of the user of `to` once `from` is one; 0 when `from` is an alias already."""
        if self.canonical(from_user_id) != from_user_id:
            return 0
        target = self.canonical(to_user_id)
        return 1 + len(self._aliases(from_user_id)) + len(self._aliases(target))

    def link(self, from_user_id: str, to_user_id: str) -> None:
        """Makes `from` and its own aliases aliases of the user of `to`. `from` is retired and no alias."""
        target = self.canonical(to_user_id)
        before = self._page_cache.change(self._aliases_key(from_user_id), ID_LIST)
        after = self._page_cache.change(self._aliases_key(target), ID_LIST)
        moved = [*before.value, from_user_id]
        after.value.extend(moved)
        before.value = []
        for user_id in moved:
            alias = self._alias(user_id)
            self._aliased.fresh[user_id] = Alias(target, to_user_id if alias is None else alias.alias_of)
        self._has_aliases = True
        self._forget(moved)

    def retire(self, user_id: str, ref: UserRef) -> None:
        """Removes a canonical user. Its id is unknown from then on and its dense id is not reused."""
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        ids = self._page_cache.change(key(Family.USER_IDS, self._account, group, dense >> PAGE_BITS), ID_PAGE)
        ids.value.clear(dense & PAGE_MASK)
        self._page_cache.change(key(Family.ALIVE, self._account, group), BITMAP).value.discard(dense)
        self._index.remove(self._index.keys((user_id,)), ref)
        self._forget(self.aliases(user_id))

    def unlink_aliases(self, user_id: str) -> None:
        """Deletes every alias of a canonical id."""
        if not self.aliases(user_id):
            return
        aliases = self._page_cache.change(self._aliases_key(user_id), ID_LIST)
        self._aliased.fresh.update(dict.fromkeys(aliases.value))
        self._forget(aliases.value)
        aliases.value = []

    # --- checkpointing ---

    def prepare(self) -> None:
        """Collects what is new since the last checkpoint and not in the page cache for `write`, which needs
        no lock.
        """
        self._index.prepare()
        self._aliased.prepare()
        self._writing_counts = list(self.counts)

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected."""
        self._index.write(txn)
        prefix = key(Family.ALIAS_OF, self._account)
        for user_id, alias in sorted(self._aliased.writing.items()):
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
        self._aliased.commit()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self._index.rollback()
        self._aliased.rollback()


def by_group(refs: Iterable[UserRef]) -> dict[int, BitMap]:
    """The dense ids of user refs, by group."""
    users: dict[int, list[int]] = {}
    for ref in refs:
        users.setdefault(ref >> GROUP_SHIFT, []).append(ref & DENSE_MASK)
    return {group: BitMap(dense, optimize=False) for group, dense in users.items()}


U32_BYTES = 4
