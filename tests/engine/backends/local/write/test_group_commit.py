"""What a write waits for: the entry that is being applied, and a bounded amount of others' work."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from engine.backends.base import Appended
from engine.backends.local.storage.write_ahead_log import AppendEntry, LogEntry, WriteAheadLog, decode_entry
from engine.backends.local.write.group_commit import LOGGED_WORK_MAX, Ticket, Writer, work_of
from engine.backends.local.write.state import State
from engine.clock import Stamp
from engine.errors import LimitExceeded
from tests.conformance.site import event
from tests.harness import EVENTUALLY_S, eventually

RECORD = event("ada")
BAD = "accounts/bad"
GOOD = "accounts/good"


class Log:
    """A log in memory."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.groups: list[int] = []
        self.is_full = False

    def append(self, encoded: Sequence[bytes]) -> int:
        if self.is_full:
            raise LimitExceeded("full", reason="STORE_FULL")
        first = len(self.entries) + 1
        self.entries += [decode_entry(memoryview(each)) for each in encoded]
        self.groups.append(len(encoded))
        return first


class Applied:
    """A state that notes what is applied. Applying waits until `may_go_on`."""

    def __init__(self) -> None:
        self.entries: list[AppendEntry] = []
        self.begun = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def apply(self, position: int, entry: LogEntry) -> tuple[Appended, ...]:
        assert isinstance(entry, AppendEntry)
        self.begun += 1
        assert self.may_go_on.wait(EVENTUALLY_S)
        self.entries.append(entry)
        assert position == len(self.entries)
        return (Appended(position, len(entry.records), 0),)

    def place_of(self, request_id: str) -> int:
        """Where an entry is among those applied."""
        return [entry.request_id for entry in self.entries].index(request_id)


class Site:
    """A writer over both, and callers."""

    def __init__(self) -> None:
        self.log, self.state = Log(), Applied()
        self._instants = iter(range(1, 1_000_000))
        self.writer = Writer(cast(WriteAheadLog, self.log), cast("State[Any]", self.state), self._clock)
        self.answers: dict[str, Appended | BaseException] = {}
        self._threads: list[threading.Thread] = []

    def _clock(self) -> Stamp:
        now = next(self._instants)
        return Stamp(now, now)

    def write(self, account: str, request_id: str, records: int) -> None:
        """Writes that many records, and notes the answer."""

        def entry_at(at: Stamp) -> AppendEntry:
            return AppendEntry(account, at.arrival, request_id, (RECORD,) * records, at.settled)

        try:
            self.answers[request_id] = self.writer.write(entry_at)
        except LimitExceeded as error:
            self.answers[request_id] = error

    def call(self, account: str, request_id: str, records: int) -> None:
        """A caller of its own that writes; returns once its write waits or is logged."""
        before = self._seen
        thread = threading.Thread(target=self.write, args=(account, request_id, records))
        self._threads.append(thread)
        thread.start()
        eventually(lambda: self._seen > before)

    @property
    def _seen(self) -> int:
        return len(self.writer._waiting) + len(self.log.entries)

    def end(self) -> None:
        """All callers are answered."""
        self.state.may_go_on.set()
        for thread in self._threads:
            thread.join(EVENTUALLY_S)
            assert not thread.is_alive()


@pytest.mark.parametrize("seed", range(12))
def test_a_small_write_waits_for_a_bounded_amount_of_work(seed: int) -> None:
    print(f"seed {seed}")
    rng, site = random.Random(seed), Site()
    sizes = rng.choice(((10_000,), (1_000,), (1, 10_000), (1, 300, 2_500), (400,)))
    site.state.may_go_on.clear()
    site.call(BAD, "first", rng.choice(sizes))
    eventually(lambda: site.state.begun)
    for number in range(24):
        site.call(BAD, f"bad {number}", rng.choice(sizes))
    site.call(GOOD, "good", 1)
    site.end()
    waited_for = site.state.entries[1 : site.state.place_of("good")]
    # What was logged ahead, and a record that came before and goes first as well.
    assert sum(map(work_of, waited_for)) <= LOGGED_WORK_MAX + 1
    assert len(site.state.entries) == 26
    assert site.state.entries == site.log.entries


@pytest.mark.parametrize("seed", range(6))
def test_each_caller_is_answered_in_order_at_growing_revisions(seed: int) -> None:
    print(f"seed {seed}")
    rng, site = random.Random(seed), Site()
    callers, writes = 8, 25
    plans = [[rng.choice((1, 1, 1, 50, 900, 3_000)) for _ in range(writes)] for _ in range(callers)]

    def run(caller: int) -> None:
        for number, records in enumerate(plans[caller]):
            site.write(f"accounts/{caller % 3}", f"{caller} {number}", records)

    threads = [threading.Thread(target=run, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    with site.writer.paused():
        paused_at = len(site.state.entries)
        assert site.state.begun == paused_at
    for thread in threads:
        thread.join(EVENTUALLY_S)
    assert len(site.state.entries) == callers * writes
    assert [entry.arrival for entry in site.state.entries] == sorted(
        entry.arrival for entry in site.state.entries
    )
    for caller in range(callers):
        own = [site.answers[f"{caller} {number}"] for number in range(writes)]
        assert [each.accepted for each in own if isinstance(each, Appended)] == plans[caller]
        revisions = [each.revision for each in own if isinstance(each, Appended)]
        assert revisions == sorted(set(revisions))
        assert [site.state.place_of(f"{caller} {number}") + 1 for number in range(writes)] == revisions
    assert (site.writer._ahead, site.writer._applying, len(site.writer._parked)) == (0, 0, 0)
    assert not site.writer._unapplied


def test_small_writes_of_many_callers_share_a_commit() -> None:
    site = Site()
    site.state.may_go_on.clear()
    site.call(BAD, "first", 10_000)
    eventually(lambda: site.state.begun)
    with site.writer._commit_lock:
        for number in range(20):
            site.call(GOOD, str(number), 1)
    site.end()
    # One was about to be logged when the others came.
    assert sum(site.log.groups) == 21
    assert len(site.log.groups) <= 3


def test_a_full_log_refuses_what_waits_and_takes_what_comes_later() -> None:
    site = Site()
    site.log.is_full = True
    for number in range(5):
        site.write(BAD, str(number), 3_000)
    site.end()
    assert all(isinstance(site.answers[str(number)], LimitExceeded) for number in range(5))
    site.log.is_full = False
    site.write(BAD, "later", 3_000)
    assert site.answers["later"] == Appended(1, 3_000, 0)
    assert site.writer._ahead == 0
    assert not site.writer._unapplied


def test_an_entry_that_cannot_be_encoded_fails_alone() -> None:
    site = Site()
    broken = AppendEntry(BAD, 0, "\ud800", (RECORD,))
    with pytest.raises(UnicodeEncodeError):
        site.writer.write(lambda at: broken)
    site.write(GOOD, "good", 1)
    assert site.answers["good"] == Appended(1, 1, 0)
    assert Ticket(broken).work == 1
