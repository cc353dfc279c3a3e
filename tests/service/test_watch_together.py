"""WatchMembership of several audiences in one stream, through a real server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost import Client, make_user_update
from milepost.criteria import attribute
from milepost.outputs import WatchOutput
from milepost.v1.audience_service_pb2 import WatchMembershipRequest, WatchMembershipResponse
from tests.harness import Refusal, Serving, eventually, refusal_of, serving

TIERS = ("gold", "rich", "new")
NAMES = [f"accounts/acme/journeys/j/milestones/{tier}" for tier in TIERS]
MARK_MS = 100
Stream = Iterator[WatchMembershipResponse]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    """Three activated audiences: ann is gold, bob rich."""
    with (
        serving(tmp_path / "store", access_log="none", refresh_interval_ms=20) as made,
        shop_of(made) as shop,
    ):
        shop.ensure_account()
        shop.ensure_input("shop", "web")
        shop.ensure_journey("j")
        output = shop.ensure_output("consumers", WatchOutput())
        for tier in TIERS:
            shop.ensure_milestone("j", tier, criteria=attribute("tier").equals(tier))
            shop.ensure_connection(f"c-{tier}", target=f"j/{tier}", output=output.name)
            shop.activate_connection(f"c-{tier}")
        move(shop, ann="gold", bob="rich")
        yield made


def shop_of(service: Serving) -> Client:
    return Client(service.address, account="acme")


def move(shop: Client, **tiers: str) -> None:
    updates = [make_user_update(user, {"tier": tier}) for user, tier in tiers.items()]
    shop.upsert_users(updates, input="shop/web")


def together(service: Serving, names: list[str] = NAMES, **start: Any) -> Any:
    return service.audiences.WatchMembership(request_of(names, **(start or {"snapshot": True})))


def request_of(names: list[str], **start: Any) -> WatchMembershipRequest:
    request = WatchMembershipRequest(audiences=names, **start)
    request.progress_interval.FromMilliseconds(MARK_MS)
    return request


class Fold:
    """The members of each audience that a stream was asked for, and what else it said."""

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {}
        self.snapshots = 0
        self.unfinished: set[str] = set()
        self.changes: list[tuple[str, str, int]] = []
        self.ended: dict[str, str] = {}
        self.position = ""

    def take(self, item: WatchMembershipResponse) -> None:
        """Takes a message."""
        tier = item.requested_name.rpartition("/")[2]
        if item.HasField("snapshot_begin"):
            self.snapshots += 1
            self.unfinished.add(tier)
            self.members[tier] = set()
        self.members.setdefault(tier, set()).update(item.snapshot.user_ids)
        for change in item.changes.changes:
            if (tier, item.epoch, change.sequence) not in self.changes:
                self.changes.append((tier, item.epoch, change.sequence))
                if change.entered:
                    self.members[tier].add(change.user_id)
                else:
                    self.members[tier].remove(change.user_id)
        if item.HasField("snapshot_end"):
            self.unfinished.remove(tier)
        if item.HasField("ended"):
            self.ended[tier] = item.ended.reason
        self.position = item.position or self.position

    def until(self, stream: Stream, **members: set[str]) -> None:
        """Takes messages until audiences have these members, and the position is of then or later. An
        audience whose snapshot has not ended by then would begin with another.
        """
        for item in stream:
            self.take(item)
            is_due = bool(item.position) and not self.unfinished
            if is_due and all(self.members.get(tier) == users for tier, users in members.items()):
                return
        raise AssertionError(f"the stream ended with {self.members}, {self.ended}")


def test_snapshots_then_changes_then_resumed_at_one_position(service: Serving) -> None:
    fold, stream = Fold(), together(service)
    with shop_of(service) as shop:
        fold.until(stream, gold={"ann"}, rich={"bob"}, new=set())
        move(shop, ann="rich", cat="new")
        fold.until(stream, gold=set(), rich={"ann", "bob"}, new={"cat"})
        stream.cancel()
        move(shop, bob="none", dan="new")
        eventually(lambda: shop.check("dan", "j/new"))
        resumed = together(service, position=fold.position)
        fold.until(resumed, gold=set(), rich={"ann"}, new={"cat", "dan"})
        resumed.cancel()
    assert fold.snapshots == len(TIERS)
    # None was left out, in any of them.
    for tier in TIERS:
        sequences = [sequence for each, _, sequence in fold.changes if each == tier]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_one_that_is_new_to_a_position_begins_with_a_snapshot(service: Serving) -> None:
    fold, stream = Fold(), together(service, NAMES[:1])
    fold.until(stream, gold={"ann"})
    stream.cancel()
    resumed = together(service, NAMES[1:] + NAMES[:1], position=fold.position)
    fold.until(resumed, gold={"ann"}, rich={"bob"}, new=set())
    resumed.cancel()
    # Nothing of gold, which the position has, comes again.
    assert fold.snapshots == len(TIERS)


def test_one_that_is_deactivated_ends_alone(service: Serving) -> None:
    fold, stream = Fold(), together(service)
    with shop_of(service) as shop:
        fold.until(stream, gold={"ann"}, rich={"bob"}, new=set())
        shop.deactivate_connection("c-gold")
        while not fold.ended:
            fold.take(next(stream))
        assert fold.ended == {"gold": "CONNECTION_STATE"}
        move(shop, cat="rich")
        fold.until(stream, rich={"bob", "cat"})
        # Asked for again it is refused alone, and when it is calculated again it begins with a snapshot.
        resumed, again = together(service, position=fold.position), Fold()
        again.members = fold.members
        while not again.ended:
            again.take(next(resumed))
        resumed.cancel()
        assert (again.ended, again.snapshots) == ({"gold": "CONNECTION_STATE"}, 0)
        shop.activate_connection("c-gold")
        resumed = together(service, position=fold.position)
        again.members["gold"] = {"forgotten"}
        again.until(resumed, gold={"ann"}, rich={"bob", "cat"})
        resumed.cancel()
        assert again.snapshots == 1
        stream.cancel()


def test_one_that_is_calculated_anew_begins_again(service: Serving) -> None:
    """Also where the stream sees neither the end nor the beginning of the calculation."""
    fold, stream = Fold(), together(service)
    with shop_of(service) as shop:
        fold.until(stream, gold={"ann"}, rich={"bob"}, new=set())
        position = fold.position
        stream.cancel()
        shop.deactivate_connection("c-gold")
        backend: Any = service.application.engine.backend
        eventually(lambda: backend.membership(shop.audience_name("j/gold")) is None)
        move(shop, ann="none", eve="gold")
        shop.activate_connection("c-gold")
        resumed = together(service, position=position)
        fold.until(resumed, gold={"eve"}, rich={"bob"})
        resumed.cancel()
    assert fold.snapshots == len(TIERS) + 1


def test_a_stream_ends_with_its_last_audience(service: Serving) -> None:
    unknown = "accounts/acme/journeys/j/milestones/unknown"
    fold, stream = Fold(), together(service, [NAMES[0], unknown])
    with shop_of(service) as shop:
        fold.until(stream, gold={"ann"})
        activation = shop.get_connection("c-gold").activation
        shop.delete_milestone("j/gold")
        for item in stream:
            fold.take(item)
            if item.HasField("progress") and not fold.members["gold"]:
                reached: Any = {"cursor": item.progress.cursor, "epoch": item.epoch}
                shop.acknowledge_changes("c-gold", activation=activation, **reached)
    # The last exit came before.
    assert fold.ended == {"unknown": "RESOURCE_NOT_FOUND", "gold": "RESOURCE_NOT_FOUND"}
    assert fold.members["gold"] == set()


def test_expired_changes_are_a_snapshot(service: Serving) -> None:
    fold, stream = Fold(), together(service)
    with shop_of(service) as shop:
        fold.until(stream, gold={"ann"}, rich={"bob"}, new=set())
        stream.cancel()
        move(shop, ann="none", eve="gold")
        audience = shop.audience_name("j/gold")
        backend: Any = service.application.engine.backend
        eventually(lambda: backend.membership(audience).last_sequence == 3)
        backend.trim_changes(audience, 3)
        resumed = together(service, position=fold.position)
        fold.until(resumed, gold={"eve"}, rich={"bob"})
        resumed.cancel()
    assert fold.snapshots == len(TIERS) + 1


def refused(service: Serving, request: WatchMembershipRequest) -> Refusal:
    return refusal_of(service.audiences.WatchMembership, request)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (request_of(NAMES), ["snapshot"]),
        (request_of(NAMES, snapshot=False), ["snapshot"]),
        (request_of(NAMES, cursor=0), ["cursor"]),
        (request_of(NAMES, connection="accounts/acme/connections/c-gold"), ["connection"]),
        (request_of([], position="x"), ["audiences"]),
        (request_of(NAMES, position=""), ["position"]),
        (request_of(NAMES, position="AAAA"), ["position"]),
        (request_of(NAMES, position="é" * 9), ["position"]),
        (request_of(NAMES, snapshot=True, audience=NAMES[0], epoch="e"), ["audience", "epoch"]),
        (request_of(["x", *NAMES], snapshot=True), ["audiences[0]"]),
        (request_of([NAMES[0], NAMES[0]], snapshot=True), ["audiences[1]"]),
        (request_of([NAMES[0], "accounts/b/audiences/a"], snapshot=True), ["audiences[1]"]),
        (request_of(NAMES * 70, snapshot=True), ["audiences"]),
    ],
)
def test_bad_requests_are_refused_with_their_fields(
    service: Serving, request_: WatchMembershipRequest, fields: list[str]
) -> None:
    refusal = refused(service, request_)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == fields


def test_an_audience_and_its_milestone_are_the_same(service: Serving) -> None:
    with shop_of(service) as shop:
        request = request_of([NAMES[0], shop.audience_name("j/gold")], snapshot=True)
    assert list(refused(service, request).violations) == ["audiences[1]"]


def test_positions_come_once_an_interval(service: Serving) -> None:
    """A text for each mark of each of 200 audiences would cost more than the marks."""
    marks = [item for item in islice(together(service), 40) if item.HasField("progress")]
    assert 1 <= sum(bool(item.position) for item in marks) <= 2 + len(marks) // len(TIERS)
