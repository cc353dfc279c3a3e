"""Compression round-trips, and incompressible data takes one more byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.storage.compression import (
    SAMPLED_ITEMS,
    compressed,
    compressed_items,
    decompressed,
    decompressed_items,
)


@given(st.binary(max_size=200) | st.binary(max_size=20).map(lambda data: data * 50))
def test_bytes_round_trip(data: bytes) -> None:
    assert decompressed(memoryview(compressed(data))) == data


def test_noise_takes_one_byte_more_and_repetition_almost_none() -> None:
    noise = np.random.default_rng(3).bytes(5_000)
    assert len(compressed(noise)) == 5_001
    assert len(compressed(b"milepost" * 1_000)) < 40


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i8"])
@pytest.mark.parametrize("count", [0, 3, 1_000, 5_000])
def test_items_round_trip_in_every_form(dtype: str, count: int) -> None:
    random = np.random.default_rng(7)
    drawn = random.integers(0, 1 << 7, count)
    for items in (drawn, np.sort(drawn), np.zeros(count, np.int64), random.integers(0, 256, count)):
        wanted = items.astype(dtype)
        form, stored = compressed_items(wanted)
        found = decompressed_items(form, memoryview(stored), np.dtype(dtype), count)
        assert found.dtype == np.dtype(dtype)
        assert found.tolist() == wanted.tolist()
        assert len(stored) <= wanted.nbytes


@pytest.mark.parametrize("count", [SAMPLED_ITEMS, 20 * SAMPLED_ITEMS])
def test_shortest_form_is_chosen(count: int) -> None:
    random = np.random.default_rng(11)
    runs = np.repeat(random.integers(0, 1 << 31, count // 16), 16).astype("<u4")
    spread = np.sort(random.integers(0, 1 << 24, count)).astype("<u4")
    assert len(compressed_items(runs)[1]) < runs.nbytes / 10
    # Three bytes of each item are nearly the same as those of the one before; only the planes show it.
    assert len(compressed_items(spread)[1]) < 0.6 * spread.nbytes
    assert len(compressed_items(spread)[1]) < 0.8 * len(compressed(spread.tobytes()))


def test_decoded_arrays_are_writable_copies() -> None:
    items = np.arange(1_000, dtype="<u4")
    for kept in (items, np.repeat(items, 50), np.random.default_rng(1).integers(0, 256, 500).astype("u1")):
        form, stored = compressed_items(kept)
        buffer = bytearray(stored)
        found = decompressed_items(form, memoryview(buffer), kept.dtype, len(kept))
        buffer[:] = bytes(len(buffer))
        found[0] = 1
        assert found[1:].tolist() == kept[1:].tolist()
