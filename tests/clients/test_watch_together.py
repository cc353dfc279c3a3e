"""Watches of several audiences: what comes over connections that break, from both clients."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from milepost import Client, _retrying, errors
from milepost.client.watching import WatchedTogether
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    MembershipSnapshot,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
    WatchEnd,
    WatchMembershipRequest,
    WatchMembershipResponse,
)
from tests.clients.bridge import async_client
from tests.clients.fake import Fake, Refusal, serving
from tests.clients.methods.conftest import Kind
from tests.clients.test_client import (
    DOWN,
    EPOCH,
    begin,
    changes,
    end,
    mark,
    of_several,
    played,
    snapshot,
)

A, B = "accounts/acme/audiences/a", "accounts/acme/audiences/b"


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retrying, "BACKOFF_FIRST_SECONDS", 0.0)


def shown(watched: WatchedTogether) -> tuple[str, object]:
    """The target, and the update in short."""
    update = watched.update
    match update:
        case MembershipSnapshot():
            return watched.target, list(update.user_ids)
        case MembershipChange():
            return watched.target, update.sequence
        case SnapshotEnd() | ProgressMark():
            return watched.target, f"at {update.cursor}"
        case SnapshotBegin():
            return watched.target, "begin"
        case WatchEnd():
            return watched.target, update.reason
    raise AssertionError(update)


def gone() -> WatchMembershipResponse:
    return WatchMembershipResponse(
        ended=WatchEnd(code=9, reason="CONNECTION_STATE", message="not calculated")
    )


def several(*answers: tuple[str, WatchMembershipResponse] | Refusal, position: str = "") -> list[Any]:
    return [
        answer if isinstance(answer, Refusal) else of_several(answer[1], answer[0], position)
        for answer in answers
    ]


def watched(kind: Kind, streams: list[list[Any]]) -> tuple[list[tuple[str, object]], Fake, str]:
    """What a watch of both audiences yields, over one connection for each stream."""
    left = iter(streams)
    fake = Fake({"WatchMembership": lambda _: played(next(left))})
    with serving(fake) as target, kind(target, account="acme") as client:
        watch = client.watch_together(["a", "b"])
        return [shown(each) for each in watch], fake, watch.position


def test_what_came_after_the_last_position_is_not_returned_twice(kind: Kind) -> None:
    first = several(
        (A, begin()), (A, snapshot("ann")), (A, end(1)),
        (B, begin()), (B, end(0)), (B, mark(0)),
        (A, changes(2, 3)), DOWN, position="first",
    )  # fmt: skip
    second = several((A, changes(2, 3, 4)), (B, changes(1)), (B, mark(1)), DOWN, position="second")
    last = several((A, changes(5)), (A, gone()), (B, gone()))
    seen, fake, position = watched(kind, [first, second, last])
    assert seen == [
        ("a", "begin"), ("a", ["ann"]), ("a", "at 1"),
        ("b", "begin"), ("b", "at 0"), ("b", "at 0"),
        ("a", 2), ("a", 3), ("a", 4), ("b", 1), ("b", "at 1"), ("a", 5),
        ("a", "CONNECTION_STATE"), ("b", "CONNECTION_STATE"),
    ]  # fmt: skip
    requests = fake.of("WatchMembership")
    assert [(request.snapshot, request.position) for request in requests] == [
        (True, ""),
        (False, "first"),
        (False, "second"),
    ]
    assert [list(request.audiences) for request in requests] == [[A, B]] * 3
    assert position == "second"


def test_a_snapshot_that_breaks_off_begins_again(kind: Kind) -> None:
    first = several((A, begin()), (A, snapshot("ann")), DOWN)
    second = several(
        (A, begin()), (A, snapshot("bob")), (A, changes(2)), (A, end(2)), (A, gone()), (B, gone())
    )
    seen, fake, position = watched(kind, [first, second])
    assert [update for target, update in seen if target == "a"] == [
        "begin", ["ann"], "begin", ["bob"], 2, "at 2", "CONNECTION_STATE",
    ]  # fmt: skip
    assert ([each.snapshot for each in fake.of("WatchMembership")], position) == ([True, True], "")


def test_one_that_ended_is_not_asked_for_again(kind: Kind) -> None:
    first = several((A, gone()), (B, begin()), (B, end(0)), (B, mark(0)), DOWN, position="first")
    seen, fake, _ = watched(kind, [first, several((B, changes(1)), (B, gone()))])
    assert seen[0] == ("a", "CONNECTION_STATE")
    assert [list(request.audiences) for request in fake.of("WatchMembership")] == [[A, B], [B]]


def test_another_epoch_is_no_repetition(kind: Kind) -> None:
    """Its numbers are lower, and mean other changes."""

    def of_epoch(answer: WatchMembershipResponse, epoch: str) -> tuple[str, WatchMembershipResponse]:
        answer.epoch = epoch
        return A, answer

    stream = several(
        *(of_epoch(each, EPOCH) for each in (begin(), end(7), mark(7), changes(8))),
        *(of_epoch(each, "0002") for each in (begin(), end(2), changes(3))),
        (A, gone()), (B, gone()),
    )  # fmt: skip
    seen, _, _ = watched(kind, [stream])
    assert [update for target, update in seen if target == "a"][:7] == [
        "begin", "at 7", "at 7", 8, "begin", "at 2", 3,
    ]  # fmt: skip


WATCHES: list[Callable[[Client], Any]] = [
    lambda client: client.watch("a", cursor=1, epoch=EPOCH, attempts_max=3),
    lambda client: client.watch_together(["a"], position="first", attempts_max=3),
]


class Broken:
    """A stream that breaks off before anything came. To both clients."""

    def __init__(self, is_opened: bool) -> None:
        self._is_opened = is_opened

    def __iter__(self) -> Iterator[WatchMembershipResponse]:
        raise errors.Unavailable(grpc.StatusCode.UNAVAILABLE, "gone")

    def __aiter__(self) -> AsyncIterator[WatchMembershipResponse]:
        raise errors.Unavailable(grpc.StatusCode.UNAVAILABLE, "gone")


class BrokenForOne(Broken):
    def was_opened(self) -> bool:
        return self._is_opened


class BrokenForTasks(Broken):
    async def was_opened(self) -> bool:
        return self._is_opened


@pytest.mark.parametrize("watch", WATCHES, ids=["watch", "watch_together"])
def test_attempts_count_anew_after_a_service_that_opened_the_watch(
    kind: Kind, watch: Callable[[Client], Any]
) -> None:
    """It may have had nothing to say before it went away again."""
    made = BrokenForOne if kind is Client else BrokenForTasks
    opened = [True] * 8 + [False] * 9
    left = iter(opened)
    with kind("127.0.0.1:1", account="acme") as client:
        watching = watch(client)
        inner = watching if kind is Client else vars(watching)["_object"]
        inner._open_stream = lambda _: made(next(left))
        with pytest.raises(errors.Unavailable, match="gone"):
            list(watching)
    # The eighth was opened and broke off, the two after it were not opened: three in a row.
    assert len(list(left)) == len(opened) - (8 + 2)


@pytest.mark.parametrize("watch", WATCHES, ids=["watch", "watch_together"])
def test_attempts_without_a_service_are_counted(kind: Kind, watch: Callable[[Client], Any]) -> None:
    fake = Fake({"WatchMembership": lambda _: played([DOWN])})
    with serving(fake) as target, kind(target, account="acme") as client, pytest.raises(errors.Unavailable):
        list(watch(client))
    assert len(fake.requests) == 3
    nobody = kind("127.0.0.1:1", account="acme")
    with nobody as client, pytest.raises(errors.Unavailable, match="failed to connect"):
        list(watch(client))


def test_a_closed_watch_ends(kind: Kind) -> None:
    release = threading.Event()

    def watch(request: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        yield of_several(begin(), request.audiences[0])
        release.wait(30)

    with serving(Fake({"WatchMembership": watch})) as target, kind(target, account="acme") as client:
        updates, taken = client.watch_together(["a", "b"]), 0
        for _ in updates:
            taken += 1
            updates.close()
        assert taken == 1
        assert not release.is_set()
        release.set()


def test_why_an_audience_ended_is_an_exception(kind: Kind) -> None:
    for code, raised in ((9, errors.FailedPrecondition), (5, errors.NotFound), (99, errors.MilepostError)):
        error = errors.from_watch_end(WatchEnd(code=code, reason="R", message="m"))
        assert type(error) is raised
        assert (error.reason, str(error).endswith("m")) == ("R", True)
