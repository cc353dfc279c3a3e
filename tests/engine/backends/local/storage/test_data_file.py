"""Truncated, emptied or overwritten data files are reported before LMDB maps them."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest

from engine.backends.local.storage.data_file import BrokenFile, check_data_file
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key

PAGE_BYTES = 4_096
SEEDS = range(4)
META_MAGIC, META_LAST_PAGE = 16, 136
"""Offsets in a meta page."""


def fill(directory: Path, seed: int) -> dict[bytes, bytes]:
    """An environment with small and large values, and free pages from values that were removed again."""
    drawn = random.Random(seed)
    kept: dict[bytes, bytes] = {}
    environment = Environment(directory, map_bytes=64 << 20)
    for _ in range(6):
        with environment.writing() as txn:
            for _ in range(40):
                stored = key(Family.META, drawn.randbytes(drawn.randint(1, 40)))
                kept[stored] = drawn.randbytes(drawn.choice((10, 300, 3_000, 20_000)))
                txn.put(stored, kept[stored])
        with environment.writing() as txn:
            # Values that are written and removed in one transaction leave pages that are never written.
            passing = [key(Family.META, b"\xff" + drawn.randbytes(8)) for _ in range(20)]
            for stored in passing:
                txn.put(stored, drawn.randbytes(30_000))
            for stored in [*passing, *drawn.sample(sorted(kept), len(kept) // 3)]:
                txn.delete(stored)
                kept.pop(stored, None)
    with environment.reading() as txn:
        assert kept.items() <= {found: bytes(value) for found, value in txn.scan(b"")}.items()
        kept = {found: bytes(value) for found, value in txn.scan(b"")}
    environment.close()
    return kept


def content_of(directory: Path) -> dict[bytes, bytes]:
    environment = Environment(directory, read_only=True, is_owned=True)
    with environment.reading() as txn:
        content = {found: bytes(value) for found, value in txn.scan(b"")}
    environment.close()
    return content


def fault_of(file: Path) -> str:
    try:
        check_data_file(file)
    except BrokenFile as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", SEEDS)
def test_truncated_file_is_reported_unless_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    kept = fill(tmp_path, seed)
    file = tmp_path / "data.mdb"
    whole = file.read_bytes()
    pages = len(whole) // PAGE_BYTES
    passed = []
    for length in [*range(pages * PAGE_BYTES, 0, -PAGE_BYTES), PAGE_BYTES - 1, 100, 1]:
        file.write_bytes(whole[:length])
        fault = fault_of(file)
        if not fault:
            passed.append(length)
            assert content_of(tmp_path) == kept
        else:
            assert f"{length:,} bytes" in fault
    assert passed[0] == len(whole)
    # Only free pages at the end may be missing.
    assert len(passed) < pages / 2


def test_complete_file_may_be_shorter_than_its_last_page(tmp_path: Path) -> None:
    """Pages that one transaction allocates and frees are never written."""
    shorter = 0
    for seed in range(20):
        fill(tmp_path / str(seed), seed)
        file = tmp_path / str(seed) / "data.mdb"
        metas = [struct.unpack_from("<QQ", file.read_bytes(), at + META_LAST_PAGE) for at in (0, PAGE_BYTES)]
        last_page, _ = max(metas, key=lambda meta: meta[1])
        shorter += (last_page + 1) * PAGE_BYTES > file.stat().st_size
        check_data_file(file)
    assert shorter > 0


@pytest.mark.parametrize("page", [0, 1])
def test_damaged_meta_pages_are_reported(tmp_path: Path, page: int) -> None:
    fill(tmp_path, 1)
    file = tmp_path / "data.mdb"
    content = bytearray(file.read_bytes())
    content[page * PAGE_BYTES + META_MAGIC] ^= 1
    file.write_bytes(content)
    with pytest.raises(BrokenFile, match="is not an LMDB file, or its meta pages are damaged"):
        check_data_file(file)


def test_missing_directory_or_empty_file_is_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("gone", "is missing"),
        ("directory", "is not a file"),
        ("pipe", "is not a file"),
        ("empty", "is empty"),
    ):
        file = tmp_path / name
        if name == "directory":
            file.mkdir()
        if name == "empty":
            file.touch()
        with pytest.raises(BrokenFile) as raised:
            check_data_file(file)
        assert str(raised.value) == reason
