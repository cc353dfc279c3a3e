"""Updates of watched audiences, as lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from milepost.cli.answers import json_line
from milepost.cli.text import printable
from milepost.client.watching import Watch, Watched, WatchedTogether
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    MembershipChanges,
    MembershipSnapshot,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
    WatchEnd,
    WatchMembershipResponse,
)

AsJsonLines = Annotated[
    bool, typer.Option("--json", help="Print each message of the contract as one line of JSON.")
]


def lines_of(update: Watched, watch: Watch, *, as_json: bool) -> Iterator[str]:
    """A line for each user of the last update of a watch, none for a mark. As JSON, one line with the message
    of the contract.
    """
    if as_json:
        message = _message(update)
        message.audience, message.epoch = watch.audience, watch.epoch
        yield json_line(message)
    else:
        yield from _lines(update)


def lines_of_several(watched: WatchedTogether, position: str, *, as_json: bool) -> Iterator[str]:
    """As `lines_of`, for an update of one of several audiences, whose name each line has. As JSON, marks have
    the position to continue from.
    """
    if as_json:
        message = _message(watched.update)
        message.audience, message.epoch = watched.audience, watched.epoch
        message.requested_name = watched.target
        if isinstance(watched.update, ProgressMark):
            message.position = position
        yield json_line(message)
    else:
        yield from (f"{line}  {printable(watched.target)}" for line in _lines(watched.update))


def _lines(update: Watched | WatchEnd) -> Iterator[str]:
    if isinstance(update, MembershipSnapshot):
        yield from (f"member   {printable(user)}" for user in update.user_ids)
    elif isinstance(update, MembershipChange):
        yield f"{'entered' if update.entered else 'exited '}  {printable(update.user_id)}"


def _message(update: Watched | WatchEnd) -> WatchMembershipResponse:
    if isinstance(update, WatchEnd):
        return WatchMembershipResponse(ended=update)
    if isinstance(update, MembershipSnapshot):
        return WatchMembershipResponse(snapshot=update)
    if isinstance(update, SnapshotBegin):
        return WatchMembershipResponse(snapshot_begin=update)
    if isinstance(update, SnapshotEnd):
        return WatchMembershipResponse(snapshot_end=update)
    if isinstance(update, MembershipChange):
        return WatchMembershipResponse(changes=MembershipChanges(changes=[update]))
    return WatchMembershipResponse(progress=update)
