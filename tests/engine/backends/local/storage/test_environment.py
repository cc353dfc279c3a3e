"""Transactions of an environment and the checksums of its values."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, family_of, key, parts_of
from engine.errors import DataLoss, LimitExceeded


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "env", map_bytes=1 << 20)


def test_keys_sort_by_number_and_partial_keys_are_prefixes() -> None:
    whole = [key(Family.EVENT_TABLE, 1, 2, name, 1, 3) for name in (0, 1, 255, 256, 1 << 31)]
    assert whole == sorted(whole)
    assert all(found.startswith(key(Family.EVENT_TABLE, 1, 2)) for found in whole)
    assert parts_of(whole[3]) == (1, 2, 256, 1, 3)
    assert parts_of(key(Family.META, b"header")) == (b"header",)
    assert family_of(whole[0]) is Family.EVENT_TABLE


def test_malformed_key_is_refused() -> None:
    with pytest.raises(ValueError, match="layout IIIBB"):
        key(Family.EVENT_TABLE, 1, 2, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"layout \*"):
        key(Family.META, 5)


def test_values_are_stored_and_deleted(environment: Environment) -> None:
    with environment.writing() as txn:
        for name in (b"a", b"b", b"c"):
            txn.put(key(Family.META, name), name * 3)
        assert txn.delete(key(Family.META, b"b"))
        assert not txn.delete(key(Family.META, b"b"))
    with environment.reading() as txn:
        assert bytes(txn.get(key(Family.META, b"a")) or b"") == b"aaa"
        assert txn.get(key(Family.META, b"b")) is None
        assert txn.contains(key(Family.META, b"c"))
        assert not txn.contains(key(Family.META, b"b"))


def test_scan_last_and_delete_prefix_stay_within_the_prefix(environment: Environment) -> None:
    tables = [key(Family.EVENT_TABLE, account, 0, 0, 1, 0) for account in (1, 2, 3)]
    with environment.writing() as txn:
        txn.put(key(Family.DOCUMENT, b"first"), b"")
        for number, table in enumerate(tables):
            txn.put(table, bytes([number]))
    with environment.reading() as txn:
        scanned = [(found, bytes(value)) for found, value in txn.scan(key(Family.EVENT_TABLE))]
        assert scanned == [(table, bytes([number])) for number, table in enumerate(tables)]
        assert [found for found, _ in txn.scan(key(Family.EVENT_TABLE), start=tables[1])] == tables[1:]
        last = txn.last(key(Family.EVENT_TABLE, 2))
        assert last is not None
        assert (last[0], bytes(last[1])) == (tables[1], b"\x01")
        assert txn.last(key(Family.EVENT_TABLE, 9)) is None
        assert txn.last(key(Family.EVENT_SLICE)) is None
    with environment.writing() as txn:
        assert txn.delete_prefix(key(Family.EVENT_TABLE), end=tables[2]) == 2
        assert list(txn.keys(key(Family.DOCUMENT))) == [key(Family.DOCUMENT, b"first")]
        assert list(txn.keys(key(Family.EVENT_TABLE))) == [tables[2]]
        assert txn.delete_prefix(key(Family.EVENT_TABLE)) == 1


def test_last_finds_the_end_of_a_prefix_of_the_highest_bytes(environment: Environment) -> None:
    highest = key(Family.META, b"\xff\xff\xff")
    with environment.writing() as txn:
        txn.put(highest, b"end")
        last = txn.last(key(Family.META, b"\xff\xff"))
    assert last is not None
    assert last[0] == highest


def test_exception_rolls_back(environment: Environment) -> None:
    def interrupted() -> None:
        with environment.writing() as txn:
            txn.put(key(Family.META, b"a"), b"a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    with environment.reading() as read:
        assert read.get(key(Family.META, b"a")) is None


def test_full_map_raises_limit_exceeded_and_the_store_still_works(environment: Environment) -> None:
    def overfill() -> None:
        with environment.writing() as txn:
            for number in range(100):
                txn.put(key(Family.META, bytes([number])), bytes(100_000))

    with pytest.raises(LimitExceeded) as refused:
        overfill()
    assert refused.value.reason == "STORE_FULL"
    with environment.writing() as txn:
        txn.put(key(Family.META, b"a"), b"fits")
    with environment.reading() as read:
        assert bytes(read.get(key(Family.META, b"a")) or b"") == b"fits"


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    damaged = key(Family.EVENT_COLUMN, 1, 2, 3, 1, 0, 0, 0, 1, 0, 0)
    environment = Environment(tmp_path, map_bytes=1 << 20)
    with environment.writing() as txn:
        txn.put(damaged, b"column")
    environment.close()
    with lmdb.open(str(tmp_path)) as raw:
        with raw.begin() as txn_raw:
            stored = txn_raw.get(damaged, b"")
        for bit in range(len(stored) * 8):
            flipped = bytearray(stored)
            flipped[bit // 8] ^= 1 << bit % 8
            with raw.begin(write=True) as txn_raw:
                txn_raw.put(damaged + bytes([bit]), bytes(flipped))
    environment = Environment(tmp_path, map_bytes=1 << 20)
    with environment.reading() as read:
        assert bytes(read.get(damaged) or b"") == b"column"
        for bit in range(len(stored) * 8):
            with pytest.raises(DataLoss) as lost:
                read.get(damaged + bytes([bit]))
            assert lost.value.metadata == {"key_family": "EVENT_COLUMN"}
