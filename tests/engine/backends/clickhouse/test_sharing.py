"""Batches of callers that wait share the inserts into a cluster, and count as if each came alone."""

from __future__ import annotations

import functools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.backends.base import Appended, Contains, Count, EventRecord, Record
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.gateway import sharing_writer
from engine.backends.clickhouse.server import Server
from engine.backends.local.backend import LocalBackend
from engine.backends.local.storage.dedupe import EventIds
from engine.criteria.model import Equals
from engine.errors import DataLoss, StoreUnavailable
from engine.plan.model import AttributeMatch, Universe
from tests.conformance.site import ACCOUNT, NOON, SHOP, WEB, event, plan_of, update
from tests.engine.backends.clickhouse.test_store import opened, rows, users
from tests.harness import eventually

pytestmark = pytest.mark.usefixtures("in_whole_runs_only")

CALLERS = 16
OTHER = "accounts/other"

Batch = Callable[[], Appended]


@pytest.fixture
def backend(url: str) -> Iterator[ClickHouseBackend]:
    made = opened(url)
    yield made
    made.close()


class Inserts:
    """What a backend inserts: (table, token) → number of rows. `before` is called with each table first."""

    def __init__(self, backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[tuple[str, str], int] = {}
        self.before: Callable[[str], None] = lambda table: None
        for replica in backend._cluster.replicas():
            monkeypatch.setattr(replica.server, "insert", self._noting(replica.server))

    def _noting(self, server: Server) -> Callable[[str, Sequence[Sequence[Any]], str], None]:
        insert = server.insert

        def noted(table: str, columns: Sequence[Sequence[Any]], token: str) -> None:
            self.before(table)
            insert(table, columns, token)
            self.made[table, token] = len(columns[0])

        return noted


@contextmanager
def held_up(backend: ClickHouseBackend, callers: int) -> Iterator[None]:
    """Lets the callers that begin in the block wait for each other, so that they go on together."""
    with backend._writer.paused():
        yield
        eventually(lambda: len(backend._writer._waiting) == callers)


def append(
    backend: ClickHouseBackend, *records: Record, account: str = ACCOUNT, request_id: str = ""
) -> Batch:
    """A caller's batch."""
    return functools.partial(backend.append, account, records, request_id=request_id)


def together(backend: ClickHouseBackend, batches: Sequence[Batch]) -> list[Appended | Exception]:
    """What each of some callers gets that call at once, in the order in which they came."""
    got: dict[int, Appended | Exception] = {}

    def call(number: int) -> None:
        try:
            got[number] = batches[number]()
        except Exception as error:
            got[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(batches))]
    with held_up(backend, len(batches)):
        for number, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda: len(backend._writer._waiting) >= number)  # noqa: B023 (called at once)
    for thread in threads:
        thread.join()
    return [got[number] for number in range(len(batches))]


def test_callers_that_wait_share_one_insert_a_table(
    backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserts = Inserts(backend, monkeypatch)
    batches = [
        append(
            backend,
            event(f"u{n}", event_id="same"),
            update(f"u{n}", plan="gold"),
            account=OTHER if n % 4 == 3 else ACCOUNT,
        )
        for n in range(CALLERS)
    ]
    answers = together(backend, batches)
    assert {table: count for (table, _), count in inserts.made.items()} == {
        "events": 2,
        "facts": CALLERS,
        "seen": CALLERS,
    }
    # The id is new once in each account, to who came first.
    assert [(a.accepted, a.duplicates) for a in answers if isinstance(a, Appended)] == [
        (2, 0) if n in (0, 3) else (1, 1) for n in range(CALLERS)
    ]
    assert {a.revision for a in answers if isinstance(a, Appended)} == {backend.revision()}
    assert users(backend) == {f"u{n}" for n in range(CALLERS) if n % 4 != 3}


def test_later_batches_of_a_shared_insert_win(backend: ClickHouseBackend) -> None:
    together(backend, [append(backend, update("ada", plan=f"p{n}")) for n in range(CALLERS)])
    profile = backend.profile(ACCOUNT, "ada")
    assert profile is not None
    assert profile.attributes == {SHOP: {"plan": (NOON, f"p{CALLERS - 1}")}}


def test_a_request_that_comes_twice_at_once_is_taken_once(backend: ClickHouseBackend) -> None:
    batches = [append(backend, event(f"u{n}"), request_id=f"r{n % 5}") for n in range(CALLERS)]
    answers = together(backend, batches)
    assert [a.repeated for a in answers if isinstance(a, Appended)] == [n >= 5 for n in range(CALLERS)]
    assert users(backend) == {f"u{n}" for n in range(5)}


@pytest.mark.parametrize(("limit", "value"), [("SHARED_ROWS_MAX", 6), ("SHARED_BYTES_MAX", 600)])
def test_shared_inserts_are_bounded(
    backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(sharing_writer, limit, value)
    inserts = Inserts(backend, monkeypatch)
    sizes = [1, 2, 3, 1, 9, 1, 1, 2, 2, 2]
    batches = [
        append(backend, *(event(f"u{n}-{each}") for each in range(size))) for n, size in enumerate(sizes)
    ]
    together(backend, batches)
    made = [count for (table, _), count in inserts.made.items() if table == "events"]
    assert sum(made) == sum(sizes)
    assert 1 < len(made) < len(sizes)
    if limit == "SHARED_ROWS_MAX":
        assert made == [6, 1, 9, 6, 2]


def test_an_erasure_between_batches_keeps_its_place(backend: ClickHouseBackend) -> None:
    batches: list[Batch] = [
        append(backend, event("ada"), event("bob")),
        functools.partial(backend.erase, ACCOUNT, ["ada", "bob"]),
        append(backend, event("bob")),
    ]
    answers = together(backend, batches)
    assert [a.accepted for a in answers if isinstance(a, Appended)] == [2, 2, 1]
    assert users(backend) == {"bob"}


# --- failures -----------------------------------------------------------------------------------------------


def test_a_shared_insert_that_failed_half_way_is_added_once_later(
    backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is answered before all is there, and who asks again gets the answer."""
    inserts = Inserts(backend, monkeypatch)
    fails = threading.Event()
    fails.set()

    def failing(table: str) -> None:
        if table == "seen" and fails.is_set():
            raise StoreUnavailable("it fails")

    inserts.before = failing
    batches = [append(backend, event(f"u{n}"), request_id=f"r{n}") for n in range(CALLERS)]
    answers = together(backend, batches)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert users(backend) == set()
    with pytest.raises(StoreUnavailable):
        backend.append(ACCOUNT, [event("never")])
    fails.clear()
    eventually(lambda: backend.write_fault() is None, within_s=30)
    again = [batch() for batch in batches]
    assert [(each.accepted, each.repeated) for each in again] == [(1, True)] * CALLERS
    assert rows(backend, "events") == rows(backend, "seen") == CALLERS
    assert users(backend) == {f"u{n}" for n in range(CALLERS)}


class ProcessEnds(BaseException):
    """The gateway ends."""


@pytest.mark.parametrize("ended_in", ["events", "facts", "seen"])
def test_a_process_that_ends_in_a_shared_insert_repeats_it(
    url: str, monkeypatch: pytest.MonkeyPatch, ended_in: str
) -> None:
    """1. A checkpoint is before it. 2. One table is filled, another is not. 3. The next process repeats the
    same inserts, and callers that send again are recognised.
    """
    backend = opened(url)
    backend.append(ACCOUNT, [event("first")])
    backend.checkpoint()
    inserts = Inserts(backend, monkeypatch)

    def ending(table: str) -> None:
        if table == ended_in:
            raise ProcessEnds

    inserts.before = ending
    batches: list[list[Record]] = [
        [event(f"u{n}", event_id=f"{n}"), update(f"u{n}", plan="gold")] for n in range(CALLERS)
    ]
    together(backend, [append(backend, *batch) for batch in batches])
    monkeypatch.setattr(ClickHouseBackend, "_checkpoint", lambda self: 0)
    backend.close()
    monkeypatch.undo()
    backend = opened(url)
    try:
        assert users(backend) == {"first", *(f"u{n}" for n in range(CALLERS))}
        again = [backend.append(ACCOUNT, batch) for batch in batches]
        assert [(each.accepted, each.duplicates) for each in again] == [(1, 1)] * CALLERS
        assert rows(backend, "events") == CALLERS + 1
    finally:
        backend.close()


def test_only_batches_with_unknown_duplicates_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored event ids are damaged: a batch with ids is refused, and others of the same insert are not. A
    restart decides alike.
    """
    backend = opened(url)

    def damaged(self: EventIds, account: int, digests: Sequence[bytes], settled: int) -> frozenset[bytes]:
        raise DataLoss("a block of event ids is damaged")

    monkeypatch.setattr(EventIds, "_in_runs", damaged)
    batches = [append(backend, event(f"u{n}", event_id="1" if n % 2 else "")) for n in range(6)]
    answers = together(backend, batches)
    assert [isinstance(answer, DataLoss) for answer in answers] == [False, True] * 3
    assert users(backend) == {"u0", "u2", "u4"}
    monkeypatch.setattr(ClickHouseBackend, "_checkpoint", lambda self: 0)
    backend.close()
    backend = opened(url)
    assert users(backend) == {"u0", "u2", "u4"}
    assert rows(backend, "events") == 3
    monkeypatch.undo()
    backend.close()


# --- many callers -------------------------------------------------------------------------------------------


def test_random_batches_of_many_callers_count_as_one_after_the_other(
    backend: ClickHouseBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Event ids, requests and users overlap, in two accounts. The answers add up, and the store is the same
    as an embedded one that took the batches in the order of their revisions.
    """
    seed = random.randrange(2**32)
    inserts = Inserts(backend, monkeypatch)
    taken: list[tuple[int, int, str, list[Record], Appended]] = []
    lock = threading.Lock()

    def call(caller: int) -> None:
        source = random.Random(f"{seed} {caller}")
        for number in range(12):
            account = source.choice((ACCOUNT, OTHER))
            records = [_record(source, caller * 100 + number) for _ in range(source.choice((1, 2, 20)))]
            request_id = f"r{source.randrange(40)}" if source.random() < 0.3 else ""
            answer = backend.append(account, records, request_id=request_id)
            with lock:
                taken.append((answer.revision, caller, account, records, answer))

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == CALLERS * 12, f"seed {seed}"
    by_table = Counter(table for table, _ in inserts.made)
    assert by_table["seen"] < CALLERS * 12 / 2, "inserts are not shared"

    new = [each for each in taken if not each[-1].repeated]
    ids = {
        (account, record.event_id)
        for _, _, account, records, _ in new
        for record in records
        if isinstance(record, EventRecord) and record.event_id
    }
    sent = [record for *_, records, _ in new for record in records]
    plain = sum(not (isinstance(record, EventRecord) and record.event_id) for record in sent)
    assert sum(answer.accepted for *_, answer in new) == len(ids) + plain, f"seed {seed}"
    embedded = LocalBackend.open(tmp_path / "embedded")
    for _, _, account, records, _ in sorted(new, key=lambda each: each[0]):
        embedded.append(account, records)
    tests = [AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals(f"p{n}")) for n in range(4)]
    plan = msgspec.structs.replace(plan_of(Universe(inputs=(WEB,)), *tests), roots=tuple(range(5)))
    assert backend.execute(plan, Count()).sizes == embedded.execute(plan, Count()).sizes, f"seed {seed}"
    everyone = tuple(f"u{n}" for n in range(40))
    assert backend.execute(plan, Contains(everyone)).flags == embedded.execute(plan, Contains(everyone)).flags
    embedded.close()


def _record(source: random.Random, number: int) -> Record:
    """An event, or an update at a time that no other caller's has: it is the same in whatever order."""
    user = f"u{source.randrange(40)}"
    if source.random() < 0.5:
        return event(user, event_id=source.choice(("", f"{user}-{source.randrange(5)}")))
    return update(user, time=NOON + number, plan=f"p{source.randrange(4)}")
