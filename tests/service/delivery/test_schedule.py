"""Tasks get a turn in order, slow ones never take all threads, and none runs twice at a time."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass, field

import pytest

from service.delivery.schedule import AT_ONCE, WHEN_WOKEN, Schedule

THREADS = 4
ROUNDS = 200


@dataclass(eq=False)
class Named:
    """A task; the test says whether it is slow."""

    name: str
    is_slow: bool = False
    running: threading.Lock = field(default_factory=threading.Lock)
    steps: int = 0


def named(names: str, *, is_slow: bool = False) -> list[Named]:
    return [Named(name, is_slow) for name in names]


def schedule_of(*tasks: Named, threads: int = THREADS) -> Schedule[Named]:
    schedule: Schedule[Named] = Schedule(threads)
    for task in tasks:
        schedule.add(task)
    return schedule


def taken(schedule: Schedule[Named]) -> Named:
    task = schedule.take()
    assert task is not None
    return task


def test_tasks_take_turns() -> None:
    a, b, c = named("abc")
    schedule = schedule_of(a, b, c)
    turns = []
    for _ in range(6):
        task = taken(schedule)
        turns.append(task.name)
        schedule.put_back(task, AT_ONCE)
    assert turns == list("abcabc")


def test_a_task_that_waits_is_due_when_its_time_has_come_or_when_it_is_woken() -> None:
    soon, later, woken = named("slw")
    schedule = schedule_of(soon, later, woken)
    began = time.monotonic()
    for task, at in ((soon, began + 0.05), (later, began + 3_600), (woken, WHEN_WOKEN)):
        assert taken(schedule) is task
        schedule.put_back(task, at)
    assert set(schedule.waiting()) == {soon, later, woken}
    assert taken(schedule) is soon
    assert time.monotonic() >= began + 0.05
    schedule.wake([woken, soon])
    assert taken(schedule) is woken
    assert schedule.waiting() == [later]
    schedule.wake([later])
    assert taken(schedule) is later
    # Its former time is void.
    schedule.put_back(later, math.inf)
    assert schedule.waiting() == [later]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_slow_tasks_have_half_of_the_threads_at_most_and_one_at_least(threads: int) -> None:
    slow, fast = named("stuvwx", is_slow=True), named("abcdef")
    schedule = schedule_of(*slow, *fast, threads=threads)
    most = max(1, threads // 2)
    running = [taken(schedule) for _ in range(most + len(fast))]
    assert sum(task.is_slow for task in running) == most
    assert running[0].is_slow
    # One that becomes fast leaves its place to another.
    running[0].is_slow = False
    schedule.put_back(running[0], WHEN_WOKEN)
    assert taken(schedule).is_slow == (most < len(slow))


def test_removed_tasks_do_not_run() -> None:
    a, b, c = named("abc")
    schedule = schedule_of(a, b, c)
    assert taken(schedule) is a
    assert not schedule.remove(a)
    assert schedule.remove(b)
    assert taken(schedule) is c
    schedule.put_back(c, time.monotonic() + 0.01)
    assert schedule.remove(c)
    schedule.put_back(a, WHEN_WOKEN)
    assert schedule.remove(a)
    assert schedule.waiting() == []
    schedule.close()
    assert schedule.take() is None


def test_a_closed_schedule_lets_its_threads_go() -> None:
    schedule = schedule_of()
    found: list[Named | None] = []
    threads = [threading.Thread(target=lambda: found.append(schedule.take())) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    schedule.close()
    for thread in threads:
        thread.join(60)
    assert found == [None] * THREADS


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_run_each_task_one_at_a_time_and_none_is_forgotten(seed: int) -> None:
    choose = random.Random(seed)
    tasks = [Named(str(number), is_slow=choose.random() < 0.3) for number in range(20)]
    schedule = schedule_of(*tasks)
    over = threading.Event()

    def send(own: random.Random) -> None:
        while (task := schedule.take()) is not None:
            assert task.running.acquire(blocking=False)
            task.steps += 1
            task.is_slow = own.random() < 0.3
            at = own.choice([AT_ONCE, time.monotonic() + own.random() / 100, WHEN_WOKEN])
            task.running.release()
            schedule.put_back(task, at)
            if all(each.steps >= ROUNDS for each in tasks):
                over.set()

    def wake() -> None:
        while not over.is_set():
            schedule.wake(schedule.waiting())
            time.sleep(0.001)

    threads = [threading.Thread(target=send, args=(random.Random(n),)) for n in range(THREADS)]
    threads.append(threading.Thread(target=wake))
    for thread in threads:
        thread.start()
    assert over.wait(60)
    schedule.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
