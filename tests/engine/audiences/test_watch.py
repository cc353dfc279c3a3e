"""Watching: ordered, unique, resumable, bookmarked; and how it ends."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator

import pytest

from engine.audiences.model import WatchChanges, WatchItem, WatchProgress, WatchSnapshot
from engine.backends.local.offline import adopt
from engine.errors import CursorExpired, FailedPrecondition, InvalidInput, NotFound
from engine.resources.records import Milestone
from engine.values import MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, JOURNEY, NOW, Site, did

TENTH = MICROS_PER_SECOND // 10


@pytest.fixture
def calculated(site: Site) -> tuple[Site, Milestone]:
    site.send([("u1", "a"), ("u2", "a")])
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    return site, milestone


def watch(site: Site, milestone: Milestone, cursor: int | None) -> Iterator[WatchItem]:
    return site.engine.live.watch(milestone.audience, cursor=cursor, progress_interval=TENTH)


def test_snapshot_then_mark_then_changes(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, None)
    snapshot, mark = next(items), next(items)
    assert isinstance(snapshot, WatchSnapshot)
    assert set(snapshot.user_ids) == {"u1", "u2"}
    assert isinstance(mark, WatchProgress)
    assert (mark.cursor, mark.as_of) == (2, NOW)
    site.send([("u3", "a")])
    site.clock.now += 7
    site.engine.live.refresh_all()
    item = next(items)
    assert isinstance(item, WatchChanges)
    assert [(c.sequence, c.user_id, c.entered, c.as_of) for c in item.changes] == [(3, "u3", True, NOW + 7)]


def test_any_cursor_leads_to_the_same_changes(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    for user_id in ("u3", "u4"):
        site.send([(user_id, "a")])
        site.engine.live.refresh_all()
    everything = site.backend.changes(milestone.audience, 0, 100).changes
    assert [change.sequence for change in everything] == [1, 2, 3, 4]
    for cursor in range(4):
        item = next(watch(site, milestone, cursor))
        assert item == WatchChanges(everything[cursor:])


def test_progress_marks_continue_without_changes(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, 2)
    first = next(items)
    site.clock.now = NOW + 60 * MICROS_PER_SECOND
    site.engine.live.refresh_all()
    second = next(items)
    assert isinstance(first, WatchProgress)
    assert (first.cursor, first.as_of) == (2, NOW)
    assert second == WatchProgress(2, NOW + 60 * MICROS_PER_SECOND, first.epoch)


def test_change_wakes_a_watcher(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = site.engine.live.watch(milestone.audience, cursor=2, progress_interval=3_600 * MICROS_PER_SECOND)
    found: list[WatchItem] = []
    thread = threading.Thread(target=lambda: found.append(next(items)))
    thread.start()
    site.send([("u3", "a")])
    site.engine.live.refresh_all()
    thread.join()
    (item,) = found
    assert isinstance(item, WatchChanges)
    assert [change.user_id for change in item.changes] == ["u3"]


def test_an_expired_cursor_names_the_oldest(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    site.send([("u3", "a")])
    site.engine.live.refresh_all()
    site.backend.trim_changes(milestone.audience, 2)
    with pytest.raises(CursorExpired) as expired:
        next(watch(site, milestone, 1))
    assert expired.value.metadata == {"oldest_cursor": "2"}
    assert isinstance(next(watch(site, milestone, 2)), WatchChanges)
    # A cursor from before a recalculation lies ahead of the new log.
    with pytest.raises(CursorExpired) as expired:
        next(watch(site, milestone, 99))
    assert expired.value.metadata == {"oldest_cursor": "2"}


def epoch_of(items: Iterator[WatchItem]) -> str:
    """The epoch of the next progress mark."""
    return next(item.epoch for item in items if isinstance(item, WatchProgress))


def test_a_cursor_of_another_epoch_is_expired_even_within_the_new_log(
    calculated: tuple[Site, Milestone],
) -> None:
    site, milestone = calculated
    epoch = epoch_of(watch(site, milestone, None))
    for _ in range(2):
        # The same epoch, also after a restart.
        items = site.engine.live.watch(milestone.audience, cursor=1, epoch=epoch, progress_interval=TENTH)
        assert isinstance(next(items), WatchChanges)
        assert epoch_of(items) == epoch
        site.engine.close()
        site.open()
        site.engine.live.refresh_all()
    running = site.engine.live.watch(milestone.audience, cursor=2, progress_interval=TENTH)
    assert epoch_of(running) == epoch
    # Calculated anew, with more changes than the cursor counts.
    site.engine.connections.deactivate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    site.send([("u3", "a"), ("u4", "a")])
    site.engine.connections.activate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    assert epoch_of(watch(site, milestone, None)) != epoch
    for items in (running, site.engine.live.watch(milestone.audience, cursor=1, epoch=epoch)):
        with pytest.raises(CursorExpired, match="start with a snapshot"):
            next(items)
    assert isinstance(next(watch(site, milestone, 1)), WatchChanges)


def test_a_store_of_another_identity_is_another_epoch(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    epoch = epoch_of(watch(site, milestone, None))
    site.engine.close()
    copied = site.directory.parent / "copied"
    shutil.copytree(site.directory, copied)
    adopt(copied)
    site.directory = copied
    site.open()
    site.engine.live.refresh_all()
    assert epoch_of(watch(site, milestone, None)) != epoch
    with pytest.raises(CursorExpired):
        next(site.engine.live.watch(milestone.audience, cursor=1, epoch=epoch))


def test_watch_ends_when_stopped(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    listening = [True, True, False]
    items = site.engine.live.watch(
        milestone.audience, cursor=0, progress_interval=TENTH, stopped=lambda: not listening.pop(0)
    )
    assert [type(item) for item in items] == [WatchChanges]


def test_a_milestone_names_its_audience(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    first = next(site.engine.live.watch(milestone.name))
    assert isinstance(first, WatchSnapshot)
    assert sorted(first.user_ids) == ["u1", "u2"]


def test_watching_an_uncalculated_audience_is_refused(site: Site) -> None:
    milestone = site.add("one", did("a"))
    for cursor in (None, 0):
        with pytest.raises(FailedPrecondition) as refused:
            watch(site, milestone, cursor)
        assert refused.value.reason == "CONNECTION_STATE"
    with pytest.raises(FailedPrecondition, match=milestone.audience):
        site.engine.live.watch(milestone.name)
    for none in (f"{ACCOUNT}/audiences/none", f"{JOURNEY}/milestones/none"):
        with pytest.raises(NotFound):
            site.engine.live.watch(none)
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(JOURNEY)
    assert [v.field for v in bad.value.violations] == ["audience"]
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(milestone.audience, cursor=-1)
    assert [v.field for v in bad.value.violations] == ["cursor"]
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(milestone.audience, progress_interval=0)
    assert [v.field for v in bad.value.violations] == ["progress_interval"]


def test_watch_waits_for_the_first_calculation(site: Site) -> None:
    site.send([("u1", "a")])
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    items = watch(site, milestone, 0)
    found: list[WatchItem] = []
    thread = threading.Thread(target=lambda: found.append(next(items)))
    thread.start()
    site.engine.live.refresh_all()
    thread.join()
    assert found == [WatchChanges(site.backend.changes(milestone.audience, 0, 10).changes)]


def test_watch_of_a_deleted_audience_ends_after_its_last_exits(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, 2)
    site.engine.milestones.delete_milestone(milestone.name)
    site.engine.live.refresh_all()
    item = next(items)
    assert isinstance(item, WatchChanges)
    assert sorted((c.user_id, c.entered) for c in item.changes) == [("u1", False), ("u2", False)]
    site.deliver(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    with pytest.raises(NotFound):
        next(items)


def test_deactivation_ends_the_watch(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, 0)
    assert isinstance(next(items), WatchChanges)
    site.engine.connections.deactivate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    with pytest.raises(FailedPrecondition):
        next(items)
