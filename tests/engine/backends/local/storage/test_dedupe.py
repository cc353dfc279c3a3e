"""Event ids and request ids: exact, in few runs, within the horizon."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.backends.base import Appended
from engine.backends.local.storage import sorted_runs as runs
from engine.backends.local.storage.dedupe import DIGEST_BYTES, EventIds, Requests, event_digests
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.sorted_runs import RunRecord
from engine.backends.local.storage.transactions import WriteBuffer
from engine.clock import Stamp
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, Micros

START: Micros = 1_700_000_000_000_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Environment]:
    environment = Environment(tmp_path / "index", map_bytes=1 << 30)
    yield environment
    environment.close()


def digests(*event_ids: object) -> list[bytes]:
    return event_digests(1, [1] * len(event_ids), [str(event_id) for event_id in event_ids])


def take(
    ids: EventIds, digests: list[bytes], at: Micros, *, account: int = 1, newest_event: Micros = START
) -> list[bool]:
    return ids.take(account, digests, newest_event, Stamp(at, at))


def checkpoint(ids: EventIds, index: Environment, arrival: Micros) -> None:
    with index.writing() as txn:
        ids.prepare()
        ids.write(txn, Stamp(arrival, arrival))
    ids.commit()


def merge_all(ids: EventIds) -> int:
    merges = 0
    while mergeable := ids.mergeable():
        for some in mergeable:
            ids.runs.merged(some, ids.runs.merge(some))
            ids.runs.discard(some)
            merges += 1
    return merges


def test_accounts_and_inputs_have_their_own_ids() -> None:
    every = {
        event_digests(account, [number], [event_id])[0]
        for account in (1, 2)
        for number in (1, 2, 11)
        for event_id in ("1", "1/1", "")
    }
    assert len(every) == 18


def test_repeats_are_found_in_the_batch_in_memory_and_in_runs(index: Environment) -> None:
    ids = EventIds(index)
    assert take(ids, digests("a", "b", "a"), START) == [False, False, True]
    assert take(ids, digests("b", "c"), START) == [True, False]
    checkpoint(ids, index, START)
    assert take(ids, digests("d", "a", "d"), START) == [False, True, True]
    assert take(EventIds(index), digests("a", "b", "c", "d"), START) == [True, True, True, False]


def test_runs_are_merged_without_losing_ids(index: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight digests, so that fences and block edges matter."""
    monkeypatch.setattr(runs, "BLOCK_BYTES", 8 * DIGEST_BYTES)
    ids, merges = EventIds(index), 0
    for run in range(80):
        assert not any(take(ids, digests(*range(run * 20, run * 20 + 20)), START + run))
        checkpoint(ids, index, START + run)
        merges += merge_all(ids)
    assert merges >= 10
    with index.reading() as txn:
        assert len(list(txn.keys(key(Family.DEDUPE_RUN)))) <= 24
    for known in (ids, EventIds(index)):
        asked = list(range(1_700))
        random.Random(7).shuffle(asked)
        assert take(known, digests(*asked), START) == [n < 1_600 for n in asked]


def test_an_answer_does_not_change_while_runs_are_merged(index: Environment) -> None:
    ids = EventIds(index)
    for run in range(8):
        take(ids, digests(run), START)
        checkpoint(ids, index, START)
    (mergeable,) = ids.mergeable()
    assert len(mergeable) == 8
    merged = ids.runs.merge(mergeable)
    assert take(ids, digests(*range(8)), START) == [True] * 8
    ids.runs.merged(mergeable, merged)
    assert take(ids, digests(*range(8)), START) == [True] * 8
    ids.runs.discard(mergeable)
    assert take(ids, digests(*range(9)), START) == [*[True] * 8, False]


def test_ids_expire_after_the_horizon(index: Environment) -> None:
    ids = EventIds(index, horizon_days=30)
    take(ids, digests("old"), START)
    checkpoint(ids, index, START)
    take(ids, digests("new"), START + MICROS_PER_DAY)
    checkpoint(ids, index, START + 30 * MICROS_PER_DAY)
    assert take(ids, digests("old"), START + 30 * MICROS_PER_DAY) == [True]
    checkpoint(ids, index, START + 30 * MICROS_PER_DAY + 1)
    assert take(ids, digests("old", "new"), START + 30 * MICROS_PER_DAY + 1) == [False, True]
    with index.reading() as txn:
        assert len(list(txn.keys(key(Family.DEDUPE_BLOCK)))) == 1


def test_runs_far_apart_in_time_are_not_merged(index: Environment) -> None:
    """A merged run is forgotten as a whole, so it spans a tenth of the horizon at most."""
    ids = EventIds(index, horizon_days=30)
    for day in range(16):
        take(ids, digests(day), START + day * MICROS_PER_DAY)
        checkpoint(ids, index, START + day * MICROS_PER_DAY)
    assert ids.mergeable() == []


def test_a_checkpoint_that_did_not_commit_keeps_ids_in_memory(index: Environment) -> None:
    ids = EventIds(index)
    take(ids, digests("a"), START)
    ids.prepare()
    ids.write(WriteBuffer(), Stamp(START, START))
    assert take(ids, digests("a", "b"), START) == [True, False]
    ids.rollback()
    assert take(ids, digests("a", "b"), START) == [True, True]
    checkpoint(ids, index, START)
    assert take(EventIds(index), digests("a", "b"), START) == [True, True]


def test_accounts_share_no_run_and_expire_apart(index: Environment) -> None:
    ids = EventIds(index)
    for account in (1, 2):
        take(ids, digests("early"), START, account=account, newest_event=START)
    checkpoint(ids, index, START)
    for account in (1, 2):
        take(ids, digests("late"), START, account=account, newest_event=START + 5)
    checkpoint(ids, index, START)
    ids.expire(1, START + 5)
    # A batch that is sent again within a day is known, however old its events are.
    assert take(ids, digests("early", "late"), START + MICROS_PER_DAY, account=1) == [True, True]
    # Then not, also before a checkpoint has dropped the run: a replay that meets the index of a later
    # checkpoint decides alike.
    later = START + MICROS_PER_DAY + 1
    assert take(ids, digests("early", "late"), later, account=1, newest_event=START + 9) == [False, True]
    assert take(ids, digests("early", "late"), later, account=2) == [True, True]
    checkpoint(ids, index, later)
    ids.expire(1, START + 9)
    checkpoint(ids, index, later)
    with index.reading() as txn:
        records = [
            msgspec.msgpack.decode(value, type=RunRecord) for _, value in txn.scan(key(Family.DEDUPE_RUN))
        ]
    assert sorted((record.account, record.newest_event, record.count) for record in records) == [
        (1, START + 9, 1),
        (2, START, 1),
        (2, START + 5, 1),
    ]


def test_ids_from_a_clock_ahead_do_not_expire_early(
    index: Environment,
) -> None:
    ids = EventIds(index, horizon_days=30)
    ahead = START + 400 * MICROS_PER_DAY
    ids.take(1, digests("by a clock ahead"), START, Stamp(ahead, START))
    with index.writing() as txn:
        ids.prepare()
        ids.write(txn, Stamp(ahead, START))
    ids.commit()
    take(ids, digests("by the right one"), START + 1)
    checkpoint(ids, index, START + 1)
    later = START + 30 * MICROS_PER_DAY
    assert take(ids, digests("by a clock ahead", "by the right one"), later) == [True, True]


def test_runs_of_older_builds_hold_ids_of_all_accounts(index: Environment) -> None:
    ids = EventIds(index)
    take(ids, digests("a"), START, account=0)
    checkpoint(ids, index, START)
    assert take(EventIds(index), digests("a"), START, account=7) == [True]


# --- requests -----------------------------------------------------------------------------------------------


def checkpoint_requests(requests: Requests, index: Environment, arrival: Micros) -> None:
    with index.writing() as txn:
        requests.prepare()
        requests.write(txn, arrival)
    requests.commit()


def test_a_request_is_answered_again_within_the_horizon(index: Environment) -> None:
    requests = Requests(index, horizon_hours=24)
    answer = Appended(7, 3, 1)
    requests.add(1, "r", START, answer)
    for _ in range(2):
        assert requests.find(1, "r", START + 24 * MICROS_PER_HOUR) == answer
        assert requests.find(1, "r", START + 24 * MICROS_PER_HOUR + 1) is None
        assert requests.find(2, "r", START) is None
        assert requests.find(1, "s", START) is None
        checkpoint_requests(requests, index, START)
        requests = Requests(index, horizon_hours=24)


def test_expired_answers_are_deleted_unless_renewed(index: Environment) -> None:
    requests = Requests(index, horizon_hours=1)
    for request_id in ("once", "twice", "again"):
        requests.add(1, request_id, START, Appended(1, 1, 0))
    checkpoint_requests(requests, index, START)
    later = START + 2 * MICROS_PER_HOUR
    requests.add(1, "twice", later, Appended(2, 1, 0))
    checkpoint_requests(requests, index, later)
    assert requests.find(1, "twice", later) == Appended(2, 1, 0)
    with index.reading() as txn:
        assert len(list(txn.keys(key(Family.REQUEST)))) == 1
        assert len(list(txn.keys(key(Family.REQUEST_ARRIVAL)))) == 1
