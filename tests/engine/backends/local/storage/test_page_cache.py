"""Pages round-trip through the store, whatever was evicted in between."""

from __future__ import annotations

import array
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.storage import key_order
from engine.backends.local.storage import page_cache as page_cache_module
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.eviction import PAGES_AT_ONCE
from engine.backends.local.storage.key_order import in_order
from engine.backends.local.storage.page_cache import (
    ABSENT_TIME,
    BITMAP,
    NO_ID,
    NUMBERS,
    PAGE_USERS,
    TIMES,
    Codec,
    MessageCodec,
    PageCache,
    only_ids,
)
from engine.backends.local.storage.transactions import Pairs, WriteBuffer, checksum_of


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path / "index", map_bytes=1 << 30)
    yield environment
    environment.close()


def stage(page_cache: PageCache) -> None:
    page_cache.freeze()
    while page_cache.stage_next():
        pass


def checkpoint(page_cache: PageCache, index: Environment) -> None:
    stage(page_cache)
    with index.writing() as txn:
        page_cache.write(txn, lambda: None)
    page_cache.commit()


# --- codecs -------------------------------------------------------------------------------------------------


@given(users=st.sets(st.integers(0, 2**32 - 1), max_size=30) | st.just(set(range(5_000, 80_000))))
def test_bitmaps_round_trip(users: set[int]) -> None:
    encoded = BITMAP.encode(BitMap(users))
    if encoded is None:
        assert users == set()
    else:
        assert set(BITMAP.decode(memoryview(encoded))) == users
        assert len(users) > 1 or len(encoded) == 4


@pytest.mark.parametrize("codec", [NUMBERS, TIMES])
@given(slots=st.sets(st.integers(0, PAGE_USERS - 1), max_size=20), dense=st.booleans())
def test_columns_round_trip(codec: Codec[array.array[Any]], slots: set[int], dense: bool) -> None:
    column = codec.empty()
    chosen = set(range(PAGE_USERS)) - slots if dense else slots
    for slot in chosen:
        column[slot] = slot - 7 if codec is TIMES else slot / 3
    encoded = codec.encode(column)
    if encoded is None:
        assert not chosen
        return
    # A page of which less than half is there is stored by position.
    assert len(encoded) == 1 + (8 * PAGE_USERS if 2 * len(chosen) > PAGE_USERS else 10 * len(chosen))
    assert codec.decode(memoryview(encoded)).tobytes() == column.tobytes()


Stored = tuple[set[int], int]
"""A set, and the bytes that its stored form has lost (negative) or gained at the end."""


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1, max_size=2), st.sampled_from((0, 0, -2, 2))))
)
def test_only_ids_are_those_of_sound_sets_of_one(drawn: list[Stored]) -> None:
    # Faults of sizes that cancel each other out are among them.
    keys = [b"key %d" % number for number in range(len(drawn))]
    values, expected = [], []
    for key, (users, more) in zip(keys, drawn, strict=True):
        encoded = BITMAP.encode(BitMap(users))
        assert encoded is not None
        stored = checksum_of(key, encoded) + encoded
        values.append(stored[:more] if more < 0 else stored + bytes(more))
        expected.append(min(users) if len(users) == 1 and not more else NO_ID)
    hashes = np.array([xxhash.xxh3_64_intdigest(key) for key in keys], np.uint64)
    assert only_ids(Pairs(keys, hashes, values)).tolist() == expected


def test_an_empty_page_marks_absence() -> None:
    assert all(map(math.isnan, NUMBERS.empty()))
    assert set(TIMES.empty()) == {ABSENT_TIME}


# --- the cache ----------------------------------------------------------------------------------------------


def test_a_dirty_page_is_written_and_an_empty_one_deleted(index: Environment) -> None:
    page_cache = PageCache(index)
    with page_cache.session():
        for name, users in ((b"\x15a", {1, 2}), (b"\x15b", {3})):
            cached = page_cache.change(name, BITMAP)
            cached.value.update(users)
    checkpoint(page_cache, index)
    with page_cache.session():
        cached = page_cache.change(b"\x15b", BITMAP)
        cached.value.clear()
    checkpoint(page_cache, index)
    again = PageCache(index)
    with again.session():
        found = again.find(b"\x15a", BITMAP)
        assert found is not None
        assert set(found.value) == {1, 2}
        assert again.find(b"\x15b", BITMAP) is None


def test_dirty_pages_are_never_evicted(index: Environment) -> None:
    page_cache = PageCache(index, bytes_max=2_000)
    for number in range(100):
        with page_cache.session():
            cached = page_cache.change(b"\x15%d" % number, BITMAP)
            cached.value.add(number)
    with page_cache.session():
        assert [set(page_cache.get(b"\x15%d" % n, BITMAP).value) for n in range(100)] == [
            {n} for n in range(100)
        ]


def test_clean_pages_are_evicted_least_recently_used_first(index: Environment) -> None:
    page_cache = PageCache(index, bytes_max=2_000)
    with page_cache.session():
        for number in range(100):
            cached = page_cache.change(b"\x15%d" % number, BITMAP)
            cached.value.add(number)
    checkpoint(page_cache, index)
    with page_cache.session():
        kept = page_cache.get(b"\x1599", BITMAP)
    with page_cache.session():
        assert page_cache.get(b"\x1599", BITMAP) is kept
        assert page_cache.get(b"\x150", BITMAP).value == BitMap([0])
    for number in range(98):
        with page_cache.session():
            page_cache.get(b"\x15%d" % number, BITMAP)
    with page_cache.session():
        assert page_cache.get(b"\x1599", BITMAP) is not kept
        assert page_cache.get(b"\x1599", BITMAP).value == BitMap([99])


def test_pages_being_written_stay_until_the_commit(index: Environment) -> None:
    """Between collecting and committing the store has an older form of them, so they may not be evicted."""
    page_cache = PageCache(index, bytes_max=0)
    with page_cache.session():
        cached = page_cache.change(b"\x15a", BITMAP)
        cached.value.add(1)
    stage(page_cache)
    page_cache.write(WriteBuffer(), lambda: None)
    with page_cache.session():
        assert page_cache.get(b"\x15a", BITMAP).value == BitMap([1])
    page_cache.rollback()
    with page_cache.session():
        assert page_cache.get(b"\x15a", BITMAP).value == BitMap([1])
    checkpoint(page_cache, index)
    with page_cache.session():
        assert PageCache(index).find(b"\x15a", BITMAP) is not None


@pytest.mark.parametrize("staged", [0, 1, 2, 3])
def test_what_is_changed_after_a_checkpoint_began_is_not_in_it(index: Environment, staged: int) -> None:
    """Whether a page is encoded already, or still to be, or replaced by an encoded value."""
    keys = [b"\x15a", b"\x15b", b"\x15c"]
    page_cache = PageCache(index)

    def add(user: int) -> None:
        with page_cache.session():
            for key in keys:
                page_cache.change(key, BITMAP).value.add(user)

    def stored() -> list[set[int]]:
        again = PageCache(index)
        with again.session():
            return [set(again.get(key, BITMAP).value) for key in keys]

    add(1)
    page_cache.freeze()
    with mock.patch.object(page_cache_module, "PAGES_PER_STEP", 1):
        for _ in range(staged):
            page_cache.stage_next()
    add(2)
    with page_cache.session():
        page_cache.put_encoded(keys[2], BITMAP.encode(BitMap([7])) or b"")
    while page_cache.stage_next():
        pass
    add(3)
    with index.writing() as txn:
        page_cache.write(txn, lambda: None)
    assert stored() == [{1}, {1}, {1}]
    page_cache.commit()
    checkpoint(page_cache, index)
    assert stored() == [{1, 2, 3}, {1, 2, 3}, {7, 3}]


def test_a_large_cache_is_emptied_in_steps(index: Environment) -> None:
    """Pages used lately stay, about; no step looks at all of them."""
    pages = 20 * PAGES_AT_ONCE
    page_cache = PageCache(index, bytes_max=1 << 30)
    for start in range(0, pages, PAGES_AT_ONCE):
        with page_cache.session():
            for number in range(start, start + PAGES_AT_ONCE):
                page_cache.change(b"\x15%d" % number, BITMAP).value.add(number)
    checkpoint(page_cache, index)
    size = page_cache.size_bytes
    page_cache.limit(size // 2)
    left = [pages]
    for _ in range(2 * pages // PAGES_AT_ONCE):
        with page_cache.session():
            pass
        left.append(len(page_cache._page_cache))
    assert left[1] < pages
    assert max(before - after for before, after in itertools.pairwise(left)) <= PAGES_AT_ONCE
    assert 0.3 * size < page_cache.size_bytes < 0.4 * size
    numbers = sorted(int(key[1:]) for key in page_cache._page_cache)
    assert numbers[-1] == pages - 1
    assert numbers[0] > 0.5 * pages
    with page_cache.session():
        assert page_cache.get(b"\x150", BITMAP).value == BitMap([0])


@given(keys=st.sets(st.binary(max_size=24)))
def test_keys_are_put_in_order_in_pieces(keys: set[bytes]) -> None:
    with mock.patch.object(key_order, "SORTED_AT_ONCE", 3):
        assert list(in_order([*keys])) == sorted(keys)


def test_many_keys_with_one_beginning_are_put_in_order() -> None:
    keys = [b"\x20\x00\x00\x00\x01%d" % (number * 7919 % 100_003) for number in range(30_000)]
    assert list(in_order(keys)) == sorted(keys)


def test_the_budget_counts_memory_not_stored_bytes(index: Environment) -> None:
    """Five profiles would fit by what is stored."""
    profiles: MessageCodec[dict[int, str]] = MessageCodec(dict[int, str], dict)
    page_cache = PageCache(index, bytes_max=6_000)
    with page_cache.session():
        for number in range(5):
            cached = page_cache.change(b"\x20%d" % number, profiles)
            cached.value[1] = "x" * 100
    checkpoint(page_cache, index)
    with page_cache.session():
        kept = [page_cache.get(b"\x20%d" % number, profiles) for number in range(5)]
    # 350 + 9 x 104 bytes each are 6,430; within three quarters of 6,000 there is room for three.
    with page_cache.session():
        assert [page_cache.get(b"\x20%d" % n, profiles) is kept[n] for n in range(5)] == [False] * 2 + [
            True
        ] * 3


def test_dirty_pages_are_not_scanned_again_before_the_next_checkpoint(
    index: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_cache = PageCache(index, bytes_max=0)
    passes: list[int] = []
    evict = page_cache._evict

    def counting() -> None:
        passes.append(len(page_cache._page_cache))
        evict()

    monkeypatch.setattr(page_cache, "_evict", counting)
    for number in range(1_000):
        with page_cache.session():
            page_cache.change(b"\x15%d" % number, BITMAP)
    assert len(passes) < 80
    checkpoint(page_cache, index)
    with page_cache.session():
        pass
    assert not page_cache._page_cache
