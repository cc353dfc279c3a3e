"""Events are CloudEvents that a reader of the specification understands, whatever is in names and ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from engine.audiences.deliveries import Delivery
from engine.audiences.model import DeliveryBatch
from engine.backends.base import Change, Profile
from engine.resources.records import Audience, Connection, Cursor, Milestone, Output
from engine.resources.targets import File
from service.delivery.cloud_events import cloud_events

AUDIENCE = "accounts/a/audiences/x"
MILESTONE = "accounts/a/journeys/j/milestones/m"
AWKWARD = 'é "quoted" \\ \n\x7f \U0001f600'

DELIVERY = Delivery(
    connection=Connection(
        name="accounts/a/connections/c",
        audience=AUDIENCE,
        output="accounts/a/outputs/o",
        activation=1,
        create_time=1,
        update_time=0xABC,
    ),
    output=Output(name="accounts/a/outputs/o", target=File(path="p"), create_time=1, update_time=1),
    audience=Audience(
        name=AUDIENCE, external_name=AWKWARD, milestone=MILESTONE, create_time=1, update_time=1
    ),
    milestone=Milestone(
        name=MILESTONE, display_name=AWKWARD, audience=AUDIENCE, create_time=1, update_time=1
    ),
    closing=False,
)


def batch_of(changes: Sequence[Change], snapshot: int | None = None) -> DeliveryBatch:
    cursor = Cursor("ab12", changes[-1].sequence)
    return DeliveryBatch(changes=tuple(changes), cursor=cursor, caught_up=False, snapshot=snapshot)


def no_profile(user_id: str) -> Profile | None:
    raise AssertionError(f"the profile of {user_id} was read without need")


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("user_id", ["ann", AWKWARD, "x" * 256])
def test_a_batch_is_read_as_it_was_meant(user_id: str, snapshot: bool) -> None:
    changes = [
        Change(7, user_id, True, 1_700_000_000_000_001, False),
        Change(8, user_id, False, 1_700_000_000_000_001, True),
        Change(9, "bob", True, 1_700_000_001_000_000, True),
    ]
    events = cloud_events(DELIVERY, batch_of(changes, 9 if snapshot else None), no_profile)
    read = [from_structured_event(HTTPMessage({}, event.body)) for event in events]
    assert [event.get_type().rsplit(".", 1)[-1] for event in read] == ["entered", "exited", "entered"]
    assert len({event.get_id() for event in read}) == 3
    for event, sent, change in zip(read, events, changes, strict=True):
        attributes: dict[str, Any] = json.loads(sent.body)
        data = attributes.pop("data")
        assert attributes == {
            "specversion": "1.0",
            "id": sent.id,
            "source": f"/{AUDIENCE}",
            "type": sent.type,
            "subject": change.user_id,
            "time": sent.time,
            "datacontenttype": "application/json",
        }
        assert (event.get_source(), event.get_subject()) == (sent.source, sent.subject)
        moment = event.get_time()
        assert moment is not None
        assert round(moment.timestamp() * 1e6) == change.as_of
        assert json.loads(sent.data) == data
        assert data == {
            "audience": AUDIENCE,
            "display_name": AWKWARD,
            "external_name": AWKWARD,
            "milestone": MILESTONE,
            "journey": "accounts/a/journeys/j",
            "epoch": "ab12",
            "user_id": change.user_id,
            "entered": change.entered,
            "sequence": change.sequence,
            "last_of_instant": change.last_of_instant,
            "as_of": sent.time,
        }


def test_opted_in_fields_come_last() -> None:
    connection = msgspec.structs.replace(
        DELIVERY.connection, identities=("email",), attributes=("tier", "none")
    )
    delivery = msgspec.structs.replace(DELIVERY, connection=connection)
    profile = Profile(
        user_id="ann",
        seen={},
        attributes={"w": {"tier": (5, AWKWARD)}},
        identities={"email": (5, "a@b.c")},
        consents={},
    )
    known = {"ann": profile}
    changes = [Change(1, "ann", True, 1, False), Change(2, "bob", True, 1, True)]
    events = cloud_events(delivery, batch_of(changes), known.get)
    data = [json.loads(event.body)["data"] for event in events]
    assert [(each["identities"], each["attributes"]) for each in data] == [
        ({"email": "a@b.c"}, {"tier": AWKWARD}),
        ({}, {}),
    ]
    assert [*data[0]][-3:] == ["as_of", "identities", "attributes"]


def test_a_snapshot_is_marked_and_its_ids_are_stable() -> None:
    connection = msgspec.structs.replace(DELIVERY.connection, delivered=9, epoch="ab12", snapshot_after="")
    delivery = msgspec.structs.replace(DELIVERY, connection=connection)
    batch = DeliveryBatch(
        changes=(Change(9, "ann", True, 1_000_000, False),),
        cursor=Cursor("ab12", 9),
        caught_up=False,
        as_of=2_000_000,
        begins=True,
        ends=True,
        snapshot=9,
    )
    ids = []
    for update_time in (1, 2):
        changed = msgspec.structs.replace(connection, update_time=update_time)
        events = cloud_events(msgspec.structs.replace(delivery, connection=changed), batch, no_profile)
        ids.append([event.id for event in events])
    assert ids[0] == ids[1] == ["ab12.9.1.1.begin", "ab12.9.1.1.ann", "ab12.9.1.1.end"]
    begin, _, end = (from_structured_event(HTTPMessage({}, event.body)) for event in events)
    assert (begin.get_type(), end.get_type()) == ("milepost.snapshot.begin", "milepost.snapshot.end")
    assert begin.get_subject() is None
    about = {
        "audience": AUDIENCE,
        "display_name": AWKWARD,
        "external_name": AWKWARD,
        "milestone": MILESTONE,
        "journey": "accounts/a/journeys/j",
        "epoch": "ab12",
        "sequence": 9,
        "as_of": "1970-01-01T00:00:02Z",
    }
    assert [json.loads(event.data) for event in (events[0], events[2])] == [about, about]
