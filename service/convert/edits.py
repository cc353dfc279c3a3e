"""Edits of a journey to preview: each is the request that would make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from engine import Engine
from engine.errors import InvalidInput
from engine.resources.milestones import Edited
from engine.resources.names import Resource, check_name
from engine.resources.records import journey_of
from milepost.v1 import journey_service_pb2 as pb
from service.convert.journeys import document_of_message, milestone_of_message
from service.convert.masks import MILESTONE_FIELDS, masked_fields


def edited_by(engine: Engine, request: pb.PreviewEditRequest, deadline: float | None = None) -> Edited:
    """The journey as the edit of a request would make it. Raises what the edit would, with the path of each
    field in this request. `deadline` is an instant of `time.monotonic()`.
    """
    check_name(request.name, "name", Resource.JOURNEY)
    kind = request.WhichOneof("edit")
    if kind is None:
        raise InvalidInput.one("edit", f"must have exactly one of {', '.join(_EDITS)}")
    try:
        edited = _EDITS[kind](engine, request, deadline)
    except InvalidInput as error:
        raise error.below(kind) from error
    warnings = tuple(msgspec.structs.replace(w, field=f"{kind}.{w.field}") for w in edited.warnings)
    return msgspec.structs.replace(edited, warnings=warnings)


def _applied(engine: Engine, request: pb.PreviewEditRequest, deadline: float | None) -> Edited:
    edit = request.apply_journey
    document = document_of_message(edit.document, engine.limits)
    _refuse_other(request, f"{edit.parent}/journeys/{document.journey}", "document.journey")
    return engine.applying.applied(edit.parent, document, edit.etag, deadline=deadline)


def _updated(engine: Engine, request: pb.PreviewEditRequest, deadline: float | None) -> Edited:
    edit = request.update_milestone
    _refuse_other(request, journey_of(edit.milestone.name), "milestone.name")
    fields = masked_fields(edit.milestone, edit.update_mask, MILESTONE_FIELDS)
    record = milestone_of_message(edit.milestone, engine.limits)
    return engine.milestones.updated(record, fields, edit.milestone.etag, deadline=deadline)


def _moved(engine: Engine, request: pb.PreviewEditRequest, deadline: float | None) -> Edited:
    edit = request.move_milestone
    _refuse_other(request, journey_of(edit.name), "name")
    return engine.milestones.moved(edit.name, edit.position, edit.etag)


def _deleted(engine: Engine, request: pb.PreviewEditRequest, deadline: float | None) -> Edited:
    edit = request.delete_milestone
    _refuse_other(request, journey_of(edit.name), "name")
    return engine.milestones.deleted(edit.name, edit.etag)


def _refuse_other(request: pb.PreviewEditRequest, journey: str, field: str) -> None:
    """The key of the call is for the journey that the request names, so the edit must be of that one."""
    if journey != request.name:
        raise InvalidInput.one(field, f"must be of {request.name}")


_EDITS: Mapping[str, Callable[[Engine, pb.PreviewEditRequest, float | None], Edited]] = {
    "apply_journey": _applied,
    "update_milestone": _updated,
    "move_milestone": _moved,
    "delete_milestone": _deleted,
}
