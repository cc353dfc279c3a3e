"""The smaller parts: ranges over columns, the fair lock, kept answers, the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import ABSENT_TIME
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import StepCache
from engine.backends.local.storage.write_ahead_log import AliasEntry, WriteAheadLog, encode_entry
from engine.criteria.ranges import hold_instant, hold_number
from engine.errors import DataLoss
from tests.conformance.drawing import INSTANTS, NUMBERS, interval_sets, range_sets

# --- ranges -------------------------------------------------------------------------------------------------

EXTREMES = (*NUMBERS, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308)


@given(intervals=interval_sets(st.sampled_from(EXTREMES)))
def test_numbers_lie_in_intervals_as_one_by_one(intervals: tuple) -> None:  # type: ignore[type-arg]
    column = np.array([*EXTREMES, np.nan], np.float64)
    expected = [*(hold_number(intervals, number) for number in EXTREMES), False]
    assert Ranges.of_numbers(intervals).holds(column).tolist() == expected


@given(ranges=range_sets())
def test_instants_lie_in_ranges_as_one_by_one(ranges: tuple) -> None:  # type: ignore[type-arg]
    column = np.array([*INSTANTS, ABSENT_TIME], np.int64)
    expected = [*(hold_instant(ranges, instant) for instant in INSTANTS), False]
    assert Ranges.of_instants(ranges).holds(column).tolist() == expected


# --- the lock -----------------------------------------------------------------------------------------------


def test_the_lock_is_handed_over_in_the_order_of_arrival() -> None:
    lock, order = FairLock(), list[int]()
    threads = []

    def take(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    # Whoever comes back at once goes behind those who wait.
    with lock:
        order.append(99)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, 99]


def test_yield_lock_lets_all_waiters_go_first() -> None:
    lock, order = FairLock(), list[str]()

    def take() -> None:
        with lock:
            order.append("waiter")

    with lock:
        lock.yield_lock()
        waiter = threading.Thread(target=take)
        waiter.start()
        while not lock._waiting:
            time.sleep(0.001)
        with lock:
            lock.yield_lock()
            order.append("still held")
        lock.yield_lock()
        order.append("after")
    waiter.join()
    assert order == ["still held", "waiter", "after"]


def test_a_waiter_leaves_the_queue_at_its_deadline() -> None:
    lock = FairLock()
    answers: list[bool] = []
    with lock:
        waiter = threading.Thread(target=lambda: answers.append(lock.acquire(time.monotonic() + 0.01)))
        waiter.start()
        waiter.join()
    assert answers == [False]
    with lock:
        assert not lock._waiting


def test_only_the_holder_releases() -> None:
    with pytest.raises(RuntimeError):
        FairLock().release()


# --- kept answers -------------------------------------------------------------------------------------------


def test_an_answer_is_kept_until_what_it_read_is_touched() -> None:
    cache = StepCache()
    reads = [("field", 1, 0), ("field", 2, 0)]
    cache.add(0, b"step", BitMap([1]), 100)
    cache.touch([("field", 3, 0), ("field", 1, 1)])
    assert cache.find(0, b"step", reads) == BitMap([1])
    assert cache.find(1, b"step", reads) is None
    cache.touch([("field", 2, 0)])
    assert cache.find(0, b"step", reads) is None
    cache.add(0, b"step", BitMap([2]), 100)
    assert cache.find(0, b"step", reads) == BitMap([2])
    cache.clear()
    assert cache.find(0, b"step", reads) is None


def test_the_least_recently_used_answers_are_evicted_first() -> None:
    cache = StepCache(bytes_max=3_000)
    for number in range(6):
        cache.add(0, b"%d" % number, BitMap([number]), 100)
        cache.find(0, b"0", [])
    kept = [number for number in range(6) if cache.find(0, b"%d" % number, []) is not None]
    assert 0 in kept
    assert 5 in kept
    assert 1 <= len(kept) < 8
    for number in range(50):
        cache.add(0, b"%d" % number, BitMap([number]), 100)
    assert cache.find(0, b"1", []) is None


# --- the log ------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    opened = Environment(tmp_path / "log", map_bytes=1 << 30)
    yield opened
    opened.close()


def entry(number: int) -> AliasEntry:
    return AliasEntry("accounts/a", number, f"from-{number}", "to")


def test_positions_go_on_after_a_trim_and_a_restart(environment: Environment) -> None:
    log = WriteAheadLog(environment, 0)
    assert log.append([encode_entry(entry(n)) for n in (1, 2, 3)]) == 1
    log.trim(2)
    assert [position for position, _ in log.replay(2)] == [3]
    log.trim(3)
    again = WriteAheadLog(environment, 3)
    assert again.append([encode_entry(entry(4))]) == 4
    assert list(again.replay(3)) == [(4, entry(4))]


def test_a_missing_entry_is_an_error(environment: Environment) -> None:
    log = WriteAheadLog(environment, 0)
    log.append([encode_entry(entry(n)) for n in (1, 2, 3)])
    with environment.writing() as txn:
        txn.delete(key(Family.LOG, 2))
    with pytest.raises(DataLoss) as raised:
        list(WriteAheadLog(environment, 0).replay(0))
    assert raised.value.metadata["key_family"] == "LOG"
