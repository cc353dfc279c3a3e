"""LMDB pages: written files are sound, and any changed byte that LMDB relies on is detected."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from engine.backends.local.storage import environment as environment_module
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.pages import check_pages, read_meta
from engine.errors import DataLoss
from tests.faults.damage_spans import HEADER, NODE, PAGE, spans_by_kind
from tests.faults.damage_world import make

SEED = 7
VALUE_BYTES = (0, 5, 100, 1_500, 3_000, 70_000)
PAD = (8, 9)
"""Bytes of a page's header that LMDB does not use in the pages of a store."""
TRANSACTION_AT, NUMBER_BYTES = 128, 8
"""Where the number of the transaction is, behind the header of a meta page."""
SIZE_BYTES = 4
"""A node begins with the size of its data."""
META_UNUSED = (*PAD, *range(12, 16), *range(24, 40), *range(88, 92))
"""Of a meta page, the rest of its header, where a map would be fixed, its size, which is given anew each
time, and the pad of the second database.
"""


def check(file: Path) -> None:
    meta = read_meta(file)
    if meta is not None:
        check_pages(file, meta)


def test_written_files_are_sound(tmp_path: Path) -> None:
    """Whatever transactions do: values grow and shrink, within one transaction too, and some are aborted."""
    source = random.Random(SEED)
    environment = lmdb.open(str(tmp_path), map_size=1 << 30, sync=False)
    held: list[bytes] = []
    for _ in range(80):
        kept = held.copy()
        with environment.begin(write=True) as txn:
            for _ in range(source.choice((1, 5, 50, 300))):
                if held and source.random() < 0.45:
                    txn.delete(held.pop(source.randrange(len(held))))
                    continue
                if not held or source.random() < 0.5:
                    held.append(source.randbytes(source.randint(1, 30)))
                for _ in range(source.choice((1, 1, 2))):
                    txn.put(source.choice(held[-20:]), bytes(source.choice(VALUE_BYTES)))
            held = [each for each in held if txn.get(each) is not None]
            if source.random() < 0.1:
                txn.abort()
                held = kept
        check(tmp_path / "data.mdb")
    environment.close()


def test_value_made_shorter_within_a_transaction_keeps_its_pages(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path), map_size=1 << 30, sync=False)
    with environment.begin(write=True) as txn:
        txn.put(b"key", bytes(3 * PAGE))
        txn.put(b"key", bytes(PAGE))
    assert environment.stat()["overflow_pages"] == 4
    check(tmp_path / "data.mdb")
    environment.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pages")
    make(directory)
    return directory / "store"


def is_gone_by(kind: str, offset: int) -> bool:
    """Whether LMDB relies on a byte of a span."""
    if "meta page" in kind:
        return "newest" in kind and offset not in META_UNUSED
    if kind.endswith("page: header"):
        return offset not in PAD
    if kind.endswith("node of a large value"):
        # A size that still fits the same pages is for the value's checksum to tell.
        return offset >= SIZE_BYTES
    if kind.endswith("free list key"):
        # What remains is a transaction that may be.
        return offset >= 2
    return kind.endswith(("page: pointers", "page: node", "place of value"))


def test_every_byte_that_lmdb_reads_is_checked(store: Path, tmp_path: Path) -> None:
    source = random.Random(SEED)
    file = tmp_path / "data.mdb"
    tried = 0
    missed = []
    for kind, spans in spans_by_kind(store).items():
        span = source.choice(spans)
        content = (store / span.file / "data.mdb").read_bytes()
        for at in range(span.start, span.end):
            if not is_gone_by(kind, at - span.start):
                continue
            # Sizes are rounded up to even ones: of a single byte more or less, checksums tell.
            bits = 2 * source.randrange(1, 128)
            file.write_bytes(content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :])
            tried += 1
            try:
                check(file)
            except DataLoss:
                continue
            missed.append((kind, at - span.start, bits))
    assert missed == []
    assert tried > 200


@pytest.mark.parametrize("part", ["index", "log"])
def test_wrong_transaction_number_is_detected_in_a_file_that_may_be_written(
    part: str, store: Path, tmp_path: Path
) -> None:
    """LMDB would read the older state as the newest one."""
    content = (store / part / "data.mdb").read_bytes()
    meta = read_meta(store / part / "data.mdb")
    assert meta is not None
    file = tmp_path / "data.mdb"
    for page in (0, 1):
        for byte in range(1, NUMBER_BYTES):
            changed = bytearray(content)
            changed[page * PAGE + HEADER + TRANSACTION_AT + byte] ^= 0x40
            file.write_bytes(changed)
            with pytest.raises(DataLoss, match="one transaction apart"):
                read_meta(file, meta.transaction)


def test_keys_out_of_order_are_detected(tmp_path: Path) -> None:
    """Also between a page and the key above it that leads there."""
    environment = lmdb.open(str(tmp_path), map_size=1 << 30, sync=False)
    with environment.begin(write=True) as txn:
        for number in range(3_000):
            txn.put(b"a common beginning %04d" % number, bytes(80))
    environment.close()
    file = tmp_path / "data.mdb"
    content = file.read_bytes()
    check(file)
    places = list(_second_keys(content))
    assert {content[at // PAGE * PAGE + 10] for at in places} == {1, 2}
    for at in random.Random(SEED).sample(places, 60):
        changed = bytearray(content)
        changed[at + 4] ^= 0x40
        file.write_bytes(changed)
        with pytest.raises(DataLoss, match="out of order"):
            check(file)


def _second_keys(content: bytes) -> Iterator[int]:
    """Where keys are that are not the first of their page, in pages that are in use."""
    for page in range(2 * PAGE, len(content), PAGE):
        flags, lower = struct.unpack_from("<HH", content, page + 10)
        if flags in (1, 2):
            for pointer in struct.unpack_from(f"<{(lower - HEADER) // 2}H", content, page + HEADER)[1:]:
                yield page + pointer + NODE


def test_large_file_is_checked_while_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_module, "PAGES_CHECKED_FIRST", 0)
    environment = Environment(tmp_path, map_bytes=1 << 24)
    with environment.writing() as txn:
        for number in range(2_000):
            txn.put(key(Family.PROFILE, 1, 0, number), bytes(50))
    environment.close()
    sound = Environment(tmp_path, map_bytes=1 << 24)
    sound.wait_until_checked()
    with sound.reading() as txn:
        assert txn.get(key(Family.PROFILE, 1, 0, 7)) is not None
    sound.close()
    file = tmp_path / "data.mdb"
    content = bytearray(file.read_bytes())
    # The flags of the header of a page of keys.
    leaf = next(at for at in range(8_192, len(content), 4_096) if content[at + 10] == 2)
    content[leaf + 10] ^= 0x40
    file.write_bytes(content)
    damaged = Environment(tmp_path, map_bytes=1 << 24)
    damaged.wait_until_checked()
    with pytest.raises(DataLoss) as raised, damaged.reading():
        pass
    assert raised.value.metadata["key_family"] == "PAGES"
    damaged.close()
