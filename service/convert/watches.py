"""Watches of audiences: requests as the engine's positions, its items as messages."""

from __future__ import annotations

from google.rpc import code_pb2

from engine.audiences import model
from engine.backends.base import Change
from engine.errors import InvalidInput
from milepost.v1 import audience_pb2
from milepost.v1 import audience_service_pb2 as pb
from service.convert.faults import ShapeFaults
from service.convert.times import timestamp
from service.errors import code_of

NO_START = "is required, or `snapshot: true` for every member first, or the name of a `connection`"


def watch_cursor(request: pb.WatchMembershipRequest) -> int | None:
    """The cursor to watch from, None = snapshot first. Raises InvalidInput when neither is set."""
    if request.WhichOneof("start") == "cursor":
        return request.cursor
    if request.snapshot:
        return None
    raise InvalidInput.one("cursor", NO_START)


def watch_position(request: pb.WatchMembershipRequest) -> str | None:
    """The position to watch several audiences from, None = snapshots first. Raises InvalidInput when they do
    not start so, or none is named.
    """
    faults = ShapeFaults()
    start = request.WhichOneof("start")
    if not request.audiences:
        faults.add("audiences", "must name the audiences to continue: a position is of several")
    for field in ("audience", "epoch"):
        if getattr(request, field):
            faults.add(field, "must be empty when audiences are given")
    if start not in ("position", "snapshot") or (start == "snapshot" and not request.snapshot):
        faults.add(start or "snapshot", "several audiences start with `snapshot: true` or a `position`")
    faults.raise_if_any()
    return request.position if start == "position" else None


def change_message(change: Change) -> audience_pb2.MembershipChange:
    """A membership change."""
    return audience_pb2.MembershipChange(
        sequence=change.sequence,
        user_id=change.user_id,
        entered=change.entered,
        as_of=timestamp(change.as_of),
        last_of_instant=change.last_of_instant,
    )


def watch_message(item: model.WatchItem) -> pb.WatchMembershipResponse:
    """One message of a watch stream."""
    message = pb.WatchMembershipResponse(audience=item.audience, epoch=item.epoch)
    update = item.update
    match update:
        case model.WatchBegin():
            message.snapshot_begin.cursor = update.cursor
            message.snapshot_begin.as_of.CopyFrom(timestamp(update.as_of))
        case model.WatchMembers():
            message.snapshot.user_ids.extend(update.user_ids)
        case model.WatchEnd():
            message.snapshot_end.cursor = update.cursor
            message.snapshot_end.as_of.CopyFrom(timestamp(update.as_of))
        case model.WatchChanges():
            message.changes.changes.extend(map(change_message, update.changes))
        case model.WatchProgress():
            message.progress.cursor, message.progress.epoch = update.cursor, item.epoch
            message.progress.as_of.CopyFrom(timestamp(update.as_of))
        case model.WatchEnded():
            message.ended.code = code_pb2.Code.Value(code_of(update.error).name)
            message.ended.reason = update.error.reason
            message.ended.message = update.error.message
    message.requested_name, message.position = item.requested_name, item.position
    return message
