"""The user hash table behaves like a dict, whatever the hashes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.user_ref import USER_REF_BITS
from engine.backends.local.users import hash_table
from engine.backends.local.users.hash_table import CHANGING, UNKNOWN, UserHashTable

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
    few=st.sampled_from([0, 10, 100]),
)
def test_lookup_finds_stored_keys_only(
    turns: list[tuple[bool, dict[tuple[int, int], int]]], others: list[tuple[int, int]], few: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        # One by one, all at once, and both.
        patched.setattr(hash_table, "FEW_KEYS_MAX", few)
        check_lookups(turns, others)


def check_lookups(
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
        answers = [expected.get(key, UNKNOWN) for key in asked]
        assert known.find(keys_of(asked)).tolist() == answers
        peeked = known.peek_many(keys_of(asked))
        assert peeked is not None
        assert peeked.tolist() == answers
        assert [known.peek(high, tag << USER_REF_BITS) for high, tag in asked] == answers


@given(rows=st.dictionaries(DRAWN, st.integers(0, 1 << 38)), repeated=st.sets(st.integers(0, 50)))
def test_table_from_repeated_rows(rows: dict[tuple[int, int], int], repeated: set[int]) -> None:
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


def test_a_reader_notices_that_the_table_changes() -> None:
    """Slots are changed in place by another thread: here by an array that calls back when it is read."""
    drawn = np.random.default_rng(3)
    keys = drawn.integers(0, 1 << 64, (3, 2), np.uint64)
    keys[:, 1] &= ~np.uint64((1 << USER_REF_BITS) - 1)
    known = UserHashTable()
    known.put(keys[:1], np.array([7]))
    turn = iter((1, 2))

    class Numbers:
        """The numbers of the table; reading one adds a user."""

        def __init__(self, numbers: memoryview) -> None:
            self._numbers = numbers

        def __len__(self) -> int:
            return len(self._numbers)

        def __getitem__(self, at: int) -> int:
            row = next(turn, None)
            if row is not None:
                known._numbers = plain
                known.put(keys[row : row + 1], np.array([row]))
                known._numbers = self  # type: ignore[assignment]
            found: int = self._numbers[at]
            return found

    plain = known._numbers
    known._numbers = Numbers(plain)  # type: ignore[assignment]
    high, low = map(int, keys[0])
    assert known.peek(high, low) == CHANGING
    assert known.peek(high, low) == 7
    known._numbers = plain
    known._version += 1
    assert known.peek(high, low) == CHANGING
    assert known.peek_many(keys) is None
    known._version += 1
    peeked = known.peek_many(keys)
    assert peeked is not None
    assert peeked.tolist() == [7, 1, 2]


def test_a_table_that_grows_is_replaced_when_it_is_complete() -> None:
    drawn = np.random.default_rng(5)
    keys = drawn.integers(0, 1 << 64, (20_000, 2), np.uint64)
    keys[:, 1] &= ~np.uint64((1 << USER_REF_BITS) - 1)
    known = UserHashTable()
    for start in range(0, len(keys), 1_000):
        numbers = known._numbers
        known.put(keys[start : start + 1_000], np.arange(start, start + 1_000))
        # A reader that holds the former numbers still finds every user that it had.
        kept, known._numbers = known._numbers, numbers
        high, low = map(int, keys[max(0, start - 1)])
        assert known.peek(high, low) == max(0, start - 1)
        known._numbers = kept
