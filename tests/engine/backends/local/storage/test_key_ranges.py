"""Damaged or missing keys are distinguished from keys that never existed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.local.storage.copying import write_copy
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.key_ranges import ROOT_KEY, record_key
from engine.backends.local.storage.keys import Family, key
from engine.errors import DataLoss

KEYS = [key(Family.SEEN, 1, 2, group, page) for group in range(4) for page in range(0, 20, 2)]
RANGE = key(Family.SEEN, 1, 2)
OTHER = key(Family.SEEN, 1, 3, 0, 0)
ABSENT = key(Family.SEEN, 1, 2, 1, 7)
UNCOUNTED = key(Family.PROFILE, 1, 0, 5)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    made = Environment(tmp_path / "env", map_bytes=1 << 24)
    with made.writing() as txn:
        for stored in (*KEYS, OTHER, UNCOUNTED):
            txn.put(stored, b"value of " + stored)
    made.close()
    opened = Environment(tmp_path / "env", map_bytes=1 << 24)
    yield opened
    opened.close()


def rename(environment: Environment, before: bytes, after: bytes) -> None:
    """As damage to a key does, but that the tree stays in order."""
    with environment._env.begin(write=True) as txn:
        value = txn.get(before)
        assert value is not None
        assert txn.delete(before)
        assert txn.put(after, value)


def changed(stored: bytes, at: int) -> bytes:
    return stored[:at] + bytes([stored[at] ^ 0x40]) + stored[at + 1 :]


def test_key_that_never_existed_is_absent(environment: Environment) -> None:
    with environment.reading() as txn:
        assert txn.get(ABSENT) is None
        assert txn.get(key(Family.SEEN, 9, 9, 0, 0)) is None
        assert list(txn.keys(RANGE)) == KEYS
        assert [found for found, _ in txn.scan(key(Family.SEEN))] == [*KEYS, OTHER]
        assert txn.get(key(Family.PROFILE, 1, 0, 6)) is None


@pytest.mark.parametrize("at", range(len(KEYS[0])))
def test_any_changed_byte_of_a_key_is_detected(environment: Environment, at: int) -> None:
    rename(environment, KEYS[17], changed(KEYS[17], at))
    with environment.reading() as txn:
        for ask in (KEYS[17], ABSENT):
            with pytest.raises(DataLoss) as raised:
                txn.get(ask)
            assert raised.value.metadata["key_family"] == "SEEN"
        with pytest.raises(DataLoss):
            list(txn.keys(RANGE))
        with pytest.raises(DataLoss):
            list(txn.scan(key(Family.SEEN)))
        # Existing keys are read, and absent keys of other ranges too.
        assert bytes(txn.get(KEYS[3]) or b"") == b"value of " + KEYS[3]
    with environment.reading() as txn, pytest.raises(DataLoss):
        write_copy(txn, environment.file.parent.parent / "copy")


def test_a_value_under_another_key_fails_its_checksum(environment: Environment) -> None:
    rename(environment, UNCOUNTED, key(Family.PROFILE, 1, 0, 4))
    with environment.reading() as txn, pytest.raises(DataLoss):
        txn.get(key(Family.PROFILE, 1, 0, 4))


def test_missing_range_record_is_detected(environment: Environment) -> None:
    with environment._env.begin(write=True) as raw:
        assert raw.delete(record_key(RANGE))
        for stored in KEYS:
            assert raw.delete(stored)
    with environment.reading() as txn:
        with pytest.raises(DataLoss) as raised:
            txn.get(KEYS[0])
        assert raised.value.metadata["key_family"] == "RANGE"
        with pytest.raises(DataLoss):
            list(txn.keys(key(Family.SEEN)))


def test_missing_record_of_range_records_is_detected(environment: Environment) -> None:
    with environment._env.begin(write=True) as raw:
        assert raw.delete(ROOT_KEY)
    with environment.reading() as txn, pytest.raises(DataLoss):
        txn.get(key(Family.SEEN, 9, 9, 0, 0))


def test_writing_does_not_hide_a_damaged_key(environment: Environment) -> None:
    rename(environment, KEYS[5], changed(KEYS[5], 12))
    with environment.writing() as txn:
        txn.put(KEYS[5], b"new")
    with environment.reading() as txn, pytest.raises(DataLoss):
        txn.get(ABSENT)


def test_counts_follow_created_and_deleted_keys(environment: Environment) -> None:
    with environment.writing() as txn:
        for stored in KEYS[:10]:
            assert txn.delete(stored)
        assert not txn.delete(KEYS[0])
        txn.put(KEYS[0], b"again")
        txn.put(KEYS[0], b"and again")
        assert txn.get(KEYS[1]) is None
        txn.delete_prefix(key(Family.SEEN, 1, 2, 1))
    with environment.reading() as txn:
        assert list(txn.keys(RANGE)) == [KEYS[0], *KEYS[20:]]
        assert {range_: count.keys for range_, count in txn.announced(key(Family.SEEN)).items()} == {
            RANGE: 21,
            key(Family.SEEN, 1, 3): 1,
        }
    with environment.writing() as txn:
        txn.delete_prefix(key(Family.SEEN))
    with environment.reading() as txn:
        assert txn.announced(key(Family.SEEN)) == {}
        assert txn.get(KEYS[0]) is None
        assert txn.get(OTHER) is None


def test_a_copy_counts_its_own_commits(environment: Environment, tmp_path: Path) -> None:
    with environment.reading() as txn:
        write_copy(txn, tmp_path / "copy")
    copy = Environment(tmp_path / "copy", read_only=True)
    with copy.reading() as txn:
        commit = txn.get(key(Family.META, b"commit"))
        assert commit is not None
        assert int.from_bytes(commit, "little") == txn.number()
        assert list(txn.keys(RANGE)) == KEYS
    copy.close()
