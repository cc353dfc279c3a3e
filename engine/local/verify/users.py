"""The directory: user ids ↔ places, who is alive, partitions and aliases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from engine.local.bitmaps import bitmap_of_mask
from engine.local.cells import BITMAP, PAGE_BITS, PAGE_USERS, PARTITIONS, as_numpy
from engine.local.directory import DENSE_MASK, ENTRIES, ID_LIST, PLACE_SHIFT
from engine.local.keys import Family, key
from engine.local.verify.examination import Examination, as_u32
from engine.values import PARTITION_BITS

_HASH_BITS = 64


def check_users(examination: Examination) -> Iterator[None]:
    """Every id leads to its place and every place to its id, in the group and partition of the id."""
    yield from _check_counts(examination)
    yield from _check_ids(examination)
    yield from _check_partitions(examination)
    yield from _check_alive(examination)
    yield from _check_entries(examination)


def _check_counts(examination: Examination) -> Iterator[None]:
    for (account, group), stored, count in examination.values(Family.USER_COUNT, as_u32):
        examination.expect(group < examination.groups, Family.USER_COUNT, "is of no group", stored)
        examination.user_counts[account, group] = count
        examination.user_hashes[account, group] = np.zeros(count, np.uint64)
        yield


def _check_ids(examination: Examination) -> Iterator[None]:
    """Pages are full but for the last of a group, and there as far as ids were given."""
    pages: Counter[tuple[int, int]] = Counter()
    for (account, group, page), stored, ids in examination.values(Family.USER_IDS, ID_LIST.decode):
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
        yield
    _check_pages(examination, Family.USER_IDS, pages)


def _check_pages(examination: Examination, family: Family, pages: Counter[tuple[int, int]]) -> None:
    """There are pages for as many ids as were given."""
    if not examination.is_sound(Family.USER_COUNT, family):
        return
    for (account, group), count in examination.user_counts.items():
        expected, found = -(-count // PAGE_USERS), pages[account, group]
        stored = key(Family.USER_COUNT, account, group)
        examination.expect(found == expected, family, f"group has {found} pages, not {expected}", stored)


def _hash(user_id: str) -> int:
    # 0 stands for nobody; an id with that very hash would be one of 2^64.
    return xxhash.xxh3_64_intdigest(user_id.encode()) if user_id else 0


def _check_partitions(examination: Examination) -> Iterator[None]:
    """A user's partition is the top bits of the hash of its id."""
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
    """Alive is who has an id."""
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


def _check_entries(examination: Examination) -> Iterator[None]:
    """Each id leads to a place that has this id, or is an alias that its user lists."""
    led_to: dict[tuple[int, int], int] = {}
    aliases: dict[int, int] = {}
    compare = examination.is_sound(Family.USER_IDS, Family.USER_COUNT)
    for (account, user_id), stored, entry in examination.values(Family.USER, ENTRIES.decode):
        if isinstance(entry, tuple):
            aliases[account] = aliases.get(account, 0) + 1
        elif compare:
            group, dense = entry >> PLACE_SHIFT, entry & DENSE_MASK
            hashes = _hashes(examination, account, group)
            led_to[account, group] = led_to.get((account, group), 0) + 1
            there = dense < len(hashes) and int(hashes[dense]) == xxhash.xxh3_64_intdigest(user_id)
            examination.expect(there, Family.USER, "leads to the place of somebody else", stored)
        yield
    if compare and examination.is_sound(Family.USER):
        for (account, group), hashes in examination.user_hashes.items():
            missing = int(np.count_nonzero(hashes)) - led_to.get((account, group), 0)
            stored = key(Family.USER_COUNT, account, group)
            examination.expect(not missing, Family.USER, f"group misses {missing} entries", stored)
    yield from _check_aliases(examination, aliases)


def _check_aliases(examination: Examination, aliases: dict[int, int]) -> Iterator[None]:
    """What is listed as an alias is one, and there are no others."""
    listed: dict[int, int] = {}
    for (account, user_id), stored, names in examination.values(Family.ALIASES, ID_LIST.decode):
        listed[account] = listed.get(account, 0) + len(names)
        for name in names if examination.is_sound(Family.USER) else ():
            there = _alias_of(examination, account, name) == user_id.decode()
            examination.expect(there, Family.ALIASES, f"lists {name!r}, which is no alias of it", stored)
        yield
    if examination.is_sound(Family.USER, Family.ALIASES):
        for account in aliases.keys() | listed.keys():
            right = aliases.get(account, 0) == listed.get(account, 0)
            stored = key(Family.ALIASES, account, b"")
            examination.expect(right, Family.ALIASES, "some aliases of the account are not listed", stored)


def _alias_of(examination: Examination, account: int, name: str) -> str | None:
    stored = examination.index.get(key(Family.USER, account, name.encode()))
    try:
        entry = None if stored is None else ENTRIES.decode(stored)
    except msgspec.MsgspecError:
        return None
    return entry[0] if isinstance(entry, tuple) else None


def _users(wrong: npt.NDArray[np.bool_], start: int) -> str:
    places = np.flatnonzero(wrong)
    return f"{len(places)} users, the first of them {start + int(places[0])}" if len(places) else "nobody"
