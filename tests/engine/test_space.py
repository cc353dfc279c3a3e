"""Disk space: a store at a steady rate stops growing, and slow readers do not make it grow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine import Engine
from engine.audiences import members
from engine.audiences.model import WatchMembers, WatchStart
from engine.backends.base import EventRecord
from engine.backends.base.upkeep import StoreFile
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.clock import Stamp
from engine.criteria.model import EventType
from engine.resources.records import Account
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did, items_of

DAY = MICROS_PER_DAY
FIRST_DAY = NOW // DAY * DAY
SETTINGS = LocalSettings(groups=1, checkpoint_s=3_600.0)
RETENTION_DAYS = 7
CHECKPOINTS_A_DAY = 3
ROWS_A_CHECKPOINT = 1_000
BATCHES_A_DAY = 12
ROWS_A_BATCH = 200


class SteadySite(Site):
    """A store that takes the same number of events every day."""

    backend: LocalBackend

    def open(self) -> None:
        self.backend = LocalBackend.open(self.directory, settings=SETTINGS)
        self.engine = Engine(self.backend, clock=self.clock)

    def live_through(self, days: range) -> None:
        """Days of events, a few of them late, with a checkpoint after each quarter of a day."""
        for quarter in range(days.start * CHECKPOINTS_A_DAY, days.stop * CHECKPOINTS_A_DAY):
            source = random.Random(quarter)
            end = FIRST_DAY + (quarter + 1) * DAY // CHECKPOINTS_A_DAY
            self.clock.now = end
            rows = [self._event(source, end) for _ in range(ROWS_A_CHECKPOINT)]
            assert not self.engine.ingest.events(ACCOUNT, rows).rejections
            self.engine.retention.run()
            self.checkpoint()

    def _event(self, source: random.Random, end: int) -> EventRecord:
        late = source.randrange(5 * DAY) if source.random() < 0.02 else 0
        return EventRecord(
            f"user-{source.randrange(2_000)}",
            WEB,
            f"event-{source.randrange(10)}",
            EventType.CUSTOM,
            end - 1 - source.randrange(DAY // CHECKPOINTS_A_DAY) - late,
            {"amount": source.randrange(10_000) / 100, "sku": f"sku-{source.randrange(200)}"},
        )

    def checkpoint(self) -> None:
        """Checkpoints until nothing is left to be rewritten."""
        self.backend.checkpoint()
        while self.backend.figures().is_purging:
            self.backend.checkpoint()

    def open_transactions(self) -> int:
        """How many read transactions of the index are open in this process."""
        table = self.backend._store.index._env.readers()
        return sum(line.split()[-1] != "-" for line in table.splitlines()[1:])

    def index(self) -> StoreFile:
        """Disk usage of the index."""
        return next(file for file in self.backend.figures().files if file.name == "index")


class BusySite(SteadySite):
    """A steady store that uses everything with a horizon."""

    def open(self) -> None:
        self.backend = LocalBackend.open(self.directory, settings=SETTINGS, clock=self.stamp)
        self.engine = Engine(self.backend, clock=self.clock)

    def stamp(self) -> Stamp:
        return Stamp(self.clock.now, self.clock.now)

    def live_through(self, days: range) -> None:
        for part in range(days.start * BATCHES_A_DAY, days.stop * BATCHES_A_DAY):
            source = random.Random(part)
            self.clock.now = end = FIRST_DAY + DAY + (part + 1) * DAY // BATCHES_A_DAY
            rows = []
            for number in range(ROWS_A_BATCH):
                time, event_id = end - 1 - source.randrange(DAY), f"{part}-{number}"
                rows.append(msgspec.structs.replace(self._event(source, end), time=time, event_id=event_id))
            assert not self.engine.ingest.events(ACCOUNT, rows, f"request-{part}").rejections
            self.engine.retention.run()
            self.engine.live.refresh_all()
            self.deliver(f"{ACCOUNT}/connections/sending", limit=1_000)
            self.checkpoint()

    def kinds(self) -> dict[str, int]:
        """Bytes by kind of data."""
        return {each.kind: each.bytes for each in self.backend.figures().kinds}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SteadySite]:
    site = SteadySite(tmp_path / "store")
    retention = Account(name=ACCOUNT, event_retention=RETENTION_DAYS * DAY)
    site.engine.accounts.update_account(retention, {"event_retention"})
    yield site
    site.engine.close()


def test_a_store_of_a_steady_week_stops_growing(site: SteadySite) -> None:
    """35 days with a retention of a week: what the first two took is enough for all that follow."""
    rows_a_day = CHECKPOINTS_A_DAY * ROWS_A_CHECKPOINT
    site.live_through(range(14))
    before = site.index()
    site.live_through(range(14, 35))
    after = site.index()
    assert after.file_bytes <= 1.15 * before.file_bytes
    assert after.used_bytes <= 1.15 * before.used_bytes
    # Seven days count, up to two more are kept, and a part may be a quarter of what is kept no more.
    assert RETENTION_DAYS * rows_a_day <= site.backend.stats().events <= (RETENTION_DAYS + 3) * rows_a_day
    (names, last) = _events_and_days(site)
    assert names == 10
    assert last == 34


def test_every_kind_of_a_steady_store_stops_growing(tmp_path: Path) -> None:
    """Nineteen days with a retention of four: events with ids, batches with request ids, and an audience that
    users enter and leave. Each kind takes on day 19 what it took on day 7.
    """
    site = BusySite(tmp_path / "store")
    site.engine.accounts.update_account(Account(name=ACCOUNT, event_retention=4 * DAY), {"event_retention"})
    site.connect(site.add("lately", did("event-1", days=1)))
    site.live_through(range(7))
    before = site.kinds()
    site.live_through(range(7, 19))
    after = site.kinds()
    site.engine.close()
    # Records of resources hold the size history, which has its own horizons: two weeks and 400 days.
    assert after.pop("resources") < 20_000
    growth = {kind: bytes - before[kind] for kind, bytes in after.items()}
    assert all(grown <= 0.05 * before[kind] + 50 for kind, grown in growth.items()), (before, growth)
    assert {"events", "event ids", "request ids", "change logs"} <= {k for k in before if before[k] > 1_000}


def _events_and_days(site: SteadySite) -> tuple[int, int]:
    """How many event names there are, and the last day that has any."""
    facts = site.backend.event_names(ACCOUNT, limit=100)
    assert all(found.first_time >= FIRST_DAY + (35 - RETENTION_DAYS - 2) * DAY for found in facts)
    return len(facts), max(found.last_time for found in facts) // DAY - FIRST_DAY // DAY


def test_slow_readers_do_not_retain_old_pages(site: SteadySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export, a walk through members and a watch, all halfway, while the store is checkpointed a hundred
    times.
    A transaction held open would make the file grow, which is tested too.
    """
    monkeypatch.setattr(members, "EXPORT_PAGE_USERS", 50)
    site.live_through(range(9))
    everyone = site.add("everyone", did("event-1"))
    site.connect(everyone)
    site.engine.live.refresh_all()
    # 1. Each has had its first page and holds it still.
    export = site.engine.members.export(everyone.name)
    first = next(export)
    walk = site.engine.members.list_members(everyone.name, page_size=50)
    watch = items_of(site.engine, WatchStart(everyone.audience))
    begun = [next(watch), next(watch)]
    size = site.index().file_bytes
    # 2. A hundred checkpoints rewrite the index several times over.
    site.live_through(range(9, 43))
    assert site.index().file_bytes <= 1.25 * size
    assert site.open_transactions() == 0
    # 3. They go on from where they were.
    assert len(first.user_ids) == 50
    assert walk.next_page_token
    assert isinstance(begun[1].update, WatchMembers)
    assert next(export).user_ids
    token = walk.next_page_token
    assert site.engine.members.list_members(everyone.name, page_size=50, page_token=token).user_ids
    assert next(watch) is not None
    # 4. With a transaction held open, a fifth of that is enough.
    size = site.index().file_bytes
    with site.backend._store.index.reading():
        assert site.open_transactions() == 1
        site.live_through(range(43, 50))
    assert site.index().file_bytes > 1.5 * size
