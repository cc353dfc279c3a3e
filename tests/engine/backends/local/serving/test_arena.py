"""The memory of readers: blocks do not overlap, are used again, and may be freed by the garbage collector."""

from __future__ import annotations

import gc
import itertools
import random
import weakref

import pytest

from engine.backends.local.serving.arena import (
    ARENA_BYTES,
    BLOCK_BYTES_MIN,
    RETURNED_BYTES_MIN,
    WORD_BYTES,
    Arena,
    block_bytes,
)
from engine.errors import LimitExceeded

FIRST_BYTES = 1_000


@pytest.fixture
def arena() -> Arena:
    return Arena(FIRST_BYTES)


def test_blocks_do_not_overlap_and_keep_what_is_in_them(arena: Arena) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    blocks: dict[int, bytes] = {}
    for _ in range(2_000):
        if blocks and rng.random() < 0.45:
            at = rng.choice(list(blocks))
            arena.free(at, len(blocks.pop(at)))
        else:
            data = rng.randbytes(rng.choice([1, 63, 64, 65, 5_000, 2 * RETURNED_BYTES_MIN]))
            at = arena.put(data)
            assert at >= FIRST_BYTES
            assert at % WORD_BYTES == 0
            blocks[at] = data
    spans = sorted((at, at + block_bytes(len(data))) for at, data in blocks.items())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    for at, data in blocks.items():
        words = arena.array(at, -(-len(data) // WORD_BYTES))
        assert words.tobytes()[: len(data)] == data


def test_a_freed_block_is_used_again(arena: Arena) -> None:
    at = arena.allocate(100)
    arena.free(at, 100)
    assert arena.allocate(128) == at
    assert arena.allocate(128) != at


def test_a_block_is_at_least_as_large_as_asked(arena: Arena) -> None:
    sizes = (1, BLOCK_BYTES_MIN, BLOCK_BYTES_MIN + 1, 4_096, 4_097)
    assert [block_bytes(size) for size in sizes] == [64, 64, 128, 4_096, 8_192]


def test_more_than_there_is_is_refused(arena: Arena) -> None:
    with pytest.raises(LimitExceeded):
        arena.allocate(2 * ARENA_BYTES)
    arena.allocate(64)


def test_the_garbage_collector_may_free_within_an_allocation(arena: Arena) -> None:
    at = arena.allocate(64)

    class InCycle:
        """Lives until the garbage collector finds it."""

        def __init__(self) -> None:
            self.myself = self

    weakref.finalize(InCycle(), arena.free, at, 64).atexit = False
    # As when the collector runs while the thread allocates.
    with arena._lock:
        gc.collect()
    assert arena.allocate(64) == at
