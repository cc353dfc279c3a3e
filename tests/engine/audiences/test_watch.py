"""Watching: ordered, unique, resumable, bookmarked; and how it ends."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator

import pytest

from engine.audiences.model import (
    WatchBegin,
    WatchChanges,
    WatchEnd,
    WatchItem,
    WatchMembers,
    WatchProgress,
    WatchStart,
    WatchUpdate,
)
from engine.backends.base import Change, epoch_of
from engine.backends.local.offline import adopt
from engine.errors import CursorExpired, FailedPrecondition, InvalidInput, NotFound
from engine.resources.records import Milestone
from engine.values import MICROS_PER_SECOND, Micros
from tests.engine.site import ACCOUNT, JOURNEY, NOW, Site, did, items_of

TENTH = MICROS_PER_SECOND // 10
HOUR = 3_600 * MICROS_PER_SECOND


@pytest.fixture
def calculated(site: Site) -> tuple[Site, Milestone]:
    site.send([("u1", "a"), ("u2", "a")])
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    return site, milestone


def current_epoch(site: Site, milestone: Milestone) -> str:
    """The epoch of the stored membership; "" before there is one."""
    membership = site.backend.membership(milestone.audience)
    return "" if membership is None else epoch_of(site.backend.store_id, membership)


def watch(
    site: Site,
    milestone: Milestone,
    cursor: int | None,
    epoch: str | None = None,
    progress_interval: Micros = TENTH,
) -> Iterator[WatchUpdate]:
    """The updates after a cursor of an epoch, by default the current one."""
    epoch = current_epoch(site, milestone) if epoch is None else epoch
    start = WatchStart(milestone.audience, cursor, epoch)
    return (item.update for item in items_of(site.engine, start, progress_interval))


def test_snapshot_then_mark_then_changes(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, None)
    begin, members = next(items), next(items)
    assert begin == WatchBegin(2, NOW)
    assert isinstance(members, WatchMembers)
    assert set(members.user_ids) == {"u1", "u2"}
    assert [next(items), next(items)] == [WatchEnd(2, NOW), WatchProgress(2, NOW)]
    site.send([("u3", "a")])
    site.clock.now += 7
    site.engine.live.refresh_all()
    assert next(items) == WatchChanges((Change(3, "u3", True, NOW + 7, True),))


def test_changes_during_a_snapshot_complete_it(
    calculated: tuple[Site, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them was read with the members, the other was not; no instant ends before the snapshot does."""
    monkeypatch.setattr("engine.audiences.watch.SNAPSHOT_PAGE_USERS", 1)
    site, milestone = calculated
    items = watch(site, milestone, None)
    assert next(items) == WatchBegin(2, NOW)
    first = next(items)
    assert isinstance(first, WatchMembers)
    # The first page is read: its user exits, and one that no later page has enters.
    site.engine.ingest.erase(ACCOUNT, first.user_ids)
    site.send([("u3", "a")])
    site.clock.now += 7
    site.engine.live.refresh_all()
    found = set(first.user_ids)
    for update in items:
        match update:
            case WatchMembers(user_ids):
                found.update(user_ids)
            case WatchChanges(changes):
                assert not any(change.last_of_instant for change in changes)
                for change in changes:
                    (found.add if change.entered else found.discard)(change.user_id)
            case _:
                break
    assert update == WatchEnd(4, NOW + 7)
    assert found == {"u1", "u2", "u3"} - set(first.user_ids)


def test_the_last_change_of_an_instant_is_marked(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    for number in range(3):
        site.send([(f"v{number}", "a"), (f"w{number}", "a")])
        site.clock.now += 1
        site.engine.live.refresh_all()
    update = next(watch(site, milestone, 0))
    assert isinstance(update, WatchChanges)
    assert [change.sequence for change in update.changes if change.last_of_instant] == [2, 4, 6, 8]
    # Also when an instant is split.
    assert [c.last_of_instant for c in site.backend.changes(milestone.audience, 2, 1).changes] == [False]
    assert [c.last_of_instant for c in site.backend.changes(milestone.audience, 3, 1).changes] == [True]


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
    assert first == WatchProgress(2, NOW)
    assert second == WatchProgress(2, NOW + 60 * MICROS_PER_SECOND)


def test_change_wakes_a_watcher(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = watch(site, milestone, 2, progress_interval=HOUR)
    found: list[WatchUpdate] = []
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
    assert expired.value.metadata == {"oldest_cursor": "2", "epoch": current_epoch(site, milestone)}
    assert isinstance(next(watch(site, milestone, 2)), WatchChanges)
    # A cursor from before a recalculation lies ahead of the new log.
    with pytest.raises(CursorExpired) as expired:
        next(watch(site, milestone, 99))
    assert expired.value.metadata == {"oldest_cursor": "2", "epoch": current_epoch(site, milestone)}


def test_a_cursor_of_another_epoch_is_expired_even_within_the_new_log(
    calculated: tuple[Site, Milestone],
) -> None:
    site, milestone = calculated
    epoch = current_epoch(site, milestone)
    for _ in range(2):
        # The same epoch, also after a restart.
        items = watch(site, milestone, 1, epoch)
        assert isinstance(next(items), WatchChanges)
        assert isinstance(next(items), WatchProgress)
        site.engine.close()
        site.open()
        site.engine.live.refresh_all()
    running = watch(site, milestone, 2, epoch)
    assert next(running) == WatchProgress(2, NOW)
    # Calculated anew, with more changes than the cursor counts.
    site.engine.connections.deactivate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    site.send([("u3", "a"), ("u4", "a")])
    site.engine.connections.activate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    assert current_epoch(site, milestone) != epoch
    for items in (running, watch(site, milestone, 1, epoch)):
        with pytest.raises(CursorExpired, match="start with a snapshot"):
            next(items)
    assert isinstance(next(watch(site, milestone, 1)), WatchChanges)


def test_a_fold_over_a_reactivation_is_never_wrong(calculated: tuple[Site, Milestone]) -> None:
    """A cursor without its epoch is refused: its number exists in the new log too."""
    site, milestone = calculated
    site.send([(f"u{n}", "a") for n in range(3, 6)])
    site.engine.live.refresh_all()
    site.engine.connections.deactivate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    site.engine.ingest.erase(ACCOUNT, [f"u{n}" for n in range(1, 6)])
    site.send([(f"v{n}", "a") for n in range(10)])
    site.engine.connections.activate(f"{ACCOUNT}/connections/sending")
    site.engine.live.refresh_all()
    with pytest.raises(CursorExpired, match="comes without its epoch") as expired:
        next(watch(site, milestone, 5, ""))
    assert expired.value.metadata == {"oldest_cursor": "0", "epoch": current_epoch(site, milestone)}
    update = next(watch(site, milestone, 0, ""))
    assert isinstance(update, WatchChanges)
    assert {change.user_id for change in update.changes} == {f"v{n}" for n in range(10)}
    renewed = items_of(site.engine, WatchStart(milestone.audience, 5, "an earlier one", renews=True))
    assert isinstance(next(renewed).update, WatchBegin)


def test_a_store_of_another_identity_is_another_epoch(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    epoch = current_epoch(site, milestone)
    site.engine.close()
    copied = site.directory.parent / "copied"
    shutil.copytree(site.directory, copied)
    adopt(copied)
    site.directory = copied
    site.open()
    site.engine.live.refresh_all()
    assert current_epoch(site, milestone) != epoch
    with pytest.raises(CursorExpired):
        next(watch(site, milestone, 1, epoch))


def test_a_stream_says_when_to_look_again_and_a_change_calls_before(
    calculated: tuple[Site, Milestone],
) -> None:
    """Nothing waits: a stream holds no thread, and no other audience's change calls it."""
    site, milestone = calculated
    other = site.add("two", did("b"))
    site.connect(other, "other")
    site.engine.live.refresh_all()
    calls: list[int] = []
    start = WatchStart(milestone.audience, 2, current_epoch(site, milestone))
    stream = site.engine.live.watch(start, progress_interval=HOUR, wake=lambda: calls.append(1))
    began = time.monotonic()
    assert stream.take() is None
    assert began + 1_700 < stream.due < time.monotonic() + 3_600
    site.send([("u9", "b")])
    site.engine.live.refresh_all()
    assert (calls, stream.take()) == ([], None)
    site.send([("u3", "a")])
    site.engine.live.refresh_all()
    assert calls == [1]
    item = stream.take()
    assert item is not None
    assert isinstance(item.update, WatchChanges)
    assert stream.take() is None
    stream.close()
    site.send([("u4", "a")])
    site.engine.live.refresh_all()
    assert calls == [1]


def test_a_milestone_names_its_audience(calculated: tuple[Site, Milestone]) -> None:
    site, milestone = calculated
    items = items_of(site.engine, WatchStart(milestone.name))
    begin, members = next(items), next(items)
    assert begin == WatchItem(milestone.audience, current_epoch(site, milestone), WatchBegin(2, NOW))
    assert isinstance(members.update, WatchMembers)
    assert sorted(members.update.user_ids) == ["u1", "u2"]


def test_watching_an_uncalculated_audience_is_refused(site: Site) -> None:
    milestone = site.add("one", did("a"))
    for cursor in (None, 0):
        with pytest.raises(FailedPrecondition) as refused:
            watch(site, milestone, cursor)
        assert refused.value.reason == "CONNECTION_STATE"
    with pytest.raises(FailedPrecondition, match=milestone.audience):
        site.engine.live.watch(WatchStart(milestone.name))
    for none in (f"{ACCOUNT}/audiences/none", f"{JOURNEY}/milestones/none"):
        with pytest.raises(NotFound):
            site.engine.live.watch(WatchStart(none))
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(WatchStart(JOURNEY))
    assert [v.field for v in bad.value.violations] == ["audience"]
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(WatchStart(milestone.audience, -1))
    assert [v.field for v in bad.value.violations] == ["cursor"]
    with pytest.raises(InvalidInput) as bad:
        site.engine.live.watch(WatchStart(milestone.audience), progress_interval=0)
    assert [v.field for v in bad.value.violations] == ["progress_interval"]


def test_watch_waits_for_the_first_calculation(site: Site) -> None:
    site.send([("u1", "a")])
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    items = watch(site, milestone, 0)
    found: list[WatchUpdate] = []
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
