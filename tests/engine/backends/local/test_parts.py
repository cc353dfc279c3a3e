"""Small modules: ranges over columns, the fair lock, the step cache, the log."""

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
from engine.backends.local.storage.fair_lock import IN_A_ROW_MAX, FairLock
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import ABSENT_TIME
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import CachedSets, StepCache
from engine.backends.local.storage.write_ahead_log import AliasEntry, WriteAheadLog, encode_entry
from engine.bounded_cache import BoundedCache
from engine.criteria.ranges import hold_instant, hold_number
from engine.deadline import Deadline
from engine.errors import DataLoss
from tests.conformance.drawing import INSTANTS, NUMBERS, interval_sets, range_sets

# --- ranges -------------------------------------------------------------------------------------------------

EXTREMES = (*NUMBERS, 5e-324, 1.7976931348623157e308, -1.7976931348623157e308)


@given(intervals=interval_sets(st.sampled_from(EXTREMES)))
def test_interval_masks_equal_single_tests(intervals: tuple) -> None:  # type: ignore[type-arg]
    column = np.array([*EXTREMES, np.nan], np.float64)
    expected = [*(hold_number(intervals, number) for number in EXTREMES), False]
    assert Ranges.of_numbers(intervals).holds(column).tolist() == expected


@given(ranges=range_sets())
def test_range_masks_equal_single_tests(ranges: tuple) -> None:  # type: ignore[type-arg]
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
    # A thread that asks again queues behind the waiters.
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


def test_others_go_before_the_patient_but_only_so_many_in_a_row() -> None:
    lock, order = FairLock(), list[str]()

    def take(name: str, *, patient: bool) -> None:
        lock.acquire(patient=patient)
        order.append(name)
        lock.release()

    threads = []
    with lock:
        assert not lock.is_wanted
        assert not lock.is_wanted_patiently
        for number, name in enumerate(["patient", "patient", *["other"] * (IN_A_ROW_MAX + 2)], 1):
            kind = {"patient": name == "patient"}
            threads.append(threading.Thread(target=take, args=(name,), kwargs=kind))
            threads[-1].start()
            while len(lock._waiting) + len(lock._patient) < number:
                time.sleep(0.001)
        assert lock.is_wanted
        assert lock.is_wanted_patiently
    for thread in threads:
        thread.join()
    assert order == [*["other"] * IN_A_ROW_MAX, "patient", "other", "other", "patient"]


def test_a_waiter_whose_caller_gives_up_leaves_the_queue() -> None:
    lock, answers, given_up = FairLock(), list[bool](), threading.Event()
    deadline = Deadline(time.monotonic() + 3_600.0, given_up.is_set)
    with lock:
        waiter = threading.Thread(target=lambda: answers.append(lock.acquire(deadline, patient=True)))
        waiter.start()
        given_up.set()
        waiter.join()
        assert answers == [False]
        assert not lock.is_wanted_patiently


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


def test_answer_is_cached_until_its_read_keys_change() -> None:
    cache = StepCache(BoundedCache("steps", 1 << 20))
    reads = [("field", 1, 0), ("field", 2, 0)]
    cache.add(0, b"step", BitMap([1]), 100, cache.instant())
    cache.touch([("field", 3, 0), ("field", 1, 1)])
    assert cache.find(0, b"step", reads) == BitMap([1])
    assert cache.find(1, b"step", reads) is None
    cache.touch([("field", 2, 0)])
    assert cache.find(0, b"step", reads) is None
    cache.add(0, b"step", BitMap([2]), 100, cache.instant())
    assert cache.find(0, b"step", reads) == BitMap([2])
    cache.clear()
    assert cache.find(0, b"step", reads) is None


def test_the_least_recently_used_answers_are_evicted_first() -> None:
    cache = StepCache(BoundedCache("steps", 3_000))
    for number in range(6):
        cache.add(0, b"%d" % number, BitMap([number]), 100, cache.instant())
        cache.find(0, b"0", [])
    kept = [number for number in range(6) if cache.find(0, b"%d" % number, []) is not None]
    assert 0 in kept
    assert 5 in kept
    assert 1 <= len(kept) < 8
    for number in range(50):
        cache.add(0, b"%d" % number, BitMap([number]), 100, cache.instant())
    assert cache.find(0, b"1", []) is None


def test_members_of_a_family_take_the_place_of_older_ones() -> None:
    sets: CachedSets = BoundedCache("steps", 1 << 20)
    cache = StepCache(sets)
    reads = [("events", 1, 2, 0)]
    for instant in range(1_000):
        cache.add(0, b"%03d" % instant, BitMap([instant]), 100, cache.instant(), b"family")
        assert cache.find(0, b"000", reads, b"family") == BitMap([0])
    assert len(sets) == 1
    assert sets.nbytes < 1_000
    kept = [n for n in range(1_000) if cache.find(0, b"%03d" % n, reads, b"family") is not None]
    assert kept == [0, 997, 998, 999]
    assert cache.find(1, b"999", reads, b"family") is None
    cache.touch(reads)
    assert cache.find(0, b"999", reads, b"family") is None
    cache.add(0, b"new", BitMap([7]), 100, cache.instant(), b"family")
    assert cache.find(0, b"new", reads, b"family") == BitMap([7])
    assert cache.find(0, b"999", reads, b"family") is None


# --- the log ------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    opened = Environment(tmp_path / "log", map_bytes=1 << 30)
    yield opened
    opened.close()


def entry(number: int) -> AliasEntry:
    return AliasEntry("accounts/a", number, f"from-{number}", "to")


def test_positions_continue_after_trim_and_restart(environment: Environment) -> None:
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
