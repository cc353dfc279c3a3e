"""Tasks of several accounts and few threads: all run, in the order of their account, and nobody has all."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from service.fair_queue import FairQueue, Task
from service.slots import Holder, share_of

THREADS = 8
ACCOUNTS = 5


def task(holder: Holder | None, number: int) -> Task:
    return Task(0.0, holder, print, (number,), {})


@pytest.mark.parametrize("seed", range(10))
def test_every_task_runs_once_in_the_order_of_its_account(seed: int) -> None:
    print(f"seed {seed}")
    random_ = random.Random(seed)
    tasks = FairQueue(THREADS)
    holders = [Holder(f"accounts/{number}", random_.choice((1, 25, 50, 100))) for number in range(ACCOUNTS)]
    sent: Counter[Holder | None] = Counter()
    last: dict[Holder | None, int] = {}
    running: list[Task] = []
    for _ in range(3_000):
        if random_.random() < 0.5:
            holder = random_.choice([*holders, None])
            sent[holder] += 1
            tasks.put(task(holder, sent[holder]))
        elif running and random_.random() < 0.7:
            ended = running.pop(random_.randrange(len(running)))
            tasks.done(ended.holder)
        elif len(running) < THREADS and not tasks._ready.empty():
            running.append(begun(tasks, last))
    while running or not tasks._ready.empty():
        while len(running) < THREADS and not tasks._ready.empty():
            running.append(begun(tasks, last))
        tasks.done(running.pop(0).holder)
    assert last == dict(sent)
    assert not tasks._lines
    assert not tasks._running
    assert tasks._all_running == 0


def begun(tasks: FairQueue, last: dict[Holder | None, int]) -> Task:
    """The next task, which is the next one of its holder."""
    found = tasks.get()
    assert found is not None
    (number,) = found.args
    assert number == last.get(found.holder, 0) + 1
    last[found.holder] = number
    return found


def test_an_account_with_a_thousand_calls_leaves_threads_to_others() -> None:
    tasks = FairQueue(THREADS)
    greedy, other = Holder("accounts/greedy", 50), Holder("accounts/other", 50)
    for number in range(1_000):
        tasks.put(task(greedy, number))
    assert tasks._ready.qsize() == share_of(50, THREADS)
    tasks.put(task(other, 1))
    # Ahead of all that wait.
    assert tasks._ready.qsize() == share_of(50, THREADS) + 1
    first = tasks.get()
    assert first is not None
    tasks.done(first.holder)
    assert tasks._ready.qsize() == share_of(50, THREADS)


def test_what_waits_is_done_before_the_threads_end() -> None:
    tasks = FairQueue(THREADS)
    holder = Holder("accounts/a", 50)
    for number in range(20):
        tasks.put(task(holder, number))
    tasks.close(2)
    found = [tasks.get() for _ in range(22)]
    assert [each.args for each in found[:20] if each is not None] == [(number,) for number in range(20)]
    assert found[20:] == [None, None]
