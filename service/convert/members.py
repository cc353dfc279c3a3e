"""Pages of members as messages."""

from __future__ import annotations

from collections.abc import Sequence

from engine.values import Micros
from milepost.v1 import audience_service_pb2 as pb
from service.convert.times import timestamp


def list_message(
    user_ids: Sequence[str], next_page_token: str, as_of: Micros, revision: str
) -> pb.ListMembersResponse:
    """A page of a list."""
    return pb.ListMembersResponse(
        user_ids=user_ids, next_page_token=next_page_token, as_of=timestamp(as_of), revision=revision
    )


def export_message(user_ids: Sequence[str], as_of: Micros, revision: str) -> pb.ExportMembersResponse:
    """A part of an export."""
    return pb.ExportMembersResponse(user_ids=user_ids, as_of=timestamp(as_of), revision=revision)
