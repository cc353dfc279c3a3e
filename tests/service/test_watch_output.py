"""Connections to a `watch` output through a real server: a durable cursor, acknowledged by its consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from engine.audiences.live import trimming
from engine.backends.base import epoch_of
from milepost import Client
from milepost.v1.account_service_pb2 import GetAccountRequest
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import WatchMembershipRequest
from milepost.v1.connection_pb2 import Connection, Output, WatchOutput
from milepost.v1.connection_service_pb2 import (
    AcknowledgeChangesRequest,
    CreateConnectionRequest,
    CreateOutputRequest,
    DeactivateConnectionRequest,
    DeleteConnectionRequest,
    GetConnectionRequest,
    ReplayConnectionRequest,
)
from milepost.v1.journey_service_pb2 import DeleteMilestoneRequest
from tests.harness import (
    ACCOUNT,
    CALL_TIMEOUT_S,
    Refusal,
    Serving,
    eventually,
    read_refusal,
    refusal_of,
    serving,
)
from tests.service.delivery.test_delivery import MILESTONE, activate, build, connect, get, set_tier, wait_for
from tests.service.test_watch import request_of, told, until_mark

WATCH = f"{ACCOUNT}/connections/w"


def connect_watch(service: Serving, audience: str) -> None:
    """An active connection `w` of the audience to a `watch` output."""
    service.connections.CreateOutput(
        CreateOutputRequest(parent=ACCOUNT, output_id="watch", output=Output(watch=WatchOutput()))
    )
    connection = Connection(audience=audience, output=f"{ACCOUNT}/outputs/watch")
    service.connections.CreateConnection(
        CreateConnectionRequest(parent=ACCOUNT, connection_id="w", connection=connection)
    )
    activate(service, "w")


def epoch_now(service: Serving) -> str:
    """The epoch of the connection's audience."""
    backend = service.application.engine.backend
    membership = backend.membership(get(service, "w").audience)
    assert membership is not None
    return epoch_of(backend.store_id, membership)


def last_sequence(service: Serving) -> int:
    stored = service.application.engine.backend.membership(get(service, "w").audience)
    assert stored is not None
    return stored.last_sequence


def acknowledge(service: Serving, cursor: int, activation: int = 1) -> int:
    """The cursor of the connection after the acknowledgement."""
    request = AcknowledgeChangesRequest(
        name=WATCH, cursor=cursor, epoch=epoch_now(service), activation=activation
    )
    return service.connections.AcknowledgeChanges(request).connection.delivered_sequence


def refused(service: Serving, cursor: int, activation: int = 1, epoch: str | None = None) -> Refusal:
    request = AcknowledgeChangesRequest(
        name=WATCH,
        cursor=cursor,
        epoch=epoch_now(service) if epoch is None else epoch,
        activation=activation,
    )
    return refusal_of(service.connections.AcknowledgeChanges, request)


def watch(service: Serving, changes: int) -> tuple[list[str], list[tuple[str, bool, int]], int]:
    """Reads from the connection until that many changes and a mark: members, changes and the cursor."""
    stream = service.audiences.WatchMembership(request_of("", connection=WATCH))
    members: list[str] = []
    seen: list[tuple[str, bool, int]] = []
    while True:
        items, cursor = until_mark(stream)
        members += [user for item in items for user in item.snapshot.user_ids]
        seen += [change for item in items for change in told(item)]
        if len(seen) >= changes:
            stream.cancel()
            return sorted(members), seen, cursor


def test_what_is_not_acknowledged_is_sent_again_also_after_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        audience = build(service)
        connect_watch(service, audience)
        assert service.connections.GetConnection(GetConnectionRequest(name=WATCH)).connection.activation == 1
        account = service.accounts.GetAccount(GetAccountRequest(name=ACCOUNT)).account
        assert account.active_audience_count == 1
        # 1. Nothing was acknowledged: both watches have everything.
        for _ in range(2):
            assert watch(service, 0) == (["u1", "u2", "u3"], [], 3)
        assert acknowledge(service, 2) == 2
        assert get(service, "w").epoch == epoch_now(service)
    # 2. The cursor survives a restart; changes made while nobody watches wait for the consumer.
    with serving(tmp_path) as service:
        set_tier(service, ["u4"], "gold")
        # One round for both would have them in any order.
        eventually(lambda: last_sequence(service) == 4)
        set_tier(service, ["u1"], "silver")
        members, seen, cursor = watch(service, 3)
        assert (members, [change[1:] for change in seen], cursor) == (
            [],
            [(True, 3), (True, 4), (False, 5)],
            5,
        )
        # 3. An acknowledgement that comes late changes nothing.
        assert [acknowledge(service, cursor) for cursor in (5, 3, 5)] == [5, 5, 5]
        assert watch(service, 0) == ([], [], 5)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    """A service whose audience is calculated for a file, with three changes, and then watched."""
    with serving(tmp_path, access_log="none") as made:
        audience = build(made)
        connect(made, audience)
        wait_for(made, 3)
        connect_watch(made, audience)
        yield made


def test_members_come_first_until_something_is_acknowledged(service: Serving) -> None:
    for _ in range(2):
        assert watch(service, 0) == (["u1", "u2", "u3"], [], 3)
    assert acknowledge(service, 3) == 3
    assert watch(service, 0) == ([], [], 3)
    set_tier(service, ["u4"], "gold")
    assert watch(service, 1) == ([], [("u4", True, 4)], 4)


def test_refused_acknowledgements_and_watches(service: Serving) -> None:
    # 1. Cursors that were never sent.
    for cursor in (-1, 4):
        refusal = refused(service, cursor)
        assert refusal.violations == {"cursor": "must be 0 to 3, the last change"}
    for epoch in ("", "another"):
        other_epoch = refused(service, 3, epoch=epoch)
        assert (other_epoch.code, other_epoch.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert other_epoch.metadata == {"oldest_cursor": "3", "epoch": epoch_now(service)}
    # 2. Cursors of an earlier activation.
    service.connections.DeactivateConnection(DeactivateConnectionRequest(name=WATCH))
    stopped = refused(service, 3)
    assert (stopped.code, stopped.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONNECTION_STATE")
    unwatched = refusal_of(service.audiences.WatchMembership, request_of("", connection=WATCH))
    assert (unwatched.code, unwatched.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONNECTION_STATE")
    activate(service, "w")
    stale = refused(service, 3)
    assert (stale.code, stale.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    assert acknowledge(service, 3, activation=2) == 3
    # 3. A connection that delivers by itself, and one of another audience.
    file = f"{ACCOUNT}/connections/c"
    by_itself = refusal_of(
        service.connections.AcknowledgeChanges, AcknowledgeChangesRequest(name=file, cursor=1, activation=1)
    )
    assert list(by_itself.violations) == ["name"]
    wrong = refusal_of(service.audiences.WatchMembership, request_of("", connection=file))
    assert list(wrong.violations) == ["connection"]
    other = WatchMembershipRequest(audience=f"{ACCOUNT}/audiences/other", connection=WATCH)
    assert refusal_of(service.audiences.WatchMembership, other).code is grpc.StatusCode.NOT_FOUND
    assert get(service, "w").delivered_sequence == 3


def test_changes_that_are_no_longer_kept_have_a_way_on(service: Serving) -> None:
    audience = get(service, "w").audience
    assert acknowledge(service, 3) == 3
    set_tier(service, ["u4", "u5"], "gold")
    eventually(lambda: get(service, "c").delivered_sequence == 5)
    service.application.engine.backend.trim_changes(audience, 4)
    expired = refusal_of(service.audiences.WatchMembership, request_of("", connection=WATCH))
    assert (expired.code, expired.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    assert expired.metadata == {"oldest_cursor": "4", "epoch": epoch_now(service)}
    stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
    items, cursor = until_mark(stream)
    stream.cancel()
    assert (sorted(user for item in items for user in item.snapshot.user_ids), cursor) == (
        [f"u{number}" for number in range(1, 6)],
        5,
    )
    assert acknowledge(service, cursor) == 5
    assert watch(service, 0) == ([], [], 5)


def test_the_exits_of_a_deleted_audience_wait_for_the_consumer(service: Serving) -> None:
    assert acknowledge(service, 3) == 3
    service.journeys.DeleteMilestone(DeleteMilestoneRequest(name=MILESTONE))
    _, seen, cursor = watch(service, 3)
    assert sorted(user for user, entered, _ in seen if not entered) == ["u1", "u2", "u3"]
    assert (len(seen), cursor) == (3, 6)
    assert acknowledge(service, cursor) == 6
    gone = refusal_of(service.connections.GetConnection, GetConnectionRequest(name=WATCH))
    assert gone.code is grpc.StatusCode.NOT_FOUND


def reactivate(service: Serving) -> None:
    # Both before the watch looks again.
    connections = service.application.engine.connections
    watched = connections._listeners.pop(WATCH)
    connections.deactivate(WATCH)
    connections._listeners[WATCH] = watched
    connections.activate(WATCH)


ENDS: dict[str, tuple[Callable[[Serving], object], str]] = {
    "deleted": (
        lambda service: service.connections.DeleteConnection(DeleteConnectionRequest(name=WATCH)),
        "RESOURCE_NOT_FOUND",
    ),
    "deactivated": (
        lambda service: service.connections.DeactivateConnection(DeactivateConnectionRequest(name=WATCH)),
        "CONNECTION_STATE",
    ),
    "activated again": (reactivate, "CURSOR_EXPIRED"),
    "replayed": (
        lambda service: service.connections.ReplayConnection(ReplayConnectionRequest(name=WATCH)),
        "CURSOR_EXPIRED",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_watch_ends_with_the_activation_of_its_connection(service: Serving, how: str) -> None:
    # The audience stays calculated for the file. Nobody waits for the next mark.
    assert acknowledge(service, 3) == 3
    request = request_of("", connection=WATCH)
    request.progress_interval.FromSeconds(3_600)
    stream = service.audiences.WatchMembership(request, timeout=CALL_TIMEOUT_S)
    connections = service.application.engine.connections
    eventually(lambda: connections._listeners.get(WATCH))
    end, reason = ENDS[how]
    end(service)
    with pytest.raises(grpc.RpcError) as ended:
        for _ in stream:
            pass
    assert read_refusal(ended.value).reason == reason
    eventually(lambda: WATCH not in connections._listeners)
    if reason == "CURSOR_EXPIRED":
        # The way on: what the new activation has to send.
        assert watch(service, 0) == (["u1", "u2", "u3"], [], 3)


def test_the_python_client_watches_and_acknowledges(service: Serving) -> None:
    assert acknowledge(service, 3) == 3
    set_tier(service, ["u4"], "gold")
    with Client(service.address, account="a") as client:
        seen: list[str] = []
        watching = client.watch_connection("w")
        watching.acknowledge()  # Nothing has come, so there is nothing to acknowledge.
        for update in watching:
            if isinstance(update, MembershipChange):
                seen.append(update.user_id)
                watching.acknowledge()
                break
        watching.close()
        assert (seen, get(service, "w").delivered_sequence) == (["u4"], 4)


def test_a_consumer_that_stays_away_does_not_keep_changes(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection to the file delivers; the watched one acknowledges nothing, and one change is kept."""
    monkeypatch.setattr(trimming, "CHANGES_KEPT", 1)
    monkeypatch.setattr(trimming, "CHANGES_TRIMMED_MIN", 1)
    backend, audience = service.application.engine.backend, get(service, "w").audience
    set_tier(service, ["u4", "u5"], "gold")
    eventually(lambda: get(service, "c").delivered_sequence == 5)
    set_tier(service, ["u5"], "silver")

    def kept() -> tuple[int, int]:
        membership = backend.membership(audience)
        assert membership is not None
        return membership.first_sequence, membership.last_sequence

    eventually(lambda: kept() == (6, 6))
    assert get(service, "w").delivered_sequence == 3
