"""Running calls are counted over all processes of a service."""

from __future__ import annotations

import os
import random

import pytest

from service.auth.errors import RateLimited
from service.auth.meter import Meter
from service.auth.running import RunningCalls

PROCESSES = 3
MOST = 5


def tables() -> list[RunningCalls]:
    """The table as each process sees it, with two columns."""
    first = RunningCalls(PROCESSES)
    columns = first.columns_of(["accounts/a", "accounts/a/apiKeys/k"])
    assert columns == {"accounts/a": 0, "accounts/a/apiKeys/k": 1}
    others = [
        RunningCalls(PROCESSES, own=own, descriptor=os.dup(first.descriptor)) for own in range(1, PROCESSES)
    ]
    for other in others:
        other.know(columns)
    return [first, *others]


@pytest.mark.parametrize("seed", range(5))
def test_processes_together_run_as_many_calls_as_are_allowed(seed: int) -> None:
    print(f"seed {seed}")
    random_ = random.Random(seed)
    seen = tables()
    meters = [Meter("k", 1, MOST, cell=table.cell("accounts/a/apiKeys/k")) for table in seen]
    running = [0] * PROCESSES
    for _ in range(2_000):
        process = random_.randrange(PROCESSES)
        if running[process] and random_.random() < 0.5:
            meters[process].end()
            running[process] -= 1
            continue
        try:
            meters[process].begin()
        except RateLimited:
            assert sum(running) == MOST
        else:
            running[process] += 1
            assert sum(running) <= MOST
    # The account has a count of its own.
    account = seen[0].cell("accounts/a")
    assert account is not None
    assert account.others() == 0
    # A process that ends takes its calls with it.
    for process in range(1, PROCESSES):
        seen[0].forget(process)
    cell = seen[0].cell("accounts/a/apiKeys/k")
    assert cell is not None
    assert cell.others() == 0
    for table in seen:
        table.close()


def test_a_key_without_a_column_has_a_count_in_each_process() -> None:
    table = RunningCalls(PROCESSES)
    assert table.cell("accounts/b") is None
    meter = Meter("k", 1, 1, cell=None)
    meter.begin()
    with pytest.raises(RateLimited):
        meter.begin()
    table.close()
