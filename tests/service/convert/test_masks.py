"""Update masks: message fields map to record fields."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from engine.errors import InvalidInput
from engine.resources import accounts, audiences, connections, journeys, milestones, outputs
from milepost.v1 import account_pb2, connection_pb2, journey_pb2
from service.convert.masks import (
    ACCOUNT_FIELDS,
    AUDIENCE_FIELDS,
    CONNECTION_FIELDS,
    INPUT_FIELDS,
    JOURNEY_FIELDS,
    MILESTONE_FIELDS,
    OUTPUT_FIELDS,
    WORKSPACE_FIELDS,
    masked_fields,
)


def test_mask_can_name_every_mutable_field() -> None:
    for named, changed in (
        (ACCOUNT_FIELDS, accounts.ACCOUNT_FIELDS),
        (WORKSPACE_FIELDS, accounts.WORKSPACE_FIELDS),
        (INPUT_FIELDS, accounts.INPUT_FIELDS),
        (JOURNEY_FIELDS, journeys.JOURNEY_FIELDS),
        (MILESTONE_FIELDS, milestones.MILESTONE_FIELDS),
        (AUDIENCE_FIELDS, audiences.AUDIENCE_FIELDS),
        (OUTPUT_FIELDS, outputs.OUTPUT_FIELDS),
        (CONNECTION_FIELDS, connections.CONNECTION_FIELDS),
    ):
        assert {name for names in named.values() for name in names} == changed


def test_empty_mask_means_the_set_fields() -> None:
    journey = journey_pb2.Journey(
        name="accounts/a/journeys/j", display_name="New", etag="e", audience_count=3
    )
    assert masked_fields(journey, FieldMask(), JOURNEY_FIELDS) == {"display_name"}


def test_a_star_means_everything() -> None:
    mask = FieldMask(paths=["*"])
    assert masked_fields(journey_pb2.Journey(), mask, JOURNEY_FIELDS) == {"display_name", "inputs"}


@pytest.mark.parametrize(
    ("message", "changeable", "paths", "fields"),
    [
        (account_pb2.Account(), ACCOUNT_FIELDS, ["event_retention"], {"event_retention"}),
        (connection_pb2.Connection(), CONNECTION_FIELDS, ["batching"], {"batch_changes", "batch_age"}),
        (connection_pb2.Connection(), CONNECTION_FIELDS, ["name", "state", "etag"], set()),
        (connection_pb2.Output(), OUTPUT_FIELDS, ["file"], {"target"}),
    ],
)
def test_mask_path_maps_to_record_fields(
    message: Message, changeable: Mapping[str, tuple[str, ...]], paths: list[str], fields: set[str]
) -> None:
    assert masked_fields(message, FieldMask(paths=paths), changeable) == fields


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("nope", "'nope' is not a field of Milestone"),
        ("criteria.label", "'criteria.label' is not a field of Milestone"),
        (
            "kind",
            "'kind' cannot be changed: delete the milestone and create it anew, or create another one",
        ),
    ],
)
def test_unknown_mask_path_is_refused(path: str, fault: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        masked_fields(journey_pb2.Milestone(), FieldMask(paths=["display_name", path]), MILESTONE_FIELDS)
    assert [(v.field, v.description) for v in refusal.value.violations] == [("update_mask", fault)]
