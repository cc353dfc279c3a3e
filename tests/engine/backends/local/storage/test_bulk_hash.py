"""Hashes of many messages at once are those of xxhash."""

import random
from itertools import accumulate

import numpy as np
import pytest
import xxhash

from engine.backends.local.storage.bulk_hash import BYTES_MAX, FEW_MESSAGES_MAX, hashes_of, hashes_of_words


@pytest.mark.parametrize("prefix_bytes", [0, 1, 7, 8, 11, 40, BYTES_MAX + 1])
def test_hashes_are_those_of_xxhash(prefix_bytes: int) -> None:
    random_ = random.Random(prefix_bytes)
    prefix = random_.randbytes(prefix_bytes)
    # Of each length from none to beyond what is hashed together, few messages and many.
    texts = [
        random_.randbytes(length)
        for length in range(BYTES_MAX + 10)
        for _ in range(random_.choice((1, FEW_MESSAGES_MAX, FEW_MESSAGES_MAX + 1, 100)))
    ]
    random_.shuffle(texts)
    ends = np.fromiter(accumulate(map(len, texts), initial=0), np.int64)
    found = hashes_of(prefix, b"".join(texts), ends)
    assert found.tolist() == [xxhash.xxh3_64_intdigest(prefix + text) for text in texts]


def test_more_messages_than_are_hashed_at_once() -> None:
    texts = [f"u{number}".encode() for number in range(100_000)]
    ends = np.fromiter(accumulate(map(len, texts), initial=0), np.int64)
    found = hashes_of(b"salt\0", b"".join(texts), ends)
    assert found.tolist() == [xxhash.xxh3_64_intdigest(b"salt\0" + text) for text in texts]


def test_no_messages() -> None:
    assert hashes_of(b"salt\0", b"", np.zeros(1, np.int64)).tolist() == []


def test_words_are_hashed_each_with_a_seed_of_its_own() -> None:
    random_ = random.Random(4)
    words = [0, 1, (1 << 32) - 1, *(random_.getrandbits(32) for _ in range(1_000))]
    seeds = [0, (1 << 64) - 1, 1 << 31, *(random_.getrandbits(64) for _ in range(1_000))]
    found = hashes_of_words(np.array(words, np.uint32), np.array(seeds, np.uint64))
    pairs = zip(words, seeds, strict=True)
    assert found.tolist() == [
        xxhash.xxh3_64_intdigest(word.to_bytes(4, "little"), seed) for word, seed in pairs
    ]
