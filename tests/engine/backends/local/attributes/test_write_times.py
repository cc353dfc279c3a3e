"""First and last write times compared with brute force, and the number of profiles read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.attributes.write_times import Span, WriteTimes
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import PAGE_USERS, PageCache
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.errors import DataLoss

GROUPS = 2
FIELDS = (1, 2)
PAGES = 3
REFS = [
    group << GROUP_SHIFT | page * PAGE_USERS + user
    for group in range(GROUPS)
    for page in range(PAGES)
    for user in (0, 1, PAGE_USERS - 1)
]

accounts = count(1)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path / "index", map_bytes=1 << 30)
    yield environment
    environment.close()


class Users:
    """The writes of users to fields, and their spans."""

    def __init__(self, index: Environment, cache_bytes: int = 1 << 20) -> None:
        self.index = index
        self.account = next(accounts)
        self.times: dict[int, dict[int, int | None]] = {}
        self.profiles_read = 0
        self.open(cache_bytes)

    def open(self, cache_bytes: int = 1 << 20) -> None:
        """All that is not checkpointed is lost."""
        self.page_cache = PageCache(self.index, cache_bytes)
        self.spans = WriteTimes(self.page_cache, self.account, self.users_with, self.profile_of)

    def users_with(self, field: int, group: int) -> BitMap:
        """Who of the group has a value."""
        return BitMap(
            ref & DENSE_MASK
            for ref, writes in self.times.items()
            if ref >> GROUP_SHIFT == group and writes.get(field) is not None
        )

    def profile_of(self, ref: int) -> Mapping[int, tuple[int, int, str | None]]:
        """A user's writes, unsets among them."""
        self.profiles_read += 1
        return {
            field: (0, 0, None) if time is None else (time, 0, "x") for field, time in self.times[ref].items()
        }

    def write(self, writes: Iterable[tuple[int, int, int | None]]) -> None:
        """Some (ref, field, time), None without a value, in one run."""
        with self.page_cache.session():
            self.spans.begin()
            for ref, field, time in writes:
                user = self.times.setdefault(ref, {})
                before, user[field] = user.get(field), time
                spans = self.spans.of_page(ref)
                if field in spans:
                    spans[field].replace(before, time)
                elif time is not None:
                    spans[field] = Span(time, time)

    def checkpoint(self) -> None:
        """Writes what changed."""
        self.page_cache.freeze()
        while self.page_cache.stage_next():
            pass
        with self.index.writing() as txn:
            self.page_cache.write(txn, lambda: None)
        self.page_cache.commit()

    def asked(self, field: int) -> tuple[tuple[int, int], int]:
        """The answer, and how often it was unfinished."""
        for again in range(2 * len(REFS)):
            with self.page_cache.session():
                found = self.spans.first_and_last(field, GROUPS)
            if found is not None:
                return found, again
        raise AssertionError("it is never answered")

    def by_hand(self, field: int) -> tuple[int, int] | None:
        """The answer from the users one by one."""
        times = [t for writes in self.times.values() if (t := writes.get(field)) is not None]
        return (min(times), max(times)) if times else None


@pytest.mark.parametrize("cache_bytes", [1, 1 << 20])
def test_times_are_those_of_the_current_writes(index: Environment, cache_bytes: int) -> None:
    times = st.none() | st.integers(-3, 12)
    writes = st.lists(
        st.tuples(st.sampled_from(REFS), st.sampled_from(FIELDS), times), min_size=1, max_size=12
    )
    actions = st.sampled_from(("go on", "ask", "checkpoint", "checkpoint and open"))

    @given(st.lists(st.tuples(writes, actions), min_size=1, max_size=8))
    def holds(steps: list[tuple[list[tuple[int, int, int | None]], str]]) -> None:
        users = Users(index, cache_bytes)
        for written, action in [*steps, ([], "ask")]:
            users.write(written)
            if action.startswith("checkpoint"):
                users.checkpoint()
            if action == "checkpoint and open":
                users.open(cache_bytes)
            if action != "ask":
                continue
            for field in FIELDS:
                expected = users.by_hand(field)
                if expected is not None:
                    assert users.asked(field)[0] == expected

    holds()


def test_monotone_writes_read_no_profile(index: Environment) -> None:
    users = Users(index)
    users.write((ref, 1, 100 + at) for at, ref in enumerate(REFS))
    assert users.asked(1) == ((100, 117), 0)
    # The latest write of all goes on in time, and one in the middle of its page goes.
    users.write([(REFS[-1], 1, 500), (REFS[1], 1, None)])
    assert users.asked(1) == ((100, 500), 0)
    assert users.profiles_read == 0


def test_inner_end_stays_loose(index: Environment) -> None:
    users = Users(index)
    users.write((ref, 1, 100 + at) for at, ref in enumerate(REFS))
    # The first of every page but the first is rewritten: none of them was the earliest of all.
    users.write((ref, 1, 400) for ref in REFS[3::3])
    assert users.asked(1) == ((100, 400), 0)
    assert users.profiles_read == 0


def test_loose_end_reads_no_profile_when_another_write_is_as_extreme(index: Environment) -> None:
    users = Users(index)
    users.write((ref, 1, time) for ref, time in zip(REFS[:9], (1, 5, 9) * 3, strict=True))
    # In the first and the last page no write is at either end any longer.
    users.write((REFS[at], 1, None) for at in (0, 2, 6, 8))
    assert users.asked(1) == ((1, 9), 0)
    # Writes reach beyond the ends that were loose.
    users.write([(REFS[3], 1, None), (REFS[5], 1, None), (REFS[0], 1, 0), (REFS[8], 1, 10)])
    assert users.asked(1) == ((0, 10), 0)
    assert users.profiles_read == 0


def test_end_becomes_loose_when_its_last_write_is_removed(index: Environment) -> None:
    users = Users(index)
    users.write((ref, 1, time) for ref, time in zip(REFS[:6], (1, 1, 5, 9, 9, 6), strict=True))
    users.write([(REFS[0], 1, None), (REFS[3], 1, None)])
    assert users.asked(1) == ((1, 9), 0)
    users.write([(REFS[1], 1, 7), (REFS[4], 1, None)])
    assert users.asked(1)[0] == (5, 7)
    assert users.profiles_read == 2


def test_page_with_the_outermost_loose_end_is_read_once(index: Environment) -> None:
    users = Users(index)
    users.write((ref, field, 100 + at) for at, ref in enumerate(REFS) for field in FIELDS)
    users.write((REFS[0], field, 400) for field in FIELDS)
    assert users.asked(1) == ((101, 400), 1)
    assert users.profiles_read == 3
    # The other field was looked at on the way, and what was found is stored.
    users.checkpoint()
    users.open()
    assert [users.asked(field) for field in FIELDS] == [((101, 400), 0)] * 2
    assert users.profiles_read == 3


def test_rewriting_users_at_one_time_reads_no_profile(index: Environment) -> None:
    users = Users(index)
    users.write((ref, 1, 100 + at) for at, ref in enumerate(REFS))
    users.write((ref, 1, 400) for ref in REFS)
    assert users.asked(1) == ((400, 400), 0)
    # One of many at the first time goes, and everybody at the last but those.
    users.write([(REFS[0], 1, 500), (REFS[1], 1, 600), (REFS[1], 1, None), (REFS[0], 1, None)])
    assert users.asked(1) == ((400, 400), 0)
    assert users.profiles_read == 0


def test_page_without_users_is_ignored(index: Environment) -> None:
    users = Users(index)
    users.write([(REFS[0], 1, 1), (REFS[3], 1, 5), (REFS[3], 2, 1), (REFS[6], 1, 9)])
    users.write([(REFS[0], 1, None), (REFS[6], 1, None)])
    assert users.asked(1) == ((5, 5), 0)
    users.write([(REFS[0], 1, 7)])
    assert users.asked(1)[0] == (5, 7)


def test_missing_times_of_a_page_are_data_loss(index: Environment) -> None:
    users = Users(index)
    users.write([(REFS[0], 1, 1), (REFS[3], 1, 5)])
    users.checkpoint()
    with index.writing() as txn:
        assert txn.delete(key(Family.WRITE_TIMES, users.account, 0, 1))
    users.open()
    with pytest.raises(DataLoss) as raised:
        users.asked(1)
    assert raised.value.metadata == {"key_family": "WRITE_TIMES"}
