"""WatchMembership through a real server: snapshot, changes, marks, resuming, and limits."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.backends.local.backend import LocalBackend
from milepost.v1 import account_service_pb2, audience_service_pb2
from milepost.v1.audience_service_pb2 import WatchMembershipRequest, WatchMembershipResponse
from tests.harness import Serving, eventually, read_refusal, refusal_of, serving
from tests.service.delivery.test_delivery import activate, build, connect, deactivate, set_tier, wait_for

MARK_MS = 100


def request_of(audience: str, **start: Any) -> WatchMembershipRequest:
    request = WatchMembershipRequest(audience=audience, **start)
    request.progress_interval.FromMilliseconds(MARK_MS)
    return request


def told(item: WatchMembershipResponse) -> list[tuple[str, bool, int]]:
    """(user, entered, sequence) of the changes in an item."""
    return [(c.user_id, c.entered, c.sequence) for c in item.changes.changes]


def until_mark(stream: Iterator[WatchMembershipResponse]) -> tuple[list[WatchMembershipResponse], int]:
    """What came before the next progress mark, and the mark's cursor."""
    items: list[WatchMembershipResponse] = []
    for item in stream:
        if item.WhichOneof("update") == "progress":
            return items, item.progress.cursor
        items.append(item)
    raise AssertionError("the stream ended without a mark")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Serving, str]]:
    """A service with a calculated audience of u1, u2 and u3."""
    with serving(tmp_path / "store", watchers_max=2, access_log="none") as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        yield service, audience


def test_a_snapshot_then_changes_then_resumed(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
    items, cursor = until_mark(stream)
    assert [item.WhichOneof("update") for item in items] == ["snapshot_begin", "snapshot", "snapshot_end"]
    assert sorted(user for item in items for user in item.snapshot.user_ids) == ["u1", "u2", "u3"]
    assert (items[0].snapshot_begin.cursor, items[2].snapshot_end.cursor, cursor) == (3, 3, 3)
    assert {item.audience for item in items} == {audience}

    set_tier(service, ["u4"], "gold")
    seen: list[tuple[str, bool, int]] = []
    while not seen:
        items, cursor = until_mark(stream)
        seen += [change for item in items for change in told(item)]
    assert (seen, cursor) == ([("u4", True, 4)], 4)
    stream.cancel()

    set_tier(service, ["u1"], "silver")
    resumed = service.audiences.WatchMembership(request_of(audience, cursor=cursor, epoch=items[0].epoch))
    assert told(next(resumed)) == [("u1", False, 5)]
    resumed.cancel()


@pytest.mark.parametrize("readers", [0, 1])
def test_a_watch_says_that_it_is_open_before_there_is_anything_to_say(tmp_path: Path, readers: int) -> None:
    """Clients count their attempts anew then. A refused watch does not say so."""
    with serving(tmp_path / "store", readers=readers, access_log="none") as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
        items, cursor = until_mark(stream)
        stream.cancel()
        request = request_of(audience, cursor=cursor, epoch=items[0].epoch)
        request.progress_interval.FromSeconds(3600)
        silent = service.audiences.WatchMembership(request)
        assert ("milepost-stream", "open") in [tuple(pair) for pair in silent.initial_metadata()]
        silent.cancel()
        refused = service.audiences.WatchMembership(request_of(f"{audience}x", snapshot=True))
        with pytest.raises(grpc.RpcError):
            next(refused)
        assert [pair for pair in refused.initial_metadata() if pair[0] == "milepost-stream"] == []


def test_all_changes_from_the_start(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, cursor=0))
    assert [sequence for _, entered, sequence in told(next(stream)) if entered] == [1, 2, 3]
    stream.cancel()


def test_a_cursor_that_is_ahead_or_comes_without_its_epoch_is_refused(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, cursor=0))
    epoch = next(stream).epoch
    stream.cancel()
    for cursor, sent in ((99, epoch), (2, ""), (2, "another")):
        request = request_of(audience, cursor=cursor, epoch=sent)
        refusal = refusal_of(service.audiences.WatchMembership, request)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert refusal.metadata == {"oldest_cursor": "0", "epoch": epoch}


def test_too_short_progress_interval_is_refused(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    request = WatchMembershipRequest(audience=audience, snapshot=True)
    request.progress_interval.FromMilliseconds(1)
    refusal = refusal_of(service.audiences.WatchMembership, request)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == ["progress_interval"]


def test_watchers_are_limited_and_released(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    request = request_of(audience, snapshot=True)
    streams = [service.audiences.WatchMembership(request) for _ in range(2)]
    for stream in streams:
        until_mark(stream)
    refusal = refusal_of(service.audiences.WatchMembership, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert refusal.metadata == {"limit": "2", "pool": "watcher"}
    assert service.accounts.ListAccounts(account_service_pb2.ListAccountsRequest()).accounts
    for stream in streams:
        stream.cancel()
    eventually(lambda: service.application.in_flight == 0)
    again = service.audiences.WatchMembership(request)
    assert until_mark(again)[1] == 3
    again.cancel()


def test_a_watch_ends_when_the_audience_is_no_longer_calculated(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
    until_mark(stream)
    deactivate(service)
    with pytest.raises(grpc.RpcError) as end:
        list(stream)
    refusal = read_refusal(end.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONNECTION_STATE")


def test_a_cursor_from_before_a_deactivation_is_refused_with_its_epoch(watched: tuple[Serving, str]) -> None:
    """Its number exists in the new log too, where it means other changes."""
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
    mark = next(item.progress for item in stream if item.WhichOneof("update") == "progress")
    stream.cancel()
    same = service.audiences.WatchMembership(request_of(audience, cursor=mark.cursor, epoch=mark.epoch))
    resumed = next(same).progress
    assert (resumed.cursor, resumed.epoch) == (mark.cursor, mark.epoch)
    same.cancel()
    deactivate(service)
    set_tier(service, ["u1", "u2"], "silver")
    set_tier(service, ["u4", "u5", "u6"], "gold")
    activate(service)
    # Three members at first, then the four of now.
    wait_for(service, 7)
    stale = request_of(audience, cursor=mark.cursor, epoch=mark.epoch)
    refusal = refusal_of(service.audiences.WatchMembership, stale)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")


def test_a_watch_ends_when_the_service_stops(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
    until_mark(stream)
    service.application.stop()
    with pytest.raises(grpc.RpcError) as end:
        list(stream)
    refusal = read_refusal(end.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


def test_members_in_pages_and_as_a_stream(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    request = audience_service_pb2.ListMembersRequest(parent=audience, page_size=2)
    first = service.audiences.ListMembers(request)
    request.page_token = first.next_page_token
    second = service.audiences.ListMembers(request)
    assert (len(first.user_ids), len(second.user_ids), second.next_page_token) == (2, 1, "")
    assert sorted([*first.user_ids, *second.user_ids]) == ["u1", "u2", "u3"]
    assert first.as_of == second.as_of
    exported = service.audiences.ExportMembers(audience_service_pb2.ExportMembersRequest(name=audience))
    assert sorted(user for page in exported for user in page.user_ids) == ["u1", "u2", "u3"]


def test_a_stream_without_a_deadline_waits_for_a_busy_store(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    backend = service.application.engine.backend
    assert isinstance(backend, LocalBackend)
    request = audience_service_pb2.ExportMembersRequest(name=audience)
    with ThreadPoolExecutor(1) as pool:
        with backend._state.locked():
            exporting = pool.submit(
                lambda: [page.user_ids for page in service.audiences.ExportMembers(request)]
            )
            eventually(lambda: backend._state._lock._waiting or exporting.done())
        assert sorted(user for page in exporting.result() for user in page) == ["u1", "u2", "u3"]
