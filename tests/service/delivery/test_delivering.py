"""Steps of one connection: how often it reads, which ids it sends, what it does with refused batches."""

from __future__ import annotations

import hashlib
import itertools
import random
from pathlib import Path

import msgspec
import pytest

from engine.audiences.deliveries import kind_of
from engine.audiences.delivery_status import RATE_WINDOW_S, DeliveryLog, DeliveryStatus
from engine.backends.base import UserRecord
from engine.criteria.model import Equals, UserAttribute
from engine.errors import CursorExpired, FailedPrecondition
from engine.resources.records import ChangeKind, Connection, ConnectionState, Milestone, etag_of
from engine.values import MICROS_PER_HOUR, MICROS_PER_SECOND
from service.delivery.retry import RetryPolicy
from service.delivery.schedule import WHEN_WOKEN
from service.delivery.sinks.sink import SinkError
from tests.engine.site import ACCOUNT, NOW, OUTPUT, WEB, Site, did
from tests.service.delivery.steps import Remembering, delivering_to, refuse_once, run
from tests.service.delivery.test_delivery import OUTPUTS_PAGE


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "store")


def connect(site: Site, milestone: Milestone, connection_id: str = "c", **fields: object) -> Connection:
    """An active connection of a milestone's audience."""
    record = Connection(name="", audience=milestone.audience, output=OUTPUT)
    record = msgspec.structs.replace(record, **{"batch_age": 1, **fields})
    created = site.engine.connections.create_connection(ACCOUNT, connection_id, record)
    return site.engine.connections.activate(created.name)


def test_a_batch_that_gathers_reads_its_changes_twice_however_many_refreshes_it_takes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    stored_changes = site.backend.changes

    def changes(audience: str, after: int, limit: int) -> object:
        page = stored_changes(audience, after, limit)
        read.append(len(page.changes))
        return page

    monkeypatch.setattr(site.backend, "changes", changes)
    connection = connect(site, site.add("one", did("a")), batch_changes=300, batch_age=MICROS_PER_HOUR)
    sink = Remembering()
    delivering = delivering_to(site, connection, sink)
    site.engine.live.refresh_all()
    run(delivering)
    read.clear()
    # 1. 100 refreshes of 3 users each; the connection is woken by those that it has to look at.
    for number in range(100):
        site.send([(f"u{number}-{each}", "a") for each in range(3)])
        site.engine.live.refresh_all()
        if not number or delivering.has_news():
            run(delivering)
    # 2. It looked when the first changes came, when the batch was full, and once more for what follows.
    assert read == [3, 300, 0]
    assert [len(batch) for batch in sink.batches] == [300]
    assert [event["data"]["sequence"] for event in sink.events] == list(range(1, 301))


def test_an_update_during_a_snapshot_sends_no_member_again(site: Site) -> None:
    milestone = site.add("one", did("a"))
    users = [f"u{number}" for number in range(7)]
    site.send([(user, "a") for user in users])
    connect(site, milestone, "first")
    site.engine.live.refresh_all()
    connection = connect(site, milestone, "second", batch_changes=2)
    sink = Remembering()

    def update() -> None:
        site.clock.now += 1
        changed = msgspec.structs.replace(connection, batch_age=site.clock.now - NOW)
        site.engine.connections.update_connection(changed, {"batch_age"})

    sink.before = update
    assert run(delivering_to(site, connection, sink)) == WHEN_WOKEN
    assert sorted(sink.told()) == [(user, "entered") for user in users]
    assert [len(batch) for batch in sink.batches] == [2, 2, 2, 1]


def test_a_refused_batch_keeps_its_ids_through_updates_and_its_place_in_a_new_process(site: Site) -> None:
    milestone = site.add("one", did("a"))
    site.send([(f"u{number}", "a") for number in range(5)])
    connect(site, milestone, "first")
    site.engine.live.refresh_all()
    connection = connect(site, milestone, "second", batch_changes=3)
    sink = Remembering()
    delivering = delivering_to(site, connection, sink)
    for _ in range(3):
        refuse_once(sink, SinkError("503"))
        run(delivering)
        site.clock.now += 1
        site.engine.connections.update_connection(connection, {"identities"})
    assert len(sink.tried) == 9
    assert len(set(sink.tried)) == 3
    assert run(delivering_to(site, connection, sink)) == WHEN_WOKEN
    assert [event["id"] for event in sink.events[:3]] == sink.tried[:3]
    # Activated anew, the same members are other events.
    site.engine.connections.deactivate(connection.name)
    again = site.engine.connections.activate(connection.name)
    run(delivering_to(site, again, sink))
    assert len(sink.events) == 10
    assert len({event["id"] for event in sink.events}) == 10


def test_status_says_how_far_behind_how_fast_and_what_failed(site: Site) -> None:
    milestone = site.add("one", did("a"))
    site.send([(f"u{number}", "a") for number in range(5)])
    connection = connect(site, milestone, batch_changes=3)
    site.engine.live.refresh_all()
    site.clock.now += 7 * MICROS_PER_SECOND
    sink, deliveries = Remembering(), site.engine.deliveries
    delivering = delivering_to(site, connection, sink)

    def status() -> DeliveryStatus:
        return deliveries.status(site.engine.connections.get_connection(connection.name))

    assert status() == DeliveryStatus(pending_changes=5, lag=7 * MICROS_PER_SECOND)
    for failures in (1, 2):
        refuse_once(sink, SinkError(f"503, {failures}"))
        run(delivering)
        assert status() == DeliveryStatus(
            pending_changes=5,
            lag=7 * MICROS_PER_SECOND,
            error=f"503, {failures}",
            error_time=site.clock.now,
            failures=failures,
        )
    failed_at = site.clock.now
    site.clock.now += MICROS_PER_SECOND
    delivering.step()
    partly = status()
    assert (partly.pending_changes, partly.lag) == (2, 8 * MICROS_PER_SECOND)
    run(delivering)
    # A batch that is not full is due once its oldest change is old enough.
    while status().pending_changes:
        delivering.step()
    assert status() == DeliveryStatus(
        changes_per_second=5 / RATE_WINDOW_S,
        last_success=site.clock.now,
        error="503, 2",
        error_time=failed_at,
    )
    # The time of the last success survives a restart; what an inactive connection did is gone.
    site.engine.close()
    site.open()
    assert site.engine.connections.get_connection(connection.name).last_success == site.clock.now
    assert site.engine.connections.deactivate(connection.name).last_success == site.clock.now
    assert site.engine.connections.activate(connection.name).last_success == 0


def test_rate_is_over_the_last_minute() -> None:
    seconds = 1_000.0
    log = DeliveryLog(lambda: seconds)
    for each in range(120):
        seconds = 1_000.0 + each / 2
        log.succeeded("c", "file", 3)
    assert log.of("c").changes_per_second == 360 / RATE_WINDOW_S
    seconds += 30
    assert log.of("c").changes_per_second == 180 / RATE_WINDOW_S
    seconds += 30
    assert log.of("c") == DeliveryStatus()
    log.failed("c", "file", "why", 5)
    log.keep(["c"])
    assert log.of("c").failures == 1
    log.keep([])
    assert log.of("c") == DeliveryStatus()


def test_why_delivery_fails_and_for_how_long_outlive_a_restart(site: Site) -> None:
    connection, sink = connect(site, site.add("one", did("a"))), Remembering()
    site.send([("ann", "a")])
    site.engine.live.refresh_all()

    def restart() -> None:
        site.engine.close()
        site.open()

    def fail(after_s: float) -> str:
        found = site.engine.connections.get_connection(connection.name)
        delivering = delivering_to(site, found, sink, RetryPolicy(budget_s=60.0))
        delivering._failing_since -= after_s
        while not sink.tried:
            refuse_once(sink, SinkError("503"))
            delivering.step()
        sink.tried.clear()
        return site.engine.connections.get_connection(connection.name).state

    etag = etag_of(site.engine.connections.get_connection(connection.name))
    # 1. It fails for the first time; that is known after a restart.
    assert fail(0) == ConnectionState.ACTIVE
    restart()
    known = site.engine.connections.get_connection(connection.name)
    status = site.engine.deliveries.status(known)
    assert (status.error, status.error_time, status.failures) == ("503", site.clock.now, 1)
    assert etag_of(known) == etag
    # 2. It has failed for 40 s, and for another 40 s after a restart: longer than it may.
    site.clock.now += 60 * MICROS_PER_SECOND
    assert fail(40) == ConnectionState.ACTIVE
    restart()
    # Not the time that the service was down.
    site.clock.now += MICROS_PER_HOUR
    assert fail(40) == ConnectionState.FAULTED
    # 3. Resumed, and taken, it begins anew.
    resumed = site.engine.connections.resume(connection.name)
    assert resumed.failing_for == 0
    all_told(site, resumed, sink)
    taken = site.engine.connections.get_connection(connection.name)
    restart()
    assert (taken.failing_for, site.engine.deliveries.status(taken).failures) == (0, 0)


def test_a_connection_sends_the_kinds_it_asks_for_and_its_cursor_passes_the_others(site: Site) -> None:
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    kinds = ((ChangeKind.ENTERED,), (ChangeKind.EXITED,), ())
    connections = [connect(site, milestone, f"c{at}", kinds=wanted) for at, wanted in enumerate(kinds)]
    for is_in in (True, False, True):
        site.update("ann", {"in": is_in}, time=site.clock.now)
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()
    told = []
    for connection in connections:
        sink = Remembering()
        delivering = delivering_to(site, connection, sink)
        while site.engine.connections.get_connection(connection.name).delivered < 3:
            delivering.step()
        told.append([kind for _, kind in sink.told()])
    assert told == [["entered", "entered"], ["exited"], ["entered", "exited", "entered"]]
    # Nothing was sent of a batch that has only other kinds.
    site.update("bob", {"in": True}, time=site.clock.now)
    site.engine.live.refresh_all()
    exits, sink = connections[1], Remembering()
    before = site.engine.connections.get_connection(exits.name)
    site.clock.now += MICROS_PER_SECOND
    delivering = delivering_to(site, exits, sink)
    while site.engine.connections.get_connection(exits.name).delivered < 4:
        delivering.step()
    assert site.engine.connections.get_connection(exits.name).last_success == before.last_success
    assert sink.batches == []
    assert site.engine.deliveries.status(exits).changes_per_second == 1 / RATE_WINDOW_S


def test_the_last_change_sent_of_an_instant_is_marked_whatever_kinds_are_sent(
    site: Site, pytestconfig: pytest.Config
) -> None:
    """Also where the rest of the instant, which is not sent, is in later batches."""
    source = random.Random(str(pytestconfig.getoption("--hypothesis-seed")))
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    kinds = [wanted for count in (1, 2, 3) for wanted in itertools.combinations(ChangeKind, count)]
    connections = [
        connect(site, milestone, f"c{at}", kinds=wanted, attributes=("n",), batch_changes=1 + at % 4)
        for at, wanted in enumerate(kinds)
    ]
    connections.append(connect(site, milestone, "plain", batch_changes=2))
    sinks = [Remembering() for _ in connections]
    site.update("first", {"in": True}, time=site.clock.now)
    site.engine.live.refresh_all()
    for connection, sink in zip(connections, sinks, strict=True):
        # The snapshot, which has a mark of its own.
        all_told(site, connection, sink)
        sink.batches.clear()
    for number in range(12):
        for user in source.sample("abcdefghij", source.randint(1, 10)):
            site.update(user, {"in": source.random() < 0.5, "n": float(number)}, time=site.clock.now)
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()
    log = site.backend.changes(milestone.audience, 1, 1_000).changes
    for connection, sink in zip(connections, sinks, strict=True):
        all_told(site, connection, sink)
        is_plain = not connection.attributes
        wanted = set(connection.kinds or ChangeKind) - ({ChangeKind.UPDATED} if is_plain else set())
        expected, instant = [], []
        for change in log:
            if kind_of(change) in wanted:
                instant.append(change.sequence)
            if change.last_of_instant:
                expected += [(sequence, sequence == instant[-1]) for sequence in instant]
                instant = []
        data = [event["data"] for event in sink.events]
        assert [(each["sequence"], each["last_of_instant"]) for each in data] == expected


def test_opted_in_values_are_sent_as_they_are_or_hashed(site: Site) -> None:
    record = UserRecord(
        user_id="ann",
        input=WEB,
        time=NOW,
        attributes={"plan": "Pro ", "age": 42.0, "tags": ("A", " b")},
        identities={"email": " Ann@Example.com"},
    )
    site.engine.ingest.users(ACCOUNT, [record])
    connection = connect(
        site,
        site.add("one", UserAttribute(key="plan", test=Equals("Pro "))),
        attributes=("plan", "none"),
        hashed_attributes=("plan", "age", "tags", "none"),
        hashed_identities=("email", "phone"),
    )
    site.engine.live.refresh_all()
    sink = Remembering()
    delivering = delivering_to(site, connection, sink)
    while not sink.batches:
        delivering.step()
    data = sink.events[0]["data"]
    assert (data["identities"], data["attributes"]) == ({}, {"plan": "Pro "})
    assert data["hashed_identities"] == {"email": sha256("ann@example.com")}
    assert data["hashed_attributes"] == {
        "plan": sha256("pro"),
        "age": sha256("42.0"),
        "tags": [sha256("a"), sha256("b")],
    }
    # The page shows one of them.
    assert sha256("ann@example.com") in OUTPUTS_PAGE.read_text(encoding="utf-8")


def sha256(text: str) -> str:
    """In hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def test_status_tells_of_a_snapshot_that_waits(site: Site) -> None:
    """Its members are no changes, so the time for which attempts have been failing tells how late it is."""
    milestone = site.add("one", did("a"))
    site.send([(f"u{number}", "a") for number in range(5)])
    connection = connect(site, milestone)
    # Another connection keeps the audience calculated.
    second = connect(site, milestone, "second")
    site.engine.live.refresh_all()
    for each in (connection, second):
        assert len(all_told(site, each, Remembering())) == 5
    site.engine.connections.deactivate(connection.name)
    again, sink = site.engine.connections.activate(connection.name), Remembering()

    def status() -> DeliveryStatus:
        return site.engine.deliveries.status(now_of(site, again))

    assert status() == DeliveryStatus(pending_snapshot=True, changes_per_second=5 / RATE_WINDOW_S)
    delivering = delivering_to(site, again, sink)
    for failures in (1, 2, 3):
        refuse_once(sink, SinkError(f"503, {failures}"))
        run(delivering)
        site.clock.now += MICROS_PER_SECOND
        waiting = status()
        assert (waiting.pending_snapshot, waiting.pending_changes, waiting.failures) == (True, 0, failures)
        # Of the attempts' own clock, a little more than the second since the last one.
        assert MICROS_PER_SECOND <= waiting.lag < 10 * MICROS_PER_SECOND
    (lag,) = (
        each.value
        for each in site.engine.deliveries.measures()
        if each.name == "delivery_lag_seconds" and each.value
    )
    assert lag == waiting.lag / MICROS_PER_SECOND
    run(delivering)
    assert len(sink.told()) == 5
    assert (status().pending_snapshot, status().lag) == (False, 0)


def all_told(site: Site, connection: Connection, sink: Remembering) -> list[tuple[str, str]]:
    """What the sink has taken, once the connection has nothing more to deliver."""
    delivering = delivering_to(site, connection, sink)
    while site.engine.deliveries.status(now_of(site, connection)).pending_changes:
        delivering.step()
    return sink.told()


def now_of(site: Site, connection: Connection) -> Connection:
    """The connection as it is now."""
    return site.engine.connections.get_connection(connection.name)


def enter_and_exit(site: Site, milestone: Milestone) -> None:
    """ann enters, bob enters, ann exits, one second after another."""
    for user, is_in in (("ann", True), ("bob", True), ("ann", False)):
        site.update(user, {"in": is_in}, time=site.clock.now)
        site.engine.live.refresh_all()
        site.clock.now += MICROS_PER_SECOND


def test_a_paused_connection_keeps_its_cursor_and_goes_on_without_loss(site: Site) -> None:
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    connection, sink = connect(site, milestone), Remembering()
    connections, delivering = site.engine.connections, delivering_to(site, connection, sink)
    enter_and_exit(site, milestone)
    assert all_told(site, connection, sink) == [("ann", "entered"), ("bob", "entered"), ("ann", "exited")]
    paused = connections.pause(connection.name)
    assert (paused.state, paused.paused) == (ConnectionState.ACTIVE, True)
    assert connections.pause(connection.name) == paused
    enter_and_exit(site, milestone)
    assert site.engine.deliveries.active() == ()
    assert delivering.step() == WHEN_WOKEN
    assert delivering.is_over
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 1
    assert site.engine.deliveries.status(now_of(site, connection)).pending_changes == 2
    site.engine.close()
    site.open()
    resumed = site.engine.connections.resume(connection.name)
    assert (resumed.paused, resumed.delivered) == (False, 3)
    assert all_told(site, connection, sink)[3:] == [("ann", "entered"), ("ann", "exited")]
    # Deactivated while it is paused, it begins like any other.
    site.engine.connections.pause(connection.name)
    site.engine.connections.deactivate(connection.name)
    with pytest.raises(FailedPrecondition):
        site.engine.connections.pause(connection.name)
    assert not site.engine.connections.activate(connection.name).paused


def test_a_replay_sends_again_what_changed_after_an_instant_under_new_ids(site: Site) -> None:
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    connection, sink = connect(site, milestone), Remembering()
    enter_and_exit(site, milestone)
    first = all_told(site, connection, sink)
    # 1. From the instant of the second change: what came after it.
    replayed = site.engine.connections.replay(connection.name, NOW + MICROS_PER_SECOND)
    assert (replayed.delivered, replayed.activation) == (2, 2)
    assert all_told(site, connection, sink)[3:] == first[2:]
    # 2. A batch of before the replay does not move the cursor.
    assert site.engine.connections.advance(
        connection.name, msgspec.structs.replace(replayed.cursor, sequence=3), activation=1
    ) == now_of(site, connection)
    # 3. From before everything, and from now: everything, and nothing.
    site.engine.connections.replay(connection.name, 0)
    assert all_told(site, connection, sink)[4:] == first
    unchanged = now_of(site, connection)
    assert site.engine.connections.replay(connection.name, site.clock.now) == unchanged
    # 4. From the start: every member, as at activation.
    begun = site.engine.connections.replay(connection.name)
    assert (begun.delivered, begun.snapshot_after) == (3, "")
    with pytest.raises(FailedPrecondition, match="members are being sent"):
        site.engine.connections.replay(connection.name, 0)
    run(delivering_to(site, connection, sink))
    assert sink.told()[7:] == [("bob", "entered")]
    # 5. New changes have the ids they have without a replay.
    site.update("eve", {"in": True}, time=site.clock.now)
    site.engine.live.refresh_all()
    all_told(site, connection, sink)
    ids = [event["id"] for event in sink.events]
    assert len(set(ids)) == len(ids) == 9
    assert [each.count(".") for each in ids] == [1, 1, 1, 2, 2, 2, 2, 4, 1]


def test_a_replay_of_changes_that_are_gone_names_the_oldest_instant(site: Site) -> None:
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    connection, sink = connect(site, milestone), Remembering()
    enter_and_exit(site, milestone)
    all_told(site, connection, sink)
    site.backend.trim_changes(milestone.audience, 1)
    with pytest.raises(CursorExpired) as refused:
        site.engine.connections.replay(connection.name, NOW)
    assert refused.value.metadata == {"oldest_time": "2024-10-04T12:00:01Z"}
    assert site.engine.connections.replay(connection.name, NOW + MICROS_PER_SECOND).delivered == 2
    site.backend.trim_changes(milestone.audience, 3)
    with pytest.raises(CursorExpired) as refused:
        site.engine.connections.replay(connection.name, NOW + MICROS_PER_SECOND)
    assert refused.value.metadata == {"oldest_time": "2024-10-04T12:00:02Z"}
    site.engine.connections.deactivate(connection.name)
    with pytest.raises(FailedPrecondition, match="activate it"):
        site.engine.connections.replay(connection.name)


def test_later_changes_of_opted_in_values_are_sent_to_connections_that_opted_in(site: Site) -> None:
    milestone = site.add("one", UserAttribute(key="in", test=Equals(True)))
    site.update("ann", {"in": True, "plan": "free"}, time=NOW - 2)
    connections = [
        connect(site, milestone, "values", attributes=("plan",)),
        connect(site, milestone, "hashed", hashed_attributes=("plan",), kinds=(ChangeKind.UPDATED,)),
        connect(site, milestone, "entries", attributes=("plan",), kinds=(ChangeKind.ENTERED,)),
        connect(site, milestone, "plain"),
    ]
    sinks = [Remembering() for _ in connections]
    site.engine.live.refresh_all()
    for plan in ("pro", "pro", "team"):
        for connection, sink in zip(connections, sinks, strict=True):
            all_told(site, connection, sink)
        site.clock.now += MICROS_PER_SECOND
        site.update("ann", {"plan": plan}, time=site.clock.now)
        site.update("bob", {"plan": plan}, time=site.clock.now)
        site.engine.live.refresh_all()
    site.update("ann", {"in": False}, time=site.clock.now)
    site.engine.live.refresh_all()
    told = [all_told(site, connection, sink) for connection, sink in zip(connections, sinks, strict=True)]
    entered, updated, exited = ("ann", "entered"), ("ann", "updated"), ("ann", "exited")
    assert told == [[entered, updated, updated, exited], [updated, updated], [entered], [entered, exited]]
    sent = [event["data"] for event in sinks[0].events]
    assert [each["attributes"]["plan"] for each in sent] == ["free", "pro", "team", "team"]
    assert [each["entered"] for each in sent] == [True, True, True, False]
    assert [each["data"]["hashed_attributes"]["plan"] for each in sinks[1].events] == [
        sha256("pro"),
        sha256("team"),
    ]
