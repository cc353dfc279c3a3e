"""Checks the user directory: user ids ↔ user refs, live users, partitions and aliases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xxhash

from engine.backends.local.storage.bitmaps import bitmap_of_mask
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import NO_ACCOUNT, Space
from engine.backends.local.storage.page_cache import BITMAP, PAGE_BITS, PAGE_USERS, PARTITIONS, as_numpy
from engine.backends.local.storage.sorted_runs import Items
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, USER_REF_MASK
from engine.backends.local.users.directory import ALIASES, ID_LIST
from engine.backends.local.users.id_index import USER_RUNS, user_keys
from engine.backends.local.users.id_pages import ID_PAGE
from engine.backends.local.verify.examination import Examination, as_u32
from engine.backends.local.verify.runs import At, check_runs
from engine.values import PARTITION_BITS

_HASH_BITS = 64


def check_users(examination: Examination) -> Iterator[None]:
    """Checks that ids and refs lead to each other, in the group and partition of the id."""
    yield from _check_counts(examination)
    yield from _check_ids(examination)
    yield from _check_partitions(examination)
    yield from _check_alive(examination)
    yield from _check_index(examination)
    yield from _check_aliases(examination)


def _check_counts(examination: Examination) -> Iterator[None]:
    for (account, group), stored, count in examination.values(Family.USER_COUNT, as_u32):
        examination.expect(
            group < examination.groups, Family.USER_COUNT, "belongs to an unknown group", stored
        )
        if examination.is_sound(Family.NAME):
            named = account in examination.names.get((Space.ACCOUNT, NO_ACCOUNT), {})
            examination.expect(named, Family.USER_COUNT, "belongs to an unknown account", stored)
        examination.user_counts[account, group] = count
        examination.user_hashes[account, group] = np.zeros(count, np.uint64)
        examination.user_keys[account, group] = np.zeros((count, 2), np.uint64)
        yield


def _check_ids(examination: Examination) -> Iterator[None]:
    """Checks that pages are full except for the last of a group, and cover all assigned ids."""
    pages: Counter[tuple[int, int]] = Counter()
    for (account, group, page), stored, ids in examination.values(Family.USER_IDS, _ids):
        pages[account, group] += 1
        if not examination.is_sound(Family.USER_COUNT):
            continue
        hashes = examination.user_hashes.get((account, group), np.zeros(0, np.uint64))
        start = page << PAGE_BITS
        expected = min(PAGE_USERS, len(hashes) - start)
        if len(ids) != expected:
            examination.fault(Family.USER_IDS, f"has {len(ids)} ids instead of {expected}", stored)
        elif ids:
            hashes[start : start + len(ids)] = [_hash(user_id) for user_id in ids]
            keys = examination.user_keys[account, group]
            keys[start : start + len(ids)] = user_keys(ids, examination.seed)
        yield
    _check_pages(examination, Family.USER_IDS, pages)


def _ids(stored: memoryview) -> list[str]:
    return ID_PAGE.decode(stored).texts()


def _check_pages(examination: Examination, family: Family, pages: Counter[tuple[int, int]]) -> None:
    """Checks that pages cover all assigned ids."""
    if not examination.is_sound(Family.USER_COUNT, family):
        return
    for (account, group), count in examination.user_counts.items():
        expected, found = -(-count // PAGE_USERS), pages[account, group]
        stored = key(Family.USER_COUNT, account, group)
        examination.expect(
            found == expected, family, f"group has {found} pages instead of {expected}", stored
        )


def _hash(user_id: str) -> int:
    # 0 means no user; the probability that an id has this hash is 1 in 2^64.
    return xxhash.xxh3_64_intdigest(user_id.encode()) if user_id else 0


def _check_partitions(examination: Examination) -> Iterator[None]:
    """Checks that a user's partition is the top bits of the hash of its id."""
    pages: Counter[tuple[int, int]] = Counter()
    for (account, group, page), stored, column in examination.values(
        Family.USER_PARTITIONS, PARTITIONS.decode
    ):
        pages[account, group] += 1
        start = page << PAGE_BITS
        hashes = _hashes(examination, account, group)[start : start + PAGE_USERS]
        partitions = as_numpy(column)[: len(hashes)]
        wrong = (hashes != 0) & (partitions != hashes >> np.uint64(_HASH_BITS - PARTITION_BITS))
        if examination.is_sound(Family.USER_IDS, Family.USER_COUNT):
            examination.expect(
                not wrong.any(), Family.USER_PARTITIONS, f"is wrong for {_users(wrong, start)}", stored
            )
        yield
    _check_pages(examination, Family.USER_PARTITIONS, pages)


def _hashes(examination: Examination, account: int, group: int) -> npt.NDArray[np.uint64]:
    return examination.user_hashes.get((account, group), np.zeros(0, np.uint64))


def _check_alive(examination: Examination) -> Iterator[None]:
    """Checks that exactly the users with an id are alive."""
    for (account, group), _, alive in examination.values(Family.ALIVE, BITMAP.decode):
        examination.alive[account, group] = alive
        yield
    if not examination.is_sound(Family.ALIVE, Family.USER_IDS, Family.USER_COUNT):
        return
    for account, group in examination.user_hashes.keys() | examination.alive.keys():
        with_id = bitmap_of_mask(_hashes(examination, account, group) != 0)
        differ = with_id ^ examination.set_of(examination.alive, account, group)
        stored = key(Family.ALIVE, account, group)
        examination.expect(not differ, Family.ALIVE, f"is wrong for {len(differ)} users", stored)


def _check_index(examination: Examination) -> Iterator[None]:
    """Checks that each item leads to the ref of the user with its key, and that each user has one."""
    if not examination.is_sound(Family.META, Family.USER_IDS, Family.USER_COUNT):
        yield from check_runs(examination, USER_RUNS)
        return
    found = {at: np.zeros(len(keys), np.bool_) for at, keys in examination.user_keys.items()}

    def check_items(at: At, items: Items) -> None:
        keys = USER_RUNS.keys(items)
        refs = (items["low"] & np.uint64(USER_REF_MASK)).astype(np.int64)
        groups, dense = refs >> GROUP_SHIFT, refs & DENSE_MASK
        wrong = len(items)
        for group in np.unique(groups).tolist():
            known = examination.user_keys.get((at[0], group), _NO_KEYS)
            rows = np.flatnonzero((groups == group) & (dense < len(known)))
            rows = rows[(known[dense[rows]] == keys[rows]).all(axis=1)]
            if len(rows):
                found[at[0], group][dense[rows]] = True
            wrong -= len(rows)
        stored = key(Family.USER_RUN, *at)
        examination.expect(not wrong, Family.USER_BLOCK, f"lead to another user in {wrong} cases", stored)

    yield from check_runs(examination, USER_RUNS, check_items)
    if examination.is_sound(*_RUN_FAMILIES):
        for (account, group), there in found.items():
            missing = int(np.count_nonzero((_hashes(examination, account, group) != 0) & ~there))
            stored = key(Family.USER_COUNT, account, group)
            examination.expect(not missing, Family.USER_BLOCK, f"lack {missing} users of the group", stored)


_RUN_FAMILIES = (Family.USER_RUN, Family.USER_FILTER, Family.USER_BLOCK)
_NO_KEYS = np.zeros((0, 2), np.uint64)


def _check_aliases(examination: Examination) -> Iterator[None]:
    """Checks that the lists of aliases are exact."""
    aliases: Counter[int] = Counter()
    for (account, _), _, _ in examination.values(Family.ALIAS_OF, ALIASES.decode):
        aliases[account] += 1
        yield
    listed: Counter[int] = Counter()
    for (account, user_id), stored, names in examination.values(Family.ALIASES, ID_LIST.decode):
        listed[account] += len(names)
        for name in names if examination.is_sound(Family.ALIAS_OF) else ():
            there = _alias_of(examination, account, name) == user_id.decode()
            examination.expect(there, Family.ALIASES, f"lists {name!r}, which is not an alias of it", stored)
        yield
    if examination.is_sound(Family.ALIAS_OF, Family.ALIASES):
        for account in aliases.keys() | listed.keys():
            stored = key(Family.ALIASES, account, b"")
            right = aliases[account] == listed[account]
            examination.expect(right, Family.ALIASES, "some aliases of the account are not listed", stored)


def _alias_of(examination: Examination, account: int, name: str) -> str | None:
    stored = examination.index.get(key(Family.ALIAS_OF, account, name.encode()))
    return None if stored is None else ALIASES.decode(stored).user_id


def _users(wrong: npt.NDArray[np.bool_], start: int) -> str:
    at = np.flatnonzero(wrong)
    return f"{len(at)} users, the first of them {start + int(at[0])}" if len(at) else "no users"
