"""Accounts share the order of waiting entries: no account waits for more of another's work than its own."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from engine.backends.local.write.work_queue import WorkQueue

WORK = (1, 1, 1, 5, 400, 2_000, 10_000)
STEPS = 600


class Put:
    """An item, and what the queue owes it."""

    def __init__(self, account: str, number: int, work: int) -> None:
        self.account = account
        self.number = number
        self.work = work
        self.taken_before: Counter[str] = Counter()
        """Work of each account that was taken before it was put."""
        self.own_before = 0
        """Work of its own account that was put and not taken then, and that of its last item taken."""


@pytest.mark.parametrize("seed", range(20))
def test_an_item_waits_for_one_more_item_of_each_other_account_than_its_share(seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    queue: WorkQueue[Put] = WorkQueue()
    taken: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    last: Counter[str] = Counter()
    largest: Counter[str] = Counter()
    numbers: dict[str, list[int]] = defaultdict(list)
    accounts = [f"accounts/{number}" for number in range(rng.randint(2, 6))]
    likely_to_put = rng.choice((0.5, 0.6, 0.9))

    def take() -> None:
        item = queue.take()
        for account in accounts:
            of_other = taken[account] - item.taken_before[account]
            if account != item.account:
                assert of_other <= item.own_before + largest[account]
        numbers[item.account].append(item.number)
        taken[item.account] += item.work
        waiting[item.account] -= item.work
        last[item.account] = item.work

    for number in range(STEPS):
        if len(queue) and rng.random() > likely_to_put:
            take()
            continue
        account = rng.choice(accounts)
        item = Put(account, number, rng.choice(WORK))
        item.taken_before = taken.copy()
        item.own_before = waiting[account] + last[account]
        waiting[account] += item.work
        largest[account] = max(largest[account], item.work)
        queue.put(item)
    while len(queue):
        take()
    assert all(each == sorted(each) for each in numbers.values())
    assert sum(waiting.values()) == 0


def test_a_small_write_goes_before_large_ones_that_came_before() -> None:
    queue: WorkQueue[Put] = WorkQueue()
    for number in range(10):
        queue.put(Put("large", number, 10_000))
    queue.put(Put("small", 0, 1))
    assert queue.take().account == "small"
    assert queue.take().number == 0
    queue.put(Put("small", 0, 1))
    queue.put(Put("small", 1, 1))
    taken = [queue.take() for _ in range(4)]
    assert [(each.account, each.number) for each in taken] == [
        ("small", 0),
        ("small", 1),
        ("large", 1),
        ("large", 2),
    ]


def test_nothing_is_saved_up_while_nothing_waits() -> None:
    """An account that was idle has no more of what comes than one that was not."""
    queue: WorkQueue[Put] = WorkQueue()
    queue.put(Put("busy", 0, 1_000))
    for number in range(1, 50):
        queue.put(Put("busy", number, 1_000))
        assert queue.take().account == "busy"
    for number in range(10):
        queue.put(Put("idle", number, 1_000))
        queue.put(Put("busy", 50 + number, 1_000))
    order = [queue.take().account for _ in range(len(queue))]
    assert all(abs(order[:end].count("idle") - order[:end].count("busy")) <= 2 for end in range(1, 21))
