"""Local checks of the Python client: how many a second, in how much memory, and what following costs.

Everything happens in this process: messages as a service sends them go into the sets, then a thread asks.
Times are processor time of the thread, which hardly depends on what else is running; the median of the rounds
counts.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from milepost._local import LocalAnswers, Update
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import MembershipSnapshot, ProgressMark, SnapshotBegin, SnapshotEnd
from tests.bench.process import status_bytes

TARGET = "accounts/bench/journeys/j/milestones/m"
PAGE_USERS = 1_000
CHECKS = 200_000
CHANGES = 100_000
ROUNDS = 7
BYTES_A_MEGABYTE = 1_000_000


def print_table(members: int, console: Console) -> None:
    """Follows an audience of `members` users, asks about twice as many, and prints the table."""
    before = status_bytes(os.getpid(), "VmRSS")
    local = LocalAnswers({TARGET: TARGET}, timedelta(hours=1))
    fold_seconds = _spent(lambda: _take(local, _snapshot(members)))
    megabytes = (status_bytes(os.getpid(), "VmRSS") - before) / BYTES_A_MEGABYTE
    drawn = random.Random(members)
    asked = [_user(drawn.randrange(2 * members)) for _ in range(CHECKS)]
    changes = [
        MembershipChange(sequence=n, user_id=_user(drawn.randrange(2 * members)), entered=n % 2 == 0)
        for n in range(CHANGES)
    ]
    mark = ProgressMark()
    mark.as_of.GetCurrentTime()
    check = local.check
    checking = statistics.median(
        _spent(lambda: [check(user, TARGET) for user in asked]) for _ in range(ROUNDS)
    )
    applying = _spent(lambda: _take(local, iter([*changes, mark])))
    table = Table("what", "figure")
    table.add_row("members", f"{members:,}")
    table.add_row(
        "memory", f"{megabytes:,.0f} MB, {megabytes * BYTES_A_MEGABYTE / members:.0f} bytes a member"
    )
    table.add_row("a snapshot folded", f"{members / fold_seconds:,.0f} members/s")
    table.add_row("changes applied", f"{CHANGES / applying:,.0f} changes/s")
    table.add_row(
        "checks, CPU", f"{checking / CHECKS * 1e9:,.0f} ns a check, {CHECKS / checking:,.0f} checks/s"
    )
    console.print(table)


def _user(number: int) -> str:
    return f"customer-{number:012}"


def _snapshot(members: int) -> Iterator[Update]:
    """The messages of a snapshot."""
    yield SnapshotBegin()
    for first in range(0, members, PAGE_USERS):
        page = range(first, min(first + PAGE_USERS, members))
        yield MembershipSnapshot(user_ids=map(_user, page))
    end = SnapshotEnd()
    end.as_of.GetCurrentTime()
    yield end


def _take(local: LocalAnswers, updates: Iterator[Update]) -> None:
    [followed] = local._followed
    for update in updates:
        # As they come off the wire.
        followed.take(type(update).FromString(update.SerializeToString()), "", local._lock)


def _spent(work: Callable[[], object]) -> float:
    """Seconds of processor time of this thread."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
