"""Exits on deactivation: every member exits, from wherever delivery was, and nothing of it is lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.backends.base import StoreVerified, upkeep_of
from engine.backends.local.membership import change_log
from engine.criteria.model import Equals, UserAttribute
from engine.errors import InvalidInput, NotFound
from engine.resources.records import ChangeKind, Connection, ConnectionState, Output
from engine.resources.targets import Watch
from engine.values import MICROS_PER_SECOND
from service.delivery.delivering import Delivering
from service.delivery.schedule import WHEN_WOKEN
from service.delivery.sinks.sink import SinkError
from tests.engine.site import ACCOUNT, JOURNEY, OUTPUT, Site
from tests.service.delivery.steps import STEPS_MAX, Remembering, delivering_to, refuse_once

MILESTONE = f"{JOURNEY}/milestones/one"
IN = UserAttribute(key="in", test=Equals(True))
USERS = "abcdefgh"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "store")


def connect(site: Site, audience: str, connection_id: str = "c", **fields: object) -> Connection:
    """An active connection with exits on deactivation."""
    record = Connection(name="", audience=audience, output=OUTPUT, exits_on_deactivation=True, batch_age=1)
    record = msgspec.structs.replace(record, **fields)
    created = site.engine.connections.create_connection(ACCOUNT, connection_id, record)
    return site.engine.connections.activate(created.name)


def move(site: Site, **users: bool) -> None:
    """Users enter or leave, and a round brings it to the audience."""
    for user, is_in in users.items():
        site.update(user, {"in": is_in}, time=site.clock.now)
    site.clock.now += MICROS_PER_SECOND
    site.engine.live.refresh_all()


def drain(site: Site, connection: Connection, sink: Remembering) -> None:
    """Delivers a connection until it waits for changes, or has nothing more to send."""
    finish(delivering_to(site, connection, sink))


def finish(delivering: Delivering) -> None:
    for _ in range(STEPS_MAX):
        if delivering.step() == WHEN_WOKEN:
            return
    raise AssertionError("delivery does not end")


def delivered(site: Site, *users: str, **fields: Any) -> tuple[Connection, Remembering]:
    """A connection of the milestone `one` that has delivered these members."""
    milestone = site.add("one", IN)
    move(site, **dict.fromkeys(users, True))
    connection, sink = connect(site, milestone.audience, **fields), Remembering()
    site.engine.live.refresh_all()
    drain(site, connection, sink)
    return connection, sink


def get(site: Site, connection: Connection) -> Connection:
    return site.engine.connections.get_connection(connection.name)


def copy_of(site: Site, connection: Connection) -> object:
    """The copy of the membership that a connection delivers while it exits; None: there is none."""
    return site.backend.membership(connection.name)


def assert_sound(site: Site) -> None:
    """The whole store agrees with itself, copies included."""
    *_, verified = upkeep_of(site.backend).verify()
    assert isinstance(verified, StoreVerified)
    assert verified.faults == 0


def fold(sink: Remembering) -> set[str]:
    members: set[str] = set()
    for user, kind in sink.told():
        assert (kind == "entered") is (user not in members), (user, kind, sink.told())
        (members.add if kind == "entered" else members.remove)(user)
    return members


def test_what_was_not_delivered_comes_first_and_then_the_exit_of_each_member(site: Site) -> None:
    connection, sink = delivered(site, "ann", "bob")
    move(site, ann=False, cat=True)
    left = site.engine.connections.deactivate(connection.name)
    assert (left.state, left.exiting) == (ConnectionState.INACTIVE, True)
    # The credit is back, and nothing is calculated any more.
    move(site, bob=False, dan=True)
    assert site.backend.membership(connection.audience) is None
    assert site.engine.deliveries.status(left).pending_changes == 2
    drain(site, left, sink)
    # Whatever happened since the deactivation is not sent.
    assert sorted(sink.told()[2:4]) == [("ann", "exited"), ("cat", "entered")]
    assert sorted(sink.told()[4:]) == [("bob", "exited"), ("cat", "exited")]
    assert [event["data"]["last_of_instant"] for event in sink.events[-2:]] == [False, True]
    done = get(site, connection)
    assert (done.exiting, done.delivered, done.epoch) == (False, 0, "")
    assert copy_of(site, connection) is None
    assert site.engine.deliveries.active() == ()


@pytest.mark.parametrize("copied", [change_log.COPIED_RECORDS_MAX, 0], ids=["log", "snapshot"])
def test_exits_survive_restarts_wherever_delivery_was(
    site: Site, copied: int, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    """Random moves, batches, refusals, restarts. Too many changes to copy are replaced by a snapshot."""
    monkeypatch.setattr(change_log, "COPIED_RECORDS_MAX", copied)
    source = random.Random(f"{pytestconfig.getoption('--hypothesis-seed')} {copied}")
    milestone = site.add("one", IN)
    for number in range(12):
        move(site, **{user: source.random() < 0.6 for user in USERS})
        connection = connect(site, milestone.audience, f"c{number}", batch_changes=source.randint(1, 3))
        site.engine.live.refresh_all()
        told: list[dict[str, Any]] = []

        def deliver(steps: int) -> None:
            sink = Remembering()
            found = get(site, connection)  # noqa: B023
            if not found.delivers:
                return
            if source.random() < 0.3:
                refuse_once(sink, SinkError("503"))
            delivering = delivering_to(site, found, sink)
            for _ in range(steps):
                delivering.step()
            told.extend(sink.events)  # noqa: B023

        deliver(source.randrange(6))
        move(site, **{user: source.random() < 0.5 for user in source.sample(USERS, 4)})
        deliver(source.randrange(3))
        site.engine.connections.deactivate(connection.name)
        while get(site, connection).exiting:
            move(site, **{source.choice(USERS): source.random() < 0.5})
            deliver(source.randrange(4))
            if source.random() < 0.3:
                site.engine.close()
                site.open()
        members: set[str] = set()
        epoch = ""
        for event in told:
            if event["data"]["epoch"] != epoch:
                # It begins with a snapshot, which replaces what was known.
                epoch, members = event["data"]["epoch"], set()
            user = str(event["subject"])
            (members.add if str(event["type"]).endswith("entered") else members.discard)(user)
        assert members == set(), told
        assert len({event["id"] for event in told}) == len(told)
        assert copy_of(site, connection) is None
        site.engine.connections.delete_connection(connection.name)
    assert_sound(site)


def test_erased_users_exit_by_their_id(site: Site) -> None:
    connection, sink = delivered(site, "ann", "bob", "cat")
    move(site, cat=False)
    site.backend.erase(ACCOUNT, ["cat"])
    left = site.engine.connections.deactivate(connection.name)
    site.backend.erase(ACCOUNT, ["ann"])
    drain(site, left, sink)
    assert fold(sink) == set()
    assert_sound(site)


def test_another_connection_goes_on_and_no_event_has_the_id_of_another(site: Site) -> None:
    milestone = site.add("one", IN)
    move(site, ann=True, bob=True)
    connections = [connect(site, milestone.audience, name) for name in ("leaving", "staying")]
    sinks = [Remembering() for _ in connections]
    site.engine.live.refresh_all()
    for connection, sink in zip(connections, sinks, strict=True):
        drain(site, connection, sink)
    left = site.engine.connections.deactivate(connections[0].name)
    move(site, ann=False, bob=False, cat=True)
    drain(site, left, sinks[0])
    drain(site, connections[1], sinks[1])
    assert [fold(sink) for sink in sinks] == [set(), {"cat"}]
    # Both count on from the same change.
    sequences = [{event["data"]["sequence"] for event in sink.events} for sink in sinks]
    assert sequences[0] & sequences[1]
    ids = [event["id"] for sink in sinks for event in sink.events if event["type"].endswith("exited")]
    assert len(set(ids)) == len(ids)


def test_an_output_that_fails_for_too_long_is_tried_again_after_a_resume(site: Site) -> None:
    connection, sink = delivered(site, "ann")
    left = site.engine.connections.deactivate(connection.name)
    refuse_once(sink, SinkError("gone", final=True))
    delivering = delivering_to(site, left, sink)
    finish(delivering)
    failed = get(site, connection)
    assert (failed.state, failed.exiting, failed.fault) == (ConnectionState.INACTIVE, True, "gone")
    assert site.engine.deliveries.active() == ()
    resumed = site.engine.connections.resume(connection.name)
    assert (resumed.state, resumed.fault) == (ConnectionState.INACTIVE, "")
    drain(site, resumed, sink)
    assert fold(sink) == set()


@pytest.mark.parametrize("steps", range(4))
def test_activated_in_the_middle_the_snapshot_replaces_what_was_known(site: Site, steps: int) -> None:
    connection, sink = delivered(site, "ann", "bob", "cat", batch_changes=1)
    left = site.engine.connections.deactivate(connection.name)
    delivering = delivering_to(site, left, sink)
    for _ in range(steps):
        delivering.step()
    move(site, ann=False)
    again = site.engine.connections.activate(connection.name)
    assert (again.exiting, again.activation) == (False, left.activation + 1)
    assert copy_of(site, connection) is None
    move(site)
    # What is left of the step of before changes nothing.
    delivering.step()
    sink.batches.clear()
    drain(site, again, sink)
    assert fold(sink) == {"bob", "cat"}
    # And then it exits from there, also before its snapshot began.
    gone = site.engine.connections.deactivate(connection.name)
    drain(site, gone, sink)
    assert fold(sink) == set()


def test_a_deleted_milestone_waits_for_the_exits_of_a_deactivated_connection(site: Site) -> None:
    connection, sink = delivered(site, "ann")
    left = site.engine.connections.deactivate(connection.name)
    site.engine.milestones.delete_milestone(MILESTONE)
    site.engine.live.refresh_all()
    drain(site, left, sink)
    assert sink.told() == [("ann", "entered"), ("ann", "exited")]
    with pytest.raises(NotFound):
        get(site, connection)
    site.engine.live.refresh_all()
    assert site.backend.membership(connection.audience) is None
    assert copy_of(site, connection) is None


def test_a_deleted_connection_leaves_nothing(site: Site) -> None:
    connection, _ = delivered(site, "ann")
    site.engine.connections.deactivate(connection.name)
    site.engine.connections.delete_connection(connection.name)
    assert copy_of(site, connection) is None


def test_a_batch_that_was_read_before_the_deactivation_goes_before_the_exits(site: Site) -> None:
    connection, sink = delivered(site, "ann")
    move(site, bob=True)
    delivering = delivering_to(site, connection, sink)

    def deactivate() -> None:
        sink.before = lambda: None
        site.engine.connections.deactivate(connection.name)

    sink.before = deactivate
    finish(delivering)
    assert sink.told()[:2] == [("ann", "entered"), ("bob", "entered")]
    assert fold(sink) == set()


def test_before_anything_was_sent_there_are_no_exits(site: Site) -> None:
    milestone = site.add("one", IN)
    connection = connect(site, milestone.audience)
    left = site.engine.connections.deactivate(connection.name)
    assert (left.state, left.exiting) == (ConnectionState.INACTIVE, False)


def test_a_connection_that_cannot_send_exits_is_refused(site: Site) -> None:
    milestone = site.add("one", IN)
    watch = site.engine.connections.create_output(ACCOUNT, "watch", Output(name="", target=Watch()))
    for fields in ({"output": watch.name}, {"kinds": (ChangeKind.ENTERED,)}):
        with pytest.raises(InvalidInput) as refused:
            connect(site, milestone.audience, **fields)
        assert [each.field for each in refused.value.violations] == ["connection.exits_on_deactivation"]
    connect(site, milestone.audience, kinds=(ChangeKind.EXITED,))


def test_values_that_are_opted_in_to_during_exits_do_not_stop_them(site: Site) -> None:
    connection, sink = delivered(site, "ann")
    left = site.engine.connections.deactivate(connection.name)
    changed = msgspec.structs.replace(left, attributes=("in",))
    site.engine.connections.update_connection(changed, {"attributes"})
    drain(site, get(site, connection), sink)
    assert fold(sink) == set()
