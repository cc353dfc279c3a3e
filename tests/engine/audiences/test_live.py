"""Stored memberships follow data, time and definitions, across crashes and restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from engine import Engine
from engine.audiences.live import OLD_CHANGES_MICROS
from engine.audiences.model import SizeKind, SizeState
from engine.backends.base import Change, upkeep_of
from engine.backends.local.offline import restore
from engine.criteria.model import AllOf, Audience, Compare, Event, Not, Range
from engine.errors import CursorExpired, DataLoss, NotFound
from engine.limits import CHANGES_DAYS, ERASED_IDS_DAYS
from engine.resources.records import (
    Account,
    Closing,
    Connection,
    ConnectionState,
    Input,
    Journey,
    Milestone,
    Output,
)
from engine.resources.repository import Repository
from engine.resources.targets import Watch
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, APP, JOURNEY, NOW, WEB, WORKSPACE, Site, did
from tests.stores import settle

DAY = MICROS_PER_DAY


def changes(site: Site, milestone: Milestone, after: int = 0) -> list[tuple[str, bool]]:
    """Users who entered (True) or exited, in order."""
    page = site.backend.changes(milestone.audience, after, 10_000)
    return [(change.user_id, change.entered) for change in page.changes]


def edit(site: Site, milestone: Milestone, criteria: object) -> None:
    """Gives a milestone other criteria."""
    record = Milestone(name=milestone.name, audience="", criteria=criteria)  # type: ignore[arg-type]
    site.engine.milestones.update_milestone(record, {"criteria"})


def test_an_activated_audience_and_its_ancestors_are_calculated(site: Site) -> None:
    site.send([("u1", "a"), ("u1", "b"), ("u2", "a"), ("u3", "c")])
    top = site.add("top", did("a"))
    below = site.add("below", did("b"), top.name)
    beside = site.add("beside", None, top.name)
    site.connect(below)
    site.engine.live.refresh_all()
    assert site.stored(below) == {"u1"}
    assert site.stored(top) == {"u1", "u2"}
    assert not site.engine.live.calculated(beside.audience)
    assert site.backend.membership(beside.audience) is None


def retain(site: Site, days: int) -> None:
    """Sets the account's event retention in days."""
    record = Account(name=ACCOUNT, event_retention=days * DAY)
    site.engine.accounts.update_account(record, {"event_retention"})


@pytest.mark.parametrize("removing", [False, True])
def test_users_leave_when_their_last_event_leaves_the_retention(site: Site, removing: bool) -> None:
    """Without new events, exact to the microsecond, whether or not old events have been removed."""
    retain(site, 30)
    site.send([("u1", "a")], time=NOW - 29 * DAY)
    site.send([("u2", "a"), ("u2", "a")], time=NOW - 10 * DAY)
    ever, never = site.add("ever", did("a")), site.add("never", None)
    twice = Event(name="a", window=Range(start=NOW - 40 * DAY), test=Compare("greater_or_equal", 2.0))
    since = site.add("since", twice, ever.name)
    for name, milestone in (("one", ever), ("two", never), ("three", since)):
        site.connect(milestone, name)

    def look(instant: int, members: set[str]) -> None:
        site.clock.now = instant
        if removing:
            site.engine.retention.run()
        site.engine.live.refresh_all()
        assert site.stored(ever) == site.members(ever) == members
        assert site.stored(never) == site.members(never) == {"u1", "u2"} - members
        assert site.stored(since) == site.members(since) == members & {"u2"}
        assert [site.engine.members.check(ever.audience, user).member for user in ("u1", "u2")] == [
            user in members for user in ("u1", "u2")
        ]

    look(NOW, {"u1", "u2"})
    look(NOW + DAY, {"u1", "u2"})
    look(NOW + DAY + MICROS_PER_SECOND, {"u2"})
    look(NOW + 20 * DAY, {"u2"})
    look(NOW + 20 * DAY + MICROS_PER_SECOND, set())
    look(NOW + 23 * DAY, set())
    settle(site.backend)
    assert site.backend.stats().events == (0 if removing else 3)
    assert changes(site, ever)[2:] == [("u1", False), ("u2", False)]


def test_users_affected_by_removed_events_are_still_found(site: Site) -> None:
    retain(site, 30)
    site.send([("u1", "a")], time=NOW - 29 * DAY)
    ever = site.add("ever", did("a"))
    site.connect(ever)
    site.engine.live.refresh_all()
    assert site.stored(ever) == {"u1"}
    site.clock.now = NOW + 5 * DAY
    site.engine.retention.run()
    # No event is left that could tell who is to be looked at: everyone is, in the round after.
    for _ in range(2):
        site.engine.live.refresh_all()
    assert site.stored(ever) == set()
    assert changes(site, ever) == [("u1", True), ("u1", False)]


def test_changed_retention_changes_the_definition(site: Site) -> None:
    site.send([("u1", "a")], time=NOW - 50 * DAY)
    site.send([("u2", "a")], time=NOW - 20 * DAY)
    ever = site.add("ever", did("a"))
    site.connect(ever)
    for days, members in ((0, {"u1", "u2"}), (30, {"u2"}), (60, {"u1", "u2"}), (10, set()), (30, {"u2"})):
        retain(site, days)
        site.engine.live.refresh_all()
        assert site.stored(ever) == site.members(ever) == members
    # What has been removed does not come back with a longer retention, unless it is sent again.
    site.engine.retention.run()
    retain(site, 60)
    site.engine.live.refresh_all()
    assert site.stored(ever) == site.members(ever) == {"u2"}
    site.send([("u1", "a")], time=NOW - 50 * DAY)
    site.engine.live.refresh_all()
    assert site.stored(ever) == site.members(ever) == {"u1", "u2"}


def test_new_data_records_only_differences(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a")])
    top = site.add("top", did("a"))
    rest = site.add("rest", None)
    site.connect(top, "one")
    site.connect(rest, "two")
    site.engine.live.refresh_all()
    site.send([("u3", "other")])
    site.engine.live.refresh_all()
    site.send([("u3", "a")])
    site.engine.live.refresh_all()
    site.engine.live.refresh_all()
    assert sorted(changes(site, top)[:2]) == [("u1", True), ("u2", True)]
    assert changes(site, top)[2:] == [("u3", True)]
    assert changes(site, rest) == [("u3", True), ("u3", False)]


def test_users_leave_when_a_window_ends_without_new_events(site: Site) -> None:
    site.send([("u1", "a")], time=NOW - 29 * DAY)
    site.send([("u2", "a")], time=NOW - 10 * DAY)
    recent = site.add("recent", did("a", days=30))
    lapsed = site.add("lapsed", None)
    site.connect(recent, "one")
    site.connect(lapsed, "two")
    site.engine.live.refresh_all()
    site.clock.now = NOW + DAY - 1
    site.engine.live.refresh_all()
    assert site.stored(recent) == {"u1", "u2"}
    # (now - 30 days, now] no longer holds an event of exactly 30 days ago.
    site.clock.now = NOW + DAY + MICROS_PER_SECOND
    site.engine.live.refresh_all()
    assert site.stored(recent) == {"u2"}
    assert changes(site, lapsed) == [("u1", True)]
    assert changes(site, recent)[2:] == [("u1", False)]


def test_window_that_ends_while_the_service_is_down(site: Site) -> None:
    site.send([("u1", "a")], time=NOW - 29 * DAY)
    recent = site.add("recent", did("a", days=30))
    site.connect(recent)
    site.engine.live.refresh_all()
    site.engine.close()
    site.clock.now = NOW + 3 * DAY
    site.open()
    site.engine.live.refresh_all()
    assert changes(site, recent) == [("u1", True), ("u1", False)]


def test_edits_of_live_criteria_send_only_differences(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a"), ("u2", "b"), ("u3", "b")])
    milestone = site.add("one", did("a"))
    rest = site.add("rest", None)
    site.connect(milestone, "one")
    site.connect(rest, "two")
    site.engine.live.refresh_all()
    seen = len(changes(site, milestone))
    edit(site, milestone, did("b"))
    assert site.engine.live.current(milestone.audience) is None
    site.engine.live.refresh_all()
    assert sorted(changes(site, milestone, seen)) == [("u1", False), ("u3", True)]
    assert sorted(changes(site, rest)) == [("u1", True), ("u3", False), ("u3", True)]
    # A new display name does not change the definition.
    before = site.backend.membership(milestone.audience)
    renamed = Milestone(name=milestone.name, audience="", display_name="Renamed")
    site.engine.milestones.update_milestone(renamed, {"display_name"})
    site.engine.live.refresh_all()
    assert site.backend.membership(milestone.audience) == before


def test_moves_deletions_inputs_and_time_zones_count_as_edits(site: Site) -> None:
    site.send([("u1", "a"), ("u1", "b")])
    site.send([("u2", "b")], input=APP)
    first = site.add("first", did("a"))
    second = site.add("second", did("b"))
    site.connect(second)
    site.engine.live.refresh_all()
    assert site.stored(second) == {"u2"}
    site.engine.milestones.move_milestone(second.name, 0)
    site.engine.live.refresh_all()
    assert site.stored(second) == {"u1", "u2"}
    site.engine.milestones.move_milestone(first.name, 0)
    site.engine.live.refresh_all()
    site.engine.milestones.delete_milestone(first.name)
    site.engine.live.refresh_all()
    assert site.stored(second) == {"u1", "u2"}
    site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(WEB,)), {"inputs"})
    site.engine.live.refresh_all()
    assert site.stored(second) == {"u1"}
    assert changes(site, second) == [
        ("u2", True),
        ("u1", True),
        ("u1", False),
        ("u1", True),
        ("u2", False),
    ]


def test_a_new_input_widens_journeys_over_all_inputs(site: Site) -> None:
    everyone = site.add("everyone", AllOf())
    site.connect(everyone)
    site.engine.live.refresh_all()
    site.engine.accounts.create_input(WORKSPACE, "new", Input(name=""))
    site.send([("u1", "a")], input=f"{WORKSPACE}/inputs/new")
    site.engine.live.refresh_all()
    assert site.stored(everyone) == {"u1"}


def test_journeys_follow_the_audiences_they_name(site: Site) -> None:
    """Data, time and edits of the named audience's journey all reach the one that names it."""
    other = f"{ACCOUNT}/journeys/other"
    site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    site.send([("u1", "a"), ("u1", "z")], time=NOW - 29 * DAY)
    site.send([("u2", "z")])
    named = site.add("named", did("a", days=30))
    naming = site.add("naming", AllOf(criteria=(did("z"), Audience(name=named.audience))), journey=other)
    site.connect(naming)
    site.engine.live.refresh_all()
    assert site.stored(naming) == {"u1"}
    assert not site.engine.live.calculated(named.audience)
    site.send([("u2", "a")])
    site.engine.live.refresh_all()
    assert site.stored(naming) == {"u1", "u2"}
    site.clock.now = NOW + 2 * DAY
    site.engine.live.refresh_all()
    assert site.stored(naming) == {"u2"}
    edit(site, named, did("z"))
    site.engine.live.refresh_all()
    assert site.stored(naming) == {"u1", "u2"}


def test_unneeded_memberships_are_dropped(site: Site) -> None:
    site.send([("u1", "a"), ("u1", "b")])
    top = site.add("top", did("a"))
    left = site.add("left", did("b"), top.name)
    right = site.add("right", None, top.name)
    one, two = site.connect(left, "one"), site.connect(right, "two")
    site.engine.live.refresh_all()
    site.engine.connections.deactivate(one.name)
    site.engine.live.refresh_all()
    assert site.backend.membership(left.audience) is None
    assert site.backend.membership(top.audience) is not None
    site.engine.connections.delete_connection(two.name)
    site.engine.live.refresh_all()
    assert site.backend.membership(top.audience) is None
    assert site.engine.live.due() == ()
    site.engine.connections.activate(one.name)
    site.engine.live.refresh_all()
    assert changes(site, left) == [("u1", True)]


def test_failed_round_is_shown_and_other_journeys_continue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{ACCOUNT}/journeys/another"
    site.engine.journeys.create_journey(ACCOUNT, "another", Journey(name=""))
    site.send([("u1", "a")])
    broken, sound = site.add("one", did("a"), journey=other), site.add("one", did("a"))
    site.connect(broken, "first")
    site.connect(sound, "second")
    evaluate = site.backend._evaluate  # type: ignore[attr-defined]

    def failing(asked: Any, *rest: Any) -> None:
        if asked.scope == other:
            raise DataLoss("a value is corrupt")
        evaluate(asked, *rest)

    monkeypatch.setattr(site.backend, "_evaluate", failing)
    with pytest.raises(DataLoss):
        site.engine.live.refresh_all()
    assert site.stored(sound) == {"u1"}
    shown = site.engine.sizes.shown(broken.audience)
    assert (shown.kind, shown.size.state) == (SizeKind.CALCULATING, SizeState.FAILED)
    assert shown.size.failure == "a value is corrupt"
    monkeypatch.undo()
    site.engine.live.refresh_all()
    assert site.engine.sizes.shown(broken.audience).size.state is SizeState.EXACT


def test_membership_deactivated_before_a_crash_is_dropped_after_it(site: Site) -> None:
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.engine.connections.deactivate(connection.name)
    site.engine.close()
    site.open()
    assert site.backend.membership(milestone.audience) is not None
    site.engine.live.refresh_all()
    assert site.backend.membership(milestone.audience) is None


def test_a_faulted_connection_keeps_its_audience_calculated(site: Site) -> None:
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.engine.connections.mark_faulted(connection.name, "down")
    site.send([("u1", "a")])
    site.engine.live.refresh_all()
    assert site.deliver(connection.name) == []
    site.engine.connections.resume(connection.name)
    assert site.deliver(connection.name) == [("u1", True)]


def test_erased_users_exit_and_merged_users_count_once(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a"), ("u3", "b")])
    milestone = site.add("one", Not(criterion=did("b")))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.deliver(connection.name)
    site.engine.ingest.erase(ACCOUNT, ["u1"])
    site.engine.ingest.alias(ACCOUNT, "u3", "u2")
    site.engine.live.refresh_all()
    assert site.stored(milestone) == set()
    assert sorted(site.deliver(connection.name)) == [("u1", False), ("u2", False)]


def test_erased_ids_are_trimmed_after_delivery_and_horizon(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a")])
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.engine.ingest.erase(ACCOUNT, ["u1"])
    # Erasures have the time of the server, whatever clock the engine is given.
    erased_at = time.time_ns() // 1_000
    assert site.backend.erased_through(milestone.audience, erased_at + DAY) == 3
    assert site.backend.erased_through(milestone.audience, erased_at - DAY) == 0
    site.clock.now = erased_at + (ERASED_IDS_DAYS - 1) * DAY
    site.engine.live.refresh_all()
    assert changes(site, milestone, 2) == [("u1", False)]
    # The days are over, but the connection has not delivered the exit.
    site.clock.now = erased_at + (ERASED_IDS_DAYS + 1) * DAY
    site.engine.live.refresh_all()
    assert changes(site, milestone, 2) == [("u1", False)]
    assert ("u1", False) in site.deliver(connection.name)
    site.clock.now += OLD_CHANGES_MICROS
    site.engine.live.refresh_all()
    assert site.backend.erased_through(milestone.audience, site.clock.now) == 0
    with pytest.raises(CursorExpired) as raised:
        changes(site, milestone, 2)
    assert raised.value.metadata == {"oldest_cursor": "3"}
    assert changes(site, milestone, 3) == []


# --- deletion -----------------------------------------------------------------------------------------------


@pytest.fixture
def sending(site: Site) -> tuple[Site, Milestone, Connection]:
    site.send([("u1", "a"), ("u2", "a")])
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    return site, milestone, connection


def test_exits_are_delivered_before_a_deleted_audience_is_dropped(
    sending: tuple[Site, Milestone, Connection],
) -> None:
    site, milestone, connection = sending
    idle = Connection(name="", audience=milestone.audience, output=connection.output)
    site.engine.connections.create_connection(ACCOUNT, "idle", idle)
    assert sorted(site.deliver(connection.name)) == [("u1", True), ("u2", True)]
    site.engine.milestones.delete_milestone(milestone.name)
    # 1. The audience is gone for callers and the inactive connection with it.
    with pytest.raises(NotFound):
        site.engine.audiences.get(milestone.audience)
    with pytest.raises(NotFound):
        site.engine.connections.get_connection(f"{ACCOUNT}/connections/idle")
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 0
    # 2. New data do not bring anyone back.
    site.send([("u3", "a")])
    site.engine.live.refresh_all()
    (delivery,) = site.engine.deliveries.active()
    assert delivery.closing
    assert delivery.milestone.name == milestone.name
    assert sorted(site.deliver(connection.name)) == [("u1", False), ("u2", False)]
    # 3. With the last exit delivered the connection is gone, and the membership with the next round.
    with pytest.raises(NotFound):
        site.engine.connections.get_connection(connection.name)
    site.engine.live.refresh_all()
    assert site.backend.membership(milestone.audience) is None
    assert Repository(site.backend.documents).scan(Closing, "") == ()
    assert list(site.backend.documents.scan("sizes/")) == []
    # 4. No user is tracked for it any longer.
    site.send([("u4", "a")])
    assert site.backend.pending(JOURNEY) == 0
    # 5. Nothing is remembered of a journey that is deleted.
    site.engine.live.refresh_all()
    assert site.engine.live._states.find(JOURNEY) is not None
    site.engine.journeys.delete_journey(JOURNEY)
    site.engine.live.refresh_all()
    assert site.engine.live._states.find(JOURNEY) is None


@pytest.mark.parametrize("crash_after", ["delete", "exits", "half", "delivered"])
def test_crash_during_closing_loses_no_exit(
    sending: tuple[Site, Milestone, Connection], crash_after: str
) -> None:
    site, milestone, connection = sending

    def crash() -> None:
        site.engine.close()
        site.open()

    delivered = site.deliver(connection.name)
    site.engine.milestones.delete_milestone(milestone.name)
    if crash_after == "delete":
        crash()
    site.engine.live.refresh_all()
    if crash_after == "exits":
        crash()
    if crash_after == "half":
        (delivery,) = site.engine.deliveries.active()
        batch = site.engine.deliveries.pull(delivery.connection, 1)
        assert len(batch.changes) == 1
        site.engine.deliveries.advance(delivery.connection, batch.cursor)
        delivered += [(change.user_id, change.entered) for change in batch.changes]
        crash()
        site.engine.live.refresh_all()
    delivered += site.deliver(connection.name)
    if crash_after == "delivered":
        crash()
    site.engine.live.refresh_all()
    assert sorted(delivered) == [("u1", False), ("u1", True), ("u2", False), ("u2", True)]
    assert site.backend.membership(milestone.audience) is None
    assert site.engine.deliveries.active() == ()


def test_a_faulted_connection_of_a_deleted_audience_can_still_be_resumed(
    sending: tuple[Site, Milestone, Connection],
) -> None:
    site, milestone, connection = sending
    site.engine.connections.mark_faulted(connection.name, "down")
    site.engine.milestones.delete_milestone(milestone.name)
    site.engine.live.refresh_all()
    site.engine.live.refresh_all()
    assert site.engine.connections.get_connection(connection.name).state is ConnectionState.FAULTED
    site.engine.connections.resume(connection.name)
    assert sorted(site.deliver(connection.name)) == [
        ("u1", False),
        ("u1", True),
        ("u2", False),
        ("u2", True),
    ]


def test_an_activated_audience_deleted_before_it_was_calculated(site: Site) -> None:
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.milestones.delete_milestone(milestone.name)
    site.engine.live.refresh_all()
    with pytest.raises(NotFound):
        site.engine.connections.get_connection(connection.name)
    assert site.engine.live.due() == ()


# --- delivery -----------------------------------------------------------------------------------------------


def test_second_connection_gets_current_members_then_changes(site: Site) -> None:
    site.send([(f"u{n}", "a") for n in range(5)])
    milestone = site.add("one", did("a"))
    first = site.connect(milestone, "first")
    site.engine.live.refresh_all()
    assert len(site.deliver(first.name)) == 5
    site.backend.trim_changes(milestone.audience, 5)
    second = site.connect(milestone, "second").name
    # Two at a time: the snapshot goes on where it was, also after a restart.
    batches = [site.step(second, 2)]
    assert {change.sequence for change in batches[0].changes} == {5}
    site.send([("u9", "a")])
    site.engine.ingest.erase(ACCOUNT, ["u0"])
    site.engine.close()
    site.open()
    site.engine.live.refresh_all()
    while not batches[-1].ends:
        batches.append(site.step(second, 2))
    # It begins and ends once. The changes since its beginning complete it, and no instant ends before.
    assert [batch.begins for batch in batches] == [True] + [False] * (len(batches) - 1)
    changes = [change for batch in batches for change in batch.changes]
    assert {change.user_id for change in changes if change.sequence > 5} == {"u0", "u9"}
    assert not any(change.last_of_instant for change in changes)
    assert fold(changes) == {"u1", "u2", "u3", "u4", "u9"}
    assert len([change for change in changes if change.user_id == "u1"]) == 1
    assert site.step(second, 2).caught_up


def fold(changes: Iterable[Change]) -> set[str]:
    """The members that the changes lead to."""
    members: set[str] = set()
    for change in changes:
        (members.add if change.entered else members.discard)(change.user_id)
    return members


def test_a_restored_store_and_a_reactivation_begin_with_a_snapshot(site: Site) -> None:
    """A consumer that drops at the end of a snapshot who was not in it has the members, whatever it had."""
    site.send([(f"u{n}", "a") for n in range(5)])
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone).name
    site.engine.live.refresh_all()
    assert len(site.deliver(connection)) == 5
    # 1. Restored: another store, with the same records, connections and sequence numbers.
    backup = site.directory.parent / "backup"
    upkeep_of(site.backend).snapshot(backup)
    site.engine.ingest.erase(ACCOUNT, ["u0"])
    site.send([("v0", "a"), ("v1", "a")])
    site.engine.live.refresh_all()
    assert len(site.deliver(connection)) == 3
    site.engine.close()
    site.directory = site.directory.parent / "restored"
    restore(backup, site.directory)
    site.open()
    site.engine.live.refresh_all()
    batches = [site.step(connection, 100) for _ in range(3)]
    assert [(batch.begins, batch.ends) for batch in batches] == [(False, False), (True, False), (False, True)]
    assert fold(batches[1].changes) == {"u0", "u1", "u2", "u3", "u4"}
    assert batches[1].cursor.epoch == batches[0].cursor.epoch != ""
    # 2. Activated again, while it was calculated anew.
    site.engine.connections.deactivate(connection)
    site.engine.live.refresh_all()
    site.engine.ingest.erase(ACCOUNT, ["u1"])
    site.engine.connections.activate(connection)
    site.engine.live.refresh_all()
    again = [site.step(connection, 100), site.step(connection, 100)]
    assert [(batch.begins, batch.ends) for batch in again] == [(False, False), (True, True)]
    assert fold(again[1].changes) == {"u0", "u2", "u3", "u4"}
    assert again[1].cursor.epoch != batches[1].cursor.epoch


def test_an_empty_audience_begins_and_ends_its_snapshot(site: Site) -> None:
    connection = site.connect(site.add("one", did("a"))).name
    site.engine.live.refresh_all()
    batch = [site.step(connection, 1), site.step(connection, 1)][1]
    assert (batch.changes, batch.begins, batch.ends) == ((), True, True)
    assert site.step(connection, 1).caught_up


def test_unconfirmed_changes_are_read_again(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a")])
    connection = site.connect(site.add("one", did("a")))
    assert site.engine.deliveries.pull(connection, 10).changes == ()
    site.engine.live.refresh_all()
    begun = site.engine.deliveries.advance(connection, site.engine.deliveries.pull(connection, 1).cursor)
    assert begun is not None
    connection = begun
    first = site.engine.deliveries.pull(connection, 1)
    assert site.engine.deliveries.pull(connection, 1) == first
    assert isinstance(first.changes[0], Change)
    advanced = site.engine.deliveries.advance(connection, first.cursor)
    assert advanced is not None
    second = site.engine.deliveries.pull(advanced, 10)
    assert (first.begins, first.ends, second.begins, second.ends) == (True, False, False, True)
    assert {c.user_id for c in (*first.changes, *second.changes)} == {"u1", "u2"}


# --- threads ------------------------------------------------------------------------------------------------


def test_concurrent_rounds_writes_and_edits(site: Site) -> None:
    """Four threads refresh, send, edit and activate; in the end stored and evaluated members agree."""
    top = site.add("top", did("a"))
    below = site.add("below", did("b"), top.name)
    rest = site.add("rest", None, top.name)
    site.connect(below, "one")
    connection = site.connect(rest, "two")
    failures: list[BaseException] = []

    def run(work: object) -> None:
        try:
            for number in range(25):
                work(number)  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    def switch(number: int) -> None:
        if number % 2:
            site.engine.connections.activate(connection.name)
        else:
            site.engine.connections.deactivate(connection.name)

    works = (
        lambda number: site.engine.live.refresh_all(NOW + number),
        lambda number: site.send([(f"u{number}", "a"), (f"u{number % 7}", "b")]),
        lambda number: edit(site, below, did("b") if number % 2 else did("a")),
        switch,
        lambda number: site.engine.members.check(below.audience, f"u{number}"),
    )
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    edit(site, below, did("b"))
    site.engine.connections.activate(connection.name)
    site.engine.live.refresh_all(NOW + 1_000)
    for milestone in (top, below, rest):
        assert site.stored(milestone) == site.members(milestone)


def test_accounts_do_not_see_each_other(site: Site) -> None:
    site.engine.accounts.create_account("rival", Account(name=""))
    site.engine.journeys.create_journey("accounts/rival", "j", Journey(name=""))
    site.add("theirs", AllOf(), journey="accounts/rival/journeys/j")
    mine = site.add("mine", AllOf())
    site.connect(mine)
    site.send([("u1", "a")])
    site.engine.live.refresh_all()
    assert site.stored(mine) == {"u1"}
    assert site.engine.accounts.active_audience_count("accounts/rival") == 0


def test_wait_for_work_returns_on_changes(site: Site) -> None:
    site.engine.live.refresh_all()
    assert not site.engine.live.wait_for_work(0)
    site.connect(site.add("one", did("a")))
    assert site.engine.live.wait_for_work(0)
    site.engine.live.refresh_all()
    assert not site.engine.live.wait_for_work(0)
    site.send([("u1", "a")])
    assert site.engine.live.wait_for_work(0)
    assert site.engine.live.due() == (JOURNEY,)


def test_new_engine_continues_on_the_same_store(site: Site) -> None:
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    again = Engine(site.backend, clock=site.clock)
    site.send([("u1", "a")])
    again.live.refresh_all()
    assert changes(site, milestone) == [("u1", True)]


# --- a clock that goes back ---------------------------------------------------------------------------------


def test_memberships_follow_a_clock_that_goes_back(site: Site) -> None:
    site.send([("always", "b"), ("lately", "a")])
    windowed = site.add("windowed", AllOf(criteria=(Not(criterion=did("b", days=1)), did("a", days=3))))
    site.connect(windowed)
    site.engine.live.refresh_all()
    assert changes(site, windowed) == [("lately", True)]
    site.clock.now = NOW + 400 * DAY
    site.engine.live.refresh_all()
    site.clock.now = NOW + DAY
    # Before the round that undoes it, checks are right already.
    assert site.engine.members.check(windowed.audience, "lately").member
    site.engine.live.refresh_all()
    assert changes(site, windowed) == [("lately", True), ("lately", False), ("lately", True)]
    assert site.stored(windowed) == site.members(windowed) == {"lately"}
    stored = site.backend.membership(windowed.audience)
    assert stored is not None
    assert stored.as_of == NOW + DAY
    # A clock that is only slewed takes nothing back.
    site.clock.now -= MICROS_PER_SECOND // 2
    site.send([("later", "a")], time=site.clock.now)
    site.engine.live.refresh_all()
    stored = site.backend.membership(windowed.audience)
    assert stored is not None
    assert stored.as_of == NOW + DAY


# --- how long changes are kept ------------------------------------------------------------------------------


@pytest.mark.parametrize(("retention_days", "kept_days"), [(0, CHANGES_DAYS), (3, 3), (90, CHANGES_DAYS)])
def test_changes_are_kept_for_their_horizon_or_a_shorter_retention(
    site: Site, retention_days: int, kept_days: int
) -> None:
    retention = Account(name=ACCOUNT, event_retention=retention_days * DAY)
    site.engine.accounts.update_account(retention, {"event_retention"})
    milestone = site.add("m", did("a", days=90))
    connection = site.connect(milestone)
    for day in range(12):
        site.clock.now = NOW + day * DAY
        site.send([(f"u{day}", "a")], time=site.clock.now)
        site.engine.live.refresh_all()
    # What a connection has not delivered stays, however old.
    assert site.backend.changes(milestone.audience, 0, 100).changes[0].user_id == "u0"
    site.deliver(connection.name)
    site.clock.now += DAY
    site.engine.live.refresh_all()
    with pytest.raises(CursorExpired) as raised:
        site.backend.changes(milestone.audience, 0, 100)
    first = int(raised.value.metadata["oldest_cursor"])
    page = site.backend.changes(milestone.audience, first, 1)
    assert page.changes[0].as_of == site.clock.now - (kept_days - 1) * DAY


# --- consumers that watch -----------------------------------------------------------------------------------


def test_a_watcher_that_stays_away_holds_a_deleted_audience_for_the_horizon_only(site: Site) -> None:
    site.engine.connections.create_output(ACCOUNT, "watch", Output(name="", target=Watch()))
    milestone = site.add("m", did("a"))
    site.send([("u1", "a")])
    record = Connection(name="", audience=milestone.audience, output=f"{ACCOUNT}/outputs/watch")
    connection = site.engine.connections.create_connection(ACCOUNT, "w", record)
    site.engine.connections.activate(connection.name)
    site.engine.live.refresh_all()
    site.engine.milestones.delete_milestone(milestone.name)
    for days in (0, CHANGES_DAYS - 1):
        site.clock.now = NOW + days * DAY
        site.engine.live.refresh_all()
        changes = site.backend.changes(milestone.audience, 0, 100).changes
        assert [(change.user_id, change.entered) for change in changes] == [("u1", True), ("u1", False)]
        assert site.engine.connections.watched(connection.name).delivered == 0
    site.clock.now = NOW + CHANGES_DAYS * DAY
    site.engine.live.refresh_all()
    with pytest.raises(NotFound):
        site.engine.connections.get_connection(connection.name)
    assert site.backend.membership(milestone.audience) is None
