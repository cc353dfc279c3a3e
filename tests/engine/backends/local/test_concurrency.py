"""Concurrent readers, writers, checkpoints and refreshes: no reader sees less than was acknowledged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from engine.backends.base import MEMBER, Contains, Count, Members
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.plan.model import EventMatch, EventSelection, Intersection, Interval, Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, WEB, event, plan_of, update

BATCHES = 40
BATCH_USERS = 30
SETTINGS = LocalSettings(
    groups=2, checkpoint_records=100, checkpoint_s=0.01, apply_chunk_records=7, page_cache_bytes=50_000
)
BUYERS = plan_of(
    Universe(inputs=(WEB,)),
    EventMatch(selection=EventSelection(inputs=(WEB,), name="buy"), intervals=(Interval(low=1.0),)),
    Intersection(operands=(0, 1)),
)


class Crowd:
    """Threads that repeat a task until stopped, and their errors."""

    def __init__(self, *jobs: Callable[[], None]) -> None:
        self._stopped = threading.Event()
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._repeat, args=(job,)) for job in jobs]
        for thread in self._threads:
            thread.start()

    def _repeat(self, job: Callable[[], None]) -> None:
        try:
            while not self._stopped.is_set():
                job()
        except BaseException as error:
            self.errors.append(error)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def test_concurrent_reads_writes_checkpoints_and_refreshes(tmp_path: Path) -> None:
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    acknowledged = 0

    def count() -> None:
        least = acknowledged
        size = backend.execute(BUYERS, Count()).sizes[0]
        assert least <= size <= acknowledged + BATCH_USERS

    def ask() -> None:
        least = acknowledged
        flags = backend.execute(BUYERS, Contains(("nobody", "user-0", f"user-{least - 1}"))).flags
        assert flags[0] == (False,)
        assert least == 0 or flags[1:] == ((True,), (True,))

    def refresh() -> None:
        least = acknowledged
        (membership,) = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
        assert membership.size >= least
        assert membership.last_sequence == membership.entered_total == membership.size

    crowd = Crowd(count, ask, refresh, lambda: backend.documents.commit({"a": b"1"}))
    for batch in range(BATCHES):
        users = [f"user-{batch * BATCH_USERS + i}" for i in range(BATCH_USERS)]
        backend.append(ACCOUNT, [record for u in users for record in (event(u), update(u, plan=u))])
        acknowledged += BATCH_USERS
    crowd.stop()
    assert crowd.errors == []

    everybody = {f"user-{i}" for i in range(BATCHES * BATCH_USERS)}
    for _ in range(2):
        assert set(backend.execute(BUYERS, Members()).user_ids) == everybody
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
        changes = backend.changes(AUDIENCE, 0, 10_000).changes
        assert [change.sequence for change in changes] == list(range(1, len(everybody) + 1))
        assert {change.user_id for change in changes} == everybody
        backend.close()
        backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.close()


def test_published_memberships_are_read_while_the_store_is_held(tmp_path: Path) -> None:
    """Users are in memory and memberships published, also after a restart: no answer waits for the lock."""
    settings = LocalSettings(groups=2, checkpoint_s=3_600.0)
    backend = LocalBackend.open(tmp_path / "store", settings=settings)
    backend.append(ACCOUNT, [event(f"user-{i}") for i in range(1_000)])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
    for _ in range(2):
        found: list[object] = []

        def ask(backend: LocalBackend = backend, found: list[object] = found) -> None:
            published = backend.published(ACCOUNT)
            found.append([published.contains(AUDIENCE, user) for user in ("user-0", "user-999", "nobody")])
            flags = published.contains_many([AUDIENCE], [f"user-{i}" for i in range(1_000)])
            found.append(bool((flags == MEMBER).all()))

        with backend._index_lock, backend._state.locked():
            asking = threading.Thread(target=ask)
            asking.start()
            asking.join(30.0)
            assert found == [[True, True, False], True]
        backend.close()
        backend = LocalBackend.open(tmp_path / "store", settings=settings)
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
    backend.close()


def test_old_changes_are_deleted_record_by_record(tmp_path: Path) -> None:
    settings = LocalSettings(groups=1, checkpoint_s=3_600.0, changes_retained_max=25)
    backend = LocalBackend.open(tmp_path / "store", settings=settings)
    for batch in range(10):
        backend.append(ACCOUNT, [event(f"user-{batch}-{i}") for i in range(10)])
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
    membership = backend.membership(AUDIENCE)
    assert membership is not None
    assert (membership.first_sequence, membership.last_sequence, membership.size) == (71, 100, 100)
    assert [c.sequence for c in backend.changes(AUDIENCE, 70, 100).changes] == list(range(71, 101))
    backend.close()
