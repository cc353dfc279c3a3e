"""The user hash table answers as a dict has them, whatever the hashes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.user_ref import USER_REF_BITS
from engine.backends.local.users.hash_table import UNKNOWN, UserHashTable

# Few first parts, at both ends of the table and in its middle, so that keys get in each other's way and run
# over the end; and second parts that differ in one bit.
HIGHS = st.sampled_from([0, 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 2, (1 << 64) - 1])
TAGS = st.integers(0, 1 << 12)
DRAWN = st.tuples(HIGHS, TAGS)


def keys_of(drawn: list[tuple[int, int]]) -> Keys:
    return np.array([(high, tag << USER_REF_BITS) for high, tag in drawn], np.uint64).reshape(-1, 2)


@given(
    turns=st.lists(
        st.tuples(st.booleans(), st.dictionaries(DRAWN, st.integers(0, 1 << 38), max_size=60)), max_size=8
    ),
    others=st.lists(DRAWN, max_size=20),
)
def test_finds_what_was_put_and_not_forgotten(
    turns: list[tuple[bool, dict[tuple[int, int], int]]], others: list[tuple[int, int]]
) -> None:
    known, expected = UserHashTable(), dict[tuple[int, int], int]()
    for is_put, refs in turns:
        keys = keys_of(list(refs))
        if is_put:
            known.put(keys, np.array(list(refs.values()), np.int64))
            expected |= refs
        else:
            known.forget(keys)
            for key in refs:
                expected.pop(key, None)
        asked = [*expected, *refs, *others]
        assert known.find(keys_of(asked)).tolist() == [expected.get(key, UNKNOWN) for key in asked]


@given(rows=st.dictionaries(DRAWN, st.integers(0, 1 << 38)), repeated=st.sets(st.integers(0, 50)))
def test_a_table_of_rows_that_repeat(rows: dict[tuple[int, int], int], repeated: set[int]) -> None:
    keys, refs = keys_of(list(rows)), np.array(list(rows.values()), np.int64)
    whole = keys.copy()
    whole[:, 1] |= refs.astype(np.uint64)
    again = whole[[at for at in sorted(repeated) if at < len(whole)]]
    known = UserHashTable.of(np.concatenate((whole, again)))
    assert known.find(keys).tolist() == refs.tolist()
    assert len(known) == len(known.rows()) == len(rows)


def test_grows_with_a_million_users_and_stays_half_full() -> None:
    drawn = np.random.default_rng(7)
    keys = drawn.integers(0, 1 << 64, (1_000_000, 2), np.uint64)
    keys[:, 1] &= ~np.uint64((1 << USER_REF_BITS) - 1)
    refs = drawn.integers(0, 1 << 38, len(keys))
    known = UserHashTable()
    for start in range(0, len(keys), 70_000):
        known.put(keys[start : start + 70_000], refs[start : start + 70_000])
    assert len(known) == 1_000_000
    assert (known.find(keys) == refs).all()
    assert (known.find(keys ^ np.uint64(1 << 63)) == UNKNOWN).all()
    assert 16 / 0.7 <= known._slots.nbytes / len(known) <= 16 / 0.5
